"""Reading the outputs of ``chest_findings``: states, boxes and sides."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import structures
from models.bundle import FindingContract
from models.calls import calibrate, state_of
from models.findings import FindingState, Laterality, SegmentMask, View
from models.hanging import Hanging
from models.phantom import chest
from models.rendering import RenderedImage, network_input
from models.scores import boxes_of, interpret, outlines, relative

CONTRACT = FindingContract(
    "lung_opacity",
    0,
    evaluated=True,
    slope=2.0,
    intercept=-1.0,
    threshold_absent=0.2,
    threshold_present=0.6,
    localises=True,
)
_, FRAME = network_input(RenderedImage(np.linspace(0, 1, 400 * 300, dtype=np.float32).reshape(400, 300)), 320)


def heat(*spots: tuple[int, int]) -> np.ndarray:
    cells = np.zeros((1, 20, 20), np.float32)
    for row, column in spots:
        cells[0, row - 1 : row + 2, column - 1 : column + 2] = 5.0
    return cells


@pytest.mark.parametrize(
    ("probability", "state"),
    [
        (0.6, "present"),
        (0.59, "undetermined"),
        (0.2, "undetermined"),
        (0.19, "absent"),
        (0.0, "absent"),
        (1.0, "present"),
    ],
)
def test_the_two_thresholds_divide_three_states(probability: float, state: str) -> None:
    assert state_of(probability, CONTRACT) is FindingState(state)


def test_probabilities_follow_platt_and_never_overflow() -> None:
    assert calibrate(0.5, CONTRACT) == pytest.approx(0.5)
    assert 0 <= calibrate(-1e9, CONTRACT) < 1e-9
    assert 1 - 1e-9 < calibrate(1e9, CONTRACT) <= 1


def lung(key: str, rows: slice, columns: slice) -> SegmentMask:
    mask = np.zeros((400, 300), np.bool_)
    mask[rows, columns] = True
    return SegmentMask(key, mask, "lung_fields")


LUNGS = (
    lung("lung_right", slice(100, 300), slice(40, 130)),
    lung("lung_left", slice(100, 300), slice(170, 260)),
)


def test_boxes_are_cut_to_the_lung_on_which_they_lie() -> None:
    within = replace(CONTRACT, within_lungs=True)
    spots = heat((5, 10))  # above, and between the lungs, nearer to the left one in the picture
    ((whole,), _) = interpret(np.array([3.0]), spots, FRAME, contract=[CONTRACT], segments=LUNGS, model="m")
    ((cut,), maps) = interpret(np.array([3.0]), spots, FRAME, contract=[within], segments=LUNGS, model="m")
    ((box,), (part,)) = whole.regions, cut.regions
    assert box.y < 100 < box.y + box.height
    assert box.x < 170 < box.x + box.width
    assert (part.x, part.y) in ((170, 100), (box.x, 100))
    assert part.y + part.height == box.y + box.height
    assert part.laterality is cut.laterality
    assert part.score == box.score
    assert maps
    # without both lungs there is nothing to cut to
    ((alone,), _) = interpret(np.array([3.0]), spots, FRAME, contract=[within], segments=LUNGS[:1], model="m")
    assert alone.regions[0].height == box.height


def test_a_box_on_neither_lung_is_dropped_and_the_finding_stays() -> None:
    within = replace(CONTRACT, within_lungs=True)
    spots = heat((2, 10))
    ((whole,), _) = interpret(np.array([3.0]), spots, FRAME, contract=[CONTRACT], segments=LUNGS, model="m")
    ((found,), maps) = interpret(np.array([3.0]), spots, FRAME, contract=[within], segments=LUNGS, model="m")
    assert whole.regions
    assert (found.state, found.regions, found.laterality, maps) == (FindingState.PRESENT, (), None, ())


def test_a_finding_that_the_evidence_does_not_carry_has_no_number() -> None:
    unproven = FindingContract("mass", 0, evaluated=False)
    ((found,), _) = interpret(np.array([9.0]), heat((5, 5)), FRAME, contract=[unproven], segments=(), model="m")
    assert (found.state, found.probability, found.regions, found.reason) == (
        FindingState.NOT_EVALUATED,
        None,
        (),
        "evidence",
    )


@pytest.mark.parametrize(
    ("spots", "side"),
    [
        ([(10, 6)], Laterality.RIGHT),
        ([(10, 14)], Laterality.LEFT),
        ([(10, 6), (12, 14)], Laterality.BILATERAL),
    ],
)
def test_boxes_lie_on_the_hot_cells_and_tell_the_patient_s_side(spots: list[tuple[int, int]], side: Laterality) -> None:
    ((found,), _) = interpret(np.array([3.0]), heat(*spots), FRAME, contract=[CONTRACT], segments=(), model="m")
    assert found.laterality is side
    assert len(found.regions) == len(spots)
    scale = 400 / 20  # stored pixels of a cell; the picture is 400 high and 300 wide, with 50 of margin on each side
    for region in found.regions:
        centre = (region.x + region.width / 2 + 50) / scale, (region.y + region.height / 2) / scale
        assert min(abs(centre[0] - c - 0.5) + abs(centre[1] - r - 0.5) for r, c in spots) < 0.6
        assert 0.5 < region.score <= found.probability


def test_sides_are_told_by_the_lungs_when_the_chest_lies_off_centre() -> None:
    right, left = np.zeros((400, 300), bool), np.zeros((400, 300), bool)
    right[100:300, 150:200], left[100:300, 230:280] = True, True
    lungs = (SegmentMask("lung_right", right, "l"), SegmentMask("lung_left", left, "l"))
    ((found,), _) = interpret(np.array([3.0]), heat((10, 11)), FRAME, contract=[CONTRACT], segments=lungs, model="m")
    assert found.laterality is Laterality.RIGHT


def test_nothing_is_drawn_for_an_absent_finding_or_an_unproven_map() -> None:
    for contract, logit in ((CONTRACT, -3.0), (FindingContract("edema", 0, evaluated=True), 3.0)):
        ((found,), maps) = interpret(
            np.array([logit]), heat((5, 5)), FRAME, contract=[contract], segments=(), model="m"
        )
        assert (found.regions, maps) == ((), ())


def test_a_flat_map_has_no_boxes() -> None:
    assert boxes_of(np.ones((20, 20), np.float32), 0.9) == []


def test_a_map_runs_from_its_ground_to_its_peak() -> None:
    cells = np.arange(100, dtype=np.float32).reshape(10, 10) - 40
    share = relative(cells)
    assert (share.min(), share.max(), share.dtype) == (0.0, 1.0, np.float32)
    assert (share[cells < np.median(cells)] == 0).all()
    assert not relative(np.full((10, 10), 7, np.float32)).any()


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(97, 3001), st.integers(97, 3001)),
    at=st.tuples(st.integers(0, 19), st.integers(0, 19)),
    spot=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    seed=st.integers(0, 99),
)
def test_boxes_have_an_area_within_the_image_on_a_grid_of_sixteenths(
    size: tuple[int, int], at: tuple[int, int], spot: tuple[int, int], seed: int
) -> None:
    rows, columns = size
    cells = np.random.default_rng(seed).normal(0, 0.3, (1, 20, 20)).astype(np.float32)
    cells[0, at[0] : at[0] + spot[0], at[1] : at[1] + spot[1]] += 5.0
    _, frame = network_input(RenderedImage(np.eye(rows, columns, dtype=np.float32)), 320)
    ((found,), _) = interpret(np.array([3.0]), cells, frame, contract=[CONTRACT], segments=(), model="m")
    for region in found.regions:
        numbers = np.array([region.x, region.y, region.x + region.width, region.y + region.height])
        assert (numbers * 16 == np.round(numbers * 16)).all()
        assert (numbers.astype(np.float32) == numbers).all()
        assert 0 <= region.x < region.x + region.width <= columns
        assert 0 <= region.y < region.y + region.height <= rows


@pytest.mark.parametrize("hanging", [Hanging(*turns) for turns in product((False, True), repeat=3)])
def test_the_diameters_of_heart_and_thorax_lie_on_the_same_grid(hanging: Hanging) -> None:
    phantom = chest(7, rows=431, columns=397)
    stored = [np.ascontiguousarray(hanging.undo(phantom.masks[key])) for key in ("lung_right", "lung_left", "heart")]
    pictures = [network_input(RenderedImage(m.astype(np.float32), hanging=hanging), 256) for m in stored]
    fields, frame = np.stack([picture for picture, _ in pictures]), pictures[0][1]
    _, (ratio,) = structures.interpret(fields, frame, ("lung_right", "lung_left", "heart"), View.PA, "m")
    assert len(ratio.lines) == 2
    for line in ratio.lines:
        numbers = np.array([line.x0, line.y0, line.x1, line.y1])
        assert (numbers * 16 == np.round(numbers * 16)).all()


def lungs(rows: int = 400, columns: int = 300) -> tuple[SegmentMask, SegmentMask]:
    """The left and the right third of the picture, in its middle rows."""
    made = []
    for key, across in (("lung_right", slice(0, columns // 3)), ("lung_left", slice(2 * columns // 3, columns))):
        mask = np.zeros((rows, columns), np.bool_)
        mask[rows // 4 : 3 * rows // 4, across] = True
        made.append(SegmentMask(key, mask, "lung_fields"))
    return made[0], made[1]


def test_an_outline_is_what_of_the_lungs_a_present_finding_takes_up() -> None:
    contract = [replace(CONTRACT, outline_from=0.3)]
    maps = np.zeros((1, 20, 20), np.float32)
    maps[0, :10] = 1.0  # the upper half of the picture
    common = {"contract": contract, "segments": lungs(), "model": "m"}
    present, _ = interpret(np.array([9.0]), maps, FRAME, **common)
    (shown,) = outlines(present, maps, FRAME, **common)
    expected = np.logical_or(*(segment.mask for segment in lungs()))
    expected[210:] = False
    assert (shown.key, shown.model) == ("lung_opacity", "m")
    assert not shown.mask[~np.logical_or(*(segment.mask for segment in lungs()))].any()
    assert np.count_nonzero(shown.mask ^ expected) < 0.06 * np.count_nonzero(expected)


@pytest.mark.parametrize("why", ["absent", "not in the contract", "one lung", "outside the lungs"])
def test_no_outline_is_shown_without_need(why: str) -> None:
    contract = [replace(CONTRACT, outline_from=None if why == "not in the contract" else 0.3)]
    maps = np.ones((1, 20, 20), np.float32)
    if why == "outside the lungs":
        maps[0, :, :] = 0.0
        maps[0, :3] = 1.0
    common = {"contract": contract, "segments": lungs()[: 1 if why == "one lung" else 2], "model": "m"}
    findings, _ = interpret(np.array([-9.0 if why == "absent" else 9.0]), maps, FRAME, **common)
    assert outlines(findings, maps, FRAME, **common) == ()

"""Reading boxes: which are told, how sure, on which side, and what no box means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from models.boxes import boxes_of, image_logit, interpret, within
from models.bundle import FindingContract
from models.calls import calibrate
from models.contracts import BoxContract
from models.findings import Finding, FindingState, Laterality
from models.rendering import Frame, RenderedImage, network_input

CONTRACT = FindingContract(
    "lung_opacity", 0, evaluated=True, slope=2.0, intercept=1.0, threshold_absent=0.2, threshold_present=0.6,
    localises=True,
)  # fmt: skip
SIDE = 64
ANCHORS = BoxContract("anchors", 0.05, 1e-4, 20, {"lung_opacity": 0.3, "nodule": 0.3})
HEAT = replace(ANCHORS, head="heat")
Output = dict[str, npt.NDArray[np.float32]]


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def anchors(*boxes: tuple[tuple[float, float, float, float], float], kinds: int = 1) -> Output:
    """Boxes (x0, y0, x1, y1) with their confidences, all of the first kind."""
    logits = np.full((len(boxes), kinds), -9.0, np.float32)
    logits[:, 0] = [logit(p) for _, p in boxes]
    return {"boxes": np.array([box for box, _ in boxes], np.float32).reshape(-1, 4), "logits": logits}


def peaks(*spots: tuple[int, int, float]) -> Output:
    """Centres in cells of 8 pixels, (row, column, confidence), of boxes of two by two cells."""
    heat, half = np.full((1, 8, 8), -9.0, np.float32), np.zeros((2, 8, 8), np.float32)
    for row, column, p in spots:
        heat[0, row, column] = logit(p)
    return {"heat": heat, "size": half + np.float32(np.log(2.0)), "offset": half}


def frame(rows: int = 128, columns: int = 128) -> Frame:
    return network_input(RenderedImage(np.eye(rows, columns, dtype=np.float32)), SIDE)[1]


def read(output: Output, reading: BoxContract, lies: Frame | None = None, **change: Any) -> Finding:
    contract = replace(CONTRACT, **change)
    (found,) = interpret(output, lies or frame(), contract=[contract], reading=reading, segments=(), model="detector")
    return found


@pytest.mark.parametrize(
    ("output", "reading"),
    [(anchors(((8, 16, 24, 32), 0.7), ((40, 16, 56, 32), 0.2)), ANCHORS), (peaks((2, 1, 0.7), (2, 5, 0.2)), HEAT)],
    ids=["anchors", "heat"],
)
def test_the_image_is_as_sure_as_its_surest_box_and_each_box_by_itself(output: Output, reading: BoxContract) -> None:
    found = read(output, reading)
    assert found.state is FindingState.PRESENT
    assert found.probability == pytest.approx(calibrate(logit(0.7), CONTRACT), abs=2e-6)
    (region,) = found.regions  # the other one is less sure than boxes that are drawn
    assert region.score == found.probability
    assert (found.laterality, region.laterality) == (Laterality.RIGHT, Laterality.RIGHT)
    both = read(output, replace(reading, draw_from={"lung_opacity": 0.1}))
    assert both.laterality is Laterality.BILATERAL
    assert [r.score for r in both.regions] == pytest.approx(
        [found.probability, calibrate(logit(0.2), CONTRACT)], abs=2e-6
    )
    if reading is ANCHORS:
        assert (region.x, region.y, region.width, region.height) == (16, 32, 32, 32)


def test_of_boxes_that_overlap_too_much_the_surest_is_told() -> None:
    close = anchors(((8, 16, 24, 32), 0.7), ((9, 16, 25, 32), 0.9), ((20, 16, 36, 32), 0.8), ((5, 5, 5, 9), 0.99))
    told = boxes_of(close, ANCHORS)
    assert told.scores == pytest.approx([0.9, 0.8])
    assert len(boxes_of(close, replace(ANCHORS, overlap=0.9))) == 3
    assert len(boxes_of(close, replace(ANCHORS, limit=1))) == 1
    assert len(boxes_of(close, replace(ANCHORS, least_score=0.85))) == 1


def test_boxes_of_two_findings_do_not_displace_each_other() -> None:
    output = anchors(((8, 16, 24, 32), 0.7), ((9, 16, 25, 32), 0.2), kinds=2)
    output["logits"][1, 1] = logit(0.9)
    contract = [CONTRACT, replace(CONTRACT, key="nodule", output=1)]
    first, second = interpret(output, frame(), contract=contract, reading=ANCHORS, segments=(), model="detector")
    assert (len(first.regions), len(second.regions)) == (1, 1)
    assert second.probability == pytest.approx(calibrate(logit(0.9), CONTRACT), abs=2e-6)


@pytest.mark.parametrize("output", [anchors(((8, 16, 24, 32), 0.01)), peaks((2, 1, 0.01))], ids=["anchors", "heat"])
def test_no_box_is_an_answer_of_the_least_confidence(output: Output) -> None:
    found = read(output, ANCHORS if "boxes" in output else HEAT)
    assert found.probability == calibrate(logit(1e-4), CONTRACT)
    assert (found.state, found.regions, found.laterality) == (FindingState.ABSENT, (), None)
    assert image_logit(np.ones(1), 1e-4) == pytest.approx(-logit(1e-4))
    assert image_logit(np.zeros(0), 1e-4) == pytest.approx(logit(1e-4))


@pytest.mark.parametrize(
    "change", [{"evaluated": False}, {"localises": False}, {"threshold_present": 1.0}], ids=lambda c: next(iter(c))
)
def test_only_what_is_present_and_was_shown_to_be_pointed_at_is_drawn(change: dict[str, Any]) -> None:
    assert read(anchors(((8, 16, 24, 32), 0.9)), ANCHORS, **change).regions == ()


def test_a_box_beside_the_image_counts_for_nothing_and_one_at_its_edge_is_cut() -> None:
    narrow = frame(128, 64)  # shown from column 16 to 48
    output = anchors(((2, 16, 14, 32), 0.9), ((40, 16, 60, 32), 0.7))
    assert within(boxes_of(output, ANCHORS), narrow).scores == pytest.approx([0.7])
    found = read(output, ANCHORS, narrow)
    assert found.probability == pytest.approx(calibrate(logit(0.7), CONTRACT), abs=2e-6)
    (region,) = found.regions
    assert (region.x, region.width) == (48, 16)
    assert region.laterality is Laterality.LEFT


def test_what_lies_in_the_middle_has_no_side() -> None:
    reading = replace(ANCHORS, draw_from={"hernia": 0.3})
    found = read(anchors(((8, 16, 24, 32), 0.9)), reading, key="hernia")
    assert (found.laterality, found.regions[0].laterality) == (None, None)

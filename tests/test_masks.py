"""Reading outlines: what is emptied, what is shown and where, and on which side."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from models.bundle import FindingContract
from models.contracts import MaskContract
from models.findings import Finding, FindingState, Laterality, SegmentMask
from models.hanging import Hanging
from models.masks import image_logits, interpret, outlined
from models.rendering import Frame, RenderedImage, network_input

CONTRACT = FindingContract(
    "pneumothorax", 0, evaluated=True, threshold_absent=0.2, threshold_present=0.6, localises=True
)
READING = MaskContract(0.5, 4)
SIDE = 32


def fields(*spots: tuple[slice, slice], high: float = 4.0) -> npt.NDArray[np.float32]:
    made = np.full((1, SIDE, SIDE), -4.0, np.float32)
    for spot in spots:
        made[0][spot] = high
    return made


def frame(rows: int = 64, columns: int = 48, hanging: Hanging | None = None) -> Frame:
    image = RenderedImage(np.eye(rows, columns, dtype=np.float32))
    return network_input(replace(image, hanging=hanging) if hanging else image, SIDE)[1]


def read(
    masks: npt.NDArray[np.float32], *, lies: Frame | None = None, contract: FindingContract = CONTRACT,
    reading: MaskContract = READING, **rest: Any,
) -> tuple[Finding, tuple[SegmentMask, ...]]:  # fmt: skip
    output = {"masks": masks, **rest}
    (found,), shown = interpret(
        output, lies or frame(), contract=[contract], reading=reading, segments=(), model="outliner"
    )
    return found, shown


RIGHT, LEFT = (slice(8, 16), slice(6, 12)), (slice(8, 16), slice(20, 26))


def test_the_image_is_as_sure_as_the_pixel_that_just_makes_a_mask() -> None:
    found, shown = read(fields(RIGHT))
    assert found.probability == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-6)
    assert (found.state, found.model, found.regions) == (FindingState.PRESENT, "outliner", ())
    assert [s.key for s in shown] == ["pneumothorax"]
    few = fields((slice(8, 9), slice(6, 9)))  # three pixels where four are asked for
    assert read(few) == (replace(found, state=FindingState.ABSENT, probability=0.017986, laterality=None), ())
    assert image_logits({"logits": few}, READING) == [-4.0], "a bare tensor is the masks"


@pytest.mark.parametrize(
    ("spots", "side"), [([RIGHT], Laterality.RIGHT), ([LEFT], Laterality.LEFT), ([RIGHT, LEFT], Laterality.BILATERAL)]
)
def test_a_mask_lies_where_the_network_put_it_and_tells_the_side(
    spots: list[tuple[slice, slice]], side: Laterality
) -> None:
    found, (shown,) = read(fields(*spots))
    assert found.laterality is side
    expected = frame().mask_to_stored(fields(*spots)[0], 0.0)
    assert shown.mask.shape == (64, 48)
    assert (shown.mask != expected).mean() < 0.02
    assert read(fields(*spots), contract=replace(CONTRACT, key="hernia"))[0].laterality is None


def test_a_speck_beyond_the_midline_changes_no_side() -> None:
    assert read(fields(RIGHT, (slice(9, 10), slice(22, 24))))[0].laterality is Laterality.RIGHT


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"evaluated": False}, FindingState.NOT_EVALUATED),
        ({"localises": False}, FindingState.PRESENT),
        ({"threshold_present": 0.99}, FindingState.UNDETERMINED),
        ({"threshold_present": 1.0, "threshold_absent": 0.99}, FindingState.ABSENT),
    ],
)
def test_only_what_is_present_and_was_shown_to_be_found_is_outlined(
    change: dict[str, Any], state: FindingState
) -> None:
    found, shown = read(fields(RIGHT), contract=replace(CONTRACT, **change))
    assert (found.state, found.laterality, shown) == (state, None, ())
    assert (found.probability is None) == (found.reason == "evidence") == (state is FindingState.NOT_EVALUATED)


def test_a_head_for_empty_masks_decides_on_image_and_mask() -> None:
    reading = MaskContract(0.5, 4, "empty", 0.4)
    sure, unsure = np.array([-3.0], np.float32), np.array([0.0], np.float32)
    found, shown = read(fields(RIGHT), reading=reading, empty=sure)
    assert found.probability == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-6)
    assert len(shown) == 1
    assert not outlined({"masks": fields(RIGHT), "empty": unsure}, reading).any()
    found, shown = read(fields(RIGHT), reading=reading, empty=unsure, contract=replace(CONTRACT, threshold_present=0.5))
    assert (found.state, shown) == (FindingState.PRESENT, ())


def test_what_is_outlined_beside_the_image_is_not_shown() -> None:
    found, shown = read(fields((slice(0, 32), slice(0, 3))), lies=frame(64, 32))
    assert (found.state, found.laterality, shown) == (FindingState.PRESENT, None, ())


@pytest.mark.parametrize("hanging", [Hanging(*turns) for turns in product((False, True), repeat=3)])
def test_masks_and_sides_follow_an_image_that_is_turned(hanging: Hanging) -> None:
    lies = frame(64, 48, hanging)
    found, (shown,) = read(fields(RIGHT), lies=lies)
    hung = hanging.apply(shown.mask)
    assert found.laterality is Laterality.RIGHT
    assert np.flatnonzero(hung.any(0)).mean() < hung.shape[1] / 2
    assert shown.mask.shape == (64, 48)

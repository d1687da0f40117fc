"""Where opacities are marked, held against boxes by hand-made maps."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.findings import SegmentMask
from training.data import FindingRecord
from training.evidence import CELLS, FOLDS, OUTPUTS, HeldOut, Samples
from training.metrics.intervals import Interval
from training.opacity_evidence import KEY, by_group, points, precision

CELL = 512 / CELLS
BOX = (4 * CELL, 6 * CELL, 4 * CELL, 4 * CELL)  # x, y, width, height: cells 4 to 7 across, 6 to 9 down


def samples(labels: list[float]) -> Samples:
    """One patient each; where the label is 1, radiologists drew `BOX`."""
    truth = np.full((len(labels), len(OUTPUTS)), np.nan, np.float32)
    truth[:, -1] = labels
    boxes = torch.zeros(1, len(labels), CELLS, CELLS)
    boxes[0, np.array(labels) == 1, 6:10, 4:8] = 1.0
    records = [
        FindingRecord(Path(f"{i}.png"), f"p{i}", "ab"[i % 2], "PA", {}, {}, {KEY: [BOX]} if label == 1 else {})
        for i, label in enumerate(labels)
    ]
    return Samples(
        records, np.arange(len(labels)) % FOLDS, truth, np.full_like(truth, np.nan), boxes, np.zeros((len(labels), 1))
    )


def heat(rows: slice, columns: slice) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """A map that is hot in a rectangle of cells, hottest in its middle."""
    marked = np.full((CELLS, CELLS), -4.0)
    marked[rows, columns] = 4.0
    marked[(rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2] = 4.1
    return marked


IN_THE_BOX, ELSEWHERE = heat(slice(6, 10), slice(4, 8)), heat(slice(12, 16), slice(12, 16))


def held_out(maps: list[np.ndarray[tuple[int, int], np.dtype[np.float64]]], logits: list[float]) -> HeldOut:
    return HeldOut(np.repeat(np.array(logits, float)[:, None], len(OUTPUTS), 1), np.array(maps))


def test_the_hottest_cell_is_held_against_the_boxes() -> None:
    drawn = samples([1, 1, 1, 1, 0])
    found = points(drawn, np.array([IN_THE_BOX, IN_THE_BOX, IN_THE_BOX, ELSEWHERE, ELSEWHERE]))
    assert found.hit.value == 0.75
    assert found.fixed.value == 1.0, "all boxes lie at one place, so one fixed cell is as good"


def test_boxes_are_drawn_as_in_the_node_and_held_against_the_radiologists() -> None:
    labels: list[float] = [1, 1, 0, 0]
    right = held_out([IN_THE_BOX, IN_THE_BOX, ELSEWHERE, ELSEWHERE], [3, 3, -3, -3])
    assert precision(samples(labels), right).value == 1.0, "what is wrong on the clear ones is less sure"
    wrong = held_out([ELSEWHERE, ELSEWHERE, ELSEWHERE, ELSEWHERE], [3, 3, -3, -3])
    assert precision(samples(labels), wrong).value == 0.0
    surest_is_wrong = held_out([IN_THE_BOX, IN_THE_BOX, ELSEWHERE, ELSEWHERE], [0, 0, 3, -3])
    assert precision(samples(labels), surest_is_wrong).value == pytest.approx(2 / 3)


def test_what_a_box_has_outside_of_the_lungs_is_cut_before_it_is_judged() -> None:
    wide = heat(slice(6, 10), slice(2, 10))  # twice as wide as the box, and more once it is drawn
    found = held_out([wide, wide], [3, 3])
    mask = np.zeros((512, 512), np.bool_)
    mask[130:300, int(BOX[0]) : int(BOX[0] + BOX[2])] = True
    beyond = np.zeros_like(mask)
    beyond[130:300, 300:400] = True
    lungs = (SegmentMask("lung_right", mask, ""), SegmentMask("lung_left", beyond, ""))
    assert precision(samples([1, 1]), found).value == 0.0
    assert precision(samples([1, 1]), found, {0: lungs, 1: lungs}).value == 1.0


def test_each_source_and_view_has_its_figure_or_why_it_has_none() -> None:
    logits = np.repeat(np.array([3.0, 3, -3, 3, 3, 3, 0])[:, None], len(OUTPUTS), 1)
    groups = by_group(samples([1, 1, 0, 1, 1, 1, np.nan]), logits)
    told = {group: (positives, figure) for group, positives, figure in groups}
    assert told["source a"][0] == "2 of 3"
    assert isinstance(told["source a"][1], Interval)
    assert told["source a"][1].value == 1.0
    assert told["view PA"][0] == "5 of 6"
    assert not isinstance(told["source b"][1], Interval), "all of them are opaque"

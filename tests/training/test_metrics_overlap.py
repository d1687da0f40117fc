"""Overlap of masks and of boxes, and where a model points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_iou

from training.metrics.intervals import TooFew, Undefined, wilson
from training.metrics.localisation import THRESHOLDS, cells_inside, localisation, pointing
from training.metrics.overlap import (
    as_boxes,
    box_iobb,
    box_iou,
    corners,
    dice,
    iou,
    mask_figures,
    score_mask,
)
from training.readers.records import Box

EMPTY = np.zeros((8, 8), np.bool_)


def square(top: int, left: int, side: int) -> np.ndarray:
    mask = EMPTY.copy()
    mask[top : top + side, left : left + side] = True
    return mask


def test_dice_and_iou_by_hand() -> None:
    found, truth = square(0, 0, 4), square(2, 2, 4)  # 16 pixels each, 4 in common
    assert dice(found, truth) == pytest.approx(2 * 4 / 32)
    assert iou(found, truth) == pytest.approx(4 / 28)


def test_an_empty_mask_is_right_only_where_there_is_nothing() -> None:
    for overlap in (dice, iou):
        assert overlap(EMPTY, EMPTY) == 1
        assert overlap(EMPTY, square(1, 1, 3)) == 0
        assert overlap(square(1, 1, 3), EMPTY) == 0


def test_dice_and_iou_are_monai_s_empty_masks_included() -> None:
    rng = np.random.default_rng(0)
    masks = [(rng.random((8, 8)) < share, rng.random((8, 8)) < other) for share, other in rng.random((20, 2))]
    masks += [(EMPTY, EMPTY), (EMPTY, square(0, 0, 2)), (square(0, 0, 2), EMPTY)]
    found, truth = (torch.tensor(np.stack(side))[:, None].float() for side in zip(*masks, strict=True))
    assert [dice(f, t) for f, t in masks] == pytest.approx(
        compute_dice(found, truth, ignore_empty=False)[:, 0].tolist()
    )
    drawn = [i for i, (_, mask) in enumerate(masks) if mask.any()]  # MONAI's IoU calls all other images right
    assert [iou(*masks[i]) for i in drawn] == pytest.approx(compute_iou(found, truth)[drawn, 0].tolist())
    assert len(drawn) > 15


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes"):
        dice(EMPTY, EMPTY[:4])
    with pytest.raises(ValueError, match="boolean"):
        iou(EMPTY.astype(np.uint8), EMPTY)  # type: ignore[arg-type]


def test_a_mean_dice_stands_beside_what_empty_masks_alone_reach() -> None:
    """SIIM-ACR 2019: 22 % of the images carry a pneumothorax, so that finding nothing anywhere scores 0.78."""
    truths = [square(0, 0, 4)] * 22 + [EMPTY] * 78
    people = [str(i) for i in range(100)]
    lazy = mask_figures([score_mask(EMPTY, truth) for truth in truths], people)
    assert lazy.dice.value == lazy.all_empty.value == pytest.approx(0.78)
    assert isinstance(lazy.dice_where_present, type(lazy.dice))
    assert lazy.dice_where_present.value == 0
    assert lazy.left_empty == wilson(1.0, 78)
    eager = mask_figures([score_mask(square(0, 0, 4), truth) for truth in truths], people)
    assert eager.dice.value == pytest.approx(0.22)
    assert eager.left_empty == wilson(0.0, 78)
    assert isinstance(mask_figures([score_mask(EMPTY, EMPTY)] * 5, people[:5]).dice_where_present, TooFew)


def test_overlap_of_boxes_is_that_of_the_pixels_they_hold() -> None:
    rng = np.random.default_rng(1)
    boxes = [Box(*rng.integers(0, 20, 2).tolist(), *rng.integers(1, 20, 2).tolist()) for _ in range(30)]
    filled = np.zeros((30, 40, 40), np.bool_)
    for mask, box in zip(filled, boxes, strict=True):
        mask[int(box.y) : int(box.y + box.height), int(box.x) : int(box.x + box.width)] = True
    edges = corners(boxes)
    expected = [[iou(a, b) for b in filled[10:]] for a in filled[:10]]
    assert box_iou(edges[:10], edges[10:]) == pytest.approx(np.array(expected))
    shared = [[(a & b).sum() / a.sum() for b in filled[10:]] for a in filled[:10]]
    assert box_iobb(edges[:10], edges[10:]) == pytest.approx(np.array(shared))
    assert corners(()).shape == (0, 4)
    assert box_iou(corners(()), edges).shape == (0, 30)


def test_a_box_without_area_is_refused() -> None:
    for wrong in ([[0, 0, 0, 5]], [[5, 0, 2, 5]], [[0, 0, np.nan, 5]], [[0, 0, 1]]):
        with pytest.raises(ValueError, match="box"):
            as_boxes(wrong)


def test_localisation_by_iobb_by_hand() -> None:
    found = [
        as_boxes([[0, 0, 10, 10], [50, 50, 60, 60]]),  # half inside the truth; far off
        as_boxes([[0, 0, 4, 4]]),  # wholly inside
        as_boxes([]),  # nothing found
    ]
    truths = [as_boxes([[5, 0, 30, 10]]), as_boxes([[0, 0, 40, 40]]), as_boxes([[0, 0, 9, 9]])]
    table = {row.threshold: row for row in localisation(found, truths, ["a", "b", "c"])}
    assert tuple(table) == THRESHOLDS
    assert table[0.25].accuracy == wilson(2 / 3, 3)
    assert table[0.25].false_positives.value == pytest.approx(1 / 3)
    assert table[0.5].accuracy == wilson(1 / 3, 3)  # one half does not exceed one half
    assert table[0.5].false_positives.value == pytest.approx(2 / 3)
    (by_iou,) = localisation(found, truths, ["a", "b", "c"], (0.1,), box_iou)
    assert by_iou.accuracy == wilson(1 / 3, 3)  # 50 of 300 alone exceeds a tenth; 16 of 1600 does not
    with pytest.raises(Undefined, match="no box"):
        localisation([as_boxes([])], [as_boxes([])], ["a"])


def test_a_point_hits_where_the_map_is_hottest() -> None:
    maps, inside = np.zeros((3, 4, 4)), np.zeros((3, 4, 4), np.bool_)
    inside[:, 1:3, 1:3] = True
    inside[2], inside[2, 0, 0] = False, True
    maps[0, 1, 1] = maps[1, 3, 3] = maps[2, 0, 0] = 1
    found = pointing(maps, inside, ["a", "b", "c"])
    assert found.hit == wilson(2 / 3, 3)
    assert found.fixed == wilson(2 / 3, 3)  # any of the four in the middle


def test_a_level_map_points_as_a_blind_guess_does() -> None:
    inside = np.zeros((2, 4, 4), np.bool_)
    inside[:, 0] = True
    assert pointing(np.ones((2, 4, 4)), inside, ["a", "b"]).hit.value == pytest.approx(0.25)


def test_pointing_needs_a_place_on_each_image() -> None:
    with pytest.raises(Undefined, match="leave out"):
        pointing(np.ones((1, 2, 2)), np.zeros((1, 2, 2), np.bool_), ["a"])
    with pytest.raises(ValueError, match="fit"):
        pointing(np.ones((1, 2, 2)), np.ones((1, 3, 2), np.bool_), ["a"])
    with pytest.raises(ValueError, match="finite"):
        pointing(np.full((1, 2, 2), np.nan), np.ones((1, 2, 2), np.bool_), ["a"])


def test_cells_lie_in_a_box_with_their_centre_or_within_the_tolerance() -> None:
    box = as_boxes([[30, 0, 60, 25]])  # of an image with 50 rows, 100 columns; cells of 25 by 25
    inside = cells_inside(box, (50, 100), (2, 4))
    assert np.argwhere(inside).tolist() == [[0, 1]]  # centres at x 12.5, 37.5, 62.5, 87.5; y 12.5, 37.5
    near = cells_inside(box, (50, 100), (2, 4), tolerance=15)
    assert np.argwhere(near).tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]

"""How far two masks, or two boxes, cover each other.

The rule: empty masks follow SIIM-ACR 2019 (both empty: 1; one empty: 0), and a mean over images is shown with what an
answer of nothing but empty masks would reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.metrics.intervals import BoolArray, Figure, FloatArray, Interval, attempt, mean_interval, share_interval
from training.readers.records import Box


def dice(found: BoolArray, truth: BoolArray) -> float:
    """Twice the overlap over the sum of the areas (Dice, 1945), 0 to 1; 1 when both masks are empty, 0 when one is.

    Raises
    ------
    ValueError
        When shapes differ or a mask is not boolean.
    """
    _same_kind(found, truth)
    total = int(np.count_nonzero(found)) + int(np.count_nonzero(truth))
    return 2 * int(np.count_nonzero(found & truth)) / total if total else 1.0


def iou(found: BoolArray, truth: BoolArray) -> float:
    """Overlap over the area of both together (Jaccard, 1901), 0 to 1; empty masks and errors as in `dice`."""
    _same_kind(found, truth)
    union = int(np.count_nonzero(found | truth))
    return int(np.count_nonzero(found & truth)) / union if union else 1.0


@dataclass(frozen=True)
class MaskScore:
    """One image: Dice, and whether there was something to find and something found."""

    dice: float
    truth_empty: bool
    found_empty: bool


def score_mask(found: BoolArray, truth: BoolArray) -> MaskScore:
    """Score one image; takes and raises what `dice` does."""
    return MaskScore(dice(found, truth), not truth.any(), not found.any())


@dataclass(frozen=True)
class MaskFigures:
    """Masks of many images, with intervals by patient.

    Parameters
    ----------
    dice
        Mean over all images: the score of SIIM-ACR 2019.
    all_empty
        The same for an answer of empty masks alone: the share of images with nothing to find.
    dice_where_present
        Mean over the images with something to find.
    left_empty
        Share of the images with nothing to find on which nothing was found.
    """

    dice: Interval
    all_empty: Interval
    dice_where_present: Figure
    left_empty: Figure


def mask_figures(scores: Sequence[MaskScore], patients: Sequence[str], seed: int = 0) -> MaskFigures:
    """Sum up the masks of many images, one score and one patient for each.

    Raises
    ------
    Undefined
        When there are fewer than two patients.
    """
    values = np.array([score.dice for score in scores])
    empty = np.array([score.truth_empty for score in scores], np.bool_)
    left = np.array([score.found_empty for score in scores], np.bool_)
    names = np.asarray(patients, object)
    return MaskFigures(
        mean_interval(values, patients, seed, shares=True),
        share_interval(empty, patients),
        attempt(lambda: mean_interval(values[~empty], tuple(names[~empty]), seed, shares=True)),
        attempt(lambda: share_interval(left[empty], tuple(names[empty]))),
    )


def corners(boxes: Iterable[Box]) -> FloatArray:
    """Shape (k, 4): xmin, ymin, xmax, ymax in pixels."""
    return as_boxes([[b.x, b.y, b.x + b.width, b.y + b.height] for b in boxes])


def as_boxes(boxes: npt.ArrayLike) -> FloatArray:
    """Boxes of shape (k, 4): xmin, ymin, xmax, ymax, the outer edges of pixels, so that the area is their count.

    Where a format counts pixels inclusively, as PASCAL VOC does, its xmax and ymax are these less 1.

    Raises
    ------
    ValueError
        When a box has no area or is not finite.
    """
    array = np.asarray(boxes, np.float64)
    array = array.reshape(0, 4) if not array.size else array
    if array.ndim != 2 or array.shape[1] != 4 or not np.isfinite(array).all():
        raise ValueError(f"boxes are finite, of shape (k, 4); these: {array.shape}")
    if (array[:, :2] >= array[:, 2:]).any():
        raise ValueError("a box ends before it begins: xmin < xmax and ymin < ymax")
    return array


def box_iou(found: FloatArray, truth: FloatArray) -> FloatArray:
    """Intersection over union, 0 to 1, of boxes (k, 4) and (m, 4), see `as_boxes`: shape (k, m)."""
    shared = _shared(found, truth)
    return shared / (_areas(found)[:, None] + _areas(truth)[None] - shared)


def box_iobb(found: FloatArray, truth: FloatArray) -> FloatArray:
    """Intersection over the area of the found box, 0 to 1, shape (k, m) (Wang et al., CVPR 2017)."""
    return _shared(found, truth) / _areas(found)[:, None]


def _shared(found: FloatArray, truth: FloatArray) -> FloatArray:
    low = np.maximum(found[:, None, :2], truth[None, :, :2])
    high = np.minimum(found[:, None, 2:], truth[None, :, 2:])
    return np.asarray(np.prod(np.clip(high - low, 0, None), axis=2))


def _areas(boxes: FloatArray) -> FloatArray:
    return np.asarray(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))


def _same_kind(found: BoolArray, truth: BoolArray) -> None:
    if found.shape != truth.shape:
        raise ValueError(f"masks of shapes {found.shape} and {truth.shape}")
    if found.dtype != np.bool_ or truth.dtype != np.bool_:
        raise ValueError(f"masks are boolean, not {found.dtype} and {truth.dtype}")

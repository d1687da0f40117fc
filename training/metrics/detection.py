"""Boxes with confidences against boxes that somebody drew: average precision as in PASCAL VOC2010.

The rule: boxes are taken in order of confidence; each looks at the true box that it overlaps most, hits it if the
overlap exceeds the limit and nobody hit it before, and is a false positive otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from training.metrics.intervals import (
    BoolArray,
    Figure,
    FloatArray,
    IntArray,
    Interval,
    Statistic,
    TooFew,
    Undefined,
    attempt,
    bootstrap,
    carriers,
    mean_of,
    ratio,
)
from training.metrics.overlap import as_boxes, box_iou

LEAST_IOU = 0.5  # to be exceeded: Everingham et al., IJCV 2010


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found on one image.

    Parameters
    ----------
    boxes
        Shape (k, 4), see `overlap.as_boxes`.
    confidences
        Shape (k,), higher for surer.
    """

    boxes: FloatArray
    confidences: FloatArray

    def __post_init__(self) -> None:
        as_boxes(self.boxes)
        if self.confidences.shape != (len(self.boxes),) or not np.isfinite(self.confidences).all():
            raise ValueError(f"{len(self.boxes)} boxes take as many finite confidences")


@dataclass(frozen=True, eq=False)
class Matches:
    """Every box found on any image, from the surest on.

    Parameters
    ----------
    hits
        Shape (boxes,).
    images
        Shape (boxes,): number of the image.
    truths
        Shape (images,): how many boxes were drawn on each.
    """

    hits: BoolArray
    images: IntArray
    truths: IntArray


def match(found: Sequence[Detections], truths: Sequence[FloatArray]) -> Matches:
    """Tell hits from false positives; `found` and `truths` (boxes of shape (m, 4)) hold one item for each image.

    Boxes of equal confidence are taken in the order given, as in the VOC development kit. Its code lets an overlap of
    exactly one half pass; its documentation and the SIIM-FISABIO-RSNA rules ask for more than that, and so do we.
    """
    images = np.repeat(np.arange(len(truths)), [len(one.boxes) for one in _aligned(found, truths)])
    confidences = np.concatenate([one.confidences for one in found]) if found else np.empty(0)
    hits = np.concatenate(
        [_hits(one, true) for one, true in zip(found, truths, strict=True)] or [np.empty(0, np.bool_)]
    )
    order = np.argsort(-confidences, kind="stable")
    return Matches(hits[order], images[order], np.array([len(true) for true in truths], np.int_))


def average_precision(
    found: Sequence[Detections], truths: Sequence[FloatArray], patients: Sequence[str], seed: int = 0
) -> Interval:
    """Area under the interpolated precision-recall curve over all its points, 0 to 1 (VOC2010 and later).

    Parameters
    ----------
    found, truths, patients
        One item for each image; `truths` are boxes of shape (m, 4), empty where nothing is to be found.

    Raises
    ------
    Undefined
        When nothing was to be found on any image, or by one patient only.
    """
    return bootstrap(_checked_statistic(found, truths), patients, seed, trials=_boxed(truths, patients))


@dataclass(frozen=True)
class DetectionFigures:
    """Average precision of each class, and their mean, which is `TooFew` if one of them is not defined."""

    classes: Mapping[str, Figure]
    mean: Figure


def mean_average_precision(
    found: Mapping[str, Sequence[Detections]],
    truths: Mapping[str, Sequence[FloatArray]],
    patients: Sequence[str],
    seed: int = 0,
) -> DetectionFigures:
    """Average precision of each class of `truths`, and their mean under the same draws of patients."""
    figures = {name: attempt(partial(average_precision, found[name], truths[name], patients, seed)) for name in truths}
    missing = [name for name, figure in figures.items() if isinstance(figure, TooFew)]
    if missing:
        return DetectionFigures(figures, TooFew(f"no figure for {', '.join(missing)}"))
    statistics = [_checked_statistic(found[name], truths[name]) for name in truths]
    trials = min(_boxed(truths[name], patients) for name in truths)
    return DetectionFigures(figures, attempt(partial(bootstrap, mean_of(statistics), patients, seed, trials=trials)))


def _boxed(truths: Sequence[FloatArray], patients: Sequence[str]) -> int:
    """How many patients have something to be found: as many trials a perfect figure rests on."""
    return carriers(np.array([len(boxes) > 0 for boxes in truths], np.bool_), patients)


def _checked_statistic(found: Sequence[Detections], truths: Sequence[FloatArray]) -> Statistic:
    matches = match(found, truths)
    if not matches.truths.sum():
        raise Undefined("average precision where nothing is to be found")

    def statistic(weights: FloatArray) -> FloatArray:
        counted = weights[:, matches.images]
        right = counted * matches.hits
        precision = np.nan_to_num(ratio(np.cumsum(right, 1), np.cumsum(counted, 1)))
        reached = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # the best at this recall or beyond
        return ratio((right * reached).sum(1), weights @ matches.truths)

    return statistic


def _hits(found: Detections, truth: FloatArray) -> BoolArray:
    """Which boxes of one image hit, in the order given."""
    hits = np.zeros(len(found.boxes), np.bool_)
    if not len(truth):
        return hits
    overlaps = box_iou(found.boxes, as_boxes(truth))
    best = overlaps.argmax(1)
    taken = np.zeros(len(truth), np.bool_)
    for i in np.argsort(-found.confidences, kind="stable"):
        if overlaps[i, best[i]] > LEAST_IOU and not taken[best[i]]:
            hits[i] = taken[best[i]] = True
    return hits


def _aligned(found: Sequence[Detections], truths: Sequence[FloatArray]) -> Sequence[Detections]:
    if len(found) != len(truths):
        raise ValueError(f"answers for {len(found)} images, truth of {len(truths)}")
    return found

"""Whether a model looks where the finding is: boxes from saliency maps (Wang et al.) and the pointing game.

The rule: pointing stands beside the best fixed point, for findings have their places and a model that always points
there has seen nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from training.metrics.intervals import BoolArray, FloatArray, Interval, Undefined, mean_interval, share_interval
from training.metrics.overlap import as_boxes, box_iobb

THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)  # T(IoBB) in Wang et al., CVPR 2017, table 4


@dataclass(frozen=True)
class Localisation:
    """Boxes of one finding at one threshold of overlap.

    Parameters
    ----------
    threshold
        Overlap that a box must exceed, 0 to 1.
    accuracy
        Share of the true boxes that a found box localises, 0 to 1.
    false_positives
        Found boxes an image that localise none.
    """

    threshold: float
    accuracy: Interval
    false_positives: Interval


def localisation(
    found: Sequence[FloatArray],
    truths: Sequence[FloatArray],
    patients: Sequence[str],
    thresholds: Sequence[float] = THRESHOLDS,
    overlap: Callable[[FloatArray, FloatArray], FloatArray] = box_iobb,
) -> tuple[Localisation, ...]:
    """Accuracy and average false positives of boxes drawn around saliency (Wang et al., CVPR 2017).

    IoBB rewards small boxes: show it beside IoU (`overlap=box_iou`) or `pointing`.

    Parameters
    ----------
    found, truths, patients
        One item for each image that carries the finding: boxes of shape (k, 4) and (m, 4), see `overlap.as_boxes`.

    Raises
    ------
    Undefined
        When there is no true box, or fewer than two patients.
    """
    tables = [overlap(as_boxes(boxes), as_boxes(truth)) for boxes, truth in zip(found, truths, strict=True)]
    owners = [patient for table, patient in zip(tables, patients, strict=True) for _ in range(table.shape[1])]
    if not owners:
        raise Undefined("localisation where no box was drawn")
    best = np.concatenate([table.max(0, initial=-1.0) for table in tables])
    return tuple(
        Localisation(
            threshold,
            share_interval(best > threshold, owners),
            mean_interval(
                np.array([float((table.max(1, initial=-1.0) <= threshold).sum()) for table in tables]), patients
            ),
        )
        for threshold in thresholds
    )


@dataclass(frozen=True)
class Pointing:
    """Share of images whose hottest point lies in the finding, 0 to 1; and that of the best fixed point."""

    hit: Interval
    fixed: Interval


def pointing(maps: FloatArray, inside: BoolArray, patients: Sequence[str]) -> Pointing:
    """The pointing game (Zhang et al., IJCV 2018).

    Parameters
    ----------
    maps
        Shape (n, rows, columns), higher where the model looks. Of several hottest points each counts its share, so a
        map that is level everywhere scores what a blind guess does.
    inside
        Same shape: where the finding lies, see `cells_inside`. Each image has such a place.
    patients
        Shape (n,).

    Returns
    -------
    Pointing
        The fixed point is the best for these very images, so no other does better.

    Raises
    ------
    Undefined
        When the finding lies nowhere on an image, or there is no image.
    ValueError
        When shapes differ or a map is not finite.
    """
    if maps.shape != inside.shape or len(maps) != len(patients) or maps.ndim != 3:
        raise ValueError(f"maps {maps.shape}, places {inside.shape} and {len(patients)} patients do not fit")
    if not np.isfinite(maps).all():
        raise ValueError("maps that are not finite")
    flat, places = maps.reshape(len(maps), -1), inside.reshape(len(maps), -1)
    if not len(maps) or not places.any(1).all():
        raise Undefined("pointing takes images on which the finding lies somewhere: leave out the others")
    hottest = flat == flat.max(1, keepdims=True)
    hits = (hottest & places).sum(1) / hottest.sum(1)
    best = places[:, places.mean(0).argmax()]
    hit = (
        share_interval(hits == 1, patients)
        if np.isin(hits, (0, 1)).all()
        else mean_interval(hits, patients, shares=True)
    )
    return Pointing(hit, share_interval(best, patients))


def cells_inside(boxes: FloatArray, image: tuple[int, int], grid: tuple[int, int], tolerance: float = 0.0) -> BoolArray:
    """Which cells of a map have their centre in a box.

    Parameters
    ----------
    boxes
        Shape (k, 4) in pixels of the image.
    image, grid
        Rows and columns of the image, and of the map that lies over all of it.
    tolerance
        Pixels of the image that a point may miss by; Zhang et al. allow 15.
    """
    y, x = ((np.arange(cells) + 0.5) * pixels / cells for pixels, cells in zip(image, grid, strict=True))
    inside = np.zeros(grid, np.bool_)
    for left, top, right, bottom in as_boxes(boxes):
        rows = (y >= top - tolerance) & (y <= bottom + tolerance)
        inside |= rows[:, None] & (x >= left - tolerance) & (x <= right + tolerance)
    return inside

"""Boxes through augmentation, onto centre maps, and their judgement.

The rule: a box here is (x0, y0, x1, y1) in pixels of the picture, whose left upper corner is (0, 0).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.boxes import Boxes
from training.metrics.detection import Detections, match
from training.metrics.intervals import FloatArray

# A box of which less than this share remains in the picture is no longer one.
LEAST_LEFT = 0.25
# Boxes that overlap a true one at least so much are hardly wrong (Law and Deng, CornerNet, ECCV 2018).
_RADIUS_IOU = 0.7


def move_boxes(boxes: Tensor, matrix: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Move boxes (k, 4) as ``training.augmentation.augment`` moved their picture.

    Parameters
    ----------
    matrix
        Shape (2, 3), from places of the changed picture to those of the old one, in units of -1 to 1.

    Returns
    -------
    boxes
        Around the moved corners, cut at the edge.
    kept
        Shape (k,): whether enough of each is left.
    """
    if not len(boxes):
        return boxes, torch.zeros(0, dtype=torch.bool)
    x0, y0, x1, y1 = (2 * boxes / side - 1).unbind(1)
    corners = torch.stack((torch.stack((x0, x1, x0, x1), 1), torch.stack((y0, y0, y1, y1), 1)), 2)
    old = corners - matrix[:, 2]
    new = torch.linalg.solve(matrix[:, :2], old.reshape(-1, 2).T).T.reshape(-1, 4, 2)
    whole = torch.cat((new.amin(1), new.amax(1)), 1)
    moved = (whole.clamp(-1, 1) + 1) * side / 2
    area, left = _area((whole + 1) * side / 2), _area(moved)
    return moved, left >= LEAST_LEFT * area.clamp(min=1e-6)


def centre_maps(boxes: list[list[Tensor]], side: int, cells: int) -> dict[str, Tensor]:
    """Targets of a centre detector (Zhou et al., 2019).

    Parameters
    ----------
    boxes
        For each picture and class a tensor (k, 4).
    side, cells
        Of the picture in pixels, and of the maps.

    Returns
    -------
    dict
        ``heat`` (n, classes, cells, cells); ``size`` (n, 2, cells, cells), the logarithm of width and height in cells;
        ``offset`` (n, 2, cells, cells), 0 to 1 within the cell; ``centres`` (n, 1, cells, cells), where both hold.
    """
    count, classes, stride = len(boxes), len(boxes[0]), side / cells
    heat = torch.zeros(count, classes, cells, cells)
    size, offset = torch.zeros(count, 2, cells, cells), torch.zeros(count, 2, cells, cells)
    centres = torch.zeros(count, 1, cells, cells)
    grid = torch.arange(cells, dtype=torch.float32)
    for i, picture in enumerate(boxes):
        for k, found in enumerate(picture):
            for x0, y0, x1, y1 in (found / stride).tolist():
                width, height = max(x1 - x0, 1e-3), max(y1 - y0, 1e-3)
                x, y = (x0 + x1) / 2, (y0 + y1) / 2
                column, row = min(int(x), cells - 1), min(int(y), cells - 1)
                sigma = max(_radius(width, height) / 3, 0.2)
                distance = (grid - column)[None] ** 2 + (grid - row)[:, None] ** 2
                slope = torch.exp(-distance / (2 * sigma**2))
                slope[row, column] = 1.0
                heat[i, k] = torch.maximum(heat[i, k], slope)
                size[i, :, row, column] = torch.tensor((width, height)).log()
                offset[i, :, row, column] = torch.tensor((x - column, y - row))
                centres[i, 0, row, column] = 1.0
    return {"heat": heat, "size": size, "offset": offset, "centres": centres}


def average_precision(found: list[Detections], truths: list[FloatArray]) -> float:
    """Average precision at an overlap of one half over all pictures (PASCAL VOC2010); NaN where nothing is drawn."""
    matches = match(found, truths)
    total = int(matches.truths.sum())
    if not total:
        return float("nan")
    right = np.cumsum(matches.hits)
    precision = right / np.arange(1, len(right) + 1)
    reached = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(matches.hits * reached)) / total


def as_detections(boxes: Boxes) -> Detections:
    """Boxes of one kind as figures take them."""
    return Detections(boxes.corners.astype(np.float64), boxes.scores.astype(np.float64))


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]).clamp(min=0) * (boxes[:, 3] - boxes[:, 1]).clamp(min=0)


def _radius(width: float, height: float) -> float:
    """By how many cells both corners may move outwards, inwards or along until the overlap falls to `_RADIUS_IOU`."""
    total, product, least = width + height, width * height, _RADIUS_IOU
    along = (total - (total**2 - 4 * product * (1 - least) / (1 + least)) ** 0.5) / 2
    inwards = (2 * total - ((2 * total) ** 2 - 16 * product * (1 - least)) ** 0.5) / 8
    outwards = (-2 * least * total + ((2 * least * total) ** 2 - 16 * least * (least - 1) * product) ** 0.5) / (
        8 * least
    )
    return max(0.0, min(float(along), float(inwards), float(outwards)))

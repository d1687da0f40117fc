"""Whether two outlines are the lungs of an upright frontal chest, by how they compare with outlines known to be.

The rule: the reference and the limit come from chests alone (``training.lung_fields``); they are part of the bundle's
contract and were not fitted to any picture that should be refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from models.findings import BoolMask

FloatArray = npt.NDArray[np.float32]

# What is compared, in words for the message of a refusal.
FEATURES = (
    "size", "inequality", "distance", "height", "slenderness (right)", "fullness (right)", "slenderness (left)",
    "fullness (left)", "faintness (right)", "faintness (left)", "upper edges", "lower edges", "taper (right)",
    "taper (left)", "darkness",
)  # fmt: skip


@dataclass(frozen=True)
class Plausibility:
    """Distribution of the features over outlines of real chests.

    Parameters
    ----------
    mean
        Of each of `FEATURES`.
    precision
        Inverse of their covariance, square.
    limit
        Mahalanobis distance (Mahalanobis, 1936) up to which outlines pass for lungs.
    """

    mean: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]
    limit: float

    def distance(self, features: npt.NDArray[np.float64]) -> float:
        """Mahalanobis distance from the reference, 0 or more."""
        away = features - np.asarray(self.mean)
        return float(np.sqrt(max(away @ np.asarray(self.precision) @ away, 0.0)))

    def oddest(self, features: npt.NDArray[np.float64]) -> str:
        """The feature that contributes most to the distance."""
        away = features - np.asarray(self.mean)
        return FEATURES[int(np.argmax(away * (np.asarray(self.precision) @ away)))]


def describe(picture: FloatArray, right: FloatArray, left: FloatArray) -> npt.NDArray[np.float64]:
    """Measure a pair of outlines, free of where they lie and, but for the first feature, of how large they are.

    Parameters
    ----------
    picture
        What the network saw: shape (size, size), 0 to 1.
    right, left
        Cleaned scores of the lungs, of the same shape; each reaches 0.5 somewhere.

    Returns
    -------
    array
        Shape (15,): `FEATURES`.
    """
    scores, masks = (right, left), (right >= 0.5, left >= 0.5)
    areas = [float(mask.sum()) for mask in masks]
    scale = sum(areas) ** 0.5
    (right_row, right_column), (left_row, left_column) = (ndimage.center_of_mass(mask) for mask in masks)
    (right_top, right_bottom), (left_top, left_bottom) = (_ends(mask, 1) for mask in masks)
    features = [
        np.log(sum(areas) / right.size),
        np.log(areas[0] / areas[1]),
        (left_column - right_column) / scale,
        (left_row - right_row) / scale,
    ]
    for mask, area in zip(masks, areas, strict=True):
        (top, bottom), (first, last) = _ends(mask, 1), _ends(mask, 0)
        height, width = bottom - top + 1, last - first + 1
        features += [np.log(height / width), area / (height * width)]
    features += [np.log(1.001 - float(score[mask].mean())) for score, mask in zip(scores, masks, strict=True)]
    features += [(right_top - left_top) / scale, (right_bottom - left_bottom) / scale]
    features += [_taper(mask) for mask in masks]
    features.append(_darkness(picture, masks[0] | masks[1]))
    return np.array(features, np.float64)


def _ends(mask: BoolMask, across: int) -> tuple[int, int]:
    """First and last row (`across` 1) or column (0) in which a mask occurs."""
    places = np.flatnonzero(mask.any(axis=across))
    return int(places[0]), int(places[-1])


def _taper(mask: BoolMask) -> float:
    """Logarithm of the mean width of the upper quarter over that of the lower half."""
    widths = mask.sum(axis=1)[mask.any(axis=1)].astype(np.float64)
    upper, lower = widths[: max(1, len(widths) // 4)], widths[len(widths) // 2 :]
    return float(np.log((upper.mean() + 1) / (lower.mean() + 1)))


def _darkness(picture: FloatArray, lungs: BoolMask) -> float:
    """Mean gray of the lungs less that of what lies between and around them."""
    (top, bottom), (first, last) = _ends(lungs, 1), _ends(lungs, 0)
    inside, gray = lungs[top : bottom + 1, first : last + 1], picture[top : bottom + 1, first : last + 1]
    return float(gray[inside].mean() - gray[~inside].mean()) if not inside.all() else 0.0

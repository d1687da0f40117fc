"""From the outputs of ``lung_fields`` to segments, the cardiothoracic ratio, and whether there is a chest at all.

The rule: right and left are the patient's; on a frontal radiograph hung normally the patient's right is on the left.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from models.findings import BoolMask, Line, Measurement, SegmentMask, View
from models.rendering import Frame
from models.selection import ImageRefused, Refusal

FloatArray = npt.NDArray[np.float32]

# Plausible lungs, as shares of the network's picture. Bounds lie outside everything seen in the training data.
_SMALLEST_LUNG, _LARGEST_LUNG = 0.012, 0.42
_MOST_UNEQUAL = 8.0  # area of the larger lung over that of the smaller
_LEAST_CERTAIN = 0.80  # mean score inside the outline
_SMALLEST_HEART = 0.01


def interpret(
    scores: FloatArray, frame: Frame, keys: Sequence[str], view: View, model: str
) -> tuple[tuple[SegmentMask, ...], tuple[Measurement, ...]]:
    """Clean the masks, bring them to stored pixels and measure.

    Parameters
    ----------
    scores
        Shape (len(keys), size, size), 0 to 1.
    keys
        ``lung_right``, ``lung_left``, ``heart``.

    Raises
    ------
    ImageRefused
        ``lungs_not_found`` when there is no plausible pair of lungs.
    """
    cleaned = {key: clean(scores[i]) for i, key in enumerate(keys)}
    check_lungs(cleaned["lung_right"], cleaned["lung_left"])
    heart_holds = float((cleaned["heart"] >= 0.5).mean()) >= _SMALLEST_HEART
    segments = tuple(
        SegmentMask(key, frame.mask_to_stored(field), model)
        for key, field in cleaned.items()
        if key != "heart" or heart_holds
    )
    masks = {s.key: s.mask for s in segments}
    ratio = (
        cardiothoracic_ratio(masks["lung_right"], masks["lung_left"], masks["heart"], view, model)
        if heart_holds
        else None
    )
    return segments, (ratio,) if ratio else ()


def clean(scores: FloatArray) -> FloatArray:
    """Keep the largest part and fill its holes; scores elsewhere become 0, in filled holes 1."""
    parts, count = ndimage.label(scores >= 0.5)
    if count == 0:
        return np.zeros_like(scores)
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    holes = ndimage.binary_fill_holes(largest) & ~largest
    # a rim of lower scores is kept, so that the outline falls between pixels where the network put it
    kept = np.where(ndimage.binary_dilation(largest, iterations=2), scores, 0.0)
    kept[(parts > 0) & ~largest] = 0.0
    kept[holes] = 1.0
    return kept.astype(np.float32)


def check_lungs(right: FloatArray, left: FloatArray) -> None:
    """Refuse a picture without a plausible pair of lungs: size, symmetry, sides, height and certainty.

    Raises
    ------
    ImageRefused
        ``lungs_not_found``.
    """
    masks = right >= 0.5, left >= 0.5
    areas = [float(mask.mean()) for mask in masks]
    problem = None
    if min(areas) < _SMALLEST_LUNG or max(areas) > _LARGEST_LUNG:
        problem = "their size"
    elif max(areas) > _MOST_UNEQUAL * min(areas):
        problem = "their inequality"
    else:
        (right_row, right_column), (left_row, left_column) = (ndimage.center_of_mass(mask) for mask in masks)
        apart, aslant = left_column - right_column, abs(left_row - right_row)
        if apart < 0.12 * right.shape[1] or aslant > 0.8 * apart:
            problem = "their position"
        elif min(float(score[mask].mean()) for score, mask in zip((right, left), masks, strict=True)) < _LEAST_CERTAIN:
            problem = "their faintness"
    if problem:
        raise ImageRefused(
            Refusal.LUNGS_NOT_FOUND, f"no two lungs of a frontal chest radiograph: {problem} is implausible"
        )


def cardiothoracic_ratio(
    right: BoolMask, left: BoolMask, heart: BoolMask, view: View, model: str
) -> Measurement | None:
    """Largest transverse diameter of the heart over that of the thorax, inside the ribs (Danzer, 1919).

    None when the outlines allow no sensible ratio, for example when a lung is cut off.
    """
    cardiac = _widest_row(heart, heart)
    thoracic = _widest_row(right, left)
    if cardiac is None or thoracic is None:
        return None
    ratio = (cardiac.x1 - cardiac.x0) / (thoracic.x1 - thoracic.x0)
    if not 0.2 < ratio < 0.95:
        return None
    caution = {View.AP: "ap_view", View.FRONTAL: "view_unknown"}.get(view)
    return Measurement("cardiothoracic_ratio", ratio, "1", model, (cardiac, thoracic), caution)


def _widest_row(starts: BoolMask, ends: BoolMask) -> Line | None:
    """The longest horizontal line from the first pixel of one mask to the last of the other."""
    rows = np.flatnonzero(starts.any(axis=1) & ends.any(axis=1))
    if rows.size == 0:
        return None
    first = np.argmax(starts[rows], axis=1)
    last = ends.shape[1] - np.argmax(ends[rows, ::-1], axis=1)
    best = int(np.argmax(last - first))
    y = float(rows[best]) + 0.5
    return Line(float(first[best]), y, float(last[best]), y)

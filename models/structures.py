"""From the outputs of ``lung_fields`` to segments, the cardiothoracic ratio, and whether there is a chest at all.

The rule: right and left are the patient's; on a frontal radiograph hung normally the patient's right is on the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from models.findings import BoolMask, Caution, Line, Measurement, SegmentMask, View
from models.plausibility import Plausibility, describe
from models.refusal import ImageRefused, Refusal
from models.rendering import Frame, on_grid

FloatArray = npt.NDArray[np.float32]

# Two lungs at all, as shares of the network's picture: bounds lie outside everything seen in the training data.
_SMALLEST_LUNG, _LARGEST_LUNG = 0.012, 0.42
_MOST_UNEQUAL = 8.0  # area of the larger lung over that of the smaller
_LEAST_CERTAIN = 0.80  # mean score inside the outline
_SMALLEST_HEART = 0.01
_RIM = 2  # pixels of the network's picture


def interpret(
    scores: FloatArray,
    frame: Frame,
    keys: Sequence[str],
    view: View,
    model: str,
    *,
    picture: FloatArray | None = None,
    plausibility: Plausibility | None = None,
) -> tuple[tuple[SegmentMask, ...], tuple[Measurement, ...]]:
    """Clean the masks, bring them to stored pixels and measure.

    Parameters
    ----------
    scores
        Shape (len(keys), size, size), 0 to 1.
    keys
        ``lung_right``, ``lung_left``, ``heart``.
    picture, plausibility
        What the network saw, and what its outlines are compared with; without them only size and place are checked.

    Raises
    ------
    ImageRefused
        ``lungs_not_found`` when there is no plausible pair of lungs.
    """
    cleaned = {key: clean(scores[i]) for i, key in enumerate(keys)}
    right, left, heart = (cleaned[key] for key in ("lung_right", "lung_left", "heart"))
    check_lungs(right, left)
    if picture is not None and plausibility is not None:
        check_likeness(picture, right, left, plausibility)
    heart_holds = _heart_holds(right, left, heart)
    segments = tuple(
        SegmentMask(key, frame.mask_to_stored(field), model)
        for key, field in cleaned.items()
        if key != "heart" or heart_holds
    )
    if not heart_holds:
        return segments, ()
    # measured as the image hangs, at the size of the stored pixels; the lines lead back to them
    hung = {s.key: frame.hanging.apply(s.mask) for s in segments}
    ratio = cardiothoracic_ratio(hung["lung_right"], hung["lung_left"], hung["heart"], view, model)
    if ratio is None:
        return segments, ()
    return segments, (replace(ratio, lines=tuple(_line_to_stored(line, frame) for line in ratio.lines)),)


def clean(scores: FloatArray) -> FloatArray:
    """Keep the largest part and fill its holes; scores elsewhere become 0, in filled holes 1."""
    parts, count = ndimage.label(scores >= 0.5)
    cleaned = np.zeros(scores.shape, np.float32)
    if count == 0:
        return cleaned
    number = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    # a rim of lower scores is kept, so that the outline falls between pixels where the network put it
    rows, columns = ndimage.find_objects(parts)[number - 1]
    around = tuple(slice(max(0, each.start - _RIM), each.stop + _RIM) for each in (rows, columns))
    parts, largest = parts[around], parts[around] == number
    holes = ndimage.binary_fill_holes(largest) & ~largest
    kept = np.where(ndimage.binary_dilation(largest, iterations=_RIM), scores[around], 0.0)
    kept[(parts > 0) & ~largest] = 0.0
    kept[holes] = 1.0
    cleaned[around] = kept
    return cleaned


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


def check_likeness(picture: FloatArray, right: FloatArray, left: FloatArray, plausibility: Plausibility) -> None:
    """Refuse outlines that are unlike those of the chests that the model was made from.

    Raises
    ------
    ImageRefused
        ``lungs_not_found``.
    """
    features = describe(picture, right, left)
    distance = plausibility.distance(features)
    if distance > plausibility.limit:
        raise ImageRefused(
            Refusal.LUNGS_NOT_FOUND,
            f"the outlines are unlike lungs of a frontal chest radiograph (distance {distance:.1f}, limit "
            f"{plausibility.limit:.1f}), most by their {plausibility.oddest(features)}",
        )


def cardiothoracic_ratio(
    right: BoolMask, left: BoolMask, heart: BoolMask, view: View, model: str
) -> Measurement | None:
    """Transverse diameter of the heart over the widest inner diameter of the thorax (Danzer, 1919).

    The heart is measured between its outermost points on either side, which may lie at different heights; only the
    lower half of its outline counts, for the upper half is great vessels.

    Returns
    -------
    Measurement or None
        None when the outlines allow no sensible ratio, for example because a lung is cut off by the picture's edge.
    """
    cardiac, thoracic = _transverse(heart), _widest_row(right, left)
    if cardiac is None or thoracic is None or thoracic.x0 <= 0 or thoracic.x1 >= right.shape[1]:
        return None
    ratio = round((cardiac.x1 - cardiac.x0) / (thoracic.x1 - thoracic.x0), 6)
    if not 0.2 < ratio < 0.95:
        return None
    caution = {View.AP: Caution.AP_VIEW, View.FRONTAL: Caution.VIEW_UNKNOWN}.get(view)
    return Measurement("cardiothoracic_ratio", ratio, "1", model, (cardiac, thoracic), caution)


def _line_to_stored(line: Line, frame: Frame) -> Line:
    start = frame.hanging.point_to_stored(line.x0, line.y0, frame.rows, frame.columns)
    end = frame.hanging.point_to_stored(line.x1, line.y1, frame.rows, frame.columns)
    return Line(*(on_grid(value) for value in (*start, *end)))


def _heart_holds(right: FloatArray, left: FloatArray, heart: FloatArray) -> bool:
    """Whether the outline of the heart is large and certain enough and lies between the lungs."""
    mask = heart >= 0.5
    if float(mask.mean()) < _SMALLEST_HEART or float(heart[mask].mean()) < _LEAST_CERTAIN:
        return False
    first, middle, last = (ndimage.center_of_mass(field >= 0.5)[1] for field in (right, heart, left))
    return bool(first < middle < last)


def _transverse(heart: BoolMask) -> Line | None:
    """The horizontal extent of the lower half of a mask, drawn half-way between its two outermost points."""
    rows = np.flatnonzero(heart.any(axis=1))
    if rows.size == 0:
        return None
    middle = int(rows[0] + rows[-1] + 1) // 2
    lower = heart[middle:]
    columns = np.flatnonzero(lower.any(axis=0))
    if columns.size == 0:
        return None
    heights = [float(np.flatnonzero(lower[:, column]).mean()) for column in (columns[0], columns[-1])]
    y = middle + sum(heights) / 2 + 0.5
    return Line(float(columns[0]), y, float(columns[-1]) + 1.0, y)


def _widest_row(starts: BoolMask, ends: BoolMask) -> Line | None:
    """The longest horizontal line from the first pixel of one mask to the last of the other."""
    both: BoolMask = np.logical_and(starts.any(axis=1), ends.any(axis=1))
    if not both.any():
        return None
    # looked for where the masks are: they are the size of the stored image
    rows, left, right = _extent(both), _extent(starts.any(axis=0)), _extent(ends.any(axis=0))
    first = left.start + np.argmax(starts[rows, left], axis=1)
    last = right.stop - np.argmax(ends[rows, right][:, ::-1], axis=1)
    best = int(np.argmax(np.where(both[rows], last - first, -ends.shape[1])))
    y = float(rows.start + best) + 0.5
    return Line(float(first[best]), y, float(last[best]), y)


def _extent(line: npt.ArrayLike) -> slice:
    """From the first to the last place that is set; one is."""
    places = np.flatnonzero(line)
    return slice(int(places[0]), int(places[-1]) + 1)

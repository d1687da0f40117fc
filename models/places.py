"""Where something lies that was found in a network's picture: its box in stored pixels, and the side of the patient.

The rule: the lungs decide on the side; where they were not outlined, the middle of the image does. Right and left are
the patient's: on a frontal radiograph hung normally the patient's right is on the left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from models.findings import BoolMask, Laterality, Region, SegmentMask
from models.rendering import Frame, on_grid

_LUNGS, _SIDES = ("lung_right", "lung_left"), (Laterality.RIGHT, Laterality.LEFT)
# What reaches less of itself than this onto the other side only touches it.
_TOUCHES = 0.1
# A box of which less than this lies on a lung is dropped.
_LEAST_KEPT = 0.1


def midline(segments: Sequence[SegmentMask], frame: Frame) -> float:
    """Column of the network's picture half-way between the two lungs, or the middle of the image.

    Parameters
    ----------
    segments
        Of which ``lung_right`` and ``lung_left`` are used; in stored pixels.
    """
    masks: dict[str, BoolMask] = {s.key: frame.hanging.apply(s.mask) for s in segments if s.key in _LUNGS}
    if len(masks) == len(_LUNGS):
        centres = [float(np.flatnonzero(masks[key].any(axis=0)).mean()) for key in _LUNGS]
        return frame.left + (sum(centres) / 2 + 0.5) * frame.width / int(masks["lung_right"].shape[1])
    return frame.left + frame.width / 2


def region_of(
    box: tuple[float, float, float, float], frame: Frame, score: float, middle: float | None
) -> Region | None:
    """A box (x, y, width, height) of the network's picture as a region of the stored image.

    Parameters
    ----------
    score
        Of the region, 0 to 1.
    middle
        From `midline`; None for what has no side.

    Returns
    -------
    Region or None
        None when nothing of it lies within the image.
    """
    left, top, width, height = frame.box_to_stored(*box)
    right, bottom, left, top = on_grid(left + width), on_grid(top + height), on_grid(left), on_grid(top)
    if right <= left or bottom <= top:
        return None
    side = None
    if middle is not None:
        side = Laterality.RIGHT if box[0] + box[2] / 2 < middle else Laterality.LEFT
    return Region(left, top, right - left, bottom - top, round(score, 6), side)


def cut_to_lungs(region: Region, lungs: Sequence[SegmentMask]) -> Region | None:
    """What of a box lies within the extent of the lung that holds most of it, on the side of that lung.

    RSNA's readers drew opacities within the lungs; a coarse map reaches beyond them.

    Parameters
    ----------
    lungs
        Segments of which ``lung_right`` and ``lung_left`` are used; where one is missing, nothing is cut.

    Returns
    -------
    Region or None
        None when hardly any of it lies on either lung.
    """
    masks = {segment.key: segment.mask for segment in lungs if segment.key in _LUNGS and segment.mask.any()}
    if len(masks) < len(_LUNGS):
        return region
    cut = [_common(region, masks[key], side) for key, side in zip(_LUNGS, _SIDES, strict=True)]
    best = max(cut, key=lambda part: part.width * part.height)
    return best if best.width * best.height >= _LEAST_KEPT * region.width * region.height else None


def _common(region: Region, lung: BoolMask, side: Laterality) -> Region:
    """The part of a box within the extent of a lung; without an area where they do not meet."""
    rows, columns = np.flatnonzero(lung.any(axis=1)), np.flatnonzero(lung.any(axis=0))
    left, top = max(region.x, float(columns[0])), max(region.y, float(rows[0]))
    right = min(region.x + region.width, float(columns[-1] + 1))
    bottom = min(region.y + region.height, float(rows[-1] + 1))
    return replace(
        region, x=left, y=top, width=max(0.0, right - left), height=max(0.0, bottom - top),
        laterality=region.laterality and side,
    )  # fmt: skip


def side_of_mask(mask: BoolMask, middle: float) -> Laterality | None:
    """The side of an outline in the network's picture; both where a tenth of it lies on either; None when empty."""
    columns = mask.sum(axis=0)
    total, right = int(columns.sum()), int(columns[np.arange(len(columns)) + 0.5 < middle].sum())
    areas = {Laterality.RIGHT: right, Laterality.LEFT: total - right}
    return together(side for side, area in areas.items() if total and area >= _TOUCHES * total)


def together(sides: Iterable[Laterality | None]) -> Laterality | None:
    """The side of several things; None when there is nothing, or one of them has none."""
    found = set(sides)
    if not found or None in found:
        return None
    return found.pop() if len(found) == 1 else Laterality.BILATERAL

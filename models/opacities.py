"""Where opacities lie on the lungs and how round they are, from boxes or a mask and the outlines of the lungs.

The rule: everything is measured on the image as it hangs, so that lower is lower and the outer border is the chest
wall's; right and left are the patient's. An opacity never belongs to two lungs: what lies on both is two opacities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from models.findings import BoolMask, Laterality, Region, SegmentMask
from models.hanging import AS_STORED, Hanging

# Geometry is measured on a grid with at most this many cells along the longer side.
_GRID = 512
# Parts of a mask below this share of both lung fields are specks, not opacities.
_SMALLEST = 0.005
# What reaches less of itself than this onto the other lung only touches it.
_TOUCHES = 0.1


@dataclass(frozen=True, eq=False)
class LungFields:
    """Both lungs of one radiograph on the grid; use `lung_fields`.

    Parameters
    ----------
    right, left
        Shape (rows, columns) of the grid, as the image hangs; neither is empty.
    step
        Stored pixels along the side of a cell.
    hanging
        From the stored image to the hung one.
    aspect
        Height of a hung pixel over its width.
    """

    right: BoolMask
    left: BoolMask
    step: int = 1
    hanging: Hanging = AS_STORED
    aspect: float = 1.0

    def of(self, side: Laterality) -> BoolMask:
        """The lung of one side."""
        return self.right if side is Laterality.RIGHT else self.left

    @property
    def area(self) -> int:
        """Of both, in cells."""
        return int((self.right | self.left).sum())

    @property
    def middle(self) -> float:
        """Row half-way down from the higher apex to the lower base.

        Both lungs share it: the outline of a lung whose base is opaque ends too high.
        """
        rows = np.flatnonzero((self.right | self.left).any(axis=1))
        return float(rows[0] + rows[-1] + 1) / 2


@dataclass(frozen=True)
class Opacity:
    """One opacity on one lung.

    Parameters
    ----------
    side
        Of the patient.
    area
        Cells of the grid.
    of_lung
        Area over that of the lung field, 0 to 1.
    lower
        Share of the area that lies in the lower half of the lungs by height, 0 to 1.
    from_wall
        Distance of its centre from the outer border of the lung over the width of the lung at that height: 0 at the
        chest wall, 1 at the mediastinum.
    roundness
        1 for a disc, 2 ab / (a^2 + b^2) for an ellipse with the axes a and b (Zunic, Hirota and Rosin, Pattern
        Recognition 2010); of a box, that of the ellipse within.
    outlined
        Whether the roundness is that of an outline; a box tells only how elongated the opacity is.
    """

    side: Laterality
    area: int
    of_lung: float
    lower: float
    from_wall: float
    roundness: float
    outlined: bool


def lung_fields(
    segments: Iterable[SegmentMask], hanging: Hanging = AS_STORED, aspect: float = 1.0
) -> LungFields | None:
    """Both lungs from the segments of an image; None when one of them is missing or empty.

    Parameters
    ----------
    segments
        Of which ``lung_right`` and ``lung_left`` are used; in stored pixels.
    aspect
        Height of a stored pixel over its width.
    """
    masks = {segment.key: segment.mask for segment in segments}
    right, left = masks.get("lung_right"), masks.get("lung_left")
    if right is None or left is None:
        return None
    step = max(1, -(-max(right.shape) // _GRID))
    hung = [np.ascontiguousarray(hanging.apply(mask[::step, ::step])) for mask in (right, left)]
    if not all(mask.any() for mask in hung):
        return None
    return LungFields(hung[0], hung[1], step, hanging, 1 / aspect if hanging.transpose else aspect)


def measure(lungs: LungFields, regions: Sequence[Region] = (), mask: BoolMask | None = None) -> tuple[Opacity, ...]:
    """Measure each opacity, in the order in which they are given.

    Parameters
    ----------
    regions
        Boxes in stored pixels; each is one opacity.
    mask
        Shape (rows, columns) of the stored image; each connected part is one opacity. Where it holds any, the boxes
        are not used.
    """
    found = list(_outlined(lungs, mask)) if mask is not None else []
    return tuple(found or (opacity for region in regions for opacity in _boxed(lungs, region)))


def _outlined(lungs: LungFields, mask: BoolMask) -> Iterator[Opacity]:
    hung = lungs.hanging.apply(mask[:: lungs.step, :: lungs.step])
    parts, count = ndimage.label(hung)
    for number in range(1, count + 1):
        focus = parts == number
        if focus.sum() >= _SMALLEST * lungs.area:
            on_lungs = _on_lungs(lungs, focus)
            for side, part in on_lungs:
                shape = focus if len(on_lungs) == 1 else part
                yield _opacity(lungs, side, part, _roundness(shape, lungs.aspect), outlined=True)


def _boxed(lungs: LungFields, region: Region) -> Iterator[Opacity]:
    rows, columns = lungs.hanging.undo(lungs.right).shape
    y, x = ((np.arange(cells) + 0.5) * lungs.step for cells in (rows, columns))
    down = (y >= region.y) & (y < region.y + region.height)
    across = (x >= region.x) & (x < region.x + region.width)
    # a box narrower than a cell may hold the centre of none
    down[min(int((region.y + region.height / 2) / lungs.step), rows - 1)] = True
    across[min(int((region.x + region.width / 2) / lungs.step), columns - 1)] = True
    focus = lungs.hanging.apply(down[:, None] & across[None, :])
    tall, wide = (region.width, region.height) if lungs.hanging.transpose else (region.height, region.width)
    tall *= lungs.aspect
    for side, part in _on_lungs(lungs, focus):
        yield _opacity(lungs, side, part, 2 * tall * wide / (tall**2 + wide**2), outlined=False)


def _on_lungs(lungs: LungFields, focus: BoolMask) -> list[tuple[Laterality, BoolMask]]:
    """The parts of a focus on either lung; one that lies on neither belongs whole to the side on which its centre is.

    The outline of a lung may end above an opaque base, so that a focus outside it is not dropped.
    """
    sides = (Laterality.RIGHT, Laterality.LEFT)
    parts = [(side, focus & lungs.of(side)) for side in sides]
    inside = sum(int(part.sum()) for _, part in parts)
    if inside:
        return [(side, part) for side, part in parts if part.sum() > _TOUCHES * inside]
    midline = sum(float(np.flatnonzero(lungs.of(side).any(axis=0)).mean()) for side in sides) / 2
    column = float(np.flatnonzero(focus.any(axis=0)).mean())
    return [(Laterality.RIGHT if column < midline else Laterality.LEFT, focus)]


def _opacity(lungs: LungFields, side: Laterality, part: BoolMask, roundness: float, *, outlined: bool) -> Opacity:
    lung, area = lungs.of(side), int(part.sum())
    rows, columns = np.nonzero(part)
    on_rows = np.flatnonzero(lung.any(axis=1))
    at = on_rows[np.argmin(np.abs(on_rows - rows.mean()))]
    across = np.flatnonzero(lung[at])
    first, last = float(across[0]), float(across[-1] + 1)
    inward = (float(columns.mean()) + 0.5 - first) / (last - first)
    return Opacity(
        side=side,
        area=area,
        of_lung=float((part & lung).sum() / lung.sum()),
        lower=float((rows + 0.5 > lungs.middle).mean()),
        from_wall=min(max(inward if side is Laterality.RIGHT else 1 - inward, 0.0), 1.0),
        roundness=min(roundness, 1.0),
        outlined=outlined,
    )


def _roundness(shape: BoolMask, aspect: float) -> float:
    """Area squared over 2 pi times its polar moment; a cell's own extent counts, so that nothing exceeds a disc."""
    rows, columns = np.nonzero(shape)
    tall = aspect**2 * (float(rows.var()) + 1 / 12)
    return float(rows.size * aspect / (2 * np.pi * (tall + float(columns.var()) + 1 / 12)))

"""What limits a radiograph that can be read: parts out of sight, too little light, too much of it.

The rule: a caution never refuses. It says what the reader would see at a glance, so that the answer is not trusted
further than the picture goes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.findings import BoolMask, Caution, SegmentMask
from models.rendering import RenderedImage

FloatImage = npt.NDArray[np.float32]

# Everything is measured on at most this many rows and columns.
_SAMPLES = 256
# A row or column of the picture whose gray values spread by less lies behind the collimator, or outside the patient.
_FLAT = 0.012
# Share of the picture that the collimated field leaves, below which that is said.
_SMALL_FIELD = 0.6
# Length of the contact between a lung and the edge of the field, as a share of the field's side.
_CONTACT = 0.06
# So near to the edge, as a share of the side, counts as contact.
_NEAR = 0.03
# Share of the lungs' and mediastinum's pixels at the very ends of the gray scale.
_CLIPPED = 0.25
_END = 0.004
# Spread of gray values (10th to 90th percentile) between lungs and what lies between them.
_LOW_CONTRAST = 0.12


def assess(image: RenderedImage, segments: Sequence[SegmentMask]) -> tuple[Caution, ...]:
    """Cautions about a radiograph on which lungs were found.

    Parameters
    ----------
    segments
        Lungs of the same image, in stored pixels; without them only the field is judged.

    Returns
    -------
    tuple of Caution
        ``COLLIMATED``, ``LUNGS_CUT_OFF``, ``CLIPPED_GRAYS``, ``LOW_CONTRAST``.
    """
    within = max(1, max(image.pixels.shape) // _SAMPLES)
    step = within * image.factor
    pixels = image.pixels[::within, ::within]
    field = _field(pixels, None if image.valid is None else image.valid[::within, ::within])
    rows, columns = field
    cautions: list[Caution] = []
    if (rows.stop - rows.start) * (columns.stop - columns.start) < _SMALL_FIELD * pixels.size:
        cautions.append(Caution.COLLIMATED)
    lungs = [s.mask[::step, ::step][field] for s in segments if s.key in ("lung_right", "lung_left")]
    if not lungs:
        return tuple(cautions)
    both: BoolMask = np.logical_or.reduce(lungs)
    if _touches_edge(both):
        cautions.append(Caution.LUNGS_CUT_OFF)
    cautions += _exposure(pixels[field], both)
    return tuple(cautions)


def _field(pixels: FloatImage, valid: BoolMask | None) -> tuple[slice, slice]:
    """Rows and columns in which there is a picture: what is left without flat borders and padding."""
    spread = [np.percentile(pixels, 95, axis=axis) - np.percentile(pixels, 5, axis=axis) for axis in (1, 0)]
    seen = [values > _FLAT for values in spread]
    if valid is not None:
        seen = [s & valid.any(axis=axis) for s, axis in zip(seen, (1, 0), strict=True)]
    bounds = []
    for line in seen:
        places = np.flatnonzero(line)
        bounds.append(slice(int(places[0]), int(places[-1]) + 1) if places.size else slice(0, line.size))
    return bounds[0], bounds[1]


def _touches_edge(lungs: BoolMask) -> bool:
    """Whether a lung comes close to an edge along some length: outlines stop a little short of where they are cut."""
    height, width = lungs.shape
    down, across = max(1, round(_NEAR * height)), max(1, round(_NEAR * width))
    contacts = [
        *(band.any(0).sum() / width for band in (lungs[:down], lungs[-down:])),
        *(band.any(1).sum() / height for band in (lungs[:, :across], lungs[:, -across:])),
    ]
    return bool(max(contacts) > _CONTACT)


def _exposure(pixels: FloatImage, lungs: BoolMask) -> list[Caution]:
    """Judge the gray values of the box around the lungs: lungs, heart and spine."""
    rows, columns = np.flatnonzero(lungs.any(1)), np.flatnonzero(lungs.any(0))
    if rows.size == 0:
        return []
    box = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if float(((box <= _END) | (box >= 1 - _END)).mean()) > _CLIPPED:
        return [Caution.CLIPPED_GRAYS]
    low, high = np.percentile(box, (10, 90))
    return [Caution.LOW_CONTRAST] if high - low < _LOW_CONTRAST else []

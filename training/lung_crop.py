"""Where the lungs are on a radiograph, for inputs that are cut to them or show nothing else.

The rule: the outlines are those of the bundle ``lung_fields`` as the node finds them, never drawn ones; where it finds
no plausible lungs the whole picture is used, for these are often the sickest.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from models.bundle import load_bundle
from models.findings import BoolMask, SegmentMask
from models.refusal import ImageRefused
from models.rendering import Frame, RenderedImage, network_input
from models.resampling import FloatImage, resize
from models.structures import check_lungs, clean

_LUNGS = ("lung_right", "lung_left")
COMMITTED = Path(__file__).resolve().parent.parent / "models" / "lung_fields"


class LungFinder:
    """Outlines lungs by a bundle with the segments ``lung_right`` and ``lung_left``."""

    def __init__(self, bundle: Path = COMMITTED) -> None:
        loaded = load_bundle(bundle)
        assert loaded.network is not None  # noqa: S101  (a bundle of criteria outlines nothing)
        self._network, self._contract = loaded.network, loaded.contract
        self.digest = loaded.identity.weights_digest

    def find(self, image: RenderedImage) -> BoolMask | None:
        """Both lungs in one, shape (rows, columns) of the stored image; None where no two plausible ones are found."""
        outlines, frame = self._ask(image)
        return frame.mask_to_stored(np.maximum(*(outlines[key] for key in _LUNGS))) if outlines else None

    def segments(self, image: RenderedImage) -> tuple[SegmentMask, ...]:
        """Right and left lung as the node has them; none where no two plausible ones are found."""
        outlines, frame = self._ask(image)
        return tuple(SegmentMask(key, frame.mask_to_stored(outlines[key]), "") for key in _LUNGS if outlines)

    def aired(self, image: RenderedImage, size: int) -> tuple[BoolMask, ...]:
        """The patient's right and left lung without the heart before them, on the picture of a network of input `size`.

        Empty where no two plausible lungs are found.
        """
        outlines, _ = self._ask(image)
        if not outlines:
            return ()
        heart, *lungs = (resize(outlines[key], size, size) >= 0.5 for key in ("heart", *_LUNGS))
        return tuple(lung & ~heart for lung in lungs)

    def _ask(self, image: RenderedImage) -> tuple[dict[str, FloatImage], Frame]:
        """Cleaned scores by segment, none where no two plausible lungs are found."""
        picture, frame = network_input(image, self._contract.input_size)
        with torch.inference_mode():
            scores = torch.sigmoid(self._network(torch.from_numpy(picture)[None, None]))[0].numpy()
        outlines = {
            key: clean(one).astype(np.float32) for key, one in zip(self._contract.segments, scores, strict=True)
        }
        try:
            check_lungs(*(outlines[key] for key in _LUNGS))
        except ImageRefused:
            return {}, frame
        return outlines, frame


def lung_box(lungs: BoolMask, margin: float) -> tuple[int, int, int, int]:
    """Columns and rows (x0, y0, x1, y1) around a mask, ends excluded, wider by `margin` of its size on each side."""
    rows, columns = np.flatnonzero(lungs.any(1)), np.flatnonzero(lungs.any(0))
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    down, across = round(margin * (y1 - y0)), round(margin * (x1 - x0))
    height, width = lungs.shape
    return max(0, x0 - across), max(0, y0 - down), min(width, x1 + across), min(height, y1 + down)


def cut(image: RenderedImage, box: tuple[int, int, int, int]) -> RenderedImage:
    """The part of a radiograph within a box (x0, y0, x1, y1) of stored pixels."""
    x0, y0, x1, y1 = box
    factor = image.factor
    part = slice(y0 // factor, -(-y1 // factor)), slice(x0 // factor, -(-x1 // factor))
    valid = None if image.valid is None else image.valid[part]
    return replace(image, pixels=np.ascontiguousarray(image.pixels[part]), valid=valid, stored=(y1 - y0, x1 - x0))

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
from models.findings import BoolMask
from models.refusal import ImageRefused
from models.rendering import RenderedImage, network_input
from models.structures import check_lungs, clean

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
        contract = self._contract
        picture, frame = network_input(image, contract.input_size)
        with torch.inference_mode():
            scores = torch.sigmoid(self._network(torch.from_numpy(picture)[None, None]))[0].numpy()
        right, left = (clean(scores[contract.segments.index(key)]) for key in ("lung_right", "lung_left"))
        try:
            check_lungs(right, left)
        except ImageRefused:
            return None
        return frame.mask_to_stored(np.maximum(right, left))


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
    valid = None if image.valid is None else image.valid[y0:y1, x0:x1]
    return replace(image, pixels=np.ascontiguousarray(image.pixels[y0:y1, x0:x1]), valid=valid)

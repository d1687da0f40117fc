"""Cautions about the picture: said where they apply, silent where they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.findings import SegmentMask
from models.phantom import chest
from models.quality import assess
from models.rendering import RenderedImage

PHANTOM = chest(1, rows=600, columns=600)


def assessed(pixels: Any, rows: slice = slice(None), columns: slice = slice(None)) -> tuple[str, ...]:
    segments = [
        SegmentMask(key, np.ascontiguousarray(PHANTOM.masks[key][rows, columns]), "m")
        for key in ("lung_right", "lung_left")
    ]
    return assess(RenderedImage(np.ascontiguousarray(pixels[rows, columns])), segments)


def test_a_whole_well_exposed_chest_has_no_caution() -> None:
    assert assessed(PHANTOM.pixels) == ()


@pytest.mark.parametrize("cut", [(slice(180, None), slice(None)), (slice(None), slice(170, None))], ids=["top", "side"])
def test_a_lung_that_reaches_the_edge_is_cut_off(cut: tuple[slice, slice]) -> None:
    assert "lungs_cut_off" in assessed(PHANTOM.pixels, *cut)


def test_a_lung_that_reaches_the_collimator_is_cut_off_too() -> None:
    shuttered = PHANTOM.pixels.copy()
    shuttered[:, :170] = 0
    assert "lungs_cut_off" in assessed(shuttered)


def test_a_narrow_field_is_said() -> None:
    shuttered = np.zeros((1000, 1000), np.float32)
    shuttered[200:800, 200:800] = PHANTOM.pixels
    segments = [SegmentMask(k, np.pad(PHANTOM.masks[k], 200), "m") for k in ("lung_right", "lung_left")]
    assert assess(RenderedImage(shuttered), segments) == ("collimated",)


def test_grays_at_the_ends_of_the_scale_are_said() -> None:
    assert "clipped_grays" in assessed(np.clip((PHANTOM.pixels - 0.5) * 6 + 0.5, 0, 1).astype(np.float32))


def test_a_flat_picture_is_said() -> None:
    flat = (0.5 + 0.08 * (PHANTOM.pixels - 0.5)).astype(np.float32)
    flat[0, 0], flat[0, 1] = 0, 1
    assert "low_contrast" in assessed(flat)


def test_without_lungs_only_the_field_is_judged() -> None:
    assert assess(RenderedImage(PHANTOM.pixels), []) == ()

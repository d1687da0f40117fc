"""Brings upright pictures into the positions that the pixel gate has to tell."""

from __future__ import annotations

import torch
from torch import Tensor


def turn(picture: Tensor, name: str) -> Tensor:
    """Bring an upright picture (size, size) into the position of a class; chance decides where it has several."""
    lucky = float(torch.rand(())) < 0.5
    if name == "mirrored" or (name in ("child", "lateral", "other") and lucky):
        return picture.flip(-1)
    if name in ("turned_left", "turned_right"):
        return torch.rot90(picture.flip(-1) if lucky else picture, 1 if name == "turned_left" else -1)
    if name == "upside_down":
        return picture.flip(-2) if lucky else torch.rot90(picture, 2)
    if name == "inverted":
        return 1 - (picture.flip(-1) if lucky else picture)
    return picture

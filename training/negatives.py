"""Pictures without an upright frontal chest: what ``lung_fields`` learns to leave empty, so that they are refused.

The rule: nothing here may look like a chest hung as it should; what comes from a chest is turned, inverted,
magnified or cut to pieces. The limbs of ``data/dicom`` are never used, so that they stay a test.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

MADE_FROM_CHESTS = ("turned", "inverted", "pieces", "magnified")
KINDS = (*MADE_FROM_CHESTS, "clouds", "shapes", "limb", "slice", "page")


def spoil(pictures: Tensor) -> Tensor:
    """Make a picture that is not a frontal chest from, or instead of, each chest.

    Parameters
    ----------
    pictures
        Shape (n, 1, size, size), 0 to 1.

    Returns
    -------
    Tensor
        Of the same shape; the kinds are drawn evenly from torch's generator.
    """
    return torch.stack([spoil_as(picture[0], KINDS[int(torch.randint(len(KINDS), ()))])[None] for picture in pictures])


def spoil_as(chest: Tensor, kind: str) -> Tensor:
    """Make one of `KINDS`, shape (size, size), from or instead of a chest of that shape."""
    makers = {
        "turned": lambda: _turned(chest),
        "inverted": lambda: 1 - chest,
        "pieces": lambda: _pieces(chest),
        "magnified": lambda: _magnified(chest),
        "clouds": lambda: _clouds(chest.shape[-1]),
        "shapes": lambda: _shapes(chest.shape[-1]),
        "limb": lambda: _limb(chest.shape[-1]),
        "slice": lambda: _slice(chest.shape[-1]),
        "page": lambda: _page(chest.shape[-1]),
    }
    return makers[kind]().clamp(0, 1)


def _turned(chest: Tensor) -> Tensor:
    """A chest that lies on its side or stands on its head, mirrored or not."""
    turns = int(torch.randint(1, 4, ()))
    return torch.rot90(chest, turns) if _uniform() < 0.7 else chest.flip(-2)


def _pieces(chest: Tensor) -> Tensor:
    """The tiles of a chest in another order."""
    tiles, size = int(torch.randint(2, 6, ())), chest.shape[-1]
    side = -(-size // tiles)
    padded = functional.pad(chest, (0, side * tiles - size, 0, side * tiles - size))
    cut = padded.unfold(0, side, side).unfold(1, side, side).reshape(-1, side, side)
    mixed = cut[torch.randperm(tiles * tiles).roll(1)].reshape(tiles, tiles, side, side)
    return mixed.permute(0, 2, 1, 3).reshape(tiles * side, tiles * side)[:size, :size]


def _magnified(chest: Tensor) -> Tensor:
    """A sixteenth to a tenth of the area of a chest: a shoulder, a part of one lung, the spine."""
    size = chest.shape[-1]
    side = int(size * (0.25 + 0.07 * _uniform()))
    top, left = (int(torch.randint(size - side, ())) for _ in range(2))
    part = chest[None, None, top : top + side, left : left + side]
    return functional.interpolate(part, (size, size), mode="bilinear")[0, 0]


def _clouds(size: int) -> Tensor:
    """Noise of one coarseness, from grains to a slope across the picture."""
    cells = int(2 ** (1 + 7 * _uniform()))
    noise = functional.interpolate(torch.randn(1, 1, cells, cells), (size, size), mode="bicubic")[0, 0]
    return 0.5 + (0.15 + 0.3 * _uniform()) * noise


def _shapes(size: int) -> Tensor:
    """A few soft ellipses and bars on an even ground."""
    picture = torch.full((size, size), _uniform())
    for _ in range(int(torch.randint(1, 7, ()))):
        x, y = _grid(size, angle=math.pi * _uniform(), shift=0.8)
        width, height, power = 0.05 + 0.7 * _uniform(), 0.05 + 0.7 * _uniform(), 2 + 8 * _uniform()
        inside = torch.sigmoid(12 * (1 - ((x / width).abs() ** power + (y / height).abs() ** power)))
        picture = picture + inside * (_uniform() - picture)
    return picture + 0.04 * _uniform() * torch.randn(size, size)


def _limb(size: int) -> Tensor:
    """One or two bones in soft tissue on a dark ground; a joint is where a bone widens."""
    x, y = _grid(size, angle=math.pi * _uniform(), shift=0.4)
    across = (x / (0.35 + 0.6 * _uniform())).clamp(-1, 1)
    tissue = (0.25 + 0.4 * _uniform()) * torch.sqrt(1 - across**2 + 1e-6)
    bones = int(torch.randint(1, 3, ()))
    for i in range(bones):
        centre = (i - (bones - 1) / 2) * (0.25 + 0.2 * _uniform()) + 0.1 * y * _symmetric()
        joint = torch.exp(-(((y - _symmetric()) / 0.3) ** 2))
        radius = (0.08 + 0.12 * _uniform()) * (1 + (0.5 + _uniform()) * joint)
        within = ((x - centre) / radius).clamp(-1, 1)
        shaft = torch.sqrt(1 - within**2 + 1e-6)
        marrow = torch.sqrt((1 - (within / 0.65).clamp(-1, 1) ** 2).clamp(min=0))
        tissue = tissue + (0.3 + 0.4 * _uniform()) * (shaft - 0.45 * marrow * (1 - joint))
    return tissue + 0.02 * torch.randn(size, size)


def _slice(size: int) -> Tensor:
    """An axial section: a bright oval body with two dark fields, a vertebra below the middle and air around."""
    x, y = _grid(size, angle=0.3 * _symmetric(), shift=0.1)
    wide, tall = 0.75 + 0.25 * _uniform(), 0.5 + 0.25 * _uniform()
    picture = _soft_oval(x, y, wide, tall) * (0.55 + 0.25 * _uniform())
    air = 0.05 + 0.2 * _uniform()
    for side in (-1, 1):
        field = _soft_oval(x - side * 0.46 * wide, y, 0.36 * wide, (0.55 + 0.25 * _uniform()) * tall)
        texture = air + 0.15 * functional.interpolate(torch.randn(1, 1, 40, 40), (size, size), mode="bicubic")[0, 0]
        picture = picture + field * (texture - picture)
    return picture + _soft_oval(x, y - 0.62 * tall, 0.12, 0.14) * (0.95 - picture)


def _page(size: int) -> Tensor:
    """Lines of print."""
    rows, columns = 12 + int(torch.randint(30, ())), 30 + int(torch.randint(60, ()))
    ink = (torch.rand(rows, columns) < 0.6).float()
    ink[::2] = 0
    page = functional.interpolate(ink[None, None], (size, size), mode="nearest")[0, 0]
    margin = int(size * 0.15 * _uniform())
    page[:, :margin] = 0
    return 1 - page if _uniform() < 0.7 else page


def _soft_oval(x: Tensor, y: Tensor, width: float, height: float) -> Tensor:
    return torch.sigmoid(25 * (1 - ((x / width) ** 2 + (y / height) ** 2)))


def _grid(size: int, *, angle: float, shift: float) -> tuple[Tensor, Tensor]:
    """Coordinates from -1 to 1, turned and moved."""
    axis = torch.linspace(-1, 1, size)
    x, y = axis[None, :] - shift * _symmetric(), axis[:, None] - shift * _symmetric()
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


def _uniform() -> float:
    return float(torch.rand(()))


def _symmetric() -> float:
    return 2 * _uniform() - 1

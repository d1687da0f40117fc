"""Outlines by EfficientNet-Lite0 and a light way back up (Ronneberger et al., U-Net, MICCAI 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.efficientnet_lite import EfficientNetLite


class LiteUNet(nn.Module):
    """Logits of outlines at a quarter of the side, enlarged.

    Parameters
    ----------
    outputs
        Structures to outline.
    width
        Channels at the finest step; twice and thrice as many below.
    """

    def __init__(self, outputs: int = 1, width: int = 32) -> None:
        super().__init__()
        self.trunk = EfficientNetLite()
        trunk = self.trunk
        self.bottom = nn.Conv2d(trunk.TOP, 4 * width, 1)
        self.middle = _Up(4 * width, trunk.MIDDLE, 3 * width)
        self.low = _Up(3 * width, trunk.LOW, 2 * width)
        self.fine = _Up(2 * width, trunk.FINE, width)
        self.outlines = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """From (n, 1, h, w), 0 to 1, sides multiples of 32, to ``masks`` (n, outputs, h, w)."""
        fine = self.trunk.fine(x)
        logits = self.learn(fine, self.trunk.coarser(fine))
        return {"masks": functional.interpolate(logits, size=tuple(x.shape[-2:]), mode="bilinear")}

    def learn(self, fine: Tensor, low: Tensor) -> Tensor:
        """For training, from what the trunk's ``fine`` and ``coarser`` give: logits (n, outputs, h / 4, w / 4)."""
        middle, top = self.trunk.high(low)
        x = functional.relu(self.bottom(top))
        for up, side in ((self.middle, middle), (self.low, low), (self.fine, fine)):
            x = up(x, side)
        outlines: Tensor = self.outlines(x)
        return outlines


class _Up(nn.Module):
    """Twice the side, and what the way down saw there."""

    def __init__(self, inside: int, side: int, outside: int) -> None:
        super().__init__()
        self.join = nn.Conv2d(inside + side, outside, 1)
        self.look = nn.Conv2d(outside, outside, 3, padding=1)

    def forward(self, x: Tensor, side: Tensor) -> Tensor:
        x = functional.interpolate(x, size=tuple(side.shape[-2:]), mode="bilinear")
        x = functional.relu(self.join(torch.cat((x, side), 1)))
        return functional.relu(self.look(x) + x)

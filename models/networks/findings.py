"""Findings of one radiograph, and opacities, each with the map that decided."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.efficientnet_lite import EfficientNetLite

_SPREAD, _REACH = 1.0, 3  # of a Gaussian over a map, in cells


class FindingsNet(nn.Module):
    """One trunk and one map for each finding.

    The logit of a finding is the mean of its map, so that the map shows what decided (class activation map, Zhou et
    al., CVPR 2016).
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.trunk = EfficientNetLite()
        self.findings = nn.Conv2d(self.trunk.MIDDLE + self.trunk.TOP, outputs, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """From (n, 1, h, w), 0 to 1, to ``logits`` (n, outputs) and ``maps`` (n, outputs, h / 16, w / 16)."""
        return self.after(self.trunk.low(x))

    def after(self, low: Tensor) -> dict[str, Tensor]:
        """The same from what ``trunk.low`` gives."""
        middle, top = self.trunk.high(low)
        maps = self.findings(torch.cat((middle, _enlarged(top)), 1))
        return {"logits": maps.mean((2, 3)), "maps": maps}


class OpacityNet(nn.Module):
    """One trunk and a head that marks lung opacities.

    Parameters
    ----------
    cells
        Of the side of a map: a 16th of the picture's.
    """

    PROBABILITIES = ("maps",)  # the other outputs are logits

    def __init__(self, cells: int = 20, hidden: int = 64) -> None:
        super().__init__()
        self.trunk = EfficientNetLite()
        self.reduce = nn.Conv2d(self.trunk.TOP, 2 * hidden, 1)
        self.opacity = OpacityHead(self.trunk.MIDDLE + 2 * hidden, hidden, cells)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """From (n, 1, h, w), 0 to 1, to ``logits`` (n, 1) and ``maps`` (n, 1, h / 16, w / 16), shares of each cell."""
        return self.after(self.trunk.low(x))

    def after(self, low: Tensor) -> dict[str, Tensor]:
        """The same from what ``trunk.low`` gives."""
        middle, top = self.trunk.high(low)
        logit, heat = self.opacity(torch.cat((middle, _enlarged(functional.relu6(self.reduce(top)))), 1))
        return {"logits": logit[:, None], "maps": shares(heat)[:, None]}


def shares(heat: Tensor) -> Tensor:
    """How much of each cell is opaque: a map of `OpacityHead`, (n, h, w), as 0 to 1, each cell with its neighbours.

    One cell alone is often an edge or a rib; the middle of what is hot all around is what lies in an opacity.
    """
    weights = torch.exp(-(torch.arange(-_REACH, _REACH + 1, device=heat.device) ** 2) / (2 * _SPREAD**2))
    kernel = (weights[:, None] * weights)[None, None] / weights.sum() ** 2
    padded = functional.pad(heat.sigmoid()[:, None], (_REACH,) * 4, mode="replicate")
    return functional.conv2d(padded, kernel.to(heat.dtype))[:, 0]


def _enlarged(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear")


class OpacityHead(nn.Module):
    """Marks lung opacities: a map trained with boxes, and as image score its smooth maximum.

    The score is the log-mean-exp of the map with a sharpness that is learnt (Pinheiro and Collobert, CVPR 2015). Its
    map is the sum of what is seen in a cell and of how often opacities lie there (`place`): both are evidence.
    """

    def __init__(self, channels: int, hidden: int, cells: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(cells, cells))
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.look = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.map = nn.Conv2d(hidden, 1, 1)
        self.dropout = nn.Dropout2d(0.3)
        self.sharpness = nn.Parameter(torch.tensor(1.0))
        self.offset = nn.Parameter(torch.tensor(0.0))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of shape (n,) and maps of shape (n, h, w)."""
        hidden = functional.relu(self.reduce(self.dropout(features)))
        hidden = hidden + functional.relu(self.look(self.dropout(hidden)))
        heat = self.map(self.dropout(hidden))[:, 0] + self.place
        sharpness = functional.softplus(self.sharpness)
        cells = heat.shape[-2] * heat.shape[-1]
        score = (torch.logsumexp(sharpness * heat.flatten(1), 1) - math.log(cells)) / sharpness
        return score + self.offset, heat

"""Findings of one radiograph, each with the map that decided."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.squeezenet import Fire, SqueezeNetTrunk


class FindingsNet(nn.Module):
    """One trunk, one map for each finding, and a second look for lung opacities.

    The logit of a finding is the mean of its map, so that the map shows what decided (class activation map, Zhou et
    al., CVPR 2016). Opacities have a convolutional head of their own that was trained with boxes, so that what it
    marks can be drawn; its output is the last one.
    """

    CHANNELS = 1024

    def __init__(self, outputs: int, hidden: int = 64) -> None:
        super().__init__()
        self.trunk = SqueezeNetTrunk()
        self.fire9 = Fire(512, 64, 256)
        self.centre = nn.Buffer(torch.zeros(self.CHANNELS))
        self.scale = nn.Buffer(torch.ones(self.CHANNELS))
        self.findings = nn.Conv2d(self.CHANNELS, outputs - 1, 1)
        self.opacity = OpacityHead(self.CHANNELS, hidden)

    def features(self, x: Tensor) -> Tensor:
        """From (n, 1, h, w), 0 to 1, to standardised features (n, 1024, h / 16, w / 16)."""
        low = self.trunk(x)
        both = torch.cat((low, self.fire9(low)), 1)
        return (both - self.centre[:, None, None]) / self.scale[:, None, None]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """From (n, 1, h, w) to ``logits`` (n, outputs) and ``maps`` (n, outputs, h / 16, w / 16)."""
        features = self.features(x)
        maps = self.findings(features)
        opacity_logit, opacity_map = self.opacity(features)
        return {
            "logits": torch.cat((maps.mean((2, 3)), opacity_logit[:, None]), 1),
            "maps": torch.cat((maps, opacity_map[:, None]), 1),
        }


class OpacityHead(nn.Module):
    """Marks lung opacities: a map trained with boxes, and as image score its smooth maximum.

    The score is the log-mean-exp of the map with a sharpness that is learnt (Pinheiro and Collobert, CVPR 2015). Its
    map is the sum of what is seen in a cell and of how often opacities lie there (`place`): both are evidence.
    """

    def __init__(self, channels: int, hidden: int, cells: int = 19) -> None:
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

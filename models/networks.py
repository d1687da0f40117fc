"""Networks that MONAI does not have; everything else is taken from ``monai.networks``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Fire(nn.Module):
    """A squeeze layer and two expand layers side by side (Iandola et al., SqueezeNet, 2016)."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.s = nn.Conv2d(channels, squeeze, 1)
        self.e1 = nn.Conv2d(squeeze, expand, 1)
        self.e3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """From (n, channels, h, w) to (n, 2 * expand, h, w)."""
        x = functional.relu(self.s(x))
        return torch.cat((functional.relu(self.e1(x)), functional.relu(self.e3(x))), 1)


class SqueezeNetTrunk(nn.Module):
    """SqueezeNet 1.0 up to the pooling before ``fire9``; pools round up and stand before fire2, fire5 and fire9."""

    MEAN_BGR = (104.0, 117.0, 123.0)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, stride=2)
        sizes = [(96, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128), (256, 48, 192), (384, 48, 192)]
        for number, size in enumerate([*sizes, (384, 64, 256)], start=2):
            self.add_module(f"fire{number}", Fire(*size))

    def forward(self, x: Tensor) -> Tensor:
        """From gray values 0 to 1 of shape (n, 1, h, w) to features of shape (n, 512, h / 16, w / 16)."""
        mean = torch.tensor(self.MEAN_BGR, dtype=x.dtype, device=x.device).reshape(1, 3, 1, 1)
        x = functional.relu(self.conv1(255.0 * x - mean))
        for number in range(2, 9):
            if number in (2, 5):
                x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
            x = self.get_submodule(f"fire{number}")(x)
        return functional.max_pool2d(x, 3, 2, ceil_mode=True)


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


class GateNet(nn.Module):
    """What a picture shows, for the pixel gate: a trunk, where things lie in 5 x 5 parts, and one logit for each class.

    Every picture is seen as it is and mirrored; the second answer is read with left and right exchanged (`mirrored`)
    and both are averaged, so that the answer about a picture and about its mirror image always agree.
    """

    PARTS = 5

    def __init__(self, mirrored: Sequence[int], hidden: int = 64) -> None:
        """`mirrored` gives for each class the class of its mirror image."""
        super().__init__()
        self.mirrored = list(mirrored)
        self.trunk = SqueezeNetTrunk()
        self.reduce = nn.Conv2d(512, hidden, 1)
        self.dropout = nn.Dropout(0.4)
        self.classes = nn.Linear(hidden * self.PARTS**2, len(self.mirrored))

    def look(self, x: Tensor) -> Tensor:
        """From pictures (n, 1, h, w), 0 to 1, to logits (n, classes), seen as they are."""
        features = functional.relu(self.reduce(self.trunk(x)))
        parts = functional.adaptive_avg_pool2d(features, self.PARTS).flatten(1)
        logits: Tensor = self.classes(self.dropout(parts))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """From pictures (n, 1, h, w), 0 to 1, to logits (n, classes)."""
        both = self.look(torch.cat((x, x.flip(-1))))
        return (both[: len(x)] + both[len(x) :, self.mirrored]) / 2

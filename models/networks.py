"""Networks that MONAI does not have; everything else is taken from ``monai.networks``."""

from __future__ import annotations

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


class FindingsHead(nn.Module):
    """From trunk features to one map and one logit for each finding.

    The logit is a smooth maximum of the map, so that what decides can be shown: log-mean-exp with a sharpness that each
    finding learns (Pinheiro and Collobert, CVPR 2015): a nodule wants a maximum, a large heart a mean.
    """

    def __init__(self, outputs: int, hidden: int = 192, dropout: float = 0.3) -> None:
        super().__init__()
        self.fire9 = Fire(512, 64, 256)
        self.mix = nn.Conv2d(1024, hidden, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.maps = nn.Conv2d(hidden, outputs, 1)
        self.sharpness = nn.Parameter(torch.full((outputs,), 1.0))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of shape (n, outputs) and maps of shape (n, outputs, h, w)."""
        hidden = functional.relu(self.mix(torch.cat((features, self.fire9(features)), 1)))
        maps = self.maps(self.dropout(hidden))
        sharpness = functional.softplus(self.sharpness).reshape(1, -1, 1)
        flat = maps.flatten(2)
        logits = (torch.logsumexp(flat * sharpness, 2) - torch.log(torch.tensor(float(flat.shape[2])))) / sharpness[
            ..., 0
        ]
        return logits, maps


class FindingsNet(nn.Module):
    """Several heads on one trunk, averaged: what one head missed another of a different fold may have seen."""

    def __init__(self, outputs: int, heads: int = 1, hidden: int = 192) -> None:
        super().__init__()
        self.trunk = SqueezeNetTrunk()
        self.heads = nn.ModuleList(FindingsHead(outputs, hidden) for _ in range(heads))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """From (n, 1, h, w), 0 to 1, to ``logits`` (n, outputs) and ``maps`` (n, outputs, h / 16, w / 16)."""
        features = self.trunk(x)
        answers: Sequence[tuple[Tensor, Tensor]] = [head(features) for head in self.heads]
        return {
            "logits": torch.stack([logits for logits, _ in answers]).mean(0),
            "maps": torch.stack([maps for _, maps in answers]).mean(0),
        }

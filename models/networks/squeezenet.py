"""SqueezeNet 1.0, the trunk of the small networks: light enough for a processor without an accelerator."""

from __future__ import annotations

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
        return functional.max_pool2d(self.unpooled(x), 3, 2, ceil_mode=True)

    def unpooled(self, x: Tensor) -> Tensor:
        """From gray values 0 to 1 of shape (n, 1, h, w) to features of shape (n, 512, h / 8, w / 8)."""
        mean = torch.tensor(self.MEAN_BGR, dtype=x.dtype, device=x.device).reshape(1, 3, 1, 1)
        x = functional.relu(self.conv1(255.0 * x - mean))
        for number in range(2, 9):
            if number in (2, 5):
                x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
            x = self.get_submodule(f"fire{number}")(x)
        return x

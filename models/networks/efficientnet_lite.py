"""EfficientNet-Lite0: the trunk that sees more than SqueezeNet for no more time on a processor.

The rule: its batch normalisation stays as it was on ImageNet, so it is folded into the convolutions; none is here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# repeats, kernel, stride of the first, expansion, channels (Tan and Le, EfficientNet, ICML 2019, table 1)
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
           (1, 3, 1, 6, 320))  # fmt: skip


class _Convolution(nn.Conv2d):
    """A convolution that pads as TensorFlow does: what is odd goes to the right and the bottom."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        around, odd = divmod(max(kernel - stride, 0), 2)
        super().__init__(inside, outside, kernel, stride, padding=0 if odd else around, groups=groups)
        self._uneven = (around, around + 1, around, around + 1) if odd else None

    def forward(self, x: Tensor) -> Tensor:
        x = x if self._uneven is None else functional.pad(x, self._uneven)
        if self.groups == 1 or not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        # on a processor the gradients of a depthwise convolution take up to ten times as long in half precision
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class _Block(nn.Module):
    """An inverted bottleneck (Sandler et al., MobileNetV2, CVPR 2018)."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inside * expansion
        self.expand = _Convolution(inside, wide, 1) if expansion > 1 else None
        self.depthwise = _Convolution(wide, wide, kernel, stride, groups=wide)
        self.project = _Convolution(wide, outside, 1)
        self._adds = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        wide = x if self.expand is None else functional.relu6(self.expand(x))
        narrow: Tensor = self.project(functional.relu6(self.depthwise(wide)))
        return x + narrow if self._adds else narrow


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 up to its last convolution (Tan and Le, ICML 2019; no squeeze and excitation, ReLU6)."""

    FINE, LOW, MIDDLE, TOP = 24, 40, 112, 1280  # channels at a quarter, an eighth, a 16th and a 32nd of the side
    FINE_BLOCKS, LOW_BLOCKS = 3, 5  # of the first two and three stages

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(3, 32, 3, 2)
        blocks, inside = [], 32
        for repeats, kernel, stride, expansion, outside in _STAGES:
            for number in range(repeats):
                blocks.append(_Block(inside, outside, kernel, stride if number == 0 else 1, expansion))
                inside = outside
        self.blocks = nn.ModuleList(blocks)
        self.head = _Convolution(inside, self.TOP, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From gray values 0 to 1 of shape (n, 1, h, w), sides multiples of 32, to what `high` gives."""
        return self.high(self.low(x))

    def fine(self, x: Tensor) -> Tensor:
        """Edges: from (n, 1, h, w) to (n, FINE, h / 4, w / 4)."""
        x = ((255.0 * x - 127.0) / 128.0).expand(-1, 3, -1, -1)
        x = functional.relu6(self.stem(x))
        for block in self.blocks[: self.FINE_BLOCKS]:
            x = block(x)
        return x

    def coarser(self, x: Tensor) -> Tensor:
        """Textures, from what `fine` gives: shape (n, LOW, h / 8, w / 8)."""
        for block in self.blocks[self.FINE_BLOCKS : self.LOW_BLOCKS]:
            x = block(x)
        return x

    def low(self, x: Tensor) -> Tensor:
        """Edges and textures: from (n, 1, h, w) to (n, LOW, h / 8, w / 8)."""
        return self.coarser(self.fine(x))

    def beginning(self) -> list[nn.Parameter]:
        """The parameters behind `low`."""
        return [p for part in (self.stem, *self.blocks[: self.LOW_BLOCKS]) for p in part.parameters()]

    def high(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What `low` gives, to features of shapes (n, MIDDLE, h / 16, w / 16) and (n, TOP, h / 32, w / 32)."""
        middle = x
        for block in self.blocks[self.LOW_BLOCKS :]:
            x = block(x)
            if x.shape[1] == self.MIDDLE:
                middle = x
        return middle, functional.relu6(self.head(x))

"""A feature pyramid on a ResNet (Lin et al., CVPR 2017), for MONAI's RetinaNet."""

from __future__ import annotations

from collections import OrderedDict

from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from torch import Tensor, nn

from models.networks.trunks import ResNetFeatures


class PyramidFeatures(nn.Module):
    """ResNet-18 or 34 with a feature pyramid at an 8th, 16th, 32nd and 64th of the picture's side."""

    def __init__(self, depth: int = 18, channels: int = 1, width: int = 256) -> None:
        super().__init__()
        self.trunk = ResNetFeatures(depth, channels)
        self.out_channels = width
        self.pyramid = FeaturePyramidNetwork(2, list(ResNetFeatures.CHANNELS[-3:]), width, LastLevelMaxPool(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        """From (n, channels, h, w) to features (n, width, ...), the finest first."""
        taps = self.trunk(x)[-3:]
        levels: dict[str, Tensor] = self.pyramid(OrderedDict((str(i), tap) for i, tap in enumerate(taps)))
        return list(levels.values())

"""Networks that were trained to classify, tapped at several scales for what outlines or marks.

The rule: inside each is the published network key for key, so that whatever weights load there load here.
"""

from __future__ import annotations

from monai.networks.nets import DenseNet121, ResNet
from torch import Tensor, nn
from torch.nn import functional

from models.networks.squeezenet import Fire, SqueezeNetTrunk

_RESNET_LAYERS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3]}


class DenseNetFeatures(nn.Module):
    """DenseNet-121 (Huang et al., CVPR 2017): ``features`` are those of MONAI's, tapped where they are to be halved."""

    CHANNELS = (64, 256, 512, 1024, 1024)

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.features = DenseNet121(spatial_dims=2, in_channels=channels, out_channels=1).features

    def forward(self, x: Tensor) -> list[Tensor]:
        """From (n, channels, h, w) to features at a half, a quarter ... and a 32nd of the side."""
        taps = []
        for name, part in self.features.named_children():
            if name.startswith("transition"):
                x = part.relu(part.norm(x))
                taps.append(x)
                x = part.pool(part.conv(x))
            else:
                x = part(x)
                if name == "relu0":
                    taps.append(x)
        return [*taps, functional.relu(x)]


class ResNetFeatures(nn.Module):
    """ResNet-18 or 34 (He et al., CVPR 2016): ``resnet`` is MONAI's, in torchvision's layout less the last layer."""

    CHANNELS = (64, 64, 128, 256, 512)

    def __init__(self, depth: int, channels: int = 1) -> None:
        super().__init__()
        self.resnet = ResNet(
            "basic", _RESNET_LAYERS[depth], [64, 128, 256, 512], spatial_dims=2, n_input_channels=channels,
            conv1_t_stride=2, feed_forward=False, bias_downsample=False,
        )  # fmt: skip

    def forward(self, x: Tensor) -> list[Tensor]:
        """From (n, channels, h, w) to features at a half, a quarter ... and a 32nd of the side."""
        net = self.resnet
        taps = [net.act(net.bn1(net.conv1(x)))]
        x = net.maxpool(taps[0])
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = layer(x)
            taps.append(x)
        return taps


class SqueezeNetFeatures(nn.Module):
    """`SqueezeNetTrunk` and two layers more that look wider; cells lie as if its layers padded, which they do not."""

    CHANNELS = (512, 512, 512)
    # Its first cell at an 8th of the side looks at pixel 9, a cell of 8 pixels has its middle at pixel 4.
    _MARGIN = 5

    def __init__(self) -> None:
        super().__init__()
        self.trunk = SqueezeNetTrunk()
        self.fire9 = Fire(512, 64, 256)
        self.fire10 = Fire(512, 64, 256)

    def forward(self, x: Tensor) -> list[Tensor]:
        """From gray values 0 to 1 (n, 1, h, w) to features at an 8th, a 16th and a 32nd of the side."""
        fine = self.trunk.unpooled(functional.pad(x, (self._MARGIN,) * 4))
        middle = self.fire9(functional.max_pool2d(fine, 3, 2, ceil_mode=True))
        return [fine, middle, self.fire10(functional.max_pool2d(middle, 3, 2, ceil_mode=True))]

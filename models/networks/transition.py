"""A classifier with a map for each finding: trunk, transition layer, prediction on every cell, pooling (Wang, 2017).

The rule: pooling comes after the prediction, so that the map of a finding is what its logit was made of; with mean
pooling this equals pooling first, as CheXNet's DenseNet-121 does.
"""

from __future__ import annotations

import math

import torch
from monai.networks.nets import DenseNet121, ResNet
from torch import Tensor, nn
from torch.nn import functional

_RESNETS = {
    "resnet18": ("basic", [2, 2, 2, 2], 512),
    "resnet34": ("basic", [3, 4, 6, 3], 512),
    "resnet50": ("bottleneck", [3, 4, 6, 3], 2048),
}
TRUNKS = (*_RESNETS, "densenet121")


class TransitionClassifier(nn.Module):
    """Maps and logits of findings.

    The trunk has the names of MONAI's networks, which are torchvision's.
    """

    def __init__(
        self,
        outputs: int,
        trunk: str = "resnet50",
        *,
        transition: int = 1024,
        pooling: str = "log_sum_exp",
        sharpness: float = 10.0,
        channels: int = 1,
    ) -> None:
        """A new network with random weights.

        Parameters
        ----------
        outputs
            Findings.
        trunk
            One of `TRUNKS`.
        transition
            Channels of the transition layer; 0 for none.
        pooling
            ``mean``, or ``log_sum_exp`` (Pinheiro and Collobert, CVPR 2015), between mean and maximum.
        sharpness
            Of log-sum-exp: 0 is the mean, infinity the maximum; 10 in Wang et al.

        Raises
        ------
        ValueError
            For a trunk or pooling that is not known.
        """
        super().__init__()
        if trunk not in TRUNKS:
            raise ValueError(f"trunk {trunk!r} is none of {', '.join(TRUNKS)}")
        if pooling not in ("mean", "log_sum_exp"):
            raise ValueError(f"pooling {pooling!r} is neither mean nor log_sum_exp")
        self.sharpness = sharpness if pooling == "log_sum_exp" else 0.0
        self.trunk: nn.Module
        if trunk == "densenet121":
            self.trunk, width = nn.Module(), 1024
            self.trunk.features = DenseNet121(spatial_dims=2, in_channels=channels, out_channels=1).features
        else:
            block, layers, width = _RESNETS[trunk]
            self.trunk = ResNet(
                block, layers, [64, 128, 256, 512], spatial_dims=2, n_input_channels=channels, conv1_t_stride=2,
                feed_forward=False, bias_downsample=False,
            )  # fmt: skip
        self.transition = (
            nn.Sequential(nn.Conv2d(width, transition, 3, padding=1, bias=False), nn.BatchNorm2d(transition), nn.ReLU())
            if transition
            else nn.Identity()
        )
        self.prediction = nn.Conv2d(transition or width, outputs, 1)

    def features(self, x: Tensor) -> Tensor:
        """From (n, channels, h, w) to features (n, width, h / 32, w / 32)."""
        if not isinstance(self.trunk, ResNet):
            dense: Tensor = functional.relu(self.trunk.features(x))  # type: ignore[operator]
            return dense
        net = self.trunk
        x = net.maxpool(net.act(net.bn1(net.conv1(x))))
        found: Tensor = net.layer4(net.layer3(net.layer2(net.layer1(x))))
        return found

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """From grays 0 to 1 (n, channels, h, w) to ``logits`` (n, outputs), ``maps`` (n, outputs, h / 32, w / 32)."""
        maps = self.prediction(self.transition(self.features(x)))
        if self.sharpness == 0.0:
            return {"logits": maps.mean((2, 3)), "maps": maps}
        cells = maps.shape[-2] * maps.shape[-1]
        pooled = (torch.logsumexp(self.sharpness * maps.flatten(2), 2) - math.log(cells)) / self.sharpness
        return {"logits": pooled, "maps": maps}

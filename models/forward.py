"""What a network is to the rest of Hilum: a function from a picture to named outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.findings import Precision

FloatArray = npt.NDArray[np.float32]
# A picture of shape (1, channels, size, size) to named outputs without the batch axis.
Forward = Callable[[FloatArray], dict[str, FloatArray]]


@dataclass(frozen=True)
class Runner:
    """A network that can be asked, and the precision in which it answers."""

    ask: Forward
    precision: Precision

    def __call__(self, picture: FloatArray) -> dict[str, FloatArray]:
        """Its answer; see `Forward`."""
        return self.ask(picture)


def named(output: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs by name; a tensor alone is named ``logits``."""
    return {"logits": output} if isinstance(output, Tensor) else dict(output)


def torch_forward(network: nn.Module, device: str = "cpu") -> Runner:
    """Run a network by torch, eagerly: in float32 on a processor, in bfloat16 on a GPU."""
    half = device != "cpu"

    def forward(picture: FloatArray) -> dict[str, FloatArray]:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
            output = named(network(torch.from_numpy(picture).to(device)))
        return {name: value[0].float().cpu().numpy() for name, value in output.items()}

    return Runner(forward, Precision.BFLOAT16 if half else Precision.FLOAT32)

"""What a network is to the rest of Hilum: a function from a picture to named outputs.

The rule: here and in all that a reading process imports, torch and MONAI are imported by the functions that need them.
They take seconds and 400 MB, and where OpenVINO answers nobody needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.findings import Precision

if TYPE_CHECKING:
    from torch import Tensor, nn

FloatArray = npt.NDArray[np.float32]
# A picture of shape (1, channels, size, size) to named outputs without the batch axis.
Forward = Callable[[FloatArray], dict[str, FloatArray]]
# Pictures of shape (n, channels, size, size) to the answer about each, in their order.
ForwardMany = Callable[[FloatArray], list[dict[str, FloatArray]]]


@dataclass(frozen=True)
class Runner:
    """A network that can be asked, and the precision in which it answers.

    Parameters
    ----------
    ask_many
        About several pictures at once; None where it takes one at a time.
    """

    ask: Forward
    precision: Precision
    ask_many: ForwardMany | None = None

    def __call__(self, picture: FloatArray) -> dict[str, FloatArray]:
        """Its answer; see `Forward`."""
        return self.ask(picture)


def named(output: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs by name; a tensor alone is named ``logits``."""
    return dict(output) if isinstance(output, Mapping) else {"logits": output}


def torch_forward(network: nn.Module, device: str = "cpu") -> Runner:
    """Run a network by torch, eagerly: in float32 on a processor, in bfloat16 on a GPU."""
    import torch

    half = device != "cpu"

    def answers(pictures: FloatArray) -> list[dict[str, FloatArray]]:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
            output = named(network(torch.from_numpy(pictures).to(device)))
        arrays = {name: value.float().cpu().numpy() for name, value in output.items()}
        return [{name: values[number] for name, values in arrays.items()} for number in range(len(pictures))]

    def answer(picture: FloatArray) -> dict[str, FloatArray]:
        return answers(picture)[0]

    return Runner(answer, Precision.BFLOAT16 if half else Precision.FLOAT32, answers)

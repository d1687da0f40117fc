"""Whether an exported network answers as torch does.

The rule: it is asked about noise, about black and white, and about computed radiographs; the greatest difference of any
number of any output counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models import phantom
from models.rendering import RenderedImage, network_input

FloatArray = npt.NDArray[np.float32]
# From pictures (n, channels, h, w) to named outputs.
Run = Callable[[FloatArray], dict[str, FloatArray]]
ONLY_OUTPUT = "logits"  # of a network that returns one tensor, as in ``models.inference``


class ExportDiffers(Exception):
    """An exported network does not answer as torch does; the message says by how much, and on which output."""


@dataclass(frozen=True)
class Equality:
    """How far the answers of two runtimes lie apart.

    Parameters
    ----------
    differences
        Output to the greatest absolute difference, in the output's own unit.
    tolerance
        What each of them may be at most.
    pictures
        How many were compared.
    """

    differences: dict[str, float]
    tolerance: float
    pictures: int

    @property
    def largest(self) -> float:
        """Over all outputs."""
        return max(self.differences.values())

    def __str__(self) -> str:
        each = ", ".join(f"{name} {value:.2g}" for name, value in self.differences.items())
        return f"greatest difference to torch on {self.pictures} pictures: {each} (allowed: {self.tolerance:.2g})"


def check(network: nn.Module, run: Run, inputs: FloatArray, tolerance: float) -> Equality:
    """Compare a network's answers by torch with those of another runtime.

    Parameters
    ----------
    inputs
        Shape (n, channels, h, w), as by `samples`.

    Raises
    ------
    ExportDiffers
        When a number differs by more than `tolerance`, is none, or an output is missing or of another shape.
    """
    differences: dict[str, float] = {}
    for i in range(len(inputs)):
        expected, given = torch_answer(network, inputs[i : i + 1]), run(inputs[i : i + 1])
        if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in given.items()}:
            shapes = [{k: v.shape for k, v in answer.items()} for answer in (expected, given)]
            raise ExportDiffers(f"torch gives {shapes[0]}, the exported network {shapes[1]}")
        for name, values in expected.items():
            far = float(np.abs(values - given[name]).max())
            differences[name] = max(differences.get(name, 0.0), far if np.isfinite(far) else np.inf)
    equality = Equality(differences, tolerance, len(inputs))
    if not equality.largest <= tolerance:
        raise ExportDiffers(f"{equality}; export with more precision, or do not use this runtime")
    return equality


def samples(size: int, channels: int = 1, *, low: float = 0.0, high: float = 1.0, seed: int = 0) -> FloatArray:
    """Pictures to compare on: noise, black, white, and two phantoms with findings.

    Parameters
    ----------
    low, high
        Of the gray values that the network expects.

    Returns
    -------
    array
        Shape (5, channels, size, size).
    """
    grays: list[Any] = [
        np.random.default_rng(seed).uniform(0, 1, (size, size)),
        np.zeros((size, size)),
        np.ones((size, size)),
    ]
    for number, kind in enumerate(("pneumothorax", "lung_opacity")):
        chest = phantom.chest(seed + number, rows=640, columns=560, pathologies=[phantom.Pathology(kind)])
        grays.append(network_input(RenderedImage(chest.pixels), size)[0])
    pictures = low + (high - low) * np.stack(grays)[:, None].astype(np.float32)
    return np.repeat(pictures, channels, axis=1)


def torch_answer(network: nn.Module, pictures: FloatArray) -> dict[str, FloatArray]:
    """Named outputs of a network, evaluated by torch on the processor in single precision."""
    with torch.inference_mode():
        output = network(torch.from_numpy(pictures))
    return {name: value.numpy() for name, value in named(output).items()}


def named(output: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs by name; a tensor alone is `ONLY_OUTPUT`."""
    return output if isinstance(output, dict) else {ONLY_OUTPUT: output}

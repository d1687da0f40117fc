"""A network as a graph of operations, from which other runtimes' formats are made."""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
from torch import Tensor, nn

from training.export.equality import FloatArray, named, torch_answer


class ExporterMissing(Exception):
    """A package that exporting needs is not installed; the message names it."""


def require(*packages: str) -> None:
    """Raise `ExporterMissing` unless all of them are installed."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise ExporterMissing(f"{' and '.join(missing)} not installed: pip install {' '.join(missing)}")


class Flat(nn.Module):
    """A network whose outputs stand in a tuple, in the order of `names`: what every format can hold."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.names = names

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """From pictures to the outputs."""
        found = named(self.network(image))
        return tuple(found[name] for name in self.names)


def trace(network: nn.Module, inputs: FloatArray) -> tuple[torch.export.ExportedProgram, tuple[str, ...]]:
    """The graph of a network in evaluation mode, and the names of its outputs.

    Parameters
    ----------
    inputs
        Shape (n, channels, h, w). The graph takes any number of pictures of this size.
    """
    names = tuple(torch_answer(network.eval(), inputs[:1]))
    example = torch.from_numpy(np.repeat(inputs[:1], 2, axis=0))  # of one picture, torch would take it that one is all
    dynamic = {"image": {0: torch.export.Dim("pictures")}}
    return torch.export.export(Flat(network, names), (example,), dynamic_shapes=dynamic), names

"""What every task needs: its network, its pictures in batches, its sampler.

The rule: a network is named by class and arguments, as a MONAI bundle names it, so that whatever is trained here can be
packaged; it takes pictures (n, 1, h, w) with grays from 0 to 1 and returns a tensor or a dict of named ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn
from tqdm import tqdm

from training.augmentation import augment
from training.data import DataMissing
from training.importers.densenet import to_monai
from training.pictures import Pictures
from training.recipe import KindPart, Recipe, StartPart
from training.sampling import BoolArray, FallingShare, IntArray, Oversampled, Sampler, Shuffled
from training.tables import RecipeInvalid

Outputs = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Material:
    """What a task is made of.

    Parameters
    ----------
    train, val
        Rows of the pictures.
    """

    recipe: Recipe
    pictures: Pictures
    train: IntArray
    val: IntArray
    seed: int


class PictureTask(ABC):
    """The parts that tasks have in common; the others are as ``training.loop.Task`` says."""

    module: nn.Module
    figures: Mapping[str, bool]
    notes: tuple[str, ...] = ()

    def __init__(self, material: Material, network: nn.Module) -> None:
        self.material, self.recipe, self.pictures = material, material.recipe, material.pictures
        self.module = network

    @property
    def shipped(self) -> nn.Module:
        """What is packaged or started from: the network without what only its training needed."""
        return self.module

    def set_training(self) -> None:
        """Training mode, but for the normalisations that the recipe freezes."""
        self.module.train()
        freeze_norms(self.module, self.recipe.start.frozen_norms)

    def after_step(self, done: float) -> None:  # noqa: B027  most tasks have nothing to do
        """Nothing."""

    @abstractmethod
    def order(self, epoch: int, rng: np.random.Generator) -> IntArray:
        """The items of an epoch in the order in which they are seen."""

    @abstractmethod
    def load(self, items: IntArray) -> Any:
        """Fetch a batch."""

    @abstractmethod
    def losses(self, batch: Any, device: torch.device) -> dict[str, Tensor]:
        """The loss and its parts."""

    @abstractmethod
    def validate(self, device: torch.device) -> dict[str, float]:
        """Figures on the validation patients."""

    def changed(self, pictures: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented pictures, masks and the matrices that were applied."""
        nothing = pictures.new_zeros((len(pictures), 0, *pictures.shape[-2:]))
        with in_single(pictures):
            return augment(pictures, nothing if masks is None else masks, self.recipe.augmentation)


def build_network(definition: Mapping[str, Any], seed: int) -> nn.Module:
    """Build a network as a bundle does; its weights follow from the seed.

    Raises
    ------
    RecipeInvalid
        When there is no such network, or it does not take these arguments.
    """
    torch.manual_seed(seed)
    target = definition.get("_target_")
    try:
        network = ConfigParser({"network": dict(definition)}).get_parsed_content("network", instantiate=True)
    except (RuntimeError, ImportError) as error:
        raise RecipeInvalid(f"[network] {target} cannot be built: {error.__cause__ or error}") from error
    if not isinstance(network, nn.Module):
        raise RecipeInvalid(f"[network] {target} is no network")
    return network


def load_start(network: nn.Module, start: StartPart, folder: Path | None) -> str:
    """Load the weights that a recipe starts from, as far as names and shapes agree; says what was loaded.

    A first layer for three colours is summed up for one: a gray picture is the same in all three. Torchvision's names
    of a DenseNet become MONAI's.

    Parameters
    ----------
    folder
        Where the file lies; None to do without, whatever the recipe says.

    Raises
    ------
    DataMissing
        When the file is not there.
    ValueError
        When it fits nowhere.
    """
    if not start.weights or folder is None:
        return f"Started from random weights{f', not from {start.weights}' if start.weights else ''}."
    path = folder / start.weights
    if not path.exists():
        raise DataMissing(f"{path} is not there: the recipe starts from it; see its [start]")
    given = torch.load(path, map_location="cpu", weights_only=True)
    given = given.get("state_dict", given)
    part = network.get_submodule(start.into)
    own, taken = part.state_dict(), {}
    for name, value in to_monai(given).items():
        wanted = own.get(key := name.removeprefix(start.prefix))
        if wanted is not None and value.ndim == 4 and (value.shape[1], wanted.shape[1]) == (3, 1):
            taken[key] = value.sum(1, keepdim=True)
        elif wanted is not None and value.shape == wanted.shape:
            taken[key] = value
    if not taken:
        raise ValueError(f"nothing in {path.name} fits the network: see `prefix` and `into` of [start]")
    part.load_state_dict(taken, strict=False)
    left = sorted({name.rpartition(".")[0] for name in own if name not in taken})
    return f"Started from {path.name}: {len(taken)} of {len(own)} tensors, without {', '.join(left) or 'exception'}."


def freeze_norms(module: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Keep statistics and weights of the batch normalisations whose names begin so."""
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and name.startswith(prefixes):
            part.eval().requires_grad_(requires_grad=False)


def make_sampler(part: KindPart, rows: IntArray, epochs: int, groups: IntArray, filled: BoolArray) -> Sampler:
    """The sampler that a recipe names.

    Parameters
    ----------
    rows
        What is drawn.
    groups, filled
        One for each row; see ``training.sampling``.
    """
    if part.kind == "oversampled":
        return Oversampled(rows, groups, **part.options)
    if part.kind == "falling_share":
        return FallingShare(rows, filled, epochs, **part.options)
    return Shuffled(rows)


def named(output: Any, name: str) -> Outputs:
    """What a network returned, as a dict of single precision; a bare tensor has the name given."""
    found = output if isinstance(output, dict) else {name: output}
    return {k: [p.float() for p in v] if isinstance(v, list) else v.float() for k, v in found.items()}


def single(found: Outputs, i: int) -> dict[str, npt.NDArray[np.float32]]:
    """What a network said of the i-th picture of a batch, as the node has it: without the axis of the batch."""
    return {name: value[i].float().cpu().numpy() for name, value in found.items() if isinstance(value, Tensor)}


def answers(
    network: Callable[[Tensor], Any], pictures: Pictures, rows: IntArray, *, device: torch.device, batch: int, what: str
) -> Iterator[tuple[IntArray, Tensor, Any]]:
    """Run a network over rows: yields the rows of a batch, its pictures and what was returned.

    The network is in evaluation mode, and the caller wants no gradients.
    """
    parts = [rows[i : i + batch] for i in range(0, len(rows), batch)]
    for part in tqdm(parts, desc=what, unit="batch", leave=False, disable=None):
        values = torch.from_numpy(pictures.values(part)).to(device)
        yield part, values, network(values)


def in_single(tensor: Tensor) -> torch.autocast:
    """Single precision within a half-precision step: in half, the places that a grid samples are off by pixels."""
    return torch.autocast(tensor.device.type, enabled=False)


def mean_defined(measure: Callable[[int], float], columns: int) -> float:
    """Mean over the columns for which a figure is defined; NaN when it is for none."""
    values = np.array([measure(i) for i in range(columns)])
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

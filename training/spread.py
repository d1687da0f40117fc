"""Several workers train one network together, each on its share of every batch.

The rule: a batch is as large as the recipe says, however many workers share it; after each step all of them have the
same weights and statistics, and what the first one finds in judging is what all go by. The first alone writes.

Tasks call parts of their modules directly, which ``DistributedDataParallel`` would not notice; gradients are therefore
averaged here, all in one message, after the backward pass and before they are clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn

from training.sampling import IntArray

Found = TypeVar("Found")


@dataclass(frozen=True)
class Spread:
    """One worker among those of torch's process group; without arguments one that is alone.

    Every method but `seed` and `share` is to be called by all workers, in the same order.

    Parameters
    ----------
    rank
        Which one, from 0.
    device
        On which messages are made up: a GPU for NCCL.
    """

    rank: int = 0
    workers: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def joined(cls, device: torch.device) -> Spread:
        """The place of this process among those that joined torch's process group."""
        return cls(distributed.get_rank(), distributed.get_world_size(), device)

    @property
    def first(self) -> bool:
        """Whether this one judges and writes."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """The seed of this worker's random numbers; the first one's is the run's own."""
        return seed if self.first else int(np.random.SeedSequence((seed, self.rank)).generate_state(1)[0])

    def share(self, items: IntArray) -> IntArray:
        """What this worker has of a batch, whose size is a multiple of `workers`."""
        return items[self.rank :: self.workers]

    def agree(self, module: nn.Module) -> None:
        """Give all the state of the first one's module."""
        if self.workers > 1:
            for value in module.state_dict().values():
                distributed.broadcast(value, 0)

    def mean(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The mean over workers of figures with the same names; no number if one has none."""
        if self.workers == 1:
            return dict(figures)
        values = torch.tensor(list(figures.values()), dtype=torch.float64, device=self.device)
        distributed.all_reduce(values)
        return dict(zip(figures, (values / self.workers).tolist(), strict=True))

    def average_gradients(self, module: nn.Module) -> None:
        """The gradient of the mean of the workers' losses, on all.

        A parameter that no worker's loss met keeps none: with zeros instead, an optimiser would let it decay.
        """
        if self.workers == 1:
            return
        trained = [p for p in module.parameters() if p.requires_grad]
        given = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        met = torch.tensor([p.grad is not None for p in trained], dtype=torch.float32, device=self.device)
        message = torch.cat([*(g.flatten() for g in given), met])
        distributed.all_reduce(message)
        message /= self.workers
        *parts, met = torch.split(message, [*(p.numel() for p in trained), len(trained)])
        for parameter, part, is_met in zip(trained, parts, (met > 0).tolist(), strict=True):
            parameter.grad = part.view_as(parameter) if is_met else None

    def average_statistics(self, module: nn.Module) -> None:
        """The mean over workers of what a module keeps count of, on all.

        Batch normalisation normalises each share by itself; the mean of the shares' means and variances is what it did
        on the whole. In double precision the mean of equal values is that value: what is constant remains so.
        """
        kept = [b for b in module.buffers() if b.is_floating_point()]
        if self.workers == 1 or not kept:
            return
        message = torch.cat([b.detach().flatten().double() for b in kept])
        distributed.all_reduce(message)
        message /= self.workers
        for buffer, part in zip(kept, torch.split(message, [b.numel() for b in kept]), strict=True):
            buffer.copy_(part.view_as(buffer))

    def told(self, find: Callable[[], Found]) -> Found:
        """What the first worker finds; the others wait for it."""
        held: list[Any] = [find() if self.first else None]
        if self.workers > 1:
            distributed.broadcast_object_list(held, 0, device=self.device)
        found: Found = held[0]
        return found

    def gathered(self, state: Tensor) -> Tensor:
        """The states of all workers, of shape (workers, n) on the CPU; one that is alone has its own back."""
        if self.workers == 1:
            return state
        own = state.to(self.device)
        found = [torch.empty_like(own) for _ in range(self.workers)]
        distributed.all_gather(found, own)
        return torch.stack(found).cpu()

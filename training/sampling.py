"""In which order and mixture a network sees its pictures.

The rule: the order of an epoch follows from seed and epoch alone, so that a run that was resumed sees the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

OVERSAMPLING_NOTE = (
    "Rare findings were shown more often than they occur: the scores are too high for them and no probabilities until "
    "they are calibrated on images in their natural mixture; in the SIIM-FISABIO-RSNA project this lowered accuracy "
    "and ranking alike."
)


@dataclass(frozen=True, eq=False)
class Shuffled:
    """Each row once an epoch."""

    rows: IntArray
    note: str = ""

    def order(self, epoch: int, rng: np.random.Generator) -> IntArray:
        """The rows of an epoch."""
        return rng.permutation(self.rows)


@dataclass(frozen=True, eq=False)
class Oversampled:
    """As many draws as rows, those of rare groups more often.

    Parameters
    ----------
    groups
        Group of each row, from 0.
    power
        1 draws every group equally often, 0 as often as it occurs.
    """

    rows: IntArray
    groups: IntArray
    power: float = 1.0
    note: str = OVERSAMPLING_NOTE

    def order(self, epoch: int, rng: np.random.Generator) -> IntArray:
        """The rows of an epoch, some of them several times."""
        counts = np.bincount(self.groups).astype(float)
        weights = counts[self.groups] ** -self.power
        return rng.choice(self.rows, len(self.rows), p=weights / weights.sum())


@dataclass(frozen=True, eq=False)
class FallingShare:
    """A share of rows with something on them that falls linearly over the epochs (SIIM-ACR 2019, fourth place).

    Parameters
    ----------
    filled
        Whether there is something to be found on a row.
    first, last
        Share in the first and in the last epoch: 0.8 and 0.22 there, the latter as it occurs.
    """

    rows: IntArray
    filled: BoolArray
    epochs: int
    first: float = 0.8
    last: float = 0.22
    note: str = ""

    def share(self, epoch: int) -> float:
        """Of `epoch`, counted from 0."""
        return self.first + (self.last - self.first) * min(1.0, epoch / max(1, self.epochs - 1))

    def order(self, epoch: int, rng: np.random.Generator) -> IntArray:
        """As many rows as there are; of the filled ones each as equally often as it goes."""
        wanted = round(self.share(epoch) * len(self.rows))
        filled, empty = self.rows[self.filled], self.rows[~self.filled]
        if not len(filled) or not len(empty):
            return rng.permutation(self.rows)
        chosen = [_drawn(filled, wanted, rng), _drawn(empty, len(self.rows) - wanted, rng)]
        return rng.permutation(np.concatenate(chosen))


SAMPLERS = {"shuffled": Shuffled, "oversampled": Oversampled, "falling_share": FallingShare}


Sampler = Shuffled | Oversampled | FallingShare


def rarest_group(labels: npt.NDArray[np.float32]) -> IntArray:
    """The group of each row of labels (n, findings): its rarest positive finding + 1, 0 without one."""
    positive = np.nan_to_num(labels) > 0.5
    rank = np.argsort(np.argsort(positive.sum(0), kind="stable"), kind="stable")
    ranks = np.where(positive, rank, len(rank))
    return np.where(positive.any(1), ranks.argmin(1) + 1, 0).astype(np.int64)


def epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    """The generator of one epoch."""
    return np.random.default_rng((seed, epoch))


def batches(order: IntArray, size: int) -> list[IntArray]:
    """Whole batches of an order; what is left over is dropped, unless it is all there is."""
    count = max(1, len(order) // size)
    return [order[i * size : (i + 1) * size] for i in range(count)]


def mixup(pictures: Tensor, targets: Sequence[Tensor], alpha: float) -> tuple[Tensor, list[Tensor]]:
    """Blend each picture and its targets with another of the batch (Zhang et al., ICLR 2018).

    Parameters
    ----------
    pictures
        Shape (n, 1, h, w).
    targets
        Tensors whose first axis is n; a NaN in either of two remains NaN.
    alpha
        Of the Beta distribution from which the share of each pair is drawn.
    """
    count = len(pictures)
    partner = torch.randperm(count)
    share = torch.distributions.Beta(alpha, alpha).sample((count,))

    def blend(values: Tensor) -> Tensor:
        weight = share.to(values.device, values.dtype).reshape(-1, *([1] * (values.ndim - 1)))
        return weight * values + (1 - weight) * values[partner.to(values.device)]

    return blend(pictures), [blend(target) for target in targets]


def _drawn(rows: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    """`count` of the rows; all of them come before one comes again."""
    whole, rest = divmod(count, len(rows))
    return np.concatenate([*([rows] * whole), rng.permutation(rows)[:rest]])

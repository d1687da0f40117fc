"""From the labels of records to the targets of a network.

The rule: what a label that is uncertain or absent becomes is said by the recipe, per finding; what is to be ignored is
NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.losses import Loss, of_classes, uncertain_classes
from training.readers.chexpert import Policy, resolve_uncertain
from training.readers.records import DataSet, Record
from training.recipe import DataPart

FloatArray = npt.NDArray[np.float32]


def settle(data: DataSet, part: DataPart, seed: int) -> DataSet:
    """Records whose uncertain and absent labels are what a recipe makes of them."""
    if part.unmentioned == "zeros":
        blank = dict.fromkeys(data.findings, 0.0)
        data = replace(data, records=tuple(replace(r, labels={**blank, **r.labels}) for r in data.records))
    policies = {key: Policy(value) for key, value in part.uncertain.items() if key != "others"}
    return resolve_uncertain(data, policies, default=Policy(part.uncertain.get("others", "ignore")), seed=seed)


def label_matrix(records: Sequence[Record], data: DataPart) -> FloatArray:
    """Targets of shape (n, findings) of settled records: 0 to 1, NaN to be ignored, -1 where uncertain is a class."""
    return np.array([[_target(r, key, data) for key in data.findings] for r in records], np.float32).reshape(
        len(records), len(data.findings)
    )


def soft_matrix(records: Sequence[Record], data: DataPart) -> FloatArray:
    """A teacher's probabilities of shape (n, findings); NaN where it gave none."""
    return np.array([[r.soft.get(key, math.nan) for key in data.findings] for r in records], np.float32).reshape(
        len(records), len(data.findings)
    )


@dataclass(frozen=True)
class Outputs:
    """Which outputs of a network belong to which finding: three for one with an uncertain class, one for another.

    Parameters
    ----------
    wide
        For each finding whether it has three.
    """

    wide: tuple[bool, ...]

    @classmethod
    def of(cls, data: DataPart) -> Outputs:
        """As a recipe has it."""
        return cls(tuple(_policy(data, finding) is Policy.MULTICLASS for finding in data.findings))

    @property
    def count(self) -> int:
        """Outputs that the network needs."""
        return sum(3 if wide else 1 for wide in self.wide)

    def logits(self, outputs: Tensor) -> Tensor:
        """One logit for each finding: from (n, count) to (n, findings)."""
        parts = self._split(outputs)
        return torch.stack([of_classes(p) if p.shape[1] == 3 else p[:, 0] for p in parts], 1)

    def loss(self, outputs: Tensor, targets: Tensor, plain: Loss) -> Tensor:
        """`plain` over the findings with one output, cross-entropy over those with three, by their numbers."""
        if not any(self.wide):
            return plain(outputs, targets)
        parts = self._split(outputs)
        three = [i for i, wide in enumerate(self.wide) if wide]
        one = [i for i, wide in enumerate(self.wide) if not wide]
        loss = len(three) * uncertain_classes(torch.stack([parts[i] for i in three], 1), targets[:, three])
        if one:
            loss = loss + len(one) * plain(torch.cat([parts[i] for i in one], 1), targets[:, one])
        return loss / len(self.wide)

    def _split(self, outputs: Tensor) -> tuple[Tensor, ...]:
        return torch.split(outputs, [3 if wide else 1 for wide in self.wide], 1)


def _policy(data: DataPart, finding: str) -> Policy:
    if finding in data.merged:
        return Policy.IGNORE
    return Policy(data.uncertain.get(finding, data.uncertain.get("others", "ignore")))


def _target(record: Record, finding: str, data: DataPart) -> float:
    if finding in data.merged:
        return _any([_value(record, part, data) for part in data.merged[finding]])
    return _value(record, finding, data)


def _value(record: Record, key: str, data: DataPart) -> float:
    if key in record.labels:
        return record.labels[key]
    smoothed = _policy(data, key) in (Policy.SMOOTH_ONES, Policy.SMOOTH_ZEROS)
    return record.soft.get(key, math.nan) if smoothed else math.nan


def _any(values: Sequence[float]) -> float:
    """Present if any is; absent only if all are known to be."""
    if 1.0 in values:
        return 1.0
    return 0.0 if all(value == 0.0 for value in values) else math.nan

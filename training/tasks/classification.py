"""Findings on one radiograph, each for itself: several, one or none may be there.

The rule: a label that is not known teaches nothing and is judged by nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from training.labels import Outputs, label_matrix, soft_matrix
from training.losses import LABEL_LOSSES, distilled, label_loss
from training.sampling import IntArray, mixup, rarest_group
from training.tasks.common import Material, PictureTask, answers, make_sampler, mean_defined, named

FIGURES: Mapping[str, bool] = {"auroc": True, "loss": False}
LOSSES = LABEL_LOSSES


@dataclass(frozen=True)
class Options:
    """None."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures (n, 1, h, w), targets and a teacher's probabilities (n, findings)."""

    pictures: Tensor
    targets: Tensor
    soft: Tensor


class Classification(PictureTask):
    """Learns findings from labels, and from a teacher if the loss is ``distilled``."""

    figures: Mapping[str, bool] = FIGURES

    def __init__(self, material: Material, network: nn.Module) -> None:
        super().__init__(material, network)
        data, loss = self.recipe.data, self.recipe.loss
        self.outputs = Outputs.of(data)
        self.targets = label_matrix(self.pictures.records, data)
        self.soft = soft_matrix(self.pictures.records, data)
        labels = self.targets[material.train]
        self.sampler = make_sampler(
            self.recipe.sampler, material.train, self.recipe.schedule.epochs,
            rarest_group(labels), np.any(np.nan_to_num(labels) > 0.5, axis=1),
        )  # fmt: skip
        plain = [i for i, wide in enumerate(self.outputs.wide) if not wide]
        self._plain: Callable[..., Tensor] = (
            distilled if loss.kind == "distilled"
            else label_loss(loss.kind, dict(loss.options), torch.from_numpy(labels[:, plain]))
        )  # fmt: skip
        self.notes = (self.sampler.note,) if self.sampler.note else ()

    def order(self, epoch: int, rng: np.random.Generator) -> IntArray:
        """Rows as the sampler gives them."""
        return self.sampler.order(epoch, rng)

    def load(self, items: IntArray) -> Batch:
        """Pictures and targets of rows."""
        return Batch(
            torch.from_numpy(self.pictures.values(items)),
            torch.from_numpy(self.targets[items]),
            torch.from_numpy(self.soft[items]),
        )

    def losses(self, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        """The loss that the recipe names, on changed pictures."""
        pictures, _, _ = self.changed(batch.pictures.to(device))
        targets, soft = batch.targets.to(device), batch.soft.to(device)
        if self.recipe.augmentation.mixup:
            pictures, (targets, soft) = mixup(pictures, (targets, soft), self.recipe.augmentation.mixup)
        return {"loss": self._loss(self._logits(pictures), targets, soft)}

    def validate(self, device: torch.device) -> dict[str, float]:
        """Mean AUROC of the findings that have both classes, and the loss."""
        rows = self.material.val
        outputs = self.predict(rows, device)
        loss = self._loss(outputs, torch.from_numpy(self.targets[rows]), torch.from_numpy(self.soft[rows]))
        return {"auroc": mean_auroc(self.targets[rows], self.outputs.logits(outputs).numpy()), "loss": float(loss)}

    def predict(self, rows: IntArray, device: torch.device) -> Tensor:
        """All outputs of the network on rows, on the CPU; averaged with those of the mirrored pictures if wished."""
        found = []
        batch = self.recipe.schedule.batch
        for _, pictures, output in answers(
            self.module, self.pictures, rows, device=device, batch=batch, what="judging"
        ):
            logits = named(output, "logits")["logits"]
            if self.recipe.evaluation.mirror:
                logits = (logits + self._logits(pictures.flip(-1))) / 2
            found.append(logits.cpu())
        return torch.cat(found) if found else torch.zeros(0, self.outputs.count)

    def _logits(self, pictures: Tensor) -> Tensor:
        logits: Tensor = named(self.module(pictures), "logits")["logits"]
        if logits.shape[1] != self.outputs.count:
            raise ValueError(f"the network has {logits.shape[1]} outputs, the findings need {self.outputs.count}")
        return logits

    def _loss(self, outputs: Tensor, targets: Tensor, soft: Tensor) -> Tensor:
        if self.recipe.loss.kind == "distilled":
            return distilled(self.outputs.logits(outputs), targets, soft, **self.recipe.loss.options)
        return self.outputs.loss(outputs, targets, self._plain)


def mean_auroc(targets: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> float:
    """Mean AUROC over the columns of shape (n, findings) that hold both 0 and 1; NaN without one."""

    def one(column: int) -> float:
        truth = targets[:, column]
        known = (truth == 0) | (truth == 1)
        if len(np.unique(truth[known])) < 2:
            return math.nan
        return float(roc_auc_score(truth[known], scores[known, column]))

    return mean_defined(one, targets.shape[1])


def build(material: Material, network: nn.Module) -> Classification:
    """The task."""
    return Classification(material, network)

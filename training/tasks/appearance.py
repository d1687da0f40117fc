"""The class of a study, of several that exclude each other: negative, typical, indeterminate or atypical for COVID-19.

The rule: a study is one sample, whatever number of images it has; it is told from all of them together.

An image's outputs are its logits, and with attention one number more that says how much it counts. As the last layer of
a network is linear, weighting the logits is weighting the features (Ilse et al., ICML 2018), and a study of one image
has just that image's answer: the node, which reads image by image, loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from training.labels import label_matrix
from training.sampling import IntArray
from training.tables import choose, fill
from training.tasks.common import Material, PictureTask, make_sampler, mean_defined, named


def cross_entropy(logits: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the soft-max with probabilities (n, classes)."""
    return functional.cross_entropy(logits, targets, label_smoothing=smoothing)


FIGURES = {"accuracy": True, "auroc": True, "loss": False}
LOSSES = {"cross_entropy": cross_entropy}


@dataclass(frozen=True)
class Options:
    """How images make a study.

    Parameters
    ----------
    pooling
        ``mean`` of the images' logits, or ``attention``, for which the network has one output more than classes.
    most
        Images of one study that are looked at in training: the first ones.
    """

    pooling: str = "mean"
    most: int = 4


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures (images, 1, h, w), the number of the study that each belongs to, and targets (studies, classes)."""

    pictures: Tensor
    study: Tensor
    targets: Tensor


class Appearance(PictureTask):
    """Learns the class of studies; items are studies, counted from 0."""

    figures = FIGURES

    def __init__(self, material: Material, network: nn.Module) -> None:
        super().__init__(material, network)
        recipe, records = self.recipe, self.pictures.records
        self.options = fill(Options, recipe.task.options, "[task]")
        choose(self.options.pooling, ("mean", "attention"), "[task] pooling")
        labels = label_matrix(records, recipe.data)
        rows: dict[str, list[int]] = {}
        for row, record in enumerate(records):
            # a study carries its class on each of its images; one without exactly one class teaches nothing
            if np.nansum(labels[row]) == 1 and not np.isnan(labels[row]).any():
                rows.setdefault(record.study, []).append(row)
        names, part = list(rows), set(material.train.tolist())
        self.rows = [np.array(rows[name]) for name in names]
        self.targets = np.stack([labels[rows[name][0]] for name in names]) if names else labels[:0]
        within = np.array([rows[name][0] in part for name in names], np.bool_)
        chosen = set(material.val.tolist())
        self.train = np.flatnonzero(within)
        self.val = np.array([i for i, name in enumerate(names) if rows[name][0] in chosen], np.int64)
        classes = self.targets[self.train].argmax(1).astype(np.int64)
        self.sampler = make_sampler(
            recipe.sampler, self.train, recipe.schedule.epochs, classes, np.ones(len(classes), np.bool_)
        )
        self._smooth = float(recipe.loss.options.get("smoothing", 0.0))
        self.notes = (self.sampler.note,) if self.sampler.note else ()

    def order(self, epoch: int, rng: np.random.Generator) -> IntArray:
        """Studies as the sampler gives them."""
        return self.sampler.order(epoch, rng)

    def load(self, items: IntArray) -> Batch:
        """Pictures of studies."""
        parts = [self.rows[item][: self.options.most] for item in items]
        study = np.repeat(np.arange(len(items)), [len(part) for part in parts])
        pictures = self.pictures.values(np.concatenate(parts))
        return Batch(torch.from_numpy(pictures), torch.from_numpy(study), torch.from_numpy(self.targets[items]))

    def losses(self, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        """Cross-entropy of the studies, on changed pictures."""
        pictures, _, _ = self.changed(batch.pictures.to(device))
        study, targets = batch.study.to(device), batch.targets.to(device)
        if self.recipe.augmentation.mixup:
            pictures, targets = mix_studies(pictures, study, targets, self.recipe.augmentation.mixup)
        return {"loss": cross_entropy(self._logits(pictures, study, len(targets)), targets, smoothing=self._smooth)}

    def validate(self, device: torch.device) -> dict[str, float]:
        """Accuracy, mean AUROC of the classes, and cross-entropy, by studies."""
        logits = self.predict(self.val, device)
        targets = torch.from_numpy(self.targets[self.val])
        scores, truth = logits.softmax(1).numpy(), targets.numpy()

        def one(column: int) -> float:
            both = 0 < truth[:, column].sum() < len(truth)
            return float(roc_auc_score(truth[:, column], scores[:, column])) if both else float("nan")

        return {
            "accuracy": float((scores.argmax(1) == truth.argmax(1)).mean()) if len(truth) else float("nan"),
            "auroc": mean_defined(one, truth.shape[1]),
            "loss": float(cross_entropy(logits, targets, smoothing=self._smooth)),
        }

    def predict(self, studies: IntArray, device: torch.device) -> Tensor:
        """Logits of studies (n, classes) from all of their images, on the CPU."""
        found = []
        for item in studies:
            pictures = torch.from_numpy(self.pictures.values(self.rows[item])).to(device)
            study = torch.zeros(len(pictures), dtype=torch.int64, device=device)
            logits = self._logits(pictures, study, 1)
            if self.recipe.evaluation.mirror:
                logits = (logits + self._logits(pictures.flip(-1), study, 1)) / 2
            found.append(logits.cpu())
        return torch.cat(found) if found else torch.zeros(0, len(self.recipe.data.findings))

    def _logits(self, pictures: Tensor, study: Tensor, count: int) -> Tensor:
        outputs: Tensor = named(self.module(pictures), "logits")["logits"]
        classes = len(self.recipe.data.findings)
        wanted = classes + (self.options.pooling == "attention")
        if outputs.shape[1] != wanted:
            raise ValueError(f"the network has {outputs.shape[1]} outputs, {self.options.pooling} needs {wanted}")
        return pool(outputs, study, count, classes)


def pool(outputs: Tensor, study: Tensor, count: int, classes: int) -> Tensor:
    """From outputs of images to logits of studies (count, classes).

    Parameters
    ----------
    outputs
        Shape (images, classes), or one column more: the logarithm of how much an image counts.
    study
        Shape (images,), from 0 to count - 1.
    """
    weight = outputs[:, classes] if outputs.shape[1] > classes else outputs.new_zeros(len(outputs))
    highest = weight.new_full((count,), -torch.inf).scatter_reduce(0, study, weight, "amax")
    share = (weight - highest[study]).exp()
    share = share / share.new_zeros(count).index_add(0, study, share)[study]
    return outputs.new_zeros(count, classes).index_add(0, study, share[:, None] * outputs[:, :classes])


def mix_studies(pictures: Tensor, study: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Mixup of studies: each image is blended with one of the partner's, in turn, all of a study by one share."""
    count = len(targets)
    partner = torch.randperm(count)
    share = torch.distributions.Beta(alpha, alpha).sample((count,))
    rows = [torch.nonzero(study.cpu() == i).flatten() for i in range(count)]
    other = torch.cat(
        [rows[int(partner[i])][torch.arange(len(rows[i])) % len(rows[int(partner[i])])] for i in range(count)]
    )
    weight = share.to(pictures.device)
    of_image = weight[study][:, None, None, None]
    mixed = of_image * pictures + (1 - of_image) * pictures[other.to(pictures.device)]
    return mixed, weight[:, None] * targets + (1 - weight[:, None]) * targets[partner.to(targets.device)]


def build(material: Material, network: nn.Module) -> Appearance:
    """The task."""
    return Appearance(material, network)

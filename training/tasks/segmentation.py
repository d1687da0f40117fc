"""Outlines of structures or findings.

The rule: a structure that nobody drew on a picture teaches nothing there; one that somebody looked for in vain is an
empty mask. Masks are judged as in SIIM-ACR 2019: an empty answer to an empty mask has a Dice of 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.losses import DeepSupervisionLoss
from torch import Tensor, nn
from torch.nn import functional

from models.contracts import MaskContract
from models.masks import outlined
from training.losses import MASK_LOSSES, Loss, mask_loss
from training.metrics.overlap import dice
from training.sampling import IntArray
from training.tables import fill
from training.tasks.common import Material, Outputs, PictureTask, answers, make_sampler, named, single

FIGURES = {"dice": True, "loss": False}
LOSSES = MASK_LOSSES


@dataclass(frozen=True)
class Options:
    """What is beside the masks' own loss, and what becomes a mask.

    Parameters
    ----------
    empty_weight
        Of the cross-entropy of a head that tells whether a mask is empty (0.1 in SIIM-ACR's fourth place).
    threshold
        Probability from which a pixel belongs to the mask.
    empty_threshold
        Probability of being empty above which a mask is emptied (0.4 there).
    least_area
        Pixels of the picture below which a mask is emptied (800 of 768 x 768 there).
    """

    empty_weight: float = 0.1
    threshold: float = 0.5
    empty_threshold: float = 1.0
    least_area: int = 0


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures (n, 1, h, w), masks (n, structures, h, w), and what was drawn (n, structures)."""

    pictures: Tensor
    masks: Tensor
    drawn: Tensor


class Segmentation(PictureTask):
    """Learns masks; uses the outputs ``empty`` and ``deep`` of networks that have them."""

    figures = FIGURES

    def __init__(self, material: Material, network: nn.Module) -> None:
        super().__init__(material, network)
        recipe = self.recipe
        self.options = fill(Options, recipe.task.options, "[task]")
        self.drawn = np.array([[key in r.masks for key in recipe.data.findings] for r in self.pictures.records])
        filled = self.pictures.filled(material.train)
        self.sampler = make_sampler(
            recipe.sampler, material.train, recipe.schedule.epochs, filled.astype(np.int64), filled
        )
        self._mask_loss: Loss = mask_loss(recipe.loss.kind, dict(recipe.loss.options))
        self.notes = (self.sampler.note,) if self.sampler.note else ()

    def order(self, epoch: int, rng: np.random.Generator) -> IntArray:
        """Rows as the sampler gives them."""
        return self.sampler.order(epoch, rng)

    def load(self, items: IntArray) -> Batch:
        """Pictures and masks of rows."""
        return Batch(
            torch.from_numpy(self.pictures.values(items)),
            torch.from_numpy(self.pictures.masks(items)),
            torch.from_numpy(self.drawn[items]),
        )

    def losses(self, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        """Loss of the masks, of coarser levels with half the weight each, and of the empty head."""
        pictures, masks, _ = self.changed(batch.pictures.to(device), batch.masks.to(device))
        masks = (masks > 0.5).float()
        if self.recipe.augmentation.crop:
            pictures, masks = random_crop(pictures, masks, self.recipe.augmentation.crop)
        return self._losses(named(self.module(pictures), "masks"), masks, batch.drawn.to(device))

    def validate(self, device: torch.device) -> dict[str, float]:
        """Mean Dice over pictures and the structures drawn on them, and the mean loss of the batches."""
        scores, losses = [], []
        rows, size = self.material.val, self.recipe.schedule.batch
        for part, pictures, output in answers(
            self.module, self.pictures, rows, device=device, batch=size, what="judging"
        ):
            found = named(output, "masks")
            truth, drawn = torch.from_numpy(self.pictures.masks(part)), torch.from_numpy(self.drawn[part])
            losses.append(float(self._losses(found, truth.to(device), drawn.to(device))["loss"]))
            if self.recipe.evaluation.mirror:
                other = named(self.module(pictures.flip(-1)), "masks")
                other["masks"] = other["masks"].flip(-1)
                found = {name: (found[name] + other[name]) / 2 for name in found}
            reading = self.reading(found)
            masks = [outlined(single(found, i), reading) for i in range(len(part))]
            scores += [dice(masks[i][k], truth[i, k].bool().numpy()) for i, k in drawn.nonzero().tolist()]
        return {"dice": _mean(scores), "loss": _mean(losses)}

    def reading(self, found: Outputs) -> MaskContract:
        """How masks are read from a network with these outputs, here and by the node."""
        options, score = self.options, "empty" if "empty" in found else "area"
        return MaskContract(options.threshold, options.least_area, score, options.empty_threshold)

    def _losses(self, found: dict[str, Tensor], masks: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        levels = [found["masks"], *reversed(found.get("deep", []))]
        parts = {"masks": DeepSupervisionLoss(self._drawn_only(drawn))(levels, masks)}
        loss = parts["masks"]
        if "empty" in found:
            target = (masks.sum((2, 3)) == 0).float()
            each = functional.binary_cross_entropy_with_logits(found["empty"], target, reduction="none")
            parts["empty"] = (each * drawn).sum() / drawn.sum().clamp(min=1)
            loss = loss + self.options.empty_weight * parts["empty"]
        return {"loss": loss, **parts}

    def _drawn_only(self, drawn: Tensor) -> Loss:
        """The loss of the masks over what somebody drew; of one that is an average over pictures and structures."""
        if bool(drawn.all()):
            return self._mask_loss

        def loss(logits: Tensor, masks: Tensor) -> Tensor:
            total = logits.sum() * 0.0
            for k in range(drawn.shape[1]):
                if (rows := drawn[:, k]).any():
                    share = rows.sum() / drawn.sum()
                    total = total + share * self._mask_loss(logits[rows, k : k + 1], masks[rows, k : k + 1])
            return total

        return loss


def random_crop(pictures: Tensor, masks: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The same random square of all pictures and masks of a batch."""
    height, width = pictures.shape[-2:]
    top, left = int(torch.randint(max(1, height - side + 1), ())), int(torch.randint(max(1, width - side + 1), ()))
    window = (..., slice(top, top + side), slice(left, left + side))
    return pictures[window], masks[window]


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def build(material: Material, network: nn.Module) -> Segmentation:
    """The task."""
    return Segmentation(material, network)

"""Self-distillation without labels: a student tells from small parts what its teacher tells from large ones.

The rule: the teacher is the moving average of the student and is never trained; its answers are centred, so that not
everything looks alike to it, and sharpened, so that not everything looks different (Caron et al., ICCV 2021).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from models.networks import VisionTransformer
from training.augmentation import change_tones
from training.tables import fill
from training.tasks.common import Material, answers
from training.tasks.views import Unlabelled, random_parts, standardised, trunk_of

FIGURES = {"loss": False, "spread": True}
LOSSES: dict[str, Any] = {}


@dataclass(frozen=True)
class Options:
    """The task's own settings; the defaults are those of the published ViT-S/16.

    Parameters
    ----------
    outputs
        Of the head: how many kinds of pictures it can tell apart.
    hidden, bottleneck
        Width of these layers of the head.
    local_parts
        Number of small parts of a picture.
    local_side
        Their side, in pixels.
    boundary
        Share of the picture's area that large parts exceed and small ones do not.
    momentum
        Of the teacher in the first step; it rises to 1 by a cosine.
    student_temperature
        By which the student's answers are divided.
    teacher_temperature
        By which the teacher's are, from a tenth of the steps on.
    warm_temperature
        From which the teacher's begins.
    centre_momentum
        Of the mean of the teacher's answers.
    """

    outputs: int = 65_536
    hidden: int = 2048
    bottleneck: int = 256
    local_parts: int = 8
    local_side: int = 96
    boundary: float = 0.25
    momentum: float = 0.996
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    warm_temperature: float = 0.04
    centre_momentum: float = 0.9


class Head(nn.Module):
    """Three layers to a short vector of length one, and a layer of directions."""

    def __init__(self, width: int, options: Options) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, options.hidden), nn.GELU(), nn.Linear(options.hidden, options.hidden), nn.GELU(),
            nn.Linear(options.hidden, options.bottleneck),
        )  # fmt: skip
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last = weight_norm(nn.Linear(options.bottleneck, options.outputs, bias=False))
        lengths = self.last.parametrizations.weight.original0
        nn.init.ones_(lengths)
        lengths.requires_grad_(requires_grad=False)  # only directions are learnt

    def forward(self, x: Tensor) -> Tensor:
        """From (n, width) to logits (n, outputs)."""
        logits: Tensor = self.last(functional.normalize(self.layers(x), dim=-1))
        return logits


class Branch(nn.Module):
    """A trunk and its head."""

    def __init__(self, trunk: VisionTransformer, options: Options) -> None:
        super().__init__()
        self.trunk, self.head = trunk, Head(trunk.width, options)

    def forward(self, pictures: Tensor) -> Tensor:
        """From pictures (n, 1, h, w), 0 to 1, to logits (n, outputs)."""
        logits: Tensor = self.head(self.trunk(standardised(pictures, self.trunk)))
        return logits


class Pair(nn.Module):
    """Student, teacher, and the mean of the teacher's answers."""

    def __init__(self, trunk: VisionTransformer, options: Options) -> None:
        super().__init__()
        self.student = Branch(trunk, options)
        self.teacher = copy.deepcopy(self.student)
        self.teacher.requires_grad_(requires_grad=False)
        self.centre = nn.Buffer(torch.zeros(options.outputs))


class SelfDistillation(Unlabelled):
    """Learns from parts of pictures; what is shipped is the teacher's trunk."""

    figures = FIGURES

    def __init__(self, material: Material, network: nn.Module) -> None:
        self.options = fill(Options, material.recipe.task.options, "[task]")
        self.pair = Pair(trunk_of(network), self.options)
        super().__init__(material, self.pair)
        self._done = 0.0

    @property
    def shipped(self) -> nn.Module:
        """The teacher's trunk."""
        return self.pair.teacher.trunk

    def losses(self, batch: Tensor, device: torch.device) -> dict[str, Tensor]:
        """Cross-entropy of the student's answers with the teacher's, over all pairs of different parts."""
        pictures = batch.to(device)
        large = [self._part(pictures, self.pictures.size, self.options.boundary, 1.0) for _ in range(2)]
        small = [
            self._part(pictures, self.options.local_side, 0.05, self.options.boundary)
            for _ in range(self.options.local_parts)
        ]
        with torch.no_grad():
            taught = [self.pair.teacher(part).float() for part in large]
        told = [self.pair.student(part).float() for part in (*large, *small)]
        loss = self._loss(told, taught)
        with torch.no_grad():
            keep = self.options.centre_momentum
            self.pair.centre.mul_(keep).add_(torch.cat(taught).mean(0), alpha=1 - keep)
        return {"loss": loss}

    def after_step(self, done: float) -> None:
        """The teacher follows the student, ever more slowly."""
        self._done = done
        momentum = 1 - (1 - self.options.momentum) * (math.cos(math.pi * done) + 1) / 2
        with torch.no_grad():
            pairs = zip(self.pair.teacher.parameters(), self.pair.student.parameters(), strict=True)
            for mine, other in pairs:
                mine.mul_(momentum).add_(other, alpha=1 - momentum)

    def validate(self, device: torch.device) -> dict[str, float]:
        """The loss between whole pictures and large parts, and whether answers have collapsed.

        ``spread`` is the mean deviation of the teacher's features, set to length one, times the root of their number:
        about 1 when they differ in every direction, 0 when all pictures look alike.
        """
        losses, features, size = [], [], self.recipe.schedule.batch
        for part, pictures, _ in answers(
            _nothing, self.pictures, self.material.val, device=device, batch=size, what="judging"
        ):
            other = random_parts(pictures, self.pictures.size, self.options.boundary, 1.0)
            taught, told = self.pair.teacher(pictures).float(), self.pair.student(other).float()
            losses.append(len(part) * float(self._entropy(told, taught)))
            trunk = self.pair.teacher.trunk
            features.append(functional.normalize(trunk(standardised(pictures, trunk)).float(), dim=-1).cpu())
        if not features:
            return {"loss": float("nan"), "spread": float("nan")}
        known = torch.cat(features)
        spread = float(known.std(0, correction=0).mean()) * math.sqrt(known.shape[1])
        return {"loss": float(np.sum(losses)) / len(known), "spread": spread}

    def _part(self, pictures: Tensor, side: int, smallest: float, largest: float) -> Tensor:
        return change_tones(random_parts(pictures, side, smallest, largest), self.recipe.augmentation).clamp(0, 1)

    def _loss(self, told: list[Tensor], taught: list[Tensor]) -> Tensor:
        pairs = [
            self._entropy(mine, theirs) for j, theirs in enumerate(taught) for i, mine in enumerate(told) if i != j
        ]
        return torch.stack(pairs).mean()

    def _entropy(self, told: Tensor, taught: Tensor) -> Tensor:
        options = self.options
        warm = min(1.0, self._done / 0.1)
        temperature = options.warm_temperature + (options.teacher_temperature - options.warm_temperature) * warm
        wanted = ((taught - self.pair.centre) / temperature).softmax(1)
        return -(wanted * (told / options.student_temperature).log_softmax(1)).sum(1).mean()


def _nothing(pictures: Tensor) -> None:
    """`answers` gives pictures; student and teacher see different ones."""


def build(material: Material, network: nn.Module) -> SelfDistillation:
    """The task."""
    return SelfDistillation(material, network)

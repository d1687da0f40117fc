"""Boxes around findings.

The rule: a finding whose boxes nobody looked for on a picture is not taught there; an empty list says that somebody
looked. Networks are a centre detector (``models.networks.HeatDetector``) or MONAI's RetinaNet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.boxes import Boxes, boxes_of
from models.contracts import BoxContract
from training.losses import centre_l1, heat_focal
from training.metrics.detection import Detections
from training.sampling import IntArray
from training.tables import choose, fill
from training.tasks.boxes import as_detections, average_precision, centre_maps, move_boxes
from training.tasks.common import Material, PictureTask, answers, make_sampler, named, single

LEAST_SCORE = 1e-4  # an image without any box is at most this sure
FIGURES = {"ap50": True, "loss": False}
LOSSES: dict[str, Any] = {}


@dataclass(frozen=True)
class Options:
    """How boxes are learnt.

    Parameters
    ----------
    head
        ``heat`` for a centre detector, ``retina`` for a RetinaNet.
    size_weight, offset_weight
        Weight of that distance beside the heat map's loss (``heat``).
    anchor
        Side of the smallest anchors in pixels of the picture (``retina``).
    levels
        Of the pyramid (``retina``).
    least_score
        Confidence from which a box is told.
    limit
        Boxes on a picture at most.
    """

    head: str = "heat"
    size_weight: float = 0.5
    offset_weight: float = 1.0
    anchor: float = 32.0
    levels: int = 4
    least_score: float = 0.05
    limit: int = 20


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures (n, 1, h, w), and for each picture and finding its boxes (k, 4)."""

    pictures: Tensor
    boxes: list[list[Tensor]]


class Detection(PictureTask):
    """Learns boxes."""

    figures = FIGURES

    def __init__(self, material: Material, network: nn.Module) -> None:
        super().__init__(material, network)
        recipe = self.recipe
        self.options = fill(Options, recipe.task.options, "[task]")
        choose(self.options.head, ("heat", "retina"), "[task] head")
        records, findings = self.pictures.records, recipe.data.findings
        known = np.array([all(key in r.boxes for key in findings) for r in records], np.bool_)
        self.train = material.train[known[material.train]]
        self.val = material.val[known[material.val]]
        filled = np.array([any(records[row].boxes[key] for key in findings) for row in self.train], np.bool_)
        self.sampler = make_sampler(recipe.sampler, self.train, recipe.schedule.epochs, filled.astype(np.int64), filled)
        unknown = len(material.train) - len(self.train)
        notes = [f"{unknown} pictures without anybody's boxes were not used."] if unknown else []
        self.notes = (*notes, *([self.sampler.note] if self.sampler.note else []))
        self._retina: Any = None
        self._teller = network
        if self.options.head == "retina":
            from training.tasks.retina import detector, with_boxes

            options = self.options
            self._retina = detector(network, options.anchor, options.levels)
            self._teller = with_boxes(network, self.pictures.size, options.anchor, options.levels)

    def order(self, epoch: int, rng: np.random.Generator) -> IntArray:
        """Rows as the sampler gives them."""
        return self.sampler.order(epoch, rng)

    def load(self, items: IntArray) -> Batch:
        """Pictures and boxes of rows."""
        return Batch(torch.from_numpy(self.pictures.values(items)), [self._boxes(int(row)) for row in items])

    def set_training(self) -> None:
        """As every task; MONAI's wrapper knows by its own mode that losses are wanted."""
        super().set_training()
        if self._retina is not None:
            self._retina.training = True

    def losses(self, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        """The detector's losses on changed pictures, whose boxes moved along."""
        pictures, _, matrices = self.changed(batch.pictures.to(device))
        moved = []
        for boxes, matrix in zip(batch.boxes, matrices.cpu(), strict=True):
            pairs = [move_boxes(found, matrix, self.pictures.size) for found in boxes]
            moved.append([found[kept] for found, kept in pairs])
        return self._losses(pictures, moved)

    def validate(self, device: torch.device) -> dict[str, float]:
        """Average precision at an overlap of one half, the mean over findings, and the mean loss."""
        findings = range(len(self.recipe.data.findings))
        found: list[list[Detections]] = [[] for _ in findings]
        losses, size = [], self.recipe.schedule.batch
        for part, pictures, output in answers(
            self.tell, self.pictures, self.val, device=device, batch=size, what="judging"
        ):
            boxes = [self._boxes(int(row)) for row in part]
            losses.append(float(self._losses(pictures, boxes)["loss"]))
            for one in self.boxes(output, len(part)):
                for k in findings:
                    found[k].append(as_detections(one.of(k)))
        truths = [[self._boxes(int(row))[k].double().numpy() for row in self.val] for k in findings]
        precisions = np.array([average_precision(found[k], truths[k]) for k in findings])
        defined = precisions[np.isfinite(precisions)]
        return {
            "ap50": float(defined.mean()) if len(defined) else float("nan"),
            "loss": float(np.mean(losses)) if losses else float("nan"),
        }

    def _boxes(self, row: int) -> list[Tensor]:
        return [torch.from_numpy(self.pictures.boxes(row, key)) for key in self.recipe.data.findings]

    def tell(self, pictures: Tensor) -> Any:
        """What the node's network says of pictures (n, 1, h, w)."""
        return self._teller.to(pictures.device)(pictures)

    def boxes(self, output: Any, count: int) -> list[Boxes]:
        """The boxes of each picture, as the node reads them."""
        found = named(output, "heat")
        return [boxes_of(single(found, i), self.reading) for i in range(count)]

    @property
    def reading(self) -> BoxContract:
        """How boxes are read, here and by the node; from where on they are drawn is settled in judging."""
        options = self.options
        head = "anchors" if options.head == "retina" else options.head
        return BoxContract(head, options.least_score, LEAST_SCORE, options.limit, {})

    def _losses(self, pictures: Tensor, boxes: list[list[Tensor]]) -> dict[str, Tensor]:
        if self._retina is not None:
            return self._retina_losses(pictures, boxes)
        maps = named(self.module(pictures), "heat")
        wanted = centre_maps(boxes, pictures.shape[-1], maps["heat"].shape[-1])
        wanted = {name: value.to(pictures.device) for name, value in wanted.items()}
        parts = {
            "heat": heat_focal(maps["heat"], wanted["heat"]),
            "size": centre_l1(maps["size"], wanted["size"], wanted["centres"]),
            "offset": centre_l1(maps["offset"].sigmoid(), wanted["offset"], wanted["centres"]),
        }
        loss = parts["heat"] + self.options.size_weight * parts["size"] + self.options.offset_weight * parts["offset"]
        return {"loss": loss, **parts}

    def _retina_losses(self, pictures: Tensor, boxes: list[list[Tensor]]) -> dict[str, Tensor]:
        from training.tasks.retina import turned

        targets = [
            {
                "boxes": turned(torch.cat(found)).to(pictures.device),
                "labels": torch.cat([torch.full((len(b),), k) for k, b in enumerate(found)]).to(pictures.device),
            }
            for found in boxes
        ]
        self._retina.training = True  # the wrapper's own flag: its network keeps the mode that it is in
        parts = {name: value.float() for name, value in self._retina(pictures, targets).items()}
        return {"loss": torch.stack([v.to(pictures.device) for v in parts.values()]).sum(), **parts}


def build(material: Material, network: nn.Module) -> Detection:
    """The task."""
    return Detection(material, network)

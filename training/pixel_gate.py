"""Trains ``pixel_gate``: whether a picture is an upright frontal chest radiograph of an adult, and what else it is.

The rule: what is turned, mirrored or inverted is made from pictures of the same folds as the upright ones, so that the
orientation is all that differs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from models.networks import GateNet
from models.pixel_gate import CLASSES, MIRRORED
from training.augmentation import Augmentation, augment
from training.averaging import MovingAverage
from training.backbone import load_squeezenet
from training.data import data_digest
from training.gate_evidence import judge, write
from training.gate_samples import (
    APART,
    COMPUTED,
    FOLDS,
    MADE,
    GateSamples,
    HalfArray,
    load_gate_samples,
    make,
    natural_pictures,
    read_gate_records,
)
from training.turning import turn

NETWORK: dict[str, Any] = {"_target_": "models.networks.GateNet", "mirrored": list(MIRRORED)}
TEACHING, CALIBRATING, HELD_OUT = tuple(range(4, FOLDS)), (2, 3), (0, 1)
AUGMENTATION = Augmentation(degrees=14, log_scale=0.25, shift=0.15, log_aspect=0.22)
BATCH = 32
STEPS = 280  # of an epoch
# How often each class is shown; sides are the hardest to tell.
SHARES = {
    "frontal": 0.40, "mirrored": 0.18, "child": 0.14, "turned_left": 0.035, "turned_right": 0.035,
    "upside_down": 0.05, "inverted": 0.05, "lateral": 0.03, "other": 0.08,
}  # fmt: skip
_REAL_OTHERS = 0.35  # of "other" are real pictures, the rest is made
_SMOOTHING = 0.02


def train(data: Path, bundle: Path, weights: Path, *, epochs: int, seed: int) -> None:
    """Train, calibrate, judge on held-out groups of pictures and write the bundle.

    Parameters
    ----------
    data
        Folder with ``nih_chestxray14``, ``adult_normals_224``, ``lung_masks``, ``chest_structures``,
        ``covid_unlabelled``, ``hannover_covid``, ``paediatric_pneumonia``, ``view_gate`` and ``dicom``.
    bundle
        Folder of the bundle, written whole.
    weights
        SqueezeNet 1.0 trained on ImageNet.
    """
    records = read_gate_records(data)
    samples = load_gate_samples(records, seed)
    network = fit(samples, natural_pictures(held_out=False), weights, epochs=epochs, seed=seed)
    # the bundle holds half precision: what ships is what is judged
    network.load_state_dict({k: v.half().float() for k, v in network.state_dict().items()})
    sources = sorted({record.source for record in samples.records} - set(APART))
    provenance = {
        "command": f"./hilum train pixel_gate --epochs {epochs} --seed {seed}",
        "seed": seed,
        "epochs": epochs,
        "data_sha256": data_digest(record.image for record in records),
        "computed_chests": COMPUTED,
        "images": {
            part: {source: int(sum(f in folds and r.source == source
                                   for f, r in zip(samples.fold, samples.records, strict=True))) for source in sources}
            for part, folds in (("taught", TEACHING), ("calibrated", CALIBRATING), ("held_out", HELD_OUT))
        },
    }  # fmt: skip
    write(bundle, network, NETWORK, judge(network, samples, data, CALIBRATING, HELD_OUT), provenance)


def fit(samples: GateSamples, natural: HalfArray, weights: Path, *, epochs: int, seed: int) -> GateNet:
    """Train on the teaching folds; returns the averaged network in evaluation mode.

    Parameters
    ----------
    natural
        Shape (m, size, size): photographs and graphics.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = GateNet(MIRRORED)
    load_squeezenet(network.trunk, weights)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.trunk.conv1.requires_grad_(False)  # edges are edges
    trunk = [p for p in network.trunk.parameters() if p.requires_grad]
    head = [*network.reduce.parameters(), *network.classes.parameters()]
    optimiser = torch.optim.AdamW([{"params": trunk}, {"params": head}], weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [4e-4, 2e-3], total_steps=epochs * STEPS, pct_start=0.15)
    average = MovingAverage(network, 0.998)
    lessons = Lessons(samples, natural, rng)
    network.train()
    with tqdm(total=epochs * STEPS, desc="training", unit="step") as progress:
        for _ in range(epochs * STEPS):
            pictures, classes = lessons.batch()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = network.look(pictures.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(logits.float(), classes, label_smoothing=_SMOOTHING)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 2.0)
            optimiser.step()
            schedule.step()
            average.update()
            progress.update()
            progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    network.load_state_dict(average.state)
    return network.eval()


class Lessons:
    """Draws batches: pictures of the teaching folds, turned, mirrored, inverted or replaced as their class says."""

    def __init__(self, samples: GateSamples, natural: HalfArray, rng: np.random.Generator) -> None:
        self.rng = rng
        self.pools = {
            shows: samples.pictures[samples.indices(shows, TEACHING)] for shows in ("frontal", "child", "lateral")
        }
        self.others = np.concatenate((samples.pictures[samples.indices("other", TEACHING)], natural))
        # few hospitals gave many pictures: each source is drawn equally often as the square root of its size
        frontal = samples.indices("frontal", TEACHING)
        sources = np.array([samples.records[i].source for i in frontal])
        weight = {source: (sources == source).sum() ** -0.5 for source in set(sources)}
        chances = np.array([weight[source] for source in sources])
        self.chances = chances / chances.sum()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Pictures (n, 1, size, size) and their classes (n,)."""
        classes = self.rng.choice(len(CLASSES), BATCH, p=[SHARES[name] for name in CLASSES])
        names = [list(CLASSES)[i] for i in classes]
        chosen = torch.stack([torch.from_numpy(self._picture(name).astype(np.float32)) for name in names])[:, None]
        pictures, _, _ = augment(chosen, chosen[:, :, ::8, ::8], AUGMENTATION)
        pictures = torch.stack([turn(picture[0], name)[None] for picture, name in zip(pictures, names, strict=True)])
        return self._coarsen(pictures), torch.from_numpy(classes)

    def _picture(self, name: str) -> npt.NDArray[Any]:
        if name == "other":
            if self.rng.random() < _REAL_OTHERS:
                return self._draw(self.others)
            chest = torch.from_numpy(self._chest().astype(np.float32))
            return make(chest, MADE[int(self.rng.integers(len(MADE)))]).numpy()
        if name in ("child", "lateral"):
            return self._draw(self.pools[name])
        # children are turned and inverted as well, but a mirrored child stays a child
        if name not in ("frontal", "mirrored") and self.rng.random() < 0.2:
            return self._draw(self.pools["child"])
        return self._chest()

    def _chest(self) -> npt.NDArray[Any]:
        pool = self.pools["frontal"]
        chosen: npt.NDArray[Any] = pool[int(self.rng.choice(len(pool), p=self.chances))]
        return chosen

    def _draw(self, pool: npt.NDArray[Any]) -> npt.NDArray[Any]:
        chosen: npt.NDArray[Any] = pool[int(self.rng.integers(len(pool)))]
        return chosen

    def _coarsen(self, pictures: Tensor) -> Tensor:
        """Half of the batches lose detail, so that the resolution of a collection does not give it away."""
        size = pictures.shape[-1]
        if self.rng.random() < 0.5:
            small = functional.interpolate(pictures, size=int(self.rng.integers(size // 2, size)), mode="area")
            pictures = functional.interpolate(small, size=size, mode="bilinear")
        return pictures

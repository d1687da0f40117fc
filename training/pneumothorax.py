"""Trains ``pneumothorax``: outlines learnt from pneumothoraces drawn into real radiographs, judged on real ones.

No set here has real outlines, and 49 pictures are labelled (by text mining). So the network learns from pictures
without one, into half of which one is drawn (``synthetic_pneumothorax``), and every labelled picture is kept for the
judgement: none of their patients is trained on.

The rule: what is drawn teaches, and says nothing about how good it is. The card's figures are of real pictures; those
of drawn ones stand beside them as what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from models.findings import BoolMask
from models.networks import EfficientNetLite, LiteUNet
from models.rendering import network_input, render_picture
from training.augmentation import Augmentation, augment
from training.backbone import load_efficientnet_lite
from training.data import FindingRecord, data_digest, read_findings, split_patients
from training.fine_tuning import FineTuning, Rates
from training.lung_crop import LungFinder
from training.pneumothorax_evidence import INPUT_SIZE, HeldOut, write
from training.synthetic_pneumothorax import draw_distractor, draw_pneumothorax

KEY = "pneumothorax"
FOLDS, TESTED = 3, (0,)  # of the patients without one: as many are kept for the judgement
VIEWS = 5  # drawings of each picture
DRAWN, DISTRACTED = 0.5, 0.4  # shares of the views
BATCH = 8
RATES = Rates(trunk=1e-4, head=1e-3, weight_decay=0.02, average=0.99)
AUGMENTATION = Augmentation(
    degrees=8,
    log_scale=0.15,
    shift=0.06,
    flip=0.5,
    log_gamma=0.35,
    contrast=0.25,
    brightness=0.08,
    noise=0.02,
    border=0.0,
)
Halves = npt.NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class Pictures:
    """Radiographs as the network sees them, and their lungs.

    Parameters
    ----------
    pictures
        Shape (n, INPUT_SIZE, INPUT_SIZE), 0 to 1.
    lungs
        Of each, the lungs without the heart before them, right and left of the patient; empty where none were found.
    """

    pictures: Halves
    lungs: list[tuple[BoolMask, ...]]


@dataclass(frozen=True, eq=False)
class Lessons:
    """What the frozen first layers give for every drawing, and the air in it.

    Parameters
    ----------
    fine, low
        Shapes (n, 24, side / 4, side / 4) and (n, 40, side / 8, side / 8).
    air
        Share of each cell, shape (n, side / 4, side / 4).
    """

    fine: Halves
    low: Halves
    air: Halves


def train(data: Path, bundle: Path, weights: Path, *, epochs: int, seed: int) -> None:
    """Train, judge on real pictures and write the bundle.

    Parameters
    ----------
    data
        Folder with ``nih_chestxray14``.
    weights
        EfficientNet-Lite0, trained on ImageNet (see ``backbone.published_efficientnet_lite``).
    """
    torch.manual_seed(seed)
    records = [record for record in read_findings(data) if KEY in record.labels]
    learnt, tested = split(records, seed)
    trunk = EfficientNetLite()
    load_efficientnet_lite(trunk, weights)
    finder = LungFinder()
    network = LiteUNet()
    network.trunk.load_state_dict(trunk.state_dict())
    lessons = prepare(network.trunk, render(learnt, finder), seed)
    fit(network, lessons, epochs=epochs, seed=seed)
    real = render(tested, finder)
    drawn = [one for one in draw(real, np.random.default_rng(seed)) if one[1].any()]
    provenance = {
        "command": f"./hilum train pneumothorax --epochs {epochs} --seed {seed}",
        "seed": seed,
        "data_sha256": data_digest([r.image for r in records] + [data / "nih_chestxray14" / "labels.csv"]),
        "starts_from_sha256": data_digest([weights]),
        "lungs_sha256": finder.digest,
        "images": {"trained": len(learnt), "held_out": len(tested)},
        "patients": {"trained": len({r.patient for r in learnt}), "held_out": len({r.patient for r in tested})},
    }
    answered = np.concatenate([masks for masks in answer(network, real.pictures)])
    on_drawn = np.concatenate([masks for masks in answer(network, np.array([p for p, _ in drawn], np.float16))])
    held_out = HeldOut(tested, answered, on_drawn, np.array([air for _, air in drawn]))
    write(bundle, network, held_out, provenance, seed)


def split(records: list[FindingRecord], seed: int) -> tuple[list[FindingRecord], list[FindingRecord]]:
    """What is learnt from, and what is judged on: every picture of a patient who ever had one, and some others."""
    had_one = {record.patient for record in records if record.labels[KEY] == 1}
    folds = split_patients([record.patient for record in records], FOLDS, seed)
    tested = {patient for patient, fold in folds.items() if fold in TESTED} | had_one
    return [r for r in records if r.patient not in tested], [r for r in records if r.patient in tested]


def render(records: list[FindingRecord], finder: LungFinder) -> Pictures:
    """Render pictures, and outline the lungs on them."""
    pictures = np.empty((len(records), INPUT_SIZE, INPUT_SIZE), np.float16)
    lungs = []
    for i, record in enumerate(tqdm(records, desc="rendering", unit="image")):
        image = render_picture(record.image)
        pictures[i], _ = network_input(image, INPUT_SIZE)
        lungs.append(finder.aired(image, INPUT_SIZE))
    return Pictures(pictures, lungs)


def draw(pictures: Pictures, rng: np.random.Generator) -> Iterator[tuple[npt.NDArray[np.float32], BoolMask]]:
    """Each picture anew, with or without a pneumothorax and a distractor; and the air, empty where there is none."""
    for half, lungs in zip(pictures.pictures, pictures.lungs, strict=True):
        picture, air = half.astype(np.float32), np.zeros(half.shape, np.bool_)
        if lungs and rng.random() < DISTRACTED:
            picture = draw_distractor(picture, np.logical_or.reduce(lungs), rng)
        if lungs and rng.random() < DRAWN:
            picture, air = draw_pneumothorax(picture, lungs[rng.integers(len(lungs))], rng)
        yield picture, air


def prepare(trunk: EfficientNetLite, pictures: Pictures, seed: int) -> Lessons:
    """Draw `VIEWS` of each picture, change them, and work out what the first layers give."""
    torch.manual_seed(seed)
    trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast
    rng = np.random.default_rng(seed)
    count, side = VIEWS * len(pictures.pictures), INPUT_SIZE
    lessons = Lessons(
        np.empty((count, trunk.FINE, side // 4, side // 4), np.float16),
        np.empty((count, trunk.LOW, side // 8, side // 8), np.float16),
        np.empty((count, side // 4, side // 4), np.float16),
    )
    drawings = (drawing for _ in range(VIEWS) for drawing in draw(pictures, rng))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for i, (picture, air) in enumerate(tqdm(drawings, desc="drawing", unit="image", total=count)):
            x, marked = torch.from_numpy(picture)[None, None], torch.from_numpy(air.astype(np.float32))[None, None]
            x, marked, _ = augment(x, marked, AUGMENTATION)
            fine = trunk.fine(x)
            lessons.fine[i], lessons.low[i] = fine[0].float().numpy(), trunk.coarser(fine)[0].float().numpy()
            lessons.air[i] = functional.avg_pool2d(marked, 4)[0, 0].numpy()
    return lessons


def fit(network: LiteUNet, lessons: Lessons, *, epochs: int, seed: int) -> None:
    """Train further from the trunk's middle on; the network then holds the moving average of its weights."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    assert network.outlines.bias is not None  # noqa: S101  (it has one)
    nn.init.constant_(network.outlines.bias, -4.0)  # air is rare
    count = len(lessons.air)
    steps = count // VIEWS // BATCH
    tuning = FineTuning(network, RATES, epochs * steps)
    for _ in tqdm(range(epochs), desc="pneumothorax", unit="epoch"):
        for chosen in np.split(rng.permutation(count)[: steps * BATCH], steps):
            fine, low, air = (
                torch.from_numpy(part[chosen].astype(np.float32)) for part in (lessons.fine, lessons.low, lessons.air)
            )
            with torch.autocast("cpu", torch.bfloat16):
                logits = network.learn(
                    fine.contiguous(memory_format=torch.channels_last),
                    low.contiguous(memory_format=torch.channels_last),
                )
            loss = loss_of(logits[:, 0].float(), air)
            tuning.step(loss)
    tuning.finish()


def loss_of(logits: Tensor, air: Tensor) -> Tensor:
    """Cross-entropy of cells, and of the pictures with air one minus the Dice of their outline.

    Parameters
    ----------
    logits, air
        Shape (n, h, w); `air` is the share of a cell, 0 to 1.
    """
    loss = functional.binary_cross_entropy_with_logits(logits, air, pos_weight=torch.tensor(3.0))
    some = air.flatten(1).sum(1) > 0
    if some.any():
        found, there = logits[some].sigmoid().flatten(1), air[some].flatten(1)
        dice = (2 * (found * there).sum(1) + 1) / (found.sum(1) + there.sum(1) + 1)
        loss = loss + 0.3 * (1 - dice).mean()
    return loss


def answer(network: LiteUNet, pictures: Halves) -> Iterator[Halves]:
    """Logits of outlines, a batch of shape (n, 1, INPUT_SIZE, INPUT_SIZE) at a time."""
    with torch.inference_mode():
        for start in tqdm(range(0, len(pictures), BATCH), desc="asking", unit="batch"):
            x = torch.from_numpy(pictures[start : start + BATCH].astype(np.float32))[:, None]
            yield network(x)["masks"].numpy().astype(np.float16)

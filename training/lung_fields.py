"""Trains ``lung_fields``: right lung, left lung, heart; evaluates it on held-out patients and writes the bundle.

The rule: one fifth of the patients is never trained on, and every figure of the card comes from them.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.networks.nets import UNet
from pydicom import dcmread
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from models.refusal import ImageRefused
from models.rendering import network_input, render, render_picture
from training.augmentation import Augmentation, augment
from training.averaging import MovingAverage
from training.data import (
    BoolArray,
    data_digest,
    read_adult_normals,
    read_other_pictures,
    read_structures,
    split_patients,
)
from training.lung_evidence import (
    OUTLINES_PLOT,
    Evidence,
    Outliner,
    fit_plausibility,
    judge,
    judge_computed,
    made_wrong,
    refusals,
    write,
)
from training.lung_samples import INPUT_SIZE, SEGMENTS, HalfArray, Samples, load_samples
from training.negatives import MADE_FROM_CHESTS, spoil

NETWORK: dict[str, Any] = {
    "_target_": "monai.networks.nets.UNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": len(SEGMENTS),
    "channels": [16, 32, 64, 128, 192],
    "strides": [2, 2, 2, 2],
    "num_res_units": 2,
    "norm": "batch",
}
# Sides are learnt, so nothing is mirrored; strong tones, for detectors differ.
AUGMENTATION = Augmentation(degrees=12, log_scale=0.22, shift=0.12)
BATCH = 8
WRONG = 2  # pictures without a frontal chest that each batch has in addition
FOLDS = 5
HELD_OUT = (0,)  # folds of the drawn pictures that are never trained on
OTHERS_HELD_OUT = (0, 1)  # and of what is no frontal chest: few pictures, so more of them are kept for the judgement
UNSEEN = 400  # pictures of each unseen collection on which false refusals are counted


@dataclass(frozen=True, eq=False)
class Split:
    """What was drawn and what is no frontal chest, and which of each is held out."""

    samples: Samples
    held_out: BoolArray
    others: Samples
    others_held_out: BoolArray


def train(data: Path, bundle: Path, *, epochs: int, seed: int) -> None:
    """Train, evaluate and write the bundle.

    Parameters
    ----------
    data
        Folder with ``lung_masks``, ``chest_structures`` and ``view_gate``; the refusals are also counted on
        ``nih_chestxray14``, ``adult_normals_224``, ``hannover_covid`` and ``dicom``, as far as they are there.
    bundle
        Folder of the bundle, written whole.
    """
    records, wrong = read_structures(data), read_other_pictures(data)
    samples, others = load_samples(records), load_samples(wrong, "rendering what is no frontal chest")
    folds = split_patients([*samples.patients, *others.patients], FOLDS, seed)
    held_out = np.array([folds[patient] in HELD_OUT for patient in samples.patients])
    others_held_out = np.array([folds[patient] in OTHERS_HELD_OUT for patient in others.patients])
    network = fit(samples, ~held_out, others.pictures[~others_held_out], epochs=epochs, seed=seed)
    files = [path for record in (*records, *wrong) for path in (record.image, *record.masks.values())]
    provenance = {
        "command": f"./hilum train lung_fields --epochs {epochs} --seed {seed}",
        "seed": seed,
        "epochs": epochs,
        "data_sha256": data_digest(files),
        "patients": {"trained": len({p for p in samples.patients if folds[p] not in HELD_OUT}),
                     "held_out": len({p for p in samples.patients if folds[p] in HELD_OUT})},
        "images": {"trained": int((~held_out).sum()), "held_out": int(held_out.sum()),
                   "no_chest_trained": int((~others_held_out).sum()), "no_chest_held_out": int(others_held_out.sum())},
    }  # fmt: skip
    conclude(data, bundle, network, Split(samples, held_out, others, others_held_out), provenance)


def conclude(data: Path, bundle: Path, network: nn.Module, split: Split, provenance: dict[str, Any]) -> None:
    """Judge a trained network on what was held out and write its bundle."""
    # the bundle holds half precision: what ships is what is judged
    network.load_state_dict(
        {k: v.half().float() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    )
    outliner, samples = Outliner(network), split.samples
    plausibility = fit_plausibility(outliner, list(samples.pictures[~split.held_out]))
    groups = {
        "held-out chests": list(samples.pictures[split.held_out]),
        "unseen collections of frontal chests": _unseen_frontals(data),
        "held-out lateral radiographs and CT figures": list(split.others.pictures[split.others_held_out]),
        "hip and tibia radiographs (DICOM)": _limbs(data),
        **{f"held-out chests, {kind}" if kind in MADE_FROM_CHESTS else f"made in code: {kind}": pictures
           for kind, pictures in made_wrong(samples.pictures[split.held_out], seed=0)},
    }  # fmt: skip
    evidence = Evidence(
        **judge(outliner, samples, split.held_out),
        computed=judge_computed(outliner, INPUT_SIZE, bundle / "docs" / OUTLINES_PLOT),
        refused=refusals(outliner, plausibility, groups),
    )
    section = {
        "interpreter": "structures",
        "input_size": INPUT_SIZE,
        "segments": list(SEGMENTS),
        "plausibility": asdict(plausibility),
        "provenance": provenance,
    }
    write(bundle, network, NETWORK, section, evidence)


def _unseen_frontals(data: Path) -> list[npt.NDArray[np.float32]]:
    """Pictures of collections that no part of the training uses, evenly drawn from each."""
    paths: list[Path] = []
    drawn = {record.image.stem for record in read_structures(data)}  # some of Hannover's pictures lie in lung_masks
    for folder in ("nih_chestxray14/images", "hannover_covid/images"):
        paths += _evenly(sorted(p for p in (data / folder).glob("*.jpg") if p.stem not in drawn), UNSEEN)
    normals = data / "adult_normals_224" / "labels.csv"
    paths += [record.image for record in read_adult_normals(data, UNSEEN)] if normals.exists() else []
    return [
        network_input(render_picture(path), INPUT_SIZE)[0] for path in tqdm(paths, desc="rendering unseen frontals")
    ]


def _limbs(data: Path) -> list[npt.NDArray[np.float32]]:
    """The radiographs of hips and tibias among the real DICOM files, those that can be decoded."""
    pictures = []
    for path in sorted((data / "dicom").glob("RG*.dcm")):
        try:
            pictures.append(network_input(render(dcmread(path)), INPUT_SIZE)[0])
        except ImageRefused as refusal:
            print(f"{path.name}: {refusal}", file=sys.stderr)
    return pictures


def _evenly(paths: list[Path], count: int) -> list[Path]:
    return paths[:: max(1, len(paths) // count)][:count]


def fit(samples: Samples, chosen: BoolArray, others: HalfArray, *, epochs: int, seed: int) -> nn.Module:
    """Train on the chosen samples; returns the averaged network in evaluation mode.

    Parameters
    ----------
    others
        Shape (m, size, size): pictures of anything but a frontal chest, on which nothing is to be outlined.
    """
    torch.manual_seed(seed)
    network = UNet(**{k: v for k, v in NETWORK.items() if k != "_target_"}).to(memory_format=torch.channels_last)
    rng = np.random.default_rng(seed)
    # few hearts were drawn: those pictures come twice
    pool = np.concatenate([np.flatnonzero(chosen), np.flatnonzero(chosen & samples.drawn[:, 2])])
    steps = len(pool) // BATCH
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * steps, pct_start=0.15)
    average = MovingAverage(network, 0.995)
    with tqdm(total=epochs * steps, desc="training", unit="step") as progress:
        for _ in range(epochs):
            order = rng.permutation(pool)
            for step in range(steps):
                batch = order[step * BATCH : (step + 1) * BATCH]
                chests = torch.from_numpy(samples.pictures[batch].astype(np.float32))[:, None]
                wrong = _wrong_pictures(chests[:WRONG], others, rng)
                pictures = torch.cat((chests, wrong))
                empty = np.zeros((len(wrong), *samples.masks.shape[1:]), np.bool_)
                masks = torch.from_numpy(np.concatenate((samples.masks[batch], empty))).float()
                drawn = torch.from_numpy(np.pad(samples.drawn[batch], ((0, len(wrong)), (0, 0)), constant_values=True))
                pictures, masks, _ = augment(pictures, masks, AUGMENTATION)
                # bfloat16 halves the time; the loss and the weights stay single
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    logits = network(pictures)
                loss = segmentation_loss(logits.float(), masks, drawn.float())
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), 2.0)
                optimiser.step()
                schedule.step()
                average.update()
                progress.update()
                progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    network.load_state_dict(average.state)
    trained: nn.Module = network.eval()
    return trained


def _wrong_pictures(chests: Tensor, others: HalfArray, rng: np.random.Generator) -> Tensor:
    """For each chest a picture of which nothing is to be outlined: real ones and made ones by turns."""
    wrong = spoil(chests)
    for i in range(len(wrong)):
        if len(others) and rng.random() < 0.5:
            picture = torch.from_numpy(others[int(rng.integers(len(others)))].astype(np.float32))
            wrong[i, 0] = picture.flip(-1) if rng.random() < 0.5 else picture
    return wrong


def segmentation_loss(logits: Tensor, masks: Tensor, drawn: Tensor) -> Tensor:
    """Cross-entropy and soft Dice, over the structures that somebody drew."""
    weight = drawn[:, :, None, None]
    entropy = (functional.binary_cross_entropy_with_logits(logits, masks, reduction="none") * weight).mean()
    scores = torch.sigmoid(logits)
    overlap, total = (scores * masks).sum((2, 3)), scores.sum((2, 3)) + masks.sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    return 2 * entropy + (dice * drawn).sum() / drawn.sum().clamp(min=1)

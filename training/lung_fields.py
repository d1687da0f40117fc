"""Trains ``lung_fields``: right lung, left lung, heart; evaluates it on held-out patients and writes the bundle.

The rule: one fifth of the patients is never trained on, and every figure of the card comes from them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from models.bundle import write_bundle
from models.findings import View
from models.rendering import Frame
from models.structures import cardiothoracic_ratio, clean
from training.augmentation import Augmentation, augment
from training.averaging import MovingAverage
from training.card import Card, metadata, plot_histograms, write_card
from training.data import (
    BoolArray,
    StructureRecord,
    data_digest,
    network_mask,
    network_pictures,
    read_structures,
    split_patients,
    split_sides,
)
from training.evaluation import Interval, mean_interval
from training.negatives import spoil

FloatArray = npt.NDArray[np.float16]

SEGMENTS = ("lung_right", "lung_left", "heart")
INPUT_SIZE = 256
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
BASELINE_DICE = 0.952  # a U-Net of 275k parameters at 160 px on 80 unseen images of the same set


@dataclass(frozen=True, eq=False)
class Samples:
    """Pictures as the network sees them.

    Parameters
    ----------
    pictures
        Shape (n, size, size), 0 to 1.
    masks, drawn
        Shape (n, 3, size, size), in the order of `SEGMENTS`, and which of them somebody drew: shape (n, 3).
    second
        Number of a picture to the lungs that a second reader drew on it, shape (size, size).
    """

    pictures: npt.NDArray[np.float16]
    masks: npt.NDArray[np.bool_]
    drawn: npt.NDArray[np.bool_]
    frames: list[Frame]
    patients: list[str]
    second: dict[int, npt.NDArray[np.bool_]]


def train(data: Path, bundle: Path, *, epochs: int, seed: int) -> None:
    """Train, evaluate and write the bundle.

    Parameters
    ----------
    data
        Folder with ``lung_masks`` and ``chest_structures``.
    bundle
        Folder of the bundle, written whole.
    """
    records = read_structures(data)
    samples = load_samples(records)
    folds = split_patients(samples.patients, 5, seed)
    held_out = np.array([folds[patient] == 0 for patient in samples.patients])
    network = fit(samples, ~held_out, epochs=epochs, seed=seed)
    figures = evaluate(network, samples, held_out)
    files = [path for record in records for path in (record.image, *record.masks.values())]
    provenance = {
        "command": f"./hilum train lung_fields --epochs {epochs} --seed {seed}",
        "seed": seed,
        "epochs": epochs,
        "data_sha256": data_digest(files),
        "patients": {"trained": len({p for p in samples.patients if folds[p] != 0}),
                     "held_out": len({p for p in samples.patients if folds[p] == 0})},
        "images": {"trained": int((~held_out).sum()), "held_out": int(held_out.sum())},
    }  # fmt: skip
    write(bundle, network, figures, provenance)


def load_samples(records: list[StructureRecord], what: str = "rendering") -> Samples:
    """Render every record as the network will see it, with its masks; a record without any is no frontal chest."""
    pictures, frames = network_pictures([r.image for r in records], INPUT_SIZE, what)
    masks = np.zeros((len(records), len(SEGMENTS), INPUT_SIZE, INPUT_SIZE), np.bool_)
    drawn = np.zeros((len(records), len(SEGMENTS)), np.bool_)
    second = {}
    for i, (record, frame) in enumerate(zip(records, frames, strict=True)):
        found = {key: network_mask(path, frame) for key, path in record.masks.items()}
        if "lung_fields" in found:
            masks[i, :2] = split_sides(found["lung_fields"])
            drawn[i, :2] = True
            if "lung_right" in found and "lung_left" in found:
                second[i] = found["lung_right"] | found["lung_left"]
        for channel, key in enumerate(SEGMENTS):
            if key in found and not drawn[i, channel]:
                masks[i, channel], drawn[i, channel] = found[key], True
    return Samples(pictures, masks, drawn, frames, [r.patient for r in records], second)


def fit(samples: Samples, chosen: BoolArray, others: FloatArray, *, epochs: int, seed: int) -> nn.Module:
    """Train on the chosen samples; returns the averaged network in evaluation mode.

    Parameters
    ----------
    others
        Shape (m, size, size): pictures of anything but a frontal chest, on which nothing is to be outlined.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = UNet(**{k: v for k, v in NETWORK.items() if k != "_target_"}).to(memory_format=torch.channels_last)
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
                wrong = _wrong_pictures(chests, others, rng)
                pictures = torch.cat((chests, wrong))
                empty = np.zeros((len(wrong), *samples.masks.shape[1:]), np.bool_)
                masks = torch.from_numpy(np.concatenate((samples.masks[batch], empty))).float()
                drawn = torch.from_numpy(np.pad(samples.drawn[batch], ((0, WRONG), (0, 0)), constant_values=True))
                pictures, masks, _ = augment(pictures, masks, AUGMENTATION)
                # half the work in half precision; the loss and the weights stay single
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


def _wrong_pictures(chests: Tensor, others: FloatArray, rng: np.random.Generator) -> Tensor:
    """Pictures of which nothing is to be outlined, shape (WRONG, 1, size, size): real ones and made ones by turns."""
    wrong = spoil(chests[:WRONG])
    for i in range(WRONG):
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


def evaluate(network: nn.Module, samples: Samples, held_out: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Dice of each structure and error of the cardiothoracic ratio, each held-out image by itself."""
    dice: dict[str, list[tuple[float, str]]] = {key: [] for key in ("lungs", *SEGMENTS)}
    ratio_errors: list[tuple[float, str]] = []
    for i in tqdm(np.flatnonzero(held_out), desc="evaluating", unit="image"):
        with torch.inference_mode():
            logits = network(torch.from_numpy(samples.pictures[i].astype(np.float32))[None, None])[0]
        found = np.stack([clean(field) >= 0.5 for field in torch.sigmoid(logits).numpy()])
        truth, drawn, patient = samples.masks[i], samples.drawn[i], samples.patients[i]
        for channel, key in enumerate(SEGMENTS):
            if drawn[channel]:
                dice[key].append((dice_of(found[channel], truth[channel]), patient))
        if drawn[0]:
            dice["lungs"].append((dice_of(found[0] | found[1], truth[0] | truth[1]), patient))
        if drawn.all():
            ours = cardiothoracic_ratio(found[0], found[1], found[2], View.PA, "")
            theirs = cardiothoracic_ratio(truth[0], truth[1], truth[2], View.PA, "")
            if ours and theirs:
                ratio_errors.append((abs(ours.value - theirs.value), patient))
    return {"dice": dice, "ratio_errors": ratio_errors}


def dice_of(found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Twice the overlap over the sum of the areas (Dice, 1945); 1 when both are empty."""
    total = int(found.sum() + truth.sum())
    return 2 * int((found & truth).sum()) / total if total else 1.0


def write(bundle: Path, network: nn.Module, figures: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Write weights, contract and card."""
    summary = {key: _summary(values) for key, values in figures["dice"].items()}
    summary["ctr_absolute_error"] = _summary(figures["ratio_errors"])
    section = {
        "interpreter": "structures",
        "input_size": INPUT_SIZE,
        "segments": list(SEGMENTS),
        "provenance": provenance,
        "figures": {key: asdict(interval) for key, interval in summary.items()},
    }
    described = metadata(
        "Right lung, left lung and heart on frontal chest radiographs",
        "Outlines for the cardiothoracic ratio and for telling sides. Research only, not a medical device.",
        channels=1,
        size=INPUT_SIZE,
        outputs={str(i): key for i, key in enumerate(SEGMENTS)},
    )
    write_bundle(bundle, network, {"network_def": NETWORK}, {**described, "hilum": section})
    plot = plot_histograms(
        bundle / "docs" / "dice.png",
        {key: [v for v, _ in figures["dice"][key]] for key in SEGMENTS},
        "Dice",
        BASELINE_DICE,
    )
    rows = [(key.replace("_", " "), str(summary[key]), str(len(figures["dice"].get(key, figures["ratio_errors"]))))
            for key in summary]  # fmt: skip
    write_card(
        bundle,
        Card(
            title="lung_fields",
            purpose="Outlines the right lung, the left lung and the heart (with the great vessels) on a frontal chest "
            "radiograph; from them come the cardiothoracic ratio and the side of a finding.",
            data="Lung outlines: 345 radiographs of patients with COVID-19 (`lung_masks`, CC BY 4.0), including the "
            "lung behind the heart. Heart outlines: 83 radiographs (`chest_structures`). Held out: one fifth of the "
            "patients, none of whose images was trained on.",
            header=("structure", "Dice (or absolute error of the ratio), 95 % interval by patient", "images"),
            rows=rows,
            notes=(
                f"Baseline: a U-Net of 275k parameters at 160 px reached a lung Dice of {BASELINE_DICE} on other "
                "held-out patients of the same set.",
                "Every patient of the lung outlines had COVID-19, many of them lying (AP). Other diseases, lungs after "
                "resection, were not seen.",
                "The heart outline includes the great vessels; the ratio is taken at its widest row. On AP views it "
                "is reported with a caution, for the heart is magnified.",
                "A picture without a plausible pair of lungs is refused (`lungs_not_found`).",
            ),
            plots=(plot,),
            provenance=json.dumps(provenance, indent=1),
        ),
    )


def _summary(values: list[tuple[float, str]]) -> Interval:
    return mean_interval(np.array([v for v, _ in values]), [patient for _, patient in values])

"""Trains ``chest_findings`` (the 14 NIH findings, any abnormality) and ``lung_opacity`` (with boxes) together.

A network that has learnt to see on ImageNet is trained further from its middle on; its first layers stay as they are,
so that what they give for six views of each picture is worked out once. Findings are learnt from labels that are
softened by the scores of another model, opacities from boxes and outlines that people drew.

The rule: every figure and threshold comes from patients that the weights behind it have not seen (five folds by
patient). What ships is trained on all in the same way: the figures are those of the folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from models.networks import EfficientNetLite
from models.networks.findings import shares
from models.rendering import Frame
from models.resampling import resize
from training.augmentation import Augmentation, augment
from training.backbone import load_efficientnet_lite
from training.data import (
    FindingRecord,
    data_digest,
    network_mask,
    network_pictures,
    paint_boxes,
    read_findings,
    read_outlined_opacities,
    split_patients,
)
from training.evidence import CELLS, FOLDS, INPUT_SIZE, OUTPUTS, FloatArray, HeldOut, Samples, write
from training.findings_learner import FindingsLearner
from training.fine_tuning import FineTuning, Rates
from training.opacity_evidence import write_opacity

VIEWS = 6  # the picture itself and five changed copies
TEACHER_SHARE = 0.8  # of the targets, where there is one; chosen with MIXING on two of the five folds
MIXING = 0.4  # of mixup's beta distribution
BATCH = 16
RATES = Rates(trunk=2e-4, head=2e-3, weight_decay=0.05, average=0.99)
OPACITY_SHARE = 0.3  # of the loss, once for the image and once for the boxes
AUGMENTATION = Augmentation(
    degrees=8,
    log_scale=0.12,
    shift=0.06,
    flip=0.5,
    log_gamma=0.35,
    contrast=0.25,
    brightness=0.08,
    noise=0.03,
    border=0.0,
)
Lows = npt.NDArray[np.float16]


def train(data: Path, bundle: Path, weights: Path, kept: Path, *, epochs: int, seed: int) -> None:
    """Train, evaluate by patient and write the bundles: `bundle`, and ``lung_opacity`` beside it.

    Parameters
    ----------
    data
        Folder with ``nih_chestxray14``.
    weights
        EfficientNet-Lite0, trained on ImageNet (see ``backbone.published_efficientnet_lite``).
    kept
        Folder for the networks of the folds: one that lies there from the same command and data is not trained again.
    """
    torch.manual_seed(seed)
    records = [*read_findings(data), *read_outlined_opacities(data)]
    trunk = EfficientNetLite()
    load_efficientnet_lite(trunk, weights)
    pictures, frames = network_pictures([r.image for r in records], INPUT_SIZE, "rendering")
    lows, samples = look(trunk, pictures, draw_opacities(records, frames), records, seed)
    held_out = HeldOut(np.zeros((len(records), len(OUTPUTS))), np.zeros((len(records), CELLS, CELLS)))
    provenance = {
        "command": f"./hilum train chest_findings --epochs {epochs} --seed {seed}",
        "seed": seed,
        "data_sha256": data_digest(
            [
                *(path for record in records for path in (record.image, *record.outlines)),
                *(data / "nih_chestxray14" / name for name in ("labels.csv", "boxes_512.csv")),
            ]
        ),
        "starts_from_sha256": data_digest([weights]),
        "images": len(records),
        "patients": len(set(samples.patients)),
    }

    def fitted(inside: npt.NDArray[np.bool_], own_seed: int, part: str) -> FindingsLearner:
        return kept_or_made(
            kept / f"{part}.pt",
            provenance,
            lambda: fit(trunk, lows, samples, inside, epochs=epochs, seed=own_seed, what=part),
        )

    for fold in range(FOLDS):
        unseen = samples.fold == fold
        network = fitted(~unseen, seed + fold, f"fold {fold + 1}")
        held_out.logits[unseen], held_out.maps[unseen] = answer(network, lows, unseen)
    findings, opacity = fitted(samples.fold >= 0, seed, "all").parts()
    write(bundle, findings, samples, held_out, provenance)
    write_opacity(bundle.with_name("lung_opacity"), opacity, samples, held_out, provenance)


def kept_or_made(file: Path, provenance: dict[str, Any], make: Callable[[], FindingsLearner]) -> FindingsLearner:
    """The network of a file, if it was made as `provenance` says; else a new one, which is kept there."""
    if file.exists():
        saved = torch.load(file, weights_only=True)
        if saved["provenance"] == provenance:
            network = FindingsLearner(len(OUTPUTS) - 1, CELLS)
            network.load_state_dict(saved["state"])
            return network.eval()
    network = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".part")
    torch.save({"provenance": provenance, "state": network.state_dict()}, draft)
    draft.rename(file)
    return network


def look(
    trunk: EfficientNetLite,
    pictures: npt.NDArray[np.float16],
    drawn: npt.NDArray[np.float32],
    records: list[FindingRecord],
    seed: int,
) -> tuple[Lows, Samples]:
    """What the first layers give for every view of every picture, (views, n, 40, h / 8, w / 8), and the labels.

    Parameters
    ----------
    drawn
        From `draw_opacities`.
    """
    torch.manual_seed(seed)
    trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast
    count, side = len(records), INPUT_SIZE // 8
    lows = np.empty((VIEWS, count, trunk.LOW, side, side), np.float16)
    opaque = torch.empty(VIEWS, count, CELLS, CELLS)
    with torch.inference_mode(), tqdm(total=VIEWS * count, desc="first layers", unit="image") as progress:
        for view in range(VIEWS):
            for start in range(0, count, BATCH):
                chosen = slice(start, start + BATCH)
                x = torch.from_numpy(pictures[chosen].astype(np.float32))[:, None]
                marked = torch.from_numpy(drawn[chosen])[:, None]
                if view:
                    x, marked, _ = augment(x, marked, AUGMENTATION)
                # changed copies are only trained on: half precision, faster, is good enough for them
                with torch.autocast("cpu", torch.bfloat16, enabled=view > 0):
                    lows[view, chosen] = trunk.low(x).float().numpy()
                opaque[view, chosen] = functional.avg_pool2d(marked, 4)[:, 0]
                progress.update(len(x))
    dealt = split_patients([r.patient for r in records], FOLDS, seed)
    truth = np.array([[r.labels.get(key, np.nan) for key in OUTPUTS] for r in records], np.float32)
    teacher = np.array([[r.teacher.get(key, np.nan) for key in OUTPUTS] for r in records], np.float32)
    fold = np.array([dealt[r.patient] for r in records])
    return lows, Samples(records, fold, truth, teacher, opaque, frozen_features(trunk, lows))


def frozen_features(trunk: EfficientNetLite, lows: Lows) -> FloatArray:
    """Mean and spread of what the published trunk gives of each picture, low and in its middle: (n, features)."""
    features = []
    with torch.inference_mode():
        for start in range(0, lows.shape[1], BATCH):
            near = torch.from_numpy(lows[0, start : start + BATCH].astype(np.float32))
            maps = (near, trunk.high(near)[0])
            features.append(torch.cat([of(part, (2, 3)) for part in maps for of in (torch.mean, torch.std)], 1))
    return torch.cat(features).double().numpy()


def draw_opacities(
    records: Sequence[FindingRecord], frames: Sequence[Frame], side: int = 4 * CELLS
) -> npt.NDArray[np.float32]:
    """Boxes and outlines as pictures of shape (n, side, side)."""
    drawn = np.zeros((len(records), side, side), np.float32)
    for canvas, record, frame in zip(drawn, records, frames, strict=True):
        paint_boxes(canvas, record.boxes.get("lung_opacity", ()))
        for path in record.outlines:
            canvas[:] = np.maximum(canvas, resize(network_mask(path, frame).astype(np.float32), side, side))
    return drawn


def fit(
    trunk: EfficientNetLite,
    lows: Lows,
    samples: Samples,
    inside: npt.NDArray[np.bool_],
    *,
    epochs: int,
    seed: int,
    what: str,
) -> FindingsLearner:
    """A network that has learnt from the samples inside: the moving average of its weights, ready to answer."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pool, targets, looked_at = np.flatnonzero(inside), soft_targets(samples), samples.looked_at
    network, steps = begin(trunk, samples, pool), len(pool) // BATCH
    tuning = FineTuning(network, RATES, epochs * steps)
    for _ in tqdm(range(epochs), desc=what, unit="epoch"):
        order = rng.permutation(pool)
        for chosen in np.split(order[: steps * BATCH], steps):
            views = rng.integers(VIEWS, size=BATCH)
            low, wanted = mix(lows[views, chosen].astype(np.float32), targets[chosen], ~looked_at[chosen], rng)
            with torch.autocast("cpu", torch.bfloat16):
                logits, heat = network(torch.from_numpy(low).contiguous(memory_format=torch.channels_last))
            marked = samples.opaque[torch.from_numpy(views), torch.from_numpy(chosen)]
            marked[torch.from_numpy(~looked_at[chosen])] = torch.nan
            loss = loss_of(logits.float(), heat.float(), torch.from_numpy(wanted), marked)
            tuning.step(loss)
    tuning.finish()
    return network


def mix(
    low: npt.NDArray[np.float32], targets: npt.NDArray[np.float32], may: npt.NDArray[np.bool_], rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Blend samples with others of the batch, and their targets alike (mixup, Zhang et al., ICLR 2018).

    Parameters
    ----------
    low, targets
        Shapes (n, ...) and (n, outputs).
    may
        Which may be blended, with one another: what lies at a place (an opacity) does not blend.
    """
    other, share = rng.permutation(len(low)), rng.beta(MIXING, MIXING)
    own = np.where(may & may[other], max(share, 1 - share), 1.0).astype(np.float32)
    beside = own[:, None, None, None]
    blended = own[:, None] * targets + (1 - own[:, None]) * targets[other]
    return beside * low + (1 - beside) * low[other], np.where(own[:, None] < 1.0, blended, targets)


def begin(trunk: EfficientNetLite, samples: Samples, pool: npt.NDArray[np.int_]) -> FindingsLearner:
    """A network that knows how often each finding is there, and where opacities lie, but has looked at no picture."""
    network = FindingsLearner(len(OUTPUTS) - 1, CELLS)
    network.trunk.load_state_dict(trunk.state_dict())
    share = torch.from_numpy(np.nanmean(samples.truth[pool, :-1], 0))
    network.findings.weight.data.normal_(0.0, 0.005)
    network.findings.bias = nn.Parameter(torch.logit(share))
    labelled = pool[~np.isnan(samples.truth[pool, -1])]
    network.opacity.place.data.copy_(place_of(samples.opaque[0, torch.from_numpy(labelled)]))
    return network


def loss_of(logits: Tensor, heat: Tensor, targets: Tensor, marked: Tensor) -> Tensor:
    """Cross-entropy of what is known: findings, opacity of the image, and of each cell.

    Parameters
    ----------
    logits, targets
        Shape (n, outputs); a target is NaN where unknown.
    heat, marked
        Logits and shares of each cell that lies in an opacity, shape (n, CELLS, CELLS); a share is NaN where nobody
        looked.
    """
    known = ~torch.isnan(targets)
    entropy = functional.binary_cross_entropy_with_logits
    loss = entropy(logits[:, :-1][known[:, :-1]], targets[:, :-1][known[:, :-1]])
    labelled, looked_at = known[:, -1], ~torch.isnan(marked).any((1, 2))
    if labelled.any():
        loss = loss + OPACITY_SHARE * entropy(logits[labelled, -1], targets[labelled, -1])
    if looked_at.any():
        cells = entropy(heat[looked_at], marked[looked_at], pos_weight=torch.tensor(3.0))
        loss = loss + OPACITY_SHARE * cells
    return loss


def answer(network: FindingsLearner, lows: Lows, which: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Logits and opacity maps (see ``shares``) of the pictures themselves, not of changed copies."""
    logits, maps = [], []
    with torch.inference_mode():
        for chosen in np.array_split(np.flatnonzero(which), max(1, which.sum() // BATCH)):
            answered, heat = network(torch.from_numpy(lows[0, chosen].astype(np.float32)))
            logits.append(answered.double().numpy())
            maps.append(shares(heat).double().numpy())
    return np.concatenate(logits), np.concatenate(maps)


def soft_targets(samples: Samples) -> npt.NDArray[np.float32]:
    """Labels, mixed with the teacher's scores where there are any (distillation, Hinton et al., 2015)."""
    mixed = (1 - TEACHER_SHARE) * samples.truth + TEACHER_SHARE * samples.teacher
    return np.where(np.isnan(mixed), samples.truth, mixed)


def place_of(boxes: Tensor) -> Tensor:
    """How often a cell lies in a box, as log odds around their mean: shape (CELLS, CELLS) from (n, CELLS, CELLS)."""
    smooth = functional.avg_pool2d(boxes.mean(0)[None, None], 3, 1, padding=1, count_include_pad=False)[0, 0]
    both_sides = (smooth + smooth.flip(-1)) / 2  # pictures are mirrored in training
    odds = torch.logit(both_sides.clamp(0.004, 0.996))
    return odds - odds.mean()

"""Trains ``chest_findings``: the 14 NIH findings, any abnormality, and lung opacities with boxes.

Frozen ImageNet features of five views of each picture; a linear map for each finding, softened by the scores of another
model; a small convolutional head for opacities, trained with boxes.

The rule: every figure and threshold comes from patients that the weights behind it have not seen (five folds by
patient). What ships is the mean of the five linear heads, and the opacity head trained on all: the figures are those of
the folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from models.networks import FindingsNet, OpacityHead
from training.augmentation import Augmentation, augment
from training.backbone import load_squeezenet
from training.data import FindingRecord, data_digest, network_pictures, read_findings, split_patients
from training.evidence import CELLS, FOLDS, INPUT_SIZE, OUTPUTS, FloatArray, HeldOut, Samples, write

VIEWS = 5  # the picture itself and four changed copies
WEIGHT_PENALTY = 0.1
TEACHER_SHARE = 0.5
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


def train(data: Path, bundle: Path, weights: Path, *, epochs: int, seed: int) -> None:
    """Train, evaluate by patient and write the bundle.

    Parameters
    ----------
    data
        Folder with ``nih_chestxray14``.
    weights
        SqueezeNet 1.0, trained on ImageNet: a state dict, possibly nested by layer.
    epochs
        Of the opacity head.
    """
    torch.manual_seed(seed)
    records = read_findings(data)
    network = FindingsNet(len(OUTPUTS))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast
    load_trunk(network, weights)
    pictures, _ = network_pictures([r.image for r in records], INPUT_SIZE, "rendering")
    features, samples = look(network, pictures, records, seed)
    pooled = features_mean(features)
    network.centre.copy_(torch.from_numpy(pooled[0].mean(0)))
    network.scale.copy_(torch.from_numpy(spread(features)))
    held_out = fit(network, features, pooled, samples, epochs=epochs, seed=seed)
    provenance = {
        "command": f"./hilum train chest_findings --epochs {epochs} --seed {seed}",
        "seed": seed,
        "data_sha256": data_digest([r.image for r in records] + [data / "nih_chestxray14" / "labels.csv"]),
        "images": len(records),
        "patients": len(set(samples.patients)),
    }
    write(bundle, network.eval(), samples, held_out, provenance)


def load_trunk(network: FindingsNet, weights: Path) -> None:
    """Load SqueezeNet's features, which stay as they are; its classifier is not used."""
    load_squeezenet(network.trunk, weights)
    load_squeezenet(network.fire9, weights, "fire9.")
    for parameter in (*network.trunk.parameters(), *network.fire9.parameters()):
        parameter.requires_grad_(False)


def look(
    network: FindingsNet, pictures: npt.NDArray[np.float16], records: list[FindingRecord], seed: int
) -> tuple[npt.NDArray[np.float16], Samples]:
    """Features of every view of every picture, shape (views, n, 1024, CELLS, CELLS), and the labels beside them."""
    torch.manual_seed(seed)
    count, batch = len(records), 16
    features = np.empty((VIEWS, count, FindingsNet.CHANNELS, CELLS, CELLS), np.float16)
    drawn = torch.from_numpy(draw_boxes(records))
    boxes = torch.empty(VIEWS, count, CELLS, CELLS)
    with torch.inference_mode(), tqdm(total=VIEWS * count, desc="features", unit="image") as progress:
        for view in range(VIEWS):
            for start in range(0, count, batch):
                chosen = slice(start, start + batch)
                x, marked = torch.from_numpy(pictures[chosen].astype(np.float32))[:, None], drawn[chosen, None]
                if view:
                    x, marked, _ = augment(x, marked, AUGMENTATION)
                # changed copies are only trained on: half precision, four times faster, is good enough for them
                with torch.autocast("cpu", torch.bfloat16, enabled=view > 0):
                    low = network.trunk(x)
                    features[view, chosen] = torch.cat((low, network.fire9(low)), 1).float().numpy()
                boxes[view, chosen] = functional.avg_pool2d(marked, 4)[:, 0]
                progress.update(len(x))
    dealt = split_patients([r.patient for r in records], FOLDS, seed)
    truth = np.array([[r.labels.get(key, np.nan) for key in OUTPUTS] for r in records], np.float32)
    teacher = np.array([[r.teacher.get(key, np.nan) for key in OUTPUTS] for r in records], np.float32)
    fold = np.array([dealt[r.patient] for r in records])
    return features, Samples(records, fold, truth, teacher, boxes)


def draw_boxes(records: Sequence[FindingRecord], side: int = 4 * CELLS, picture: int = 512) -> npt.NDArray[np.float32]:
    """Opacity boxes as pictures of shape (n, side, side); the files are squares of `picture` pixels."""
    drawn = np.zeros((len(records), side, side), np.float32)
    for canvas, record in zip(drawn, records, strict=True):
        for x, y, width, height in record.boxes.get("lung_opacity", []):
            left, top, right, bottom = (round(v * side / picture) for v in (x, y, x + width, y + height))
            canvas[top:bottom, left:right] = 1.0
    return drawn


def features_mean(features: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Mean over each map, shape (views, n, 1024)."""
    return np.stack([[f.mean((1, 2), dtype=np.float32) for f in view] for view in features])


def spread(features: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Standard deviation of each channel over the cells of a part of the pictures."""
    some = features[0, ::8].astype(np.float32)
    deviation: npt.NDArray[np.float32] = some.std(axis=(0, 2, 3)) + 0.01
    return deviation


def fit(
    network: FindingsNet,
    features: npt.NDArray[np.float16],
    pooled: npt.NDArray[np.float32],
    samples: Samples,
    *,
    epochs: int,
    seed: int,
) -> HeldOut:
    """Fit both kinds of heads in each fold, put what ships into the network, and return what held-out patients got."""
    centre, scale = network.centre.numpy(), network.scale.numpy()
    linear = len(OUTPUTS) - 1
    # pooled features vary less than cells do: brought to unit spread for the fit, and the weights back after it
    standard = (pooled - centre) / scale
    unit = standard[0].std(0) + 1e-3
    logits, maps = np.zeros((len(samples.records), len(OUTPUTS))), np.zeros((len(samples.records), CELLS, CELLS))
    weights = []
    for fold in range(FOLDS):
        inside = samples.fold != fold
        weight, bias = fit_linear(standard[:, inside] / unit, soft_targets(samples)[inside, :linear])
        weights.append((weight / unit[:, None], bias))
        logits[~inside, :linear] = standard[0, ~inside] @ weights[-1][0] + bias
    weight = np.mean([w for w, _ in weights], axis=0)
    network.findings.weight.data.copy_(torch.from_numpy(weight.T[:, :, None, None]))
    network.findings.bias = nn.Parameter(torch.from_numpy(np.mean([b for _, b in weights], axis=0)).float())
    labelled = np.flatnonzero(~np.isnan(samples.truth[:, -1]))
    cells = Cells(
        features[:, labelled], network.centre, network.scale, samples.boxes[:, labelled], samples.truth[labelled, -1]
    )
    for fold in range(FOLDS):
        unseen = samples.fold[labelled] == fold
        head = fit_opacity(cells, ~unseen, epochs=epochs, seed=seed + fold, what=f"opacities, fold {fold + 1}")
        answer, heat = cells.answer(head, unseen)
        logits[labelled[unseen], -1], maps[labelled[unseen]] = answer, heat
    shipped = fit_opacity(cells, np.ones(len(labelled), np.bool_), epochs=epochs, seed=seed, what="opacities, all")
    network.opacity.load_state_dict(shipped.state_dict())
    return HeldOut(logits, maps)


def soft_targets(samples: Samples) -> npt.NDArray[np.float32]:
    """Labels, mixed with the teacher's scores where there are any (distillation, Hinton et al., 2015)."""
    mixed = (1 - TEACHER_SHARE) * samples.truth + TEACHER_SHARE * samples.teacher
    return np.where(np.isnan(mixed), samples.truth, mixed)


def fit_linear(features: npt.NDArray[np.float32], targets: npt.NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
    """Penalised logistic regression of all outputs at once, by L-BFGS.

    Parameters
    ----------
    features
        Shape (views, n, 1024).
    targets
        Shape (n, outputs), NaN where unknown.

    Returns
    -------
    weights, bias
        Shapes (1024, outputs) and (outputs,).
    """
    views = features.shape[0]
    x = torch.from_numpy(features.reshape(-1, features.shape[-1]))
    y = torch.from_numpy(np.nan_to_num(np.tile(targets, (views, 1))))
    known = torch.from_numpy(np.tile(~np.isnan(targets), (views, 1)).astype(np.float32))
    weight = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
    bias = torch.zeros(y.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        entropy = functional.binary_cross_entropy_with_logits(x @ weight + bias, y, reduction="none") * known
        loss = (entropy.sum(0) / known.sum(0)).sum() + WEIGHT_PENALTY * (weight**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach().double().numpy(), bias.detach().double().numpy()


@dataclass(frozen=True, eq=False)
class Cells:
    """Standardised features of the pictures with opacity labels, drawn view by view."""

    features: npt.NDArray[np.float16]
    centre: Tensor
    scale: Tensor
    boxes: Tensor
    truth: npt.NDArray[np.float32]

    def draw(self, views: npt.NDArray[np.int_], chosen: npt.NDArray[np.int_]) -> Tensor:
        """Features of the chosen pictures, each in its view: shape (n, 1024, CELLS, CELLS)."""
        raw = torch.from_numpy(self.features[views, chosen].astype(np.float32))
        return (raw - self.centre[:, None, None]) / self.scale[:, None, None]

    def answer(self, head: OpacityHead, which: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
        """Logits and maps of the pictures themselves, not of changed copies."""
        with torch.inference_mode():
            chosen = np.flatnonzero(which)
            logits, heat = head(self.draw(np.zeros_like(chosen), chosen))
        return logits.double().numpy(), heat.double().numpy()


def place_of(boxes: Tensor) -> Tensor:
    """How often a cell lies in a box, as log odds around their mean: shape (CELLS, CELLS) from (n, CELLS, CELLS)."""
    smooth = functional.avg_pool2d(boxes.mean(0)[None, None], 3, 1, padding=1, count_include_pad=False)[0, 0]
    both_sides = (smooth + smooth.flip(-1)) / 2  # pictures are mirrored in training
    odds = torch.logit(both_sides.clamp(0.004, 0.996))
    return odds - odds.mean()


def fit_opacity(cells: Cells, inside: npt.NDArray[np.bool_], *, epochs: int, seed: int, what: str) -> OpacityHead:
    """Train an opacity head by the image's label and by the boxes on its map."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    head, pool, batch = OpacityHead(FindingsNet.CHANNELS, 64), np.flatnonzero(inside), 16
    steps = len(pool) // batch
    head.place.data.copy_(place_of(cells.boxes[0, torch.from_numpy(pool)]))
    optimiser = torch.optim.AdamW(head.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=epochs * steps)
    for _ in tqdm(range(epochs), desc=what, unit="epoch"):
        order = rng.permutation(pool)
        for step in range(steps):
            chosen, views = order[step * batch : (step + 1) * batch], rng.integers(VIEWS, size=batch)
            logits, heat = head(cells.draw(views, chosen))
            image_loss = functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(cells.truth[chosen]))
            marked = cells.boxes[torch.from_numpy(views), torch.from_numpy(chosen)]
            cell_loss = functional.binary_cross_entropy_with_logits(heat, marked, pos_weight=torch.tensor(3.0))
            optimiser.zero_grad()
            (image_loss + cell_loss).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return head.eval()

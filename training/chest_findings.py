"""Trains ``chest_findings``: the 14 NIH findings, any abnormality, and lung opacities with boxes.

Frozen ImageNet features of five views of each picture; a linear map for each finding, softened by the scores of another
model; a small convolutional head for opacities, trained with boxes.

The rule: every figure and threshold comes from patients that the weights behind it have not seen (five folds by
patient). What ships is the mean of the five linear heads, and the opacity head trained on all: the figures are those of
the folds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from models.bundle import write_bundle
from models.networks import FindingsNet, OpacityHead
from training.augmentation import Augmentation, augment
from training.card import Card, metadata, plot_intervals, plot_reliability, write_card
from training.data import NIH_COLUMNS, FindingRecord, data_digest, network_pictures, read_findings, split_patients
from training.evaluation import (
    Interval,
    auroc,
    calibration_error,
    mean_interval,
    operating_points,
    platt,
    sensitivity_specificity,
    shortcut_scores,
)

INPUT_SIZE = 320
CELLS = 19  # side of a map
OUTPUTS = (*NIH_COLUMNS, "abnormal", "lung_opacity")  # opacity last: it has its own head
FOLDS = 5
VIEWS = 5  # the picture itself and four changed copies
WEIGHT_PENALTY = 0.1
TEACHER_SHARE = 0.5
# A finding is evaluated when the lower bound of its AUROC reaches this, with enough positives, above the shortcut.
LEAST_AUROC, LEAST_POSITIVES = 0.70, 15
SPECIFICITY, SENSITIVITY = 0.90, 0.90
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
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Samples:
    """What the heads are trained on.

    Parameters
    ----------
    truth, teacher
        Shape (n, outputs): 0 to 1, NaN where nobody said.
    boxes
        Shape (views, n, CELLS, CELLS): share of each cell inside an opacity box.
    """

    records: list[FindingRecord]
    fold: npt.NDArray[np.int_]
    truth: npt.NDArray[np.float32]
    teacher: npt.NDArray[np.float32]
    boxes: Tensor

    @property
    def patients(self) -> list[str]:
        """The patient of each sample."""
        return [record.patient for record in self.records]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Answers for each sample by heads that never saw its patient: logits (n, outputs), opacity maps (n, h, w)."""

    logits: FloatArray
    maps: FloatArray


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
    """Load SqueezeNet's features; its classifier is not used."""
    given = torch.load(weights, map_location="cpu", weights_only=False)
    flat: dict[str, Tensor] = {}
    for name, value in given.items():
        for inner, array in value.items() if isinstance(value, dict) else [("", value)]:
            flat[f"{name}.{inner}".rstrip(".")] = torch.as_tensor(np.asarray(array)).float()
    for part, prefix in ((network.trunk, ""), (network.fire9, "fire9.")):
        own = part.state_dict()
        part.load_state_dict({key: flat[prefix + key].reshape(own[key].shape) for key in own})
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
                low = network.trunk(x)
                features[view, chosen] = torch.cat((low, network.fire9(low)), 1).numpy()
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
    # pooled features vary less than cells do: they are brought to unit spread for the fit, and the weights back after it
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


def fit_opacity(cells: Cells, inside: npt.NDArray[np.bool_], *, epochs: int, seed: int, what: str) -> OpacityHead:
    """Train an opacity head by the image's label and by the boxes on its map."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    head, pool, batch = OpacityHead(FindingsNet.CHANNELS, 64), np.flatnonzero(inside), 32
    steps = len(pool) // batch
    optimiser = torch.optim.AdamW(head.parameters(), weight_decay=0.3)
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
            (image_loss + cell_loss).backward()
            optimiser.step()
            schedule.step()
    return head.eval()


@dataclass(frozen=True)
class Evidence:
    """What held-out patients say about one output."""

    key: str
    positives: int
    images: int
    auroc: Interval
    shortcut: float
    calibration: float
    slope: float
    intercept: float
    threshold_absent: float
    threshold_present: float
    sensitivity: float
    specificity: float
    within_source: Interval | None

    @property
    def carries(self) -> bool:
        """Whether the finding may be reported."""
        return (
            self.auroc.low >= LEAST_AUROC
            and self.positives >= LEAST_POSITIVES
            and self.auroc.value > self.shortcut
            and self.threshold_absent < self.threshold_present
        )


def weigh(samples: Samples, logits: FloatArray, output: int) -> tuple[Evidence, FloatArray, FloatArray]:
    """The evidence for one output; also its truth and its probabilities, calibrated on the other folds."""
    known = ~np.isnan(samples.truth[:, output])
    truth, scores = samples.truth[known, output].astype(float), logits[known, output]
    folds, patients = samples.fold[known], [p for p, k in zip(samples.patients, known, strict=True) if k]
    records = [r for r, k in zip(samples.records, known, strict=True) if k]
    probabilities, called = np.zeros(len(truth)), np.zeros(len(truth), np.bool_)
    for fold in range(FOLDS):
        inside = folds != fold
        slope, intercept = platt(truth[inside], scores[inside])
        line = _sigmoid(slope * scores + intercept)
        _, present = operating_points(truth[inside], line[inside], specificity=SPECIFICITY, sensitivity=SENSITIVITY)
        probabilities[~inside], called[~inside] = line[~inside], line[~inside] >= present
    slope, intercept = platt(truth, scores)
    absent, present = operating_points(
        truth, _sigmoid(slope * scores + intercept), specificity=SPECIFICITY, sensitivity=SENSITIVITY
    )
    shortcut = shortcut_scores(truth, [(r.view, r.source) for r in records], folds)
    sources = np.array([r.source for r in records])
    random_source = sources == "jrzech/reproduce-chexnet"  # drawn at random from the test set: no source to read off
    within = None
    if 5 <= truth[random_source].sum() < random_source.sum():
        within = auroc(
            truth[random_source], scores[random_source], [p for p, s in zip(patients, random_source, strict=True) if s]
        )
    sensitivity, specificity = sensitivity_specificity(truth, called.astype(float), 0.5)
    evidence = Evidence(
        OUTPUTS[output], int(truth.sum()), len(truth), auroc(truth, scores, patients),
        auroc(truth, shortcut, patients).value, calibration_error(truth, probabilities), slope, intercept,
        absent, present, sensitivity, specificity, within,
    )  # fmt: skip
    return evidence, truth, probabilities


def pointing(samples: Samples, maps: FloatArray) -> tuple[Interval, Interval]:
    """Share of pictures with boxes whose hottest cell lies in a box (Zhang et al., 2018); and that of the best fixed cell."""
    boxed = np.flatnonzero(samples.boxes[0].sum((1, 2)).numpy() > 0)
    inside = samples.boxes[0].numpy()[boxed] >= 0.5
    hits = np.array([cells.ravel()[maps[i].argmax()] for i, cells in zip(boxed, inside, strict=True)], float)
    fixed = inside.reshape(len(boxed), -1)
    best = fixed[:, fixed.mean(0).argmax()].astype(float)
    patients = [samples.patients[i] for i in boxed]
    return mean_interval(hits, patients), mean_interval(best, patients)


def write(bundle: Path, network: nn.Module, samples: Samples, held_out: HeldOut, provenance: dict[str, Any]) -> None:
    """Weigh the evidence; write weights, contract and card."""
    weighed = [weigh(samples, held_out.logits, i) for i in tqdm(range(len(OUTPUTS)), desc="evidence", unit="finding")]
    evidence = [e for e, _, _ in weighed]
    hit, fixed = pointing(samples, held_out.maps)
    localises = hit.low > fixed.value
    findings = {
        e.key: {
            "output": OUTPUTS.index(e.key), "evaluated": e.carries, "slope": e.slope, "intercept": e.intercept,
            "threshold_absent": e.threshold_absent, "threshold_present": e.threshold_present,
            "localises": e.key == "lung_opacity" and localises,
        }
        for e in evidence if e.key != "abnormal"
    }  # fmt: skip
    figures = {e.key: {**asdict(e), "evaluated": e.carries} for e in evidence}
    section = {
        "interpreter": "scores", "input_size": INPUT_SIZE, "findings": findings, "provenance": provenance,
        "figures": {**figures, "pointing_lung_opacity": asdict(hit), "pointing_best_fixed_cell": asdict(fixed)},
    }  # fmt: skip
    described = metadata(
        "NIH-14 findings and lung opacity on frontal chest radiographs of adults",
        "Raising the reading priority of radiographs in research. Not a medical device, not for diagnosis.",
        channels=1, size=INPUT_SIZE, outputs={str(i): key for i, key in enumerate(OUTPUTS)},
    )  # fmt: skip
    network_def = {"_target_": "models.networks.FindingsNet", "outputs": len(OUTPUTS)}
    write_bundle(bundle, network, {"network_def": network_def}, {**described, "hilum": section})
    plots = (
        plot_intervals(
            bundle / "docs" / "auroc.png",
            {e.key: e.auroc for e in evidence},
            {e.key: e.shortcut for e in evidence},
            LEAST_AUROC,
        ),
        plot_reliability(bundle / "docs" / "reliability.png", {e.key: (t, p) for e, t, p in weighed if e.carries}),
    )
    write_card(bundle, replace(_card(evidence, hit, fixed, provenance), plots=plots))


def _card(evidence: Sequence[Evidence], hit: Interval, fixed: Interval, provenance: dict[str, Any]) -> Card:
    rows = [
        (
            e.key.replace("_", " "), f"{e.positives} of {e.images}", str(e.auroc), f"{e.shortcut:.3f}",
            str(e.within_source) if e.within_source else "too few", f"{e.sensitivity:.2f} / {e.specificity:.2f}",
            f"{e.calibration:.3f}", "yes" if e.carries else "**not evaluated**",
        )
        for e in evidence
    ]  # fmt: skip
    eight = sorted((e for e in evidence if e.key in NIH_COLUMNS), key=lambda e: -e.positives)[:8]
    mean8 = np.mean([e.auroc.value for e in eight])
    return Card(
        title="chest_findings",
        purpose="Scores the 14 findings of NIH ChestX-ray14 and lung opacity (RSNA) on a frontal chest radiograph of an "
        "adult, and draws boxes around opacities. `abnormal` (any of the 14) is for comparison only and not reported.",
        data="1,303 images of NIH ChestX-ray14 (Wang et al., CVPR 2017; NIH Clinical Center), labels mined from reports; "
        "434 of them with radiologists' opacity labels and boxes (RSNA 2018). Features: SqueezeNet 1.0 trained on ImageNet.",
        header=(
            "finding",
            "positives",
            "AUROC, five folds by patient, 95 % interval",
            "view + source alone",
            "within the randomly drawn source",
            "sensitivity / specificity when called present",
            "calibration error",
            "reported",
        ),  # fmt: skip
        rows=rows,
        notes=(
            f"A finding is reported only if the lower bound of its AUROC is at least {LEAST_AUROC}, with at least "
            f"{LEAST_POSITIVES} positives, and it beats a regression on view and source alone.",
            f"Mean AUROC of the eight most frequent findings: {mean8:.3f}.",
            f"Opacity boxes: the hottest cell lies in a radiologist's box in {hit} of the pictures; the best fixed cell in "
            f"{fixed}.",
            "Labels are text-mined and partly wrong. The images come from several collections that differ in disease and "
            "view; the column 'view + source alone' shows how far that leads without looking at the image.",
            "Probabilities are calibrated to the share of each finding in this collection, which is higher than in a hospital.",
            "Pneumothorax: few positives; where it says not evaluated, the model says nothing about it and triage cannot use "
            "it.",
            "Adults only. Not validated on portable units, detectors or populations other than those of the collection.",
        ),
        plots=(),
        provenance=json.dumps(provenance, indent=1),
    )


def _sigmoid(x: FloatArray) -> FloatArray:
    return 1 / (1 + np.exp(-x))

"""Weighs the evidence for each output of ``chest_findings`` and writes bundle and card; ``opacity_evidence`` its twin.

The rule: a finding that the evidence does not carry is switched off in the contract, so that the node can only say
"not evaluated"; nobody has to remember it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from tqdm import tqdm

from models.bundle import write_bundle
from training.card import Card, Table, metadata, plot_intervals, plot_reliability, write_card
from training.data import NIH_COLUMNS, FindingRecord
from training.metrics.calibration import calibration_error, platt
from training.metrics.intervals import Interval, attempt, bootstrap, mean_of
from training.metrics.operating import operating_points, sensitivity_specificity
from training.metrics.scores import auroc, auroc_statistic
from training.metrics.shortcuts import feature_scores, margin, shortcut_scores
from training.recipe import load_recipe

INPUT_SIZE = 320
CELLS = INPUT_SIZE // 16  # side of a map
OUTPUTS = (*NIH_COLUMNS, "abnormal", "lung_opacity")  # opacity last: it has its own head
FOLDS = 5
# A finding is evaluated when the lower bound of its AUROC reaches this, with enough positives, above the shortcut, and
# its AUROC within the randomly drawn source reaches it as well: between sources, a network can tell them apart instead.
LEAST_AUROC, LEAST_POSITIVES = 0.70, 15
SPECIFICITY, SENSITIVITY = 0.90, 0.90
# Boxes are drawn when the hottest cell lies in a radiologist's box more often than not, beyond doubt.
LEAST_POINTING = 0.5
# Nothing is called present that is more than twice as likely absent; and if that finds almost none, it is no finding.
LEAST_PROBABILITY, LEAST_SENSITIVITY = 1 / 3, 0.10
HEADER = (
    "finding",
    "positives",
    "AUROC, five folds by patient, 95 % interval",
    "view + source alone",
    "regression on a frozen network",
    "within the randomly drawn source",
    "sensitivity / specificity when called present",
    "calibration error",
    "reported",
)
NEVER_MEASURED = (
    "The weights that ship learnt from all patients in the same way and were themselves never measured: figures, "
    "calibration and thresholds are those of five networks, each on patients that it had not seen."
)
# Its images were drawn at random from the test set of ChestX-ray14: there is no collection to read off.
RANDOM_SOURCE = "jrzech/reproduce-chexnet"
_REPORTED = {"abnormal": "for comparison"}
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Samples:
    """What the heads are trained on.

    Parameters
    ----------
    truth, teacher
        Shape (n, outputs): 0 to 1, NaN where nobody said.
    opaque
        Shape (views, n, CELLS, CELLS): share of each cell that lies in an opacity's box or outline.
    frozen
        Shape (n, features): what the trunk, as published, gives of each picture. A regression on it is the floor.
    """

    records: list[FindingRecord]
    fold: npt.NDArray[np.int_]
    truth: npt.NDArray[np.float32]
    teacher: npt.NDArray[np.float32]
    opaque: Tensor
    frozen: FloatArray

    @property
    def looked_at(self) -> npt.NDArray[np.bool_]:
        """Whether somebody drew the opacities of a sample, or said that there are none."""
        outlined = np.array([bool(record.outlines) for record in self.records])
        return np.asarray(outlined | ~np.isnan(self.truth[:, -1]))

    @property
    def patients(self) -> list[str]:
        """The patient of each sample."""
        return [record.patient for record in self.records]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Answers for each sample by heads that never saw its patient: logits (n, outputs), opacity maps (n, h, w)."""

    logits: FloatArray
    maps: FloatArray


@dataclass(frozen=True)
class Evidence:
    """What held-out patients say about one output.

    Parameters
    ----------
    shortcut, floor
        AUROC of a regression on view and source alone, and on what a published network gives of the pictures.
    within_source
        AUROC among the pictures that were drawn at random; None where they hold too few positives.
    beyond_floor
        By how much the AUROC exceeds the floor's, on the same draws of patients.
    """

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
    within_source: Interval | None = None
    floor: float | None = None
    beyond_floor: Interval | None = None

    @property
    def carries(self) -> bool:
        """Whether the finding may be reported."""
        return (
            self.auroc.low >= LEAST_AUROC
            and (self.within_source is None or self.within_source.value >= LEAST_AUROC)
            and self.positives >= LEAST_POSITIVES
            and self.auroc.value > self.shortcut
            and self.sensitivity >= LEAST_SENSITIVITY
            and self.threshold_absent < self.threshold_present
        )


def weigh(samples: Samples, logits: FloatArray, output: int) -> tuple[Evidence, FloatArray, FloatArray]:
    """The evidence for one output; also its truth and its probabilities, calibrated on the other folds."""
    return weigh_scores(
        OUTPUTS[output],
        samples.records,
        samples.fold,
        samples.truth[:, output],
        logits[:, output],
        frozen=samples.frozen,
    )


def weigh_scores(
    key: str,
    all_records: Sequence[FindingRecord],
    all_folds: npt.NDArray[np.int_],
    labels: npt.NDArray[np.float32],
    answers: FloatArray,
    *,
    frozen: FloatArray | None = None,
) -> tuple[Evidence, FloatArray, FloatArray]:
    """The same for one finding by itself; `labels` are NaN where nobody said, `answers` are logits."""
    known = ~np.isnan(labels)
    truth, scores, folds = labels[known].astype(float), answers[known], all_folds[known]
    records = [r for r, k in zip(all_records, known, strict=True) if k]
    patients = [r.patient for r in records]
    probabilities, called = np.zeros(len(truth)), np.zeros(len(truth), np.bool_)
    for fold in range(FOLDS):
        inside = folds != fold
        slope, intercept = platt(truth[inside], scores[inside])
        line = _sigmoid(slope * scores + intercept)
        _, present = operating_points(
            truth[inside], line[inside], specificity=SPECIFICITY, sensitivity=SENSITIVITY, least=LEAST_PROBABILITY
        )
        probabilities[~inside], called[~inside] = line[~inside], line[~inside] >= present
    slope, intercept = platt(truth, scores)
    absent, present = operating_points(
        truth,
        _sigmoid(slope * scores + intercept),
        specificity=SPECIFICITY,
        sensitivity=SENSITIVITY,
        least=LEAST_PROBABILITY,
    )
    shortcut = shortcut_scores(truth, [(r.view, r.source) for r in records], folds)
    sources = np.array([r.source for r in records])
    random_source = sources == RANDOM_SOURCE
    within = None
    if 5 <= truth[random_source].sum() < random_source.sum():
        within = auroc(
            truth[random_source], scores[random_source], [p for p, s in zip(patients, random_source, strict=True) if s]
        )
    sensitivity, specificity = sensitivity_specificity(truth, called.astype(float), 0.5)
    floor = None if frozen is None else feature_scores(truth, frozen[known], folds)
    evidence = Evidence(
        key, int(truth.sum()), len(truth), auroc(truth, scores, patients),
        auroc(truth, shortcut, patients).value, calibration_error(truth, probabilities), slope, intercept,
        absent, present, sensitivity, specificity, within,
        None if floor is None else auroc(truth, floor, patients).value,
        None if floor is None else margin(truth, scores, floor, patients),
    )  # fmt: skip
    return evidence, truth, probabilities


def write(bundle: Path, network: nn.Module, samples: Samples, held_out: HeldOut, provenance: dict[str, Any]) -> None:
    """Weigh the evidence; write weights, contract and card."""
    outputs = OUTPUTS[:-1]
    weighed = [weigh(samples, held_out.logits, i) for i in tqdm(range(len(outputs)), desc="evidence", unit="finding")]
    evidence, mean8 = [e for e, _, _ in weighed], mean_of_eight(samples, held_out.logits)
    section = {
        "interpreter": "scores", "input_size": INPUT_SIZE,
        "findings": {e.key: contract_of(e, outputs.index(e.key)) for e in evidence if e.key != "abnormal"},
        "provenance": provenance,
        "figures": {
            **{e.key: {**asdict(e), "evaluated": e.carries} for e in evidence},
            "mean of the eight most frequent findings": {"auroc": asdict(mean8[0]), "beyond_floor": asdict(mean8[1])},
        },
    }  # fmt: skip
    described = metadata(
        "NIH-14 findings on frontal chest radiographs of adults",
        "Raising the reading priority of radiographs in research. Not a medical device, not for diagnosis.",
        channels=1, size=INPUT_SIZE, outputs={str(i): key for i, key in enumerate(outputs)},
    )  # fmt: skip
    network_def = {"_target_": "models.networks.FindingsNet", "outputs": len(outputs)}
    write_bundle(bundle, network, {"network_def": network_def}, {**described, "hilum": section})
    plots = (
        plot_intervals(
            bundle / "docs" / "auroc.png",
            {e.key: e.auroc for e in evidence},
            {e.key: e.shortcut for e in evidence},
            LEAST_AUROC,
            [e.key for e in evidence if e.carries],
        ),
        plot_reliability(bundle / "docs" / "reliability.png", {e.key: (t, p) for e, t, p in weighed if e.carries}),
    )
    write_card(bundle, replace(_card(evidence, mean8, _beside_others(evidence, samples), provenance), plots=plots))


def mean_of_eight(samples: Samples, logits: FloatArray) -> tuple[Interval, Interval]:
    """Mean AUROC of the eight findings with the most positives; and by how much it exceeds that of the floor."""
    known = np.asarray(~np.isnan(samples.truth[:, : len(NIH_COLUMNS)]).any(1), np.bool_)
    truth, folds = samples.truth[known, : len(NIH_COLUMNS)].astype(float), samples.fold[known]
    patients = [patient for patient, labelled in zip(samples.patients, known, strict=True) if labelled]
    ours, floors = [], []
    for output in np.argsort(-truth.sum(0), kind="stable")[:8]:
        positive = truth[:, output] == 1
        ours.append(auroc_statistic(positive, logits[known, output]))
        floors.append(auroc_statistic(positive, feature_scores(positive, samples.frozen[known], folds)))
    mean, floor = mean_of(ours), mean_of(floors)
    return bootstrap(mean, patients), bootstrap(lambda weights: mean(weights) - floor(weights), patients)


def contract_of(evidence: Evidence, output: int, *, localises: bool = False) -> dict[str, Any]:
    """What the contract says of a finding."""
    return {
        "output": output, "evaluated": evidence.carries, "slope": evidence.slope, "intercept": evidence.intercept,
        "threshold_absent": evidence.threshold_absent, "threshold_present": evidence.threshold_present,
        "localises": localises,
    }  # fmt: skip


def row_of(evidence: Evidence) -> tuple[str, ...]:
    """A line of the card, below `HEADER`."""
    e = evidence
    return (
        e.key.replace("_", " "), f"{e.positives} of {e.images}", str(e.auroc), f"{e.shortcut:.3f}",
        "not measured" if e.floor is None else f"{e.floor:.3f}",
        str(e.within_source) if e.within_source else "too few", f"{e.sensitivity:.2f} / {e.specificity:.2f}",
        f"{e.calibration:.3f}", _REPORTED.get(e.key, "yes") if e.carries else "**not evaluated**",
    )  # fmt: skip


def _beside_others(evidence: Sequence[Evidence], samples: Samples) -> Table:
    """AUROC of each finding beside that of networks trained on all of NIH ChestX-ray14."""
    papers = [_published(name) for name in ("nih_wang2017", "nih_densenet121")]
    rows = []
    for number, e in enumerate(evidence):
        if e.key in NIH_COLUMNS:
            truth, theirs = samples.truth[:, number], samples.teacher[:, number]
            drawn = np.array([record.source == RANDOM_SOURCE for record in samples.records]) & ~np.isnan(theirs)
            patients = [patient for patient, here in zip(samples.patients, drawn, strict=True) if here]
            reproduction = attempt(partial(auroc, truth[drawn].astype(float), theirs[drawn].astype(float), patients))
            ours = str(e.within_source) if e.within_source else "too few"
            quoted = (f"{figures[e.key]:.3f}" for figures in papers)
            rows.append((e.key.replace("_", " "), ours, str(reproduction), *quoted))
    return Table(
        "Beside networks that learnt from all of NIH ChestX-ray14",
        ("finding", "ours, trained on 1,303", "CheXNet reproduction, same pictures", "Wang 2017", "CheXNet 2017"),
        rows,
        "AUROC. The first two are of the randomly drawn source; the papers' are of their own test patients. The "
        "recipes nih_wang2017 and nih_densenet121 train such networks for whoever has the data.",
    )


def _published(recipe: str) -> Mapping[str, float]:
    """AUROC of each finding that the paper of a recipe reports."""
    published = load_recipe(recipe).published
    figures = {} if published is None else published.figures
    found: Mapping[str, float] = figures.get("auroc", figures)
    return found


def _card(
    evidence: Sequence[Evidence], mean8: tuple[Interval, Interval], beside: Table, provenance: dict[str, Any]
) -> Card:
    eight = sorted((e for e in evidence if e.key in NIH_COLUMNS), key=lambda e: -e.positives)[:8]
    short8 = np.mean([e.shortcut for e in eight])
    behind = [e.key.replace("_", " ") for e in evidence if e.floor is not None and e.floor > e.auroc.value]
    return Card(
        title="chest_findings",
        purpose="Scores the 14 findings of NIH ChestX-ray14 on a frontal chest radiograph of an adult. Abnormal (any "
        "of the 14) is for comparison and not reported.",
        data="1,303 images of NIH ChestX-ray14 (Wang et al., CVPR 2017; NIH Clinical Center), labels from reports; "
        "learnt together with lung_opacity, for which radiologists labelled 434 of them (RSNA 2018). The network "
        "begins as EfficientNet-Lite0 of ImageNet (TensorFlow's weights, Apache 2.0); labels are softened by the "
        "scores of a public CheXNet reproduction where there are any.",
        header=HEADER,
        rows=[row_of(e) for e in evidence],
        notes=(
            f"A finding is reported only if the lower bound of its AUROC is at least {LEAST_AUROC}, with at least "
            f"{LEAST_POSITIVES} positives, its AUROC within the randomly drawn source is at least {LEAST_AUROC} too, "
            "it beats a regression on view and source alone, and the threshold from "
            f"which it is called present (specificity {SPECIFICITY:.0%} or a probability of one third, the stricter of "
            f"both) finds at least {LEAST_SENSITIVITY:.0%} of the positives.",
            f"Mean AUROC of the eight most frequent findings: {mean8[0]}, and {short8:.3f} by view and source alone. "
            f"It exceeds that of the regression on a frozen network, on the same folds, by {mean8[1]}; but for "
            f"{', '.join(behind) or 'no finding'} that regression is the better one.",
            NEVER_MEASURED,
            "Share of the teacher and mixup were chosen on two of the five folds, which makes the figures a little too "
            "good.",
            "The frozen network is the trunk as ImageNet left it: a regression on means and spreads of its low and "
            "middle maps, which learnt from labels alone, where this network also learnt from another model's scores, "
            "boxes and outlines. The interval of the difference does not count that another seed gives another "
            "network, nor what was chosen on two folds: it is no proof. By other folds, a regression on frozen "
            "SqueezeNet features reached 0.878 for any abnormality and 0.744 as mean of eight findings: these are not "
            "beaten clearly.",
            "It locates nothing: nobody drew where these findings are, but for a few.",
            "Labels are text-mined and partly wrong. The images come from several collections that differ in disease "
            "and view; the column 'view + source alone' shows how far that leads without looking at the image.",
            "Probabilities are calibrated to the share of each finding in this collection, higher than in a hospital.",
            "Pneumothorax: few positives; where it says not evaluated, the model says nothing about it and triage "
            "cannot use it.",
            "Adults only. Not validated on portable units, detectors or populations other than the collection's.",
        ),
        plots=(),
        provenance=json.dumps(provenance, indent=1),
        tables=[beside],
    )


def _sigmoid(x: FloatArray) -> FloatArray:
    return 1 / (1 + np.exp(-x))

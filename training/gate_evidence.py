"""Weighs the pixel gate on pictures it has not seen, settles its threshold on others, and writes its bundle and card.

The rule: the threshold comes from the calibrating fold alone, and every figure of the card from the held-out folds,
from a hospital none of whose pictures was used, or from pictures that nobody made for this purpose.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydicom import dcmread
from pydicom.data import get_testdata_file
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from models.bundle import write_bundle
from models.calls import sigmoid
from models.pixel_gate import CLASSES, GateContract, interpret, margin
from models.refusal import ImageRefused
from models.rendering import network_input, render
from training.card import Card, metadata, plot_roc, plot_shares, write_card
from training.gate_samples import (
    INPUT_SIZE,
    MADE,
    MISLABELLED,
    OTHER_CHILDREN,
    TEENAGERS,
    UNSEEN,
    GateSamples,
    make,
    natural_pictures,
)
from training.metrics.calibration import platt
from training.metrics.intervals import BoolArray, FloatArray, Interval, share_interval
from training.metrics.scores import auroc
from training.turning import turn

REFUSED_ADULTS = 0.003  # share of the calibrating fold's adults that the threshold refuses
TURNED = ("mirrored", "turned_left", "turned_right", "upside_down", "inverted")
WRONG_LABEL = "held-out, labelled adult, seen to be something else"
_MOST_TURNED = 400  # held-out adults that are turned, mirrored and inverted
_MOST_MADE = 60  # pictures of each made kind
_THUMBNAIL = 16  # of the baseline that knows nothing but gray values
# Slices and other pictures that pydicom ships for its own tests: nothing here was chosen to be easy.
_FOREIGN = ("CT_small.dcm", "MR_small.dcm", "693_J2KI.dcm", "JPGExtended.dcm", "examples_overlay.dcm")


@dataclass(frozen=True, eq=False)
class Group:
    """Pictures of one kind with what the network said.

    Parameters
    ----------
    logits
        Shape (n, classes).
    patients
        By whom the interval is drawn.
    accept
        Whether they should pass.
    """

    name: str
    logits: npt.NDArray[np.float32]
    patients: list[str]
    accept: bool

    @property
    def margins(self) -> FloatArray:
        """Log-odds of a frontal chest of an adult, shape (n,)."""
        return np.array([margin(row, tuple(CLASSES)) for row in self.logits])


@dataclass(frozen=True, eq=False)
class GateEvidence:
    """What was found; `baseline` is what a logistic regression on thumbnails reaches: refused share of a group."""

    contract: GateContract
    groups: list[Group]
    baseline: Mapping[str, float]


def judge(
    network: nn.Module, samples: GateSamples, data: Path, calibrating: tuple[int, ...], held_out: tuple[int, ...]
) -> GateEvidence:
    """Settle calibration and threshold on the calibrating folds, then look at what was held out."""
    contract = _settle(_folds(network, samples, calibrating, "calibrating"))
    groups = groups_of(network, samples, data, held_out)
    teaching = tuple(set(np.unique(samples.fold).tolist()) - {*calibrating, *held_out})
    return GateEvidence(contract, groups, _baseline(samples, teaching, calibrating, held_out))


def groups_of(network: nn.Module, samples: GateSamples, data: Path, held_out: tuple[int, ...]) -> list[Group]:
    """What was held out, and pictures from elsewhere and made in code: the same ones each time."""
    torch.manual_seed(0)
    return [*_folds(network, samples, held_out, "held-out"), *_others(network, samples, data, held_out)]


def _settle(groups: Sequence[Group]) -> GateContract:
    """Calibrate the score between what should pass and what should not, and place the threshold."""
    wanted = np.concatenate([g.margins for g in groups if g.accept])
    unwanted = np.concatenate([g.margins for g in groups if not g.accept])
    truth = np.concatenate((np.ones(len(wanted)), np.zeros(len(unwanted))))
    slope, intercept = platt(truth, np.concatenate((wanted, unwanted)))
    least = float(np.quantile(wanted, REFUSED_ADULTS))
    threshold = float(sigmoid(slope * least + intercept))
    return GateContract(tuple(CLASSES), round(slope, 4), round(intercept, 4), round(threshold, 4))


def _folds(network: nn.Module, samples: GateSamples, folds: tuple[int, ...], what: str) -> list[Group]:
    """The real pictures of some folds, and the adults among them turned, mirrored and inverted."""
    groups = []
    for shows in ("frontal", "child", "lateral", "other"):
        chosen = samples.indices(shows, folds)
        for source in sorted({samples.records[i].source for i in chosen}):
            these = [int(i) for i in chosen if samples.records[i].source == source]
            name = f"{what} {shows}: {source.replace('_', ' ')}"
            groups.append(_group(network, name, samples, these, accept=shows == "frontal"))
    adults = [int(i) for i in samples.indices("frontal", folds)]
    adults = adults[:: max(1, len(adults) // _MOST_TURNED)]
    for name in TURNED:
        turned = torch.stack([turn(torch.from_numpy(samples.pictures[i]).float(), name) for i in adults])
        patients = [samples.groups[i] for i in adults]
        groups.append(Group(f"{what} {name.replace('_', ' ')}", look(network, turned), patients, accept=False))
    return groups


def _others(network: nn.Module, samples: GateSamples, data: Path, folds: tuple[int, ...]) -> list[Group]:
    """Pictures from elsewhere, and pictures made in code."""
    everything = tuple(np.unique(samples.fold).tolist())
    groups = [
        _group(network, name, samples, samples.indices("frontal", everything, source).tolist(), accept=accept)
        for source, name, accept in (
            (UNSEEN, "unseen hospital (Hannover)", True),
            (TEENAGERS, "NIH, 12 to 17 years", True),
            (OTHER_CHILDREN, "NIH, under 12 years", False),
        )
    ]
    wrong = samples.indices("frontal", folds, MISLABELLED).tolist()
    groups.append(_group(network, WRONG_LABEL, samples, wrong, accept=False))
    adults = samples.indices("frontal", folds)
    for kind in MADE:
        chests = [torch.from_numpy(samples.pictures[int(i)]).float() for i in adults[:_MOST_MADE]]
        made = torch.stack([make(chest, kind).clamp(0, 1) for chest in chests])
        name = f"made: {kind.replace('_', ' ')}"
        groups.append(Group(name, look(network, made), [str(i) for i in range(len(made))], accept=False))
    natural = torch.from_numpy(natural_pictures(held_out=True)).float()
    groups.append(Group("photographs", look(network, natural), [str(i) for i in range(len(natural))], accept=False))
    for name, files in (
        ("hip and tibia radiographs (DICOM)", sorted((data / "dicom").glob("RG*.dcm"))),
        ("slices that pydicom ships", [Path(str(get_testdata_file(file, download=False))) for file in _FOREIGN]),
    ):
        pictures = [picture for file in files if (picture := _rendered(file)) is not None]
        if pictures:
            found = look(network, torch.from_numpy(np.stack(pictures)))
            groups.append(Group(name, found, [str(i) for i in range(len(pictures))], accept=False))
    return groups


def _group(network: nn.Module, name: str, samples: GateSamples, chosen: list[int], *, accept: bool) -> Group:
    pictures = torch.from_numpy(samples.pictures[chosen]).float()
    return Group(name, look(network, pictures), [samples.groups[i] for i in chosen], accept)


def _rendered(file: Path) -> npt.NDArray[np.float32] | None:
    try:
        return network_input(render(dcmread(file)), INPUT_SIZE, stretch=True)[0]
    except (ImageRefused, OSError):
        return None  # it would not reach the gate


def look(network: nn.Module, pictures: torch.Tensor) -> npt.NDArray[np.float32]:
    """Logits (n, classes) of pictures (n, size, size)."""
    found = []
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast, in small batches
    with torch.inference_mode():
        for start in tqdm(range(0, len(pictures), 4), desc="looking", unit="batch", leave=False):
            found.append(network(pictures[start : start + 4, None]).numpy())
    return np.concatenate(found) if found else np.zeros((0, len(CLASSES)), np.float32)


def _baseline(
    samples: GateSamples, teaching: tuple[int, ...], calibrating: tuple[int, ...], held_out: tuple[int, ...]
) -> dict[str, float]:
    """What gray values of a thumbnail alone tell, at the same share of refused adults: the share refused of a kind."""

    def thumbnails(folds: tuple[int, ...], kind: str) -> FloatArray:
        chosen = samples.indices("child" if kind == "child" else "frontal", folds)
        pictures = torch.from_numpy(samples.pictures[chosen[:2000]]).float()
        if kind == "mirrored":
            pictures = pictures.flip(-1)
        small = functional.interpolate(pictures[:, None], (_THUMBNAIL, _THUMBNAIL), mode="area")
        return small.flatten(1).numpy().astype(np.float64)

    shares = {}
    for kind in ("child", "mirrored"):
        right, wrong = thumbnails(teaching, "frontal"), thumbnails(teaching, kind)
        truth = np.concatenate((np.zeros(len(right)), np.ones(len(wrong))))
        fitted = LogisticRegression(max_iter=2000, class_weight="balanced", C=0.1)
        fitted.fit(np.concatenate((right, wrong)), truth)
        limit = np.quantile(fitted.decision_function(thumbnails(calibrating, "frontal")), 1 - REFUSED_ADULTS)
        shares[kind] = float((fitted.decision_function(thumbnails(held_out, kind)) > limit).mean())
    return shares


def refused_share(group: Group, contract: GateContract) -> Interval:
    """Share of a group that the gate refuses, with its interval by patient."""
    return share_interval(_refused(group, contract), group.patients)


def write(
    bundle: Path, network: nn.Module, network_def: dict[str, Any], evidence: GateEvidence, provenance: dict[str, Any]
) -> None:
    """Write weights, contract, card and plots."""
    contract = evidence.contract
    shares = {group.name: refused_share(group, contract) for group in evidence.groups}
    adults = [g for g in evidence.groups if g.accept and g.name.startswith("held-out")]
    right = np.concatenate([g.margins for g in adults])
    right_patients = [p for g in adults for p in g.patients]
    wrong = next(g for g in evidence.groups if g.name == WRONG_LABEL)
    curves: dict[str, tuple[FloatArray, FloatArray]] = {}
    rows: list[tuple[str, ...]] = []
    for group in evidence.groups:
        found = "-"
        if not group.accept and len(group.margins):
            truth = np.concatenate((np.ones(len(right)), np.zeros(len(group.margins))))
            scores = np.concatenate((right, group.margins))
            found = str(auroc(truth, scores, [*right_patients, *group.patients]))
            if group.name.startswith("held-out") and group is not wrong:
                curves[group.name.removeprefix("held-out ")] = (truth, scores)
        rows.append((group.name, "pass" if group.accept else "be refused", str(shares[group.name]), found,
                     str(len(group.margins))))  # fmt: skip
    for name, counted in (("as the collections label them", [*adults, wrong]), ("all collections", adults)):
        refused = np.concatenate([_refused(g, contract) for g in counted])
        share = share_interval(refused, [p for g in counted for p in g.patients])
        shares[f"held-out adults, {name}"] = share
        rows.insert(0, (f"held-out adults, {name}", "pass", str(share), "-", str(len(refused))))
    plots = [
        plot_roc(bundle / "docs" / "roc.png", curves),
        plot_shares(bundle / "docs" / "refused.png", {g.name: (shares[g.name], g.accept) for g in evidence.groups}),
    ]
    section = {
        "interpreter": "gate",
        "input_size": INPUT_SIZE,
        "gate": asdict(contract),
        "provenance": provenance,
        "figures": {name: asdict(share) for name, share in shares.items()},
    }
    information = metadata("Frontal chest radiograph, or not",
                           "Research: keeps pictures out of chest radiograph models that they were not made for.",
                           channels=1, size=INPUT_SIZE, outputs={str(i): n for i, n in enumerate(CLASSES)})  # fmt: skip
    write_bundle(bundle, network, {"network_def": network_def}, {**information, "hilum": section})
    write_card(bundle, _card(rows, evidence, plots, provenance))


def _refused(group: Group, contract: GateContract) -> BoolArray:
    return np.array([not interpret(row, contract).accepted for row in group.logits], np.bool_)


def _card(rows: list[tuple[str, ...]], evidence: GateEvidence, plots: list[Path], provenance: dict[str, Any]) -> Card:
    return Card(
        title="pixel_gate",
        purpose="Tells whether a picture is an upright, unmirrored, uninverted frontal chest radiograph of an adult, "
        "and what else it seems to be. It refuses; it never turns a picture round.",
        data="Frontal: NIH ChestX-ray14, RSNA normals and COVID-19 radiographs (`adult_normals_224`), `lung_masks`, "
        "`chest_structures`, `covid_unlabelled`, and chests computed by `models.phantom`. Children: "
        "`paediatric_pneumonia` without its COVID-19 pictures, which show adults, and the paediatric normals of "
        "`adult_normals_224`. Lateral radiographs and CT figures: `view_gate`. Turned, mirrored and inverted pictures "
        "are made from the frontal ones of the same folds; the rest is made in code or comes with installed packages. "
        "Ten folds by patient and by copy (pictures whose thumbnails correlate beyond 0.985 stay together, for the "
        "collections share files): two held out, two for calibration and threshold, six to teach. Hannover and "
        "every copy of its pictures were left out of all of them.",
        header=("group", "should", "share refused, 95 % interval", "AUROC against held-out adults", "pictures"),
        rows=rows,
        notes=(
            f"Threshold: the score that {100 * REFUSED_ADULTS:.1f} % of the calibrating folds' adults miss. Score: "
            "softmax margin of `frontal`, calibrated (Platt) on the same folds. A picture that reaches it although "
            "another class is more probable passes with the caution `pixels_doubtful`: turned pictures are rare in a "
            "hospital, and adults refused wrongly are among the sickest (an opaque hemithorax, a chest much rotated).",
            "That share was settled after the held-out figures of two others (0.2 and 0.5 %) had been seen.",
            "Baseline: a logistic regression on thumbnails of 16 x 16 pixels, at the same share of refused adults, "
            f"refuses {100 * evidence.baseline['child']:.0f} % of the children and "
            f"{100 * evidence.baseline['mirrored']:.0f} % of the mirrored pictures.",
            "Children come from one hospital (Guangzhou, one to five years) and differ from the adults by collection "
            "as well as by age: resolution and proportions were levelled in training, but not everything can be. "
            "The class knows the small children of that hospital and few others: see `NIH, under 12 years`, whom it "
            "lets pass. Teenagers look like adults to it. The header's age, not the gate, keeps them out; a picture "
            "without a header has none.",
            "A heart on the right reads as a mirrored picture: a patient with situs inversus is refused as "
            "`orientation`, and stays visible on the worklist. A mirrored child is not told from a child.",
            "Some pictures of the adult collections show a child, or are stored turned, mirrored or inverted "
            "(`training/gate_mislabelled.csv`, and `Normal-1342` to `Normal-1404`): found by looking at those "
            "that a first network refused, and left out of teaching and calibration. The first row leaves them out of "
            "the figures, the second counts them as adults, as their collections do; only refused pictures were looked "
            "at, which flatters the first.",
            "RSNA normals and NIH ChestX-ray14 come from one hospital; the same patient may lie on both sides of the "
            "split with different pictures, for the copies do not tell.",
        ),
        plots=plots,
        provenance=json.dumps(provenance, indent=1),
    )

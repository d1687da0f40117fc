"""Weighs the evidence for ``pneumothorax`` on real pictures and writes bundle and card.

The rule: the finding is reported only if real pictures carry it, and an outline is shown only if real outlines show
that it lies right. Nobody drew any here, so none is shown, however well those that were drawn into pictures are met.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bundle import write_bundle
from models.contracts import MaskContract
from models.masks import image_logits, outlined
from models.networks import LiteUNet
from training.card import Card, Table, metadata, plot_intervals, plot_reliability, write_card
from training.data import FindingRecord, split_patients
from training.evidence import (
    FOLDS,
    HEADER,
    LEAST_AUROC,
    LEAST_POSITIVES,
    Evidence,
    contract_of,
    row_of,
    weigh_scores,
)
from training.metrics.intervals import Interval
from training.metrics.overlap import MaskFigures, mask_figures, score_mask
from training.metrics.scores import auroc

KEY = "pneumothorax"
VERSION = "0.1.0"
INPUT_SIZE = 448
READING = MaskContract(threshold=0.5, least_area=300)
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What was answered on pictures of patients that were not trained on.

    Parameters
    ----------
    records
        Real pictures, labelled or not.
    masks
        Logits of outlines on them, shape (n, 1, INPUT_SIZE, INPUT_SIZE).
    drawn, air
        The same on pictures into which one was drawn, (m, 1, ...), and where it is, (m, ...).
    """

    records: list[FindingRecord]
    masks: npt.NDArray[np.float16]
    drawn: npt.NDArray[np.float16]
    air: npt.NDArray[np.bool_]


def write(bundle: Path, network: LiteUNet, held_out: HeldOut, provenance: dict[str, Any], seed: int) -> None:
    """Weigh the evidence; write weights, contract and card."""
    records = held_out.records
    patients = [record.patient for record in records]
    dealt = split_patients(patients, FOLDS, seed)
    labels = np.array([record.labels[KEY] for record in records], np.float32)
    scores = scores_of(held_out.masks)
    folds = np.array([dealt[patient] for patient in patients])
    evidence, truth, probabilities = weigh_scores(KEY, records, folds, labels, scores)
    on_drawn = mask_figures(
        [score_mask(_mask(one), air) for one, air in zip(held_out.drawn, held_out.air, strict=True)],
        [str(i) for i in range(len(held_out.air))],
    )
    section = {
        "interpreter": "masks", "input_size": INPUT_SIZE,
        "findings": {KEY: contract_of(evidence, 0)},  # it does not localise: two are too few to judge by
        "masks": asdict(READING), "provenance": provenance,
        "figures": {KEY: {**asdict(evidence), "evaluated": evidence.carries}, "drawn": asdict(on_drawn)},
    }  # fmt: skip
    described = metadata(
        "Pneumothorax on frontal chest radiographs of adults",
        "Raising the reading priority of radiographs in research. Not a medical device, not for diagnosis.",
        channels=1, size=INPUT_SIZE, outputs={"0": KEY}, version=VERSION,
    )  # fmt: skip
    write_bundle(
        bundle, network, {"network_def": {"_target_": "models.networks.LiteUNet"}}, {**described, "hilum": section}
    )
    plots = (
        plot_intervals(
            bundle / "docs" / "auroc.png",
            {KEY: evidence.auroc},
            {KEY: evidence.shortcut},
            LEAST_AUROC,
            [KEY] if evidence.carries else [],
        ),
        plot_reliability(bundle / "docs" / "reliability.png", {KEY: (truth, probabilities)}),
    )
    baseline = _baseline(records, labels, scores)
    write_card(bundle, replace(_card(evidence, on_drawn, baseline, provenance), plots=plots))


def scores_of(masks: npt.NDArray[np.float16]) -> FloatArray:
    """The logit of each picture from its outlines, as the node makes it: shape (n,) from (n, 1, h, w)."""
    return np.array([image_logits({"masks": one.astype(np.float32)}, READING)[0] for one in masks], np.float64)


def _mask(one: npt.NDArray[np.float16]) -> npt.NDArray[np.bool_]:
    return np.asarray(outlined({"masks": one.astype(np.float32)}, READING)[0])


def _baseline(
    records: Sequence[FindingRecord], labels: npt.NDArray[np.float32], scores: FloatArray
) -> tuple[Interval, Interval, int] | None:
    """AUROC of a published CheXNet reproduction and of ours where its scores are there, and on how many pictures."""
    there = [i for i, record in enumerate(records) if KEY in record.teacher]
    truth = labels[there].astype(float)
    if not 5 <= truth.sum() < len(truth):
        return None
    patients = [records[i].patient for i in there]
    theirs = auroc(truth, np.array([records[i].teacher[KEY] for i in there]), patients)
    return theirs, auroc(truth, scores[there], patients), len(there)


def _card(
    evidence: Evidence,
    on_drawn: MaskFigures,
    baseline: tuple[Interval, Interval, int] | None,
    provenance: dict[str, Any],
) -> Card:
    drawn = Table(
        "On pictures into which one was drawn, of held-out patients: no evidence of anything real",
        ("figure", "value, 95 % interval"),
        [("Dice of the outline", str(on_drawn.dice_where_present))],
    )
    beside = []
    if baseline is not None:
        theirs, ours, count = baseline
        beside.append(Table(
            f"Beside a published CheXNet reproduction, on the {count} pictures that it was asked about",
            ("model", "AUROC, 95 % interval"), [("CheXNet reproduction", str(theirs)), (KEY, str(ours))],
        ))  # fmt: skip
    return Card(
        title=KEY,
        purpose="Scores and outlines pneumothorax on a frontal chest radiograph of an adult.",
        data="NIH ChestX-ray14 (Wang et al., CVPR 2017; NIH Clinical Center). Trained on pictures without one, into "
        "half of which one is drawn by code after its signs on upright films; judged on every labelled picture and on "
        "a third of the other patients, none of whom was trained on. The network begins as EfficientNet-Lite0 of "
        "ImageNet (TensorFlow's weights, Apache 2.0); lungs are those of lung_fields.",
        header=("finding", "positives", "AUROC, 95 % interval", *HEADER[3:]),
        rows=[row_of(evidence)],
        notes=(
            f"The finding is reported only if the lower bound of its AUROC is at least {LEAST_AUROC}, with at least "
            f"{LEAST_POSITIVES} positives, and beats a regression on view and source alone.",
            "No outline is shown: one picture here has a real outline and one a real box, too few to hold it against. "
            "The recipes siim_acr_unet_densenet121 and siim_acr_unet_resnet34 give whoever has SIIM-ACR Pneumothorax "
            "outlines that were judged on real ones.",
            "Labels are text-mined and partly wrong: of two labelled pictures that radiologists looked at again, both "
            "were without one. Many positives were treated already; tubes are in the picture, and the network may see "
            "them.",
            "Drawn ones are those of upright patients; a deep sulcus of a supine patient is not drawn.",
            "Calibration and thresholds are settled on the judged patients, fold by fold; the weights are not.",
            "Adults only. Not validated on portable units, detectors or populations other than the collection's.",
        ),
        plots=(),
        provenance=json.dumps(provenance, indent=1),
        tables=[*beside, drawn],
        version=VERSION,
    )  # fmt: skip

"""Our answers as the SIIM-FISABIO-RSNA COVID-19 challenge takes them: its rows, its file and its score.

The rule: studies and images of the test part alone are answered and scored; what a network does not tell is answered
with the same for all, and the card says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.card import Table
from training.judging.case import Part, plain, words
from training.metrics.detection import Detections
from training.metrics.intervals import FloatArray
from training.metrics.submission import STUDY_CLASSES, Row, SubmissionInvalid, image_row, score, study_row
from training.readers.records import Record

NOTHING_FOUND = Detections(np.empty((0, 4)), np.empty(0))


@dataclass(frozen=True, eq=False)
class Rows:
    """Answers, truth and the patient of each row."""

    answers: Mapping[str, Row]
    truth: Mapping[str, Row]
    patients: Mapping[str, str]


def class_shares(records: Iterable[Record]) -> dict[str, float]:
    """Shares of the study classes among studies, by the challenge's names; empty where none is labelled."""
    of_study = {r.study: r for r in records if any(f"covid_{name}" in r.labels for name in STUDY_CLASSES)}
    if not of_study:
        return {}
    labelled = of_study.values()
    return {name: float(np.mean([r.labels.get(f"covid_{name}", 0) == 1 for r in labelled])) for name in STUDY_CLASSES}


def box_rows(
    records: Sequence[Record],
    found: Sequence[Detections],
    drawn: Sequence[FloatArray],
    classes: Mapping[str, float],
) -> Rows:
    """Rows of images whose boxes are known, and of their studies."""
    answers: dict[str, Row] = {}
    truth: dict[str, Row] = {}
    patients: dict[str, str] = {}
    for record, boxes, true in zip(records, found, drawn, strict=True):
        key = f"{record.image.stem}_image"
        answers[key] = image_row(boxes, 1.0 - float(boxes.confidences.max(initial=0.0)))
        truth[key] = image_row(Detections(true, np.ones(len(true))))
        patients[key] = record.patient
        _add_study(record, classes, answers, truth, patients)
    return Rows(answers, truth, patients)


def study_rows(
    studies: Sequence[Record], probabilities: FloatArray, findings: Sequence[str], images: Sequence[Record]
) -> Rows:
    """Rows of studies with probabilities (n, findings), and of their images, on which nothing is told.

    Of images whose boxes nobody looked for there is no row.
    """
    answers: dict[str, Row] = {}
    truth: dict[str, Row] = {}
    patients: dict[str, str] = {}
    for record, row in zip(studies, probabilities, strict=True):
        told = {key.removeprefix("covid_"): float(p) for key, p in zip(findings, row, strict=True)}
        _add_study(record, told, answers, truth, patients)
    for record in images:
        if "lung_opacity" in record.boxes:
            key, boxes = f"{record.image.stem}_image", record.boxes["lung_opacity"]
            answers[key] = image_row(NOTHING_FOUND)
            edges = np.array([[b.x, b.y, b.x + b.width, b.y + b.height] for b in boxes]).reshape(-1, 4)
            truth[key] = image_row(Detections(edges, np.ones(len(boxes))))
            patients[key] = record.patient
    return Rows(answers, truth, patients)


def tell(rows: Rows, what_is_not_told: str) -> Part:
    """The challenge's score.

    Raises
    ------
    SubmissionInvalid
        When no study has a class: the data set is another one.
    """
    if not any(key.endswith("_study") for key in rows.truth):
        raise SubmissionInvalid("the challenge's score takes the study classes of SIIM-FISABIO-RSNA COVID-19")
    told = score(rows.answers, rows.truth, rows.patients)
    table = [(words(name), str(figure)) for name, figure in told.classes.items()]
    table.append(("mean of the six: the challenge's score", str(told.mean)))
    header = ("class", "average precision at IoU > 0.5, 95 % interval by patient")
    note = f"On our test part, not on the challenge's; {what_is_not_told}. The rows are in docs/submission.csv."
    numbers = {"classes": {k: plain(f) for k, f in told.classes.items()}, "score": plain(told.mean)}
    made = Table("Score of SIIM-FISABIO-RSNA COVID-19", header, tuple(table), note)
    return Part(numbers, (made,), submission=rows.answers)


def _add_study(
    record: Record, told: Mapping[str, float], answers: dict[str, Row], truth: dict[str, Row], patients: dict[str, str]
) -> None:
    labels = {name: record.labels[f"covid_{name}"] for name in STUDY_CLASSES if f"covid_{name}" in record.labels}
    if 1.0 not in labels.values() or not told:
        return
    key = f"{record.study}_study"
    answers[key] = study_row(told)
    truth[key] = study_row({name: 1.0 for name, value in labels.items() if value == 1.0})
    patients[key] = record.patient

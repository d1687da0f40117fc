"""Submissions to the SIIM-FISABIO-RSNA COVID-19 challenge (2021): written, read and scored.

The rule: truth and answer have one form, rows of ``label confidence xmin ymin xmax ymax``; a study's class is a box
``0 0 1 1``, an image without opacities says ``none 1 0 0 1 1``, and the score is the mean average precision of six
classes at IoU > 0.5.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.metrics.detection import DetectionFigures, Detections, mean_average_precision
from training.metrics.intervals import FloatArray
from training.metrics.overlap import as_boxes

STUDY_CLASSES = ("negative", "typical", "indeterminate", "atypical")
IMAGE_CLASSES = ("opacity", "none")
_COLUMNS = ["id", "PredictionString"]
_FIELDS = 6
_WHOLE = (0.0, 0.0, 1.0, 1.0)  # the box of everything that is not an opacity


class SubmissionInvalid(ValueError):
    """A row that the challenge would not take; the message says which and why."""


@dataclass(frozen=True)
class Prediction:
    """One item of a row.

    Parameters
    ----------
    label
        One of `STUDY_CLASSES` or `IMAGE_CLASSES`.
    confidence
        Finite; in truth 1.
    box
        xmin, ymin, xmax, ymax in pixels of the stored image.
    """

    label: str
    confidence: float
    box: tuple[float, float, float, float] = _WHOLE


Row = tuple[Prediction, ...]


def study_row(probabilities: Mapping[str, float]) -> Row:
    """A study's row: each class with its probability, 0 to 1."""
    return tuple(Prediction(label, probabilities[label]) for label in STUDY_CLASSES if label in probabilities)


def image_row(found: Detections, none: float | None = None) -> Row:
    """An image's row: its opacities, and ``none`` with its probability if given, or if there are none at all."""
    boxes = zip(found.confidences.tolist(), found.boxes.tolist(), strict=True)
    row = tuple(Prediction("opacity", confidence, (box[0], box[1], box[2], box[3])) for confidence, box in boxes)
    if none is None and not row:
        none = 1.0
    return row if none is None else (*row, Prediction("none", none))


def text(row: Row) -> str:
    """A row as the challenge writes it."""
    return " ".join(f"{p.label} {p.confidence:.6g} {' '.join(f'{edge:.8g}' for edge in p.box)}" for p in row)


def parse(written: str) -> Row:
    """The items of a row.

    Raises
    ------
    SubmissionInvalid
        When fields are missing, no number, or an unknown label, or a box has no area.
    """
    fields = written.split()
    if not fields or len(fields) % _FIELDS:
        raise SubmissionInvalid(
            f"{len(fields)} fields, expected a multiple of six: label confidence xmin ymin xmax ymax"
        )
    row = []
    for start in range(0, len(fields), _FIELDS):
        label, *numbers = fields[start : start + _FIELDS]
        if label not in STUDY_CLASSES + IMAGE_CLASSES:
            raise SubmissionInvalid(f"unknown label {label!r}")
        try:
            confidence, *box = (float(number) for number in numbers)
            as_boxes([box])
        except ValueError as error:
            raise SubmissionInvalid(f"{' '.join(fields[start : start + _FIELDS])!r}: {error}") from error
        if not np.isfinite(confidence):
            raise SubmissionInvalid(f"{label}: confidence {confidence}")
        row.append(Prediction(label, confidence, (box[0], box[1], box[2], box[3])))
    return tuple(row)


def write(path: Path, rows: Mapping[str, Row]) -> None:
    """Write ``submission.csv``; keys are ids of studies and images with ``_study`` and ``_image`` behind them.

    Raises
    ------
    SubmissionInvalid
    """
    for key, row in rows.items():
        _check(key, row)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows((key, text(row)) for key, row in rows.items())


def read(path: Path) -> dict[str, Row]:
    """Read a submission: id to row, in the order of the file.

    Raises
    ------
    SubmissionInvalid
        When a row is not what the challenge takes, or an id comes twice.
    """
    rows: dict[str, Row] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.DictReader(file)
        if lines.fieldnames is None or list(lines.fieldnames) != _COLUMNS:
            raise SubmissionInvalid(f"{path}: columns {lines.fieldnames}, expected {_COLUMNS}")
        for line in lines:
            where, key = f"{path}, line {lines.line_num}", line["id"]
            try:
                row = parse(line["PredictionString"] or "")
                _check(key, row)
            except SubmissionInvalid as error:
                raise SubmissionInvalid(f"{where}: {error}") from error
            if key in rows:
                raise SubmissionInvalid(f"{where}: {key} comes twice")
            rows[key] = row
    return rows


def score(answers: Mapping[str, Row], truth: Mapping[str, Row], patients: Mapping[str, str]) -> DetectionFigures:
    """Mean average precision over the six classes, each over all rows.

    Parameters
    ----------
    answers, truth
        Id to row; the truth has confidences of 1.
    patients
        Id to the patient (or the study, where no patient is known), for the intervals.

    Raises
    ------
    SubmissionInvalid
        When the answers lack a row or have one too many.
    """
    for what, keys in (("missing", set(truth) - set(answers)), ("unknown", set(answers) - set(truth))):
        if keys:
            raise SubmissionInvalid(f"{len(keys)} rows are {what}, such as {min(keys)}")
    found: dict[str, list[Detections]] = {}
    true: dict[str, list[FloatArray]] = {}
    for label in STUDY_CLASSES + IMAGE_CLASSES:
        found[label] = [_detections(row, label) for row in answers.values()]
        true[label] = [_detections(truth[key], label).boxes for key in answers]
    return mean_average_precision(found, true, [patients[key] for key in answers])


def _detections(row: Row, label: str) -> Detections:
    items = [item for item in row if item.label == label]
    return Detections(as_boxes([item.box for item in items]), np.array([item.confidence for item in items]))


def _check(key: str, row: Row) -> None:
    suffixes = {"_study": STUDY_CLASSES, "_image": IMAGE_CLASSES}
    allowed = next((labels for suffix, labels in suffixes.items() if key.endswith(suffix)), None)
    if allowed is None:
        raise SubmissionInvalid(f"{key!r} ends neither in _study nor in _image")
    if not row:
        raise SubmissionInvalid(f"{key}: an empty row; an image without opacities says: none 1 0 0 1 1")
    wrong = sorted({item.label for item in row} - set(allowed))
    if wrong:
        raise SubmissionInvalid(f"{key}: {', '.join(wrong)} is not among {', '.join(allowed)}")

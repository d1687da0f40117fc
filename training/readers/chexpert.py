"""CheXpert: 224,316 radiographs of 65,240 patients, 14 observations that may be uncertain.

The rule: a blank says that the report does not mention the observation, and stays absent; -1 stays `UNCERTAIN` until
`resolve_uncertain` is told what to make of it. View and patient come from the path, labels never do.

Source: J. Irvin et al., CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert Comparison, AAAI
2019; ``train.csv`` and ``valid.csv`` of v1.0 and of v1.0-small. Smoothing: H. Pham et al., Interpreting chest X-rays
via CNNs that exploit hierarchical disease dependencies and uncertainty labels, 2019.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from training.data import DataMissing
from training.readers.fields import BadRow, age_in_years, cell, number, sex_of, table, view_of
from training.readers.records import UNCERTAIN, DataSet, LeftOut, Record
from training.readers.splits import keyed_fraction

NAME = "chexpert"
COLUMNS = {
    "no_finding": "No Finding",
    "enlarged_cardiomediastinum": "Enlarged Cardiomediastinum",
    "cardiomegaly": "Cardiomegaly",
    "lung_opacity": "Lung Opacity",
    "lung_lesion": "Lung Lesion",
    "edema": "Edema",
    "consolidation": "Consolidation",
    "pneumonia": "Pneumonia",
    "atelectasis": "Atelectasis",
    "pneumothorax": "Pneumothorax",
    "effusion": "Pleural Effusion",
    "pleural_other": "Pleural Other",
    "fracture": "Fracture",
    "support_devices": "Support Devices",
}
FINDINGS = tuple(COLUMNS)
_OTHERS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
_PATH = re.compile(r"(?:.*/)?((?:train|valid)/(patient\d+)/(study\d+)/view\d+_(frontal|lateral)\.(?:jpg|png))")
_COMPATIBLE = {"no_finding", "support_devices"}  # the labeler gives No Finding beside devices


class Policy(StrEnum):
    """What becomes of an uncertain label: section 3.2 of Irvin 2019; smoothing of Pham 2019."""

    ONES = "ones"
    ZEROS = "zeros"
    IGNORE = "ignore"  # as if it was not mentioned
    MULTICLASS = "multiclass"  # stays UNCERTAIN, which is a class of its own
    SMOOTH_ONES = "smooth_ones"  # a number drawn from 0.55 to 0.85
    SMOOTH_ZEROS = "smooth_zeros"  # a number drawn from 0 to 0.3


_SMOOTH = {Policy.SMOOTH_ONES: (0.55, 0.85), Policy.SMOOTH_ZEROS: (0.0, 0.3)}


def read(folder: Path, *, need_images: bool = True) -> DataSet:
    """Read the download in `folder`: the folder that holds ``train.csv``, or the one above it.

    Parameters
    ----------
    need_images
        Leave out rows whose JPEG file is not there. Otherwise they are kept, for work on the tables alone.

    Returns
    -------
    DataSet
        `split` is ``train`` for ``train.csv`` and ``val`` for ``valid.csv``.

    Raises
    ------
    DataMissing
        When neither table is there, or one is of another data set.
    """
    homes = [folder, *sorted(folder.glob("CheXpert*"))]
    home = next((home for home in homes if any((home / f"{s}.csv").exists() for s in ("train", "valid"))), None)
    if home is None:
        raise DataMissing(f"{folder} holds neither train.csv nor valid.csv, nor does a folder CheXpert* in it")
    records: dict[Path, Record] = {}
    left_out: list[LeftOut] = []
    for name, split in (("train.csv", "train"), ("valid.csv", "val")):
        if not (home / name).exists():
            continue
        for row, cells in table(home / name, (*_OTHERS, *COLUMNS.values())):
            try:
                record = _record(home, cells, split, row, left_out)
                if record.image in records:
                    raise BadRow(f"{cells['Path']} stands in {records[record.image].row} already")
                if need_images and not record.image.exists():
                    raise BadRow(f"{record.image} is not there")
                records[record.image] = record
            except BadRow as bad:
                left_out.append(LeftOut(row, str(bad)))
    return DataSet(NAME, tuple(records.values()), FINDINGS, tuple(left_out))


def resolve_uncertain(
    data: DataSet, policies: Mapping[str, Policy], *, default: Policy = Policy.IGNORE, seed: int = 0
) -> DataSet:
    """Apply a policy to the uncertain labels of each observation.

    Parameters
    ----------
    policies
        Finding key to what becomes of its uncertain labels; `default` for the others.
    seed
        Of smoothing. What is drawn depends on it, the image and the finding alone, whatever else is in the set.

    Returns
    -------
    DataSet
        Smoothed labels move to `Record.soft`, for they are targets and no truth to be measured against. Labels of
        `Policy.MULTICLASS` are still `UNCERTAIN`.

    Raises
    ------
    ValueError
        When a policy is for a finding that the data set does not have.
    """
    if unknown := sorted(set(policies) - set(data.findings)):
        raise ValueError(f"{data.name} has no finding {unknown[0]!r}: {', '.join(data.findings)}")
    return replace(data, records=tuple(_resolved(record, policies, default, seed) for record in data.records))


def _resolved(record: Record, policies: Mapping[str, Policy], default: Policy, seed: int) -> Record:
    uncertain = [key for key, value in record.labels.items() if value == UNCERTAIN]
    if not uncertain:
        return record
    labels, soft = dict(record.labels), dict(record.soft)
    for key in uncertain:
        policy = policies.get(key, default)
        if policy in (Policy.ONES, Policy.ZEROS):
            labels[key] = float(policy is Policy.ONES)
        elif policy is not Policy.MULTICLASS:
            del labels[key]
        if policy in _SMOOTH:
            low, high = _SMOOTH[policy]
            soft[key] = low + (high - low) * keyed_fraction(seed, record.study, record.image.name, key)
    return replace(record, labels=labels, soft=soft)


def _record(home: Path, cells: dict[str, str], split: str, row: str, left_out: list[LeftOut]) -> Record:
    path = _PATH.fullmatch(cell(cells, "Path"))
    if path is None:
        raise BadRow(f"path {cell(cells, 'Path')!r} does not end in patient, study and view")
    inner, patient, study, projection = path.groups()
    told = cell(cells, "Frontal/Lateral").lower()
    if told and told != projection:
        raise BadRow(f"the path says {projection}, the table {told}")
    return Record(
        image=home / inner,
        patient=patient,
        study=f"{patient}/{study}",
        source=NAME,
        view="LATERAL" if projection == "lateral" else _frontal_view(cell(cells, "AP/PA")),
        sex=sex_of(cell(cells, "Sex")),
        age=age_in_years(cell(cells, "Age"), row, left_out),
        labels=_labels(cells),
        split=split,
        row=row,
    )


def _frontal_view(text: str) -> str:
    """PA or AP; a frontal radiograph of another view, as a few are, has a view that is not known."""
    view = view_of(text)
    return "" if view == "LATERAL" else view


def _labels(cells: dict[str, str]) -> dict[str, float]:
    labels = {}
    for key, column in COLUMNS.items():
        if text := cell(cells, column):
            labels[key] = number(text, column)
            if labels[key] not in {0.0, 1.0, UNCERTAIN}:
                raise BadRow(f"{column} is {text!r}, none of 1, 0, -1 and blank")
    positive = {key for key, value in labels.items() if value == 1.0}
    if "no_finding" in positive and (others := sorted(positive - _COMPATIBLE)):
        raise BadRow(f"No Finding contradicts {COLUMNS[others[0]]}")
    return labels

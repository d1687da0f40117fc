"""A plain table: paths of DICOM, PNG or JPEG files with their labels, for whoever has a data set of their own.

The rule: the table says all there is to know, under the names of this project; a column that is no finding known here
is reported and not read.

Columns: ``path`` (relative to the table, and below its folder) and ``patient``; ``study``, ``view``, ``sex``, ``age``,
``split`` and ``source`` where they are known; one for each finding, named by its key, of 1, 0, -1 for uncertain, or
blank where nobody looked; and ``soft_FINDING`` for the probability that a teacher gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from training.data import DataMissing
from training.readers import chexpert, covid19, nih, rsna
from training.readers.fields import (
    BadRow,
    Header,
    age_in_years,
    cell,
    column_names,
    dicom_header,
    inside,
    number,
    picture_size,
    sex_of,
    table,
    view_of,
)
from training.readers.records import UNCERTAIN, DataSet, LeftOut, Record

NAME = "plain"
KNOWN = tuple(
    dict.fromkeys(
        [
            *nih.FINDINGS, *chexpert.FINDINGS, *rsna.FINDINGS, *covid19.FINDINGS, "abnormal", "tuberculosis",
            "calcification", "pneumoperitoneum", "mediastinal_widening",
        ]
    )
)  # fmt: skip
_NEEDED = ("path", "patient")
_ABOUT = (*_NEEDED, "study", "view", "sex", "age", "split", "source")
_PICTURES = (".png", ".jpg", ".jpeg")
_SPLITS = ("", "train", "val", "test")


def read(path: Path) -> DataSet:
    """Read a table.

    Parameters
    ----------
    path
        The CSV file, or a folder that holds just one.

    Returns
    -------
    DataSet
        What the table leaves blank is taken from the header of a DICOM file. An image without a study is a study of
        its own.

    Raises
    ------
    DataMissing
        When there is no such table, or it lacks ``path`` or ``patient``.
    """
    if path.is_dir():
        tables = sorted(path.glob("*.csv"))
        if len(tables) != 1:
            raise DataMissing(f"{path} holds {len(tables)} CSV files and not one: name the file to read")
        path = tables[0]
    columns = column_names(path)
    known = {*_ABOUT, *KNOWN, *(f"soft_{key}" for key in KNOWN)}
    left_out = [
        LeftOut(f"{path.name}:1", f"column {column!r} is no finding known here: not read")
        for column in columns
        if column not in known
    ]
    records: dict[Path, Record] = {}
    for row, cells in table(path, _NEEDED):
        try:
            record = _record(path.parent, cells, row, left_out)
            if record.image in records:
                raise BadRow(f"{cells['path']} stands in {records[record.image].row} already")
            records[record.image] = record
        except BadRow as bad:
            left_out.append(LeftOut(row, str(bad)))
    findings = tuple(key for key in columns if key in KNOWN)
    return DataSet(NAME, tuple(records.values()), findings, tuple(left_out))


def _record(home: Path, cells: dict[str, str], row: str, left_out: list[LeftOut]) -> Record:
    name, patient, split = cell(cells, "path"), cell(cells, "patient"), cells.get("split", "")
    image = inside(home, name)
    if not image.is_file():
        raise BadRow(f"{name or 'a file without a name'} is not there")
    if not patient:
        raise BadRow("no patient is named: the image could end up in two splits")
    if split not in _SPLITS:
        raise BadRow(f"split {split!r} is none of train, val and test")
    header = _header(image)
    told = {
        "view": view_of(cells.get("view", "")) or view_of(header.view),
        "sex": sex_of(cells.get("sex", "")) or sex_of(header.sex),
    }
    left_out += [
        LeftOut(row, f"{what} {cells[what]!r} left out: not understood; the image is used")
        for what, understood in told.items()
        if cells.get(what) and not understood
    ]
    return Record(
        image=image,
        patient=patient,
        study=cells.get("study") or header.study or name,
        source=cells.get("source") or NAME,
        view=told["view"],
        sex=told["sex"],
        age=age_in_years(cells.get("age") or header.age, row, left_out),
        labels=_labels(cells),
        soft={key: _probability(cells[f"soft_{key}"], key) for key in KNOWN if cells.get(f"soft_{key}")},
        split=split,
        row=row,
    )


def _header(image: Path) -> Header:
    if image.suffix.lower() not in _PICTURES:
        return dicom_header(image)
    rows, columns = picture_size(image)
    return Header("", "", "", "", "", rows, columns)


def _labels(cells: Mapping[str, str]) -> dict[str, float]:
    labels = {key: number(cells[key], key) for key in KNOWN if cells.get(key)}
    if odd := [key for key, value in labels.items() if value not in {0.0, 1.0, UNCERTAIN}]:
        raise BadRow(f"{odd[0]} is {cells[odd[0]]!r}, none of 1, 0, -1 and blank")
    positive = [key for key, value in labels.items() if value == 1.0]
    against = [key for key in positive if key not in {"no_finding", "support_devices", "covid_negative"}]
    if "no_finding" in positive and against:
        raise BadRow(f"no_finding contradicts {against[0]}")
    return labels


def _probability(text: str, key: str) -> float:
    value = number(text, f"soft_{key}")
    if not 0.0 <= value <= 1.0:
        raise BadRow(f"soft_{key} is {text!r}, no probability")
    return value

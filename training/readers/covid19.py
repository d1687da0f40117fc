"""SIIM-FISABIO-RSNA COVID-19 2021: 6,334 radiographs of 6,054 studies, four appearances, boxes around opacities.

The rule: an appearance belongs to the study and so to all its images; boxes were drawn on one image of a study only,
so that its other images say nothing about opacities, and never that there are none.

Source: P. Lakhani et al., The 2021 SIIM-FISABIO-RSNA Machine Learning COVID-19 Challenge, J Digit Imaging 2023; the
appearances are those of D. Litmanovich et al., J Thorac Imaging 2020. ``train_study_level.csv``,
``train_image_level.csv``, ``train/STUDY/SERIES/IMAGE.dcm``.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from training.readers.fields import (
    BadRow,
    Header,
    age_in_years,
    binary,
    box_within,
    cell,
    dicom_header,
    number,
    sex_of,
    table,
    view_of,
)
from training.readers.records import Box, DataSet, LeftOut, Record

NAME = "covid19"
APPEARANCES = {
    "covid_negative": "Negative for Pneumonia",
    "covid_typical": "Typical Appearance",
    "covid_indeterminate": "Indeterminate Appearance",
    "covid_atypical": "Atypical Appearance",
}
FINDINGS = (*APPEARANCES, "lung_opacity")
NO_BOX = "none 1 0 0 1 1"  # what the image level says where nothing was drawn
_CORNERS = ("x", "y", "width", "height")
_Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Image:
    """A record without its boxes yet, and the corners and sizes that the table gives."""

    record: Record
    header: Header | None
    corners: tuple[_Corners, ...]


def read(folder: Path, *, need_images: bool = True) -> DataSet:
    """Read the download in `folder`.

    Parameters
    ----------
    need_images
        Leave out rows whose DICOM file is not there. Otherwise they are kept, for work on the tables alone; a box
        cannot be checked against its image then.

    Returns
    -------
    DataSet
        The patient is the header's Patient ID, or the study where there is no file. ``lung_opacity`` is 1 on images
        with boxes. It is 0, with an empty tuple of boxes, on images of negative studies, and of atypical ones on none
        of whose images anything was drawn: an effusion or a pneumothorax is never boxed. Elsewhere it is absent.

    Raises
    ------
    DataMissing
        When a table is not there, or is another one.
    """
    left_out: list[LeftOut] = []
    studies = _studies(folder / "train_study_level.csv", left_out)
    files = {path.stem: path for path in sorted((folder / "train").rglob("*.dcm"))}
    images: dict[str, _Image] = {}
    spoilt: set[str] = set()  # studies with boxes that could not be read: what was drawn there is not known
    rows = table(folder / "train_image_level.csv", ("id", "boxes", "label", "StudyInstanceUID"))
    for row, cells in tqdm(rows, "DICOM headers", unit="image", disable=None):
        try:
            name = _name(cell(cells, "id"), "_image")
            if name in images:
                raise BadRow(f"{name} stands in {images[name].record.row} already")
            path = files.get(name, folder / "train" / cell(cells, "StudyInstanceUID") / f"{name}.dcm")
            if need_images and name not in files:
                raise BadRow(f"{name}.dcm is nowhere in {folder / 'train'}")
            images[name] = _image(cells, path, studies, row, left_out)
        except BadRow as bad:
            left_out.append(LeftOut(row, str(bad)))
            spoilt.add(cells.get("StudyInstanceUID", ""))
    of_study: dict[str, list[_Image]] = defaultdict(list)
    for image in images.values():
        of_study[image.record.study].append(image)
    records = [_with_boxes(image, of_study[image.record.study], spoilt, left_out) for image in images.values()]
    return DataSet(NAME, tuple(records), FINDINGS, tuple(left_out))


def _studies(path: Path, left_out: list[LeftOut]) -> dict[str, dict[str, float]]:
    """Appearance of each study."""
    studies: dict[str, dict[str, float]] = {}
    for row, cells in table(path, ("id", *APPEARANCES.values())):
        try:
            name = _name(cell(cells, "id"), "_study")
            labels = {key: binary(cell(cells, column), column) for key, column in APPEARANCES.items()}
            if sum(labels.values()) != 1:
                raise BadRow(f"study {name} has {sum(labels.values()):g} appearances and not one")
            if name in studies:
                raise BadRow(f"study {name} stands in {path.name} twice")
            studies[name] = labels
        except BadRow as bad:
            left_out.append(LeftOut(row, str(bad)))
    return studies


def _image(
    cells: dict[str, str], path: Path, studies: Mapping[str, dict[str, float]], row: str, left_out: list[LeftOut]
) -> _Image:
    study = cell(cells, "StudyInstanceUID")
    if study not in studies:
        raise BadRow(f"study {study!r} has no usable row in train_study_level.csv")
    corners = _corners(cells)
    if corners and studies[study]["covid_negative"]:
        raise BadRow(f"a box contradicts the negative appearance of study {study}")
    header = dicom_header(path) if path.exists() else None
    record = Record(
        image=path,
        patient=(header and header.patient) or study,
        study=study,
        source=NAME,
        view=view_of(header.view if header else ""),
        sex=sex_of(header.sex if header else ""),
        age=age_in_years(header.age if header else "", row, left_out),
        labels=studies[study],
        row=row,
    )
    return _Image(record, header, corners)


def _with_boxes(image: _Image, siblings: list[_Image], spoilt: set[str], left_out: list[LeftOut]) -> Record:
    record = image.record
    if image.corners:
        labels = {**record.labels, "lung_opacity": 1.0}
        try:
            boxes = tuple(_box(corners, image.header) for corners in image.corners)
        except BadRow as bad:
            left_out.append(LeftOut(record.row, f"{bad}; the image is used without boxes"))
            return replace(record, labels=labels)
        return replace(record, labels=labels, boxes={"lung_opacity": boxes})
    drawn = record.study in spoilt or any(sibling.corners for sibling in siblings)
    empty = record.labels["covid_negative"] or (record.labels["covid_atypical"] and not drawn)
    if not empty:
        return record
    return replace(record, labels={**record.labels, "lung_opacity": 0.0}, boxes={"lung_opacity": ()})


def _box(corners: _Corners, header: Header | None) -> Box:
    return box_within(corners, header.rows, header.columns) if header else Box(*corners)


def _corners(cells: dict[str, str]) -> tuple[_Corners, ...]:
    """Boxes of both columns, which have to agree: ``boxes`` is a Python list, ``label`` a line of a submission."""
    text, label = cell(cells, "boxes"), cell(cells, "label")
    try:
        listed = [tuple(float(box[corner]) for corner in _CORNERS) for box in ast.literal_eval(text or "[]")]
    except (ValueError, SyntaxError, TypeError, LookupError, MemoryError, RecursionError) as error:
        raise BadRow(f"boxes {text[:60]!r} cannot be read") from error
    words = label.split()
    if len(words) % 6 or not words:
        raise BadRow(f"label {label[:60]!r} is not made of class, confidence and four corners")
    drawn = []
    for start in range(0, len(words), 6):
        kind, *numbers = words[start : start + 6]
        _confidence, left, top, right, bottom = (number(word, "a corner of the label") for word in numbers)
        if kind == "opacity":
            drawn.append((left, top, right - left, bottom - top))
        elif label != NO_BOX:
            raise BadRow(f"label {label[:60]!r} names neither opacity nor none")
    agree = len(listed) == len(drawn) and all(
        abs(a - b) < 0.01  # pixels; the two columns are rounded apart
        for one, other in zip(sorted(listed), sorted(drawn), strict=True)
        for a, b in zip(one, other, strict=True)
    )
    if not agree:
        raise BadRow(f"{len(listed)} boxes contradict the label {label[:60]!r}")
    return tuple(drawn)


def _name(text: str, ending: str) -> str:
    if not text.endswith(ending) or text == ending:
        raise BadRow(f"id {text!r} does not end in {ending}")
    return text.removesuffix(ending)

"""RSNA Pneumonia Detection 2018: 26,684 frontal radiographs, boxes around opacities that may be pneumonia.

The rule: the rows of one image are read together and have to agree. The set calls every image a patient of its own;
where the published mapping to ChestX-ray14 lies beside it, the true patients are those of ChestX-ray14.

Source: G. Shih et al., Augmenting the National Institutes of Health Chest Radiograph Dataset with Expert Annotations of
Possible Pneumonia, Radiology: AI 2019; ``stage_2_train_labels.csv``, ``stage_2_detailed_class_info.csv``,
``stage_2_train_images/PATIENT.dcm`` and RSNA's ``pneumonia-challenge-dataset-mappings_2018.json``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from tqdm import tqdm

from training.data import DataMissing
from training.readers.fields import (
    BadRow,
    Header,
    age_in_years,
    binary,
    box_within,
    cell,
    dicom_header,
    inside,
    number,
    sex_of,
    table,
    view_of,
)
from training.readers.records import Box, DataSet, LeftOut, Record

NAME = "rsna"
FINDINGS = ("lung_opacity", "no_finding")
IMAGES = "stage_2_train_images"
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
SIDE = 1024  # pixels; all images are squares of it
_CORNERS = ("x", "y", "width", "height")
_CLASSES = {"Normal": (0.0, 1.0), "No Lung Opacity / Not Normal": (0.0, 0.0), "Lung Opacity": (1.0, 0.0)}
_Rows = list[tuple[str, dict[str, str]]]


def read(folder: Path, *, need_images: bool = True) -> DataSet:
    """Read the download in `folder`.

    Parameters
    ----------
    need_images
        Leave out rows whose DICOM file is not there. Otherwise they are kept, for work on the tables alone.

    Returns
    -------
    DataSet
        ``lung_opacity`` with its boxes, an empty tuple where it is 0; ``no_finding`` is 1 for the class Normal, and
        absent without the table of classes. A lung opacity with a bad box keeps its label and has no boxes.

    Raises
    ------
    DataMissing
        When the table of labels is not there, or a table is another one.
    """
    left_out: list[LeftOut] = []
    rows: dict[str, _Rows] = defaultdict(list)
    for row, cells in table(folder / "stage_2_train_labels.csv", ("patientId", *_CORNERS, "Target")):
        rows[cells.get("patientId", "")].append((row, cells))
    classes = _classes(folder / "stage_2_detailed_class_info.csv", left_out)
    patients = _patients(folder / MAPPING)
    records = []
    for name, of_image in tqdm(rows.items(), "DICOM headers", unit="image", disable=None):
        row = of_image[0][0]
        try:
            image = inside(folder / IMAGES, f"{name}.dcm")
            if need_images and not image.exists():
                raise BadRow(f"{name}.dcm is not in {folder / IMAGES}")
            header = dicom_header(image) if image.exists() else Header("", "", "", "", "", SIDE, SIDE)
            labels, boxes = _annotation(of_image, classes.get(name, set()), header, left_out)
            records.append(
                Record(
                    image=image,
                    patient=patients.get(name, name),
                    study=header.study or name,
                    source=NAME,
                    view=view_of(header.view),
                    sex=sex_of(header.sex),
                    age=age_in_years(header.age, row, left_out),
                    labels=labels,
                    boxes=boxes,
                    row=row,
                )
            )
        except BadRow as bad:
            left_out.append(LeftOut(row, str(bad)))
    return DataSet(NAME, tuple(records), FINDINGS, tuple(left_out))


def _annotation(
    rows: _Rows, classes: set[str], header: Header, left_out: list[LeftOut]
) -> tuple[dict[str, float], dict[str, tuple[Box, ...]]]:
    targets = {binary(cell(cells, "Target"), "Target") for _, cells in rows}
    if len(targets) > 1 or len(classes) > 1:
        raise BadRow("its rows contradict each other")
    target = targets.pop()
    labels = {"lung_opacity": target}
    for name in classes:
        opacity, labels["no_finding"] = _CLASSES[name]
        if opacity != target:
            raise BadRow(f"Target {target:g} contradicts class {name!r}")
    drawn = {row: cells for row, cells in rows if any(cell(cells, corner) for corner in _CORNERS)}
    if not target:
        if drawn:
            raise BadRow("Target 0 contradicts its box")
        if len(rows) > 1:
            left_out.append(LeftOut(rows[1][0], f"{rows[0][1]['patientId']} stands in {rows[0][0]} already"))
        return labels, {"lung_opacity": ()}
    boxes: list[Box] = []
    whole = True
    for row, cells in rows:
        try:
            corners = [number(cell(cells, corner), corner) for corner in _CORNERS]
            box = box_within(corners, header.rows, header.columns)
        except BadRow as bad:
            left_out.append(LeftOut(row, f"{bad}; the image is used without boxes"))
            whole = False
            continue
        if box in boxes:
            left_out.append(LeftOut(row, "the same box stands above already"))
        else:
            boxes.append(box)
    return labels, {"lung_opacity": tuple(boxes)} if whole else {}


def _classes(path: Path, left_out: list[LeftOut]) -> dict[str, set[str]]:
    """The class of each image, which is repeated for each of its boxes."""
    classes: dict[str, set[str]] = defaultdict(set)
    if not path.exists():
        return classes
    for row, cells in table(path, ("patientId", "class")):
        name = cells.get("class", "")
        if name in _CLASSES:
            classes[cells["patientId"]].add(name)
        else:
            left_out.append(LeftOut(row, f"class {name!r} is not one of {', '.join(_CLASSES)}"))
    return classes


def _patients(path: Path) -> dict[str, str]:
    """Image of the challenge to patient of ChestX-ray14: ``img_id`` is its image index, ``00000001_000.png``."""
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text("utf-8"))
        return {entry["subset_img_id"]: entry["img_id"].split("_")[0] for entry in entries}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataMissing(f"{path} is not RSNA's mapping to ChestX-ray14: {type(error).__name__}") from error

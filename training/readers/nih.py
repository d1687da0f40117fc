"""NIH ChestX-ray14: 112,120 frontal radiographs of 30,805 patients, 14 findings mined from reports, 984 boxes.

The rule: the table is taken as published; a finding that an image's list does not name counts as absent, for that is
what the data set means by it, and boxes speak for the images that have them alone.

Source: X. Wang et al., ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on Weakly-Supervised
Classification and Localization of Common Thorax Diseases, CVPR 2017; files of the NIH Clinical Center as downloaded:
``Data_Entry_2017.csv`` or ``Data_Entry_2017_v2020.csv``, ``BBox_List_2017.csv``, ``train_val_list.txt``,
``test_list.txt``, and the PNG files in ``images/`` or ``images_001/images/`` to ``images_012/images/``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from training.data import NIH_COLUMNS, DataMissing, finding_key
from training.readers.fields import (
    BadRow,
    age_in_years,
    box_within,
    cell,
    number,
    picture_size,
    sex_of,
    table,
    view_of,
)
from training.readers.records import Box, DataSet, LeftOut, Record

NAME = "nih"
FINDINGS = (*NIH_COLUMNS, "no_finding")
TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
SIDE = 1024  # pixels; the published PNG files are squares of it, and the boxes are drawn on them
_COLUMNS = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender",
            "View Position")  # fmt: skip
_BOX_COLUMNS = ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]")
_Boxes = Mapping[str, Mapping[str, tuple[Box, ...]]]


def read(folder: Path, *, need_images: bool = True) -> DataSet:
    """Read the download in `folder`.

    Parameters
    ----------
    need_images
        Leave out rows whose PNG file is not there. Otherwise they are kept, for work on the table alone.

    Returns
    -------
    DataSet
        ``no_finding`` is 1 where the list says ``No Finding``. `split` is that of the official lists: their training
        and validation patients are ``train``. Boxes of a copy in another size than 1024 x 1024 are scaled to it.

    Raises
    ------
    DataMissing
        When there is no table, or it is another one.
    """
    path = next((folder / name for name in TABLES if (folder / name).exists()), None)
    if path is None:
        raise DataMissing(f"{folder} holds neither {TABLES[0]} nor {TABLES[1]}")
    left_out: list[LeftOut] = []
    images = {png.name: png for part in sorted(folder.glob("images*")) for png in part.rglob("*.png")}
    splits = _official_splits(folder, left_out)
    boxes = _boxes(folder / "BBox_List_2017.csv", images, left_out)
    records: dict[str, Record] = {}
    for row, cells in table(path, _COLUMNS):
        try:
            name = cell(cells, "Image Index")
            if name in records:
                raise BadRow(f"{name} stands in {records[name].row} already")
            if need_images and name not in images:
                raise BadRow(f"{name} is in no folder images* of {folder}")
            patient, study = _identity(cells, name)
            records[name] = Record(
                image=images.get(name, folder / "images" / name),
                patient=patient,
                study=study,
                source=NAME,
                view=view_of(cell(cells, "View Position")),
                sex=sex_of(cell(cells, "Patient Gender")),
                age=age_in_years(cell(cells, "Patient Age"), row, left_out),
                labels=_labels(cell(cells, "Finding Labels")),
                boxes=boxes.get(name, {}),
                split=splits.get(name, ""),
                row=row,
            )
        except BadRow as bad:
            left_out.append(LeftOut(row, str(bad)))
    return DataSet(NAME, tuple(records.values()), FINDINGS, tuple(left_out))


@cache
def _labels(text: str) -> Mapping[str, float]:
    """Labels of ``Cardiomegaly|Emphysema``; one mapping for all images that have the same."""
    named = text.split("|")
    keys = {finding_key(name) for name in named}
    if unknown := [name for name in named if finding_key(name) not in FINDINGS]:
        raise BadRow(f"finding {unknown[0]!r} is none of the 14")
    if len(keys) < len(named):
        raise BadRow(f"{text!r} names a finding twice")
    if "no_finding" in keys and len(keys) > 1:
        raise BadRow(f"{text!r} contradicts itself")
    return MappingProxyType({key: float(key in keys) for key in FINDINGS})


def _identity(cells: dict[str, str], name: str) -> tuple[str, str]:
    """Patient and study: the image index begins with the patient's number, and a follow-up is a study."""
    patient = int(number(cell(cells, "Patient ID"), "Patient ID"))
    follow_up = int(number(cell(cells, "Follow-up #"), "Follow-up #"))
    if not name.startswith(f"{patient:08d}_"):
        raise BadRow(f"{name} is not an image of patient {patient}")
    return f"{patient:08d}", f"{patient:08d}_{follow_up:03d}"


def _boxes(path: Path, images: Mapping[str, Path], left_out: list[LeftOut]) -> _Boxes:
    """Boxes by image and finding; a finding with a bad box has none at all, for the rest would not be the truth."""
    if not path.exists():
        return {}
    boxes: dict[str, dict[str, tuple[Box, ...]]] = defaultdict(dict)
    spoilt: set[tuple[str, str]] = set()
    for row, cells in table(path, _BOX_COLUMNS):
        name, key = cells.get("Image Index", ""), finding_key(cells.get("Finding Label", ""))
        try:
            if key not in FINDINGS:
                raise BadRow(f"finding {cells.get('Finding Label')!r} is none of the 14")
            x, y, width, height = (number(cell(cells, column), f"{column!r}") for column in _BOX_COLUMNS[2:])
            rows, columns = picture_size(images[name]) if name in images else (SIDE, SIDE)
            across, down = columns / SIDE, rows / SIDE
            box = box_within((x * across, y * down, width * across, height * down), rows, columns)
            boxes[name][key] = (*boxes[name].get(key, ()), box)
        except BadRow as bad:
            left_out.append(LeftOut(row, str(bad)))
            spoilt.add((name, key))
    for name, key in spoilt:
        boxes[name].pop(key, None)
    return boxes


def _official_splits(folder: Path, left_out: list[LeftOut]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for name, split in (("train_val_list.txt", "train"), ("test_list.txt", "test")):
        path = folder / name
        lines = path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []
        for number_, line in enumerate(lines, 1):
            image = line.strip()
            if splits.get(image, split) != split:
                left_out.append(
                    LeftOut(f"{name}:{number_}", f"{image} is in train_val_list.txt too; it counts as test")
                )
            splits[image] = split
    splits.pop("", None)
    return splits

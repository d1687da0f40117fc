"""Radiographs with delineated lungs and hearts: Montgomery, Shenzhen, JSRT with SCR, and two sets of COVID-19 patients.

The rule: the patient's right lung is the one on the left of the picture, whatever a folder is called; a mask has the
proportions of its image, or the image is left out. Where both lungs are drawn, ``lung_fields`` unites them.

What a lung is differs: Montgomery, Shenzhen and SCR leave out the part behind the heart; ``lung_masks`` and
``chest_structures`` draw it. `Record.source` tells them apart.

Sources: S. Jaeger et al., Two public chest X-ray datasets for computer-aided screening of pulmonary diseases, Quant
Imaging Med Surg 2014 (``MontgomerySet``, ``ChinaSet_AllFiles``; the Shenzhen masks, ``mask/CHNCXR_0001_0_mask.png``,
are those of S. Stirenko et al. 2018); J. Shiraishi et al., AJR 2000 (JSRT) with B. van Ginneken et al., Med Image Anal
2006 (SCR, ``fold1/masks/left lung/JPCLN001.gif``); ``lung_masks`` and ``chest_structures`` as in ``training.data``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from training.data import DataMissing
from training.readers.fields import BadRow, age_in_years, inside, picture_size, sex_of, table, view_of
from training.readers.records import DataSet, LeftOut, Record, RunLengths

NAME = "masks"
FINDINGS = ("tuberculosis", "nodule")
_STRUCTURES = {"Cardiomediastinum": "heart", "Right_Lung": "lung_right", "Left_Lung": "lung_left"}
_OTHER_STRUCTURES = {
    "Airways", "Central_Venous_Line", "Consolidation", "Endotracheal_Tube", "Ground_Glass_Opacities",
    "Monitoring_Probes", "Nosogastric_Tube", "Pleural_Effusion", "Pneumothorax", "Tubings",
}  # fmt: skip
_SCR = {"left lung": "lung_left", "right lung": "lung_right", "heart": "heart"}
_PROPORTION = 0.02  # relative difference of proportions that rounding to a smaller size explains
_JSRT_SIDE = 2048  # pixels; 12 bits, big-endian, dense structures dark


@dataclass(frozen=True)
class _Found:
    """An image with its masks as a collection names them, nothing checked yet.

    Parameters
    ----------
    tabled
        Folder to the names that a table gives of files below it.
    """

    row: str
    image: Path
    patient: str
    collection: str
    masks: Mapping[str, Path]
    view: str = "PA"
    sex: str = ""
    age: str = ""
    labels: Mapping[str, float] = field(default_factory=dict)
    tabled: Mapping[Path, Iterable[str]] = field(default_factory=dict)


_Collection = Callable[[Path, list[LeftOut]], Iterator[_Found]]


def read(folder: Path) -> DataSet:
    """Read every collection that lies in `folder`, or the one that `folder` itself is.

    Returns
    -------
    DataSet
        Keys of masks: ``lung_right``, ``lung_left``, ``lung_fields``, ``heart``. Labels: ``tuberculosis`` of Montgomery
        and Shenzhen, ``nodule`` of JSRT.

    Raises
    ------
    DataMissing
        When there is none of the collections.
    """
    left_out: list[LeftOut] = []
    records: list[Record] = []
    homes = [(home, reader) for name, reader in _COLLECTIONS.items() for home in _homes(folder, name)]
    if not homes:
        raise DataMissing(f"{folder} is none of {', '.join(_COLLECTIONS)}, and holds none of them")
    for home, reader in homes:
        for found in reader(home, left_out):
            try:
                records.append(_record(found, left_out))
            except BadRow as bad:
                left_out.append(LeftOut(found.row, str(bad)))
    return DataSet(NAME, tuple(records), FINDINGS, tuple(left_out))


def jsrt_to_png(source: Path, target: Path) -> None:
    """Turn an ``.IMG`` file of JSRT, which has no header and shows dense structures dark, into a 16-bit PNG.

    Raises
    ------
    BadRow
        When it is not 2048 x 2048 pixels of two bytes.
    """
    values = np.fromfile(source, dtype=">u2")
    if values.size != _JSRT_SIDE**2:
        raise BadRow(f"{source.name} does not hold {_JSRT_SIDE} x {_JSRT_SIDE} pixels of two bytes")
    bright = 4095 - np.minimum(values, 4095).reshape(_JSRT_SIDE, _JSRT_SIDE)
    Image.fromarray(bright.astype(np.uint16)).save(target)


def _homes(folder: Path, name: str) -> list[Path]:
    return [home for home in (folder, folder / name) if home.resolve().name == name and home.is_dir()]


def _montgomery(home: Path, _left_out: list[LeftOut]) -> Iterator[_Found]:
    sides = {"lung_right": "rightMask", "lung_left": "leftMask"}
    for image in sorted((home / "CXR_png").glob("*.png")):
        masks = {key: home / "ManualMask" / side / image.name for key, side in sides.items()}
        yield _of_tuberculosis_set(home, image, masks)


def _shenzhen(home: Path, _left_out: list[LeftOut]) -> Iterator[_Found]:
    folder = next((f for f in (home / "mask", home.parent / "mask") if f.is_dir()), home / "mask")
    for image in sorted((home / "CXR_png").glob("*.png")):
        yield _of_tuberculosis_set(home, image, {"lung_fields": folder / f"{image.stem}_mask.png"})


def _of_tuberculosis_set(home: Path, image: Path, masks: Mapping[str, Path]) -> _Found:
    """An image of Montgomery or Shenzhen: ``MCUCXR_0001_0`` ends in 1 for tuberculosis; a text tells age and sex."""
    reading = home / "ClinicalReadings" / f"{image.stem}.txt"
    text = reading.read_text("utf-8", errors="replace").lower() if reading.exists() else ""
    # "Patient's Sex: F Patient's Age: 026Y", "male 45yrs", "Female, 28yrs", "femal 32yrs", "male 16month"
    sex = re.search(r"\b(f)emal|\b(m)ale|\bsex: *([mf])", text)
    age = re.search(r"\b(\d+) *([ymd])", text)
    return _Found(
        row=f"{home.name}/CXR_png/{image.name}",
        image=image,
        patient=image.stem,
        collection=home.name,
        masks=masks,
        sex=sex[sex.lastindex or 0] if sex else "",
        age=age[1] + age[2] if age else "",
        labels={"tuberculosis": float(image.stem[-1])} if image.stem[-2:] in {"_0", "_1"} else {},
    )


def _jsrt(home: Path, left_out: list[LeftOut]) -> Iterator[_Found]:
    """Images as PNG or JPEG files in ``All247images``; masks under ``fold1`` and ``fold2``, at any depth."""
    masks: dict[str, dict[str, Path]] = defaultdict(dict)
    for folder, key in _SCR.items():
        for mask in sorted(home.glob(f"**/masks/{folder}/JPC*")):
            masks[mask.stem][key] = mask
    images: dict[str, Path] = {}
    for path in sorted((home / "All247images").glob("JPC*")):
        if path.suffix.lower() != ".img" or path.stem not in images:
            images[path.stem] = path
    for name, image in images.items():
        row = f"{home.name}/All247images/{image.name}"
        if image.suffix.lower() == ".img":
            left_out.append(LeftOut(row, "a file without a header: make a PNG file of it with masks.jsrt_to_png"))
        else:
            labels = {"nodule": float(name.startswith("JPCLN"))}
            yield _Found(row, image, name, home.name, masks[name], labels=labels)


def _structures(home: Path, left_out: list[LeftOut]) -> Iterator[_Found]:
    """``chest_structures``: a row for each mask of an image."""
    images, folder = home / "images", home / "masks"
    masks: dict[str, dict[str, str]] = defaultdict(dict)
    first: dict[str, tuple[str, str]] = {}
    for row, cells in table(home / "masks.csv", ("file", "mask", "structure", "patientid")):
        structure = cells.get("structure", "")
        if structure in _STRUCTURES:
            masks[cells.get("file", "")][_STRUCTURES[structure]] = cells.get("mask", "")
            first.setdefault(cells.get("file", ""), (row, cells.get("patientid", "")))
        elif structure not in _OTHER_STRUCTURES:
            left_out.append(LeftOut(f"{home.name}/{row}", f"structure {structure!r} is not known"))
    for name, (row, patient) in first.items():
        drawn = {key: folder / mask for key, mask in masks[name].items()}
        tabled = {images: [name], folder: masks[name].values()}
        yield _Found(f"{home.name}/{row}", images / name, patient, home.name, drawn, view="", tabled=tabled)


def _lung_masks(home: Path, _left_out: list[LeftOut]) -> Iterator[_Found]:
    images, folder = home / "images", home / "masks"
    for row, cells in table(home / "labels.csv", ("file", "mask", "patientid", "view", "sex", "age")):
        name, mask = cells.get("file", ""), cells.get("mask", "")
        yield _Found(
            row=f"{home.name}/{row}",
            image=images / name,
            patient=cells.get("patientid", ""),
            collection=home.name,
            masks={"lung_fields": folder / mask},
            view=cells.get("view", ""),
            sex=cells.get("sex", ""),
            age=cells.get("age", ""),
            tabled={images: [name], folder: [mask]},
        )


_COLLECTIONS: Mapping[str, _Collection] = {
    "MontgomerySet": _montgomery,
    "ChinaSet_AllFiles": _shenzhen,
    "JSRT": _jsrt,
    "chest_structures": _structures,
    "lung_masks": _lung_masks,
}


def _record(found: _Found, left_out: list[LeftOut]) -> Record:
    if not found.patient:
        raise BadRow("no patient is named: the image could end up in two splits")
    return Record(
        image=found.image,
        patient=found.patient,
        study=f"{found.patient}/{found.image.stem}",
        source=f"{NAME}/{found.collection}",
        view=view_of(found.view),
        sex=sex_of(found.sex),
        age=age_in_years(found.age, found.row, left_out),
        labels=found.labels,
        masks=_checked(found),
        row=found.row,
    )


def _checked(found: _Found) -> dict[str, tuple[Path | RunLengths, ...]]:
    """The masks, each in the proportions of the image, lungs by the side on which they lie."""
    for folder, names in found.tabled.items():
        for name in names:
            inside(folder, name)
    if not found.image.exists():
        raise BadRow(f"{found.image.name} is not there")
    rows, columns = picture_size(found.image)
    if not found.masks:
        raise BadRow(f"no mask for {found.image.name}")
    for mask in found.masks.values():
        if not mask.is_file():
            raise BadRow(f"mask {mask.parent.name}/{mask.name} is not there")
        high, wide = picture_size(mask)
        if abs(high * columns / (wide * rows) - 1.0) > _PROPORTION:
            raise BadRow(f"mask {mask.name} has {wide} x {high} pixels, its image {columns} x {rows}")
    masks: dict[str, tuple[Path | RunLengths, ...]] = {key: (mask,) for key, mask in found.masks.items()}
    if {"lung_right", "lung_left"} <= masks.keys():
        right, left = sorted((found.masks["lung_right"], found.masks["lung_left"]), key=_middle)
        masks |= {"lung_right": (right,), "lung_left": (left,), "lung_fields": (right, left)}
    return masks


def _middle(mask: Path) -> float:
    """Column, as a share of the width, of the middle of what is drawn."""
    with Image.open(mask) as picture:
        extent = picture.convert("L").getbbox()
    if extent is None:
        raise BadRow(f"mask {mask.parent.name}/{mask.name} is empty")
    return (extent[0] + extent[2]) / (2 * picture.width)

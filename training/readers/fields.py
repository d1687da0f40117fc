"""Cells of tables and headers of images, as the readers understand them.

The rule: what cannot be understood is a `BadRow` that says why; nothing is guessed, nothing is put right in silence.
"""

from __future__ import annotations

import csv
import math
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from pydicom import dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError

from training.data import DataMissing
from training.readers.records import Box, LeftOut

OLDEST = 120  # years; NIH ChestX-ray14 knows patients of 414
_OVERHANG = 1.0  # pixels by which rounding may put a box beyond the edge
_UNITS = {"": 1.0, "y": 1.0, "m": 12.0, "w": 52.1775, "d": 365.2425}  # in a year
_VIEWS = {
    "PA": "PA", "AP": "AP", "LL": "LATERAL", "RL": "LATERAL", "LATERAL": "LATERAL", "AP SUPINE": "AP", "AP ERECT": "AP",
    "L": "LATERAL",
}  # fmt: skip
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}
# What pydicom raises on files that are no valid DICOM.
_UNPARSABLE = (
    *(InvalidDicomError, BytesLengthException, ValueError, OSError, EOFError, NotImplementedError, LookupError),
    *(TypeError, AttributeError, ArithmeticError, RecursionError, struct.error, zlib.error),
)
_TAGS = ["PatientID", "PatientSex", "PatientAge", "ViewPosition", "StudyInstanceUID", "Rows", "Columns"]


class BadRow(Exception):
    """A row, or a part of one, that cannot be used; the message says why."""


@dataclass(frozen=True)
class Header:
    """What the readers take from a DICOM header.

    Parameters
    ----------
    patient, study
        Patient ID and Study Instance UID as they stand there; empty when absent.
    view, sex, age
        View Position, Patient's Sex and Patient's Age, as they stand there.
    rows, columns
        Pixels.
    """

    patient: str
    study: str
    view: str
    sex: str
    age: str
    rows: int
    columns: int


def table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Go through the rows of a CSV file: file and line for messages, and the cells by column, stripped.

    A cell that the row is too short for is missing from it: `cell` then raises.

    Raises
    ------
    DataMissing
        When the file is not there, or lacks one of `columns`.
    """
    header = column_names(path)
    if missing := [name for name in columns if name not in header]:
        raise DataMissing(f"{path} has no column {missing[0]!r}; its columns: {', '.join(header) or 'none'}")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, header)
        next(rows, None)
        for row in rows:
            cells = {name: text.strip() for name, text in row.items() if name and isinstance(text, str)}
            yield f"{path.name}:{rows.line_num}", cells


def column_names(path: Path) -> tuple[str, ...]:
    """The columns of a CSV file; `DataMissing` when it is not there."""
    if not path.exists():
        raise DataMissing(f"{path} is not there")
    with path.open(encoding="utf-8-sig", newline="") as file:
        return tuple(name.strip() for name in next(csv.reader(file), ()))


def cell(row: dict[str, str], column: str) -> str:
    """The text of a cell; `BadRow` when the row is too short to have it."""
    if column not in row:
        raise BadRow(f"the row ends before {column!r}")
    return row[column]


def inside(folder: Path, name: str) -> Path:
    """The file of a folder that a table names; `BadRow` when its name leads out of there.

    A link in the folder was put there by whoever has it, and is followed.
    """
    if Path(name).is_absolute() or ".." in Path(os.path.normpath(name)).parts:
        raise BadRow(f"{name!r} leads out of the folder of the data")
    return folder / name


def number(text: str, what: str) -> float:
    """A finite number; `BadRow` when the text is none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRow(f"{what} is {text!r}, which is no number")
    return value


def binary(text: str, what: str) -> float:
    """0 or 1; `BadRow` for anything else."""
    value = number(text, what)
    if value not in {0.0, 1.0}:
        raise BadRow(f"{what} is {text!r}, neither 0 nor 1")
    return value


def age_in_years(text: str, row: str, left_out: list[LeftOut]) -> float | None:
    """Age of ``058Y``, ``58``, ``009M`` or ``12D`` (PS3.5 6.2, AS; a bare number is in years).

    An age that cannot be is reported and None; the image is used all the same.
    """
    text = text.strip()
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([ymwd]?)", text.lower())
    age = float(match[1]) / _UNITS[match[2]] if match else math.nan
    if not age <= OLDEST:
        left_out.append(LeftOut(row, f"age {text!r} left out: not an age of 0 to {OLDEST} years; the image is used"))
        return None
    return age


def sex_of(text: str) -> str:
    """``M``, ``F``, or empty when not told."""
    return _SEXES.get(text.strip().lower(), "")


def view_of(text: str) -> str:
    """``PA``, ``AP``, ``LATERAL``, or empty when not told."""
    return _VIEWS.get(text.strip().upper(), "")


def box_within(corner_and_size: Sequence[float], rows: int, columns: int) -> Box:
    """A box of x, y, width and height on an image of that size; `BadRow` when it is empty or leaves the image.

    What rounding has put beyond the edge, less than a pixel, is cut off.
    """
    x, y, width, height = corner_and_size
    told = f"box x {x:g}, y {y:g}, width {width:g}, height {height:g}"
    if not (width > 0 and height > 0):
        raise BadRow(f"{told}: empty")
    right, bottom = x + width, y + height
    if min(x, y) < -_OVERHANG or right > columns + _OVERHANG or bottom > rows + _OVERHANG:
        raise BadRow(f"{told}: leaves the image of {columns} x {rows} pixels")
    if x >= 0 and y >= 0 and right <= columns and bottom <= rows:
        return Box(x, y, width, height)
    left, top = max(x, 0.0), max(y, 0.0)
    return Box(left, top, min(right, columns) - left, min(bottom, rows) - top)


def dicom_header(path: Path) -> Header:
    """Read a DICOM header, pixels left alone; `BadRow` when the file is not DICOM or has no pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # thousands of ages without a unit, and of study names that are no UIDs
            ds = dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
            texts = {tag: str(ds.get(tag) or "").strip() for tag in _TAGS}
        rows, columns = int(texts["Rows"] or 0), int(texts["Columns"] or 0)
    except _UNPARSABLE as error:
        raise BadRow(f"{path.name} is not readable DICOM: {type(error).__name__}") from error
    if rows < 1 or columns < 1:
        raise BadRow(f"{path.name} holds no image")
    return Header(
        patient=texts["PatientID"],
        study=texts["StudyInstanceUID"],
        view=texts["ViewPosition"],
        sex=texts["PatientSex"],
        age=texts["PatientAge"],
        rows=rows,
        columns=columns,
    )


def picture_size(path: Path) -> tuple[int, int]:
    """Rows and columns of a PNG, JPEG or GIF file; `BadRow` when it is none."""
    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadRow(f"{path.name} is not a readable picture: {type(error).__name__}") from error

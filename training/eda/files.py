"""What the files of a data set say: headers of a sample, and the pixels of a smaller one.

The rule: nothing is read that the limits do not allow, every sample is drawn with a seed, and a file that is absent or
cannot be read is named with its reason: whoever looks at files is given `Unread` to add to.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from tqdm import tqdm

from models.exposures import COPY, ExposureKey, exposure_key, likeness, relation
from models.refusal import ImageRefused
from models.rendering import RenderedImage, render, render_picture
from training.readers.records import Record, RunLengths
from training.readers.run_lengths import RunLengthsInvalid, decode

BoolArray = npt.NDArray[np.bool_]
Unread = dict[Path, str]  # file to the reason for which it could not be read
UNREADABLE = (
    ImageRefused, InvalidDicomError, BytesLengthException, UnidentifiedImageError, Image.DecompressionBombError,
    OSError, EOFError, SyntaxError, ValueError, KeyError, AttributeError, struct.error,
)  # fmt: skip
_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff"}
_HEADER = (
    "Rows", "Columns", "PixelSpacing", "ImagerPixelSpacing", "BodyPartExamined", "Modality", "ViewPosition",
    "PhotometricInterpretation", "Manufacturer",
)  # fmt: skip
# What the page lists of a DICOM header, beside the pixel spacing.
LISTED = ("Modality", "BodyPartExamined", "ViewPosition", "PhotometricInterpretation", "Manufacturer")
# Of one study, no more images are compared with each other.
_MOST_COMPARED = 12


@dataclass(frozen=True)
class FileFacts:
    """What one image file says of itself.

    Parameters
    ----------
    kind
        ``DICOM``, or the format of the picture.
    spacing
        Pixel spacing in mm as text, ``row x column``; empty when not told.
    header
        Keyword of `LISTED` to value as text; empty for pictures.
    """

    kind: str
    rows: int
    columns: int
    spacing: str
    header: Mapping[str, str]


@dataclass(frozen=True)
class Survey:
    """The headers of a sample.

    Parameters
    ----------
    looked
        Files of the sample drawn from all records.
    facts
        Of those of them that could be read.
    drawn
        Of records with boxes or masks, from a sample of their own.
    absent
        Files of the sample that are not there.
    """

    looked: int
    facts: Mapping[Path, FileFacts]
    drawn: Mapping[Path, FileFacts]
    absent: int

    @property
    def sizes(self) -> dict[object, tuple[int, int]]:
        """Rows and columns by path, of all that was looked at."""
        return {path: (f.rows, f.columns) for path, f in {**self.facts, **self.drawn}.items()}


@dataclass(frozen=True)
class Copies:
    """Two images of one study that show the same.

    Parameters
    ----------
    how
        ``the same pixels``, ``the same exposure`` (as the node tells them, by header and likeness) or ``alike`` (by
        likeness alone).
    alike
        Correlation of their details, -1 to 1.
    """

    study: str
    first: Path
    second: Path
    how: str
    alike: float


@dataclass(frozen=True)
class CopySearch:
    """What came of the search for copies.

    Parameters
    ----------
    studies, images
        That were looked at; only studies with several images.
    across
        Pairs of patients who share the same pixels, among these images.
    """

    studies: int
    images: int
    copies: tuple[Copies, ...]
    across: tuple[tuple[Path, Path], ...]


def draw(records: Sequence[Record], limit: int, seed: int) -> list[Record]:
    """A sample in the order of the records."""
    if len(records) <= limit:
        return list(records)
    chosen = np.random.default_rng(seed).choice(len(records), size=limit, replace=False)
    return [records[i] for i in sorted(chosen)]


def note(unread: Unread, path: Path, error: Exception) -> None:
    """Keep why a file could not be read; of several reasons the first."""
    reason = "it is not there" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
    unread.setdefault(path, reason.replace(str(path), path.name))


def named(unread: Unread) -> list[tuple[str, str]]:
    """Files with the folders that tell them apart, and reasons, in the order of the files."""
    return [("/".join(path.parts[-3:]), reason) for path, reason in sorted(unread.items())]


def survey(records: Sequence[Record], limit: int, seed: int, unread: Unread) -> Survey:
    """Read headers of at most `limit` files, and of as many again with boxes or masks."""
    sample = draw(records, limit, seed)
    facts = dict(_facts_of(sample, "headers", unread))
    absent = sum(not record.image.exists() for record in sample)
    outlined = draw([r for r in records if any(r.boxes.values()) or any(r.masks.values())], limit, seed)
    rest = [record for record in outlined if record.image not in facts]
    drawn = {record.image: facts[record.image] for record in outlined if record.image in facts}
    drawn.update(_facts_of(rest, "headers of images with boxes or masks", unread))
    return Survey(len(sample), facts, drawn, absent)


def file_facts(path: Path) -> FileFacts:
    """Read one header, pixels left alone.

    Raises
    ------
    One of `UNREADABLE`.
    """
    if path.suffix.lower() in _PICTURES:
        with Image.open(path) as picture:
            return FileFacts(picture.format or "picture", picture.height, picture.width, "", {})
    ds = dcmread(path, stop_before_pixels=True, specific_tags=list(_HEADER))
    spacing = ds.get("PixelSpacing") or ds.get("ImagerPixelSpacing") or ()
    return FileFacts(
        "DICOM",
        int(ds.Rows),
        int(ds.Columns),
        " x ".join(f"{float(value):.3f}" for value in spacing),
        {keyword: str(ds.get(keyword) or "") for keyword in LISTED},
    )


def open_image(path: Path) -> tuple[RenderedImage, ExposureKey]:
    """Render one radiograph as stored, and describe it for the search for copies.

    Raises
    ------
    One of `UNREADABLE`.
    """
    if path.suffix.lower() in _PICTURES:
        image, ds = render_picture(path), Dataset()
        ds.PixelData = image.pixels.tobytes()
    else:
        ds = dcmread(path)
        image = render(ds)
    return image, exposure_key(ds, image)


def mask_of(record: Record, key: str, unread: Unread) -> BoolArray | None:
    """The union of the parts of a mask; None when there is none or one of them cannot be read."""
    united: BoolArray | None = None
    for part in record.masks[key]:
        path = part if isinstance(part, Path) else record.image
        try:
            mask = decode(part) if isinstance(part, RunLengths) else _mask_file(part)
            if united is not None and united.shape != mask.shape:
                raise ValueError("the parts of its mask differ in size")
        except (OSError, RunLengthsInvalid, SyntaxError, ValueError) as error:
            note(unread, path, error)
            return None
        united = mask if united is None else united | mask
    return united


def mask_shares(records: Sequence[Record], limit: int, seed: int, unread: Unread) -> dict[str, list[float]]:
    """Area of masks over that of the image, by structure or finding, of at most `limit` records with any."""
    found: dict[str, list[float]] = {}
    with_masks = draw([record for record in records if any(record.masks.values())], limit, seed)
    for record in tqdm(with_masks, desc="masks", unit="image", disable=not with_masks):
        for key in record.masks:
            mask = mask_of(record, key, unread)
            if mask is not None:
                found.setdefault(key, []).append(float(mask.mean()))
    return found


def find_copies(records: Sequence[Record], limit: int, seed: int, unread: Unread) -> CopySearch:
    """Open at most `limit` images of studies with several and compare those of a study with each other."""
    by_study: dict[str, list[Record]] = {}
    for record in records:
        by_study.setdefault(record.study, []).append(record)
    several = [images[:_MOST_COMPARED] for images in by_study.values() if len(images) > 1]
    chosen: list[list[Record]] = []
    for i in np.random.default_rng(seed).permutation(len(several)):
        if sum(map(len, chosen)) + len(several[i]) <= limit:
            chosen.append(several[i])
    opened: dict[Path, ExposureKey] = {}
    for record in tqdm([r for images in chosen for r in images], desc="copies", unit="image", disable=not chosen):
        try:
            opened[record.image] = open_image(record.image)[1]
        except UNREADABLE as error:
            note(unread, record.image, error)
    copies = tuple(copy for images in chosen for copy in _copies(images, opened))
    return CopySearch(len(chosen), len(opened), copies, tuple(_across(chosen, opened)))


def _facts_of(records: Sequence[Record], what: str, unread: Unread) -> Iterator[tuple[Path, FileFacts]]:
    for record in tqdm(records, desc=what, unit="file", disable=not records):
        try:
            yield record.image, file_facts(record.image)
        except UNREADABLE as error:
            note(unread, record.image, error)


def _mask_file(path: Path) -> BoolArray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L")) > 127


def _copies(images: Sequence[Record], opened: Mapping[Path, ExposureKey]) -> Iterator[Copies]:
    there = [record for record in images if record.image in opened]
    for i, first in enumerate(there):
        for second in there[i + 1 :]:
            one, other = opened[first.image], opened[second.image]
            alike = likeness(one, other)
            how = relation(one, other) or ("alike" if alike > COPY else None)
            if how:
                yield Copies(first.study, first.image, second.image, how, alike)


def _across(chosen: Iterable[Sequence[Record]], opened: Mapping[Path, ExposureKey]) -> Iterator[tuple[Path, Path]]:
    first_seen: dict[str, Record] = {}
    for record in (r for images in chosen for r in images if r.image in opened):
        earlier = first_seen.setdefault(opened[record.image].digest, record)
        if earlier.patient != record.patient:
            yield earlier.image, record.image

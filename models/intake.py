"""From the bytes of an instance to a rendered radiograph, or to a refusal with a code: nothing else can come of them.

The rule: every byte is hostile until this module has returned. It runs in a process of its own
(``orthanc_plugin.reading.intake_process``), for a decoder may crash, hang or ask for all memory.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from pydicom import Dataset, FileDataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.uid import DeflatedExplicitVRLittleEndian

from models.exposures import ExposureKey, exposure_key
from models.refusal import Evidence, ImageRefused, Refusal
from models.rendering import RenderedImage, render
from models.selection import Policy, Selection, select

# What pydicom raises on files that are no valid DICOM.
_UNPARSABLE = (
    *(InvalidDicomError, BytesLengthException, ValueError, OSError, EOFError, NotImplementedError, LookupError),
    *(TypeError, AttributeError, ArithmeticError, RecursionError, struct.error, zlib.error),
)
_PREFIX_AT = 128  # after the preamble (PS3.10 7.1)
# A file, inflated where it is deflated, beyond this is no single radiograph: 64 million pixels of two bytes and a
# generous header.
LARGEST_FILE = 160_000_000
_DEEPEST = 24  # levels of sequences; radiographs have three
_IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
_BULK = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})  # Float, Double Float and plain Pixel Data


@dataclass(frozen=True, eq=False)
class Intake:
    """A radiograph that its header lets pass.

    Parameters
    ----------
    header
        The instance without its pixels.
    key
        By which another image of the same exposure is recognised.
    """

    header: Dataset
    selection: Selection
    image: RenderedImage
    key: ExposureKey

    def without_pixels(self) -> Intake:
        """What is small of it, to keep for many images."""
        return replace(self, image=replace(self.image, pixels=np.zeros((0, 0), np.float32), valid=None))


class NotTakenIn(ImageRefused):
    """An instance that is refused before any model sees it; `sop_instance_uid` is empty when it could not be read."""

    sop_instance_uid: str = ""


def take_in(content: bytes, policy: Policy) -> Intake:
    """Parse, select, decode and render one instance.

    Parameters
    ----------
    content
        A DICOM file (PS3.10).

    Raises
    ------
    NotTakenIn
    """
    source: Dataset | None = None
    looked_at: tuple[Evidence, ...] = ()
    try:
        source = parse(content)
        selection = select(source, policy)
        looked_at = selection.evidence
        image = render(source, selection.hanging)
        key = exposure_key(source, image)
        return Intake(_without_bulk(source), selection, image, key)
    except (ImageRefused, MemoryError) as error:
        refused = _not_taken_in(error, looked_at)
        refused.sop_instance_uid = str(source.get("SOPInstanceUID", "")) if source is not None else ""
        raise refused from error


def parse(content: bytes) -> Dataset:
    """Read every element of a DICOM file now, so that a broken one does not surface later.

    Raises
    ------
    ImageRefused
        ``unreadable_header``.
    """
    try:
        _check_deflated(content)
        source = dcmread(BytesIO(content))
        _read_all(source)
        missing = [k for k in _IDENTIFIERS if not source.get(k) or isinstance(source.get(k), MultiValue)]
    except _UNPARSABLE as error:
        raise ImageRefused(Refusal.UNREADABLE_HEADER, f"not valid DICOM: {type(error).__name__}") from error
    if missing:
        raise ImageRefused(
            Refusal.UNREADABLE_HEADER, f"{missing[0]} is missing or ambiguous", (Evidence(missing[0], "missing"),)
        )
    return source


def _check_deflated(content: bytes) -> None:
    """Refuse a deflated instance that inflates to more than any radiograph holds, before pydicom inflates it."""
    if content[_PREFIX_AT : _PREFIX_AT + 4] != b"DICM":
        return  # pydicom will say so
    file = BytesIO(content)
    file.seek(_PREFIX_AT + 4)
    meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    inflate.decompress(file.read(), LARGEST_FILE)
    if inflate.unconsumed_tail:
        raise ImageRefused(Refusal.UNREADABLE_HEADER, f"it inflates to more than {LARGEST_FILE} bytes")


def _read_all(source: Dataset, depth: int = 0) -> None:
    """Make pydicom convert every element, which it puts off otherwise."""
    if depth > _DEEPEST:
        raise ImageRefused(Refusal.UNREADABLE_HEADER, f"sequences are nested more than {_DEEPEST} deep")
    for element in source:
        if element.VR == "SQ":
            for item in element.value:
                _read_all(item, depth + 1)
        elif element.VR == "PN" and isinstance(element.value, MultiValue):
            # what pydicom makes of several names holds a local function, and could not leave this process
            element.value = list(element.value)


def _without_bulk(source: Dataset) -> Dataset:
    """Leave out pixels, curves (group 50xx) and overlays (60xx)."""
    for tag in [t for t in source.keys() if t in _BULK or t.group >> 8 in (0x50, 0x60)]:  # noqa: SIM118
        del source[tag]
    if isinstance(source, FileDataset):
        source.buffer = None  # the whole file once more
    return source


def _not_taken_in(error: ImageRefused | MemoryError, looked_at: tuple[Evidence, ...]) -> NotTakenIn:
    if isinstance(error, ImageRefused):
        return NotTakenIn(error.code, str(error), error.evidence or looked_at)
    message = "the instance asks for more memory than any radiograph needs"
    return NotTakenIn(Refusal.UNREADABLE_PIXELS, message, looked_at)

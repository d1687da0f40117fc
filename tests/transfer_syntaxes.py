"""Radiographs in every transfer syntax, and damaged ones, for tests."""

from __future__ import annotations

import functools
import shutil
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import generate_fragments, parse_basic_offsets
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from models.phantom import chest
from orthanc_plugin.commands import modality
from orthanc_plugin.commands.modality import Exposure

Pixels = npt.NDArray[Any]

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
COMPRESSED_LOSSLESS = (
    RLELossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
)
LOSSLESS = NATIVE + COMPRESSED_LOSSLESS
LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)
COMPRESSED = COMPRESSED_LOSSLESS + LOSSY
SYNTAXES = LOSSLESS + LOSSY
# Syntaxes whose codestreams say themselves which process they are of, so that a wrong label among them does no harm.
FAMILIES = (
    frozenset({RLELossless}),
    frozenset({JPEGBaseline8Bit, JPEGExtended12Bit}),
    frozenset({JPEGLossless, JPEGLosslessSV1}),
    frozenset({JPEGLSLossless, JPEGLSNearLossless}),
    frozenset({JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K}),
)


def error_bound(syntax: UID, bits_stored: int) -> int:
    """Largest difference from the original, in stored values, that the encoder settings of `encode_as` allow.

    JPEG-LS keeps its NEAR of 2 exactly. JPEG at quality 95 has steps of up to 12 in its tables for 8 bits, the same at
    12. JPEG 2000 at 80 dB has an RMS error of 1e-4 of the range, taken five times and at least 2; HTJ2K quantises to
    one value and gains at most fourfold in the synthesis filters.
    """
    if syntax not in LOSSY:
        return 0
    range_share = round(5e-4 * 2**bits_stored)
    return {JPEGLSNearLossless: 2, JPEG2000: max(2, range_share), HTJ2K: 4}.get(syntax, 12)


def can_hold(syntax: UID, bits_stored: int, *, signed: bool) -> bool:
    """Whether the syntax has room for such values; near-lossless signed ones are refused by the encoder."""
    if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless) and signed:
        return False
    return bits_stored <= {JPEGBaseline8Bit: 8, JPEGExtended12Bit: 12}.get(syntax, 16)


def stored_values(bits_stored: int, *, signed: bool = False, rows: int = 121, columns: int = 97) -> Pixels:
    """A phantom over the full range of the bits, lowest and highest value included."""
    highest = 2**bits_stored - 1
    values = np.round(_phantom(rows, columns) * highest).astype(np.int64)
    values[0, :4], values[1, :4] = 0, highest
    kind = "i" if signed else "u"
    return (values - (2 ** (bits_stored - 1) if signed else 0)).astype(f"{kind}{1 if bits_stored == 8 else 2}")


@functools.cache
def _phantom(rows: int, columns: int) -> Pixels:
    return chest(1, rows=rows, columns=columns).pixels


def instance(values: Pixels, bits_stored: int, **how: Any) -> Dataset:
    """An uncompressed radiograph that holds exactly these stored values."""
    ds = modality.radiograph(np.zeros(values.shape, np.uint8), Exposure(bits_stored=bits_stored, **how))
    ds.PixelRepresentation = int(values.dtype.kind == "i")
    data = values.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    return ds


def as_file(ds: Dataset) -> Dataset:
    """The instance as it is read back from its bytes."""
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return dcmread(BytesIO(buffer.getvalue()))


def codestream(ds: Dataset) -> bytes:
    """The fragments of the only frame, joined."""
    buffer = BytesIO(ds.PixelData)
    parse_basic_offsets(buffer)
    return b"".join(generate_fragments(buffer))


def by_dcmtk(ds: Dataset, folder: Path, program: str, *options: str) -> Dataset:
    """Encode with dcmtk's ``dcmcjpeg``, ``dcmcjpls`` or ``dcmcrle``: encoders that are none of ours."""
    dcmwrite(folder / "plain.dcm", ds, enforce_file_format=True)
    command = [str(shutil.which(program)), *options, str(folder / "plain.dcm"), str(folder / "coded.dcm")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return dcmread(folder / "coded.dcm")

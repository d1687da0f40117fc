"""From the bytes of Pixel Data to the stored values of one grayscale frame, whatever the transfer syntax.

The rule: a codestream is read by us before a decoder sees it. Its own header must give one component and exactly the
header's Rows x Columns, and it must be complete; only then is memory given. What is returned are the Bits Stored and
nothing else (PS3.5 8.1.1).

The decoders are those of imagecodecs (OpenJPEG, CharLS, libjpeg-turbo): in ``./hilum bench intake`` the fastest for
each syntax with the threads that rendering gives them (for JPEG 2000 on one thread GDCM is faster, on two OpenJPEG is).
They also read 12-bit JPEG Extended whose scan header says Se = 0, as some archives write it. OpenJPH would halve HTJ2K,
but crashed on damaged streams.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
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

from models.refusal import ImageRefused, Refusal, integer

Pixels = npt.NDArray[Any]

_NATIVE = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)
# Values may lie beyond Bits Stored there, and are clipped: cutting off a bit would turn white into black.
_LOSSY = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K})
# Start-of-frame markers, by process (ITU-T T.81 table B.1, T.87 C.1.1); progressive frames are retired, but met.
_LOSSY_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_JPEG_FRAMES = {
    JPEGBaseline8Bit: _LOSSY_JPEG_FRAMES,
    JPEGExtended12Bit: _LOSSY_JPEG_FRAMES,
    JPEGLossless: frozenset({0xC3}),
    JPEGLosslessSV1: frozenset({0xC3}),
    JPEGLSLossless: frozenset({0xF7}),
    JPEGLSNearLossless: frozenset({0xF7}),
}
_ALL_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # the last three are DHT, JPG and DAC
_JPEG_2000 = frozenset({JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K})
_END_OF_IMAGE = b"\xff\xd9"  # EOI of JPEG and JPEG-LS, EOC of JPEG 2000


class _Unreadable(ValueError):
    """Bytes that are not what the transfer syntax promises; the message says which part."""


@dataclass(frozen=True)
class _Layout:
    """The part of the header that says how values are stored (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool

    @classmethod
    def of(cls, ds: Dataset) -> _Layout:
        stored = integer(ds, "BitsStored", 0)
        layout = cls(
            integer(ds, "Rows", 0),
            integer(ds, "Columns", 0),
            integer(ds, "BitsAllocated", 0),
            stored,
            integer(ds, "HighBit", stored - 1),
            integer(ds, "PixelRepresentation", -1) == 1,
        )
        if layout.rows < 1 or layout.columns < 1:
            raise _Unreadable(f"{layout.rows} x {layout.columns} pixels")
        if layout.bits_allocated not in (8, 16) or not 8 <= stored <= layout.bits_allocated:
            raise _Unreadable(f"{stored} bits stored in {layout.bits_allocated} allocated")
        if not stored - 1 <= layout.high_bit < layout.bits_allocated:
            raise _Unreadable(f"High Bit {layout.high_bit} with {stored} bits stored in {layout.bits_allocated}")
        if integer(ds, "PixelRepresentation", -1) not in (0, 1):
            raise _Unreadable("no valid Pixel Representation")
        return layout

    @property
    def sample_bytes(self) -> int:
        return self.bits_allocated // 8


@dataclass(frozen=True)
class _Codestream:
    """What a JPEG, JPEG-LS or JPEG 2000 codestream says of itself."""

    data: bytes
    rows: int
    columns: int
    components: int
    precision: int


def decode(ds: Dataset, *, threads: int = 1) -> Pixels:
    """Decode the only frame of a grayscale image.

    Parameters
    ----------
    ds
        With its file meta information.
    threads
        Given to JPEG 2000, the one decoder that can use several.

    Returns
    -------
    array
        Shape (rows, columns); uint8, int8, uint16 or int16 by Bits Allocated and Pixel Representation; stored values,
        before any modality transformation. Native byte order, writeable.

    Raises
    ------
    ImageRefused
        ``multi_frame``, ``unreadable_header``, or ``unreadable_pixels`` for whatever cannot be decoded.
    """
    syntax = UID(str(getattr(getattr(ds, "file_meta", None), "TransferSyntaxUID", "")))
    frames = integer(ds, "NumberOfFrames", 1)
    if frames != 1:
        raise ImageRefused(Refusal.MULTI_FRAME, f"{frames} frames")
    try:
        return _decode(ds, syntax, threads)
    except (
        *(ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError),
        *(RuntimeError, MemoryError, OverflowError, OSError, EOFError, struct.error),
    ) as error:
        why = str(error) if isinstance(error, _Unreadable) else type(error).__name__
        # an unknown UID may be anybody's text
        known = "no transfer syntax"
        if syntax:
            known = syntax.name if syntax.name != str(syntax) else "unknown transfer syntax"
        message = f"the pixels cannot be decoded ({known}): {why}"
        raise ImageRefused(Refusal.UNREADABLE_PIXELS, message) from error


def _decode(ds: Dataset, syntax: UID, threads: int) -> Pixels:
    layout = _Layout.of(ds)
    if integer(ds, "SamplesPerPixel", 1) != 1:
        raise _Unreadable("the image is in colour")
    element = ds["PixelData"]
    if not isinstance(element.value, bytes) or not element.value:
        raise _Unreadable("Pixel Data is empty")
    if syntax in _NATIVE:
        swapped_words = syntax == ExplicitVRBigEndian and element.VR == "OW"
        samples = _native(element.value, layout, big_endian=syntax == ExplicitVRBigEndian, words=swapped_words)
        return _stored_values(samples, layout.bits_allocated, layout, lossy=False)
    if syntax == RLELossless:
        return _stored_values(_run_length(_joined(element.value), layout), layout.bits_allocated, layout, lossy=False)
    if syntax in _JPEG_FRAMES:
        codestream = _jpeg(_joined(element.value), _JPEG_FRAMES[syntax])
    elif syntax in _JPEG_2000:
        codestream = _jpeg_2000(_joined(element.value))
    else:
        raise _Unreadable("a transfer syntax that is not supported")
    if codestream.components != 1:
        raise _Unreadable(f"the codestream has {codestream.components} components")
    if (codestream.rows, codestream.columns) != (layout.rows, layout.columns):
        found = f"{codestream.rows} x {codestream.columns}"
        raise _Unreadable(f"the codestream has {found} pixels, the header {layout.rows} x {layout.columns}")
    if not 2 <= codestream.precision <= layout.bits_allocated:
        raise _Unreadable(f"the codestream has {codestream.precision} bits, allocated are {layout.bits_allocated}")
    if syntax in _JPEG_FRAMES:
        is_jpeg_ls = syntax in (JPEGLSLossless, JPEGLSNearLossless)
        samples = (imagecodecs.jpegls_decode if is_jpeg_ls else imagecodecs.jpeg8_decode)(codestream.data)
    else:
        samples = imagecodecs.jpeg2k_decode(codestream.data, numthreads=threads)
    return _stored_values(samples, codestream.precision, layout, lossy=syntax in _LOSSY)


def _native(data: bytes, layout: _Layout, *, big_endian: bool, words: bool) -> Pixels:
    """Cells of uncompressed Pixel Data (PS3.5 8.1.1, A.1 to A.3, A.5)."""
    count = layout.rows * layout.columns
    length = count * layout.sample_bytes
    if len(data) < length:
        raise _Unreadable(f"{len(data)} of {length} bytes")
    if len(data) >= 2 * length + 2:
        raise _Unreadable(f"{len(data)} bytes instead of {length}: more than one frame, or wrong Bits Allocated")
    if layout.sample_bytes == 1 and words:  # 8-bit values in big endian 16-bit words (PS3.5 8.1.1, A.3)
        padded = data[: length + length % 2].ljust(length + length % 2, b"\0")
        return np.frombuffer(padded, "<u2").byteswap().view(np.uint8)[:count]
    byte_order = ">" if big_endian else "<"
    return np.frombuffer(data, f"{byte_order}u{layout.sample_bytes}", count)


def _joined(pixel_data: bytes) -> bytes:
    """The fragments of the only frame, put together; what the offset table says is not needed for that (PS3.5 A.4)."""
    buffer = BytesIO(pixel_data)
    parse_basic_offsets(buffer)
    return b"".join(generate_fragments(buffer))


def _run_length(data: bytes, layout: _Layout) -> Pixels:
    """Cells of RLE Pixel Data; the decoder trusts the table of segments, so it is checked here (PS3.5 G.5)."""
    count, *offsets = struct.unpack_from("<16L", data)
    used = offsets[:count]
    if count != layout.sample_bytes:
        raise _Unreadable(f"{count} RLE segments for {layout.bits_allocated} bits allocated")
    if used[0] != 64 or used != sorted(set(used)) or used[-1] >= len(data):
        raise _Unreadable("the table of RLE segments is wrong")
    length = layout.rows * layout.columns * layout.sample_bytes
    decoded = imagecodecs.dicomrle_decode(data, f"<u{layout.sample_bytes}", out=length)
    return np.frombuffer(decoded, f"<u{layout.sample_bytes}")


def _jpeg(data: bytes, frames: frozenset[int]) -> _Codestream:
    """Read the markers before the first scan (ITU-T T.81 B.2, T.87 C.2)."""
    if data[:2] != b"\xff\xd8":
        raise _Unreadable("the codestream is not JPEG")
    position, header = 2, None
    while True:
        prefix, marker, length = struct.unpack_from(">BBH", data, position)
        if prefix != 0xFF:
            raise _Unreadable("a marker is missing in the JPEG header")
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xDA:
            break
        if marker in _ALL_FRAMES:
            if marker not in frames or header is not None:
                raise _Unreadable(f"a JPEG frame of type 0x{marker:X} does not belong here")
            header = struct.unpack_from(">BHHB", data, position + 4)
        position += 2 + length
    if header is None:
        raise _Unreadable("the codestream has no frame header")
    # Entropy-coded bytes never hold a marker, so its absence means that the end was lost.
    if data.find(_END_OF_IMAGE, position) < 0:
        raise _Unreadable("the codestream is truncated")
    precision, rows, columns, components = header
    return _Codestream(data, rows, columns, components, precision)


def _jpeg_2000(data: bytes) -> _Codestream:
    """Read SIZ and follow the tile-parts to the end (ITU-T T.800 A.4, A.5.1)."""
    data = data[_start_in_jp2(data) :]
    if data[:4] != b"\xff\x4f\xff\x51":
        raise _Unreadable("the codestream is not JPEG 2000")
    length, _, right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">HH6L", data, 4)
    components, depth, sub_x, sub_y = struct.unpack_from(">HBBB", data, 40)
    rows, columns = bottom - top, right - left
    if (sub_x, sub_y) != (1, 1) or min(tile_width, tile_height) < 1:
        raise _Unreadable("the JPEG 2000 header is invalid")
    position = 4 + length
    while data[position : position + 2] != b"\xff\x90":  # up to the first SOT
        (length,) = struct.unpack_from(">H", data, position + 2)
        position += 2 + length
    while data[position : position + 2] == b"\xff\x90":
        (length,) = struct.unpack_from(">L", data, position + 6)  # Psot; 0: this tile-part reaches to the end
        position = position + length if length else max(data.rfind(_END_OF_IMAGE), 0)
    if data[position : position + 2] != _END_OF_IMAGE:
        raise _Unreadable("the codestream is truncated")
    return _Codestream(data, rows, columns, components, (depth & 0x7F) + 1)


def _start_in_jp2(data: bytes) -> int:
    """Where the codestream begins; some writers wrap it as a JP2 file, which PS3.5 A.4.4 does not allow."""
    position = 0
    while data[4:8] == b"jP  ":
        length, kind = struct.unpack_from(">L4s", data, position)
        if kind == b"jp2c":
            return position + (16 if length == 1 else 8)
        if length < 8:
            raise _Unreadable("the JP2 boxes are invalid")
        position += length
    return 0


def _stored_values(samples: Pixels, precision: int, layout: _Layout, *, lossy: bool) -> Pixels:
    """Cut the stored value out of each sample and give it its sign (PS3.5 8.1.1, 8.2).

    Parameters
    ----------
    samples
        Cells of Bits Allocated, or what a codestream of `precision` bits holds.
    """
    if samples.shape not in ((layout.rows, layout.columns), (layout.rows * layout.columns,)):
        raise _Unreadable(f"decoded to shape {samples.shape} instead of {layout.rows} x {layout.columns}")
    stored, codestream_signed = layout.bits_stored, samples.dtype.kind == "i"
    if layout.signed and precision < stored and not codestream_signed:
        raise _Unreadable(
            f"the sign is unknown: {precision} unsigned bits in the codestream, {stored} signed in the header"
        )
    # A codestream with more bits than High Bit holds whole cells; one with fewer holds the values themselves.
    shift = layout.high_bit + 1 - stored if precision > layout.high_bit else 0
    if lossy and shift == 0 and precision > stored and codestream_signed == layout.signed:
        lowest, highest = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if layout.signed else (0, 2**stored - 1)
        samples = np.clip(samples, lowest, highest)
    # Two's complement in 16 bits; narrower signed samples are widened with their sign.
    values = samples.reshape(layout.rows, layout.columns).astype(np.int16 if codestream_signed else np.uint16)
    values = values.view(np.uint16)
    if shift:
        values >>= shift
    if layout.signed:
        values <<= 16 - stored
        values = values.view(np.int16)
        values >>= 16 - stored
    elif stored < 16:
        values &= 2**stored - 1
    if layout.bits_allocated == 8:
        return values.astype(np.int8 if layout.signed else np.uint8)
    return values

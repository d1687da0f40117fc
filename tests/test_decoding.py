"""Decoding: the stored values and nothing else, from every transfer syntax, or a coded refusal."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    MPEG2MPML,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from transfer_syntaxes import (
    COMPRESSED,
    FAMILIES,
    LOSSLESS,
    SYNTAXES,
    Pixels,
    as_file,
    by_dcmtk,
    can_hold,
    codestream,
    error_bound,
    instance,
    stored_values,
)

from models.decoding import decode
from models.refusal import ImageRefused, Refusal
from orthanc_plugin.commands import modality


def name(value: Any) -> str:
    return value.name.split(" Image")[0] if isinstance(value, UID) else str(value)


def coded(syntax: UID, bits_stored: int = 12, *, signed: bool = False) -> tuple[Dataset, Pixels]:
    values = stored_values(8 if syntax == JPEGBaseline8Bit else bits_stored, signed=signed)
    bits_stored = 8 if syntax == JPEGBaseline8Bit else bits_stored
    return as_file(modality.encode_as(instance(values, bits_stored), syntax)), values


def replace(ds: Dataset, *fragments: bytes) -> Dataset:
    """The same header with other fragments, without an offset table."""
    items = b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(f)) + f for f in fragments)
    ds.PixelData = struct.pack("<HHL", 0xFFFE, 0xE000, 0) + items
    ds["PixelData"].is_undefined_length = True
    return ds


def refusal(ds: Dataset) -> str:
    """Why it is refused; its code must be that of unreadable pixels."""
    with pytest.raises(ImageRefused) as refused:
        decode(ds)
    assert refused.value.code is Refusal.UNREADABLE_PIXELS
    return str(refused.value)


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("bits_stored", [8, 10, 12, 16])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=name)
def test_every_syntax_gives_the_stored_values(syntax: UID, bits_stored: int, signed: bool) -> None:
    values = stored_values(bits_stored, signed=signed)
    ds = instance(values, bits_stored)
    if not can_hold(syntax, bits_stored, signed=signed):
        with pytest.raises((ValueError, RuntimeError)):
            modality.encode_as(ds, syntax)
        return
    ds = as_file(modality.encode_as(ds, syntax))
    assert ds.file_meta.TransferSyntaxUID == syntax
    decoded = decode(ds)
    assert (decoded.dtype, decoded.shape) == (values.dtype, values.shape)
    assert decoded.dtype.isnative
    assert decoded.flags.writeable
    difference = np.abs(decoded.astype(np.int64) - values)
    assert difference.max() <= error_bound(syntax, bits_stored)


@pytest.mark.parametrize(
    ("program", "option", "bits_stored", "most"),
    [
        ("dcmcjpeg", "+e1", 12, 0),
        ("dcmcjpeg", "+e1", 16, 0),
        ("dcmcjpeg", "+el", 12, 0),
        ("dcmcjpeg", "+eb", 8, 16),
        ("dcmcjpeg", "+ee", 12, 64),
        ("dcmcjpls", "+el", 12, 0),
        ("dcmcjpls", "+en", 12, 2),
        ("dcmcrle", "", 16, 0),
    ],
)
def test_what_dcmtk_encoded_is_read_too(program: str, option: str, bits_stored: int, most: int, tmp_path: Path) -> None:
    values = stored_values(bits_stored)
    ds = by_dcmtk(instance(values, bits_stored), tmp_path, program, *filter(None, [option]))
    assert ds.file_meta.TransferSyntaxUID.is_compressed
    difference = np.abs(decode(ds).astype(np.int64) - values)
    assert difference.max() <= most


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless], ids=name)
def test_overlays_in_the_high_bits_are_masked_off(syntax: UID, signed: bool) -> None:
    values = stored_values(12, signed=signed)
    rubbish = np.random.default_rng(0).integers(0, 16, values.shape).astype(np.uint16) << 12
    ds = instance((values.view(np.uint16) & 0xFFF | rubbish).view(values.dtype), 16)
    modality.encode_as(ds, syntax)
    ds.BitsStored, ds.HighBit = 12, 11
    assert np.array_equal(decode(as_file(ds)), values)


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=name)
def test_values_that_lie_higher_in_their_cell_are_shifted_down(syntax: UID, signed: bool) -> None:
    values = stored_values(12, signed=signed)
    cells = values.view(np.uint16) << 4 | 0x5  # something below the lowest bit, too
    ds = modality.encode_as(instance(cells.view(values.dtype), 16), syntax)
    ds.BitsStored, ds.HighBit = 12, 15
    assert np.array_equal(decode(as_file(ds)), values)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless], ids=name)
def test_a_codestream_of_whole_cells_is_cut_to_bits_stored(syntax: UID) -> None:
    values = stored_values(12)
    rubbish = np.random.default_rng(0).integers(0, 16, values.shape).astype(np.uint16) << 12
    ds = modality.encode_as(instance(values | rubbish, 16), syntax)
    ds.BitsStored, ds.HighBit = 12, 11
    assert np.array_equal(decode(as_file(ds)), values)


def test_a_codestream_of_fewer_bits_than_the_header_says_keeps_its_values() -> None:
    ds, values = coded(JPEG2000Lossless, 10)
    ds.BitsStored, ds.HighBit = 12, 11
    assert np.array_equal(decode(ds), values)


def test_a_codestream_of_fewer_bits_has_no_known_sign() -> None:
    ds, _ = coded(JPEGLSLossless, 10, signed=True)
    ds.BitsStored, ds.HighBit = 12, 11
    assert "the sign is unknown" in refusal(ds)


def test_lossy_values_beyond_bits_stored_are_clipped_never_wrapped_to_black() -> None:
    values = stored_values(12)
    values[values > 1023] = 1023
    values[:, ::2][values[:, ::2] > 1000] = 1020  # edges at the top of the range: the codec swings above it
    ds = modality.encode_as(instance(values, 12), JPEGExtended12Bit)
    raw = imagecodecs.jpeg8_decode(codestream(ds))
    ds.BitsStored, ds.HighBit = 10, 9
    assert raw.max() > 1023, "or this shows nothing"
    assert np.array_equal(decode(as_file(ds)), np.minimum(raw, 1023))


def test_a_codestream_wider_than_its_cells_is_refused() -> None:
    ds, _ = coded(JPEG2000Lossless, 12)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    assert "12 bits" in refusal(ds)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.98])
@pytest.mark.parametrize("syntax", COMPRESSED, ids=name)
def test_truncated_codestreams_are_refused(syntax: UID, share: float) -> None:
    ds, _ = coded(syntax)
    data = codestream(ds)
    assert refusal(replace(ds, data[: int(len(data) * share) // 2 * 2]))


@pytest.mark.parametrize("declared", COMPRESSED, ids=name)
def test_foreign_codestreams_are_refused(declared: UID) -> None:
    ds, _ = coded(declared)
    (relatives,) = (family for family in FAMILIES if declared in family)
    for other in set(COMPRESSED) - relatives:
        foreign, _ = coded(other)
        assert refusal(replace(ds, codestream(foreign))), f"{other.name} as {declared.name}"
    for rubbish in (b"", bytes(1000), np.random.default_rng(0).bytes(1000), b"\xff\xd8" + bytes(998)):
        assert refusal(replace(ds, rubbish))


@pytest.mark.parametrize("syntax", COMPRESSED, ids=name)
def test_a_codestream_of_another_size_is_refused(syntax: UID) -> None:
    ds, values = coded(syntax)
    ds.Rows, ds.Columns = values.shape[1], values.shape[0]
    if syntax == RLELossless:  # it carries no shape, only a length
        ds.Rows += 1
    refusal(ds)


@pytest.mark.parametrize("syntax", [s for s in COMPRESSED if s != RLELossless], ids=name)
def test_a_codestream_that_claims_a_huge_size_is_refused_before_any_decoder_sees_it(
    syntax: UID, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds, _ = coded(syntax)
    data = bytearray(codestream(ds))
    if "2000" in syntax.name:
        struct.pack_into(">LL", data, 8, 2**31, 2**31)  # Xsiz, Ysiz
    else:
        frame = next(data.index(bytes([0xFF, m])) for m in (0xF7, 0xC0, 0xC1, 0xC3) if bytes([0xFF, m]) in data[:900])
        struct.pack_into(">HH", data, frame + 5, 65535, 65535)
    for decoder in ("jpeg2k_decode", "jpegls_decode", "jpeg8_decode"):
        monkeypatch.setattr(imagecodecs, decoder, lambda *_a, **_k: pytest.fail("a decoder was called"))
    assert "the codestream has" in refusal(replace(ds, bytes(data)))


def test_two_frame_headers_in_one_jpeg_are_refused() -> None:
    ds, _ = coded(JPEGBaseline8Bit)
    data = codestream(ds)
    start = data.index(b"\xff\xc0")
    second = bytearray(data[start : start + 13])
    struct.pack_into(">HH", second, 5, 65535, 65535)
    assert "does not belong here" in refusal(replace(ds, data[: start + 13] + bytes(second) + data[start + 13 :]))


def test_a_colour_codestream_under_a_grayscale_header_is_refused() -> None:
    ds, values = coded(JPEG2000Lossless, 8)
    colour = imagecodecs.jpeg2k_encode(np.stack([values] * 3, axis=-1), codecformat="j2k", reversible=True)
    assert "3 components" in refusal(replace(ds, bytes(colour)))


@pytest.mark.parametrize("syntax", COMPRESSED, ids=name)
@pytest.mark.parametrize("how", ["one", "several", "odd", "table", "wrong table", "extended"])
def test_fragments_and_offset_tables_do_not_matter(syntax: UID, how: str) -> None:
    ds, _ = coded(syntax)
    expected, data = decode(ds), codestream(ds)
    if how == "one":
        replace(ds, data)
    elif how == "several":
        third = len(data) // 3 // 2 * 2
        replace(ds, data[:third], data[third : 2 * third], data[2 * third :])
    elif how == "odd":  # against PS3.5 A.4, but met
        replace(ds, data[:101], data[101:].rstrip(b"\0") if syntax != RLELossless else data[101:])
    elif how == "table":
        ds.PixelData = encapsulate([data], fragments_per_frame=3, has_bot=True)
    elif how == "wrong table":  # it points at nothing
        ds.PixelData = struct.pack("<HHLL", 0xFFFE, 0xE000, 4, 10**6) + replace(ds, data).PixelData[8:]
    else:
        replace(ds, data)
        ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = struct.pack("<Q", 7), struct.pack("<Q", 11)
    assert np.array_equal(decode(ds), expected)


def test_a_jp2_file_around_the_codestream_is_taken_off() -> None:
    ds, values = coded(JPEG2000, 12)
    jp2 = bytes(imagecodecs.jpeg2k_encode(values, codecformat="jp2", bitspersample=12, reversible=True))
    assert jp2[4:8] == b"jP  "
    assert np.array_equal(decode(replace(ds, jp2)), values)


def test_jpeg_extended_with_a_scan_that_ends_at_zero_is_read() -> None:
    """Se = 0 instead of 63 in a sequential scan, as in widely spread sample files: most decoders give up."""
    ds, _ = coded(JPEGExtended12Bit)
    expected, data = decode(ds), bytearray(codestream(ds))
    scan = data.index(b"\xff\xda")
    assert data[scan + 8] == 63
    data[scan + 8] = 0
    assert np.array_equal(decode(replace(ds, bytes(data))), expected)


def test_near_lossless_says_so_and_lossless_does_not() -> None:
    assert coded(JPEGLSNearLossless)[0].LossyImageCompression == "01"
    assert coded(JPEGLSLossless)[0].LossyImageCompression == "00"


@pytest.mark.parametrize("vr", ["OB", "OW"])
def test_8_bit_big_endian_is_read_as_bytes_or_as_words(vr: str) -> None:
    values = stored_values(8)
    ds = instance(values, 8)
    data = ds.PixelData
    ds.PixelData = np.frombuffer(data, "<u2").byteswap().tobytes() if vr == "OW" else data
    ds["PixelData"].VR = vr
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    assert np.array_equal(decode(as_file(ds)), values)


@pytest.mark.parametrize(
    "header",
    [
        {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31},
        {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0},
        {"BitsAllocated": 12},
        {"BitsStored": 7, "HighBit": 6},
        {"BitsStored": 17, "HighBit": 16},
        {"HighBit": 16},
        {"HighBit": 10},
        {"PixelRepresentation": 2},
        {"PixelRepresentation": None},
        {"BitsStored": None},
        {"BitsAllocated": None},
        {"Rows": 0},
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 60},
        {"SamplesPerPixel": 3},
        {"PixelData": b""},
        {"PixelData": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless], ids=name)
def test_headers_that_cannot_be_true_are_refused(header: dict[str, Any], syntax: UID) -> None:
    ds, _ = coded(syntax)
    for keyword, value in header.items():
        setattr(ds, keyword, value)
    refusal(ds)


def test_absent_elements_are_refused() -> None:
    for keyword in ("BitsAllocated", "BitsStored", "PixelRepresentation", "Rows", "PixelData"):
        ds, _ = coded(ExplicitVRLittleEndian)
        delattr(ds, keyword)
        refusal(ds)
    ds, _ = coded(ExplicitVRLittleEndian)
    del ds.file_meta
    assert "no transfer syntax" in refusal(ds)


@pytest.mark.parametrize("syntax", [MPEG2MPML, UID("1.2.840.10008.1.2.4.110"), UID("1.2.3")], ids=name)
def test_other_transfer_syntaxes_are_refused(syntax: UID) -> None:
    ds, _ = coded(JPEG2000Lossless)
    ds.file_meta.TransferSyntaxUID = syntax
    assert "not supported" in refusal(ds)


def test_several_frames_are_refused_as_such() -> None:
    ds, _ = coded(ExplicitVRLittleEndian)
    ds.NumberOfFrames = 2
    with pytest.raises(ImageRefused) as refused:
        decode(ds)
    assert refused.value.code is Refusal.MULTI_FRAME


@pytest.mark.parametrize(
    "table", [(2, 64, 2**31), (2, 64, 64), (2, 2**32 - 1, 64), (3, 64, 200, 300), (0,), (2, 0, 0), (16, 64)], ids=str
)
def test_a_wrong_table_of_rle_segments_is_refused(table: tuple[int, ...]) -> None:
    """The decoder reads where the table points: unchecked, this ends the process."""
    ds, _ = coded(RLELossless)
    header = struct.pack("<16L", *table, *[0] * (16 - len(table)))
    refusal(replace(ds, header + codestream(ds)[64:]))


def test_rle_that_would_expand_beyond_the_image_is_refused() -> None:
    ds, _ = coded(RLELossless)
    header = struct.pack("<16L", 2, 64, 100_064, *[0] * 13)
    refusal(replace(ds, header + b"\x81\x00" * 100_000))


@pytest.mark.parametrize("syntax", COMPRESSED, ids=name)
def test_damaged_bytes_give_an_image_or_a_coded_refusal(syntax: UID) -> None:
    ds, values = coded(syntax)
    rng, data = np.random.default_rng(7), codestream(ds)
    for _ in range(150):
        damaged = bytearray(data)
        reach = len(data) if rng.random() < 0.6 else min(len(data), 160)  # headers more often than their share
        for position in rng.integers(0, reach, rng.integers(1, 6)):
            damaged[position] = rng.integers(0, 256)
        try:
            assert decode(replace(ds, bytes(damaged))).shape == values.shape
        except ImageRefused as refused:
            assert refused.code is Refusal.UNREADABLE_PIXELS  # noqa: PT017  (either outcome is right)


def test_several_threads_give_the_same_values() -> None:
    ds, values = coded(JPEG2000Lossless, 16)
    assert np.array_equal(decode(ds, threads=2), values)


@pytest.mark.shared
def test_real_radiographs_in_every_syntax_are_decoded(shared_data: Path) -> None:
    """One hip in three syntaxes and one tibia in three: they differ by no more than their compression allows."""
    images = {p.stem: dcmread(p) for p in sorted((shared_data / "dicom").glob("*.dcm"))}
    decoded = {stem: decode(ds).astype(np.int64) for stem, ds in images.items()}
    assert len(decoded) >= 8
    for stem, values in decoded.items():
        assert values.shape == (images[stem].Rows, images[stem].Columns)
        assert values.max() < 2 ** images[stem].BitsStored
        assert values.std() > 1
    assert np.array_equal(decoded["RG3_RLE"], decoded["RG3_J2KR"])
    assert np.abs(decoded["RG3_JLSN"] - decoded["RG3_RLE"]).max() <= 4
    for lossy in ("RG2_J2KI", "RG2_JPLY"):
        assert np.abs(decoded[lossy] - decoded["RG2_JLSL"]).mean() < 8

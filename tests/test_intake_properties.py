"""Properties of the intake over generated headers, pixel formats and orientations.

Expected values come from what is written here, pixel by pixel after PS3.3, and from none of our functions.
"""

# ruff: noqa: PT017, PLR0911, PLR0917  (either answer may be right; hypothesis passes by name)
from __future__ import annotations

import itertools
import math
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, config, dcmwrite
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from scipy import ndimage
from transfer_syntaxes import instance

from models import scores, structures
from models.bundle import FindingContract
from models.exposures import exposure_key
from models.findings import Laterality, SegmentMask, View
from models.hanging import Hanging, hanging_of
from models.intake import Intake, NotTakenIn, parse, take_in
from models.phantom import chest
from models.refusal import ImageRefused, Refusal
from models.rendering import Frame, RenderedImage, network_input, render
from models.selection import Policy, Selection, select
from orthanc_plugin.commands.modality import Exposure, radiograph

PHANTOM = chest(5, rows=120, columns=100)
SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
EIGHT = ("L\\F", "R\\F", "L\\H", "R\\H", "F\\L", "F\\R", "H\\L", "H\\R")
QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@pytest.fixture(autouse=True)
def _no_validation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let pydicom write whatever a test asks for."""
    monkeypatch.setattr(config.settings, "_writing_validation_mode", config.IGNORE)
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# --- the grayscale pipeline -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A look-up table as PS3.3 C.11.1.1.1 describes it."""

    first: int
    bits: int
    entries: tuple[int, ...] = field(repr=False)

    def of(self, value: float) -> float:
        """The first entry below the first value mapped, the last one beyond the end."""
        return float(self.entries[min(max(round(value) - self.first, 0), len(self.entries) - 1)])

    def item(self, *, signed: bool, packed: bool, big_endian: bool) -> Dataset:
        """As a sequence item; entries of 8 bits `packed` two to a word where they allow it."""
        ds = Dataset()
        ds.add_new("LUTDescriptor", "SS" if signed else "US", [len(self.entries) % 2**16, self.first, self.bits])
        if packed and self.bits == 8:
            data = np.array([*self.entries, 0][: len(self.entries) + len(self.entries) % 2], np.uint8)
            ds.add_new("LUTData", "OW", data.view("<u2").astype(">u2" if big_endian else "<u2").tobytes())
        else:
            ds.add_new("LUTData", "OW", np.array(self.entries, ">u2" if big_endian else "<u2").tobytes())
        return ds


@dataclass(frozen=True)
class Pipeline:
    """Everything in a header that says what a stored value looks like."""

    bits: int = 12
    signed: bool = False
    photometric: str = "MONOCHROME2"
    shape: str | None = None
    slope: str | None = None
    intercept: str | None = None
    modality: Table | None = None
    center: str | None = None
    width: str | None = None
    function: str | None = None
    voi: Table | None = None
    padding: int | None = None
    padding_limit: int | None = None
    packed: bool = False

    @property
    def least(self) -> int:
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def most(self) -> int:
        return self.least + 2**self.bits - 1

    @property
    def inverse(self) -> bool:
        return self.photometric == "MONOCHROME1" or self.shape == "INVERSE"

    def after_modality(self, stored: int) -> float:
        """PS3.3 C.11.1."""
        if self.modality is not None:
            return self.modality.of(stored)
        if self.slope is not None:
            return stored * float(self.slope) + float(self.intercept or 0)
        return float(stored)

    def after_voi(self, x: float) -> float:
        """PS3.3 C.11.2.1.1, C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2, with an output from 0 to 1."""
        if self.voi is not None:
            return self.voi.of(x)
        if self.center is None or self.width is None:
            return x
        c, w = float(self.center), float(self.width)
        if self.function == "SIGMOID":
            return 1 / (1 + math.exp(min(-4 * (x - c) / w, 700)))
        if self.function == "LINEAR_EXACT":
            if x <= c - w / 2:
                return 0.0
            return 1.0 if x > c + w / 2 else (x - c) / w + 0.5
        if x <= c - 0.5 - (w - 1) / 2:
            return 0.0
        return 1.0 if x > c - 0.5 + (w - 1) / 2 else (x - (c - 0.5)) / (w - 1) + 0.5

    def is_padding(self, stored: int) -> bool:
        """PS3.3 C.7.5.1.1.2."""
        if self.padding is None:
            return False
        ends = (self.padding, self.padding if self.padding_limit is None else self.padding_limit)
        return min(ends) <= stored <= max(ends)

    def shown(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Each pixel, dense structures bright, the least and the greatest that is no padding at 0 and 1."""
        memory = {int(v): self.after_voi(self.after_modality(int(v))) for v in np.unique(stored)}
        inside = [v for v in memory if not self.is_padding(v)]
        if not inside:  # a range that holds every pixel cannot be meant
            raise AssertionError("the example holds padding only")
        low, high = min(memory[v] for v in inside), max(memory[v] for v in inside)
        assume(high - low > 1e-4 * max(1.0, abs(low), abs(high)))
        gray = {v: min(max((x - low) / (high - low), 0.0), 1.0) for v, x in memory.items()}
        seen = {v: 0.0 if self.is_padding(v) else (1 - g if self.inverse else g) for v, g in gray.items()}
        return np.vectorize(seen.__getitem__, otypes=[np.float64])(stored)

    def written(self, stored: npt.NDArray[Any], syntax: str = ExplicitVRLittleEndian) -> bytes:
        """The instance as bytes."""
        ds = instance(stored.astype(f"{'i' if self.signed else 'u'}{1 if self.bits == 8 else 2}"), self.bits)
        big_endian = syntax == ExplicitVRBigEndian
        for keyword in ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "RescaleType"):
            del ds[keyword]
        ds.PhotometricInterpretation, ds.PresentationLUTShape = self.photometric, self.shape
        ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = self.center, self.width, self.function
        ds.RescaleSlope, ds.RescaleIntercept = self.slope, self.intercept
        if self.modality is not None:
            how = {"packed": self.packed, "big_endian": big_endian}
            ds.ModalityLUTSequence = [self.modality.item(signed=self.signed, **how)]
        if self.voi is not None:
            lowest = min(self.after_modality(self.least), self.after_modality(self.most))
            signed = lowest < 0 if self.modality is None else False
            ds.VOILUTSequence = [self.voi.item(signed=signed, packed=self.packed, big_endian=big_endian)]
        vr = "SS" if self.signed else "US"
        if self.padding is not None:
            ds.add_new("PixelPaddingValue", vr, self.padding)
        if self.padding_limit is not None:
            ds.add_new("PixelPaddingRangeLimit", vr, self.padding_limit)
        for element in list(ds):
            if element.value is None and element.keyword in _PIPELINE:
                del ds[element.tag]
        if big_endian and self.bits > 8:
            ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
        return written(ds)


_PIPELINE = (
    "PresentationLUTShape",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "RescaleSlope",
    "RescaleIntercept",
)


def written(ds: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def tables(first: st.SearchStrategy[int], bits: tuple[int, ...]) -> st.SearchStrategy[Table]:
    def of(first_value: int, depth: int, count: int, seed: int) -> Table:
        entries = np.random.default_rng(seed).integers(0, 2**depth, count)
        return Table(first_value, depth, tuple(int(v) for v in entries))

    counts = st.one_of(st.integers(20, 5000), st.sampled_from([2**15, 40000, 2**16]))
    return st.builds(of, first, st.sampled_from(bits), counts, st.integers(0, 2**31))


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline:
    p = Pipeline(
        bits=draw(st.integers(8, 16)),
        signed=draw(st.booleans()),
        photometric=draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"])),
        shape=draw(st.sampled_from([None, "IDENTITY", "INVERSE"])),
        packed=draw(st.booleans()),
    )
    how = draw(st.sampled_from(["none", "rescale", "lut"]))
    if how == "rescale":
        slope = draw(st.floats(0.01, 20)) * draw(st.sampled_from([1, -1]))
        p = replace(p, slope=f"{slope:.6g}", intercept=f"{draw(st.floats(-40000, 40000)):.8g}")
    elif how == "lut":
        near = st.integers(p.least - 20 if p.signed else 0, min(p.most, p.least + 2000))
        p = replace(p, modality=draw(tables(near.map(lambda v: max(v, -(2**15))), (8, 16))))
    ends = [p.after_modality(p.least), p.after_modality(p.most)]
    if p.modality is not None:
        ends = [0.0, 2.0**p.modality.bits]
    how = draw(st.sampled_from(["none", "window", "lut"]))
    if how == "window":
        middle, span = sum(ends) / 2, abs(ends[1] - ends[0])
        p = replace(
            p,
            function=draw(st.sampled_from([None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])),
            center=f"{middle + draw(st.floats(-0.4, 0.4)) * span:.9g}",
            width=f"{max(1.0, draw(st.floats(0.05, 2)) * span):.9g}",
        )
    elif how == "lut":
        limits = (-(2**15), 2**15 - 1) if min(ends) < 0 and p.modality is None else (0, 2**16 - 1)
        low = int(min(max(min(ends), limits[0]), limits[1]))
        near = st.integers(low, min(low + 1000, limits[1]))
        p = replace(p, voi=draw(tables(near, (8, 10, 12, 14, 16))))
    if draw(st.booleans()):
        p = replace(p, padding=draw(st.integers(p.least, p.most)))
        if draw(st.booleans()):
            p = replace(p, padding_limit=draw(st.integers(p.least, p.most)))
    return p


@settings(QUICK, max_examples=120)
@given(p=pipelines(), seed=st.integers(0, 2**31), syntax=st.sampled_from(SYNTAXES))
def test_each_pixel_has_the_value_that_the_standard_gives_it(p: Pipeline, seed: int, syntax: str) -> None:
    rng = np.random.default_rng(seed)
    first, last = sorted(rng.integers(p.least, p.most + 1, 2))
    stored = rng.integers(first, last + 1, (97, 96))
    assume(not all(p.is_padding(int(v)) for v in np.unique(stored)))
    try:
        image = render(parse(p.written(stored, syntax)))
    except ImageRefused as refused:
        few = np.unique(stored[np.vectorize(lambda v: not p.is_padding(int(v)))(stored)]).size < 17
        assert refused.code in (Refusal.QUALITY, Refusal.UNREADABLE_PIXELS)
        assert few or np.unique(np.round(p.shown(stored), 9)).size < 18
        return
    wanted = p.shown(stored)
    assert np.abs(image.pixels - wanted).max() < 2e-5
    padded = np.vectorize(lambda v: p.is_padding(int(v)))(stored)
    assert np.array_equal(image.valid, ~padded) if padded.any() else image.valid is None


def straight(first: int, count: int, *, rising: bool, bits: int) -> Table:
    entries = np.round(np.linspace(0, 2**bits - 1, count)).astype(int)
    return Table(first, bits, tuple(int(v) for v in (entries if rising else entries[::-1])))


MODALITIES = ("none", "rising slope", "falling slope", "rising table", "falling table")
VOIS = ("none", "LINEAR", "LINEAR_EXACT", "SIGMOID", "rising table", "falling table")


@pytest.mark.parametrize("bits", range(8, 17))
def test_dense_structures_are_bright_in_every_combination(bits: int) -> None:
    combinations = itertools.product(
        ("MONOCHROME1", "MONOCHROME2"), (None, "IDENTITY", "INVERSE"), (False, True), MODALITIES, VOIS, (False, True)
    )
    for photometric, shape, signed, modality, voi, padded in combinations:
        p = Pipeline(bits=bits, signed=signed, photometric=photometric, shape=shape)
        count = p.most - p.least + 1
        if modality.endswith("slope"):
            slope, intercept = ("0.5", "-7") if modality.startswith("rising") else ("-0.5", "7")
            p = replace(p, slope=slope, intercept=intercept)
        elif modality.endswith("table"):
            p = replace(p, modality=straight(p.least, count, rising=modality.startswith("rising"), bits=16))
        low, high = sorted((p.after_modality(p.least), p.after_modality(p.most)))
        if voi.endswith("table"):
            table = straight(math.floor(low), int(high - low) + 2, rising=voi.startswith("rising"), bits=12)
            p = replace(p, voi=replace(table, entries=table.entries[: 2**16]))
        elif voi != "none":
            p = replace(p, function=voi, center=f"{(low + high) / 2}", width=f"{high - low}")
        falling = ("falling" in modality) ^ ("falling" in voi) ^ p.inverse
        density = 0.03 + 0.94 * PHANTOM.pixels
        stored = p.least + np.round((1 - density if falling else density) * (count - 1)).astype(int)
        if padded:  # a border that would look dense
            stored[:, :8] = p.least if falling else p.most
            p = replace(p, padding=int(stored[0, 0]))
        shown = render(parse(p.written(stored))).pixels
        inside = np.s_[:, 8:]
        likeness = np.corrcoef(shown[inside].ravel(), PHANTOM.pixels[inside].ravel())[0, 1]
        assert likeness > 0.95, (p.photometric, shape, signed, modality, voi, padded, likeness)
        lungs = (PHANTOM.masks["lung_right"] | PHANTOM.masks["lung_left"])[inside]
        assert shown[inside][~lungs].mean() > shown[inside][lungs].mean()
        if padded:
            assert not shown[:, :8].any()


@pytest.mark.parametrize(
    "interpretation", ["PALETTE COLOR", "RGB", "YBR_FULL", "ARGB", "", "MONOCHROME", "MONOCHROME1\\MONOCHROME2"]
)
def test_what_is_not_grayscale_is_never_shown_as_if_it_were(interpretation: str) -> None:
    ds = radiograph(PHANTOM.pixels, Exposure(seed="colour"))
    ds.PhotometricInterpretation = interpretation
    with pytest.raises(ImageRefused) as refused:
        render(parse(written(ds)))
    assert refused.value.code is Refusal.UNREADABLE_PIXELS


@pytest.mark.parametrize("spelt", ["MONOCHROME1", "MONOCHROME1 ", " MONOCHROME1", "monochrome1"])
def test_an_odd_spelling_does_not_change_the_sense_of_gray(spelt: str) -> None:
    ds = radiograph(PHANTOM.pixels, Exposure(seed="spelt", monochrome1=True))
    ds.PhotometricInterpretation = spelt
    del ds.PresentationLUTShape
    assert np.corrcoef(render(parse(written(ds))).pixels.ravel(), PHANTOM.pixels.ravel())[0, 1] > 0.99


def test_a_window_that_leaves_two_gray_levels_is_refused() -> None:
    ds = radiograph(PHANTOM.pixels, Exposure(seed="window"))
    ds.WindowCenter, ds.WindowWidth = "2000", "1"
    with pytest.raises(ImageRefused) as refused:
        render(parse(written(ds)))
    assert refused.value.code is Refusal.QUALITY


# --- orientation and coordinates --------------------------------------------------------------------------------------


def stored_as(upright: npt.NDArray[Any], orientation: str) -> npt.NDArray[Any]:
    """An upright frontal picture as it lies in a matrix of this Patient Orientation (PS3.3 C.7.6.1.1.1)."""
    rows, columns = upright.shape
    across, down = orientation.split("\\")
    along_body = across in "FH"
    i, j = np.indices((columns, rows) if along_body else (rows, columns))
    to_feet, feet = (j, across) if along_body else (i, down)
    to_left, left = (i, down) if along_body else (j, across)
    row = to_feet if feet == "F" else rows - 1 - to_feet
    column = to_left if left == "L" else columns - 1 - to_left
    return upright[row, column]


def hanging(orientation: str) -> Hanging:
    found = hanging_of(orientation.split("\\"))
    assert found is not None
    return found


def extent(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """First column, first row, columns and rows of what is true."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


@settings(QUICK, max_examples=150)
@given(
    rows=st.integers(100, 700), columns=st.integers(100, 700), orientation=st.sampled_from(EIGHT),
    aspect=st.sampled_from([0.3, 0.5, 0.8, 1.0, 1.25, 2.0, 3.5]), size=st.sampled_from([128, 256]),
    place=st.tuples(st.floats(0.02, 0.6), st.floats(0.02, 0.6), st.floats(0.15, 0.35), st.floats(0.15, 0.35)),
    stretch=st.booleans(),
)  # fmt: skip
def test_a_structure_is_brought_back_to_where_it_is_stored(
    rows: int, columns: int, orientation: str, aspect: float, size: int, place: tuple[float, ...], stretch: bool
) -> None:
    """`rows` and `columns` of the stored matrix; a block in it is seen, found, and brought back."""
    top, left = int(place[0] * rows), int(place[1] * columns)
    tall, wide = max(1, int(place[2] * rows)), max(1, int(place[3] * columns))
    stored = np.zeros((rows, columns), np.float32)
    stored[top : top + tall, left : left + wide] = 1.0
    square, frame = network_input(
        RenderedImage(stored, hanging=hanging(orientation), aspect=aspect), size, stretch=stretch
    )
    transposed = orientation[0] in "FH"
    height, width = (frame.width, frame.height) if transposed else (frame.height, frame.width)
    cell_rows, cell_columns = rows / height, columns / width
    assume(min(tall / cell_rows, wide / cell_columns) >= 4)  # what is finer than the network's pixels is lost
    seen = square >= 0.5
    x, y, w, h = extent(seen)
    back = frame.box_to_stored(x, y, w, h)
    for found, wanted, cell in zip(
        (back[0], back[1], back[0] + back[2], back[1] + back[3]),
        (left, top, left + wide, top + tall),
        (cell_columns, cell_rows, cell_columns, cell_rows),
        strict=True,
    ):
        assert abs(found - wanted) <= 1.01 * cell
    middle = frame.point_to_stored(x + w / 2, y + h / 2)
    assert abs(middle[0] - (left + wide / 2)) <= cell_columns
    assert abs(middle[1] - (top + tall / 2)) <= cell_rows
    mask = frame.mask_to_stored(square)
    assert mask.shape == (rows, columns)
    assert (mask & (stored > 0)).sum() / (mask | (stored > 0)).sum() > 0.6
    for found, wanted, cell in zip(
        extent(mask), (left, top, wide, tall), (cell_columns, cell_rows, cell_columns, cell_rows), strict=True
    ):
        assert abs(found - wanted) <= 2 * cell + 1


@settings(QUICK, max_examples=60)
@given(
    orientation=st.sampled_from(EIGHT), rows=st.integers(100, 480), columns=st.integers(100, 480),
    aspect=st.sampled_from([(1, 1), (2, 3), (5, 4), (3, 1)]), by_spacing=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_an_image_stored_in_any_of_the_eight_ways_hangs_like_the_upright_one(
    orientation: str, rows: int, columns: int, aspect: tuple[int, int], by_spacing: bool, seed: int
) -> None:
    """Through real bytes: Patient Orientation and Pixel Aspect Ratio or Imager Pixel Spacing in the header."""
    rng = np.random.default_rng(seed)
    upright = np.kron(rng.random((7, 6)), np.ones((rows // 7 + 1, columns // 6 + 1)))[:rows, :columns]

    def picture(name: str) -> npt.NDArray[np.float32]:
        ds = radiograph(np.ascontiguousarray(stored_as(upright, name)), Exposure(seed="hang", modality="CR"))
        ds.PatientOrientation = name.split("\\")
        tall, wide = aspect if name[0] in "LR" else aspect[::-1]
        if by_spacing:
            ds.ImagerPixelSpacing = [f"{tall / 10}", f"{wide / 10}"]
        else:
            del ds.ImagerPixelSpacing
            ds.PixelAspectRatio = [tall, wide]
        return network_input(take_in(written(ds), Policy()).image, 128)[0]

    assert np.abs(picture(orientation) - picture("L\\F")).max() < 0.02


@pytest.mark.parametrize("orientation", EIGHT)
def test_the_header_alone_turns_an_image_and_says_so(orientation: str) -> None:
    ds = radiograph(np.ascontiguousarray(stored_as(PHANTOM.pixels, orientation)), Exposure(seed="turn"))
    ds.PatientOrientation = orientation.split("\\")
    taken = take_in(written(ds), Policy())
    assert np.array_equal(taken.image.hanging.apply(taken.image.pixels).shape, PHANTOM.pixels.shape)
    assert np.abs(taken.image.hanging.apply(taken.image.pixels) - PHANTOM.pixels).max() < 0.02
    noted = [e.says for e in taken.selection.evidence if e.source == "PatientOrientation"]
    assert any("turned to hang" in says for says in noted) == (orientation != "L\\F")


# --- the patient's side -----------------------------------------------------------------------------------------------

UPRIGHT = chest(7, rows=420, columns=380)
KEYS = ("lung_right", "lung_left", "heart")


def seen_by_a_network(upright: npt.NDArray[Any], orientation: str, size: int) -> tuple[npt.NDArray[np.float32], Frame]:
    """What a perfect network would answer for a structure: its mask, in the network's picture of the stored image."""
    stored = np.ascontiguousarray(stored_as(upright.astype(np.float32), orientation))
    return network_input(RenderedImage(stored, hanging=hanging(orientation)), size)


@pytest.mark.parametrize("orientation", EIGHT)
def test_outlines_and_cardiothoracic_lines_stay_on_the_patient(orientation: str) -> None:
    answers = [seen_by_a_network(UPRIGHT.masks[key], orientation, 256) for key in KEYS]
    frame = answers[0][1]
    segments, (ratio,) = structures.interpret(np.stack([a for a, _ in answers]), frame, KEYS, View.PA, "m")
    for segment in segments:
        truth = stored_as(UPRIGHT.masks[segment.key], orientation)
        assert segment.mask.shape == truth.shape
        assert (segment.mask & truth).sum() / (segment.mask | truth).sum() > 0.95
    assert ratio.value == pytest.approx(UPRIGHT.cardiothoracic_ratio, abs=0.02)
    cardiac, thoracic = ratio.lines
    heart = stored_as(UPRIGHT.masks["heart"], orientation)
    lungs = [stored_as(UPRIGHT.masks[key], orientation) for key in KEYS[:2]]
    upright_lines = cardiac_and_thoracic(UPRIGHT.masks)
    along = 1 if orientation[0] in "FH" else 0  # the stored axis that runs across the patient
    for line, mask, wanted in ((cardiac, heart, upright_lines[0]), (thoracic, lungs[0] | lungs[1], upright_lines[1])):
        ends = ((line.x0, line.y0), (line.x1, line.y1))
        assert ends[0][1 - along] == pytest.approx(ends[1][1 - along])  # straight across the patient
        assert abs(ends[1][along] - ends[0][along]) == pytest.approx(wanted, abs=4)
        middle = [round((a + b) / 2) for a, b in zip(*ends, strict=True)]
        lowest, highest = sorted((ends[0][along], ends[1][along]))
        places = np.flatnonzero(mask.any(along))
        assert lowest >= places[0] - 3
        assert highest <= places[-1] + 4
        assert mask.any(1 - along)[middle[1 - along]]
    # the first end of the thoracic line lies on the right lung, in whichever direction the image is stored
    x, y = round(thoracic.x0), round(thoracic.y0)
    assert lungs[0][max(0, y - 3) : y + 4, max(0, x - 3) : x + 4].any()


def cardiac_and_thoracic(masks: dict[str, npt.NDArray[np.bool_]]) -> tuple[float, float]:
    """Widths of the lower half of the heart and of the widest row of the lungs, in pixels of the upright picture."""
    rows = np.flatnonzero(masks["heart"].any(1))
    heart = masks["heart"][(rows[0] + rows[-1] + 1) // 2 :]
    both = masks["lung_right"] | masks["lung_left"]
    widths = [np.ptp(np.flatnonzero(row)) + 1 for row in both if row.any()]
    return float(np.ptp(np.flatnonzero(heart.any(0))) + 1), float(max(widths))


@pytest.mark.parametrize("with_lungs", [True, False])
@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("orientation", EIGHT)
def test_a_finding_stays_on_the_patient_s_side(orientation: str, right: bool, with_lungs: bool) -> None:
    lung = UPRIGHT.masks["lung_right" if right else "lung_left"]
    row, column = (int(v) for v in ndimage.center_of_mass(lung))
    spot = np.zeros(lung.shape, np.bool_)
    spot[row - 25 : row + 25, column - 25 : column + 25] = True
    heat, frame = seen_by_a_network(spot, orientation, 320)
    coarse = np.asarray(heat.reshape(20, 16, 20, 16).mean((1, 3)))
    segments = tuple(
        SegmentMask(key, np.ascontiguousarray(stored_as(UPRIGHT.masks[key], orientation)), "m")
        for key in (KEYS[:2] if with_lungs else ())
    )
    contract = [FindingContract("lung_opacity", 0, evaluated=True, localises=True)]
    (finding,), _ = scores.interpret(
        np.array([4.0], np.float32), coarse[None], frame, contract=contract, segments=segments, model="m"
    )
    assert finding.laterality is (Laterality.RIGHT if right else Laterality.LEFT)
    (region,) = finding.regions
    x, y, w, h = extent(stored_as(spot, orientation))
    assert region.laterality is finding.laterality
    for found, wanted in (
        (region.x, x),
        (region.y, y),
        (region.x + region.width, x + w),
        (region.y + region.height, y + h),
    ):
        assert abs(found - wanted) < 25  # a cell of the map is 21 pixels wide


# --- whatever a header holds ------------------------------------------------------------------------------------------

LOOKED_AT = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality",
    "PresentationIntentType", "ImageType", "NumberOfFrames", "ViewCodeSequence", "ViewPosition", "PatientOrientation",
    "SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription", "StudyDescription",
    "BodyPartExamined", "PatientAge", "PatientBirthDate", "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime",
    "StudyDate", "DeviationIndex", "IrradiationEventUID", "InstanceNumber", "Rows", "Columns", "SamplesPerPixel",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation",
    "PresentationLUTShape", "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelSpacing", "ImagerPixelSpacing",
    "PixelAspectRatio", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter",
    "WindowWidth", "VOILUTFunction", "PixelData", "PatientName", "PatientID", "PatientSex", "LossyImageCompression",
)  # fmt: skip
SHORT_VRS = ("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM",
             "UI", "UL", "US")  # fmt: skip
LONG_VRS = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
RUBBISH_TEXT = st.one_of(
    st.sampled_from(["", " ", "\\", "\\\\\\", "0", "-1", "1E5000", "-1E400", "nan", "inf", "-inf", "9" * 400, "1e-320",
                     "PA", "L\\F", "A\\F", "\0", "²", "٣٤٥", "2026\\", "1\\2\\3", "INVERSE", "MONOCHROME1", "018Y",
                     "^^^", "=", "1.2.3", "CHEST", "LATERAL", "\x1b$B", "DERIVED\\PRIMARY", "0\\0", "-1\\-1"]),
    st.text(max_size=12),
)  # fmt: skip
RUBBISH_BYTES = st.one_of(RUBBISH_TEXT.map(lambda t: t.encode("utf-8", "surrogatepass")), st.binary(max_size=40))


@st.composite
def raw_elements(draw: st.DrawFn, depth: int = 0) -> bytes:
    """One element of Explicit VR Little Endian: right tag, any VR, any value."""
    tag = tag_for_keyword(draw(st.sampled_from(LOOKED_AT)))
    assert tag is not None
    vr = draw(st.sampled_from((*SHORT_VRS, *LONG_VRS, "SQ", "SQ")))
    if vr == "SQ":
        items = draw(st.lists(raw_elements(depth + 1), max_size=2)) if depth < 3 else []
        value = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<L", len(item)) + item for item in items)
    else:
        value = draw(RUBBISH_BYTES)
    value += b" " * (len(value) % 2)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    if vr in SHORT_VRS:
        return head + struct.pack("<H", len(value)) + value
    return head + b"\0\0" + struct.pack("<L", len(value)) + value


def with_elements(ds: Dataset, elements: list[bytes]) -> bytes:
    """The instance as bytes, the given elements in place of its own."""
    for element in elements:
        group, number = struct.unpack_from("<HH", element)
        if (group, number) in ds:
            del ds[group, number]
    content = written(ds)
    end_of_meta = 132 + 12 + struct.unpack_from("<L", content, 140)[0]
    return content[:end_of_meta] + b"".join(elements) + content[end_of_meta:]


@settings(QUICK, max_examples=600)
@given(elements=st.lists(raw_elements(), min_size=1, max_size=4), monochrome1=st.booleans())
def test_no_header_of_real_bytes_ends_without_a_coded_answer(elements: list[bytes], monochrome1: bool) -> None:
    ds = radiograph(PHANTOM.pixels, Exposure(seed="rubbish", monochrome1=monochrome1, modality="CR"))
    try:
        taken = take_in(with_elements(ds, elements), Policy())
    except NotTakenIn as refused:
        assert isinstance(refused.code, Refusal)
        assert str(refused)
        return
    assert isinstance(taken, Intake)
    assert np.isfinite(taken.image.pixels).all()
    assert taken.image.pixels.min() >= 0
    assert taken.image.pixels.max() <= 1
    assert taken.image.pixel_spacing is None or all(math.isfinite(v) and v > 0 for v in taken.image.pixel_spacing)


def nested(depth: int) -> Dataset:
    ds = Dataset()
    ds.CodeValue = "1"
    if depth:
        ds.ViewCodeSequence = [nested(depth - 1)]
    return ds


RUBBISH_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.just(10**400), st.floats(), RUBBISH_TEXT,
    st.binary(max_size=20), st.lists(st.one_of(st.none(), st.floats(), st.integers(), RUBBISH_TEXT), max_size=4),
    st.integers(0, 3).map(lambda depth: [nested(depth)]), st.just([]),
)  # fmt: skip


@settings(QUICK, max_examples=600)
@given(
    changes=st.dictionaries(
        st.sampled_from(LOOKED_AT), st.tuples(RUBBISH_VALUES, st.sampled_from((*SHORT_VRS, *LONG_VRS, "own", "own"))),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_no_header_in_memory_ends_without_a_coded_answer(changes: dict[str, tuple[Any, str]]) -> None:
    ds = radiograph(PHANTOM.pixels, Exposure(seed="memory", modality="CR"))
    for keyword, (value, vr) in changes.items():
        own = dictionary_VR(keyword).split(" or ")[0]
        try:
            ds[keyword] = DataElement(tag_for_keyword(keyword), own if vr == "own" else vr, value)
        except (ValueError, TypeError, OverflowError, AttributeError, ArithmeticError):
            assume(False)  # pydicom holds no such element
    try:
        selection = select(ds, Policy())
        assert isinstance(selection, Selection)
    except ImageRefused as refused:
        assert isinstance(refused.code, Refusal)
        selection = Selection(None, Hanging(), ())
    try:
        image = render(ds, selection.hanging)
    except ImageRefused as refused:
        assert isinstance(refused.code, Refusal)
        return
    assert np.isfinite(image.pixels).all()
    assert np.isfinite(exposure_key(ds, image).details).all()


@settings(QUICK, max_examples=200)
@given(content=st.one_of(st.binary(max_size=400), st.binary(max_size=300).map(lambda b: bytes(128) + b"DICM" + b)))
def test_no_bytes_end_without_a_coded_answer(content: bytes) -> None:
    with pytest.raises(NotTakenIn) as refused:
        take_in(content, Policy())
    assert refused.value.code is Refusal.UNREADABLE_HEADER


@pytest.mark.parametrize("depth", [20, 30, 100, 400])
def test_deep_nesting_is_read_or_refused(depth: int) -> None:
    inner = b""
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(inner)) + inner
        inner = struct.pack("<HH", 0x0054, 0x0220) + b"SQ\0\0" + struct.pack("<L", len(item)) + item
    ds = radiograph(PHANTOM.pixels, Exposure(seed="deep", modality="CR"))
    content = with_elements(ds, [inner])
    if depth <= 20:
        assert isinstance(take_in(content, Policy()), Intake)
        return
    with pytest.raises(NotTakenIn) as refused:
        take_in(content, Policy())
    assert refused.value.code is Refusal.UNREADABLE_HEADER

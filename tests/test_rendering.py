"""The grayscale pipeline on real DICOM bytes, and the way back from a network's picture to stored pixels."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite

from models.phantom import chest
from models.refusal import ImageRefused, Refusal
from models.rendering import Frame, RenderedImage, network_input, render, render_picture
from orthanc_plugin.commands.modality import Exposure, radiograph

PHANTOM = chest(1, rows=240, columns=200)


def dicom(**how: object) -> Dataset:
    return radiograph(PHANTOM.pixels, Exposure(seed="render", **how))  # type: ignore[arg-type]


def _two_grays(ds: Dataset) -> bytes:
    return np.where(np.frombuffer(ds.PixelData, "<u2") > 2000, 4000, 100).astype("<u2").tobytes()


def read_back(ds: Dataset) -> Dataset:
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return dcmread(BytesIO(buffer.getvalue()))


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("monochrome1", [False, True])
@pytest.mark.parametrize("modality", ["CR", "DX"])
def test_dense_is_bright_whatever_the_storage(bits: int, monochrome1: bool, modality: str) -> None:
    image = render(read_back(dicom(bits_stored=bits, monochrome1=monochrome1, modality=modality)))
    assert image.pixels.dtype == np.float32
    assert np.abs(image.pixels - PHANTOM.pixels).max() < 0.02


def test_signed_pixels_with_a_rescale_are_read_with_their_sign() -> None:
    ds = dicom(bits_stored=12)
    stored = np.frombuffer(ds.PixelData, "<u2").astype(np.int32) - 2048
    ds.PixelData, ds.PixelRepresentation = stored.astype("<i2").tobytes(), 1
    ds.RescaleIntercept = "2048"
    assert np.abs(render(read_back(ds)).pixels - PHANTOM.pixels).max() < 0.02


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_every_window_function_keeps_the_order_of_gray_values(function: str) -> None:
    ds = dicom(bits_stored=12)
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = "2000", "3000", function
    image = render(read_back(ds)).pixels
    order = np.argsort(PHANTOM.pixels.ravel())
    assert np.diff(image.ravel()[order]).min() > -0.002


def test_padding_neither_sets_the_contrast_nor_shows() -> None:
    ds = dicom(bits_stored=12)
    stored = np.frombuffer(ds.PixelData, "<u2").reshape(240, 200).copy() // 2
    plain = dicom(bits_stored=12)
    plain.PixelData = stored.tobytes()
    del plain.WindowCenter, plain.WindowWidth
    padded = stored.copy()
    padded[:, :40] = 4095
    ds.PixelData = padded.tobytes()
    ds.PixelPaddingValue = 4095
    del ds.WindowCenter, ds.WindowWidth
    with_padding, without = render(read_back(ds)), render(read_back(plain))
    assert with_padding.valid is not None
    assert not with_padding.valid[:, :40].any()
    assert np.all(with_padding.pixels[:, :40] == 0)
    assert np.abs(with_padding.pixels[:, 40:] - without.pixels[:, 40:]).max() < 0.05


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda ds: (setattr(ds, "Rows", 20), setattr(ds, "PixelData", ds.PixelData[: 20 * 200 * 2])), Refusal.QUALITY),
        (lambda ds: setattr(ds, "PixelData", _two_grays(ds)), Refusal.QUALITY),
        (lambda ds: setattr(ds, "PixelAspectRatio", ["100", "1"]), Refusal.UNREADABLE_HEADER),
        (lambda ds: ds.__delattr__("PixelData"), Refusal.UNREADABLE_PIXELS),
        (lambda ds: setattr(ds, "PixelData", ds.PixelData[:100]), Refusal.UNREADABLE_PIXELS),
        (lambda ds: setattr(ds, "PixelData", bytes(len(ds.PixelData))), Refusal.UNREADABLE_PIXELS),
        (lambda ds: (setattr(ds, "Rows", 40000), setattr(ds, "Columns", 40000)), Refusal.UNREADABLE_PIXELS),
        (lambda ds: setattr(ds, "SamplesPerPixel", 3), Refusal.UNREADABLE_PIXELS),
        (lambda ds: setattr(ds, "WindowWidth", "0"), Refusal.UNREADABLE_HEADER),
    ],
    ids=[
        "20 rows",
        "two grays",
        "pixels a hundred times as high as wide",
        "no pixels",
        "too short",
        "one value",
        "40000 x 40000",
        "colour",
        "no window width",
    ],
)
def test_what_cannot_be_rendered_is_refused_with_a_code(change: object, code: Refusal) -> None:
    ds = dicom()
    change(ds)  # type: ignore[operator]
    with pytest.raises(ImageRefused) as refused:
        render(ds)
    assert refused.value.code is code


def test_a_picture_file_is_rendered_like_the_same_picture_in_dicom(tmp_path: Path) -> None:
    bytes_ = np.round(PHANTOM.pixels * 255).astype(np.uint8)
    Image.fromarray(bytes_).save(tmp_path / "a.png")
    from_dicom = network_input(render(read_back(radiograph(bytes_, Exposure(bits_stored=8, seed="x")))), 96)[0]
    from_file = network_input(render_picture(tmp_path / "a.png"), 96)[0]
    assert np.abs(from_dicom - from_file).max() < 0.01


def test_a_text_file_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(ImageRefused):
        render_picture(tmp_path / "a.png")


def test_a_pixel_higher_than_wide_makes_a_higher_picture() -> None:
    ds = dicom()
    ds.PixelAspectRatio = ["2", "1"]
    image = render(read_back(ds))
    assert image.aspect == 2.0
    _, frame = network_input(image, 96)
    assert (frame.height, frame.width) == (96, round(96 * 200 / 480))
    spaced = dicom()
    spaced.ImagerPixelSpacing = ["0.1", "0.2"]
    assert render(read_back(spaced)).aspect == 0.5


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(20, 900), columns=st.integers(20, 900), size=st.sampled_from([96, 256]))
def test_boxes_and_masks_come_back_to_where_they_were(rows: int, columns: int, size: int) -> None:
    pixels = np.zeros((rows, columns), np.float32)
    top, left, tall, wide = rows // 4, columns // 5, max(4, rows // 3), max(4, columns // 3)
    assume(min(tall, wide) >= 3 * max(rows, columns) / size)  # what is finer than the network's pixels is lost
    pixels[top : top + tall, left : left + wide] = 1.0
    square, frame = network_input(RenderedImage(pixels), size)
    assert square.shape == (size, size)
    cell = max(rows, columns) / size
    back = frame.mask_to_stored(square)
    assert back.shape == (rows, columns)
    found_rows, found_columns = np.flatnonzero(back.any(1)), np.flatnonzero(back.any(0))
    for found, wanted in ((found_rows[0], top), (found_rows[-1] + 1, top + tall),
                          (found_columns[0], left), (found_columns[-1] + 1, left + wide)):  # fmt: skip
        assert abs(found - wanted) <= 1.5 * cell + 1
    whole = frame.box_to_stored(0, 0, size, size)
    assert whole == pytest.approx((0, 0, columns, rows))


def test_a_box_beside_the_image_is_clipped_to_it() -> None:
    frame = Frame(rows=100, columns=50, size=100, top=0, left=25, height=100, width=50)
    assert frame.box_to_stored(0, 10, 60, 20) == pytest.approx((0, 10, 35, 20))


def test_the_network_s_picture_of_a_known_image_does_not_change() -> None:
    """Training and serving share this function; a change of its output asks for new weights."""
    y, x = np.mgrid[:300, :200].astype(np.float32)
    square, _ = network_input(RenderedImage(((x / 200) ** 2 * (1 - y / 300)).astype(np.float32)), 64)
    digest = hashlib.sha256(np.round(square * 50).astype(np.uint8).tobytes()).hexdigest()
    assert digest[:16] == GOLDEN


GOLDEN = "a01149b9f7b60f0d"

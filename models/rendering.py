"""From stored pixels to the one picture that every network sees: used alike in training and in serving.

The rule: each step of the grayscale pipeline (PS3.3 C.7.6.3, C.11.1, C.11.2, PS3.4 N.2) is applied exactly once, and
coordinates found in a network's picture always lead back to the stored pixel matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from models.findings import BoolMask
from models.selection import ImageRefused, Refusal, integer

FloatImage = npt.NDArray[np.float32]

# A radiograph of 43 x 43 cm at 0.1 mm is 18 Mpixel; beyond this a header is a mistake or an attack.
MAX_PIXELS = 64_000_000
# Contrast is stretched between these percentiles: collimator edges and burnt-in markers lie outside them.
LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5
# Percentiles are taken from at most this many pixels, on a regular grid.
_PERCENTILE_SAMPLES = 250_000


@dataclass(frozen=True, eq=False)
class RenderedImage:
    """A radiograph ready for the networks.

    Parameters
    ----------
    pixels
        Shape (rows, columns) of the stored image, 0 to 1, dense structures bright (MONOCHROME2 sense).
    pixel_spacing
        Row and column spacing in mm at the detector or as calibrated; None when the header does not tell.
    valid
        False where the pixel is padding; None when there is none.
    """

    pixels: FloatImage
    pixel_spacing: tuple[float, float] | None = None
    valid: BoolMask | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.pixels.shape
        return rows, columns


@dataclass(frozen=True)
class Frame:
    """How a network's square picture lies over the stored image.

    The stored image is scaled to ``height`` x ``width`` and placed at (`top`, `left`) in a square of `size`.
    """

    rows: int
    columns: int
    size: int
    top: int
    left: int
    height: int
    width: int

    def mask_to_stored(self, scores: FloatImage, threshold: float = 0.5) -> BoolMask:
        """Bring scores of shape (size, size) back to (rows, columns), bilinearly, and cut them at `threshold`."""
        inner = np.ascontiguousarray(scores[self.top : self.top + self.height, self.left : self.left + self.width])
        return resize(inner, self.rows, self.columns) >= threshold

    def box_to_stored(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Bring a box in network pixels back to stored pixels, clipped to the image."""
        x0, x1 = (((v - self.left) * self.columns / self.width) for v in (x, x + width))
        y0, y1 = (((v - self.top) * self.rows / self.height) for v in (y, y + height))
        x0, x1 = max(x0, 0.0), min(x1, float(self.columns))
        y0, y1 = max(y0, 0.0), min(y1, float(self.rows))
        return x0, y0, max(x1 - x0, 0.0), max(y1 - y0, 0.0)


def render(ds: Dataset) -> RenderedImage:
    """Decode and render one radiograph.

    Parameters
    ----------
    ds
        A single-frame grayscale image with its file meta information.

    Raises
    ------
    ImageRefused
        ``unreadable_pixels`` when the pixels are absent, incomplete, too large or cannot be decoded.
    """
    rows, columns = integer(ds, "Rows", 0), integer(ds, "Columns", 0)
    if "PixelData" not in ds or rows < 1 or columns < 1:
        raise ImageRefused(Refusal.UNREADABLE_PIXELS, "the instance carries no pixel data")
    if rows * columns > MAX_PIXELS:
        raise ImageRefused(Refusal.UNREADABLE_PIXELS, f"{rows} x {columns} pixels exceed the limit of {MAX_PIXELS}")
    if integer(ds, "SamplesPerPixel", 1) != 1:
        raise ImageRefused(Refusal.UNREADABLE_PIXELS, "the image is in colour")
    stored = _decode(ds)
    padding = _padding_mask(ds, stored)
    try:
        values = apply_voi_lut(apply_modality_lut(stored, ds), ds, index=0)
    except (ValueError, TypeError, AttributeError, IndexError, KeyError, NotImplementedError) as error:
        message = f"the look-up table or window of the header is invalid: {type(error).__name__}"
        raise ImageRefused(Refusal.UNREADABLE_HEADER, message) from error
    low, high = _extent(values, padding)
    pixels = np.clip((values.astype(np.float32) - low) / (high - low), 0.0, 1.0)
    if _is_inverse(ds):
        np.subtract(1.0, pixels, out=pixels)
    valid = None if padding is None else ~padding
    if padding is not None:
        pixels[padding] = 0.0
    return RenderedImage(np.ascontiguousarray(pixels), _pixel_spacing(ds), valid)


def render_picture(path: Path) -> RenderedImage:
    """Read a PNG or JPEG radiograph; colour is averaged, bright is taken to be dense.

    Raises
    ------
    ImageRefused
        ``unreadable_pixels`` when the file is no picture.
    """
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ImageRefused(Refusal.UNREADABLE_PIXELS, f"more than {MAX_PIXELS} pixels")
            if picture.mode.startswith("I"):  # 16-bit and 32-bit grayscale
                values = np.asarray(picture, dtype=np.float32)
            else:
                values = np.asarray(picture.convert("L"), dtype=np.float32)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageRefused(Refusal.UNREADABLE_PIXELS, f"not a readable picture: {type(error).__name__}") from error
    low, high = _extent(values, None)
    return RenderedImage(np.clip((values - low) / (high - low), 0.0, 1.0))


def network_input(image: RenderedImage, size: int) -> tuple[FloatImage, Frame]:
    """Scale a radiograph into a square with its contrast stretched.

    Returns
    -------
    array
        Shape (size, size), 0 to 1; black where the image does not reach.
    frame
        The way back to stored pixels.
    """
    rows, columns = image.shape
    scale = size / max(rows, columns)
    height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
    top, left = (size - height) // 2, (size - width) // 2
    frame = Frame(rows, columns, size, top, left, height, width)
    low, high = _percentiles(image)
    small = np.clip((resize(image.pixels, height, width) - low) / (high - low), 0.0, 1.0)
    square = np.zeros((size, size), np.float32)
    square[top : top + height, left : left + width] = small
    return square, frame


def resize(array: FloatImage, rows: int, columns: int) -> FloatImage:
    """Resample to (rows, columns): area-weighted triangle filter when shrinking, bilinear when growing."""
    if array.shape == (rows, columns):
        return array
    picture = Image.fromarray(np.ascontiguousarray(array, dtype=np.float32))
    # `reducing_gap` shrinks large radiographs by whole factors first: four times faster, equal to within 0.5 %.
    return np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR, reducing_gap=3.0), dtype=np.float32)


def _decode(ds: Dataset) -> npt.NDArray[Any]:
    """Stored values of the only frame, shape (rows, columns), with the sign that the header gives."""
    syntax = ds.file_meta.TransferSyntaxUID
    frames = integer(ds, "NumberOfFrames", 1)
    if frames != 1:
        raise ImageRefused(Refusal.MULTI_FRAME, f"{frames} frames")
    try:
        array, _ = get_decoder(syntax).as_array(ds, index=0, raw=True)
    except (ValueError, RuntimeError, AttributeError, NotImplementedError, TypeError, IndexError, KeyError) as error:
        message = f"the pixels cannot be decoded ({getattr(syntax, 'name', syntax)}): {type(error).__name__}"
        raise ImageRefused(Refusal.UNREADABLE_PIXELS, message) from error
    if array.ndim != 2:
        raise ImageRefused(Refusal.UNREADABLE_PIXELS, f"decoded to {array.ndim} dimensions")
    return array


def _padding_mask(ds: Dataset, stored: npt.NDArray[Any]) -> BoolMask | None:
    """True where Pixel Padding Value or its range says that there is no image (PS3.3 C.7.5.1.1.2)."""
    if ds.get("PixelPaddingValue") is None:
        return None
    value = integer(ds, "PixelPaddingValue", 0)
    low, high = sorted((value, integer(ds, "PixelPaddingRangeLimit", value)))
    mask = (stored >= low) & (stored <= high)
    return mask if mask.any() and not mask.all() else None


def _is_inverse(ds: Dataset) -> bool:
    """Whether the lowest value is meant to be shown white (PS3.3 C.7.6.3.1.2, C.11.6.1.2)."""
    inverse_shape = str(ds.get("PresentationLUTShape", "")) == "INVERSE"
    return inverse_shape or str(ds.get("PhotometricInterpretation", "")) == "MONOCHROME1"


def _pixel_spacing(ds: Dataset) -> tuple[float, float] | None:
    spacing = ds.get("PixelSpacing") or ds.get("ImagerPixelSpacing")
    if not isinstance(spacing, MultiValue) or len(spacing) != 2:
        return None
    try:
        row, column = float(spacing[0]), float(spacing[1])
    except (ValueError, TypeError):
        return None  # the picture can be read without it; the result then carries no millimetres
    return (row, column) if min(row, column) > 0 else None


def _extent(values: npt.NDArray[Any], padding: BoolMask | None) -> tuple[float, float]:
    inside = values if padding is None else values[~padding]
    low, high = float(inside.min()), float(inside.max())
    if not high > low:
        raise ImageRefused(Refusal.UNREADABLE_PIXELS, "every pixel has the same value")
    return low, high


def _percentiles(image: RenderedImage) -> tuple[float, float]:
    step = max(1, int((image.pixels.size / _PERCENTILE_SAMPLES) ** 0.5))
    sample = image.pixels[::step, ::step]
    if image.valid is not None:
        inside = sample[image.valid[::step, ::step]]
        sample = inside if inside.size else sample
    low, high = (float(v) for v in np.percentile(sample, (LOW_PERCENTILE, HIGH_PERCENTILE)))
    return (low, high) if high > low else (0.0, 1.0)

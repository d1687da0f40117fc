"""From stored pixels to the one picture that every network sees: used alike in training and in serving.

The rule: each step of the grayscale pipeline (PS3.3 C.7.6.3, C.11.1, C.11.2, PS3.4 N.2) is applied exactly once, and
coordinates found in a network's picture always lead back to the stored pixel matrix.

The pipeline is worked out once for each stored value that can occur, not for each pixel: a radiograph of 7.5 million
pixels has at most 65,536 of them.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset
from pydicom.multival import MultiValue

from models.decoding import decode
from models.findings import BoolMask
from models.grayscale import display_values, is_inverse
from models.hanging import AS_STORED, Hanging
from models.lookup import looked_up, occurring
from models.refusal import ImageRefused, Refusal, integer
from models.resampling import FloatImage, enlarged_mask, resize, shrunk

# A radiograph of 43 x 43 cm at 0.1 mm is 18 Mpixel; beyond this a header is a mistake or an attack.
MAX_PIXELS = 64_000_000
# Below this, in pixels of the shorter side, no lung is told from the next.
MIN_SIDE = 96
# Fewer gray levels than this are a drawing or a threshold, not a radiograph.
MIN_GRAY_LEVELS = 16
# Proportions of a pixel beyond this are a mistake of the header.
_MAX_ASPECT = 4.0
# JPEG 2000 is decoded in half the time by two threads on an idle machine, and no slower on a busy one.
DECODING_THREADS = min(4, os.cpu_count() or 1)
# Contrast is stretched between these percentiles: collimator edges and burnt-in markers lie outside them.
LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5
# Percentiles are taken from at most this many pixels, on a regular grid.
_PERCENTILE_SAMPLES = 250_000
# The longer side, in pixels, below which no picture is shrunk before anything is made of it: the largest that people
# see of it has 1280, and no network's has more.
_KEPT = 1280


@dataclass(frozen=True, eq=False)
class RenderedImage:
    """A radiograph ready for the networks.

    Parameters
    ----------
    pixels
        Shape (h, w), 0 to 1, dense structures bright (MONOCHROME2 sense): each the mean of `factor` x `factor` stored
        pixels, of those that there are at the lower and right edge.
    pixel_spacing
        Row and column spacing in mm, of stored pixels, at the detector or as calibrated; None when the header does not
        tell.
    valid
        Shape (h, w), False where one of the stored pixels is padding; None when there is none.
    hanging
        How the stored image is to be turned for reading.
    aspect
        Height of a stored pixel over its width.
    factor
        By which the stored image was shrunk once for all that is made of it (`factor_of`).
    stored
        Rows and columns as stored; None where these are those of `pixels`.
    """

    pixels: FloatImage
    pixel_spacing: tuple[float, float] | None = None
    valid: BoolMask | None = None
    hanging: Hanging = AS_STORED
    aspect: float = 1.0
    factor: int = 1
    stored: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns as stored."""
        rows, columns = self.pixels.shape
        return self.stored or (rows, columns)

    @cached_property
    def contrast(self) -> tuple[float, float]:
        """The gray values that become 0 and 1 for the networks."""
        return _percentiles(self)

    def scaled(self, rows: int, columns: int) -> FloatImage:
        """The whole image, as it is stored, in so many rows and columns."""
        down, across = (side / self.factor for side in self.shape)
        return resize(self.pixels, rows, columns, box=(0.0, 0.0, across, down))

    def preview(self, longest: int, *, margin: float = 0.0) -> FloatImage:
        """The image as it is stored, small and for people's eyes.

        Parameters
        ----------
        longest
            The long side, in pixels; an image that is smaller stays as it is.
        margin
            What is kept of the grays on either side of those that the networks see, as a share of their range.

        Returns
        -------
        array
            float32 of shape (h, w), 0 to 1, in the true proportions of the image; contrast as the networks see it.
        """
        rows, columns = self.shape
        down, across = rows * self.aspect, float(columns)
        scale = min(1.0, longest / max(down, across))
        low, high = self.contrast
        low, high = low - margin * (high - low), high + margin * (high - low)
        small = self.scaled(max(1, round(down * scale)), max(1, round(across * scale)))
        stretched: FloatImage = np.clip((small - low) / (high - low), 0.0, 1.0)
        return stretched


@dataclass(frozen=True)
class Frame:
    """How a network's square picture lies over the stored image.

    The stored image is turned to hang, scaled to `height` x `width` and put at (`top`, `left`) in a square of `size`.
    """

    rows: int
    columns: int
    size: int
    top: int
    left: int
    height: int
    width: int
    hanging: Hanging = AS_STORED

    def mask_to_stored(self, scores: FloatImage, threshold: float = 0.5) -> BoolMask:
        """Bring scores of shape (size, size) back to (rows, columns), bilinearly, and cut them at `threshold`."""
        inner = scores[self.top : self.top + self.height, self.left : self.left + self.width]
        hung = enlarged_mask(inner, *self.hanging.size(self.rows, self.columns), threshold)
        return np.ascontiguousarray(self.hanging.undo(hung))

    def map_to_stored(self, values: FloatImage, longest: int) -> FloatImage:
        """Bring a map of any resolution that covers the network's picture evenly to one that covers the stored image.

        Parameters
        ----------
        values
            Shape (n, n).
        longest
            The long side of what is returned, in cells; no more than the image has pixels.

        Returns
        -------
        array
            float32 of shape (h, w), in the proportions of the pixel matrix.
        """
        cell, scale = values.shape[0] / self.size, min(1.0, longest / max(self.rows, self.columns))
        tall, wide = self.hanging.size(max(1, round(self.rows * scale)), max(1, round(self.columns * scale)))
        # the part that shows the image, whose edges may cut through cells
        box = (self.left, self.top, self.left + self.width, self.top + self.height)
        picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
        inner = picture.resize((wide, tall), Image.Resampling.BILINEAR, box=tuple(cell * edge for edge in box))
        return np.array(self.hanging.undo(np.asarray(inner, dtype=np.float32)), order="C")

    def point_to_stored(self, x: float, y: float) -> tuple[float, float]:
        """Bring a point in network pixels back to stored pixels, clipped to the image."""
        hung_rows, hung_columns = self.hanging.size(self.rows, self.columns)
        across = min(max((x - self.left) * hung_columns / self.width, 0.0), float(hung_columns))
        down = min(max((y - self.top) * hung_rows / self.height, 0.0), float(hung_rows))
        return self.hanging.point_to_stored(across, down, self.rows, self.columns)

    def box_to_stored(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Bring a box in network pixels back to stored pixels, clipped to the image."""
        (x0, y0), (x1, y1) = self.point_to_stored(x, y), self.point_to_stored(x + width, y + height)
        return min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0)


def render(ds: Dataset, hanging: Hanging = AS_STORED) -> RenderedImage:
    """Decode and render one radiograph.

    Parameters
    ----------
    ds
        A single-frame grayscale image with its file meta information.
    hanging
        Kept beside the pixels, which stay as stored.

    Raises
    ------
    ImageRefused
        ``unreadable_pixels`` when the pixels are absent, incomplete, too large or cannot be decoded; ``quality`` when
        they are too few or have too few gray levels; ``unreadable_header`` when a look-up table or window is invalid.
    """
    _check_size(ds)
    stored = decode(ds, threads=DECODING_THREADS)
    first, last = min(0, int(stored.min())), int(stored.max())
    occurs = occurring(stored, first, last)
    padding = _padding(ds, first, last) & occurs
    if padding.all() or (occurs & ~padding).sum() < 2:
        raise ImageRefused(Refusal.UNREADABLE_PIXELS, "every pixel has the same value")
    if (levels := int((occurs & ~padding).sum())) < MIN_GRAY_LEVELS:
        raise ImageRefused(Refusal.QUALITY, f"{levels} gray levels are too few for a radiograph")
    table = _gray_table(ds, np.arange(first, last + 1).astype(stored.dtype), occurs & ~padding)
    table[padding] = 0.0
    factor = factor_of(stored.shape)
    pixels = looked_up(table, stored, first, factor)
    valid = None
    if padding.any():  # all the stored pixels, or the mean is less
        valid = looked_up((~padding).astype(np.float32), stored, first, factor) > 1 - 0.5 / factor**2
    rows, columns = stored.shape
    spacing = _pixel_spacing(ds)
    return RenderedImage(pixels, spacing, valid, hanging, _aspect(ds, spacing), factor, (rows, columns))


def factor_of(shape: tuple[int, ...]) -> int:
    """By which an image of these rows and columns is shrunk, so that no more is kept of it than anybody needs."""
    return max(1, max(shape) // _KEPT)


def render_picture(path: Path) -> RenderedImage:
    """Read a PNG or JPEG radiograph; colour is averaged, bright is taken to be dense.

    Raises
    ------
    ImageRefused
        ``unreadable_pixels`` when the file is no picture; ``quality`` when it is too small.
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
    if min(values.shape) < MIN_SIDE:
        raise ImageRefused(Refusal.QUALITY, f"{values.shape[0]} x {values.shape[1]} pixels are too few")
    low, high = _extent(values)
    factor = factor_of(values.shape)
    pixels = shrunk(np.clip((values - low) / (high - low), 0.0, 1.0), factor)
    return RenderedImage(pixels, factor=factor, stored=(values.shape[0], values.shape[1]))


def network_input(image: RenderedImage, size: int, *, stretch: bool = False) -> tuple[FloatImage, Frame]:
    """Hang a radiograph, scale it into a square with its true proportions, and stretch its contrast.

    Parameters
    ----------
    size
        Side of the square, in pixels.
    stretch
        Fill the square, whatever the proportions; else they are kept and what is left of the square is black.

    Returns
    -------
    array
        Shape (size, size), 0 to 1; black where the image does not reach.
    frame
        The way back to stored pixels.
    """
    rows, columns = image.shape
    down, across = rows * image.aspect, float(columns)
    tall, wide = (across, down) if image.hanging.transpose else (down, across)
    scale = size / max(tall, wide)
    height, width = (size, size) if stretch else (max(1, round(tall * scale)), max(1, round(wide * scale)))
    top, left = (size - height) // 2, (size - width) // 2
    frame = Frame(rows, columns, size, top, left, height, width, image.hanging)
    low, high = image.contrast
    # turned after it has become small
    inner = image.hanging.apply(image.scaled(*image.hanging.size(height, width)))
    small = np.clip((inner - low) / (high - low), 0.0, 1.0)
    square = np.zeros((size, size), np.float32)
    square[top : top + height, left : left + width] = small
    return square, frame


def on_grid(value: float) -> float:
    """To the nearest 1/16 of a pixel: such a number keeps its value in single precision (PS3.3 C.18.6)."""
    return round(value * 16) / 16


def _check_size(ds: Dataset) -> None:
    """Refuse by the header alone what must not be decoded."""
    rows, columns = integer(ds, "Rows", 0), integer(ds, "Columns", 0)
    if "PixelData" not in ds or rows < 1 or columns < 1:
        raise ImageRefused(Refusal.UNREADABLE_PIXELS, "the instance carries no pixel data")
    if rows * columns > MAX_PIXELS:
        raise ImageRefused(Refusal.UNREADABLE_PIXELS, f"{rows} x {columns} pixels exceed the limit of {MAX_PIXELS}")
    if min(rows, columns) < MIN_SIDE:
        raise ImageRefused(Refusal.QUALITY, f"{rows} x {columns} pixels are too few")
    if integer(ds, "SamplesPerPixel", 1) != 1:
        raise ImageRefused(Refusal.UNREADABLE_PIXELS, "the image is in colour")


def _gray_table(ds: Dataset, values: npt.NDArray[Any], occurs: BoolMask) -> FloatImage:
    """What each stored value looks like, 0 to 1, dense structures bright.

    Parameters
    ----------
    values
        Shape (n,): every stored value from the least to the greatest.
    occurs
        Shape (n,): those that occur outside the padding; the least and the greatest of them become 0 and 1.
    """
    inverse, shown = is_inverse(ds), display_values(ds, values)
    low, high = _extent(shown[occurs])
    with np.errstate(all="ignore"):
        table = np.clip((shown - low) / (high - low), 0.0, 1.0).astype(np.float32)
    if (levels := np.unique(table[occurs]).size) < MIN_GRAY_LEVELS:
        message = f"the header's look-up table or window leaves {levels} gray levels, too few for a radiograph"
        raise ImageRefused(Refusal.QUALITY, message)
    return 1.0 - table if inverse else table


def _padding(ds: Dataset, first: int, last: int) -> BoolMask:
    """Which of the stored values from `first` to `last` stand for no image (PS3.3 C.7.5.1.1.2)."""
    values = np.arange(first, last + 1)
    if ds.get("PixelPaddingValue") is None:
        return np.zeros(values.shape, np.bool_)
    value = integer(ds, "PixelPaddingValue", 0)
    low, high = sorted((value, integer(ds, "PixelPaddingRangeLimit", value)))
    padded: BoolMask = (values >= low) & (values <= high)
    return padded if not padded.all() else np.zeros(values.shape, np.bool_)


def _pixel_spacing(ds: Dataset) -> tuple[float, float] | None:
    spacing = ds.get("PixelSpacing") or ds.get("ImagerPixelSpacing")
    if not isinstance(spacing, MultiValue) or len(spacing) != 2:
        return None
    try:
        row, column = float(spacing[0]), float(spacing[1])
    except (ValueError, TypeError, OverflowError):
        return None  # the picture can be read without it; the result then carries no millimetres
    return (row, column) if 0 < row < math.inf and 0 < column < math.inf else None


def _aspect(ds: Dataset, spacing: tuple[float, float] | None) -> float:
    """Height of a pixel over its width: Pixel Aspect Ratio (PS3.3 C.7.6.3.1.7), or the pixel spacing."""
    ratio = ds.get("PixelAspectRatio")
    pair: tuple[float, float] | None = spacing
    if isinstance(ratio, MultiValue) and len(ratio) == 2:
        try:
            pair = (float(ratio[0]), float(ratio[1]))
        except (ValueError, TypeError, OverflowError):
            pair = spacing
    if pair is None or not min(pair) > 0:
        return 1.0
    aspect = pair[0] / pair[1]
    if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
        raise ImageRefused(Refusal.UNREADABLE_HEADER, "the proportions of a pixel cannot be true")
    return aspect


def _extent(values: npt.NDArray[Any]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
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

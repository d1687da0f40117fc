"""How a picture is made ready for a network that was trained elsewhere, with other pictures than ours.

The rule: a published network sees what its authors showed it, step by step, or its published figures mean nothing. Our
own networks see ``models.rendering.network_input``.

What cannot be the same is what comes before: authors scale stored values by their possible range, or read 8-bit
pictures; we start from a `RenderedImage`, whose darkest pixel is 0 and whose brightest is 1. For a picture that uses
its whole range both are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from models.rendering import RenderedImage

FloatArray = npt.NDArray[np.float32]
# How the authors' libraries resample: scikit-image's `resize`, Pillow's bilinear and bicubic.
RESAMPLINGS = ("smoothed", "bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a picture, in this order: crop to the square in its middle, resample, crop, standardise.

    Parameters
    ----------
    size
        Side of what the network sees, in pixels.
    resized
        Side of the square to which the picture is resampled, in pixels; `size` is cut out of its middle.
    resampling
        One of `RESAMPLINGS`.
    mean, deviation
        For each channel, of gray values from 0 to 1: the network sees (value - mean) / deviation. A gray picture is
        repeated for as many channels as these have.
    ten_crops
        Not the middle alone but also the four corners, and all five mirrored (Krizhevsky et al., 2012): the published
        score is the mean of the ten.
    """

    size: int
    resized: int
    resampling: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    ten_crops: bool = False

    def __post_init__(self) -> None:
        if self.resampling not in RESAMPLINGS:
            raise ValueError(f"resampling {self.resampling!r} is none of {', '.join(RESAMPLINGS)}")
        if self.resized < self.size or len(self.mean) != len(self.deviation):
            raise ValueError(f"{self} cannot be done")

    @property
    def channels(self) -> int:
        """Of what the network sees."""
        return len(self.mean)

    def apply(self, image: RenderedImage) -> FloatArray:
        """What the network sees of an image.

        Returns
        -------
        array
            float32 of shape (n, channels, size, size); n is 10 with `ten_crops`, else 1.
        """
        square = _middle_square(image)
        if self.resampling == "smoothed":  # standardised first: what lies beyond the edge counts as the mean
            channels = [_smoothed((square - m) / d, self.resized) for m, d in self._levels()]
        else:
            gray = _pillow(square, self.resized, self.resampling)
            channels = [(gray - m) / d for m, d in self._levels()]
        return np.ascontiguousarray(self._crops(np.stack(channels)), dtype=np.float32)

    def _levels(self) -> list[tuple[np.float32, np.float32]]:
        return [(np.float32(m), np.float32(d)) for m, d in zip(self.mean, self.deviation, strict=True)]

    def _crops(self, picture: FloatArray) -> FloatArray:
        rest = self.resized - self.size
        if not self.ten_crops:
            corners = [(round(rest / 2.0), round(rest / 2.0))]  # as torchvision's CenterCrop rounds
            pictures = [picture]
        else:
            corners = [(0, 0), (0, rest), (rest, 0), (rest, rest), (round(rest / 2.0), round(rest / 2.0))]
            pictures = [picture, picture[..., ::-1]]
        return np.stack([p[:, y : y + self.size, x : x + self.size] for p in pictures for y, x in corners])


def _middle_square(image: RenderedImage) -> FloatArray:
    """The largest square in the middle of the hung image; rectangular in stored pixels where those are not square."""
    hung = image.hanging.apply(image.pixels)
    aspect = 1.0 / image.aspect if image.hanging.transpose else image.aspect
    rows, columns = hung.shape
    side = min(rows * aspect, float(columns))
    tall, wide = min(rows, round(side / aspect)), min(columns, round(side))
    top, left = rows // 2 - tall // 2, columns // 2 - wide // 2
    return hung[top : top + tall, left : left + wide]


def _smoothed(array: FloatArray, side: int) -> FloatArray:
    """As scikit-image resamples: Gaussian of half the excess of the factor, then linear; 0 beyond the edges."""
    factors = np.array(array.shape) / side
    if (factors > 1).any():
        array = ndimage.gaussian_filter(array, np.maximum(0.0, (factors - 1) / 2), mode="grid-constant")
    out: FloatArray = ndimage.zoom(array, 1 / factors, order=1, mode="grid-constant", grid_mode=True)
    return out


def _pillow(array: FloatArray, side: int, resampling: str) -> FloatArray:
    """As Pillow resamples pictures of 8 bits, which it rounds after each axis."""
    how = Image.Resampling.BICUBIC if resampling == "bicubic" else Image.Resampling.BILINEAR
    picture = Image.fromarray(np.round(array * 255.0).astype(np.uint8))
    return np.asarray(picture.resize((side, side), how), dtype=np.float32) / np.float32(255.0)

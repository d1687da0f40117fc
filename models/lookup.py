"""What a table of gray values says of each pixel, and which values there are.

The rule: a radiograph is walked through some rows at a time, which stay in the processor's cache, and no picture of
its full size is made on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from models.findings import BoolMask
from models.resampling import FloatImage, shrunk

_AT_ONCE = 200_000  # pixels


def _bands(stored: npt.NDArray[Any], factor: int = 1) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Some rows at a time, as many as `factor` divides, and the number of the first."""
    rows, columns = stored.shape
    step = factor * max(1, _AT_ONCE // (factor * columns))
    for top in range(0, rows, step):
        yield top, stored[top : top + step]


def occurring(stored: npt.NDArray[Any], first: int, last: int) -> BoolMask:
    """Which of the values from `first` to `last` occur."""
    occurs = np.zeros(last - first + 1, np.bool_)
    for _, band in _bands(stored):
        occurs[_places(band, first).astype(np.intp, copy=False).ravel()] = True
    return occurs


def looked_up(table: FloatImage, stored: npt.NDArray[Any], first: int, factor: int) -> FloatImage:
    """What the table, whose first value is that of `first`, says of each square of `factor` x `factor` pixels."""
    rows, columns = stored.shape
    pixels = np.empty((-(-rows // factor), -(-columns // factor)), np.float32)
    for top, band in _bands(stored, factor):
        small = shrunk(np.take(table, _places(band, first), mode="clip"), factor)  # as asked, clip is only faster
        pixels[top // factor : top // factor + len(small)] = small
    return pixels


def _places(band: npt.NDArray[Any], first: int) -> npt.NDArray[Any]:
    """Places in a table that begins with `first`; differences of signed values may not fit into their own type."""
    return band if first == 0 else band.astype(np.intp) - first

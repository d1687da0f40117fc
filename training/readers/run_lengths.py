"""Masks as runs of pixels: the two conventions of the data sets, to pixels and back.

The rule: a text that does not fit its image is refused, never cut; encoding and decoding are each other's inverse, up
to how the runs are joined.

Both conventions count down the columns, from the left: pixel p of an image with R rows lies in row p % R and column
p // R. A run is a start and a length. ``siim`` measures the start from the end of the run before it (from pixel 0 for
the first), as the decoder that came with the SIIM-ACR 2019 data does; ``kaggle`` gives the pixel itself, counted from
1. The same mask is ``0 2 3 1`` in the one and ``1 2 6 1`` in the other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.readers.records import BoolArray, RunLengths

IntArray = npt.NDArray[np.int64]
CONVENTIONS = ("siim", "kaggle")


class RunLengthsInvalid(ValueError):
    """A text that is no mask of that image; the message says why."""


def spans(runs: RunLengths) -> tuple[IntArray, IntArray]:
    """First pixel of each run, and the pixel after its last, counted from 0 down the columns.

    Returns
    -------
    starts, ends
        int64 of shape (number of runs,), ascending; runs do not overlap but may touch.

    Raises
    ------
    RunLengthsInvalid
        When the numbers are no runs of the convention, or leave the image.
    """
    if runs.convention not in CONVENTIONS:
        raise RunLengthsInvalid(f"{runs.convention!r} is no convention known here: {', '.join(CONVENTIONS)}")
    try:
        numbers = np.array([int(word) for word in runs.text.split()], np.int64)
    except (ValueError, OverflowError) as error:
        raise RunLengthsInvalid("run lengths hold something that is no number") from error
    if len(numbers) % 2:
        raise RunLengthsInvalid("run lengths end after a start: its length is missing")
    starts, lengths = numbers[0::2], numbers[1::2]
    if (lengths < 1).any():
        raise RunLengthsInvalid("a run has no pixels")
    starts = starts - 1 if runs.convention == "kaggle" else np.cumsum(starts) + np.cumsum(lengths) - lengths
    ends = starts + lengths
    if (starts < _ends_before(ends)).any():
        raise RunLengthsInvalid("a run begins before the one before it has ended, or before the image")
    if len(ends) and ends[-1] > runs.rows * runs.columns:
        raise RunLengthsInvalid(
            f"run lengths reach pixel {ends[-1]} of an image of {runs.columns} x {runs.rows} = "
            f"{runs.rows * runs.columns} pixels"
        )
    return starts, ends


def decode(runs: RunLengths) -> BoolArray:
    """The mask: boolean array of shape (rows, columns).

    Raises
    ------
    RunLengthsInvalid
    """
    starts, ends = spans(runs)
    change = np.zeros(runs.rows * runs.columns + 1, np.int8)
    change[starts] += 1
    change[ends] -= 1  # where two runs touch, the one's end takes back the other's start
    return np.cumsum(change[:-1], dtype=np.int8).astype(np.bool_).reshape(runs.columns, runs.rows).T


def encode(mask: BoolArray, convention: str = "siim") -> RunLengths:
    """Run lengths of a boolean array of shape (rows, columns); the text is empty where the mask is.

    Raises
    ------
    RunLengthsInvalid
        For an unknown convention.
    """
    if convention not in CONVENTIONS:
        raise RunLengthsInvalid(f"{convention!r} is no convention known here: {', '.join(CONVENTIONS)}")
    rows, columns = mask.shape
    change = np.diff(mask.T.reshape(-1).astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    written = starts + 1 if convention == "kaggle" else starts - _ends_before(ends)
    text = " ".join(f"{start} {length}" for start, length in zip(written, ends - starts, strict=True))
    return RunLengths(text, rows, columns, convention)


def _ends_before(ends: IntArray) -> IntArray:
    """For each run, where the one before it ended: 0 for the first."""
    return np.concatenate((np.zeros(1, np.int64), ends))[: len(ends)]

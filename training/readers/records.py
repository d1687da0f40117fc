"""What every reader gives: one record for each image, whatever data set it comes from.

The rule: a label that nobody gave is absent, and never 0; every record names its patient and its study, for nothing is
ever split otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
UNCERTAIN = -1.0  # as CheXpert writes it
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the stored image: left upper corner and size.

    Parameters
    ----------
    x, y, width, height
        Pixels; fractions are allowed. The corner is that of the pixel, not its centre.
    """

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class RunLengths:
    """A mask as runs of pixels.

    Parameters
    ----------
    text
        As the data set writes it; empty for an empty mask.
    rows, columns
        Pixels of the image that it lies on.
    convention
        ``siim``: column by column, each start relative to the end of the run before it (SIIM-ACR 2019).
        ``kaggle``: column by column, starts absolute and counted from 1.
    """

    text: str
    rows: int
    columns: int
    convention: str = "siim"


@dataclass(frozen=True)
class Record:
    """One image.

    Parameters
    ----------
    image
        DICOM, PNG or JPEG file.
    patient, study
        Names that are unique within the data set.
    source
        Data set, and the collection within it if there are several: what a model must not learn.
    view
        ``PA``, ``AP``, ``LATERAL``, or empty when not known.
    sex
        ``M``, ``F``, or empty.
    age
        Years; None when not known.
    labels
        Finding key (``models.findings``) to 0, 1 or `UNCERTAIN`; absent where nobody looked.
    soft
        Finding key to a probability that a teacher gave.
    boxes
        Finding key to boxes; an empty tuple says that somebody looked and drew none.
    masks
        Structure or finding key to mask files or run lengths, which are to be united; an empty tuple is an empty mask.
    split
        ``train``, ``val`` or ``test`` where the data set itself fixes it; empty otherwise.
    row
        Where it stands, for messages: file and line.
    """

    image: Path
    patient: str
    study: str
    source: str
    view: str = ""
    sex: str = ""
    age: float | None = None
    labels: Mapping[str, float] = field(default_factory=lambda: _NONE)
    soft: Mapping[str, float] = field(default_factory=lambda: _NONE)
    boxes: Mapping[str, tuple[Box, ...]] = field(default_factory=lambda: _NONE)
    masks: Mapping[str, tuple[Path | RunLengths, ...]] = field(default_factory=lambda: _NONE)
    split: str = ""
    row: str = ""


@dataclass(frozen=True)
class LeftOut:
    """A row, or a part of one, that was not used: where it stands, and why."""

    row: str
    reason: str


@dataclass(frozen=True)
class DataSet:
    """What a reader made of a download.

    Parameters
    ----------
    name
        As in recipes: ``nih``, ``chexpert``, ``siim_acr``, ``covid19``, ``rsna``, ``masks``, ``plain``.
    findings
        Keys of the labels that it can carry, in its own order.
    left_out
        What was not understood; the reader went on.
    """

    name: str
    records: tuple[Record, ...]
    findings: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()

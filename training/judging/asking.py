"""What a network says of the validation and of the test records, beside the truth.

The rule: the test records are rendered after training has ended, and no task that trains ever sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.loop import TrainingStopped
from training.metrics.answers import Answers
from training.metrics.intervals import FloatArray
from training.metrics.shortcuts import THUMBNAIL, thumbnail
from training.pictures import Pictures, prepare
from training.readers.records import Record
from training.recipe import KindPart, Recipe
from training.run import Trained
from training.run_log import add_left_out
from training.sampling import IntArray
from training.tasks import build_task
from training.tasks.common import Material, PictureTask

_AT_ONCE = 256  # pictures held while thumbnails are made


@dataclass(frozen=True, eq=False)
class Asked:
    """Answers for one part of the data; an item is an image, or a study for ``appearance``.

    Parameters
    ----------
    records
        One for each item; the first of its images for a study.
    findings
        In the order of the columns.
    truth
        Shape (n, findings): 0 or 1, NaN where nobody looked or the label is uncertain.
    raw
        Shape (n, findings): probabilities as the network gives them, 0 to 1.
    probabilities
        The same, calibrated on the validation records.
    thumbnails
        Shape (n, pixels): see ``metrics.shortcuts``.
    """

    records: tuple[Record, ...]
    findings: tuple[str, ...]
    truth: FloatArray
    raw: FloatArray
    probabilities: FloatArray
    thumbnails: FloatArray

    @cached_property
    def patients(self) -> tuple[str, ...]:
        """The patient of each item."""
        return tuple(record.patient for record in self.records)

    @cached_property
    def answers(self) -> Answers:
        """With the calibrated probabilities as scores."""
        return Answers(self.findings, self.truth, self.probabilities, self.patients)


@dataclass(frozen=True)
class Asking:
    """How to ask.

    Parameters
    ----------
    seed
        Of bootstraps, folds and scrambled networks.
    device
        ``cpu`` or ``cuda``.
    pictures
        Folder where rendered pictures are kept; None keeps them in memory.
    threads
        For rendering.
    """

    seed: int = 7
    device: str = "cpu"
    pictures: Path | None = None
    threads: int = 1


def test_task(trained: Trained, recipe: Recipe, asking: Asking) -> tuple[PictureTask, Pictures]:
    """The network that was trained, in a task whose pictures are the test records.

    Raises
    ------
    TrainingStopped
        When there is no test record that can be rendered.
    """
    masks = recipe.data.findings if recipe.task.kind == "segmentation" else ()
    pictures = prepare(trained.test, recipe.picture, masks=masks, folder=asking.pictures, threads=asking.threads)
    if not len(pictures):
        raise TrainingStopped("there is no test record to judge by: give [split] test a share, or more data")
    add_left_out(pictures.left_out, trained.folder)
    every = np.arange(len(pictures))
    plain = replace(recipe, sampler=KindPart("shuffled"))
    task = build_task(Material(plain, pictures, every, every, asking.seed), trained.task.module)
    task.module.eval()
    return task, pictures


def known(targets: npt.NDArray[Any]) -> FloatArray:
    """Targets of which only 0 and 1 are a truth; a smoothed or uncertain label is none."""
    numbers = np.asarray(targets, np.float64)
    return np.where((numbers == 0) | (numbers == 1), numbers, np.nan)


def thumbnails(pictures: Pictures, rows: IntArray) -> FloatArray:
    """Thumbnails of pictures, shape (n, pixels)."""
    made = np.empty((len(rows), THUMBNAIL**2))
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        made[start : start + len(part)] = [thumbnail(picture[0]) for picture in pictures.values(part)]
    return made


def records_of(pictures: Pictures, rows: Sequence[int] | IntArray) -> tuple[Record, ...]:
    """The records of rows."""
    return tuple(pictures.records[int(row)] for row in rows)

"""Networks of cross-validation that teach the one network of a recipe: an ensemble, distilled into it.

The rule: a picture's probabilities come from the network that did not learn from its patient, and no teacher sees a
picture by which the taught network is chosen or judged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from training.labels import label_matrix
from training.loop import Run, TrainingStopped, fit
from training.metrics.intervals import Figure, attempt
from training.metrics.scores import auroc
from training.pictures import Pictures
from training.readers.records import Record
from training.readers.splits import folds
from training.recipe import KindPart, Recipe, TeachersPart
from training.sampling import IntArray
from training.tasks.classification import Classification
from training.tasks.common import Material, build_network, load_start

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Lessons:
    """What teachers say of the pictures that are trained on.

    Parameters
    ----------
    pictures
        With the teachers' probabilities in their records.
    facts
        For ``run.json``, in JSON types.
    notes
        Sentences for the card.
    """

    pictures: Pictures
    facts: Mapping[str, Any]
    notes: tuple[str, ...]


def ask_teachers(material: Material, run: Run, weights: Path | None, *, resume: bool = False) -> Lessons:
    """Train the teachers that a recipe names, each in ``teachers/N`` of the run's folder, and ask each about its fold.

    Parameters
    ----------
    material, run
        Those of the network that is to be taught.
    weights
        Folder of the weights to start from; None starts from random ones.
    resume
        Go on where the teachers were stopped; those that are finished are only asked.

    Raises
    ------
    TrainingStopped
        When there are fewer patients than teachers, or a folder holds a run that is not to be resumed.
    DataMissing
        When the weights to start from are not there.
    """
    recipe, pictures = _of_teachers(material.recipe), material.pictures
    dealt = cross_validation(pictures.records, material.train, material.recipe.teachers.count, material.seed)
    told = np.full((len(pictures), len(recipe.data.findings)), np.nan, np.float32)
    each = []
    for number, (taught, held) in enumerate(dealt, 1):
        tqdm.write(f"teacher {number} of {len(dealt)}: learns from {len(taught):,} pictures, tells of {len(held):,}")
        seed = run.seed + number
        network = build_network(recipe.network, seed)
        started = load_start(network, recipe.start, weights)
        task = Classification(Material(recipe, pictures, taught, held, seed), network)
        task.notes = (started, *task.notes)
        own = replace(
            run, folder=run.folder / "teachers" / str(number), seed=seed,
            digest=hashlib.sha256(f"{run.digest} teacher {number}".encode()).hexdigest(),
            facts={"teacher": number, "digest": run.digest, "records": {"train": len(taught), "val": len(held)}},
        )  # fmt: skip
        outcome = fit(task, own, resume=resume)
        with torch.inference_mode():
            told[held] = task.outputs.logits(task.predict(held, run.device)).sigmoid().numpy()
        each.append({"learnt_from": len(taught), "tells_of": len(held), "best_epoch": outcome.best + 1, "seed": seed})
    figures = _out_of_fold(material, told)
    facts = {
        "network": recipe.network["_target_"], "each": each, "auroc": {key: asdict(f) for key, f in figures.items()},
    }  # fmt: skip
    records = with_probabilities(pictures.records, told, recipe.data.findings)
    return Lessons(replace(pictures, records=records), facts, _notes(material, figures))


def cross_validation(
    records: Sequence[Record], rows: IntArray, count: int, seed: int
) -> list[tuple[IntArray, IntArray]]:
    """For each of `count` networks the rows that it learns from, and those of its fold; a patient lies in one fold.

    Parameters
    ----------
    rows
        Of the records that are dealt; the others are in neither.

    Raises
    ------
    TrainingStopped
        When a fold would be empty.
    """
    row_of = {(records[row].image, records[row].row): row for row in rows.tolist()}
    dealt = folds([records[row] for row in rows.tolist()], count, seed=seed)
    if not all(dealt):
        raise TrainingStopped(f"too few patients are trained on for {count} teachers: take fewer, or more data")
    held = [np.array(sorted(row_of[r.image, r.row] for r in fold), np.int64) for fold in dealt]
    return [(np.setdiff1d(rows, fold), fold) for fold in held]


def with_probabilities(
    records: Sequence[Record], probabilities: FloatArray, findings: Sequence[str]
) -> tuple[Record, ...]:
    """Records with a teacher's probabilities, for the loss ``distilled``.

    Parameters
    ----------
    probabilities
        Shape (n, findings); NaN where the teacher was not asked.
    """
    return tuple(
        replace(r, soft={**r.soft, **{k: float(v) for k, v in zip(findings, row, strict=True) if not np.isnan(v)}})
        for r, row in zip(records, probabilities, strict=True)
    )


def _of_teachers(recipe: Recipe) -> Recipe:
    """What they follow: they have nobody to learn from but the labels."""
    part = recipe.teachers
    own = replace(recipe, loss=KindPart("bce"), teachers=TeachersPart())
    return replace(own, network=part.network, start=part.start) if part.network else own


def _out_of_fold(material: Material, told: FloatArray) -> dict[str, Figure]:
    """AUROC of each finding on the pictures that are trained on, each told of by the teacher of its fold."""
    rows, records = material.train, material.pictures.records
    truth = label_matrix(records, material.recipe.data)[rows]
    found: dict[str, Figure] = {}
    for i, key in enumerate(material.recipe.data.findings):
        known = np.isin(truth[:, i], (0, 1))
        patients = tuple(records[row].patient for row in rows[known].tolist())
        found[key] = attempt(partial(auroc, truth[known, i], told[rows[known], i], patients, material.seed))
    return found


def _notes(material: Material, figures: Mapping[str, Figure]) -> tuple[str, ...]:
    recipe = material.recipe
    each = ", ".join(f"{key.replace('_', ' ')} {figure}" for key, figure in figures.items())
    share = recipe.loss.options.get("share", 0.5)
    return (
        f"Taught by {recipe.teachers.count} networks of cross-validation over the {len(material.train)} pictures that "
        "were trained on: each probability is that of the one network that did not learn from the picture's patient, "
        f"and all of them count for {share:.0%} of the loss.",
        f"AUROC of the teachers on what they did not learn from: {each}. The epoch of each was chosen there as well, "
        "which makes it a little too high.",
    )

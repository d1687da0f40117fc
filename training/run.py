"""From a recipe and a folder of data to a trained network.

The rule: a run's folder says everything that made it: recipe, data, seed, revision, versions and what was left out.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from training.data import DataMissing
from training.labels import settle
from training.loop import Outcome, Run, TrainingStopped, fit
from training.pictures import Pictures, prepare, records_digest
from training.readers.catalogue import READERS
from training.readers.records import DataSet, Record
from training.readers.splits import split
from training.recipe import Recipe
from training.run_log import tell_left_out
from training.spread import Spread
from training.tasks import build_task
from training.tasks.common import Material, PictureTask, build_network, load_start
from training.teachers import ask_teachers

_REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Places:
    """Folders of a run.

    Parameters
    ----------
    data
        The download, as its reader expects it.
    out
        What the run leaves; beside the files of ``training.loop`` there is ``weights.pt``, the state of the network
        that is packaged or started from.
    pictures
        Where rendered pictures are kept; None keeps them in memory.
    weights
        Where recipes find the weights that they start from; None starts from random ones.
    """

    data: Path
    out: Path
    pictures: Path | None = None
    weights: Path | None = None


@dataclass(frozen=True, eq=False)
class Ready:
    """What a recipe comes to before the first step.

    Parameters
    ----------
    test
        Records on which nothing is to be trained and nothing chosen.
    """

    task: PictureTask
    run: Run
    pictures: Pictures
    test: tuple[Record, ...]


@dataclass(frozen=True, eq=False)
class Trained:
    """A run that came to its end.

    Parameters
    ----------
    task
        With the best weights.
    test
        Records on which nothing was trained and nothing chosen.
    folder
        Of the run.
    """

    task: PictureTask
    outcome: Outcome
    pictures: Pictures
    test: tuple[Record, ...]
    folder: Path


def read(recipe: Recipe, folder: Path) -> DataSet:
    """The data set that a recipe names, of the views that it wants.

    Raises
    ------
    DataMissing
    """
    if not folder.exists():
        raise DataMissing(f"{folder} is not there: unpack the data set {recipe.data.set} and name its folder")
    data = READERS[recipe.data.set](folder, **recipe.data.options)
    views = recipe.data.views
    return replace(data, records=tuple(r for r in data.records if r.view in views)) if views else data


def train(
    recipe: Recipe,
    places: Places,
    *,
    seed: int = 7,
    resume: bool = False,
    device: str = "cpu",
    threads: int = 1,
    data: DataSet | None = None,
    until: int | None = None,
    spread: Spread | None = None,
) -> Trained:
    """Follow a recipe.

    Parameters
    ----------
    threads
        For rendering.
    data
        Records read already; those that the recipe names if not given.
    until
        Stop after so many epochs, to go on later; teachers go through all of theirs.
    spread
        Which of several workers this is; alone if not given.

    Raises
    ------
    DataMissing, RecipeInvalid, TrainingStopped
    """
    ready = make_ready(recipe, places, seed=seed, device=device, threads=threads, data=data, spread=spread)
    if recipe.teachers.count:
        ready = _taught(ready, places, resume=resume)
    return follow(ready, resume=resume, until=until)


def make_ready(
    recipe: Recipe,
    places: Places,
    *,
    seed: int = 7,
    device: str = "cpu",
    threads: int = 1,
    data: DataSet | None = None,
    spread: Spread | None = None,
) -> Ready:
    """Read, render, and build the task; parameters as those of `train`.

    Raises
    ------
    DataMissing, RecipeInvalid, TrainingStopped
    """
    given = data or read(recipe, places.data)
    parts = divide(settle(given, recipe.data, seed), recipe, seed)
    records = [*parts["train"], *parts["val"]]
    if not parts["train"] or not parts["val"]:
        raise TrainingStopped(
            f"{len(parts['train'])} records to train on and {len(parts['val'])} to choose by: none of one"
        )
    masks = recipe.data.findings if recipe.task.kind == "segmentation" else ()
    pictures = prepare(records, recipe.picture, masks=masks, folder=places.pictures, threads=threads)
    to_train = {(r.image, r.row) for r in parts["train"]}
    trained_on = np.array([(r.image, r.row) in to_train for r in pictures.records], np.bool_)
    if trained_on.all() or not trained_on.any():
        first = "; ".join(f"{one.row}: {one.reason}" for one in pictures.left_out[:3])
        raise TrainingStopped(
            f"{int(trained_on.sum())} pictures to train on and {int((~trained_on).sum())} to choose by could be read: "
            f"none of one ({first})"
        )
    network = build_network(recipe.network, seed)
    started = load_start(network, recipe.start, places.weights)
    material = Material(recipe, pictures, np.flatnonzero(trained_on), np.flatnonzero(~trained_on), seed)
    task = build_task(material, network)
    task.notes = (started, *_shown(pictures), *task.notes)
    digest = records_digest(records)
    left_out = (*given.left_out, *pictures.left_out)
    if spread is None:  # of several workers, the process that starts them says it
        tell_left_out(left_out, places.out)
    run = Run(
        places.out, recipe.schedule, seed, recipe.evaluation.watch,
        digest=hashlib.sha256((recipe.digest + digest).encode()).hexdigest(), device=torch.device(device),
        facts={
            "recipe": asdict(recipe), "recipe_sha256": recipe.digest, "data_sha256": digest, "revision": revision(),
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "monai", "numpy")},
            "device": device, "threads": torch.get_num_threads(),
            "records": {name: len(part) for name, part in parts.items()},
            "left_out": [asdict(one) for one in left_out],
        },
        spread=spread or Spread(),
    )  # fmt: skip
    return Ready(task, run, pictures, parts.get("test", ()))


def follow(ready: Ready, *, resume: bool = False, until: int | None = None) -> Trained:
    """Train what is ready; parameters as those of `train`.

    Raises
    ------
    TrainingStopped
    """
    outcome = fit(ready.task, ready.run, resume=resume, until=until)
    if ready.run.spread.first:
        torch.save(ready.task.shipped.state_dict(), ready.run.folder / "weights.pt")
    return Trained(ready.task, outcome, ready.pictures, ready.test, ready.run.folder)


def _taught(ready: Ready, places: Places, *, resume: bool) -> Ready:
    """The same with what teachers say of the pictures that are trained on."""
    lessons = ask_teachers(ready.task.material, ready.run, places.weights, resume=resume)
    task = build_task(replace(ready.task.material, pictures=lessons.pictures), ready.task.module)
    task.notes = (*ready.task.notes, *lessons.notes)
    run = replace(ready.run, facts={**ready.run.facts, "teachers": lessons.facts})
    return replace(ready, task=task, run=run, pictures=lessons.pictures)


def divide(data: DataSet, recipe: Recipe, seed: int) -> dict[str, tuple[Record, ...]]:
    """Records for training, choosing and testing, by patient and study."""
    part = recipe.split
    if not part.official:
        data = replace(data, records=tuple(replace(r, split="") for r in data.records))
    shares = {"train": 1 - part.val - part.test, "val": part.val, "test": part.test}
    return {"train": (), "val": (), **split(data, {k: v for k, v in shares.items() if v > 0}, seed=seed)}


def revision() -> str | None:
    """The git revision of this code; None where there is none."""
    try:
        told = subprocess.run(["git", "rev-parse", "HEAD"], cwd=_REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()


def _shown(pictures: Pictures) -> list[str]:
    notes = []
    if pictures.left_out:
        notes.append(f"{len(pictures.left_out)} images could not be rendered and were left out.")
    if pictures.without_lungs:
        notes.append(f"On {pictures.without_lungs} images no plausible lungs were found; they are shown whole.")
    return notes

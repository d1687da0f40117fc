"""From a finished run to its judgement: exactly the figures that its recipe names, and what the contract will say.

The rule: a figure that a kind of task does not have is told before anything is trained, with those that it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from training.card import Table
from training.evidence import (
    LEAST_AUROC,
    LEAST_POSITIVES,
    LEAST_SENSITIVITY,
)
from training.judging.asking import Asking
from training.judging.case import Case, FigureOf, Part, words
from training.judging.gate import Verdict
from training.judging.published import published_table
from training.judging.saliency import METHOD_NAMES, MOST_ALIKE, Sanity
from training.metrics.answers import keep_apart
from training.metrics.confusion import ConfusionMatrix
from training.metrics.intervals import BoolArray, FloatArray
from training.metrics.subgroups import Subgroup
from training.metrics.submission import Row
from training.recipe import Recipe
from training.run import Trained
from training.tables import RecipeInvalid

UNLABELLED = ("mae", "dino")  # nothing is told by them: they make weights to start from


@dataclass(frozen=True, eq=False)
class Curve:
    """One finding on test: truth, and calibrated probabilities, shape (n,) each."""

    truth: BoolArray
    probabilities: FloatArray


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a run is worth.

    Parameters
    ----------
    figures
        Figure of the recipe's report to its numbers, in JSON types.
    tables
        The same for the card, with what others published and the verdicts.
    verdicts
        One for each finding; empty where nothing is told.
    contract
        What the contract says beside the findings.
    curves
        By finding, of those with both classes on test.
    items
        Numbers of items (images, or studies) by part.
    """

    kind: str
    figures: Mapping[str, Any]
    tables: tuple[Table, ...]
    verdicts: tuple[Verdict, ...] = ()
    contract: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    curves: Mapping[str, Curve] = field(default_factory=dict)
    groups: Mapping[str, Sequence[Subgroup]] = field(default_factory=dict)
    matrix: ConfusionMatrix | None = None
    dice: Mapping[str, FloatArray] = field(default_factory=dict)
    sanity: Sanity | None = None
    submission: Mapping[str, Row] | None = None
    items: Mapping[str, int] = field(default_factory=dict)


def check_report(recipe: Recipe) -> None:
    """Refuse figures that the recipe's kind of task does not have.

    Raises
    ------
    RecipeInvalid
    """
    known = () if recipe.task.kind in UNLABELLED else tuple(_figures(recipe))
    for name in recipe.evaluation.report:
        if name not in known:
            raise RecipeInvalid(
                f"[evaluation] report names {name}, and {recipe.task.kind} gives {', '.join(known) or 'none'}"
            )


def judge(trained: Trained, recipe: Recipe, seed: int, asking: Asking | None = None) -> Judgement:
    """Judge a finished run on its test records.

    Parameters
    ----------
    seed
        Of bootstraps, folds and scrambled networks; it takes the place of that of `asking`.
    asking
        How the network is asked; on the CPU, in memory, if not given.

    Raises
    ------
    RecipeInvalid
        When the report names a figure that the task does not have.
    TrainingStopped
        When there is nothing to judge by.
    """
    check_report(recipe)
    if recipe.task.kind in UNLABELLED:
        return _unlabelled(trained, recipe)
    how = Asking(seed, asking.device, asking.pictures, asking.threads) if asking else Asking(seed)
    case: Case = import_module(f"training.judging.{recipe.task.kind}").ask(trained, recipe, how)
    keep_apart(case.val.answers, case.test.answers)
    parts = {name: _figures(recipe)[name](case) for name in recipe.evaluation.report}
    return _put_together(case, parts, recipe)


def _put_together(case: Case, parts: Mapping[str, Part], recipe: Recipe) -> Judgement:
    sanity: Sanity | None = getattr(case, "sanity", None)
    figures: dict[str, Any] = {name: part.numbers for name, part in parts.items()}
    if sanity is not None:
        figures["sanity_check"] = asdict(sanity) | {"passes": sanity.passes}
    tables = [_verdicts(case.verdicts)]
    if recipe.published is not None:
        tables.append(published_table(recipe.published, figures, recipe))
    tables += [table for part in parts.values() for table in part.tables]
    notes = list(case.notes)
    if sanity is not None:
        notes.append(_sanity_note(sanity))
    if recipe.data.uncertain:
        notes.append("Uncertain labels count on test as the recipe settles them; those that it ignores do not count.")
    drawn = [part for part in parts.values() if part.matrix is not None or part.groups is not None]
    return Judgement(
        recipe.task.kind, figures, tuple(tables), case.verdicts, case.contract, tuple(notes), _curves(case),
        next((p.groups for p in drawn if p.groups is not None), {}),
        next((p.matrix for p in drawn if p.matrix is not None), None),
        _dice(case), sanity, next((p.submission for p in parts.values() if p.submission is not None), None),
        {"train": len(case.train_truth), "val": len(case.val.records), "test": len(case.test.records)},
    )  # fmt: skip


def _figures(recipe: Recipe) -> dict[str, FigureOf]:
    found: dict[str, FigureOf] = import_module(f"training.judging.{recipe.task.kind}").FIGURES
    return found


def _unlabelled(trained: Trained, recipe: Recipe) -> Judgement:
    best = trained.outcome.history[trained.outcome.best]
    watched = float(best[recipe.evaluation.watch])
    rows = ((recipe.evaluation.watch, f"{watched:.4f}", str(trained.outcome.best + 1)),)
    table = Table("Validation", ("figure", "best", "epoch"), rows)
    tables = [table]
    if recipe.published is not None:
        tables.append(published_table(recipe.published, {}, recipe))
    material = trained.task.material
    return Judgement(
        recipe.task.kind, {recipe.evaluation.watch: watched}, tuple(tables),
        notes=("These are weights to start from, not a model: they tell nothing about a radiograph.",),
        items={"train": len(material.train), "val": len(material.val), "test": len(trained.test)},
    )  # fmt: skip


def _verdicts(verdicts: tuple[Verdict, ...]) -> Table:
    rows = []
    for v in verdicts:
        e = v.evidence
        told = ("", "", "") if e is None else (f"{e.positives}", f"{e.shortcut:.3f}", f"{e.sensitivity:.2f}")
        state = "yes" if v.evaluated else f"**not evaluated**: {v.reason}"
        rows.append((words(v.key), str(v.auroc), *told, "yes" if v.contract["localises"] else "no", state))
    header = ("finding", "AUROC", "positives", "shortcut", "sensitivity when called present", "drawn", "reported")
    note = (
        f"Reported only if the lower bound of the AUROC is at least {LEAST_AUROC:.2f}, with at least {LEAST_POSITIVES} "
        "positives on test, above the strongest of the shortcut baselines, and if the threshold from which it is "
        f"called present finds at least {LEAST_SENSITIVITY:.0%} of the positives."
    )
    return Table("What the node may report", header, tuple(rows), note)


def _sanity_note(sanity: Sanity) -> str:
    end = "they show what was learnt" if sanity.passes else "**they do not show what was learnt, and are not drawn**"
    return (
        f"Sanity check of the maps (Adebayo et al., NeurIPS 2018; {METHOD_NAMES[sanity.method]} of "
        f"{words(sanity.finding)}, {sanity.pictures} pictures, {len(sanity.each)} networks with random weights): rank "
        f"correlation {sanity.correlation:.2f}, which must be below {MOST_ALIKE}: {end}."
    )


def _curves(case: Case) -> dict[str, Curve]:
    found = {}
    for key in case.test.findings:
        column = case.test.answers.of(key)
        if 0 < column.truth.sum() < len(column.truth):
            found[key] = Curve(column.truth, column.scores)
    return found


def _dice(case: Case) -> dict[str, FloatArray]:
    from training.judging.segmentation import MaskCase, dices

    if not isinstance(case, MaskCase):
        return {}
    values = dices(case)
    return {key: values[~np.isnan(values[:, i]), i] for i, key in enumerate(case.test.findings)}

"""Judges outlines: Dice as SIIM-ACR 2019 has it, and whether an image's score tells that there is something to outline.

The rule: the score of an image is what decides that its mask is not empty: the empty head if there is one, else the
probability at which just the least area would be outlined.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.bundle import FindingContract
from models.calls import state_of
from models.contracts import MaskContract
from models.findings import FindingState
from models.masks import image_logits, outlined
from training.card import Table
from training.evidence import LEAST_POINTING
from training.judging.asking import Asking, test_task
from training.judging.case import COMMON, Case, FigureOf, Part, group_part, plain, words
from training.judging.gate import Verdict, asked, line_of, shortcuts, weigh
from training.metrics.intervals import BoolArray, FloatArray, Undefined, attempt, mean_interval, share_interval
from training.metrics.overlap import MaskScore, iou, mask_figures, score_mask
from training.metrics.subgroups import mean_by_group
from training.recipe import Recipe
from training.run import Trained
from training.sampling import IntArray
from training.tasks.common import answers, named, single
from training.tasks.segmentation import Segmentation


@dataclass(frozen=True, eq=False)
class Outlined:
    """What was outlined on images.

    Parameters
    ----------
    logits
        Scores of images, shape (n, structures).
    drawn
        Whether somebody looked for a structure, shape (n, structures).
    scores, iou
        For each image and structure; None and NaN where nobody looked.
    hits
        1 where the hottest pixel lies in the drawn mask, 0 where it does not, NaN where none was drawn.
    reading
        How they were read.
    """

    logits: FloatArray
    drawn: BoolArray
    filled: BoolArray
    scores: tuple[tuple[MaskScore | None, ...], ...]
    iou: FloatArray
    hits: FloatArray
    reading: MaskContract


@dataclass(frozen=True, eq=False)
class MaskCase(Case):
    """A case with outlines of the test images.

    Parameters
    ----------
    shown
        Whether the node would show a mask, shape (n, structures): where it calls the finding present.
    """

    outlined: Outlined | None = None
    shown: BoolArray | None = None


def outline(task: Segmentation, rows: IntArray, device: torch.device) -> Outlined:
    """Outline rows and hold each mask against the drawn one."""
    logits, scores, unions, hits = [], [], [], []
    drawn, filled = task.drawn[rows], np.zeros((len(rows), len(task.recipe.data.findings)), np.bool_)
    reading = task.reading({})
    done = 0
    with torch.inference_mode():
        for part, found in _found(task, rows, device):
            reading = task.reading(found)
            truth = task.pictures.masks(part) > 0.5
            for i in range(len(part)):
                output = single(found, i)
                masks, heat = outlined(output, reading), output["masks"].reshape(len(output["masks"]), -1).argmax(1)
                logits.append(image_logits(output, reading).astype(np.float64))
                looked = drawn[done + i]
                filled[done + i] = truth[i].any((1, 2))
                pairs = [(m, t) if k else None for m, t, k in zip(masks, truth[i], looked, strict=True)]
                scores.append(tuple(score_mask(*p) if p else None for p in pairs))
                unions.append([iou(*p) if p else np.nan for p in pairs])
                hits.append([
                    float(t.ravel()[at]) if k and t.any() else np.nan
                    for t, at, k in zip(truth[i], heat, looked, strict=True)
                ])  # fmt: skip
            done += len(part)
    return Outlined(np.array(logits), drawn, filled, tuple(scores), np.array(unions), np.array(hits), reading)


def ask(trained: Trained, recipe: Recipe, asking: Asking) -> MaskCase:
    """Outline validation and test images, settle, and weigh."""
    task, (test, pictures) = trained.task, test_task(trained, recipe, asking)
    assert isinstance(task, Segmentation) and isinstance(test, Segmentation)  # noqa: S101, PT018
    device, findings = torch.device(asking.device), recipe.data.findings
    rows, every = task.material.val, np.arange(len(pictures))
    before, after = outline(task, rows, device), outline(test, every, device)
    val_truth, truth = (np.where(o.drawn, o.filled, np.nan).astype(np.float64) for o in (before, after))
    kind = recipe.evaluation.calibration
    lines = tuple(line_of(val_truth[:, i], before.logits[:, i], kind) for i in range(len(findings)))
    val = asked(trained.pictures, rows, findings=findings, truth=val_truth, logits=before.logits, lines=lines)
    judged = asked(pictures, every, findings=findings, truth=truth, logits=after.logits, lines=lines)
    baselines = shortcuts(judged, asking.seed)
    verdicts = tuple(
        _drawing(verdict, after.hits[:, verdict.output], judged.patients)
        for verdict in weigh(val, judged, lines, baselines, asking.seed)
    )
    contract = {"masks": asdict(after.reading)}
    train = task.material.train
    train_truth = np.where(task.drawn[train], _filled(task, train), np.nan)
    contracts = [FindingContract(v.key, **v.contract) for v in verdicts]
    shown = np.array([
        [state_of(float(p), c) is FindingState.PRESENT for p, c in zip(row, contracts, strict=True)]
        for row in judged.probabilities
    ])  # fmt: skip
    return MaskCase(asking.seed, val, judged, verdicts, baselines, train_truth, contract, (), after, shown)


def tell_dice(case: MaskCase) -> Part:
    """Dice of each structure, with what an answer of nothing but empty masks would reach."""
    numbers: dict[str, Any] = {}
    rows = []
    for key, scores, patients in _judged(case):
        try:
            told = mask_figures([score for score, _ in scores], patients, case.seed)
            shown = mask_figures([s if shown else _emptied(s) for s, shown in scores], patients, case.seed)
        except Undefined as why:
            numbers[key] = {"reason": str(why)}
            continue
        numbers[key] = asdict(told) | {"shown": asdict(shown)}
        figures = (told.dice, shown.dice, told.all_empty, told.dice_where_present, told.left_empty)
        rows.append((words(key), str(len(scores)), *(str(f) for f in figures)))
    header = (
        "structure",
        "images",
        "Dice",
        "shown where called present",
        "empty masks alone",
        "Dice where it is there",
        "left empty where it is not",
    )
    note = (
        "As SIIM-ACR 2019: an empty mask that was left empty counts 1, any other empty one 0. Measured in pixels of "
        "the network's picture; 95 % intervals by patient. The node shows a mask only where it calls the finding "
        "present: the second figure counts the others as empty."
    )
    return Part({"findings": numbers}, (Table("Dice", header, tuple(rows), note),))


def tell_iou(case: MaskCase) -> Part:
    """Intersection over union of each structure."""
    assert case.outlined is not None  # noqa: S101
    numbers: dict[str, Any] = {}
    rows = []
    for i, key in enumerate(case.test.findings):
        values = case.outlined.iou[:, i]
        kept = ~np.isnan(values)
        names = tuple(np.asarray(case.test.patients, object)[kept])
        told = attempt(partial(mean_interval, values[kept], names, case.seed))
        numbers[key] = plain(told)
        rows.append((words(key), str(int(kept.sum())), str(told)))
    header = ("structure", "images", "IoU, 95 % interval by patient")
    return Part({"findings": numbers}, (Table("Intersection over union", header, tuple(rows)),))


def tell_subgroups(case: MaskCase) -> Part:
    """Mean Dice in each sex, age band, view and source."""
    groups = {key: mean_by_group(dices(case)[:, i], case.test.records) for i, key in enumerate(case.test.findings)}
    return group_part(groups, "Dice")


FIGURES: dict[str, FigureOf] = {**COMMON, "dice": tell_dice, "iou": tell_iou, "subgroups": tell_subgroups}


def dices(case: MaskCase) -> FloatArray:
    """Dice of each test image and structure, shape (n, structures); NaN where nobody looked."""
    assert case.outlined is not None  # noqa: S101
    return np.array([[np.nan if s is None else s.dice for s in row] for row in case.outlined.scores])


def _judged(case: MaskCase) -> Iterator[tuple[str, list[tuple[MaskScore, bool]], tuple[str, ...]]]:
    """Scores of each structure where somebody looked, whether the mask would be shown, and patients."""
    assert case.outlined is not None and case.shown is not None  # noqa: S101, PT018
    for i, key in enumerate(case.test.findings):
        rows = zip(case.outlined.scores, case.shown[:, i].tolist(), case.test.patients, strict=True)
        kept = [(row[i], shown, patient) for row, shown, patient in rows]
        looked = [(score, shown, patient) for score, shown, patient in kept if score is not None]
        yield key, [(score, shown) for score, shown, _ in looked], tuple(patient for *_, patient in looked)


def _emptied(score: MaskScore) -> MaskScore:
    return MaskScore(float(score.truth_empty), score.truth_empty, found_empty=True)


def _found(task: Segmentation, rows: IntArray, device: torch.device) -> Iterator[tuple[IntArray, dict[str, Tensor]]]:
    """Outputs of rows in batches; averaged with those of the mirrored pictures if the recipe says so."""
    size = task.recipe.schedule.batch
    for part, pictures, output in answers(task.module, task.pictures, rows, device=device, batch=size, what="judging"):
        found = named(output, "masks")
        if task.recipe.evaluation.mirror:
            other = named(task.module(pictures.flip(-1)), "masks")
            other["masks"] = other["masks"].flip(-1)
            found = {name: (found[name] + other[name]) / 2 for name in found}
        yield part, found


def _filled(task: Segmentation, rows: IntArray) -> BoolArray:
    """Whether each structure is drawn, shape (n, structures)."""
    return np.array(
        [(task.pictures.masks(rows[i : i + 1])[0] > 0.5).any((1, 2)) for i in range(len(rows))], np.bool_
    ).reshape(len(rows), len(task.recipe.data.findings))


def _drawing(verdict: Verdict, hits: FloatArray, patients: tuple[str, ...]) -> Verdict:
    """With whether the hottest pixel lies in the drawn mask more often than not, beyond doubt."""
    kept = ~np.isnan(hits)
    if not kept.any():
        return verdict
    share = share_interval(hits[kept] == 1, tuple(np.asarray(patients, object)[kept]))
    return replace(verdict, localises=share.low > LEAST_POINTING)

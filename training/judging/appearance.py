"""Judges the class of a study, of several that exclude each other, by studies.

The rule: one temperature for all classes is fitted on validation: it changes no call, and the probabilities of a study
still add up to 1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.classes import probabilities
from training.card import Table
from training.judging import competition
from training.judging.asking import Asked, Asking, known, records_of, test_task, thumbnails
from training.judging.case import COMMON, Case, FigureOf, Part, plain, words
from training.judging.classification import check_maps
from training.judging.gate import Line, shortcuts, weigh
from training.judging.saliency import Sanity
from training.metrics.calibration import brier, calibration_error, temperature
from training.metrics.confusion import accuracy, confusion_matrix, naive_baseline
from training.metrics.detection import Detections, mean_average_precision
from training.metrics.intervals import FloatArray, Undefined, attempt
from training.readers.records import Record
from training.recipe import Recipe
from training.run import Trained
from training.sampling import IntArray
from training.tasks.appearance import Appearance

_WHOLE = np.array([[0.0, 0.0, 1.0, 1.0]])  # the box of a class of a study


@dataclass(frozen=True, eq=False)
class StudyCase(Case):
    """A case of studies; `images` are all of their images."""

    images: tuple[Record, ...] = ()
    sanity: Sanity | None = None

    @property
    def called(self) -> list[str]:
        """The most probable class of each test study."""
        return [self.test.findings[i] for i in self.test.probabilities.argmax(1)]

    @property
    def true(self) -> list[str]:
        """The class of each test study."""
        return [self.test.findings[i] for i in self.test.truth.argmax(1)]


def ask(trained: Trained, recipe: Recipe, asking: Asking) -> StudyCase:
    """Ask about the studies of validation and test, settle, and weigh."""
    task, (test, pictures) = trained.task, test_task(trained, recipe, asking)
    assert isinstance(task, Appearance) and isinstance(test, Appearance)  # noqa: S101, PT018
    device, findings = torch.device(asking.device), recipe.data.findings
    with torch.inference_mode():
        val_logits, logits = (
            t.predict(studies, device).double().numpy() for t, studies in ((task, task.val), (test, test.train))
        )
    warmth, line = _temperature(task.targets[task.val], val_logits)
    val, judged = (
        Asked(
            records_of(t.pictures, firsts := _firsts(t, studies)), findings, known(t.targets[studies]),
            probabilities(z, 1.0), probabilities(z, warmth), thumbnails(t.pictures, firsts),
        )
        for t, studies, z in ((task, task.val, val_logits), (test, test.train, logits))
    )  # fmt: skip
    baselines = shortcuts(judged, asking.seed)
    verdicts = weigh(val, judged, [line] * len(findings), baselines, asking.seed)
    outputs = len(findings) + (task.options.pooling == "attention")
    table = np.eye(len(findings), outputs)
    rows = task.material.val
    by_image = np.array([[r.labels.get(k, np.nan) for k in findings] for r in records_of(task.pictures, rows)])
    sanity, notes = check_maps(trained, recipe, table, by_image.reshape(-1, len(findings)), asking)
    notes = (
        *notes, "Studies are told from all of their images together; the node tells them image by image.",
        "The node calls a class present only where it is the most probable one and reaches its threshold.",
    )  # fmt: skip
    return StudyCase(
        asking.seed, val, judged, verdicts, baselines, known(task.targets[task.train]),
        {"classes": {"temperature": warmth}}, notes, pictures.records, sanity,
    )  # fmt: skip


def tell_accuracy(case: StudyCase) -> Part:
    """Share of studies whose most probable class is the true one, beside the naive baseline."""
    figure = attempt(partial(accuracy, case.true, case.called, case.test.patients))
    training = [case.test.findings[i] for i in np.nan_to_num(case.train_truth).argmax(1)]
    naive = naive_baseline(training, case.true, case.test.findings)
    rows = [("accuracy", str(figure)), ("always the most frequent class in training", f"{naive.accuracy:.3f}")]
    numbers = {**plain(figure), "naive": naive.accuracy}
    return Part(numbers, (Table("Accuracy", ("", "share of studies, 95 % interval by patient"), tuple(rows)),))


def tell_confusion(case: StudyCase) -> Part:
    """What was called what."""
    matrix = confusion_matrix(case.true, case.called, case.test.findings)
    rows = []
    for i, name in enumerate(matrix.classes):
        shares = (_told(partial(share, name)) for share in (matrix.recall, matrix.precision, matrix.f1))
        rows.append((words(name), *(str(n) for n in matrix.counts[i]), *shares))
    header = ("true class", *(f"called {words(name)}" for name in matrix.classes), "recall", "precision", "F1")
    numbers = {"classes": list(matrix.classes), "counts": matrix.counts.tolist(), "accuracy": matrix.accuracy}
    return Part(numbers, (Table("Confusion matrix, studies", header, tuple(rows)),), matrix=matrix)


def tell_calibration(case: StudyCase) -> Part:
    """Calibration of the class that is called, before and after the temperature."""
    right = np.array([a == b for a, b in zip(case.true, case.called, strict=True)])
    surest = case.test.probabilities.max(1)
    before, after = calibration_error(right, case.test.raw.max(1)), calibration_error(right, surest)
    score = attempt(partial(brier, right, surest, case.test.patients, case.seed))
    warmth = float(case.contract["classes"]["temperature"])
    numbers = {"temperature": warmth, "error_before": before, "error": after, "brier": asdict(score)}
    header = ("temperature, fitted on validation", "calibration error of the call before", "after", "Brier score after")
    rows = ((f"{warmth:.3f}", f"{before:.3f}", f"{after:.3f}", str(score)),)
    return Part(numbers, (Table("Calibration", header, rows),))


def tell_voc_map(case: StudyCase) -> Part:
    """Average precision of the classes as the challenge counts them: each study has all classes, with probabilities."""
    found = {
        key: [Detections(_WHOLE, p[i : i + 1]) for p in case.test.probabilities]
        for i, key in enumerate(case.test.findings)
    }
    drawn = {key: [_WHOLE[: int(name == key)] for name in case.true] for key in case.test.findings}
    told = mean_average_precision(found, drawn, case.test.patients, case.seed)
    rows = [(words(k), str(f)) for k, f in told.classes.items()] + [("mean", str(told.mean))]
    numbers = {"findings": {k: plain(f) for k, f in told.classes.items()}, "mean": plain(told.mean)}
    header = ("class", "average precision, 95 % interval by patient")
    return Part(numbers, (Table("Average precision of the study classes", header, tuple(rows)),))


def tell_competition(case: StudyCase) -> Part:
    """The challenge's score of the study half: no boxes are told."""
    rows = competition.study_rows(case.test.records, case.test.probabilities, case.test.findings, case.images)
    return competition.tell(rows, "no box is told on any image")


FIGURES: dict[str, FigureOf] = {
    **COMMON, "accuracy": tell_accuracy, "confusion": tell_confusion, "calibration": tell_calibration,
    "voc_map": tell_voc_map, "competition": tell_competition,
}  # fmt: skip


def _temperature(targets: npt.NDArray[Any], logits: FloatArray) -> tuple[float, Line]:
    """The temperature, and the identity with the reason why there is none."""
    try:
        return temperature(targets.argmax(1), logits), Line()
    except Undefined as why:
        return 1.0, Line(reason=f"validation: {why}")


def _firsts(task: Appearance, studies: IntArray) -> IntArray:
    return np.array([int(task.rows[int(s)][0]) for s in studies], np.int64)


def _told(measure: Any) -> str:
    try:
        return f"{measure():.3f}"
    except Undefined:
        return "too few"

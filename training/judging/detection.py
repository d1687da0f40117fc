"""Judges boxes: average precision as PASCAL VOC2010 and the COVID-19 challenge have it, pointing, and scores of images.

The rule: boxes are judged in pixels of the stored image, against what was drawn there, whatever the network was shown;
the score of an image is the confidence of its surest box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from models.boxes import Boxes, image_logit, within
from training.card import Table
from training.evidence import LEAST_POINTING
from training.judging import competition
from training.judging.asking import Asking, records_of, test_task
from training.judging.case import COMMON, Case, FigureOf, Part, plain, words
from training.judging.gate import asked, line_of, shortcuts, weigh
from training.metrics.detection import Detections, match, mean_average_precision
from training.metrics.intervals import FloatArray, Undefined
from training.metrics.localisation import Pointing, cells_inside, pointing
from training.metrics.overlap import corners
from training.pictures import Placement
from training.readers.records import Record
from training.recipe import Recipe
from training.run import Trained
from training.sampling import IntArray
from training.tasks.common import answers
from training.tasks.detection import LEAST_SCORE, Detection

CELLS = 64  # a side of the grid on which pointing is judged


@dataclass(frozen=True, eq=False)
class Boxed:
    """Boxes told on images, by finding, in pixels of the stored image; beside those that were drawn."""

    found: Mapping[str, tuple[Detections, ...]]
    drawn: Mapping[str, tuple[FloatArray, ...]]
    shapes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class BoxCase(Case):
    """A case with boxes of the test images; `shares` are those of study classes among the training records."""

    boxed: Boxed | None = None
    shares: Mapping[str, float] | None = None


def ask(trained: Trained, recipe: Recipe, asking: Asking) -> BoxCase:
    """Draw boxes on validation and test images, settle, and weigh."""
    task, (test, _) = trained.task, test_task(trained, recipe, asking)
    assert isinstance(task, Detection) and isinstance(test, Detection)  # noqa: S101, PT018
    device, findings = torch.device(asking.device), recipe.data.findings
    before, after = draw(task, task.val, device), draw(test, test.val, device)
    val_truth, val_logits = _truth(before, findings), image_logits(before, findings)
    kind = recipe.evaluation.calibration
    lines = tuple(line_of(val_truth[:, i], val_logits[:, i], kind) for i in range(len(findings)))
    val = asked(task.pictures, task.val, findings=findings, truth=val_truth, logits=val_logits, lines=lines)
    judged = asked(
        test.pictures, test.val, findings=findings, truth=_truth(after, findings),
        logits=image_logits(after, findings), lines=lines,
    )  # fmt: skip
    baselines = shortcuts(judged, asking.seed)
    verdicts = weigh(val, judged, lines, baselines, asking.seed)
    drawn_from = {key: best_score(before.found[key], before.drawn[key]) for key in findings}
    contract = {"boxes": asdict(replace(task.reading, draw_from=drawn_from))}
    training = records_of(task.pictures, task.train)
    case = BoxCase(
        asking.seed, val, judged, verdicts, baselines, _labels(training, findings), contract, (), after,
        competition.class_shares(trained.pictures.records[int(i)] for i in task.material.train),
    )  # fmt: skip
    return replace(case, verdicts=tuple(replace(v, localises=_localises(case, v.key)) for v in verdicts))


def draw(task: Detection, rows: IntArray, device: torch.device) -> Boxed:
    """Boxes of rows, and those that were drawn there."""
    findings, size = task.recipe.data.findings, task.recipe.schedule.batch
    found: dict[str, list[Detections]] = {key: [] for key in findings}
    with torch.no_grad():
        for part, _, output in answers(task.tell, task.pictures, rows, device=device, batch=size, what="judging"):
            for row, boxes in zip(part, task.boxes(output, len(part)), strict=True):
                placement = task.pictures.placements[int(row)]
                for k, key in enumerate(findings):
                    found[key].append(to_stored(boxes.of(k), placement))
    records = records_of(task.pictures, rows)
    frames = [task.pictures.placements[int(row)] for row in rows]
    return Boxed(
        {key: tuple(value) for key, value in found.items()},
        {key: tuple(corners(r.boxes.get(key, ())) for r in records) for key in findings},
        tuple((p.y + p.frame.rows, p.x + p.frame.columns) for p in frames),
    )


def to_stored(boxes: Boxes, placement: Placement) -> Detections:
    """Boxes in pixels of the picture, in pixels of the stored image; those outside it are dropped."""
    kept = within(boxes, placement.frame)
    stored = [placement.box_to_stored(*(float(v) for v in box)) for box in kept.corners]
    return Detections(corners(stored), kept.scores.astype(np.float64))


def image_logits(boxed: Boxed, findings: Sequence[str]) -> FloatArray:
    """Logit of the confidence of each image's surest box: shape (n, findings)."""
    each = [[image_logit(d.confidences, LEAST_SCORE) for d in boxed.found[key]] for key in findings]
    return np.array(each).T.reshape(-1, len(findings))


def best_score(found: Sequence[Detections], drawn: Sequence[FloatArray]) -> float:
    """The confidence from which on boxes have the highest F1 on validation; 0.5 where nothing was drawn or hit."""
    matches = match(found, drawn)
    total = int(matches.truths.sum())
    if not total or not matches.hits.any():
        return 0.5
    confidences = np.sort(np.concatenate([d.confidences for d in found]))[::-1]
    f1 = 2 * np.cumsum(matches.hits) / (np.arange(1, len(matches.hits) + 1) + total)
    return float(confidences[int(f1.argmax())])


def tell_voc_map(case: BoxCase) -> Part:
    """Average precision of the boxes of each finding, and their mean."""
    assert case.boxed is not None  # noqa: S101
    told = mean_average_precision(case.boxed.found, case.boxed.drawn, case.test.patients, case.seed)
    rows = [(words(k), str(sum(len(b) for b in case.boxed.drawn[k])), str(f)) for k, f in told.classes.items()]
    header = ("finding", "drawn boxes", "average precision at IoU > 0.5, 95 % interval by patient")
    numbers = {"findings": {k: plain(f) for k, f in told.classes.items()}, "mean": plain(told.mean)}
    return Part(numbers, (Table("Boxes (PASCAL VOC2010)", header, tuple(rows)),))


def tell_competition(case: BoxCase) -> Part:
    """The challenge's score; a study's class is answered with the shares of the training records, the same for all."""
    assert case.boxed is not None and case.shares is not None  # noqa: S101, PT018
    key = case.test.findings[0]
    rows = competition.box_rows(case.test.records, case.boxed.found[key], case.boxed.drawn[key], case.shares)
    return competition.tell(rows, "every study is given the shares of the classes in training")


def tell_pointing(case: BoxCase) -> Part:
    """Share of images with a drawn box in which the middle of the surest box lies, beside the best fixed point."""
    numbers: dict[str, Any] = {}
    rows = []
    for key in case.test.findings:
        told = _point(case, key)
        numbers[key] = {"reason": "too few boxes"} if told is None else asdict(told)
        if told is not None:
            rows.append((words(key), str(told.hit), str(told.fixed)))
    header = ("finding", "middle of the surest box inside, 95 % interval", "best fixed point")
    return Part({"findings": numbers}, (Table("Pointing game", header, tuple(rows)),))


FIGURES: dict[str, FigureOf] = {
    **COMMON, "voc_map": tell_voc_map, "competition": tell_competition, "pointing": tell_pointing,
}  # fmt: skip


def _point(case: BoxCase, key: str) -> Pointing | None:
    assert case.boxed is not None  # noqa: S101
    maps, inside, patients = [], [], []
    items = zip(case.boxed.found[key], case.boxed.drawn[key], case.boxed.shapes, case.test.patients, strict=True)
    for found, drawn, (rows, columns), patient in items:
        if not len(drawn):
            continue
        heat = np.zeros((CELLS, CELLS))
        if len(found.boxes):
            x0, y0, x1, y1 = found.boxes[int(found.confidences.argmax())]
            row, column = int((y0 + y1) / 2 * CELLS / rows), int((x0 + x1) / 2 * CELLS / columns)
            heat[min(row, CELLS - 1), min(column, CELLS - 1)] = 1.0
        maps.append(heat)
        inside.append(cells_inside(drawn, (rows, columns), (CELLS, CELLS), tolerance=max(rows, columns) / CELLS))
        patients.append(patient)
    if not maps:
        return None
    try:
        return pointing(np.stack(maps), np.stack(inside), patients)
    except Undefined:
        return None


def _localises(case: BoxCase, key: str) -> bool:
    told = _point(case, key)
    return told is not None and told.hit.low > LEAST_POINTING


def _truth(boxed: Boxed, findings: Sequence[str]) -> FloatArray:
    return np.array([[float(len(b) > 0) for b in boxed.drawn[key]] for key in findings]).T.reshape(-1, len(findings))


def _labels(records: Sequence[Record], findings: Sequence[str]) -> FloatArray:
    drawn = [[float(len(r.boxes.get(k, ())) > 0) for k in findings] for r in records]
    return np.array(drawn).reshape(-1, len(findings))

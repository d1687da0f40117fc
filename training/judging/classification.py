"""Judges findings of one image each: COMMON figures, and boxes drawn from maps against boxes that people drew.

The rule: every finding is one logit, however many outputs it takes, for that is what the contract calibrates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from training.card import Table
from training.evidence import LEAST_POINTING
from training.judging.asking import Asking, known, test_task
from training.judging.case import COMMON, Case, FigureOf, Part, plain, tell_confusion, words
from training.judging.gate import asked, line_of, shortcuts, weigh
from training.judging.saliency import NoMaps, Sanity, boxes_of, enlarged, method_of, saliency, sanity_check
from training.labels import Outputs
from training.metrics.intervals import FloatArray, TooFew, Undefined
from training.metrics.localisation import Pointing, cells_inside, localisation, pointing
from training.metrics.overlap import box_iou
from training.pictures import Pictures
from training.recipe import Recipe
from training.run import Trained
from training.tasks.classification import Classification
from training.tasks.common import build_network

SCRAMBLED = 3  # networks with random weights
LOOKED_AT = 8  # pictures of the sanity check
CELLS = 128  # a side of the grid on which pointing is judged: finer than any map, and than most nodules


@dataclass(frozen=True, eq=False)
class Looks:
    """Maps of the test images on which somebody drew boxes.

    Parameters
    ----------
    maps, boxes, patients
        By finding: shape (n, h, w); for each image boxes (m, 4) in pixels of the picture; names.
    side
        Of the picture, in pixels.
    """

    maps: Mapping[str, FloatArray]
    boxes: Mapping[str, tuple[FloatArray, ...]]
    patients: Mapping[str, tuple[str, ...]]
    side: int


@dataclass(frozen=True, eq=False)
class MapCase(Case):
    """A case with maps; `looks` is None where the network has none."""

    looks: Looks | None = None
    sanity: Sanity | None = None


def ask(trained: Trained, recipe: Recipe, asking: Asking) -> MapCase:
    """Ask about validation and test, settle, and weigh."""
    task, (test, pictures) = trained.task, test_task(trained, recipe, asking)
    assert isinstance(task, Classification) and isinstance(test, Classification)  # noqa: S101, PT018
    device, findings = torch.device(asking.device), recipe.data.findings
    rows = task.material.val
    with torch.inference_mode():
        val_logits = task.outputs.logits(task.predict(rows, device)).double().numpy()
        test_logits = test.outputs.logits(test.predict(every := np.arange(len(pictures)), device)).double().numpy()
    val_truth, test_truth = known(task.targets[rows]), known(test.targets)
    kind = recipe.evaluation.calibration
    lines = tuple(line_of(val_truth[:, i], val_logits[:, i], kind) for i in range(len(findings)))
    val = asked(trained.pictures, rows, findings=findings, truth=val_truth, logits=val_logits, lines=lines)
    judged = asked(pictures, every, findings=findings, truth=test_truth, logits=test_logits, lines=lines)
    baselines = shortcuts(judged, asking.seed)
    verdicts = weigh(val, judged, lines, baselines, asking.seed)
    table = columns(task.outputs)
    sanity, notes = check_maps(trained, recipe, table, val_truth, asking)
    looks = None
    if sanity is not None:
        looks = _looks(test.module, pictures, recipe, table, method=sanity.method, device=device)
    train_truth = known(task.targets[task.material.train])
    case = MapCase(asking.seed, val, judged, verdicts, baselines, train_truth, {}, notes, looks, sanity)
    return replace(case, verdicts=tuple(replace(v, localises=_localises(case, v.key)) for v in verdicts))


def columns(outputs: Outputs) -> FloatArray:
    """Shape (findings, outputs): the sum of the outputs that is each finding's logit."""
    one = torch.eye(outputs.count)
    return outputs.logits(one).T.double().numpy()


def check_maps(
    trained: Trained, recipe: Recipe, table: FloatArray, truth: FloatArray, asking: Asking
) -> tuple[Sanity | None, tuple[str, ...]]:
    """Whether the maps of the commonest finding of the validation records depend on the weights."""
    task, device = trained.task, torch.device(asking.device)
    rows = task.material.val
    positives = np.nansum(truth, 0)
    finding = int(positives.argmax())
    shown = rows[np.argsort(-np.nan_to_num(truth[:, finding]), kind="stable")[:LOOKED_AT]]
    pictures = torch.from_numpy(trained.pictures.values(shown)).to(device)
    method = method_of(task.module, pictures[:1])
    scrambled = [build_network(recipe.network, asking.seed + 1 + i).to(device) for i in range(SCRAMBLED)]
    try:
        found = sanity_check(
            task.module, scrambled, pictures, table[finding], method=method, finding=recipe.data.findings[finding]
        )
    except NoMaps as why:
        return None, (f"No maps: {why}.",)
    return found, ()


def tell_iobb(case: MapCase) -> Part:
    """Boxes from maps against drawn ones by intersection over the found box, as Wang et al., and over the union."""
    numbers: dict[str, Any] = {}
    rows = []
    for key, boxes in _drawn(case).items():
        assert case.looks is not None  # noqa: S101
        found = [boxes_of(heat, case.looks.side) for heat in case.looks.maps[key]]
        for name, options in (("IoBB", {}), ("IoU", {"overlap": box_iou})):
            try:
                told = localisation(found, boxes, case.looks.patients[key], **options)  # type: ignore[arg-type]
            except Undefined as why:
                numbers.setdefault(key, {})[name] = plain(TooFew(str(why)))
                continue
            numbers.setdefault(key, {})[name] = [asdict(one) for one in told]
            rows += [
                (words(key), name, f"{one.threshold:g}", str(one.accuracy), str(one.false_positives))
                for one in told if one.threshold in (0.1, 0.5)
            ]  # fmt: skip
    header = ("finding", "overlap", "to exceed", "share of drawn boxes found", "false positives an image")
    note = "Boxes around what is hot at 60 and at 180 of 255 (Wang et al., CVPR 2017)."
    return Part({"findings": numbers}, (Table("Boxes from maps", header, tuple(rows), note),))


def tell_pointing(case: MapCase) -> Part:
    """Share of images whose hottest point lies in a drawn box, beside the best fixed point."""
    numbers: dict[str, Any] = {}
    rows = []
    for key in _drawn(case):
        told = _point(case, key)
        if told is None:
            numbers[key] = plain(TooFew("too few boxes"))
            continue
        numbers[key] = asdict(told)
        rows.append((words(key), str(len(case.looks.boxes[key]) if case.looks else 0), str(told.hit), str(told.fixed)))
    header = ("finding", "images with boxes", "hottest point inside, 95 % interval", "best fixed point")
    return Part({"findings": numbers}, (Table("Pointing game", header, tuple(rows)),))


FIGURES: dict[str, FigureOf] = {
    **COMMON, "confusion": tell_confusion, "iobb": tell_iobb, "pointing": tell_pointing,
}  # fmt: skip


def _drawn(case: MapCase) -> Mapping[str, tuple[FloatArray, ...]]:
    return case.looks.boxes if case.looks is not None else {}


def _point(case: MapCase, key: str) -> Pointing | None:
    looks = case.looks
    if looks is None or key not in looks.boxes:
        return None
    cell = looks.side / CELLS
    inside = [cells_inside(boxes, (looks.side,) * 2, (CELLS,) * 2, tolerance=cell) for boxes in looks.boxes[key]]
    try:
        return pointing(enlarged(looks.maps[key], CELLS), np.stack(inside), looks.patients[key])
    except Undefined:
        return None


def _localises(case: MapCase, key: str) -> bool:
    """Whether a map may be shown: the network's own, that changes with the weights, and points at the finding."""
    if case.sanity is None or not case.sanity.passes or case.sanity.method != "own":
        return False
    told = _point(case, key)
    return told is not None and told.hit.low > LEAST_POINTING


def _looks(
    network: nn.Module, pictures: Pictures, recipe: Recipe, table: FloatArray, *, method: str, device: torch.device
) -> Looks:
    maps, boxes, patients = {}, {}, {}
    for i, key in enumerate(recipe.data.findings):
        drawn = [pictures.boxes(row, key).astype(np.float64) for row in range(len(pictures))]
        solid = [b[(b[:, 2:] > b[:, :2]).all(1)] for b in drawn]  # of a box that is not shown nothing is left
        rows = [row for row, b in enumerate(solid) if len(b)]
        if not rows:
            continue
        found = []
        for row in rows:
            shown = torch.from_numpy(pictures.values(np.array([row]))).to(device)
            heat = saliency(network, shown, table[i], method=method)
            if recipe.evaluation.mirror:
                heat = (heat + saliency(network, shown.flip(-1), table[i], method=method)[..., ::-1]) / 2
            found.append(heat)
        maps[key], boxes[key] = np.concatenate(found), tuple(solid[row] for row in rows)
        patients[key] = tuple(pictures.records[row].patient for row in rows)
    return Looks(maps, boxes, patients, pictures.size)

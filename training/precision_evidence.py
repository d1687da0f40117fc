"""What a lower precision changes in the answers of a bundle, before and after, on real pictures.

The rule: both are asked about the same pictures, and what decides is the difference on them, drawn by patient: the
shipped weights of some bundles have seen these pictures, so that the figures themselves are too good. A precision is
accepted only where every limit is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.bundle import Bundle, FindingContract
from models.calls import calibrate, state_of
from models.findings import FindingState, View
from models.forward import FloatArray, Forward
from models.pixel_gate import interpret
from models.scores import boxes_of
from models.structures import cardiothoracic_ratio
from training import lung_fields, pixel_gate
from training.data import (
    BoolArray,
    FindingRecord,
    network_pictures,
    paint_boxes,
    read_findings,
    read_structures,
    split_patients,
)
from training.gate_evidence import Group, groups_of
from training.gate_samples import load_gate_samples, read_gate_records
from training.lung_evidence import Outliner
from training.lung_evidence import judge as judge_outlines
from training.lung_samples import load_samples
from training.metrics.intervals import Interval, attempt, bootstrap, mean_interval
from training.metrics.overlap import as_boxes, box_iou, dice
from training.metrics.scores import auroc_statistic

# Limits. A loss is named where it is beyond doubt that there is none this large (AUROC, Dice, pointing), or where the
# share of pictures is larger.
LEAST_AUROC, LEAST_DICE, LEAST_POINTING = -0.005, -0.002, -0.05
LEAST_ALIKE = 0.99  # Dice of an outline with that in float32
MOST_OPPOSED = 0.01  # calls that go from present to absent or back
MOST_CHANGED = 0.03  # calls that change at all
MOST_REFUSED = 0.005  # pictures that are refused and were not, or the other way round
MOST_RATIO = 0.002  # of the error of the cardiothoracic ratio
MOST_MOVED = 0.002  # of the ratio itself, which is told to two digits
CALIBRATING = 300
_SOME = 400  # pictures of which outlines and refusals are compared
_STATES = {FindingState.ABSENT: 0, FindingState.UNDETERMINED: 1, FindingState.PRESENT: 2}


@dataclass(frozen=True)
class Change:
    """One figure in float32 and in a lower precision.

    Parameters
    ----------
    before
        None where the figure is of the change itself, such as the share of calls that changed.
    low, high
        95 % interval of the change, by patient; None where there is none.
    held
        Whether its limit is held; None where it has none.
    """

    figure: str
    images: int
    before: float | None
    after: float
    low: float | None = None
    high: float | None = None
    limit: str = ""
    held: bool | None = None


@dataclass(frozen=True, eq=False)
class Trial:
    """Pictures on which a bundle is tried.

    Parameters
    ----------
    calibrating
        Pictures for the ranges of the integers, each (1, 1, size, size); none of those that judge Dice or refusals.
    files
        Of those pictures.
    compare
        What changes from one runtime to another.
    """

    calibrating: list[FloatArray]
    files: list[Path]
    compare: Callable[[Forward, Forward], list[Change]]


class Asked(nn.Module):
    """Whatever runs a network, as a network: one picture after the other."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        """From (n, 1, h, w) to ``logits``."""
        said = [self._forward(np.ascontiguousarray(one[None]))["logits"] for one in x.numpy()]
        return torch.from_numpy(np.stack(said))


def trial_of(bundle: Bundle, data: Path, seed: int) -> Trial:
    """The trial of a bundle by what reads its outputs.

    Raises
    ------
    DataMissing
    ValueError
        When nothing is known that could judge it.
    """
    kinds = {"structures": _lungs, "gate": _gate, "scores": _findings}
    if bundle.contract.interpreter not in kinds or bundle.contract.preprocessing is not None:
        raise ValueError(f"{bundle.identity.name}: there are no pictures here that judge it")
    return kinds[bundle.contract.interpreter](bundle, data, np.random.default_rng(seed), seed)


def _inputs(pictures: npt.NDArray[Any]) -> list[FloatArray]:
    return [picture.astype(np.float32)[None, None] for picture in pictures]


def _lungs(bundle: Bundle, data: Path, rng: np.random.Generator, seed: int) -> Trial:
    records = read_structures(data)
    folds = split_patients([record.patient for record in records], lung_fields.FOLDS, seed)
    held_out = [record for record in records if folds[record.patient] in lung_fields.HELD_OUT]
    others = [record.image for record in records if folds[record.patient] not in lung_fields.HELD_OUT]
    unseen = [record.image for record in read_findings(data)]
    mixed = np.array([*others, *unseen], object)[rng.permutation(len(others) + len(unseen))]
    files, size = list(mixed[:CALIBRATING]), bundle.contract.input_size
    looked, _ = network_pictures(unseen[:: max(1, len(unseen) // _SOME)][:_SOME], size, "unseen")
    samples = replace(load_samples(held_out), patients=[record.patient for record in held_out])

    def compare(before: Forward, after: Forward) -> list[Change]:
        outliners = [Outliner(Asked(forward)) for forward in (before, after)]
        judged = [judge_outlines(outliner, samples, np.ones(len(held_out), np.bool_)) for outliner in outliners]
        was, found = ({**one["dice"], "ctr": one["ratio_errors"]} for one in judged)
        told = []
        for key, values in was.items():
            a, b = (np.array([value for value, _ in one]) for one in (values, found[key]))
            lost = attempt(lambda a=a, b=b, v=values: mean_interval(b - a, [p for _, p in v]))  # type: ignore[misc]
            low, high = (lost.low, lost.high) if isinstance(lost, Interval) else (None, None)
            change = float(np.mean(b - a))
            held = change <= MOST_RATIO if key == "ctr" else change >= LEAST_DICE
            limit = f"not above +{MOST_RATIO:g}" if key == "ctr" else f"not below {LEAST_DICE:g}"
            name = "error of the cardiothoracic ratio" if key == "ctr" else f"Dice, {key.replace('_', ' ')}"
            told.append(Change(name, len(a), float(a.mean()), float(b.mean()), low, high, limit, held))
        return [*told, *_on_unseen(bundle, looked, *outliners)]

    calibrating, _ = network_pictures(files, size, "calibrating")
    return Trial(_inputs(calibrating), files, compare)


def _on_unseen(bundle: Bundle, pictures: npt.NDArray[Any], before: Outliner, after: Outliner) -> Iterator[Change]:
    """How far outlines agree on pictures that nobody outlined, and which of them are refused."""
    plausibility, alike, refused, ratios = bundle.contract.plausibility, [], [], []
    for picture in pictures:
        was, found = ([field >= 0.5 for field in outliner.scores(picture)] for outliner in (before, after))
        alike.append([dice(a, b) if a.any() or b.any() else 1.0 for a, b in zip(was, found, strict=True)])
        told = [cardiothoracic_ratio(one[0], one[1], one[2], View.PA, "") for one in (was, found)]
        ratios += [abs(told[0].value - told[1].value)] if told[0] and told[1] else []
        refused.append(
            [plausibility is not None and outliner.refuses(picture, plausibility) for outliner in (before, after)]
        )
    for key, values in zip(bundle.contract.segments, np.array(alike).T, strict=True):
        name, mean = key.replace("_", " "), float(values.mean())
        yield Change(f"Dice with the outline in float32, {name}, unseen collection", len(values), None, mean,
                     limit=f"not below {LEAST_ALIKE:g}", held=mean >= LEAST_ALIKE)  # fmt: skip
    moved = float(np.mean(ratios))
    yield Change("change of the cardiothoracic ratio, mean, unseen collection", len(ratios), None, moved,
                 limit=f"not above {MOST_MOVED:g}", held=moved <= MOST_MOVED)  # fmt: skip
    yield Change("change of the cardiothoracic ratio, one in twenty is larger, unseen collection", len(ratios), None,
                 float(np.quantile(ratios, 0.95)))  # fmt: skip
    a, b = zip(*refused, strict=True)
    yield _changed("refused where it was not, or taken where it was refused", a, b, MOST_REFUSED)


def _gate(bundle: Bundle, data: Path, rng: np.random.Generator, seed: int) -> Trial:
    contract = bundle.contract.gate
    if contract is None:
        raise ValueError(f"{bundle.identity.name} has no contract of a gate")
    samples = load_gate_samples(read_gate_records(data), seed)
    teaching = pixel_gate.TEACHING
    mixed = [samples.indices(kind, teaching) for kind in ("frontal", "child", "lateral", "other")]
    shares = (CALIBRATING // 2, CALIBRATING // 4, CALIBRATING // 8, CALIBRATING // 8)
    drawn = [int(i) for kind, most in zip(mixed, shares, strict=True) for i in rng.permutation(kind)[:most]]

    def groups(forward: Forward) -> list[Group]:
        return groups_of(Asked(forward), samples, data, pixel_gate.HELD_OUT)

    def compare(before: Forward, after: Forward) -> list[Change]:
        was, found = groups(before), groups(after)
        adults = [number for number, group in enumerate(was) if group.accept]
        patients = [p for group in was for p in group.patients]
        truth = np.concatenate([np.full(len(group.margins), float(group.accept)) for group in was])
        scores = [np.concatenate([group.margins for group in one]) for one in (was, found)]
        name = "adults against everything that is to be refused"
        told = [_area(name, truth, scores[0], scores[1], patients)]
        for what, accept in (("adults", True), ("what is to be refused", False)):
            a, b = ([not interpret(row, contract).accepted for n, g in enumerate(one) if (n in adults) is accept
                     for row in g.logits] for one in (was, found))  # fmt: skip
            told.append(Change(f"refused of {what}", len(a), float(np.mean(a)), float(np.mean(b))))
            told.append(_changed(f"other decision about {what}", a, b, MOST_REFUSED))
        return told

    files = [samples.records[i].image for i in drawn]
    return Trial(_inputs(samples.pictures[drawn]), files, compare)


def _findings(bundle: Bundle, data: Path, rng: np.random.Generator, seed: int) -> Trial:
    records = read_findings(data)
    pictures, _ = network_pictures([record.image for record in records], bundle.contract.input_size, "rendering")
    drawn = rng.permutation(len(records))[:CALIBRATING].tolist()
    inputs = _inputs(pictures)

    def compare(before: Forward, after: Forward) -> list[Change]:
        was, found = ([forward(picture) for picture in inputs] for forward in (before, after))
        return [
            change
            for finding in bundle.contract.findings
            if finding.evaluated
            for change in _of_finding(finding, records, was, found)
        ]

    return Trial([inputs[i] for i in drawn], [records[i].image for i in drawn], compare)


def _of_finding(
    finding: FindingContract, records: Sequence[FindingRecord], was: Sequence[Any], found: Sequence[Any]
) -> Iterator[Change]:
    name = finding.key.replace("_", " ")
    a, b = (np.array([float(one["logits"][finding.output]) for one in said]) for said in (was, found))
    known = np.array([finding.key in record.labels for record in records])
    truth = np.array([record.labels[finding.key] for record in records if finding.key in record.labels])
    yield _area(name, truth, a[known], b[known], [r.patient for r in records if finding.key in r.labels])
    p, q = (np.array([calibrate(logit, finding) for logit in logits]) for logits in (a, b))
    called = [np.array([_STATES[state_of(value, finding)] for value in values]) for values in (p, q)]
    moved = np.abs(called[0] - called[1])
    for what, share, most in (("from present to absent or back", moved == 2, MOST_OPPOSED),
                              ("at all", moved > 0, MOST_CHANGED)):  # fmt: skip
        yield Change(f"{name}: calls that change {what}", len(p), None, float(share.mean()),
                     limit=f"not above {most:g}", held=float(share.mean()) <= most)  # fmt: skip
    yield Change(f"{name}: largest change of a probability", len(p), None, float(np.abs(p - q).max()))
    if finding.localises:
        yield from _of_places(finding, records, was, found, (called[0] == 2) & (called[1] == 2))


def _of_places(
    finding: FindingContract,
    records: Sequence[FindingRecord],
    was: Sequence[Any],
    found: Sequence[Any],
    both: BoolArray,
) -> Iterator[Change]:
    """Pointing at what people drew, and how far the boxes agree that are drawn in either precision."""
    name, output = finding.key.replace("_", " "), finding.output
    hits: list[list[float]] = []
    patients = []
    for number, record in enumerate(records):
        if not (record.boxes.get(finding.key) and record.labels.get(finding.key)):
            continue
        drawn = np.zeros_like(was[number]["maps"][output])
        fine = np.zeros((8 * drawn.shape[0], 8 * drawn.shape[1]))
        paint_boxes(fine, record.boxes[finding.key])
        drawn = fine.reshape(drawn.shape[0], 8, drawn.shape[1], 8).mean((1, 3)) >= 0.5
        if drawn.any():
            hits.append([float(drawn.ravel()[said[number]["maps"][output].argmax()]) for said in (was, found)])
            patients.append(record.patient)
    a, b = np.array(hits).T
    lost = mean_interval(b - a, patients)
    yield Change(f"{name}: hottest cell lies in a box", len(a), float(a.mean()), float(b.mean()), lost.low, lost.high,
                 f"not below {LEAST_POINTING:g}", lost.low > LEAST_POINTING)  # fmt: skip
    overlaps = []
    for number in np.flatnonzero(both).tolist():
        one, other = (as_boxes([[x, y, x + w, y + h] for x, y, w, h, _ in boxes_of(said[number]["maps"][output], 1.0)])
                      for said in (was, found))  # fmt: skip
        if len(one) and len(other):
            overlaps.append(float(box_iou(one[:1], other[:1])[0, 0]))
    if overlaps:
        yield Change(f"{name}: median overlap (IoU) of the first box with that in float32", len(overlaps), None,
                     float(np.median(overlaps)))  # fmt: skip


def _area(
    name: str, truth: npt.NDArray[Any], before: npt.NDArray[Any], after: npt.NDArray[Any], patients: Sequence[str]
) -> Change:
    """AUROC before and after; its change is drawn in pairs."""
    was, found = (auroc_statistic(truth == 1, scores.astype(np.float64)) for scores in (before, after))
    change = bootstrap(lambda weights: found(weights) - was(weights), patients)
    one = np.ones((1, len(truth)))
    return Change(f"AUROC, {name}", len(truth), float(was(one)[0]), float(found(one)[0]), change.low, change.high,
                  f"beyond doubt above {LEAST_AUROC:g}", change.low > LEAST_AUROC)  # fmt: skip


def _changed(name: str, before: Sequence[bool], after: Sequence[bool], most: float) -> Change:
    share = float(np.mean(np.array(before) != np.array(after)))
    return Change(name, len(before), None, share, limit=f"not above {most:g}", held=share <= most)

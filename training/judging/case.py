"""The figures that every kind of task can have: how findings are told, called, and told in whom.

The rule: a figure is a function of a case and gives numbers for programs and tables for the card, both of the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from training.card import Table
from training.judging.asking import Asked
from training.judging.gate import Verdict, strongest
from training.metrics.calibration import brier, calibration_error
from training.metrics.confusion import ConfusionMatrix, multilabel_table, naive_baseline
from training.metrics.f1 import f1_table
from training.metrics.intervals import Figure, FloatArray, Interval, TooFew, Undefined, attempt
from training.metrics.operating import operating_point
from training.metrics.scores import auprc, mean_auroc
from training.metrics.shortcuts import margin
from training.metrics.subgroups import Subgroup, auroc_by_group
from training.metrics.submission import Row

NOTHING = "nothing of these"  # the class of an image without any finding


@dataclass(frozen=True, eq=False)
class Case:
    """What figures are made from.

    Parameters
    ----------
    verdicts
        One for each finding, in the order of the columns of `val` and `test`.
    baselines
        Finding to the scores of its shortcut baselines, see `gate.shortcuts`.
    train_truth
        Shape (n, findings): labels of the training records, for the naive baseline.
    contract
        What the contract says beside the findings.
    """

    seed: int
    val: Asked
    test: Asked
    verdicts: tuple[Verdict, ...]
    baselines: Mapping[str, Mapping[str, FloatArray]]
    train_truth: FloatArray
    contract: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def of(self) -> dict[str, Verdict]:
        """Verdicts by finding."""
        return {verdict.key: verdict for verdict in self.verdicts}


@dataclass(frozen=True, eq=False)
class Part:
    """One figure of the report.

    Parameters
    ----------
    numbers
        JSON types.
    groups, matrix
        For the plots.
    submission
        Rows for the challenge's file.
    """

    numbers: Any
    tables: tuple[Table, ...]
    groups: Mapping[str, Sequence[Subgroup]] | None = None
    matrix: ConfusionMatrix | None = None
    submission: Mapping[str, Row] | None = None


FigureOf = Callable[[Any], Part]


def words(key: str) -> str:
    """A key as people read it."""
    return key.replace("_", " ")


def plain(figure: Figure) -> dict[str, Any]:
    """A figure in JSON types."""
    return asdict(figure)


def tell_auroc(case: Case) -> Part:
    """AUROC of each finding, and the mean of those that have one."""
    figures = {v.key: v.auroc for v in case.verdicts}
    mean = _mean_auroc(case)
    numbers = {"findings": {k: plain(f) for k, f in figures.items()}, "mean": plain(mean)}
    rows = [(words(k), _share(case, k), str(f)) for k, f in figures.items()]
    if len(rows) > 1:
        rows.append(("mean of those with a figure", "", str(mean)))
    return Part(numbers, (Table("AUROC", ("finding", "positives", "95 % interval by patient"), tuple(rows)),))


def tell_auprc(case: Case) -> Part:
    """Area under the precision-recall curve, beside the share of positives, which chance reaches."""
    numbers, rows = {}, []
    for key in case.test.findings:
        c = case.test.answers.of(key)
        figure = attempt(partial(auprc, c.truth, c.scores, c.patients, case.seed))
        share = float(c.truth.mean()) if len(c.truth) else 0.0
        numbers[key] = plain(figure) | {"chance": share}
        rows.append((words(key), str(figure), f"{share:.3f}"))
    header = ("finding", "AUPRC, 95 % interval by patient", "chance")
    return Part({"findings": numbers}, (Table("Precision and recall", header, tuple(rows)),))


def tell_f1(case: Case) -> Part:
    """F1 at the thresholds that are best on validation."""
    table = f1_table(case.val.answers, case.test.answers, case.seed)
    numbers = {
        "thresholds": dict(table.thresholds), "findings": {k: plain(f) for k, f in table.findings.items()},
        "macro": plain(table.macro), "micro": plain(table.micro),
    }  # fmt: skip
    rows = [
        (words(k), str(table.findings[k]), f"{table.thresholds[k]:.3f}" if k in table.thresholds else "")
        for k in case.test.findings
    ]
    rows += [("macro", str(table.macro), ""), ("micro", str(table.micro), "")]
    header = ("finding", "F1, 95 % interval by patient", "called from this probability on")
    return Part(numbers, (Table("F1, thresholds chosen on validation", header, tuple(rows)),))


def tell_operating_points(case: Case) -> Part:
    """What the contract's two thresholds do to test patients."""
    numbers: dict[str, Any] = {}
    rows = []
    for v in case.verdicts:
        c = case.test.answers.of(v.key)
        for name, threshold in (("sensitive", v.threshold_absent), ("specific", v.threshold_present)):
            point = operating_point(c.truth, c.scores, c.patients, threshold)
            figures = {n: getattr(point, n) for n in ("sensitivity", "specificity", "ppv", "npv")}
            told = {n: plain(f) for n, f in figures.items()}
            numbers.setdefault(v.key, {})[name] = {"threshold": threshold, "counts": asdict(point.counts), **told}
            rows.append((words(v.key), name, f"{threshold:.3f}", *(str(f) for f in figures.values())))
    header = ("finding", "point", "probability", "sensitivity", "specificity", "PPV", "NPV")
    note = (
        "Chosen on validation. Below the sensitive point a finding is called absent, from the specific one on present, "
        "between them undetermined. Predictive values hold at the prevalence of these images alone."
    )
    return Part({"findings": numbers}, (Table("Operating points", header, tuple(rows), note),))


def tell_calibration(case: Case) -> Part:
    """Expected calibration error before and after calibration on validation, and Brier's score after it."""
    numbers: dict[str, Any] = {}
    rows = []
    for i, key in enumerate(case.test.findings):
        c = case.test.answers.of(key)
        if not len(c.truth):
            numbers[key] = plain(TooFew("no labelled image"))
            rows.append((words(key), "too few", "too few", "too few"))
            continue
        before = calibration_error(c.truth, case.test.raw[c.known, i])
        after = calibration_error(c.truth, c.scores)
        score = attempt(partial(brier, c.truth, c.scores, c.patients, case.seed))
        numbers[key] = {"error_before": before, "error": after, "brier": plain(score)}
        rows.append((words(key), f"{before:.3f}", f"{after:.3f}", str(score)))
    header = ("finding", "calibration error before", "after", "Brier score after")
    return Part({"findings": numbers}, (Table("Calibration, fitted on validation", header, tuple(rows)),))


def tell_confusion(case: Case) -> Part:
    """Counts of each finding at the threshold of the best F1 on validation, and the naive baseline beside them."""
    thresholds = f1_table(case.val.answers, case.test.answers, case.seed).thresholds
    counts = multilabel_table(case.test.answers, thresholds)
    rows = [(words(k), *(str(n) for n in (c.tp, c.fp, c.fn, c.tn))) for k, c in counts.items()]
    numbers: dict[str, Any] = {"findings": {k: asdict(c) for k, c in counts.items()}}
    header = ("finding", "true positives", "false positives", "false negatives", "true negatives")
    naive = _naive(case)
    note = ""
    if naive is not None:
        numbers["naive_baseline"] = {"accuracy": naive.accuracy, "macro_f1": naive.macro_f1}
        note = (
            "Naive baseline, always the most frequent class of an image in training (its first finding, or none): "
            f"accuracy {naive.accuracy:.2f}, macro F1 {naive.macro_f1:.2f}."
        )
    return Part(numbers, (Table("Calls, thresholds chosen on validation", header, tuple(rows), note),))


def tell_subgroups(case: Case) -> Part:
    """AUROC in each sex, age band, view and source."""
    groups = {
        key: auroc_by_group(case.test.truth[:, i], case.test.probabilities[:, i], case.test.records)
        for i, key in enumerate(case.test.findings)
    }
    return group_part(groups, "AUROC")


def group_part(groups: Mapping[str, Sequence[Subgroup]], what: str) -> Part:
    """A table of the groups that have a figure; the numbers hold the others as well."""
    rows, few = [], 0
    for key, found in groups.items():
        for g in found:
            if isinstance(g.figure, TooFew):
                few += 1
                continue
            positives = "" if g.positives is None else str(g.positives)
            rows.append((words(key), g.attribute, g.group, str(g.images), positives, str(g.figure)))
    numbers = {key: [asdict(g) for g in found] for key, found in groups.items()}
    header = ("finding", "attribute", "group", "images", "positives", f"{what}, 95 % interval by patient")
    note = f"{few} groups have too few patients for a figure." if few else ""
    return Part(numbers, (Table("Subgroups", header, tuple(rows), note),), groups)


def tell_shortcuts(case: Case) -> Part:
    """AUROC without looking at the lungs, and by how much the network does better than the best of it."""
    numbers: dict[str, Any] = {}
    rows = []
    for v in case.verdicts:
        baselines = case.baselines[v.key]
        c = case.test.answers.of(v.key)
        try:
            name, value = strongest(c.truth, baselines)
        except Undefined as why:
            numbers[v.key] = plain(TooFew(str(why)))
            rows.append((words(v.key), str(v.auroc), "too few", "", ""))
            continue
        ahead = attempt(partial(margin, c.truth, c.scores, baselines[name], c.patients, case.seed))
        numbers[v.key] = {"baseline": name, "auroc": value, "margin": plain(ahead)}
        rows.append((words(v.key), str(v.auroc), name, f"{value:.3f}", str(ahead)))
    header = ("finding", "AUROC", "strongest baseline", "its AUROC", "margin, 95 % interval by patient")
    note = (
        "Regressions on view, on source, on both, and on a thumbnail of 16 x 16 pixels, each fitted on other patients."
    )
    return Part({"findings": numbers}, (Table("Shortcut baselines", header, tuple(rows), note),))


COMMON: dict[str, FigureOf] = {
    "auroc": tell_auroc, "auprc": tell_auprc, "f1": tell_f1, "operating_points": tell_operating_points,
    "calibration": tell_calibration, "subgroups": tell_subgroups, "shortcuts": tell_shortcuts,
}  # fmt: skip


def class_names(truth: FloatArray, findings: Sequence[str]) -> list[str]:
    """One class for each item of truth (n, findings): its first finding, or `NOTHING`."""
    return [next((k for k, v in zip(findings, row, strict=True) if v == 1), NOTHING) for row in truth]


def _naive(case: Case) -> ConfusionMatrix | None:
    findings = case.test.findings
    if not len(case.train_truth):
        return None
    training, test = (class_names(truth, findings) for truth in (case.train_truth, case.test.truth))
    return naive_baseline(training, test, (*findings, NOTHING))


def _mean_auroc(case: Case) -> Figure:
    kept = [i for i, v in enumerate(case.verdicts) if isinstance(v.auroc, Interval)]
    if not kept:
        return TooFew("no finding has an AUROC")
    answers = case.test.answers
    some = replace(
        answers, findings=tuple(answers.findings[i] for i in kept), truth=answers.truth[:, kept],
        scores=answers.scores[:, kept],
    )  # fmt: skip
    return attempt(partial(mean_auroc, some, case.seed))


def _share(case: Case, key: str) -> str:
    truth = case.test.answers.of(key).truth
    return f"{int(np.sum(truth))} of {len(truth)}"

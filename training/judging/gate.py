"""From answers to what the node may say: calibration, two thresholds, and whether the evidence carries a finding.

The rule: calibration and thresholds are settled on validation and the evidence is weighed on test, by the conditions of
``training.evidence``; what cannot be weighed is not evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from models.calls import probabilities, sigmoid
from training.evidence import LEAST_PROBABILITY, SENSITIVITY, SPECIFICITY, Evidence
from training.judging.asking import Asked, records_of, thumbnails
from training.metrics.answers import Column
from training.metrics.calibration import calibration_error, isotonic, platt, temperature
from training.metrics.intervals import BoolArray, Figure, FloatArray, TooFew, Undefined, attempt
from training.metrics.operating import operating_points, sensitivity_specificity
from training.metrics.scores import auroc
from training.metrics.shortcuts import shortcut_baselines
from training.pictures import Pictures
from training.sampling import IntArray


@dataclass(frozen=True)
class Line:
    """Calibration of one output: probability = sigmoid(slope * logit + intercept), or by a table.

    Parameters
    ----------
    isotonic
        Pairs of logit and probability in the place of slope and intercept; empty if there are none.
    reason
        Why there is none; empty if there is.
    """

    slope: float = 1.0
    intercept: float = 0.0
    isotonic: tuple[tuple[float, float], ...] = ()
    reason: str = ""

    def __call__(self, logits: FloatArray) -> FloatArray:
        """Probabilities of logits."""
        return probabilities(logits, slope=self.slope, intercept=self.intercept, isotonic=self.isotonic)

    @property
    def contract(self) -> dict[str, Any]:
        """As ``models.bundle.FindingContract`` has it."""
        if self.isotonic:
            return {"isotonic": [list(pair) for pair in self.isotonic]}
        return {"slope": self.slope, "intercept": self.intercept}


@dataclass(frozen=True)
class Verdict:
    """What the contract says of a finding, and why.

    Parameters
    ----------
    output
        Which of the network's outputs.
    auroc
        On test patients.
    evidence
        None where it could not be weighed: `reason` says why.
    localises
        Whether what is drawn for it was shown to lie on it.
    """

    key: str
    output: int
    line: Line
    threshold_absent: float
    threshold_present: float
    auroc: Figure
    evidence: Evidence | None
    reason: str = ""
    localises: bool = False

    @property
    def evaluated(self) -> bool:
        """Whether the node may report it."""
        return self.evidence is not None and self.evidence.carries

    @property
    def contract(self) -> dict[str, Any]:
        """As ``models.bundle.FindingContract`` has it."""
        return {
            "output": self.output, "evaluated": self.evaluated, **self.line.contract,
            "threshold_absent": self.threshold_absent, "threshold_present": self.threshold_present,
            "localises": self.localises and self.evaluated,
        }  # fmt: skip


def line_of(truth: FloatArray, logits: FloatArray, kind: str = "platt") -> Line:
    """Calibration of one output on validation, shape (n,) each; the identity where none can be fitted.

    Parameters
    ----------
    kind
        One of ``training.recipe.CALIBRATIONS``.
    """
    looked = ~np.isnan(truth)
    try:
        line = _FITTED[kind](truth[looked], logits[looked])
    except Undefined as why:
        return Line(reason=f"validation: {why}")
    if line.slope <= 0 or (line.isotonic and line.isotonic[0][1] == line.isotonic[-1][1]):
        return Line(reason="validation: higher scores are no more probable")
    return line


def _isotonic(truth: FloatArray, logits: FloatArray) -> Line:
    """Many images share one probability: more coarsely than findings give it, it is on one side of each threshold."""
    found = isotonic(truth, logits)
    return Line(isotonic=tuple((s, round(p, 5)) for s, p in zip(found.scores, found.probabilities, strict=True)))


_FITTED: Mapping[str, Callable[[FloatArray, FloatArray], Line]] = {
    "platt": lambda truth, logits: Line(*platt(truth, logits)),
    "temperature": lambda truth, logits: Line(1 / temperature(truth, logits)),
    "isotonic": _isotonic,
}


def calibrated(lines: tuple[Line, ...], logits: FloatArray) -> FloatArray:
    """Probabilities of logits (n, findings)."""
    return np.stack([line(logits[:, i]) for i, line in enumerate(lines)], 1)


def asked(
    pictures: Pictures,
    rows: IntArray,
    *,
    findings: tuple[str, ...],
    truth: FloatArray,
    logits: FloatArray,
    lines: tuple[Line, ...],
) -> Asked:
    """Answers for rows of pictures from their logits (n, findings)."""
    records, small = records_of(pictures, rows), thumbnails(pictures, rows)
    return Asked(records, findings, truth, sigmoid(logits), calibrated(lines, logits), small)


def shortcuts(test: Asked, seed: int) -> dict[str, dict[str, FloatArray]]:
    """Finding to the scores of its shortcut baselines on the items labelled for it; none where too few patients are."""
    found: dict[str, dict[str, FloatArray]] = {}
    for key in test.findings:
        column = test.answers.of(key)
        records = [record for record, looked in zip(test.records, column.known, strict=True) if looked]
        try:
            found[key] = shortcut_baselines(column.truth, records, test.thumbnails[column.known], seed)
        except Undefined:
            found[key] = {}
    return found


def strongest(truth: BoolArray, baselines: Mapping[str, FloatArray]) -> tuple[str, float]:
    """The baseline with the highest AUROC, and that.

    Raises
    ------
    Undefined
        When there is none: then nothing shows that a model does better.
    """
    if not baselines:
        raise Undefined("too few patients for a shortcut baseline")
    values = {name: float(roc_auc_score(truth, scores)) for name, scores in baselines.items()}
    best = max(values, key=lambda name: values[name])
    return best, values[best]


def weigh(
    val: Asked, test: Asked, lines: Sequence[Line], baselines: Mapping[str, Mapping[str, FloatArray]], seed: int
) -> tuple[Verdict, ...]:
    """Settle the thresholds of each finding on `val` and weigh the evidence for it on `test`.

    Parameters
    ----------
    lines
        One for each finding.
    baselines
        As by `shortcuts`.
    """
    return tuple(_weigh(val, test, i, line, baselines, seed=seed) for i, line in enumerate(lines))


def _weigh(
    val: Asked, test: Asked, output: int, line: Line, baselines: Mapping[str, Mapping[str, FloatArray]], *, seed: int
) -> Verdict:
    key = test.findings[output]
    chosen, judged = val.answers.of(key), test.answers.of(key)
    figure = attempt(partial(auroc, judged.truth, judged.scores, judged.patients, seed))
    verdict = Verdict(key, output, line, 0.5, 0.5, figure, None, line.reason)
    try:
        absent, present = operating_points(
            chosen.truth, chosen.scores, specificity=SPECIFICITY, sensitivity=SENSITIVITY, least=LEAST_PROBABILITY
        )
        verdict = replace(verdict, threshold_absent=absent, threshold_present=min(present, 1.0))
        if line.reason:
            return verdict
        evidence = _evidence(verdict, judged, baselines[key])
    except Undefined as why:
        return replace(verdict, reason=verdict.reason or str(why))
    return replace(verdict, evidence=evidence, reason="" if evidence.carries else "the evidence does not carry it")


def _evidence(verdict: Verdict, judged: Column, baselines: Mapping[str, FloatArray]) -> Evidence:
    if isinstance(verdict.auroc, TooFew):
        raise Undefined(verdict.auroc.reason)
    _, shortcut = strongest(judged.truth, baselines)
    sensitivity, specificity = sensitivity_specificity(judged.truth, judged.scores, verdict.threshold_present)
    return Evidence(
        verdict.key, int(judged.truth.sum()), len(judged.truth), verdict.auroc, shortcut,
        calibration_error(judged.truth, judged.scores), verdict.line.slope, verdict.line.intercept,
        verdict.threshold_absent, verdict.threshold_present, sensitivity, specificity,
    )  # fmt: skip

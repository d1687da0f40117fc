"""F1 of calls: of each finding, of all taken together, and on average.

The rule: F1 is only had with validation and test side by side, and its thresholds come from the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from training.metrics.answers import Answers, Column, keep_apart
from training.metrics.intervals import (
    Figure,
    FloatArray,
    Statistic,
    TooFew,
    Undefined,
    among,
    attempt,
    binary,
    bootstrap,
    both_classes,
    carriers,
    finite,
    mean_of,
)

_Parts = tuple[Statistic, Statistic]  # numerator and denominator


@dataclass(frozen=True)
class F1Table:
    """F1 on test patients, at thresholds from others.

    Parameters
    ----------
    thresholds
        Finding to the score from which on it is called; a finding that validation could not settle is not there.
    findings
        F1 of each finding, 0 to 1.
    macro
        Unweighted mean over the findings that have a figure.
    micro
        F1 of all calls of those findings taken together.
    """

    thresholds: Mapping[str, float]
    findings: Mapping[str, Figure]
    macro: Figure
    micro: Figure


def f1_table(validation: Answers, test: Answers, seed: int = 0) -> F1Table:
    """F1 of each finding on `test`, at the threshold that is best on `validation`.

    Raises
    ------
    PatientsShared
        When a patient lies in both.
    """
    keep_apart(validation, test)
    thresholds: dict[str, float] = {}
    figures: dict[str, Figure] = {}
    settled: list[_Parts] = []
    trials: list[int] = []  # that a perfect F1 rests on: patients with the finding
    for finding in test.findings:
        chosen, judged = validation.of(finding), test.of(finding)
        try:
            thresholds[finding] = best_f1_threshold(chosen.truth, chosen.scores)
        except Undefined as why:
            figures[finding] = TooFew(f"validation: {why}")
            continue
        if not judged.truth.any():
            figures[finding] = TooFew("no positive in test")
            continue
        settled.append(_parts(judged, thresholds[finding]))
        trials.append(carriers(judged.truth, judged.patients))
        draw = partial(bootstrap, _quotient(settled[-1:]), test.patients, seed, trials=trials[-1])
        figures[finding] = attempt(draw)
    if not settled:
        return F1Table(thresholds, figures, TooFew("no finding has an F1"), TooFew("no finding has an F1"))
    macro, micro = (
        attempt(partial(bootstrap, statistic, test.patients, seed, trials=min(trials)))
        for statistic in (mean_of([_quotient([parts]) for parts in settled]), _quotient(settled))
    )
    return F1Table(thresholds, figures, macro, micro)


def best_f1_threshold(truth: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """The score from which on calling it positive gives the highest F1; halfway to the next score below, if any.

    Parameters
    ----------
    truth
        Shape (n,), 0 or 1: of validation images.
    scores
        Shape (n,).

    Raises
    ------
    Undefined
        Unless both 0 and 1 occur.
    """
    numbers = finite(scores, "scores", len(np.atleast_1d(np.asarray(scores))))
    positive = binary(truth, len(numbers))
    both_classes(positive, "a threshold")
    levels, index = np.unique(-numbers, return_inverse=True)
    hits = np.cumsum(np.bincount(index, positive))
    f1 = 2 * hits / (np.cumsum(np.bincount(index)) + positive.sum())
    best = int(f1.argmax())  # the highest of equals: fewest calls
    return float(-levels[best] if best == len(levels) - 1 else -(levels[best] + levels[best + 1]) / 2)


def _parts(judged: Column, threshold: float) -> _Parts:
    """2 TP, and positives with calls, whose quotient is F1; NaN in a draw without positives."""
    called = judged.scores >= threshold
    hits, calls, positives = (a.astype(np.float64) for a in (judged.truth & called, called, judged.truth))

    def sizes(weights: FloatArray) -> FloatArray:
        drawn = weights @ positives
        return np.where(drawn > 0, drawn + weights @ calls, np.nan)

    return among(judged.known, lambda weights: 2 * (weights @ hits)), among(judged.known, sizes)


def _quotient(parts: Sequence[_Parts]) -> Statistic:
    def quotient(weights: FloatArray) -> FloatArray:
        above = np.sum([hits(weights) for hits, _ in parts], axis=0)
        return np.asarray(above / np.sum([sizes(weights) for _, sizes in parts], axis=0))

    return quotient

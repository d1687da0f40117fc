"""How well scores tell positives from negatives: AUROC and AUPRC, with intervals by patient.

The rule: a tie counts half, so that the order of the images changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training.metrics.answers import Answers
from training.metrics.intervals import (
    BoolArray,
    FloatArray,
    Interval,
    Statistic,
    among,
    binary,
    bootstrap,
    both_classes,
    carriers,
    finite,
    mean_of,
    ratio,
)


def auroc(truth: npt.ArrayLike, scores: npt.ArrayLike, patients: Sequence[str], seed: int = 0) -> Interval:
    """Area under the ROC curve, 0 to 1: how often a positive scores above a negative, a tie counting half.

    Hanley and McNeil, Radiology 1982. An area of 1 (or 0) rests on as many trials as the smaller class has patients: so
    many pairs of a positive and a negative share nobody, and each of them was won (or lost).

    Parameters
    ----------
    truth
        Shape (n,), 0 or 1.
    scores
        Shape (n,), higher for positives.
    patients
        Shape (n,).

    Raises
    ------
    Undefined
        Unless both 0 and 1 occur, in two patients at least.
    """
    positive = binary(truth, len(patients))
    both_classes(positive, "AUROC")
    statistic = auroc_statistic(positive, finite(scores, "scores", len(patients)))
    return bootstrap(statistic, patients, seed, trials=_pairs(positive, patients))


def auprc(truth: npt.ArrayLike, scores: npt.ArrayLike, patients: Sequence[str], seed: int = 0) -> Interval:
    """Area under the precision-recall curve, 0 to 1, as average precision: precision summed over steps of recall.

    Not interpolated, as in scikit-learn; a score that knows nothing has the share of positives. Takes and raises what
    `auroc` does; an area of 1 rests on as many trials.
    """
    positive = binary(truth, len(patients))
    both_classes(positive, "AUPRC")
    statistic = auprc_statistic(positive, finite(scores, "scores", len(patients)))
    return bootstrap(statistic, patients, seed, trials=_pairs(positive, patients))


def mean_auroc(answers: Answers, seed: int = 0) -> Interval:
    """Mean AUROC of all findings, each on the images that are labelled for it; one draw of patients serves them all.

    Raises
    ------
    Undefined
        When a finding lacks positives or negatives: leave it out of `answers` first, and say so.
    """
    statistics, pairs = [], []
    for finding in answers.findings:
        column = answers.of(finding)
        both_classes(column.truth, f"AUROC of {finding}")
        statistics.append(among(column.known, auroc_statistic(column.truth, column.scores)))
        pairs.append(_pairs(column.truth, column.patients))
    return bootstrap(mean_of(statistics), answers.patients, seed, trials=min(pairs))


def _pairs(positive: BoolArray, patients: Sequence[str]) -> int:
    """How many pairs of a positive and a negative patient there are, nobody in two of them."""
    return min(carriers(positive, patients), carriers(~positive, patients))


def auroc_statistic(truth: BoolArray, scores: FloatArray) -> Statistic:
    """AUROC of `scores` as a function of how often each image counts."""
    order = np.argsort(scores, kind="stable")
    starts, positive = _tied(scores[order]), truth[order]

    def statistic(weights: FloatArray) -> FloatArray:
        ranked = weights[:, order]
        right = np.add.reduceat(ranked * positive, starts, axis=1)
        wrong = np.add.reduceat(ranked * ~positive, starts, axis=1)
        won = (right * (np.cumsum(wrong, 1) - wrong / 2)).sum(1)
        return ratio(won, right.sum(1) * wrong.sum(1))

    return statistic


def auprc_statistic(truth: BoolArray, scores: FloatArray) -> Statistic:
    """AUPRC of `scores` as a function of how often each image counts."""
    order = np.argsort(-scores, kind="stable")
    starts, positive = _tied(scores[order]), truth[order]

    def statistic(weights: FloatArray) -> FloatArray:
        ranked = weights[:, order]
        right = np.add.reduceat(ranked * positive, starts, axis=1)
        called = np.cumsum(np.add.reduceat(ranked, starts, axis=1), 1)
        precision = np.nan_to_num(ratio(np.cumsum(right, 1), called))  # 0 before anything is called: right is 0 there
        total = right.sum(1)
        return np.where(called[:, -1] > total, ratio((right * precision).sum(1), total), np.nan)

    return statistic


def _tied(ranked: FloatArray) -> npt.NDArray[np.intp]:
    """Where each run of equal scores starts."""
    return np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))

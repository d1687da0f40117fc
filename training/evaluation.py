"""Figures with their uncertainty: AUROC with intervals by patient, calibration, operating points, shortcut baselines.

The rule: every figure comes from patients that the model has not seen, and a threshold is never chosen on the images
on which it is then judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

FloatArray = npt.NDArray[np.float64]

BOOTSTRAP_SAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def auroc(truth: FloatArray, scores: FloatArray, patients: Sequence[str], seed: int = 0) -> Interval:
    """Area under the ROC curve; the interval is a percentile bootstrap that draws patients, not images.

    Parameters
    ----------
    truth
        Shape (n,), 0 or 1, both occurring.
    scores
        Shape (n,), higher for positives.
    """
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    members = [np.flatnonzero(index == i) for i in range(len(names))]
    rng = np.random.default_rng(seed)
    draws: list[float] = []
    while len(draws) < BOOTSTRAP_SAMPLES:
        chosen = np.concatenate([members[i] for i in rng.integers(0, len(names), len(names))])
        if 0 < truth[chosen].sum() < len(chosen):
            draws.append(roc_auc_score(truth[chosen], scores[chosen]))
    low, high = np.percentile(draws, (2.5, 97.5))
    return Interval(float(roc_auc_score(truth, scores)), float(low), float(high))


def mean_interval(values: FloatArray, patients: Sequence[str], seed: int = 0) -> Interval:
    """Mean of one figure an image, with a bootstrap interval that draws patients."""
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    sums = np.bincount(index, values, len(names))
    counts = np.bincount(index, minlength=len(names)).astype(float)
    drawn = np.random.default_rng(seed).integers(0, len(names), (BOOTSTRAP_SAMPLES, len(names)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(values.mean()), float(low), float(high))


def platt(truth: FloatArray, logits: FloatArray) -> tuple[float, float]:
    """Slope and intercept such that sigmoid(slope * logit + intercept) is a probability (Platt, 1999)."""
    fitted = LogisticRegression(C=1e3).fit(logits[:, None], truth)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def calibration_error(truth: FloatArray, probabilities: FloatArray, bins: int = 10) -> float:
    """Expected calibration error over bins of equal count: mean of abs(observed share - mean probability)."""
    order = np.array_split(np.argsort(probabilities), bins)
    return float(sum(len(i) * abs(truth[i].mean() - probabilities[i].mean()) for i in order if len(i)) / len(truth))


def operating_points(
    truth: FloatArray, probabilities: FloatArray, *, specificity: float, sensitivity: float, least: float = 0.0
) -> tuple[float, float]:
    """Thresholds (absent, present): below the first at most 1 - `sensitivity` of the positives lie, from the second on
    at most 1 - `specificity` of the negatives."""
    present = max(least, float(np.quantile(probabilities[truth == 0], specificity)))
    absent = float(np.quantile(probabilities[truth == 1], 1 - sensitivity))
    return min(absent, 0.999 * present), present


def sensitivity_specificity(truth: FloatArray, probabilities: FloatArray, threshold: float) -> tuple[float, float]:
    """Share of positives at or above the threshold, and of negatives below it."""
    called = probabilities >= threshold
    return float(called[truth == 1].mean()), float((~called[truth == 0]).mean())


def shortcut_scores(
    truth: FloatArray, attributes: Sequence[tuple[str, ...]], folds: npt.NDArray[np.int_]
) -> FloatArray:
    """Out-of-fold scores of a logistic regression on attributes such as view and source alone, without the image."""
    levels = [sorted(set(column)) for column in zip(*attributes, strict=True)]
    columns = [[float(row[i] == level) for i, names in enumerate(levels) for level in names] for row in attributes]
    features, scores = np.asarray(columns), np.zeros(len(truth))
    for fold in np.unique(folds):
        train = folds != fold
        if 0 < truth[train].sum() < train.sum():
            fitted = LogisticRegression(max_iter=1000).fit(features[train], truth[train])
            scores[~train] = fitted.decision_function(features[~train])
    return scores

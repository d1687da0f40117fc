"""Whether a probability means what it says, and the maps that make it so.

The rule: a map is fitted on other patients than those on whom the calibration is then judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from training.metrics.intervals import (
    BoolArray,
    FloatArray,
    IntArray,
    Interval,
    Undefined,
    binary,
    both_classes,
    finite,
    mean_interval,
    share_interval,
)

_TEMPERATURES = (0.01, 100.0)  # what is looked through


@dataclass(frozen=True)
class ReliabilityBin:
    """One point of the reliability curve: mean predicted probability, observed share with interval, images."""

    predicted: float
    observed: Interval
    images: int


def reliability(
    truth: npt.ArrayLike, probabilities: npt.ArrayLike, patients: Sequence[str], bins: int = 10
) -> tuple[ReliabilityBin, ...]:
    """The reliability curve over bins of equal count; images of one probability stay in one bin.

    Parameters
    ----------
    truth, probabilities, patients
        Shape (n,): 0 or 1, 0 to 1, names.
    """
    positive, numbers = _checked(truth, probabilities)
    names = np.asarray(patients, object)
    return tuple(
        ReliabilityBin(float(numbers[i].mean()), share_interval(positive[i], tuple(names[i])), len(i))
        for i in _equal_counts(numbers, bins)
    )


def calibration_error(truth: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 10) -> float:
    """Expected calibration error, 0 to 1: mean of abs(observed share - mean probability) over bins of equal count.

    Naeini et al., AAAI 2015, with the bins of Nixon et al., 2019. Images of one probability stay in one bin, so the
    order of the images changes nothing. For exclusive classes: `truth` is whether the call was right, and
    `probabilities` what was given to it. It never falls to 0 by chance: compare models on the same images only.

    Parameters
    ----------
    truth, probabilities
        Shape (n,): 0 or 1, 0 to 1.

    Raises
    ------
    Undefined
        When there is no image.
    """
    positive, numbers = _checked(truth, probabilities)
    parts = _equal_counts(numbers, bins)
    return float(sum(len(i) * abs(positive[i].mean() - numbers[i].mean()) for i in parts) / len(numbers))


def brier(truth: npt.ArrayLike, probabilities: npt.ArrayLike, patients: Sequence[str], seed: int = 0) -> Interval:
    """Mean squared error of the probabilities, 0 (sure and right) to 1 (Brier, 1950)."""
    positive, numbers = _checked(truth, probabilities)
    return mean_interval((numbers - positive) ** 2, patients, seed)


def platt(truth: npt.ArrayLike, logits: npt.ArrayLike) -> tuple[float, float]:
    """Slope and intercept such that sigmoid(slope * logit + intercept) is a probability (Platt, 1999).

    Raises
    ------
    Undefined
        Unless both 0 and 1 occur.
    """
    scores = np.asarray(logits, np.float64)
    positive = binary(truth, len(scores))
    both_classes(positive, "Platt scaling")
    fitted = LogisticRegression(C=1e3).fit(scores[:, None], positive)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def temperature(truth: npt.ArrayLike, logits: npt.ArrayLike) -> float:
    """What the logits are to be divided by: the temperature of least log loss (Guo et al., ICML 2017).

    Parameters
    ----------
    truth
        Shape (n,): 0 or 1, or the number of the class.
    logits
        Shape (n,) for a sigmoid, or (n, classes) for a softmax.

    Raises
    ------
    Undefined
        When only one class occurs, or no temperature from 0.01 to 100 is best: the logits separate the classes
        perfectly, or know nothing of them.
    """
    table = np.asarray(logits, np.float64)
    if table.ndim == 1:
        table = np.stack((np.zeros(len(table)), table), 1)
    if not np.isfinite(table).all():
        raise ValueError("logits that are not finite")
    classes = finite(truth, "labels", len(table)).astype(np.int_)
    if (classes != np.asarray(truth)).any() or (classes < 0).any() or (classes >= table.shape[1]).any():
        raise ValueError(f"labels are whole numbers from 0 to {table.shape[1] - 1}")
    if len(np.unique(classes)) < 2:
        raise Undefined("a temperature takes two classes at least")
    chosen = table[np.arange(len(table)), classes]

    def loss(log_temperature: float) -> float:
        warmth = np.exp(log_temperature)
        return float((logsumexp(table / warmth, axis=1) - chosen / warmth).mean())

    coldest, hottest = np.log(_TEMPERATURES)
    best = float(minimize_scalar(loss, bounds=(coldest, hottest), method="bounded", options={"xatol": 1e-6}).x)
    if min(best - coldest, hottest - best) < 1e-3:
        raise Undefined("no temperature is best: the logits separate the classes perfectly, or know nothing of them")
    return float(np.exp(best))


@dataclass(frozen=True)
class Isotonic:
    """A rising map of scores to probabilities: straight between its points, level beyond them.

    Parameters
    ----------
    scores, probabilities
        Rising; the latter from 0 to 1.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, scores: npt.ArrayLike) -> FloatArray:
        """Probabilities of scores."""
        return np.interp(np.asarray(scores, np.float64), self.scores, self.probabilities)


def isotonic(truth: npt.ArrayLike, scores: npt.ArrayLike) -> Isotonic:
    """The rising map of least squared error (Zadrozny and Elkan, KDD 2002).

    It takes some hundred positives to be trusted: with fewer, `platt` errs less.

    Raises
    ------
    Undefined
        Unless both 0 and 1 occur.
    """
    numbers = np.asarray(scores, np.float64)
    positive = binary(truth, len(numbers))
    both_classes(positive, "isotonic calibration")
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(numbers, positive)
    return Isotonic(tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist()))


def _checked(truth: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[BoolArray, FloatArray]:
    numbers = np.asarray(probabilities, np.float64)
    if not len(numbers):
        raise Undefined("calibration of no images")
    if not ((numbers >= 0) & (numbers <= 1)).all():
        raise ValueError("probabilities lie from 0 to 1")
    return binary(truth, len(numbers)), numbers


def _equal_counts(numbers: FloatArray, bins: int) -> list[IntArray]:
    """Indices of each bin, rising; an edge that would part equal numbers moves up behind them."""
    order = np.argsort(numbers, kind="stable")
    ranked = numbers[order]
    starts = np.cumsum([len(part) for part in np.array_split(order, bins)])[:-1]
    starts = starts[(starts > 0) & (starts < len(order))]
    edges = np.unique([np.searchsorted(ranked, ranked[start - 1], "right") for start in starts]).astype(np.int_)
    return [part for part in np.split(order, edges) if len(part)]

"""Figures with their 95 % intervals, drawn by patient.

The rule: images of one patient are not independent, so an interval always counts patients; a figure that the data do
not define raises `Undefined`, or stands in a table as `TooFew`; and no interval is certain.

Of a perfect figure, and of one of 0, every draw of a bootstrap is the same, which says nothing of the doubt (N.
Obuchowski and M. Lieber, Confidence bounds when the estimated ROC area is 1.0, Acad Radiol 2002): there Wilson's
interval stands, for as many independent trials as the figure rests on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int_]
# Takes weights (draws, n), how often each draw holds each image; gives (draws,), NaN where a draw does not define it.
Statistic = Callable[[FloatArray], FloatArray]

BOOTSTRAP_SAMPLES = 1000
_MOST_TRIES = 10 * BOOTSTRAP_SAMPLES  # draws, with those that do not define the figure
_WEIGHTS_AT_ONCE = 1_000_000  # bounds memory: 8 MB an array
_Z = 1.959964  # the normal distribution's 97.5 % quantile


class Undefined(ValueError):
    """A figure that these data do not define; the message says what is missing."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class TooFew:
    """What stands in a table in place of a figure that is not defined, or that too few patients carry."""

    reason: str

    def __str__(self) -> str:
        return "too few"


Figure = Interval | TooFew


def attempt(measure: Callable[[], Interval]) -> Figure:
    """What `measure` gives, or `TooFew` with the reason for which it raised `Undefined`."""
    try:
        return measure()
    except Undefined as why:
        return TooFew(str(why))


def bootstrap(statistic: Statistic, patients: Sequence[str], seed: int = 0, *, trials: int | None = None) -> Interval:
    """Percentile bootstrap that draws patients with all their images (Efron and Tibshirani, 1993; Field, Welsh, 2007).

    A draw that does not define the figure (one without positives, say) is drawn anew.

    Parameters
    ----------
    statistic
        The figure as a function of weights, see `Statistic`.
    patients
        Shape (n,): the patient of each image.
    trials
        Of a figure from 0 to 1: how many independent trials it is worth at least. Where it is 0 or 1 and so is every
        draw, its interval is Wilson's for so many. None for a figure of another range.

    Raises
    ------
    Undefined
        When the data do not define the figure, or hardly any draw does, or there is but one patient.
    """
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    if len(names) < 2:
        raise Undefined(f"an interval takes two patients at least, here: {len(names)}")
    value = float(statistic(np.ones((1, len(index))))[0])
    if np.isnan(value):
        raise Undefined("these images do not define the figure")
    rng = np.random.default_rng(seed)
    batch = max(1, min(BOOTSTRAP_SAMPLES, _WEIGHTS_AT_ONCE // len(index)))
    defined = np.empty(0)
    for _ in range(0, _MOST_TRIES, batch):
        drawn = rng.integers(0, len(names), (batch, len(names))) + np.arange(batch)[:, None] * len(names)
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        found = statistic(times[:, index].astype(np.float64))
        defined = np.append(defined, found[~np.isnan(found)])
        if len(defined) >= BOOTSTRAP_SAMPLES:
            low, high = np.percentile(defined[:BOOTSTRAP_SAMPLES], (2.5, 97.5))
            if trials is not None and low == high == value and value in (0.0, 1.0):
                return wilson(value, trials)
            return Interval(value, float(low), float(high))
    raise Undefined(f"{len(defined)} of {_MOST_TRIES} draws of patients define the figure: too few carry it")


def mean_interval(values: FloatArray, patients: Sequence[str], seed: int = 0, *, shares: bool = False) -> Interval:
    """Mean of one figure an image, with a bootstrap interval that draws patients.

    For what is true or false of an image use `share_interval`.

    Parameters
    ----------
    shares
        Whether the figure lies from 0 to 1, as Dice does; every patient is then worth one trial.

    Raises
    ------
    Undefined
        When there are fewer than two patients.
    """
    numbers = finite(values, "values", len(patients))
    trials = len(set(patients)) if shares else None
    return bootstrap(lambda weights: weights @ numbers / weights.sum(1), patients, seed, trials=trials)


def share_interval(called: npt.ArrayLike, patients: Sequence[str]) -> Interval:
    """Share of images, with Wilson's interval (1927) for as many images as the patients are worth.

    With one image a patient this is Wilson's interval. Otherwise the images count by their design effect (Kish, 1965),
    estimated from the spread between patients and never taken below 1, as Korn and Graubard (1998) do for surveys. If
    all images say the same, the spread tells nothing and every patient counts once.

    Parameters
    ----------
    called
        Shape (n,), false or true.
    patients
        Shape (n,).

    Raises
    ------
    Undefined
        When there is no image.
    """
    numbers = np.asarray(called, np.bool_).astype(np.float64)
    if len(numbers) != len(patients):
        raise ValueError(f"{len(numbers)} images, but patients of {len(patients)}")
    if not len(numbers):
        raise Undefined("a share of no images")
    _, index, sizes = np.unique(np.asarray(patients), return_inverse=True, return_counts=True)
    share, images, people = float(numbers.mean()), len(numbers), len(sizes)
    if people in (1, images) or share in (0.0, 1.0):
        return wilson(share, people)
    spread = ((np.bincount(index, numbers) - share * sizes) ** 2).sum() * people / (people - 1) / images**2
    effect = max(1.0, spread / (share * (1 - share) / (images - 1)))
    return wilson(share, images / effect)


def wilson(share: float, trials: float) -> Interval:
    """Wilson's score interval (1927) of a share, 0 to 1, seen in so many independent trials."""
    if trials <= 0:
        raise Undefined("a share of no trials")
    centre = share + _Z**2 / (2 * trials)
    half = _Z * np.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    low, high = (float((centre + side * half) / (1 + _Z**2 / trials)) for side in (-1, 1))
    return Interval(share, max(0.0, min(low, share)), min(1.0, max(high, share)))


def carriers(truth: BoolArray, patients: Sequence[str]) -> int:
    """How many patients have an image of which `truth` holds."""
    return len(set(np.asarray(patients, object)[truth]))


def mean_of(statistics: Sequence[Statistic]) -> Statistic:
    """The mean of several figures under the same draws; a draw that does not define one of them defines none."""

    def mean(weights: FloatArray) -> FloatArray:
        return np.asarray(np.mean([statistic(weights) for statistic in statistics], axis=0))

    return mean


def among(known: BoolArray, statistic: Statistic) -> Statistic:
    """A statistic of the known images as one of all."""
    return lambda weights: statistic(weights[:, known])


def ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """Quotient, NaN where nothing stands below: for the statistics of a `bootstrap`."""
    return np.asarray(np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0))


def finite(values: npt.ArrayLike, what: str, length: int) -> FloatArray:
    """`values` as numbers of shape (length,).

    Raises
    ------
    ValueError
        When there are more or fewer, or one is not finite.
    """
    numbers: FloatArray = np.asarray(values, np.float64)
    if numbers.shape != (length,):
        raise ValueError(f"{what} have shape {numbers.shape}, expected ({length},)")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{what} hold {int((~np.isfinite(numbers)).sum())} that are not finite")
    return numbers


def binary(truth: npt.ArrayLike, length: int) -> BoolArray:
    """`truth` of shape (length,) as booleans.

    Raises
    ------
    ValueError
        When there are more or fewer, or one is neither 0 nor 1: uncertain labels are to be settled or left out before.
    """
    numbers = finite(truth, "labels", length)
    if not np.isin(numbers, (0, 1)).all():
        raise ValueError("labels other than 0 and 1: settle uncertain ones, or leave their images out")
    return np.asarray(numbers == 1, np.bool_)


def both_classes(truth: BoolArray, what: str) -> None:
    """Raise `Undefined` unless there is a positive and a negative."""
    if truth.all() or not truth.any():
        raise Undefined(f"{what} takes positives and negatives, here: {int(truth.sum())} and {int((~truth).sum())}")

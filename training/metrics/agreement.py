"""How far a measurement agrees with a reference, such as the cardiothoracic ratio with that of drawn outlines.

The rule: bias and spread are told apart (Bland and Altman, Lancet 1986); a correlation tells neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.metrics.intervals import (
    FloatArray,
    Interval,
    Statistic,
    Undefined,
    bootstrap,
    finite,
    mean_interval,
    ratio,
)

_LIMIT = 1.96  # standard deviations to a limit of agreement


@dataclass(frozen=True)
class Agreement:
    """Measured less reference, in the unit of the measurement, with intervals by patient.

    Parameters
    ----------
    images
        How many were measured.
    absolute_error
        Mean of the absolute differences.
    bias
        Mean of the differences.
    lower, upper
        Limits of agreement, between which 95 % of the differences lie if they are normally distributed.
    """

    images: int
    absolute_error: Interval
    bias: Interval
    lower: Interval
    upper: Interval


def agreement(measured: npt.ArrayLike, reference: npt.ArrayLike, patients: Sequence[str], seed: int = 0) -> Agreement:
    """Compare a measurement with its reference, shape (n,) each; the cardiothoracic ratio is a share, 0 to 1.

    Raises
    ------
    Undefined
        When there are fewer than two patients.
    """
    differences = finite(measured, "measured values", len(patients)) - finite(reference, "references", len(patients))
    if not len(differences):
        raise Undefined("agreement of no measurements")
    return Agreement(
        len(differences),
        mean_interval(np.abs(differences), patients, seed),
        mean_interval(differences, patients, seed),
        bootstrap(_limit(differences, -_LIMIT), patients, seed),
        bootstrap(_limit(differences, _LIMIT), patients, seed),
    )


def _limit(differences: FloatArray, deviations: float) -> Statistic:
    centre = float(differences.mean())
    moved = differences - centre  # else the squares cancel badly

    def limit(weights: FloatArray) -> FloatArray:
        total = weights.sum(1)
        mean = weights @ moved / total
        variance = ratio(weights @ moved**2 - total * mean**2, total - 1)
        return np.asarray(centre + mean + deviations * np.sqrt(np.clip(variance, 0, None)))

    return limit

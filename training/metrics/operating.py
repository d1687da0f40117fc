"""Thresholds, and what calling from there on does to patients who had no part in choosing them.

The rule: two points, a sensitive and a specific one, are chosen on validation and judged on test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.metrics.answers import Answers, keep_apart
from training.metrics.confusion import Counts, count
from training.metrics.intervals import (
    BoolArray,
    Figure,
    FloatArray,
    attempt,
    binary,
    both_classes,
    finite,
    share_interval,
)


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold does; shares from 0 to 1 with intervals by patient.

    Parameters
    ----------
    threshold
        A score from here on is called positive.
    ppv, npv
        Positive and negative predictive value, at the prevalence of these images and no other.
    """

    threshold: float
    counts: Counts
    sensitivity: Figure
    specificity: Figure
    ppv: Figure
    npv: Figure


@dataclass(frozen=True)
class OperatingPoints:
    """The sensitive point, below which a finding is absent, and the specific one, from which on it is present."""

    sensitive: OperatingPoint
    specific: OperatingPoint


def judge_operating_points(
    validation: Answers, test: Answers, finding: str, *, sensitivity: float = 0.9, specificity: float = 0.9
) -> OperatingPoints:
    """Choose both thresholds on `validation` and judge them on `test`.

    Parameters
    ----------
    sensitivity, specificity
        What the sensitive and the specific point reach on validation at least, above 0, up to 1.

    Raises
    ------
    PatientsShared
        When a patient lies in both.
    Undefined
        When validation lacks positives or negatives.
    """
    keep_apart(validation, test)
    chosen, judged = validation.of(finding), test.of(finding)
    both_classes(chosen.truth, f"operating points of {finding}")
    return OperatingPoints(*(
        operating_point(judged.truth, judged.scores, judged.patients, threshold)
        for threshold in (
            sensitive_threshold(chosen.truth, chosen.scores, sensitivity),
            specific_threshold(chosen.truth, chosen.scores, specificity),
        )
    ))  # fmt: skip


def operating_point(
    truth: npt.ArrayLike, scores: npt.ArrayLike, patients: Sequence[str], threshold: float
) -> OperatingPoint:
    """What a threshold does to images, shape (n,) each, that had no part in choosing it."""
    positive = binary(truth, len(patients))
    called = finite(scores, "scores", len(patients)) >= threshold
    names = np.asarray(patients, object)

    def among(chosen: BoolArray, right: BoolArray) -> Figure:
        return attempt(lambda: share_interval(right[chosen], tuple(names[chosen])))

    return OperatingPoint(
        threshold, count(positive, called),
        among(positive, called), among(~positive, ~called), among(called, positive), among(~called, ~positive),
    )  # fmt: skip


def sensitive_threshold(truth: BoolArray, scores: FloatArray, sensitivity: float) -> float:
    """The highest threshold that this share of the positives reaches at least; halfway to the next score below it."""
    positives = np.sort(scores[truth])[::-1]
    reached = positives[_at_least(sensitivity, len(positives)) - 1]
    below = scores[scores < reached]
    return float((reached + below.max()) / 2 if len(below) else reached)


def specific_threshold(truth: BoolArray, scores: FloatArray, specificity: float) -> float:
    """The lowest threshold below which this share of the negatives lies at least; halfway to the next score above."""
    negatives = np.sort(scores[~truth])
    passed = negatives[_at_least(specificity, len(negatives)) - 1]
    above = scores[scores > passed]
    return float((passed + above.min()) / 2 if len(above) else np.nextafter(passed, np.inf))


def operating_points(
    truth: npt.ArrayLike, probabilities: npt.ArrayLike, *, specificity: float, sensitivity: float, least: float = 0.0
) -> tuple[float, float]:
    """Thresholds (absent, present): below the first at most 1 - `sensitivity` of the positives lie, from the second on
    at most 1 - `specificity` of the negatives; the second is `least` at least, and the first below the second.

    Raises
    ------
    Undefined
        Unless both 0 and 1 occur.
    """
    numbers = np.asarray(probabilities, np.float64)
    positive = binary(truth, len(numbers))
    both_classes(positive, "operating points")
    present = max(least, specific_threshold(positive, numbers, specificity))
    return min(sensitive_threshold(positive, numbers, sensitivity), 0.999 * present), present


def sensitivity_specificity(
    truth: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float
) -> tuple[float, float]:
    """Share of positives at or above the threshold, and of negatives below it.

    Raises
    ------
    Undefined
        Unless both 0 and 1 occur.
    """
    called = np.asarray(probabilities) >= threshold
    positive = binary(truth, len(called))
    both_classes(positive, "sensitivity and specificity")
    return float(called[positive].mean()), float((~called[~positive]).mean())


def _at_least(share: float, total: int) -> int:
    """The least number that is a share of a total; 0.9 of 10 is 9, whatever the last binary digit says."""
    if not 0 < share <= 1:
        raise ValueError(f"a share above 0, up to 1, not {share}")
    return max(1, math.ceil(round(share * total, 9)))

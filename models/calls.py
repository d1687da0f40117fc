"""From a network's score to what is said of a finding: its probability, and present, absent, undetermined, or no word.

The rule: a finding that the evidence does not carry is not evaluated, whatever its score. Judging settles and weighs by
these functions (``training.judging``), so that what was judged is what the node says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bundle import FindingContract
from models.findings import Finding, FindingState

_WIDEST = 30.0  # beyond it a probability differs from 0 or 1 by less than 1e-13


def sigmoid(scores: npt.ArrayLike) -> npt.NDArray[Any]:
    """1 / (1 + exp(-score)) of scores of any shape, in their precision; it never overflows."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(scores, -_WIDEST, _WIDEST))))


def probabilities(
    logits: npt.ArrayLike, *, slope: float, intercept: float, isotonic: Sequence[tuple[float, float]]
) -> npt.NDArray[Any]:
    """Calibrated probabilities of logits of any shape: by the table where there is one, by the line where not."""
    if isotonic:
        points, shares = zip(*isotonic, strict=True)
        return np.asarray(np.interp(np.asarray(logits, np.float64), points, shares))
    return sigmoid(slope * np.asarray(logits) + intercept)


def calibrate(logit: float, contract: FindingContract) -> float:
    """From a logit to a probability, as finely as findings give it."""
    c = contract
    found = probabilities(logit, slope=c.slope, intercept=c.intercept, isotonic=c.isotonic)
    return round(float(found), 6)


def state_of(probability: float, contract: FindingContract) -> FindingState:
    """Present from the upper threshold, absent below the lower one, undetermined between them."""
    if probability >= round(contract.threshold_present, 6):  # as finely as both are given
        return FindingState.PRESENT
    return FindingState.ABSENT if probability < contract.threshold_absent else FindingState.UNDETERMINED


def called(probability: float, contract: FindingContract, model: str) -> Finding:
    """What a model says of a finding, wherever it lies.

    Parameters
    ----------
    probability
        Calibrated, 0 to 1.
    model
        Its name.
    """
    if not contract.evaluated:
        return Finding(contract.key, FindingState.NOT_EVALUATED, reason="evidence", model=model)
    state, threshold = state_of(probability, contract), round(contract.threshold_present, 6)
    return Finding(contract.key, state, probability=round(probability, 6), threshold=threshold, model=model)

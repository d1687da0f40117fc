"""What a model said of images whose truth is known, checked once.

The rule: validation and test are two objects, and a function that chooses on the one and judges on the other sees to
it that no patient lies in both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.metrics.intervals import BoolArray, FloatArray


@dataclass(frozen=True, eq=False)
class Answers:
    """Scores of several findings on several images.

    Parameters
    ----------
    findings
        Keys, in the order of the columns.
    truth
        Shape (n, findings): 0 or 1, NaN where nobody looked or the label is uncertain.
    scores
        Shape (n, findings): logits or probabilities, higher for positives.
    patients
        Shape (n,).
    """

    findings: tuple[str, ...]
    truth: FloatArray
    scores: FloatArray
    patients: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = (len(self.patients), len(self.findings))
        if self.truth.shape != shape or self.scores.shape != shape:
            raise ValueError(f"truth {self.truth.shape} and scores {self.scores.shape}, expected {shape}")
        if not np.isfinite(self.scores).all():
            raise ValueError("scores that are not finite")
        if not (np.isnan(self.truth) | (self.truth == 0) | (self.truth == 1)).all():
            raise ValueError("labels other than 0, 1 and NaN: settle uncertain ones, or make them NaN")

    def of(self, finding: str) -> Column:
        """The images on which somebody looked for a finding.

        Raises
        ------
        ValueError
            When there is no such finding.
        """
        column = self.findings.index(finding)
        known = ~np.isnan(self.truth[:, column])
        patients = tuple(np.asarray(self.patients, object)[known])
        return Column(known, self.truth[known, column] == 1, self.scores[known, column].astype(np.float64), patients)


@dataclass(frozen=True, eq=False)
class Column:
    """One finding: `known` has shape (all images,), the rest the shape of those that are known."""

    known: BoolArray
    truth: BoolArray
    scores: FloatArray
    patients: tuple[str, ...]


class PatientsShared(ValueError):
    """A patient lies in validation and in test: the figures would flatter."""


def keep_apart(validation: Answers, test: Answers) -> None:
    """See that validation and test have the same findings and no patient in common.

    Raises
    ------
    PatientsShared
    ValueError
        When the findings differ.
    """
    shared = sorted(set(validation.patients) & set(test.patients))
    if shared:
        raise PatientsShared(f"{len(shared)} patients lie in validation and in test: split by patient")
    if validation.findings != test.findings:
        raise ValueError(f"findings differ: {validation.findings} and {test.findings}")

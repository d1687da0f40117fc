"""What was called what: counts of each finding, and the matrix of exclusive classes.

The rule: a model is set beside the classifier that always says the most frequent class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.metrics.answers import Answers
from training.metrics.intervals import IntArray, Interval, Undefined, binary, share_interval


@dataclass(frozen=True)
class Counts:
    """Numbers of images: true positives, false positives, false negatives, true negatives."""

    tp: int
    fp: int
    fn: int
    tn: int


def count(truth: npt.ArrayLike, called: npt.ArrayLike) -> Counts:
    """Count calls, both of shape (n,), 0 or 1."""
    said = np.asarray(called, np.bool_)
    positive = binary(truth, len(said))
    return Counts(
        int((positive & said).sum()), int((~positive & said).sum()),
        int((positive & ~said).sum()), int((~positive & ~said).sum()),
    )  # fmt: skip


def multilabel_table(answers: Answers, thresholds: Mapping[str, float]) -> dict[str, Counts]:
    """Counts of each finding that has a threshold, called from there on, among the images labelled for it."""
    columns = {finding: answers.of(finding) for finding in answers.findings if finding in thresholds}
    return {finding: count(c.truth, c.scores >= thresholds[finding]) for finding, c in columns.items()}


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """Exclusive classes: what they were called.

    Parameters
    ----------
    classes
        In the order of rows and columns.
    counts
        Shape (classes, classes), images: a row for each true class, a column for each called one.
    """

    classes: tuple[str, ...]
    counts: IntArray

    @property
    def accuracy(self) -> float:
        """Share of images called rightly, 0 to 1."""
        if not self.counts.sum():
            raise Undefined("accuracy of no images")
        return float(np.trace(self.counts) / self.counts.sum())

    def recall(self, name: str) -> float:
        """Share of the images of a class that were called so."""
        return self._share(name, int(self._row(name).sum()), "image")

    def precision(self, name: str) -> float:
        """Share of the images called a class that belong to it."""
        return self._share(name, int(self.counts[:, self.classes.index(name)].sum()), "call")

    def f1(self, name: str) -> float:
        """2 TP / (images + calls) of a class; 0 if it occurs and is never called."""
        place = self.classes.index(name)
        if not self._row(name).sum():
            raise Undefined(f"F1 of {name}: no image of it")
        return float(2 * self.counts[place, place] / (self._row(name).sum() + self.counts[:, place].sum()))

    @property
    def macro_f1(self) -> float:
        """Unweighted mean of F1 over the classes that occur, 0 to 1."""
        occurring = [name for name in self.classes if self._row(name).sum()]
        if not occurring:
            raise Undefined("macro F1 of no images")
        return float(np.mean([self.f1(name) for name in occurring]))

    def _row(self, name: str) -> IntArray:
        return np.asarray(self.counts[self.classes.index(name)])

    def _share(self, name: str, total: int, what: str) -> float:
        if not total:
            raise Undefined(f"{name}: no {what} of it")
        place = self.classes.index(name)
        return float(self.counts[place, place] / total)


def confusion_matrix(truth: Sequence[str], called: Sequence[str], classes: Sequence[str]) -> ConfusionMatrix:
    """Count calls of exclusive classes.

    Raises
    ------
    ValueError
        When a name is not among `classes`, or lengths differ.
    """
    places = {name: i for i, name in enumerate(classes)}
    strangers = {*truth, *called} - set(places)
    if strangers:
        raise ValueError(f"not among the classes {tuple(classes)}: {sorted(strangers)}")
    counts = np.zeros((len(places), len(places)), np.int_)
    for true, said in zip(truth, called, strict=True):
        counts[places[true], places[said]] += 1
    return ConfusionMatrix(tuple(classes), counts)


def accuracy(truth: Sequence[str], called: Sequence[str], patients: Sequence[str]) -> Interval:
    """Share of images called rightly, 0 to 1, with its interval by patient."""
    return share_interval([true == said for true, said in zip(truth, called, strict=True)], patients)


def naive_baseline(training: Sequence[str], test: Sequence[str], classes: Sequence[str]) -> ConfusionMatrix:
    """The matrix of always calling the class that is the most frequent in training: the first of equals.

    On ChestX-ray14 that is "no finding": accuracy 0.58, macro F1 0.07.
    """
    if not training:
        raise Undefined("the most frequent class of no images")
    often = Counter(training)
    most = max(classes, key=lambda name: often[name])
    return confusion_matrix(test, [most] * len(test), classes)

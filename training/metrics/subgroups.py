"""One figure for each sex, age band, view and source.

The rule: a group with too few patients gets no figure, and everybody lies in one group of each kind, those of whom it
is not known as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from training.metrics.intervals import BoolArray, Figure, FloatArray, Interval, TooFew, attempt, mean_interval
from training.metrics.scores import auroc
from training.readers.records import Record

LEAST_PATIENTS = 10  # with the finding, and without: below that an interval says next to nothing
AGE_BANDS = (18, 40, 60, 80)  # years at which a band begins
NOT_KNOWN = "not known"


@dataclass(frozen=True)
class Subgroup:
    """One row of the table.

    Parameters
    ----------
    attribute, group
        ``sex``, ``age``, ``view`` or ``source``, and which of them.
    images, patients
        How many there are, among the labelled.
    positives
        Images with the finding; None for a figure that knows no finding.
    """

    attribute: str
    group: str
    images: int
    patients: int
    positives: int | None
    figure: Figure


def auroc_by_group(
    truth: FloatArray, scores: FloatArray, records: Sequence[Record], least: int = LEAST_PATIENTS
) -> tuple[Subgroup, ...]:
    """AUROC in each group.

    Parameters
    ----------
    truth
        Shape (n,): 0 or 1, NaN where nobody looked: those are left out.
    scores
        Shape (n,), higher for positives.
    records
        One for each image.
    least
        Patients with the finding and patients without that a group needs to have a figure.
    """
    known = ~np.isnan(truth)

    def measure(chosen: BoolArray, patients: Sequence[str]) -> Interval:
        return auroc(truth[chosen], scores[chosen], patients)

    return _table(records, known, (truth == 1, known & (truth != 1)), measure, least)


def mean_by_group(values: FloatArray, records: Sequence[Record], least: int = LEAST_PATIENTS) -> tuple[Subgroup, ...]:
    """Mean of a figure an image, such as Dice or an absolute error, in each group; shape (n,), NaN is left out."""
    known = ~np.isnan(values)
    return _table(records, known, (known,), lambda chosen, patients: mean_interval(values[chosen], patients), least)


def groups(records: Sequence[Record]) -> Iterator[tuple[str, str, BoolArray]]:
    """Attribute, group and members, shape (n,), of each group that occurs."""
    columns = {
        "sex": [record.sex for record in records],
        "age": [age_band(record.age) for record in records],
        "view": [record.view for record in records],
        "source": [record.source for record in records],
    }
    for attribute, column in columns.items():
        names = np.array([name or NOT_KNOWN for name in column], object)
        for name in sorted(set(names), key=lambda name: (name == NOT_KNOWN, name)):
            yield attribute, name, np.asarray(names == name, np.bool_)


def age_band(age: float | None) -> str:
    """The band of an age in years, such as ``40 to 59``; `NOT_KNOWN` for None."""
    if age is None:
        return NOT_KNOWN
    place = int(np.searchsorted(AGE_BANDS, age, "right"))
    if place == len(AGE_BANDS):
        return f"{AGE_BANDS[-1]} and over"
    return f"{AGE_BANDS[place - 1] if place else 0:02d} to {AGE_BANDS[place] - 1}"


def _table(
    records: Sequence[Record],
    known: BoolArray,
    sides: tuple[BoolArray, ...],
    measure: Callable[[BoolArray, Sequence[str]], Interval],
    least: int,
) -> tuple[Subgroup, ...]:
    if known.shape != (len(records),):
        raise ValueError(f"figures of shape {known.shape} for {len(records)} records")
    names = np.array([record.patient for record in records], object)
    rows = []
    for attribute, group, members in groups(records):
        chosen = members & known
        fewest = min(len(set(names[side & members])) for side in sides)
        figure: Figure = TooFew(f"{fewest} patients, {least} needed")
        if fewest >= least:
            figure = attempt(partial(measure, chosen, tuple(names[chosen])))
        positives = int((sides[0] & members).sum()) if len(sides) > 1 else None
        rows.append(Subgroup(attribute, group, int(chosen.sum()), len(set(names[chosen])), positives, figure))
    return tuple(rows)

"""What the records of a data set say, without a look at any file.

The rule: a label that nobody gave is counted apart from one that is absent, and an uncertain one apart from both.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from models.findings import OF_ABSENCE
from training.readers.records import UNCERTAIN, DataSet, LeftOut, Record

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
UNKNOWN = "not known"


@dataclass(frozen=True)
class LabelCount:
    """How many images carry a label, by what it says."""

    key: str
    present: int
    uncertain: int
    absent: int
    unlabelled: int


@dataclass(frozen=True)
class BoxCount:
    """Boxes of one class.

    Parameters
    ----------
    images
        With at least one box.
    empty
        On which somebody looked and drew none.
    areas
        Of every box, in pixels; shape (boxes,).
    """

    key: str
    boxes: int
    images: int
    empty: int
    areas: FloatArray


@dataclass(frozen=True)
class Reason:
    """Rows left out for one kind of reason, with the first of them."""

    pattern: str
    count: int
    examples: tuple[LeftOut, ...]


def keys_of(data: DataSet) -> tuple[str, ...]:
    """The findings in the data set's own order, then labels that it did not announce."""
    known = dict.fromkeys(data.findings)
    return (*known, *sorted({key for record in data.records for key in record.labels} - known.keys()))


def label_matrix(records: Sequence[Record], keys: Sequence[str]) -> FloatArray:
    """Labels of shape (records, keys): 0, 1, `UNCERTAIN`, or NaN where nobody looked."""
    at = {key: i for i, key in enumerate(keys)}
    labels = np.full((len(records), len(keys)), np.nan)
    for row, record in enumerate(records):
        for key, value in record.labels.items():
            labels[row, at[key]] = value
    return labels


def label_counts(labels: FloatArray, keys: Sequence[str]) -> tuple[LabelCount, ...]:
    """Of each finding."""
    return tuple(
        LabelCount(key, *(int(n) for n in numbers))
        for key, *numbers in zip(
            keys,
            (labels == 1).sum(0),
            (labels == UNCERTAIN).sum(0),
            (labels == 0).sum(0),
            np.isnan(labels).sum(0),
            strict=True,
        )
    )


def together(labels: FloatArray) -> IntArray:
    """Images on which two findings are both present: shape (keys, keys), each finding's own number on the diagonal."""
    present = (labels == 1).astype(np.int64)
    product: IntArray = present.T @ present
    return product


def findings_per_image(labels: FloatArray, keys: Sequence[str]) -> dict[int, int]:
    """Number of findings present to number of labelled images; ``no_finding`` and its like are none."""
    real = [i for i, key in enumerate(keys) if key not in OF_ABSENCE]
    labelled = ~np.isnan(labels).all(axis=1)
    return _sorted_counts((labels[labelled][:, real] == 1).sum(axis=1).tolist())


def group_sizes(records: Iterable[Record], attribute: str) -> dict[int, int]:
    """Images per ``study`` or ``patient``: size of the group to number of groups."""
    return _sorted_counts(Counter(map(attrgetter(attribute), records)).values())


def counts(records: Iterable[Record], attribute: str) -> dict[str, int]:
    """Images by ``view``, ``sex``, ``source`` or ``split``, the most frequent first."""
    return dict(Counter(getattr(record, attribute) or UNKNOWN for record in records).most_common())


def ages(records: Iterable[Record]) -> dict[str, list[float]]:
    """Ages in years, by sex; images without an age are left out."""
    found: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if record.age is not None:
            found[record.sex or UNKNOWN].append(record.age)
    return dict(sorted(found.items()))


def shares(records: Sequence[Record], labels: FloatArray, attribute: str) -> dict[str, tuple[IntArray, IntArray]]:
    """Images with a finding, and images with an answer about it, by the value of an attribute.

    Returns
    -------
    Mapping of the value to two arrays of shape (keys,); an uncertain label is no answer.
    """
    groups = np.array([getattr(record, attribute) or UNKNOWN for record in records], dtype=object)
    return {
        name: ((labels[groups == name] == 1).sum(0), (labels[groups == name] >= 0).sum(0))
        for name in sorted(set(groups))
    }


def in_several_splits(records: Iterable[Record]) -> tuple[str, ...]:
    """Patients of whom images lie in more than one split: what is learned from one would be examined on the other."""
    seen: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.split:
            seen[record.patient].add(record.split)
    return tuple(sorted(patient for patient, splits in seen.items() if len(splits) > 1))


def box_counts(records: Iterable[Record]) -> tuple[BoxCount, ...]:
    """Boxes by class, the most frequent first."""
    areas: dict[str, list[float]] = defaultdict(list)
    images: Counter[str] = Counter()
    empty: Counter[str] = Counter()
    for record in records:
        for key, boxes in record.boxes.items():
            areas[key].extend(box.width * box.height for box in boxes)
            (images if boxes else empty)[key] += 1
    ordered = sorted(areas, key=lambda key: -len(areas[key]))
    return tuple(BoxCount(k, len(areas[k]), images[k], empty[k], np.array(areas[k], np.float64)) for k in ordered)


def relative_boxes(records: Iterable[Record], sizes: Mapping[object, tuple[int, int]]) -> dict[str, FloatArray]:
    """Boxes as shares of their image: class to shape (boxes, 4), x, y, width and height from 0 to 1.

    Parameters
    ----------
    sizes
        Rows and columns of the images, by path; boxes on others are left out.
    """
    found: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for record in records:
        if record.boxes and record.image in sizes:
            rows, columns = sizes[record.image]
            for key, boxes in record.boxes.items():
                found[key].extend((b.x / columns, b.y / rows, b.width / columns, b.height / rows) for b in boxes)
    return {key: np.array(boxes, np.float64) for key, boxes in found.items() if boxes}


def coverage(boxes: FloatArray, cells: int = 48) -> FloatArray:
    """Share of boxes that cover each cell of a square over the image: shape (cells, cells), 0 to 1.

    Parameters
    ----------
    boxes
        Shape (n, 4), as of `relative_boxes`; n is at least 1.
    """
    centres = (np.arange(cells) + 0.5) / cells
    across = (boxes[:, :1] <= centres) & (centres < boxes[:, :1] + boxes[:, 2:3])
    down = (boxes[:, 1:2] <= centres) & (centres < boxes[:, 1:2] + boxes[:, 3:])
    covered: FloatArray = down.astype(np.float64).T @ across.astype(np.float64) / len(boxes)
    return covered


def left_out_reasons(left_out: Iterable[LeftOut], examples: int = 3) -> tuple[Reason, ...]:
    """Reasons that differ in numbers and quoted words alone are one; the most frequent first."""
    alike: dict[str, list[LeftOut]] = defaultdict(list)
    for row in left_out:
        alike[re.sub(r"'[^']*'|\"[^\"]*\"|-?\d+(?:\.\d+)?", "…", row.reason)].append(row)
    ordered = sorted(alike.items(), key=lambda item: -len(item[1]))
    return tuple(Reason(pattern, len(found), tuple(found[:examples])) for pattern, found in ordered)


def _sorted_counts(values: Iterable[int]) -> dict[int, int]:
    return dict(sorted(Counter(values).items()))

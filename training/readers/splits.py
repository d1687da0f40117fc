"""Splits of a data set by patient and study, stratified by finding, kept as still as can be when data is added.

The rule: what belongs to one patient or to one study, through any chain of the two, lies in one split; `check_no_leak`
stands between every split and its use.

How: iterative stratification (K. Sechidis et al., On the Stratification of Multi-label Data, ECML PKDD 2011) deals the
groups of the rarest finding first, then those of the next rarest that are left, each to the splits that still lack it.
Within a finding the groups stand in the order of a keyed hash and are dealt in runs, so that a new group moves no more
than those next to the cuts, and neither the order of the rows nor the machine matters.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from training.readers.records import DataSet, Record


class Leak(Exception):
    """A patient, a study or an image lies in two splits; the message says which."""


@dataclass(frozen=True)
class _Group:
    """Records that stay together: their places, and what they carry, by number of records."""

    key: str
    places: tuple[int, ...]
    carries: Mapping[str, int]
    split: str


def split(data: DataSet, shares: Mapping[str, float], *, seed: int = 0) -> dict[str, tuple[Record, ...]]:
    """Deal the records of a data set to splits.

    Parameters
    ----------
    shares
        Split to its share of the records, above 0, together 1: ``{"train": 0.7, "val": 0.1, "test": 0.2}``.
    seed
        Key of the hash.

    Returns
    -------
    dict
        Split to its records, in the order of the data set. Official splits other than ``train`` are kept as they are,
        also where `shares` does not name them; splits that the data set does not fix are dealt from its ``train`` and
        from records without an official split, in the proportion of their shares. To keep an earlier split of ours,
        set `Record.split`.

    Raises
    ------
    Leak
        When the official splits themselves share a patient or a study.
    ValueError
        When the shares are none, or a record names no patient or study.
    """
    _check_shares(shares)
    groups = _groups(data.records)
    fixed = {group.split for group in groups} - {"", "train"}
    open_shares = {name: share for name, share in shares.items() if name not in fixed}
    if not open_shares:
        open_shares = {"train": 1.0}
    pool = [group for group in groups if group.split not in fixed]
    of_place = {place: group.split for group in groups if group.split in fixed for place in group.places}
    of_place.update(_deal(pool, open_shares, seed))
    assignment = {
        name: tuple(record for place, record in enumerate(data.records) if of_place[place] == name)
        for name in dict.fromkeys([*shares, *sorted(set(of_place.values()))])
    }
    check_no_leak(assignment)
    return assignment


def folds(records: Sequence[Record], count: int, *, seed: int = 0) -> tuple[tuple[Record, ...], ...]:
    """Deal records to `count` folds of the same size for cross-validation, whatever their official split.

    Raises
    ------
    ValueError
        When `count` is under 2, or a record names no patient or study.
    """
    if count < 2:
        raise ValueError(f"{count} folds: cross-validation needs two or more")
    names = [str(fold) for fold in range(count)]
    of_place = _deal(_groups(records, official=False), dict.fromkeys(names, 1.0 / count), seed)
    dealt = {n: tuple(record for place, record in enumerate(records) if of_place[place] == n) for n in names}
    check_no_leak(dealt)
    return tuple(dealt.values())


def check_no_leak(assignment: Mapping[str, Iterable[Record]]) -> None:
    """Make sure that no patient, no study and no image file lies in two splits.

    Raises
    ------
    Leak
    """
    seen: dict[tuple[str, str], str] = {}
    for name, records in assignment.items():
        for record in records:
            for node in _nodes(record):
                if (other := seen.setdefault(node, name)) != name:
                    raise Leak(f"{node[0]} {node[1]} lies in {other} and in {name} ({record.row or record.image})")


def keyed_fraction(seed: int, *names: str) -> float:
    """A number from 0 to under 1 that depends on the seed and the names alone, evenly spread."""
    digest = hashlib.sha256("\x1f".join((str(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _check_shares(shares: Mapping[str, float]) -> None:
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1.0) > 1e-6:
        raise ValueError(f"shares must be above 0 and together 1: {dict(shares)}")


def _nodes(record: Record) -> tuple[tuple[str, str], ...]:
    return ("patient", record.patient), ("study", record.study), ("image", str(record.image))


def _groups(records: Sequence[Record], *, official: bool = True) -> list[_Group]:
    """The connected components of records that share a patient, a study or a file."""
    number: dict[tuple[str, str], int] = {}
    edges: list[tuple[int, int]] = []
    for place, record in enumerate(records):
        if not record.patient or not record.study:
            raise ValueError(f"{record.row or record.image} names no patient or no study: it cannot be split")
        edges.extend((place, number.setdefault(node, len(number))) for node in _nodes(record))
    if not edges:
        return []
    places, nodes = np.array(edges).T
    size = len(records) + len(number)
    graph = coo_array((np.ones(len(edges), np.int8), (places, nodes + len(records))), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    members: dict[int, list[int]] = defaultdict(list)
    for place in range(len(records)):
        members[int(component[place])].append(place)
    return [_group(records, tuple(inside), official=official) for inside in members.values()]


def _group(records: Sequence[Record], places: tuple[int, ...], *, official: bool) -> _Group:
    splits = {records[place].split for place in places} - {""} if official else set()
    if len(splits) > 1:
        first = records[places[0]]
        raise Leak(f"the data set itself puts patient {first.patient} into {' and '.join(sorted(splits))}")
    carries: Counter[str] = Counter()
    for place in places:
        carries[f"source {records[place].source}"] += 1
        carries.update(key for key, value in records[place].labels.items() if value == 1.0)
    return _Group(min(records[place].patient for place in places), places, carries, splits.pop() if splits else "")


def _deal(groups: Sequence[_Group], shares: Mapping[str, float], seed: int) -> dict[int, str]:
    """Place of each record to its split: the rarest finding first, and last what has no finding, source by source."""
    waiting = {group.key: group for group in sorted(groups, key=lambda g: (keyed_fraction(seed, g.key), g.key))}
    totals: Counter[str] = Counter()
    for group in groups:
        totals.update(group.carries)
    held: dict[str, Counter[str]] = {name: Counter() for name in shares}
    of_place: dict[int, str] = {}
    findings = sorted(totals, key=lambda key: (key.startswith("source "), totals[key], key))
    for finding in findings:
        queue = [group for group in waiting.values() if finding in group.carries]
        lacks = {name: max(share * totals[finding] - held[name][finding], 0.0) for name, share in shares.items()}
        for group, name in _runs(queue, finding, lacks if any(lacks.values()) else shares):
            held[name].update(group.carries)
            of_place.update(dict.fromkeys(group.places, name))
            del waiting[group.key]
    return of_place


def _runs(queue: Sequence[_Group], finding: str, lacks: Mapping[str, float]) -> list[tuple[_Group, str]]:
    """Cut a queue of groups into one run for each split, as long as what the split lacks."""
    names = list(lacks)
    cuts = np.cumsum([lacks[name] for name in names]) / sum(lacks.values())
    weights = np.array([group.carries[finding] for group in queue], float)
    middles = (np.cumsum(weights) - weights / 2) / max(weights.sum(), 1.0)
    chosen = np.minimum(np.searchsorted(cuts, middles, side="right"), len(names) - 1)
    return [(group, names[i]) for group, i in zip(queue, chosen, strict=True)]

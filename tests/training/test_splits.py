"""Splits by patient and study: nothing leaks, findings are shared out, and added data moves little."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.readers.records import DataSet, Record
from training.readers.splits import Leak, check_no_leak, folds, keyed_fraction, split

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
FREQUENT, RARE = 0.3, 0.01


def record(number: int, patient: str, study: str = "", **more: object) -> Record:
    return Record(
        Path(f"{number}.png"), patient, study or f"{patient}-{number}", "made", row=f"made.csv:{number}", **more
    )  # type: ignore[arg-type]


def data_set(records: list[Record]) -> DataSet:
    return DataSet("plain", tuple(records), ("frequent", "rare"))


def random_records(seed: int, patients: int) -> list[Record]:
    """Patients of one to four images; now and then a study under two patients' names."""
    rng = np.random.default_rng(seed)
    records: list[Record] = []
    for patient in range(patients):
        for image in range(int(rng.integers(1, 5))):
            labels = {"frequent": float(rng.random() < FREQUENT), "rare": float(rng.random() < RARE)}
            records.append(record(len(records), f"p{patient}", f"s{patient}-{image // 2}", labels=labels))
        if patient and rng.random() < 0.05:
            records[-1] = replace(records[-1], study=f"s{int(rng.integers(0, patient))}-0")
    return records


def where(assignment: dict[str, tuple[Record, ...]]) -> dict[str, str]:
    return {record.row: name for name, records in assignment.items() for record in records}


def linked(records: list[Record]) -> list[set[int]]:
    """Which records hang together through patients and studies, found by spreading names until nothing changes."""
    group = list(range(len(records)))
    changed = True
    while changed:
        changed = False
        smallest: dict[str, int] = {}
        for place, one in enumerate(records):
            for name in (f"p {one.patient}", f"s {one.study}"):
                smallest[name] = min(smallest.get(name, group[place]), group[place])
        for place, one in enumerate(records):
            least = min(smallest[f"p {one.patient}"], smallest[f"s {one.study}"])
            changed |= least != group[place]
            group[place] = least
    return [{place for place in range(len(records)) if group[place] == root} for root in set(group)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(0, 5))
def test_no_patient_and_no_study_is_ever_split(seed: int, patients: int, key: int) -> None:
    records = random_records(seed, patients)
    assignment = split(data_set(records), SHARES, seed=key)
    placed = where(assignment)
    assert len(placed) == sum(len(part) for part in assignment.values()) == len(records)
    for names in (lambda r: r.patient, lambda r: r.study):
        assert all(
            len({placed[r.row] for r in records if names(r) == name}) == 1 for name in {names(r) for r in records}
        )
    for group in linked(records):
        assert len({placed[records[place].row] for place in group}) == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(5, 40), st.integers(2, 5))
def test_no_patient_is_ever_in_two_folds(seed: int, patients: int, count: int) -> None:
    records = random_records(seed, patients)
    dealt = folds(records, count, seed=seed % 7)
    assert len(dealt) == count
    assert Counter(r.row for fold in dealt for r in fold) == Counter(r.row for r in records)
    seen = [{r.patient for r in fold} | {r.study for r in fold} for fold in dealt]
    assert sum(len(names) for names in seen) == len(set().union(*seen))


def test_two_patients_who_share_a_study_stay_together_through_a_chain() -> None:
    chain = [record(i, f"p{(i + 1) // 2}", f"s{i // 2}") for i in range(6)]  # p0 s0, p1 s0, p1 s1, p2 s1, p2 s2, p3 s2
    for seed in range(30):
        assert len(set(where(split(data_set(chain), SHARES, seed=seed)).values())) == 1


@pytest.mark.parametrize("shared", ["patient", "study", "image"])
def test_a_leak_is_found_whatever_it_leaks_by(shared: str) -> None:
    one, other = record(1, "a"), record(2, "b")
    check_no_leak({"train": [one], "test": [other]})
    with pytest.raises(Leak, match=f"{shared} .* lies in train and in test"):
        check_no_leak({"train": [one], "test": [replace(other, **{shared: getattr(one, shared)})]})


def test_shares_and_findings_are_as_asked() -> None:
    records = random_records(3, 3000)
    assignment = split(data_set(records), SHARES)
    for name, share in SHARES.items():
        part = assignment[name]
        assert len(part) / len(records) == pytest.approx(share, abs=0.01)
        for finding, tolerance in (("frequent", 0.01), ("rare", 0.04)):
            total = sum(r.labels[finding] for r in records)
            assert sum(r.labels[finding] for r in part) / total == pytest.approx(share, abs=tolerance)


def test_stratification_beats_chance_on_a_rare_finding() -> None:
    off, by_chance = [], []
    for seed in range(20):
        records = random_records(seed, 400)
        total = sum(r.labels["rare"] for r in records)
        held = sum(r.labels["rare"] for r in split(data_set(records), SHARES, seed=seed)["test"])
        drawn = sum(r.labels["rare"] for r in records if keyed_fraction(seed, r.patient) < SHARES["test"])
        off.append(abs(held / total - SHARES["test"]))
        by_chance.append(abs(drawn / total - SHARES["test"]))
    assert np.mean(off) < 0.5 * np.mean(by_chance)


def test_each_source_is_shared_out() -> None:
    records = [replace(r, source="small" if i % 20 == 0 else "large") for i, r in enumerate(random_records(5, 1500))]
    records = [replace(r, labels={}) for r in records]
    small = [r for r in records if r.source == "small"]
    held = [r for r in split(data_set(records), SHARES)["test"] if r.source == "small"]
    assert len(held) / len(small) == pytest.approx(SHARES["test"], abs=0.05)


def test_the_order_of_rows_does_not_matter_and_the_seed_does() -> None:
    records = random_records(11, 200)
    once = where(split(data_set(records), SHARES, seed=1))
    assert where(split(data_set(records[::-1]), SHARES, seed=1)) == once
    assert where(split(data_set(records), SHARES, seed=2)) != once


def test_added_patients_move_few_others() -> None:
    records = random_records(7, 2000)
    before = where(split(data_set([r for r in records if int(r.patient[1:]) < 1900]), SHARES))
    after = where(split(data_set(records), SHARES))
    moved = sum(after[row] != name for row, name in before.items())
    assert moved / len(before) < 0.03  # 5 % were added; dealt anew, 46 % would move


def test_official_splits_are_kept_and_what_is_missing_is_dealt_from_train() -> None:
    records = [
        replace(r, study=r.row, split="test" if int(r.patient[1:]) % 5 == 0 else "train")
        for r in random_records(9, 600)
    ]
    assignment = split(data_set(records), {"train": 0.8, "val": 0.1, "test": 0.1})
    placed = where(assignment)
    assert all((placed[r.row] == "test") == (r.split == "test") for r in records)
    trained = len(assignment["train"]) + len(assignment["val"])
    assert len(assignment["val"]) / trained == pytest.approx(0.1 / 0.9, abs=0.01)


def test_an_official_split_that_was_not_asked_for_is_kept_apart() -> None:
    records = [replace(record(i, f"p{i}"), split="test" if i < 3 else "train") for i in range(30)]
    assignment = split(data_set(records), {"train": 0.9, "val": 0.1})
    assert {r.patient for r in assignment["test"]} == {"p0", "p1", "p2"}


def test_official_splits_that_leak_are_not_used() -> None:
    records = [replace(record(1, "a"), split="train"), replace(record(2, "a"), split="test")]
    with pytest.raises(Leak, match="puts patient a into test and train"):
        split(data_set(records), SHARES)


def test_folds_ignore_official_splits() -> None:
    records = [replace(record(i, f"p{i}"), split="test" if i < 10 else "train") for i in range(50)]
    assert [len(fold) for fold in folds(records, 5)] == [10] * 5


@pytest.mark.parametrize("shares", [{}, {"train": 0.5}, {"train": 1.2, "val": -0.2}, {"train": 1.0, "val": 0.0}])
def test_shares_that_are_none_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares"):
        split(data_set(random_records(1, 5)), shares)


@pytest.mark.parametrize("missing", [{"patient": ""}, {"study": ""}])
def test_a_record_without_patient_or_study_is_not_split(missing: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"made.csv:1 names no patient or no study"):
        split(data_set([replace(record(1, "a"), **missing)]), SHARES)


def test_one_fold_is_no_cross_validation() -> None:
    with pytest.raises(ValueError, match="two or more"):
        folds(random_records(1, 5), 1)


def test_nothing_is_dealt_from_nothing() -> None:
    assert split(data_set([]), SHARES) == {"train": (), "val": (), "test": ()}

"""Agreement of measurements, tables of subgroups, and shortcut baselines."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training.metrics.agreement import agreement
from training.metrics.intervals import Interval, TooFew, Undefined
from training.metrics.scores import auroc
from training.metrics.shortcuts import (
    FOLDS,
    margin,
    patient_folds,
    shortcut_baselines,
    shortcut_scores,
    thumbnail,
)
from training.metrics.subgroups import age_band, auroc_by_group, mean_by_group
from training.readers.records import Record

# Peak expiratory flow of 17 people by two meters, l/min: Bland and Altman, Lancet 1986, table 1, first readings.
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


def record(patient: str, view: str = "PA", source: str = "nih", sex: str = "F", age: float | None = 50) -> Record:
    return Record(Path(f"{patient}.png"), patient, patient, source, view=view, sex=sex, age=age)


def test_limits_of_agreement_are_those_of_bland_and_altman() -> None:
    """Mean difference -2.1, standard deviation 38.8, limits -79.7 and 75.5 in the paper, which takes 2 for 1.96."""
    found = agreement(WRIGHT, MINI, [str(i) for i in range(17)])
    assert found.images == 17
    assert found.bias.value == pytest.approx(-2.1, abs=0.05)
    deviation = (found.upper.value - found.lower.value) / 2 / 1.96
    assert deviation == pytest.approx(38.8, abs=0.05)
    assert found.bias.value - 2 * deviation == pytest.approx(-79.7, abs=0.1)
    assert found.bias.value + 2 * deviation == pytest.approx(75.5, abs=0.1)
    assert found.absolute_error.value == pytest.approx(np.abs(np.subtract(WRIGHT, MINI)).mean())
    # the paper's interval of the bias, by the t distribution, is -22.0 to 17.8
    assert (found.bias.low, found.bias.high) == pytest.approx((-22.0, 17.8), abs=3)
    assert found.lower.low < found.lower.value < found.lower.high < found.upper.low < found.upper.high


def test_agreement_takes_pairs_of_two_people_at_least() -> None:
    with pytest.raises(Undefined):
        agreement([0.5], [0.4], ["a"])
    with pytest.raises(Undefined, match="no measurements"):
        agreement([], [], [])
    with pytest.raises(ValueError, match="shape"):
        agreement([0.5, 0.4], [0.4], ["a", "b"])


def test_each_group_has_the_auroc_of_its_own_images() -> None:
    rng = np.random.default_rng(0)
    records = [
        record(str(i), rng.choice(["PA", "AP", ""]), "nih", rng.choice(["F", "M"]), float(rng.integers(0, 95)))
        for i in range(400)
    ]
    truth = (rng.random(400) < 0.4).astype(float)
    scores = rng.normal(size=400) + truth
    truth[:20] = np.nan
    table = {(row.attribute, row.group): row for row in auroc_by_group(truth, scores, records)}
    women = np.array([r.sex == "F" for r in records]) & ~np.isnan(truth)
    figure = table["sex", "F"].figure
    assert isinstance(figure, Interval)
    assert figure.value == pytest.approx(roc_auc_score(truth[women], scores[women]))
    assert table["sex", "F"].images == women.sum()
    assert table["sex", "F"].positives == (truth[women] == 1).sum()
    for attribute in ("sex", "age", "view", "source"):
        assert sum(row.images for row in table.values() if row.attribute == attribute) == 380
    assert ("view", "not known") in table
    assert [group for a, group in table if a == "age"] == [
        "00 to 17",
        "18 to 39",
        "40 to 59",
        "60 to 79",
        "80 and over",
    ]


def test_a_group_of_too_few_patients_gets_no_figure_however_many_images() -> None:
    records = [record(f"m{i % 9}", sex="M") for i in range(90)] + [record(f"f{i}") for i in range(60)]
    truth = np.array([i % 2 for i in range(150)], float)
    table = {(row.attribute, row.group): row for row in auroc_by_group(truth, truth, records)}
    assert table["sex", "M"].figure == TooFew("9 patients, 10 needed")
    assert table["sex", "M"].patients == 9
    assert isinstance(table["sex", "F"].figure, Interval)
    one_class = np.zeros(150)
    assert all(isinstance(row.figure, TooFew) for row in auroc_by_group(one_class, truth, records))


def test_a_mean_is_had_by_group_too() -> None:
    records = [record(str(i), sex="M" if i < 20 else "F") for i in range(50)]
    values = np.array([0.9] * 20 + [0.8] * 29 + [np.nan])
    table = {(row.attribute, row.group): row for row in mean_by_group(values, records)}
    assert table["sex", "M"].figure == Interval(*(pytest.approx(0.9),) * 3)
    assert (table["sex", "F"].images, table["sex", "F"].positives) == (29, None)
    with pytest.raises(ValueError, match="records"):
        mean_by_group(values[:3], records)


@pytest.mark.parametrize(
    ("age", "band"), [(17.9, "00 to 17"), (18, "18 to 39"), (80, "80 and over"), (None, "not known")]
)
def test_an_age_lies_in_one_band(age: float | None, band: str) -> None:
    assert age_band(age) == band


def test_an_attribute_that_knows_nothing_scores_one_half_and_not_below() -> None:
    """A fold with more positives is trained on fewer: were the intercept kept, it would rank below one half."""
    truth = np.random.default_rng(0).random(200) < 0.3
    folds = np.arange(200) % FOLDS
    scores = shortcut_scores(truth, [("nih",)] * 200, folds)
    assert roc_auc_score(truth, scores) == pytest.approx(0.5)


def test_a_view_that_gives_the_finding_away_is_found_out() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(600) < 0.4
    records = [
        record(str(i // 2), "AP" if rng.random() < (0.8 if t else 0.2) else "PA", rng.choice(["a", "b"]))
        for i, t in enumerate(truth)
    ]
    pictures = rng.random((600, 32, 32)) + 0.1 * truth[:, None, None]
    scores = shortcut_baselines(truth, records, np.stack([thumbnail(p) for p in pictures]))
    patients = [r.patient for r in records]
    figures = {name: auroc(truth, values, patients) for name, values in scores.items()}
    assert list(figures) == ["view", "source", "view and source", "pixels"]
    assert figures["view"].value == pytest.approx(0.8, abs=0.05)  # (0.8 + 1 - 0.2) / 2
    assert figures["source"].low < 0.5 < figures["source"].high
    assert figures["pixels"].value > 0.9
    gain = margin(truth, scores["pixels"], scores["view"], patients)
    assert gain.value == pytest.approx(figures["pixels"].value - figures["view"].value)
    assert 0 < gain.low < gain.value < gain.high
    assert margin(truth, scores["view"], scores["view"], patients) == Interval(0, 0, 0)


def test_folds_hold_each_patient_once_and_positives_evenly() -> None:
    rng = np.random.default_rng(2)
    patients = [str(i) for i in rng.integers(0, 150, 500)]
    truth = rng.random(500) < 0.2
    folds = patient_folds(truth, patients)
    assert all(len({f for f, p in zip(folds, patients, strict=True) if p == name}) == 1 for name in set(patients))
    shares = [truth[folds == fold].mean() for fold in range(FOLDS)]
    assert max(shares) - min(shares) < 0.06
    with pytest.raises(Undefined, match="5 folds"):
        patient_folds([1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0], ["a"] * 6 + list("bcdefg"))
    with pytest.raises(Undefined, match="without fold"):
        shortcut_scores([1, 1, 0, 0], [("x",)] * 4, np.array([0, 0, 1, 1]))


def test_a_thumbnail_holds_means_of_areas() -> None:
    picture = np.arange(64 * 32, dtype=np.float32).reshape(64, 32) / 2048
    expected = picture.reshape(16, 4, 16, 2).mean((1, 3)).ravel()
    assert thumbnail(picture) == pytest.approx(expected, abs=1e-6)


def test_view_and_source_alone_tell_abnormality_in_the_shared_radiographs(shared_data: Path) -> None:
    """Measured independently on the same images: 0.716 for any abnormality."""
    with (shared_data / "nih_chestxray14" / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    records = [replace(record(row["patient_id"]), view=row["view"], source=row["source_repo"]) for row in rows]
    truth = [1 - float(row["no_finding"]) for row in rows]
    scores = shortcut_baselines(truth, records)
    found = auroc(truth, scores["view and source"], [r.patient for r in records])
    assert found.value == pytest.approx(0.716, abs=0.02)

"""CheXpert: blanks, uncertain labels and what policies make of them, views from paths, bad rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import chexpert as write_chexpert

from training.data import DataMissing
from training.readers import chexpert
from training.readers.chexpert import Policy, resolve_uncertain
from training.readers.records import UNCERTAIN, DataSet, Record

HEADER = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *chexpert.COLUMNS.values()])
PATH = "CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg"
# the order of the columns: No Finding, Enlarged Cardiomediastinum, Cardiomegaly, Lung Opacity, Lung Lesion, Edema,
# Consolidation, Pneumonia, Atelectasis, Pneumothorax, Pleural Effusion, Pleural Other, Fracture, Support Devices
GOOD = f"{PATH},Female,68,Frontal,AP,,,-1.0,1.0,,,,,-1.0,0.0,,,,1.0"


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chexpert(tmp_path_factory.mktemp("chexpert"))


def table_of(folder: Path, *rows: str) -> DataSet:
    (folder / "train.csv").write_text("\n".join([HEADER, *rows]))
    return chexpert.read(folder, need_images=False)


def uncertain_set(count: int = 1) -> DataSet:
    records = tuple(
        Record(Path(f"view{i}.jpg"), f"p{i // 2}", f"p{i // 2}/study1", "chexpert",
               labels={"edema": UNCERTAIN, "atelectasis": UNCERTAIN, "fracture": 0.0})
        for i in range(count)
    )  # fmt: skip
    return DataSet("chexpert", records, chexpert.FINDINGS)


def test_a_blank_is_absent_and_uncertain_stays_uncertain(tmp_path: Path) -> None:
    (record,) = table_of(tmp_path, GOOD).records
    assert record.labels == {
        "cardiomegaly": UNCERTAIN, "lung_opacity": 1.0, "atelectasis": UNCERTAIN, "pneumothorax": 0.0,
        "support_devices": 1.0,
    }  # fmt: skip
    assert (record.patient, record.study) == ("patient00001", "patient00001/study1")
    assert (record.view, record.sex, record.age, record.split) == ("AP", "F", 68, "train")


def test_both_editions_and_both_tables_are_read(download: Path, tmp_path: Path) -> None:
    small = chexpert.read(download)
    assert {record.split for record in small.records} == {"train", "val"}
    assert chexpert.read(download / "CheXpert-v1.0-small").records == small.records
    (record,) = table_of(tmp_path, GOOD).records  # v1.0 names its folder otherwise in the very same path
    assert record.image == tmp_path / "train/patient00001/study1/view1_frontal.jpg"


def test_the_view_comes_from_the_path(download: Path) -> None:
    for record in chexpert.read(download).records:
        assert ("lateral" in record.image.name) == (record.view == "LATERAL")
    assert {record.view for record in chexpert.read(download).records} == {"PA", "AP", "LATERAL"}


def test_two_views_are_of_one_study_and_two_studies_of_one_patient(download: Path) -> None:
    third = [record for record in chexpert.read(download).records if record.patient == "patient00003"]
    assert sorted(record.study for record in third) == [
        "patient00003/study1", "patient00003/study1", "patient00003/study2"
    ]  # fmt: skip


def test_radiologists_leave_nothing_open_in_the_validation_set(download: Path) -> None:
    for record in chexpert.read(download).records:
        assert (len(record.labels) == 14) == (record.split == "val")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (GOOD.replace("patient00001/study1/", ""), "does not end in patient, study and view"),
        (GOOD.replace("Frontal", "Lateral"), "the path says frontal, the table lateral"),
        (GOOD.replace("-1.0,1.0", "-1.0,2.0"), "Lung Opacity is '2.0', none of 1, 0, -1 and blank"),
        (GOOD.replace("-1.0,1.0", "-1.0,yes"), "Lung Opacity is 'yes', which is no number"),
        (GOOD.replace("AP,,", "AP,1.0,"), "No Finding contradicts Lung Opacity"),
        (PATH, "the row ends before 'Frontal/Lateral'"),
        (GOOD.replace("patient00001", "patient00009"), "stands in train.csv:2 already"),
    ],
)
def test_a_bad_row_is_named_and_the_others_are_read(tmp_path: Path, row: str, reason: str) -> None:
    before, after = GOOD.replace("patient00001", "patient00009"), GOOD.replace("view1", "view2")
    data = table_of(tmp_path, before, row, after)
    assert [record.row for record in data.records] == ["train.csv:2", "train.csv:4"]
    (left,) = data.left_out
    assert left.row == "train.csv:3"
    assert reason in left.reason


def test_devices_do_not_contradict_no_finding(tmp_path: Path) -> None:
    data = table_of(tmp_path, f"{PATH},Female,68,Frontal,AP,1.0,,,,,,,,,,,,,1.0")
    assert data.left_out == ()
    assert data.records[0].labels == {"no_finding": 1.0, "support_devices": 1.0}


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    table_of(tmp_path, GOOD)
    data = chexpert.read(tmp_path)
    assert data.records == ()
    assert "view1_frontal.jpg is not there" in data.left_out[0].reason


def test_a_table_without_the_observations_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("Path,Sex,Age,Frontal/Lateral,AP/PA\n")
    with pytest.raises(DataMissing, match="no column 'No Finding'"):
        chexpert.read(tmp_path)


@pytest.mark.parametrize(
    ("policy", "label"),
    [(Policy.ONES, 1.0), (Policy.ZEROS, 0.0), (Policy.IGNORE, None), (Policy.MULTICLASS, UNCERTAIN)],
)
def test_a_policy_settles_the_uncertain_labels_of_its_finding_alone(policy: Policy, label: float | None) -> None:
    (record,) = resolve_uncertain(uncertain_set(), {"edema": policy}, default=Policy.MULTICLASS).records
    assert record.labels.get("edema") == label
    assert record.labels["atelectasis"] == UNCERTAIN
    assert record.labels["fracture"] == 0.0
    assert record.soft == {}


def test_findings_without_a_policy_follow_the_default(tmp_path: Path) -> None:
    (record,) = resolve_uncertain(uncertain_set(), {"edema": Policy.ONES}).records
    assert record.labels == {"edema": 1.0, "fracture": 0.0}


@pytest.mark.parametrize(("policy", "low", "high"), [(Policy.SMOOTH_ONES, 0.55, 0.85), (Policy.SMOOTH_ZEROS, 0.0, 0.3)])
def test_smoothing_draws_evenly_from_the_published_range(policy: Policy, low: float, high: float) -> None:
    records = resolve_uncertain(uncertain_set(2000), {"edema": policy}, seed=3).records
    assert all("edema" not in record.labels for record in records)
    drawn = np.array([record.soft["edema"] for record in records])
    assert low <= drawn.min() < low + 0.01
    assert high - 0.01 < drawn.max() < high
    counts, _ = np.histogram(drawn, bins=10, range=(low, high))
    assert counts.min() > 140
    assert counts.max() < 260  # 200 expected, standard deviation 13


def test_smoothing_depends_on_seed_image_and_finding_alone() -> None:
    policies = {"edema": Policy.SMOOTH_ONES, "atelectasis": Policy.SMOOTH_ONES}
    data = uncertain_set(5)
    once = [record.soft for record in resolve_uncertain(data, policies, seed=1).records]
    turned = resolve_uncertain(replace(data, records=data.records[::-1]), policies, seed=1).records
    assert [record.soft for record in turned][::-1] == once
    assert len({value for soft in once for value in soft.values()}) == 10
    assert [record.soft for record in resolve_uncertain(data, policies, seed=2).records] != once


def test_a_policy_for_a_finding_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no finding 'hernia'"):
        resolve_uncertain(uncertain_set(), {"hernia": Policy.ONES})

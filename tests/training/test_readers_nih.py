"""ChestX-ray14: both editions of its table, its boxes and lists, bad rows, and the whole published tables."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import box, write_picture
from samples import nih as write_nih

from training.data import DataMissing
from training.readers import nih
from training.readers.records import DataSet
from training.readers.splits import split

# Wang et al., release of 2017 as revised in 2020: images with each label.
PUBLISHED = {
    "atelectasis": 11559, "cardiomegaly": 2776, "effusion": 13317, "infiltration": 19894, "mass": 5782, "nodule": 6331,
    "pneumonia": 1431, "pneumothorax": 5302, "consolidation": 4667, "edema": 2303, "emphysema": 2516, "fibrosis": 1686,
    "pleural_thickening": 3385, "hernia": 227, "no_finding": 60361,
}  # fmt: skip
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
GOOD = "00000001_000.png,Hernia,0,1,57,M,PA,2682,2749,0.143,0.143"


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nih(tmp_path_factory.mktemp("nih"))


@pytest.fixture(scope="module")
def published(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder = tmp_path_factory.mktemp("tables")
    for name in ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"):
        (folder / name).write_bytes(gzip.decompress((shared_data / "label_tables" / f"{name}.gz").read_bytes()))
    return nih.read(folder, need_images=False)


def table_of(folder: Path, *rows: str, boxes: str = "") -> DataSet:
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join([HEADER, *rows]))
    if boxes:
        (folder / "BBox_List_2017.csv").write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,\n" + boxes)
    return nih.read(folder, need_images=False)


def test_a_list_of_findings_speaks_about_all_fourteen(tmp_path: Path) -> None:
    (record,) = table_of(tmp_path, GOOD.replace("Hernia", "Cardiomegaly|Pleural_Thickening")).records
    assert len(record.labels) == 15
    assert {key for key, value in record.labels.items() if value == 1.0} == {"cardiomegaly", "pleural_thickening"}
    assert set(record.labels.values()) == {0.0, 1.0}


def test_no_finding_says_that_all_fourteen_are_absent(tmp_path: Path) -> None:
    (record,) = table_of(tmp_path, GOOD.replace("Hernia", "No Finding")).records
    assert [key for key, value in record.labels.items() if value] == ["no_finding"]


def test_the_first_edition_with_ages_like_058y_gives_the_same_records(download: Path, tmp_path: Path) -> None:
    first = nih.read(write_nih(tmp_path, first_edition=True))
    assert first.left_out == ()
    second = nih.read(download)
    for one, other in zip(first.records, second.records, strict=True):
        assert (one.patient, one.study, one.age, one.labels, one.boxes, one.split) == (
            other.patient, other.study, other.age, other.labels, other.boxes, other.split
        )  # fmt: skip


def test_official_lists_fix_the_split(download: Path) -> None:
    splits = {record.patient: record.split for record in nih.read(download).records}
    assert {patient for patient, name in splits.items() if name == "test"} == {f"{n:08d}" for n in (10, 11, 12)}
    assert set(splits.values()) == {"train", "test"}


def test_boxes_speak_for_their_images_alone_and_infiltrate_is_infiltration(download: Path) -> None:
    records = nih.read(download).records
    boxed = [record for record in records if record.boxes]
    assert {key for record in boxed for key in record.boxes} == {"infiltration", "pneumothorax"}
    assert all(record.labels[key] == 1.0 for record in boxed for key in record.boxes)
    assert all(not record.boxes for record in records if record.labels["no_finding"])
    drawn = next(record.boxes["pneumothorax"][0] for record in boxed if "pneumothorax" in record.boxes)
    assert (drawn.x, drawn.y, drawn.width, drawn.height) == box("pneumothorax", 1024, 1024)


def test_boxes_follow_a_copy_in_another_size(tmp_path: Path) -> None:
    write_picture(tmp_path / "images" / "00000001_000.png", np.zeros((512, 256), np.uint8))
    data = table_of(tmp_path, GOOD, boxes="00000001_000.png,Mass,100,200,50,60,,,\n")
    (drawn,) = data.records[0].boxes["mass"]
    assert (drawn.x, drawn.y, drawn.width, drawn.height) == (25, 100, 12.5, 30)


def test_images_may_lie_in_one_folder_or_in_twelve(download: Path) -> None:
    assert len({record.image.parent.parent.name for record in nih.read(download).records}) == 2
    assert Image.open(nih.read(download).records[0].image).size == (1024, 1024)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (GOOD.replace("Hernia", "Hernya"), "'Hernya' is none of the 14"),
        (GOOD.replace("Hernia", "Hernia|No Finding"), "contradicts itself"),
        (GOOD.replace("Hernia", "Hernia|Hernia"), "names a finding twice"),
        (GOOD.replace(",1,57", ",one,57"), "Patient ID is 'one', which is no number"),
        (GOOD.replace(",1,57", ",2,57"), "not an image of patient 2"),
        ("00000001_001.png,Hernia,1", "the row ends before 'Patient ID'"),
        ("00000009_000.png,Mass,0,9,57,M,PA,1,1,1,1", "00000009_000.png stands in Data_Entry_2017_v2020.csv:2 already"),
    ],
)
def test_a_bad_row_is_named_and_the_others_are_read(tmp_path: Path, row: str, reason: str) -> None:
    before, after = GOOD.replace("00000001", "00000009").replace(",1,57", ",9,57"), GOOD.replace("1_000", "1_002")
    data = table_of(tmp_path, before, row, after)
    assert [record.image.name for record in data.records] == ["00000009_000.png", "00000001_002.png"]
    (left,) = data.left_out
    assert left.row == "Data_Entry_2017_v2020.csv:3"
    assert reason in left.reason


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    table_of(tmp_path, GOOD)
    data = nih.read(tmp_path)
    assert data.records == ()
    assert "00000001_000.png is in no folder images*" in data.left_out[0].reason


@pytest.mark.parametrize("age", ["414", "412Y", "fifty"])
def test_an_age_that_cannot_be_is_left_out_and_its_image_used(tmp_path: Path, age: str) -> None:
    data = table_of(tmp_path, GOOD.replace("57", age))
    assert data.records[0].age is None
    assert f"age {age!r} left out" in data.left_out[0].reason


@pytest.mark.parametrize(("age", "years"), [("058Y", 58), ("58", 58), ("018M", 1.5), ("000Y", 0), ("", None)])
def test_ages_are_read_in_every_unit(tmp_path: Path, age: str, years: float | None) -> None:
    assert table_of(tmp_path, GOOD.replace("57", age)).records[0].age == years


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("00000001_000.png,Hernia,900,10,200,50,,,", "leaves the image of 1024 x 1024 pixels"),
        ("00000001_000.png,Hernia,-5,10,200,50,,,", "leaves the image"),
        ("00000001_000.png,Hernia,10,10,0,50,,,", "empty"),
        ("00000001_000.png,Hernia,10,ten,20,50,,,", "'y' is 'ten', which is no number"),
        ("00000001_000.png,Hernia,10,10,20", "the row ends before 'h]'"),
    ],
)
def test_a_bad_box_takes_the_other_boxes_of_its_finding_along(tmp_path: Path, line: str, reason: str) -> None:
    good = "00000001_000.png,Hernia,10,10,20,50,,,"
    data = table_of(tmp_path, GOOD, boxes="\n".join([good, line, good.replace("Hernia", "Mass")]))
    assert data.records[0].boxes.keys() == {"mass"}
    assert data.left_out[0].row == "BBox_List_2017.csv:3"
    assert reason in data.left_out[0].reason


def test_a_box_of_an_unknown_finding_is_named(tmp_path: Path) -> None:
    data = table_of(tmp_path, GOOD, boxes="00000001_000.png,Opacity,1,1,2,2,,,\n")
    assert "'Opacity' is none of the 14" in data.left_out[0].reason


def test_an_image_in_both_official_lists_is_kept_from_training(tmp_path: Path) -> None:
    for name in ("train_val_list.txt", "test_list.txt"):
        (tmp_path / name).write_text("00000001_000.png\n")
    data = table_of(tmp_path, GOOD)
    assert data.records[0].split == "test"
    assert data.left_out[0].row == "test_list.txt:1"


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Data_Entry_2017.csv").write_text("Image,Label\n1.png,Hernia\n")
    with pytest.raises(DataMissing, match="no column 'Image Index'; its columns: Image, Label"):
        nih.read(tmp_path)


@pytest.mark.shared
def test_the_published_table_is_read_whole_and_counts_as_published(published: DataSet) -> None:
    assert published.left_out == ()
    assert len(published.records) == 112_120
    assert len({record.patient for record in published.records}) == 30_805
    counted = Counter(key for record in published.records for key, value in record.labels.items() if value)
    assert counted == PUBLISHED
    assert Counter(record.view for record in published.records) == {"PA": 67_310, "AP": 44_810}
    assert Counter(record.sex for record in published.records) == {"M": 63_340, "F": 48_780}


@pytest.mark.shared
def test_the_published_boxes_are_read_whole_and_lie_on_images_that_have_the_finding(published: DataSet) -> None:
    boxes = Counter(key for record in published.records for key, drawn in record.boxes.items() for _ in drawn)
    assert sum(boxes.values()) == 984
    assert sum(bool(record.boxes) for record in published.records) == 880
    assert boxes["infiltration"] == 123
    assert all(record.labels[key] == 1.0 for record in published.records for key in record.boxes)


@pytest.mark.shared
def test_the_published_table_splits_by_patient_with_every_finding_in_proportion(published: DataSet) -> None:
    shares = {"train": 0.7, "val": 0.1, "test": 0.2}
    parts = split(published, shares)
    for name, share in shares.items():
        for finding, total in PUBLISHED.items():
            held = sum(record.labels[finding] for record in parts[name])
            assert held / total == pytest.approx(share, abs=0.01), f"{finding} in {name}"

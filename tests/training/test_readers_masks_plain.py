"""Lung and heart masks of five collections, and the plain table, with their bad rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import mask, picture, write_picture
from samples import masks as write_masks
from samples import plain as write_plain

from models.rendering import render_picture
from training.data import DataMissing
from training.readers import masks, plain
from training.readers.fields import BadRow
from training.readers.records import UNCERTAIN, Record

HEADER = "path,patient,view,sex,age,split,edema,soft_edema\n"
GOOD = "1.png,p1,PA,F,50,train,1,0.9\n"


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masks(tmp_path_factory.mktemp("masks"))


@pytest.fixture
def copy(download: Path, tmp_path: Path) -> Path:
    """A download of one's own, to be spoilt."""
    return Path(shutil.copytree(download, tmp_path / "copy"))


def of_collection(folder: Path, name: str) -> list[Record]:
    return [record for record in masks.read(folder).records if record.source == f"masks/{name}"]


def drawn(record: Record, key: str) -> np.ndarray:
    parts = [Image.open(part).convert("L") for part in record.masks[key] if isinstance(part, Path)]
    return np.logical_or.reduce([np.asarray(part) > 127 for part in parts])


def test_every_collection_is_found_together_and_alone(download: Path) -> None:
    counts = {"MontgomerySet": 4, "ChinaSet_AllFiles": 3, "JSRT": 3}
    for name, count in counts.items():
        assert len(of_collection(download, name)) == count
        alone = masks.read(download / name)
        assert [record.image for record in alone.records] == [r.image for r in of_collection(download, name)]


def test_the_lungs_of_jsrt_lie_on_the_side_of_the_patient_and_unite_to_the_fields(download: Path) -> None:
    record = of_collection(download, "JSRT")[1]
    assert record.masks.keys() == {"lung_right", "lung_left", "lung_fields", "heart"}
    right, left, both = (drawn(record, key) for key in ("lung_right", "lung_left", "lung_fields"))
    assert np.array_equal(both, right | left)
    assert np.flatnonzero(right.any(0)).mean() < 512 < np.flatnonzero(left.any(0)).mean()
    assert {record.image.stem: record.labels["nodule"] for record in of_collection(download, "JSRT")} == {
        "JPCLN001": 1.0, "JPCLN002": 1.0, "JPCNN001": 0.0
    }  # fmt: skip


def test_sides_are_told_by_where_the_masks_lie_not_by_the_name_of_a_folder(copy: Path) -> None:
    folder = copy / "MontgomerySet" / "ManualMask"
    before = [record.masks["lung_right"] for record in of_collection(copy, "MontgomerySet")]
    for old, new in (("leftMask", "other"), ("rightMask", "leftMask"), ("other", "rightMask")):
        (folder / old).rename(folder / new)
    after = [record.masks["lung_right"] for record in of_collection(copy, "MontgomerySet")]
    assert [part.name for (part,) in before] == [part.name for (part,) in after]
    assert {part.parent.name for (part,) in before} == {"rightMask"}
    assert {part.parent.name for (part,) in after} == {"leftMask"}


def test_shenzhen_has_both_lungs_in_one_mask(download: Path) -> None:
    for record in of_collection(download, "ChinaSet_AllFiles"):
        assert record.masks.keys() == {"lung_fields"}
        assert 0.1 < drawn(record, "lung_fields").mean() < 0.6


def test_sex_age_and_tuberculosis_are_read_as_they_are_met(download: Path) -> None:
    told = [(r.sex, r.age, r.labels["tuberculosis"]) for r in of_collection(download, "ChinaSet_AllFiles")]
    assert told == [("M", 45, 0.0), ("F", 28, 1.0), ("M", pytest.approx(16 / 12), 1.0)]
    assert [(r.sex, r.age) for r in of_collection(download, "MontgomerySet")] == [("F", n) for n in (30, 31, 32, 33)]


def test_bad_masks_are_named_and_the_others_are_read(copy: Path) -> None:
    (copy / "ChinaSet_AllFiles" / "mask" / "CHNCXR_0001_0_mask.png").unlink()
    write_picture(copy / "ChinaSet_AllFiles" / "mask" / "CHNCXR_0002_1_mask.png", np.ones((900, 750), np.bool_))
    (copy / "ChinaSet_AllFiles" / "CXR_png" / "CHNCXR_0003_1.png").write_bytes(b"no picture")
    write_picture(
        copy / "MontgomerySet" / "ManualMask" / "leftMask" / "MCUCXR_0001_0.png", np.zeros((1005, 1223), bool)
    )
    data = masks.read(copy)
    assert {left.row: left.reason for left in data.left_out} == {
        "MontgomerySet/CXR_png/MCUCXR_0001_0.png": "mask leftMask/MCUCXR_0001_0.png is empty",
        "ChinaSet_AllFiles/CXR_png/CHNCXR_0001_0.png": "mask mask/CHNCXR_0001_0_mask.png is not there",
        "ChinaSet_AllFiles/CXR_png/CHNCXR_0002_1.png": (
            "mask CHNCXR_0002_1_mask.png has 750 x 900 pixels, its image 750 x 740"
        ),
        "ChinaSet_AllFiles/CXR_png/CHNCXR_0003_1.png": (
            "CHNCXR_0003_1.png is not a readable picture: UnidentifiedImageError"
        ),
    }
    assert len(data.records) == 6


@pytest.mark.parametrize("name", ["images", "masks"])
@pytest.mark.parametrize("lead", ["relative", "absolute"])
def test_tables_of_masks_lead_out_of_no_folder(name: str, lead: str, tmp_path: Path) -> None:
    """Else a table could have any file of the machine read as a picture."""
    elsewhere = tmp_path / "elsewhere.png"
    write_picture(elsewhere, picture("normal", 0, 128, 128))
    led = str(elsewhere) if lead == "absolute" else "../../../elsewhere.png"
    file, drawn = (led, "a.png") if name == "images" else ("a.png", led)
    for home, table, header, row in (
        ("chest_structures", "masks.csv", "file,mask,structure,patientid", "{},{},Left_Lung,{}"),
        ("lung_masks", "labels.csv", "file,mask,patientid,view,sex,age", "{},{},{},PA,F,50"),
    ):
        folder = tmp_path / "data" / home
        for part in ("images", "masks"):
            for good in ("a.png", "b.png"):
                write_picture(folder / part / good, picture("normal", 0, 128, 128))
        rows = [header, row.format(file, drawn, "p1"), row.format("b.png", "b.png", "p2")]
        (folder / table).write_text("\n".join(rows))
    data = masks.read(tmp_path / "data")
    assert [record.image.name for record in data.records] == ["b.png", "b.png"]
    assert {one.row: one.reason for one in data.left_out} == {
        row: f"{led!r} leads out of the folder of the data"
        for row in ("chest_structures/masks.csv:2", "lung_masks/labels.csv:2")
    }


def test_raw_files_of_jsrt_become_pictures_with_bones_bright(copy: Path) -> None:
    home = copy / "JSRT" / "All247images"
    png = home / "JPCNN001.png"
    bright = np.asarray(Image.open(png), np.uint16) * 16
    (4095 - bright).astype(">u2").tofile(home / "JPCNN001.IMG")
    expected = render_picture(png).pixels
    png.unlink()
    assert "masks.jsrt_to_png" in masks.read(copy).left_out[0].reason
    masks.jsrt_to_png(home / "JPCNN001.IMG", png)
    assert masks.read(copy).left_out == ()
    assert np.corrcoef(render_picture(png).pixels.ravel(), expected.ravel())[0, 1] > 0.999


def test_a_raw_file_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "JPCNN001.IMG").write_bytes(b"\0" * 100)
    with pytest.raises(BadRow, match="2048 x 2048"):
        masks.jsrt_to_png(tmp_path / "JPCNN001.IMG", tmp_path / "out.png")


@pytest.mark.shared
def test_the_real_masks_are_read_whole_with_each_lung_on_its_side(shared_data: Path) -> None:
    data = masks.read(shared_data)
    assert data.left_out == ()
    assert len(data.records) == 345 + 83
    assert sum("heart" in record.masks for record in data.records) == 83
    sided = [record.masks["lung_right"][0] for record in data.records if "lung_right" in record.masks]
    assert len(sided) == 82
    assert all(isinstance(part, Path) and part.stem.endswith("__Right_Lung") for part in sided)


def read_table(folder: Path, rows: str, header: str = HEADER) -> tuple[list[Record], dict[str, str]]:
    for number in range(1, 4):
        if not (folder / f"{number}.png").exists():
            write_picture(folder / f"{number}.png", mask("normal", "heart", 128, 128))
    (folder / "list.csv").write_text(header + rows)
    data = plain.read(folder)
    return list(data.records), {left.row: left.reason for left in data.left_out}


def test_a_plain_table_says_what_it_says(tmp_path: Path) -> None:
    (record,), left = read_table(tmp_path, GOOD)
    assert left == {}
    assert (record.patient, record.study, record.view, record.sex, record.age) == ("p1", "1.png", "PA", "F", 50)
    assert (record.labels, record.soft, record.split) == ({"edema": 1.0}, {"edema": 0.9}, "train")
    assert plain.read(tmp_path / "list.csv").records == (record,)


def test_what_the_table_leaves_blank_comes_from_the_dicom_header(tmp_path: Path) -> None:
    record = plain.read(write_plain(tmp_path)).records[-1]
    assert (record.study, record.view, record.sex, record.age) == ("1.2.3.9", "AP", "F", 44)
    assert record.labels == {"pneumothorax": 1.0, "effusion": UNCERTAIN}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("9.png,p1,PA,F,50,train,1,0.9\n", "9.png is not there"),
        (",p1,PA,F,50,train,1,0.9\n", "a file without a name is not there"),
        ("2.png,,PA,F,50,train,1,0.9\n", "no patient is named"),
        ("2.png,p1,PA,F,50,holdout,1,0.9\n", "split 'holdout' is none of"),
        ("2.png,p1,PA,F,50,train,maybe,0.9\n", "edema is 'maybe', which is no number"),
        ("2.png,p1,PA,F,50,train,0.5,0.9\n", "edema is '0.5', none of 1, 0, -1 and blank"),
        ("2.png,p1,PA,F,50,train,1,1.9\n", "soft_edema is '1.9', no probability"),
        ("1.png,p2,PA,F,50,train,1,0.9\n", "1.png stands in list.csv:2 already"),
        ("../1.png,p2,PA,F,50,train,1,0.9\n", "'../1.png' leads out of the folder of the data"),
        ("a/../../1.png,p2,PA,F,50,train,1,0.9\n", "leads out of the folder of the data"),
        ("/1.png,p2,PA,F,50,train,1,0.9\n", "leads out of the folder of the data"),
        ("list.csv,p2,PA,F,50,train,1,0.9\n", "list.csv is not readable DICOM"),
    ],
)
def test_a_bad_row_of_a_plain_table_is_named_and_the_others_are_read(tmp_path: Path, row: str, reason: str) -> None:
    write_picture(tmp_path / "1.png", mask("normal", "heart", 128, 128))  # beside the folder of the data
    (tmp_path / "data").mkdir()
    records, left = read_table(tmp_path / "data", GOOD + row + GOOD.replace("1.png", "3.png"))
    assert [record.image.name for record in records] == ["1.png", "3.png"]
    assert reason in left["list.csv:3"]


def test_a_view_that_is_not_understood_is_named_and_its_image_used(tmp_path: Path) -> None:
    (record,), left = read_table(tmp_path, GOOD.replace("PA", "front"))
    assert record.view == ""
    assert "view 'front' left out" in left["list.csv:2"]


def test_a_column_that_is_no_finding_is_named_and_not_read(tmp_path: Path) -> None:
    (record,), left = read_table(tmp_path, "1.png,p1,1,yes\n", "path,patient,hernia,remark\n")
    assert record.labels == {"hernia": 1.0}
    assert left == {"list.csv:1": "column 'remark' is no finding known here: not read"}


def test_labels_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    records, left = read_table(tmp_path, "1.png,p1,1,1\n", "path,patient,no_finding,hernia\n")
    assert records == []
    assert left["list.csv:2"] == "no_finding contradicts hernia"


def test_a_folder_with_two_tables_wants_one_named(tmp_path: Path) -> None:
    read_table(tmp_path, GOOD)
    (tmp_path / "other.csv").write_text(HEADER)
    with pytest.raises(DataMissing, match="2 CSV files"):
        plain.read(tmp_path)


def test_a_table_without_patients_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="no column 'patient'"):
        read_table(tmp_path, "1.png\n", "path\n")

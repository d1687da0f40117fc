"""The three challenges: SIIM-ACR pneumothorax, RSNA pneumonia and SIIM-FISABIO-RSNA COVID-19, with their bad rows."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from samples import SAMPLES, box, mask, write_table

from training.data import DataMissing
from training.readers import covid19, rsna, siim_acr
from training.readers.records import Box, DataSet, Record, RunLengths
from training.readers.run_lengths import decode

STUDIES, IMAGES = "train_study_level.csv", "train_image_level.csv"
LABELS, CLASSES = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: SAMPLES[name](tmp_path_factory.mktemp(name)) for name in ("siim_acr", "rsna", "covid19")}


@pytest.fixture
def copy(downloads: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A download of one's own, to be spoilt."""
    return lambda name: Path(shutil.copytree(downloads[name], tmp_path / name))


def edit(path: Path, change: Callable[[list[list[str]]], None]) -> None:
    """Change the rows of a table; the first is the header."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    write_table(path, rows[0], rows[1:])


def set_cell(row: int, column: int, text: str) -> Callable[[list[list[str]]], None]:
    def change(rows: list[list[str]]) -> None:
        rows[row][column] = text

    return change


def of_row(data: DataSet, row: str) -> Record:
    return next(record for record in data.records if record.row == row)


def reasons(data: DataSet) -> dict[str, str]:
    return {left.row: left.reason for left in data.left_out}


# SIIM-ACR


def test_masks_of_several_rows_are_united_into_the_truth(downloads: dict[str, Path]) -> None:
    data = siim_acr.read(downloads["siim_acr"])
    truth = mask("pneumothorax", "pneumothorax", 1024, 1024)
    parts_of = [record.masks["pneumothorax"] for record in data.records if record.labels["pneumothorax"]]
    assert sorted(len(parts) for parts in parts_of) == [1, 1, 1, 1, 2]
    for parts in parts_of:
        decoded = [decode(part) for part in parts if isinstance(part, RunLengths)]
        assert np.array_equal(np.logical_or.reduce(decoded), truth)


def test_minus_one_is_an_empty_mask_with_or_without_a_space(downloads: dict[str, Path]) -> None:
    data = siim_acr.read(downloads["siim_acr"])
    assert " -1" in (downloads["siim_acr"] / "train-rle.csv").read_text()
    assert "ImageId, EncodedPixels" in (downloads["siim_acr"] / "train-rle.csv").read_text()
    empty = [record for record in data.records if not record.labels["pneumothorax"]]
    assert len(empty) == 5
    assert all(record.masks == {"pneumothorax": ()} for record in empty)


def test_patient_view_sex_and_age_come_from_the_header(downloads: dict[str, Path]) -> None:
    record = siim_acr.read(downloads["siim_acr"]).records[3]
    assert (record.patient, record.view, record.sex, record.age) == ("patient-3", "AP", "F", 33)
    assert record.study == record.image.parent.parent.name


def test_bad_rows_of_siim_are_named_and_the_others_are_read(copy: Callable[[str], Path]) -> None:
    folder = copy("siim_acr")

    def spoil(rows: list[list[str]]) -> None:  # rows 2 and 3 are the two masks of the second image
        rows[2][1] = "-1"
        rows[5][1] = "1048570 7"  # reaches one pixel beyond 1024 x 1024
        rows[7][1] = "3 x"
        rows[9][1] = ""
        rows[10][0] = "1.2.3"

    edit(folder / "train-rle.csv", spoil)
    data = siim_acr.read(folder)
    assert len(data.records) == 5
    told = reasons(data)
    assert "says that there is no pneumothorax, another draws it" in told["train-rle.csv:3"]
    assert "mask of train-rle.csv:6: run lengths reach pixel 1048577" in told["train-rle.csv:6"]
    assert "no number" in told["train-rle.csv:8"]
    assert "blank, neither a mask nor -1" in told["train-rle.csv:10"]
    assert "1.2.3.dcm is nowhere" in told["train-rle.csv:11"]
    assert [why for row, why in told.items() if row.endswith(".dcm")] == ["train-rle.csv has no row for it"]


@pytest.mark.parametrize("broken", ["garbage", "1.2.3.4;1 3", ""])
def test_a_row_that_is_cut_off_costs_its_image_and_nothing_else(copy: Callable[[str], Path], broken: str) -> None:
    folder = copy("siim_acr")
    whole = siim_acr.read(folder)
    with (folder / "train-rle.csv").open("a") as file:
        file.write(f"{broken}\n" if broken else f"{whole.records[0].image.stem}\n")
    data = siim_acr.read(folder)
    assert len(data.records) == len(whole.records) - (not broken)
    assert len(data.left_out) > len(whole.left_out)


@pytest.mark.parametrize("name", ["siim_acr", "rsna", "covid19"])
def test_a_byte_that_is_no_utf_8_costs_one_row_at_most(
    copy: Callable[[str], Path], downloads: dict[str, Path], name: str
) -> None:
    read = {"siim_acr": siim_acr.read, "rsna": rsna.read, "covid19": covid19.read}[name]
    folder = copy(name)
    for file in folder.glob("*.csv"):
        content = file.read_bytes().rstrip(b"\n").split(b"\n")
        file.write_bytes(b"\n".join([*content[:-1], content[-1][:3] + b"\xe9" + content[-1][3:]]) + b"\n")
    data = read(folder)
    assert len(data.records) >= len(read(downloads[name]).records) - 2
    assert data.left_out


def test_an_open_quotation_mark_is_told_and_no_traceback(copy: Callable[[str], Path]) -> None:
    folder = copy("rsna")
    table = folder / "stage_2_train_labels.csv"
    lines = table.read_text("utf-8").splitlines()
    table.write_text("\n".join([*lines[:3], '"' + lines[3], *lines[4:]]) + "\n", "utf-8")
    data = rsna.read(folder)
    assert any("no name of a file" in one.reason or "is not in" in one.reason for one in data.left_out)
    table.write_text("\n".join([*lines[:3], '"' + "x" * 200_000]) + "\n", "utf-8")
    with pytest.raises(DataMissing, match="quotation mark"):
        rsna.read(folder)


def test_a_file_that_is_no_dicom_is_named(copy: Callable[[str], Path]) -> None:
    folder = copy("siim_acr")
    spoilt = sorted((folder / siim_acr.IMAGES).rglob("*.dcm"))[0]
    spoilt.write_bytes(b"not DICOM" * 100)
    data = siim_acr.read(folder)
    assert len(data.records) == 9
    assert f"{spoilt.name} is not readable DICOM" in data.left_out[0].reason


# RSNA


def test_boxes_of_several_rows_are_gathered_and_none_are_an_empty_tuple(downloads: dict[str, Path]) -> None:
    data = rsna.read(downloads["rsna"])
    boxes = [record.boxes["lung_opacity"] for record in data.records]
    assert [len(drawn) for drawn in boxes] == [0, 0, 2, 0, 0, 1, 0, 0, 1]
    assert boxes[2][0] == Box(*box("lung_opacity", 1024, 1024))
    assert [record.labels["no_finding"] for record in data.records] == [1, 0, 0] * 3


def test_the_published_mapping_tells_the_true_patients(copy: Callable[[str], Path]) -> None:
    folder = copy("rsna")
    patients = [record.patient for record in rsna.read(folder).records]
    assert patients[0] == patients[1] == "00000001"
    (folder / rsna.MAPPING).unlink()
    assert len({record.patient for record in rsna.read(folder).records}) == 9
    (folder / rsna.MAPPING).write_text(json.dumps({"images": []}))
    with pytest.raises(DataMissing, match="not RSNA's mapping"):
        rsna.read(folder)


def test_without_the_classes_nobody_says_that_an_image_is_normal(copy: Callable[[str], Path]) -> None:
    folder = copy("rsna")
    (folder / CLASSES).unlink()
    assert all(record.labels.keys() == {"lung_opacity"} for record in rsna.read(folder).records)


@pytest.mark.parametrize(
    ("table", "row", "column", "text", "named", "reason", "kept"),
    [
        (LABELS, 1, 5, "1", f"{LABELS}:2", "Target 1 contradicts class 'Normal'", 8),
        (LABELS, 1, 5, "2", f"{LABELS}:2", "Target is '2', neither 0 nor 1", 8),
        (LABELS, 1, 1, "10", f"{LABELS}:2", "Target 0 contradicts its box", 8),
        (LABELS, 4, 5, "0", f"{LABELS}:4", "contradict each other", 8),
        (LABELS, 1, 0, "elsewhere", f"{LABELS}:2", "elsewhere.dcm is not in", 8),
        (LABELS, 4, 3, "wide", f"{LABELS}:5", "width is 'wide', which is no number; the image is used without", 9),
        (LABELS, 4, 1, "", f"{LABELS}:5", "x is '', which is no number", 9),
        (LABELS, 4, 3, "500", f"{LABELS}:5", "leaves the image of 1024 x 1024 pixels", 9),
        (CLASSES, 1, 1, "Fine", f"{CLASSES}:2", "class 'Fine' is not one of", 9),
        (CLASSES, 4, 1, "Normal", f"{LABELS}:4", "contradict each other", 8),
    ],
)
def test_a_bad_row_of_rsna_is_named(
    *, copy: Callable[[str], Path], table: str, row: int, column: int, text: str, named: str, reason: str, kept: int
) -> None:
    folder = copy("rsna")
    edit(folder / table, set_cell(row, column, text))
    data = rsna.read(folder)
    assert reason in reasons(data)[named]
    assert len(data.records) == kept
    if table == LABELS and kept == 9:  # what is left of its boxes is not the truth
        assert of_row(data, f"{LABELS}:4").boxes == {}


def test_rows_that_stand_twice_are_named_and_count_once(copy: Callable[[str], Path]) -> None:
    folder = copy("rsna")
    edit(folder / LABELS, lambda rows: rows.extend([rows[1], rows[3]]))
    data = rsna.read(folder)
    assert len(data.records) == 9
    assert len(of_row(data, f"{LABELS}:4").boxes["lung_opacity"]) == 2
    assert "stands in stage_2_train_labels.csv:2 already" in reasons(data)[f"{LABELS}:12"]
    assert "the same box stands above" in reasons(data)[f"{LABELS}:13"]


@pytest.mark.shared
def test_the_published_labels_of_rsna_are_read_whole(shared_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(shared_data / "label_tables" / "kaggle_stage_2_train_labels.csv.zip") as archive:
        archive.extractall(tmp_path)
    data = rsna.read(tmp_path, need_images=False)
    assert data.left_out == ()
    assert len(data.records) == 26_684
    assert sum(record.labels["lung_opacity"] for record in data.records) == 6_012
    assert sum(len(record.boxes["lung_opacity"]) for record in data.records) == 9_555


# COVID-19


def test_the_second_image_of_a_boxed_study_says_nothing_about_opacities(downloads: dict[str, Path]) -> None:
    records = covid19.read(downloads["covid19"]).records
    boxed, sibling = (record for record in records if record.study == f"{1:012x}")
    assert boxed.labels["lung_opacity"] == 1.0
    assert boxed.boxes["lung_opacity"] == (Box(*box("lung_opacity", 1216, 1440)),)
    assert sibling.boxes == {}
    assert "lung_opacity" not in sibling.labels
    assert sibling.labels["covid_typical"] == 1.0


def test_both_images_of_a_negative_study_have_no_opacity(downloads: dict[str, Path]) -> None:
    records = [r for r in covid19.read(downloads["covid19"]).records if r.study == f"{0:012x}"]
    assert len(records) == 2
    assert all(record.boxes == {"lung_opacity": ()} for record in records)
    assert all(record.labels["lung_opacity"] == 0.0 for record in records)


def test_an_atypical_study_without_a_box_has_none_for_an_effusion_is_never_boxed(downloads: dict[str, Path]) -> None:
    atypical = [r for r in covid19.read(downloads["covid19"]).records if r.labels["covid_atypical"]]
    assert all(record.boxes == {"lung_opacity": ()} for record in atypical)


def test_a_typical_study_without_a_box_says_nothing_about_opacities(copy: Callable[[str], Path]) -> None:
    folder = copy("covid19")
    edit(folder / IMAGES, lambda rows: rows[3].__setitem__(slice(1, 3), ["", covid19.NO_BOX]))
    data = covid19.read(folder)
    assert data.left_out == ()
    assert [record.boxes for record in data.records if record.study == f"{1:012x}"] == [{}, {}]


def test_the_patient_is_the_headers_and_else_the_study(copy: Callable[[str], Path]) -> None:
    folder = copy("covid19")
    assert covid19.read(folder).records[2].patient == "patient00001"
    shutil.rmtree(folder / "train")
    data = covid19.read(folder, need_images=False)
    assert len(data.records) == 14
    assert all(record.patient == record.study for record in data.records)
    assert covid19.read(folder).records == ()


@pytest.mark.parametrize(
    ("table", "row", "column", "text", "named", "reason", "kept"),
    [
        (STUDIES, 2, 1, "1", f"{STUDIES}:3", "has 2 appearances and not one", 12),
        (STUDIES, 2, 2, "0", f"{STUDIES}:3", "has 0 appearances and not one", 12),
        (STUDIES, 2, 2, "yes", f"{STUDIES}:3", "Typical Appearance is 'yes'", 12),
        (STUDIES, 2, 0, "abc", f"{STUDIES}:3", "id 'abc' does not end in _study", 12),
        (STUDIES, 3, 0, f"{1:012x}_study", f"{STUDIES}:4", "twice", 13),
        (IMAGES, 3, 0, "abc_image", f"{IMAGES}:4", "abc.dcm is nowhere", 13),
        (
            IMAGES,
            4,
            0,
            "000001000000_image",
            f"{IMAGES}:5",
            "000001000000 stands in train_image_level.csv:4 already",
            13,
        ),
        (IMAGES, 3, 1, "[{'x': 1}]", f"{IMAGES}:4", "cannot be read", 13),
        (IMAGES, 3, 1, "", f"{IMAGES}:4", "0 boxes contradict the label 'opacity 1", 13),
        (IMAGES, 3, 2, covid19.NO_BOX, f"{IMAGES}:4", "1 boxes contradict the label 'none 1 0 0 1 1'", 13),
        (IMAGES, 3, 2, "opacity 1 2 3", f"{IMAGES}:4", "not made of class, confidence and four corners", 13),
        (IMAGES, 3, 2, "haze 1 1 1 2 2", f"{IMAGES}:4", "names neither opacity nor none", 13),
        (IMAGES, 3, 3, "elsewhere", f"{IMAGES}:4", "study 'elsewhere' has no usable row", 13),
        (IMAGES, 3, 3, f"{0:012x}", f"{IMAGES}:4", "a box contradicts the negative appearance", 13),
    ],
)
def test_a_bad_row_of_covid19_is_named(
    *, copy: Callable[[str], Path], table: str, row: int, column: int, text: str, named: str, reason: str, kept: int
) -> None:
    folder = copy("covid19")
    edit(folder / table, set_cell(row, column, text))
    data = covid19.read(folder)
    assert reason in reasons(data)[named]
    assert len(data.records) == kept


def test_a_box_that_leaves_its_image_is_named_and_its_image_has_no_boxes(copy: Callable[[str], Path]) -> None:
    folder = copy("covid19")

    def far_out(rows: list[list[str]]) -> None:
        rows[3][1] = "[{'x': 1000, 'y': 10, 'width': 500, 'height': 20}]"
        rows[3][2] = "opacity 1 1000 10 1500 30"

    edit(folder / IMAGES, far_out)
    data = covid19.read(folder)
    assert "leaves the image of 1440 x 1216 pixels; the image is used without boxes" in reasons(data)[f"{IMAGES}:4"]
    record = of_row(data, f"{IMAGES}:4")
    assert (record.labels["lung_opacity"], record.boxes) == (1.0, {})


def test_what_rounding_put_beyond_the_edge_is_cut_off(copy: Callable[[str], Path]) -> None:
    folder = copy("covid19")

    def hardly_out(rows: list[list[str]]) -> None:
        rows[3][1] = "[{'x': -0.4, 'y': 10, 'width': 1440.9, 'height': 20}]"
        rows[3][2] = "opacity 1 -0.4 10 1440.5 30"

    edit(folder / IMAGES, hardly_out)
    assert of_row(covid19.read(folder), f"{IMAGES}:4").boxes == {"lung_opacity": (Box(0, 10, 1440, 20),)}


def test_an_unread_row_of_an_atypical_study_does_not_make_its_other_image_free_of_opacities(
    copy: Callable[[str], Path],
) -> None:
    folder = copy("covid19")
    edit(folder / IMAGES, lambda rows: rows.append(["lost_image", "", covid19.NO_BOX, f"{3:012x}"]))
    data = covid19.read(folder)
    assert [record.boxes for record in data.records if record.study == f"{3:012x}"] == [{}]

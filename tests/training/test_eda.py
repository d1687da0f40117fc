"""The page about a data set, on computed chests whose every number is counted by hand."""

from __future__ import annotations

import base64
import io
import re
import time
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from models.phantom import chest
from training.eda import files, montage, plots, statistics
from training.eda.__main__ import main
from training.eda.page import NOTICE, render
from training.eda.sections import Options
from training.readers import catalogue
from training.readers.records import UNCERTAIN, Box, DataSet, LeftOut, Record, RunLengths
from training.readers.run_lengths import encode

FINDINGS = ("no_finding", "effusion", "mass", "edema")
SMALL = Options(headers=50, images=20, tiles=8)


class Page(HTMLParser):
    """Tables of a page by caption, its text, and every element with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._caption = self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.tables.setdefault(self._caption, []).append([])
        if tag in ("td", "th", "caption"):
            self._open = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "caption":
            self._caption = self._open.strip()
        if tag in ("td", "th"):
            self.tables[self._caption][-1].append(self._open.strip())

    def handle_data(self, data: str) -> None:
        self._open += data
        self.text += data

    def rows(self, caption: str) -> dict[str, list[str]]:
        return {row[0]: row[1:] for row in self.tables[caption][1:]}


@cache
def radiograph(seed: int) -> np.ndarray:
    return chest(seed, rows=256, columns=256).pixels


def picture(path: Path, seed: int) -> Path:
    Image.fromarray((255 * radiograph(seed)).astype(np.uint8)).save(path)
    return path


def dicom(path: Path, seed: int, body_part: str = "CHEST", spacing: float | None = 0.2) -> Path:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", generate_uid()
    ds.Modality, ds.BodyPartExamined, ds.PhotometricInterpretation = "DX", body_part, "MONOCHROME2"
    ds.Rows = ds.Columns = 256
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 15, 0, 1
    if spacing:
        ds.PixelSpacing = [spacing, spacing]
    ds.PixelData = (4095 * radiograph(seed)).astype(np.uint16).tobytes()
    ds.save_as(path, enforce_file_format=True)
    return path


def make(folder: Path) -> DataSet:
    """Six images of three patients: two of one study are the same picture, one has boxes, two have masks."""
    ones = {key: 0.0 for key in FINDINGS}
    half = np.zeros((256, 256), np.bool_)
    half[:, :128] = True
    mask = folder / "mask.png"
    Image.fromarray(half.astype(np.uint8) * 255).save(mask)
    a = Record(
        picture(folder / "a.png", 1), "p1", "s1", "north", "PA", "F", 40, ones | {"effusion": 1.0}, split="train"
    )
    b = replace(a, image=picture(folder / "b.png", 1), labels=ones | {"effusion": 1.0, "mass": 1.0})
    c = replace(
        a, image=dicom(folder / "c.dcm", 2), study="s2", view="AP", source="south", labels=ones | {"no_finding": 1.0}
    )
    d = Record(
        dicom(folder / "d.dcm", 3, "THORAX", None), "p2", "s3", "south", "AP", "M", 60.0, {"edema": UNCERTAIN},
        boxes={"mass": (Box(0, 0, 64, 128), Box(128, 128, 64, 64)), "effusion": ()}, split="train",
    )  # fmt: skip
    e = replace(d, image=picture(folder / "e.png", 4), study="s4", boxes={}, masks={"lungs": (mask,)}, split="test")
    f = Record(folder / "absent.png", "p3", "s5", "south", masks={"lungs": (encode(half[:, :64]),)})
    left_out = (
        LeftOut("labels.csv:3", "age '412' left out"),
        LeftOut("labels.csv:9", "age '155' left out"),
        LeftOut("labels.csv:5", "no such image"),
    )
    return DataSet("plain", (a, b, c, d, e, f), FINDINGS, left_out)


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return make(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(render(make(tmp_path_factory.mktemp("data")), SMALL, {}))


def test_labels_are_counted_by_what_they_say(page: Page) -> None:
    assert page.rows("Images by finding") == {
        "No finding": ["1", "0", "2", "3", "33.3 %"],
        "Effusion": ["2", "0", "1", "3", "66.7 %"],
        "Mass": ["1", "0", "2", "3", "33.3 %"],
        "Edema": ["0", "2", "3", "1", "0.0 %"],
    }
    assert page.rows("Findings per image") == {"0": ["3", "60.0 %"], "1": ["1", "20.0 %"], "2": ["1", "20.0 %"]}


def test_findings_that_occur_together_are_counted(page: Page) -> None:
    both = page.rows("Images that have both; on the diagonal, images that have the one")
    assert both["Effusion"] == ["0", "2", "1", "0"]
    assert both["Mass"] == ["0", "1", "1", "0"]


def test_people_studies_and_sources_are_counted(page: Page) -> None:
    assert page.rows("Images per study") == {"1": ["4", "80.0 %"], "2": ["1", "20.0 %"]}
    assert page.rows("Images per patient") == {"1": ["1", "33.3 %"], "2": ["1", "33.3 %"], "3": ["1", "33.3 %"]}
    assert page.rows("View")["not known"] == ["1", "16.7 %"]
    assert page.rows("Source") == {"south": ["4", "66.7 %"], "north": ["2", "33.3 %"]}
    assert page.rows("Age in years, by sex")["F"] == ["3", "40", "40", "40", "40", "40"]
    assert "Images without an age: 1." in page.text


def test_the_balance_of_the_splits_and_a_patient_in_two_of_them_are_told(page: Page) -> None:
    balance = page.tables["Share of answered images with the finding, and their number, by split"]
    assert balance[0] == ["finding", "not known", "test", "train"]
    assert page.rows("Share of answered images with the finding, and their number, by split")["Effusion"] == [
        "-", "-", "66.7 % (2)",
    ]  # fmt: skip
    assert "Patients with images in more than one split: 1: p2." in page.text


def test_boxes_are_counted_and_measured(page: Page) -> None:
    boxes = page.rows("Boxes by class; areas in pixels")
    assert boxes["Mass"] == ["2", "1", "0", "5,120", "6,144", "7,168"]
    assert boxes["Effusion"] == ["0", "0", "1", "-", "-", "-"]
    # 64 x 128 of 256 x 256 pixels are 12.5 %, 64 x 64 are 6.25 %
    assert page.rows("Area of a box in % of its image")["Mass"] == ["2", "7.8", "9.4", "10.9"]
    assert page.rows("Mean centre of boxes: 0 is left or top, 1 right or bottom")["Mass"] == ["0.38", "0.44"]


def test_the_heat_map_is_the_share_of_boxes_over_a_place() -> None:
    covered = statistics.coverage(np.array([[0, 0, 0.5, 0.5], [0.25, 0.25, 0.5, 0.5]]), cells=4)
    assert covered.tolist() == [[0.5, 0.5, 0, 0], [0.5, 1, 0.5, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 0]]


def test_areas_of_masks_come_from_files_and_from_run_lengths(page: Page) -> None:
    assert page.rows("Masks by structure or finding") == {"Lungs": ["2", "0"]}
    # half of the picture, and all of the narrow one
    assert page.rows("Area of a mask in % of its image")["Lungs"] == ["2", "62.5", "75.0", "87.5"]


def test_what_headers_say_is_told_of_dicom_files_alone(page: Page) -> None:
    assert page.rows("Format") == {"PNG": ["3", "60.0 %"], "DICOM": ["2", "40.0 %"]}
    assert page.rows("BodyPartExamined") == {"CHEST": ["1", "50.0 %"], "THORAX": ["1", "50.0 %"]}
    assert page.rows("Pixel spacing in mm (row x column)") == {
        "0.200 x 0.200": ["1", "50.0 %"],
        "(empty)": ["1", "50.0 %"],
    }
    assert "Headers of 6 of 6 files were looked for; 5 could be read." in page.text
    assert "nothing here speaks of them: 1." in page.text


def test_the_same_picture_twice_in_a_study_is_found(page: Page, data: DataSet) -> None:
    (row,) = page.tables["Pairs of copies"][1:]
    assert row == ["s1", "a.png", "b.png", "the same pixels", "1.000"]
    assert "Opened: images 2, of studies with several images 1" in page.text
    brighter = data.records[1].image
    Image.fromarray((np.asarray(Image.open(brighter)) // 2 + 60).astype(np.uint8)).save(brighter)
    (copy,) = files.find_copies(data.records, 20, 1, {}).copies
    assert copy.alike > 0.99


def test_two_exposures_of_a_study_are_no_copies_and_one_picture_of_two_patients_is_told(data: DataSet) -> None:
    a, b, c, d, *_ = data.records
    search = files.find_copies(
        [a, replace(c, study="s1"), replace(b, study="s9", patient="p9"), replace(d, study="s9")], 20, 1, {}
    )
    assert (search.studies, search.images, search.copies) == (2, 4, ())
    assert [{x.name for x in pair} for pair in search.across] == [{"a.png", "b.png"}]


def test_no_more_is_opened_than_the_limits_allow(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    real = files.open_image
    monkeypatch.setattr(files, "open_image", lambda path: (opened.append(path), real(path))[1])
    assert files.survey(data.records, 3, 1, {}).looked == 3
    assert files.find_copies(data.records, 1, 1, {}).images == 0
    assert not opened
    assert files.draw(data.records, 3, 1) == files.draw(data.records, 3, 1)
    assert len(files.mask_shares(data.records, 1, 1, {})["lungs"]) == 1


def test_rows_left_out_are_grouped_by_their_reason(page: Page) -> None:
    left_out = page.rows("Rows that the reader left out, by reason")
    assert left_out["age … left out"][0] == "2"
    assert left_out["age … left out"][1].startswith("labels.csv:3: age '412' left out; labels.csv:9")
    assert left_out["no such image"] == ["1", "labels.csv:5: no such image"]


def test_boxes_and_masks_are_drawn_where_they_lie(data: DataSet) -> None:
    colours = montage.colours_of(data.records)
    boxed, masked = data.records[3], data.records[4]
    assert {tile.caption for tile in montage.tiles([boxed, masked], colours, {})} == {
        "Edema (uncertain), 2 x Mass box; AP, M, 60 years", "Edema (uncertain), Lungs mask; AP, M, 60 years",
    }  # fmt: skip
    wanted = np.array([int(colours["lungs"][i : i + 2], 16) for i in (1, 3, 5)])
    shown = _pixels(montage.tiles([masked], colours, {})[0])
    plain = _pixels(montage.tiles([replace(masked, masks={})], colours, {})[0])
    changed = np.abs(shown - plain).max(axis=2) > 40
    assert changed[:, 124:128].any()
    assert not changed[:, 136:].any()  # beyond the mask, as far as JPEG's blocks reach
    assert np.abs(shown[100:150, 126] - wanted).max() < 60
    unboxed = replace(boxed, boxes={})
    framed = np.abs(_pixels(montage.tiles([boxed], colours, {})[0]) - _pixels(montage.tiles([unboxed], colours, {})[0]))
    assert framed[128:130, 140:180].max(axis=2).min() > 20
    assert not (framed[144:180, 144:176] > 40).any()


def _pixels(tile: montage.Tile) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(tile.data.partition(",")[2]))) as shown:
        return np.asarray(shown).astype(int)


def test_hostile_text_does_not_become_markup(data: DataSet) -> None:
    nasty = '<script>alert("1")</script>$x_{$&amp;\x01'
    first, *rest = data.records
    record = replace(
        first,
        source=nasty,
        view=nasty,
        sex=nasty,
        study=nasty,
        split=nasty,
        labels={nasty: 1.0},
        boxes={nasty: (Box(1, 1, 9, 9),)},
        masks={nasty: ()},
    )
    second = replace(record, image=rest[0].image)
    hostile = DataSet("plain", (record, second, *rest), (*FINDINGS, nasty), (LeftOut(nasty, nasty),))
    text = render(hostile, SMALL, {})
    page = Page(text)
    assert not [tag for tag, _ in page.elements if tag == "script"]
    assert "<script" not in text
    assert page.rows("Source")[nasty][0] == "2"
    assert any('"1"' in (attributes.get("alt") or "") for tag, attributes in page.elements if tag == "img")


def test_the_page_stands_alone_and_says_what_it_is(data: DataSet) -> None:
    text = render(data, SMALL, {})
    page = Page(text)
    assert NOTICE in page.text
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
        assert tag not in ("link", "script", "iframe")
    assert not re.search(r"url\((?!#)|@import", text)
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 5  # of six, one is absent
    assert all(attributes["alt"] for attributes in images)
    drawn = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(drawn) >= 12
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in drawn)
    assert text.count("<details>") == len(drawn)  # the numbers of each plot
    assert "#010203" not in text
    ids = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert len(ids) == len(set(ids))


def test_the_same_seed_makes_the_same_page(data: DataSet) -> None:
    assert render(data, SMALL, {}) == render(data, SMALL, {})


@pytest.mark.parametrize("records", ["none", "bare"])
def test_a_data_set_without_anything_still_has_a_page(records: str, tmp_path: Path) -> None:
    bare = () if records == "none" else (Record(tmp_path / "x.png", "p", "s", ""),)
    page = Page(render(DataSet("plain", bare, ()), SMALL, {}))
    assert "The reader left nothing out." in page.text


def test_files_that_cannot_be_read_are_named_with_their_reasons(data: DataSet) -> None:
    first, second, third, *rest = data.records
    first.image.write_bytes(b"no picture")
    third.image.write_bytes(b"no DICOM")
    cut = second.image.read_bytes()
    second.image.write_bytes(cut[: len(cut) // 2])  # its header is whole
    broken = replace(rest[2], image=rest[1].image, masks={"lungs": (RunLengths("1 2 3", 4, 4),)})
    page = Page(render(replace(data, records=(first, second, third, *rest[:2], broken, rest[2])), SMALL, unread := {}))
    named = page.rows("Files that could not be read")
    assert {Path(file).name: reason.partition(":")[0] for file, (reason,) in named.items()} == {
        "a.png": "UnidentifiedImageError", "b.png": "ImageRefused", "c.dcm": "InvalidDicomError",
        "e.png": "RunLengthsInvalid", "absent.png": "it is not there",
    }  # fmt: skip
    assert len(unread) == 5
    assert "5 files not read" in " ".join(page.text.split())
    assert str(first.image.parent) not in page.text
    assert page.rows("Area of a mask in % of its image")["Lungs"][0] == "2"  # the third is no mask


def test_a_table_as_long_as_nih_without_images_takes_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    keys = tuple(f"finding_{i}" for i in range(15))
    answers = (rng.random((112_120, 15)) < 0.06).astype(float)
    records = tuple(
        Record(tmp_path / f"{i}.png", f"p{i // 4}", f"s{i}", "nih", "PA", "M", 50.0, dict(zip(keys, row, strict=True)))
        for i, row in enumerate(answers.tolist())
    )
    start = time.process_time()
    page = Page(render(DataSet("nih", records, keys), SMALL, {}))
    assert time.process_time() - start < 60
    assert page.rows("Images by finding")["Finding 3"][0] == f"{int(answers[:, 3].sum()):,}"
    assert "nothing here speaks of them: 50." in page.text


def test_the_command_writes_the_page_and_names_what_it_could_not_read(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalogue, "READERS", {"plain": lambda folder: data})
    out = tmp_path / "page.html"
    assert main(["plain", str(tmp_path), "--out", str(out), "--images", "4"]) == 0
    assert "Data set plain" in out.read_text("utf-8")
    said = capsys.readouterr().err
    assert "hilum: 1 files could not be read, the first of them:" in said
    assert "absent.png: it is not there" in said
    assert main(["plain", str(tmp_path / "nowhere"), "--out", str(out)]) == 1


def test_long_names_are_cut_and_the_rest_of_a_long_tail_is_one_bar() -> None:
    assert "x" * 33 + "…" in plots.bars(["x" * 80], {"images": [3]}, "alt")
    assert ">more</text>" in plots.columns({n: 1 for n in range(20)}, "alt", xlabel="images")

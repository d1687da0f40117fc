"""The checker and `./hilum verify` on objects that are damaged at random, and on files that are none."""

from __future__ import annotations

import json
import os
import random
from contextlib import suppress
from copy import deepcopy
from io import BytesIO, StringIO
from pathlib import Path

import pydicom
import pytest
from broken_results import KINDS, coded, files, read, unchecked
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence
from rich.console import Console
from test_measurement_report import CREATED, encoded, file_bytes, findings_for, source

from dicom_sr.conformance import dciodvfy
from dicom_sr.conformance.check import check, check_together
from dicom_sr.conformance.coding import verhoeff_holds
from dicom_sr.evidence import evidence
from dicom_sr.reader import NotOurResult
from dicom_sr.report.wording import load_wording
from dicom_sr.text_report import encode_text_report
from models.study import StudyFindings
from orthanc_plugin.commands.show import show_objects
from orthanc_plugin.commands.verify import verify_files
from orthanc_plugin.settings import Settings

# Objects are broken here on purpose, and pydicom says so.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def damaged(rng: random.Random, ds: Dataset) -> None:
    """Change one random element, somewhere, into something else."""
    here = ds
    while True:
        if not len(here):
            return
        element = here[rng.choice(list(here.keys()))]
        if isinstance(element.value, Sequence) and len(element.value) and rng.random() < 0.8:
            here = rng.choice(list(element.value))
            continue
        break
    how = rng.randrange(6)
    if how == 0:
        del here[element.tag]
    elif how == 1:
        here.add_new(element.tag, "LO", "nonsense")
    elif how == 2:
        here.add_new(element.tag, "SQ", [])
    elif how == 3:
        here.add_new(element.tag, "SQ", [Dataset()])
    elif how == 4:
        here.add_new(element.tag, "OB", b"\xff\x00\xfe")
    else:
        here.add_new(element.tag, "IS", rng.choice([None, "-1", "99999999"]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_object_is_reported_and_never_raises(kind: str) -> None:
    rng = random.Random(kind)  # noqa: S311
    for _ in range(60):
        with pydicom.config.disable_value_validation():
            ds = read(kind)
            for _ in range(rng.randrange(1, 6)):
                damaged(rng, ds)
            check_together([ds, *([read("SR")] if kind == "SEG" else [])])
            check(ds)


@pytest.mark.parametrize("kind", ["SR", "TEXT", "PR"])
def test_a_file_with_wrong_bytes_never_raises(kind: str) -> None:
    rng = random.Random(kind)  # noqa: S311
    content = files()[kind]
    for _ in range(60):
        broken = bytearray(content[: rng.randrange(400, len(content))])
        for _ in range(rng.randrange(1, 30)):
            broken[rng.randrange(150, len(broken))] = rng.randrange(256)
        try:
            ds = dcmread(BytesIO(bytes(broken)), force=True)
        except Exception:  # noqa: BLE001, S112  (what pydicom does not read is no matter of the checker)
            continue
        check(ds)


def test_an_empty_object_and_a_deep_one_are_reported() -> None:
    assert {v.where for v in check(Dataset())} >= {"SOPClassUID", "SOPInstanceUID"}
    deep = leaf = read("TEXT")
    for _ in range(100):
        item = Dataset()
        item.RelationshipType, item.ValueType, item.ContinuityOfContent = "CONTAINS", "CONTAINER", "SEPARATE"
        item.ConceptNameCodeSequence = [coded("121070", "DCM", "Findings")]
        leaf.ContentSequence = [*leaf.get("ContentSequence", ()), item]
        leaf = item
    assert "PS3.5 7.5" in {v.rule for v in check(deep)}


def test_the_check_digit_of_snomed_ct_is_verhoeff_s() -> None:
    assert all(verhoeff_holds(v) for v in ("39607008", "80891009", "52101004", "272519000", "260753009"))
    digits = "39607008"
    for place in range(len(digits)):
        for digit in set("0123456789") - {digits[place]}:
            assert not verhoeff_holds(digits[:place] + digit + digits[place + 1 :])


def written(folder: Path, *kinds: str) -> Path:
    for kind in kinds:
        (folder / f"{kind}.dcm").write_bytes(files()[kind])
    return folder


def test_verify_judges_every_file_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (written(tmp_path, "image", "SR", "TEXT") / "notes.txt").write_text("no DICOM")
    assert verify_files([tmp_path], as_json=False) == 0
    assert "3 objects, 2 of ours: no violation." in capsys.readouterr().out


def test_verify_names_rule_and_place_and_nothing_of_the_patient(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ds = read("SR")
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Geheim^Name", "GEHEIM-7", "19990231"
    ds.OperatorsName = "Geheim^Auch"
    unchecked(ds, "PatientSex", "GEHEIM")
    ds.save_as(tmp_path / "SR.dcm")
    assert verify_files([tmp_path / "SR.dcm"], as_json=False) == 1
    said = capsys.readouterr().out
    assert "AIR 6.5.3.1 at OperatorsName" in said
    assert "PS3.5 6.2 at PatientBirthDate" in said
    if dciodvfy.is_installed():
        assert "dciodvfy: " in said
    assert "geheim" not in said.lower()


def test_verify_as_json_is_one_object_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ds = read("SR")
    ds.SeriesDescription = "Chest"
    ds.save_as(tmp_path / "SR.dcm")
    assert verify_files([tmp_path], as_json=True) == 1
    one, between = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert one["path"].endswith("SR.dcm")
    assert one["ours"]
    assert [v["rule"] for v in one["violations"]] == ["Hilum identity"]
    assert between["path"] is None
    assert between["violations"] == []


def test_verify_judges_files_by_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ds = read("SR")
    ds.PatientID = "OTHER"
    ds.save_as(written(tmp_path, "image") / "SR.dcm")
    assert verify_files([tmp_path], as_json=False) == 1
    assert "between the files: AIR 6.5.3 at PatientID" in capsys.readouterr().out


def test_verify_counts_the_pixels_of_outlines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ds = read("SEG")
    written(tmp_path, "SR", "SEG")
    assert verify_files([tmp_path], as_json=False) == 0
    ds.PixelData = bytes(len(ds.PixelData))
    ds.save_as(tmp_path / "SEG.dcm")
    assert verify_files([tmp_path], as_json=False) == 1
    assert "make it 0" in capsys.readouterr().out
    (tmp_path / "SEG.dcm").write_bytes(files()["SEG"][:-100])
    assert verify_files([tmp_path], as_json=False) == 1
    assert "PS3.5 7.1.1 at PixelData" in capsys.readouterr().out


def test_verify_knows_the_sentences_of_its_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ds = source()
    findings = findings_for(ds)
    home, folder = tmp_path / "home", tmp_path / "files"
    home.mkdir()
    folder.mkdir()
    (home / "report.en.toml").write_text('disclaimer = "Not for diagnosis, says the site."\n')
    settings = Settings(home=home)
    report = encoded(ds).measurement_report
    text = encode_text_report(
        [evidence(ds, findings)],
        StudyFindings(findings.study_instance_uid, (findings,)),
        [report],
        CREATED,
        wording=load_wording("en", settings.site_wording),
    )
    for name, made in (("SR", report), ("TEXT", text)):
        (folder / f"{name}.dcm").write_bytes(file_bytes(made))
    assert verify_files([folder], as_json=False, settings=settings) == 0
    assert verify_files([folder], as_json=False) == 1
    assert "Hilum words" in capsys.readouterr().out
    (home / "report.en.toml").write_text("disclaimer = 7")
    assert verify_files([folder], as_json=False, settings=settings) == 1
    assert "the sentences of the site were left out" in capsys.readouterr().err


def test_verify_fails_where_there_is_nothing_to_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no DICOM")
    assert verify_files([text], as_json=False) == 1
    assert "not a DICOM file" in capsys.readouterr().out
    assert verify_files([tmp_path / "absent.dcm"], as_json=False) == 1
    said = capsys.readouterr().out
    assert "no such file" in said
    assert "no violation" not in said
    assert verify_files([tmp_path / ("long" * 99)], as_json=False) == 1
    (tmp_path / "empty").mkdir()
    assert verify_files([tmp_path / "empty"], as_json=False) == 1
    assert "nothing was judged" in capsys.readouterr().out


@pytest.mark.timeout(20)
def test_what_is_neither_file_nor_folder_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    written(tmp_path, "image")
    assert verify_files([tmp_path / "pipe", Path("/dev/zero")], as_json=False) == 1
    assert capsys.readouterr().out.count("neither a file nor a folder") == 2
    assert verify_files([tmp_path], as_json=False) == 0


@pytest.mark.skipif(not dciodvfy.is_installed(), reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("kind", ["SR", "SEG", "TEXT"])
def test_texts_are_measured_in_characters_and_not_in_bytes(kind: str, tmp_path: Path) -> None:
    ds = read(kind)
    ds.StudyDescription, ds.StudyID = "Рентген " * 6 + "胸部正面", "検査" * 8
    ds.PatientName = "Ж" * 30 + "^" + "Ж" * 30 + "=" + "胸" * 40
    ds.PatientComments = "Ж" * 6000 + "\r\n" + "Ж" * 4000
    ds.ContributingEquipmentSequence[0].InstitutionAddress = "Ж" * 1024
    ds.save_as(tmp_path / "long.dcm")
    assert list(dciodvfy.errors_of(tmp_path / "long.dcm", ds)) == []
    told = 2  # the value, and dciodvfy's summary
    for keyword, value in (("StudyDescription", "Ж" * 65), ("StudyID", "A" * 17), ("PatientName", "Ж" * 65)):
        longer = deepcopy(ds)
        unchecked(longer, keyword, value)
        longer.save_as(tmp_path / "longer.dcm")
        found = list(dciodvfy.errors_of(tmp_path / "longer.dcm", longer))
        assert len(found) == told, found
        assert "Ж" not in str(found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_that_lacks_an_attribute_is_judged_and_shown_or_refused(kind: str) -> None:
    others = [read(one) for one in ("image", *KINDS) if one != kind]
    for tag in read(kind).keys():  # noqa: SIM118  (a data set gives its elements)
        ds = read(kind)
        del ds[tag]
        assert isinstance(check(ds), list)
        assert isinstance(check_together([*others, ds]), list)
        for objects in ([ds], [*others, ds]):
            with suppress(NotOurResult):  # which always has a reason
                show_objects(objects, Console(file=StringIO()))

"""Every kind of result from every awkward source, before readers and judges that others wrote."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from awkward_sources import SEGMENTS, SOURCES, file_bytes, findings_for, from_file, results_for
from pydicom import Dataset
from pydicom.uid import UID
from test_measurement_report import groups, lines_of

from dicom_sr.codes import finding_table
from dicom_sr.conformance.check import check, check_together
from dicom_sr.reader import read_result
from models.findings import ImageFindings

DOCUMENTS = ("measurement report", "preliminary report", "key objects")
PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "OtherPatientIDsSequence",
    "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID", "StudyID", "StudyDate", "StudyTime",
    "StudyDescription", "AccessionNumber", "IssuerOfAccessionNumberSequence", "ReferringPhysicianName",
    "ProcedureCodeSequence",
)  # fmt: skip
# What a result says in another way than its source, and why it must.
OTHERWISE = {
    "undeclared character set, bytes of UTF-8": {"PatientName": "Ренуар^Ж"},
    "two accession numbers": {"AccessionNumber": ""},
    "values that the standard forbids": {"PatientSex": "", "PatientBirthDate": "", "PatientAge": "", "StudyTime": ""},
}


@dataclass(frozen=True, eq=False)
class Made:
    """What came of one source: the results as they were read back from files."""

    source: Dataset
    findings: ImageFindings
    results: dict[str, Dataset]
    files: dict[str, Path]


def make(name: str, folder: Path) -> Made:
    ds = SOURCES[name]()
    findings = findings_for(ds)
    folder.mkdir()
    results, files = {}, {}
    for kind, result in results_for(ds, findings).items():
        files[kind] = folder / f"{kind.replace(' ', '_')}.dcm"
        files[kind].write_bytes(file_bytes(result))
        results[kind] = from_file(files[kind].read_bytes())
    return Made(ds, findings, results, files)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    folder = tmp_path_factory.mktemp("awkward")
    return {name: make(name, folder / str(number)) for number, name in enumerate(SOURCES)}


def documents(made: dict[str, Made]) -> Iterator[Path]:
    return (one.files[kind] for one in made.values() for kind in DOCUMENTS)


def errors_of_dciodvfy(path: Path) -> list[str]:
    told = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False, errors="replace").stderr
    assert told, "dciodvfy names at least the kind of object"
    return [line for line in told.splitlines() if line.startswith("Error")]


def test_there_are_sources_enough() -> None:
    assert len(SOURCES) >= 24


def test_dciodvfy_finds_no_error_in_any_result(made: dict[str, Made]) -> None:
    files = {(name, kind): path for name, one in made.items() for kind, path in one.files.items()}
    with ThreadPoolExecutor(4) as pool:
        told = dict(zip(files, pool.map(errors_of_dciodvfy, files.values()), strict=True))
    assert {where: errors for where, errors in told.items() if errors} == {}


def test_dciodvfy_would_find_one(made: dict[str, Made], tmp_path: Path) -> None:
    for kind, keyword in (("segmentation", "SegmentSequence"), ("measurement report", "CompletionFlag")):
        broken = from_file(made["CR"].files[kind].read_bytes())
        delattr(broken, keyword)
        (tmp_path / "broken.dcm").write_bytes(file_bytes(broken))
        assert errors_of_dciodvfy(tmp_path / "broken.dcm")


@pytest.mark.parametrize("name", SOURCES)
def test_our_own_checker_finds_nothing(name: str, made: dict[str, Made]) -> None:
    one = made[name]
    assert {kind: broken for kind, ds in one.results.items() if (broken := check(ds))} == {}
    assert check_together(list(one.results.values())) == []


@pytest.mark.parametrize("name", SOURCES)
def test_patient_and_study_are_kept_as_they_were_decoded(name: str, made: dict[str, Made]) -> None:
    expected = {keyword: plain(made[name].source, keyword) for keyword in PATIENT_AND_STUDY}
    expected.update(OTHERWISE.get(name, {}))
    for kind, result in made[name].results.items():
        assert {keyword: plain(result, keyword) for keyword in PATIENT_AND_STUDY} == expected, kind
        assert result.SpecificCharacterSet == "ISO_IR 192"
        assert result.SeriesInstanceUID != made[name].source.SeriesInstanceUID


def plain(ds: Dataset, keyword: str) -> object:
    """A value without its encoding: text, or the items of a sequence as text."""
    value = ds.get(keyword)
    if not value:
        return ""
    if ds[keyword].VR == "SQ":
        return [{element.keyword: plain(item, element.keyword) for element in item} for item in value]
    return str(value)


@pytest.mark.parametrize("name", SOURCES)
def test_every_identifier_is_valid(name: str, made: dict[str, Made]) -> None:
    for result in made[name].results.values():
        for element in result.iterall():
            if element.VR == "UI" and element.value:
                assert UID(element.value).is_valid, element


def test_dcmtk_reads_every_document(made: dict[str, Made]) -> None:
    def read(path: Path) -> tuple[str, str]:
        told = [
            subprocess.run([tool, *options, str(path)], capture_output=True, check=False)
            for tool, options in (("dsrdump", []), ("dsr2html", ["+U8"]))
        ]
        for one in told:
            assert (one.returncode, [line for line in one.stderr.splitlines() if line.startswith(b"E:")]) == (0, [])
        return told[0].stdout.decode(errors="replace"), told[1].stdout.decode()

    with ThreadPoolExecutor(4) as pool:
        read_back = dict(zip(documents(made), pool.map(read, documents(made)), strict=True))
    for name, one in made.items():
        dumped, page = read_back[one.files["measurement report"]]
        assert "Lung opacity 87 %" in dumped
        assert all(f'"{key}"' in dumped for key in ("pneumothorax", "effusion", "edema", "nodule", "mass"))
        alphabetic = str(one.results["measurement report"].PatientName).partition("=")[0]  # all that it prints
        for part in alphabetic.split("^"):
            assert part.strip() in page, f"{name}: {part!r} of the patient's name"
        assert "Pneumothorax" in read_back[one.files["preliminary report"]][1]


@pytest.mark.parametrize("name", SOURCES)
def test_highdicom_reads_the_same_findings_and_masks(name: str, made: dict[str, Made]) -> None:
    one = made[name]
    read = groups(one.results["measurement report"])
    found = {
        group.tracking_identifier: group.get_qualitative_evaluations()[0].value.meaning
        for group in read
        if group.tracking_identifier in finding_table() and group.get_qualitative_evaluations()
    }
    assert found == {
        "pneumothorax": "Present",
        "lung_opacity": "Present",
        "effusion": "Absent",
        "edema": "Undetermined",
        "nodule": "Not evaluated",
        "mass": "Analysis failed",
    }
    values = {group.tracking_identifier: [m.value for m in group.get_measurements()] for group in read}
    assert values["pneumothorax"][-2:] == [91.0, 50.0]
    assert values["effusion"] == [4.0, 50.0]
    assert values["cardiothoracic_ratio"] == [0.53]
    boxes = [g.get_measurements()[0] for g in read if "Rectangle" in g.tracking_identifier]
    assert [lines_of(box)[0][:2] + lines_of(box)[0][4:6] for box in boxes] == [
        [150.5, 120.0, 210.5, 190.25],
        [40.0625, 50.0, 60.0625, 70.0],
    ]
    seg = hd.seg.segread(BytesIO(one.files["segmentation"].read_bytes()))
    assert seg.pixel_array.shape == (len(SEGMENTS), one.findings.rows, one.findings.columns)
    tracked = {group.tracking_identifier: group.tracking_uid for group in read}
    for number, segment in enumerate(one.findings.segments, start=1):
        described = seg.get_segment_description(number)
        assert (described.tracking_id, described.tracking_uid) == (segment.key, tracked[segment.key])
        assert np.array_equal(seg.pixel_array[number - 1].astype(bool), segment.mask)


@pytest.mark.parametrize("name", SOURCES)
def test_highdicom_reads_which_objects_press(name: str, made: dict[str, Made]) -> None:
    one = made[name]
    read = hd.ko.KeyObjectSelectionDocument.from_dataset(one.results["key objects"])
    referred = {reference.referenced_sop_instance_uid for reference in read.content.get_references()}
    assert referred == {
        one.findings.sop_instance_uid,
        one.results["measurement report"].SOPInstanceUID,
        one.results["segmentation"].SOPInstanceUID,
    }


@pytest.mark.parametrize("name", SOURCES)
def test_our_reader_gets_the_findings_back(name: str, made: dict[str, Made]) -> None:
    one = made[name]
    read = read_result(one.results["measurement report"], one.results["segmentation"])
    assert read.to_json() == one.findings.to_json()
    assert read.findings == one.findings.findings
    assert read.measurements == one.findings.measurements


def test_a_long_name_in_three_scripts_is_kept_though_dciodvfy_counts_bytes() -> None:
    """PS3.5 6.2 allows 64 characters in each component group."""
    ds = SOURCES["DX"]()
    ds.PatientName = "=".join(("Yamada^Tarou^Jun^Dr^PhD", "山田^太郎^順^博士^様", "やまだ^たろう^じゅん^はかせ^さま"))
    for result in results_for(ds, findings_for(ds)).values():
        read = from_file(file_bytes(result))
        assert read.PatientName == ds.PatientName
        assert check(read) == []

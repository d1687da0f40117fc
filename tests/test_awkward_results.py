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
from awkward_sources import DAMAGED, SEGMENTS, SOURCES, file_bytes, findings_for, from_file, results_for
from pydicom import Dataset
from pydicom.uid import UID
from test_measurement_report import groups, lines_of

from dicom_sr.codes import finding_table
from dicom_sr.conformance.check import check, check_together
from dicom_sr.reader import read_result
from models.findings import ImageFindings
from models.findings_json import findings_json

ALL = SOURCES | DAMAGED
DOCUMENTS = ("measurement report", "preliminary report", "key objects")
PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "OtherPatientIDsSequence",
    "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID", "StudyID", "StudyDate", "StudyTime",
    "StudyDescription", "AccessionNumber", "IssuerOfAccessionNumberSequence", "ReferringPhysicianName",
    "ProcedureCodeSequence",
)  # fmt: skip
CHEST = {"CodeValue": "XRCH", "CodingSchemeDesignator": "99LOCAL", "CodeMeaning": "Chest"}
LONG = {"CodingSchemeDesignator": "99LOCAL"}
# What a result says in another way than its source, and why it must.
OTHERWISE = {
    "undeclared character set, bytes of UTF-8": {"PatientName": "Ренуар^Ж"},
    "Chinese, IR 58": {"PatientName": "Zhang^XiaoDong=张^小东"},  # the source's escape sequences are none in UTF-8
    "two accession numbers": {"AccessionNumber": ""},
    "items that lack what they need": {
        "ProcedureCodeSequence": [CHEST],
        "OtherPatientIDsSequence": [{"PatientID": "0003", "TypeOfPatientID": "TEXT"}],
        "IssuerOfPatientIDQualifiersSequence": [
            {"IdentifierTypeCode": "MR", "AssigningJurisdictionCodeSequence": [CHEST]}
        ],
        "IssuerOfAccessionNumberSequence": [{"LocalNamespaceEntityID": "RIS"}],
    },
    "several items where one is allowed": {
        "IssuerOfPatientIDQualifiersSequence": "",
        "IssuerOfAccessionNumberSequence": "",
    },
    "codes too long for a Code Value": {
        "ProcedureCodeSequence": [
            {**LONG, "LongCodeValue": "12345678901234567890", "CodeMeaning": "too long for a Code Value"},
            {**LONG, "LongCodeValue": "98765432109876543210", "CodeMeaning": "in its place"},
            {"URNCodeValue": "urn:oid:1.2.3", "CodeMeaning": "a URN"},
            {**LONG, "CodeValue": "A", "CodeMeaning": "two values"},
        ],
    },
    "wrong value representations": {
        "ProcedureCodeSequence": [{**CHEST, "CodingSchemeVersion": "1.5"}],
        "OtherPatientIDsSequence": [{"PatientID": "7.0", "TypeOfPatientID": "TEXT"}],
        "ReferringPhysicianName": "",
    },
    "several values of a name": {"PatientName": "Doe^Jane", "ReferringPhysicianName": ""},
    "undeclared Japanese, split within a character": {
        "PatientName": "ﾀﾅｶ^".encode("shift_jis").decode("latin-1") + "\x95"
    },
    "seven components of a name": {"PatientName": "Li^Bo^Jun^Dr^MD PhD FRCR=李=り", "ReferringPhysicianName": ""},
    "name too long, with a line break": {"PatientName": "L" * 40 + "^ " + "B" * 22},
    "days that do not exist": {"StudyDate": "", "PatientBirthDate": ""},
    "range of dates": {"StudyDate": "", "StudyTime": ""},
    "control characters": {"StudyDescription": "", "StudyID": "", "IssuerOfPatientID": ""},
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
    ds = ALL[name]()
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
    return {name: make(name, folder / str(number)) for number, name in enumerate(ALL)}


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


@pytest.mark.parametrize("name", ALL)
def test_our_own_checker_finds_nothing(name: str, made: dict[str, Made]) -> None:
    one = made[name]
    assert {kind: broken for kind, ds in one.results.items() if (broken := check(ds))} == {}
    assert check_together(list(one.results.values())) == []


@pytest.mark.parametrize("name", ALL)
def test_patient_and_study_are_kept_as_they_were_decoded(name: str, made: dict[str, Made]) -> None:
    expected = {keyword: plain(made[name].source, keyword) for keyword in PATIENT_AND_STUDY}
    expected.update(OTHERWISE.get(name, {}))
    for kind, result in made[name].results.items():
        assert {keyword: plain(result, keyword) for keyword in PATIENT_AND_STUDY} == expected, kind
        assert result.SpecificCharacterSet == "ISO_IR 192"
        assert result.SeriesInstanceUID != made[name].source.SeriesInstanceUID


def plain(ds: Dataset, keyword: str) -> object:
    """A value without its encoding: text, or the items of a sequence as text, without what is empty in them."""
    value = ds.get(keyword)
    if not value:
        return ""
    if ds[keyword].VR == "SQ":
        items = [{element.keyword: plain(item, element.keyword) for element in item} for item in value]
        return [{keyword: told for keyword, told in item.items() if told} for item in items]
    return str(value)


@pytest.mark.parametrize("name", ALL)
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


@pytest.mark.parametrize("name", ALL)
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


@pytest.mark.parametrize("name", ALL)
def test_highdicom_reads_which_objects_press(name: str, made: dict[str, Made]) -> None:
    one = made[name]
    read = hd.ko.KeyObjectSelectionDocument.from_dataset(one.results["key objects"])
    referred = {reference.referenced_sop_instance_uid for reference in read.content.get_references()}
    assert referred == {
        one.findings.sop_instance_uid,
        one.results["measurement report"].SOPInstanceUID,
        one.results["segmentation"].SOPInstanceUID,
    }


@pytest.mark.parametrize("name", ALL)
def test_our_reader_gets_the_findings_back(name: str, made: dict[str, Made]) -> None:
    one = made[name]
    read = read_result(one.results["measurement report"], one.results["segmentation"])
    # a report holds no heat map, so none is listed of what was read from it
    assert findings_json(read) == {**findings_json(one.findings), "maps": []}
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


@pytest.mark.parametrize(
    "name",
    [
        "DX", "spacing of a tenth of a nanometre", "spacing of a hundred metres", "spacing in centimetres",
        "spacing of zero",
    ],
)  # fmt: skip
def test_a_spacing_that_cannot_be_true_gives_no_millimetres(name: str, made: dict[str, Made]) -> None:
    units = {
        item.CodeValue
        for one in made[name].results["measurement report"].iterall()
        if one.keyword == "MeasurementUnitsCodeSequence"
        for item in one.value
    }
    assert units & {"mm", "mm2"} == ({"mm", "mm2"} if name == "DX" else set())


def test_of_several_shutters_those_stay_that_are_described(made: dict[str, Made]) -> None:
    def shutter(name: str) -> dict[str, str]:
        state = made[name].results["presentation state"]
        return {e.keyword: str(e.value) for e in state if e.keyword.startswith(("Shutter", "Center", "Radius"))}

    assert shutter("rectangular shutter without edges") == shutter("DX") == {}
    kept = shutter("circular shutter without radius")
    assert kept.pop("ShutterPresentationValue") == "0"
    assert kept == {
        "ShutterShape": "RECTANGULAR", "ShutterLeftVerticalEdge": "10", "ShutterRightVerticalEdge": "250",
        "ShutterUpperHorizontalEdge": "10", "ShutterLowerHorizontalEdge": "290",
    }  # fmt: skip


def test_requests_keep_what_is_complete_of_them(made: dict[str, Made]) -> None:
    def requests(name: str) -> list[tuple[str, list[str]]]:
        items = made[name].results["measurement report"].get("ReferencedRequestSequence") or []
        return [(i.RequestedProcedureID, [c.CodeValue for c in i.RequestedProcedureCodeSequence]) for i in items]

    assert requests("items that lack what they need") == [("RP1", ["XRCH"]), ("RP2", [])]
    assert requests("several items where one is allowed") == [("RP1", [])]
    assert requests("sequences without items") == []

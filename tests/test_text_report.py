"""The preliminary report as a Basic Text SR, before readers that others wrote."""

from __future__ import annotations

import html
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import Collection
from pydicom.uid import UID
from report_parsing import parse_findings
from test_measurement_report import CREATED, SCORES, encoded, file_bytes, findings_for, named, rewritten, source

from dicom_sr import codes
from dicom_sr.evidence import evidence
from dicom_sr.identity import study_result
from dicom_sr.ownership import is_own_result
from dicom_sr.references import Reference, reference_to
from dicom_sr.report.sentences import compose
from dicom_sr.report.wording import LANGUAGES, load_wording
from dicom_sr.text_report import HEADINGS, encode_text_report
from models.findings import Caution, Finding, FindingState, ModelRun, Priority, View
from models.refusal import Refusal
from models.study import StudyFindings

BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
TITLE = ("43468-8", "LN")


def study_of(*sources: Dataset, unread: tuple[str, ...] = ()) -> StudyFindings:
    images = [replace(findings_for(ds), study_instance_uid=str(sources[0].StudyInstanceUID)) for ds in sources]
    present = Finding("pneumonia", FindingState.PRESENT, 0.93, 0.5, model=SCORES.name)
    images[0] = replace(images[0], findings=(*images[0].findings, present))
    for number, other in enumerate(images[1:], start=2):
        images[number - 1] = replace(other, view=View.AP, cautions=(Caution.AP_VIEW,), priority=Priority.ROUTINE)
    return StudyFindings(str(sources[0].StudyInstanceUID), tuple(images), unread)


def second(ds: Dataset) -> Dataset:
    """Another image of the same study."""
    other = rewritten(ds, lambda _: None)
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = UID(f"{ds.SOPInstanceUID[:-3]}.7")
    return other


def report_of(
    *sources: Dataset, language: str = "en", unread: tuple[str, ...] = (), predecessors: tuple[Reference, ...] = ()
) -> tuple[Dataset, StudyFindings]:
    """The report as it is read from its file, and what it was made from."""
    study = study_of(*sources, unread=unread)
    headers = [evidence(ds, image) for ds, image in zip(sources, study.images, strict=True)]
    results = [encoded(ds).measurement_report for ds in sources]
    report = encode_text_report(
        headers, study, results, CREATED, wording=load_wording(language), number=2, predecessors=predecessors
    )
    return dcmread(BytesIO(file_bytes(report))), study


def items(container: Dataset, value_type: str) -> Iterator[Dataset]:
    yield from (item for item in container.ContentSequence if item.ValueType == value_type)


def concept(item: Dataset) -> tuple[str, str]:
    named_as = item.ConceptNameCodeSequence[0]
    return named_as.CodeValue, named_as.CodingSchemeDesignator


def section(report: Dataset, value: str) -> Dataset:
    (found,) = (item for item in items(report, "CONTAINER") if concept(item)[0] == value)
    return found


def lines(report: Dataset) -> list[str]:
    return [item.TextValue for part in items(report, "CONTAINER") for item in items(part, "TEXT")]


def japanese() -> Dataset:
    return rewritten(source(), named(["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", ["plain", "Japanese", "two images"])
def test_other_readers_accept_the_report_and_show_every_sentence(name: str, language: str, tmp_path: Path) -> None:
    first = japanese() if name == "Japanese" else source()
    sources = [first, second(first)] if name == "two images" else [first]
    report, study = report_of(*sources, language=language, unread=("view", "unreadable_header"))
    path = tmp_path / "report.dcm"
    path.write_bytes(file_bytes(report))
    verified = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False, errors="replace")
    assert "BasicTextSR" in verified.stderr
    assert not [line for line in verified.stderr.splitlines() if line.startswith("Error")], verified.stderr
    said = compose(study, load_wording(language))
    sentences = [s.text for s in (*said.technique, *said.findings, *said.impression)]
    dumped = subprocess.run(["dsrdump", "+Pl", str(path)], capture_output=True, text=True, check=True)
    page = subprocess.run(["dsr2html", "+U8", str(path)], capture_output=True, text=True, check=True)
    for sentence in sentences:
        assert sentence in dumped.stdout.replace('\\"', '"')
        assert sentence in html.unescape(page.stdout)
    if name == "Japanese":
        assert report.PatientName == "Yamada^Tarou=山田^太郎"
        assert report.SpecificCharacterSet == "ISO_IR 192"


def test_the_title_is_a_report_s_and_no_line_is_a_finding_item() -> None:
    report, _ = report_of(source())
    assert report.SOPClassUID == report.file_meta.MediaStorageSOPClassUID == BASIC_TEXT_SR
    assert concept(report) == TITLE
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "2000"
    assert {concept(item) for part in items(report, "CONTAINER") for item in items(part, "TEXT")} == {
        ("55111-9", "LN"), ("59776-5", "LN"), ("19005-8", "LN"),
    }  # fmt: skip
    assert report.PreliminaryFlag == "PRELIMINARY"
    assert report.VerificationFlag == "UNVERIFIED"
    assert report.SeriesNumber == 9004
    assert report.SeriesDescription == "AI Hilum 0.1.0 report"
    assert is_own_result(report.Modality, report.Manufacturer)


def test_its_codes_stand_in_the_context_groups_of_the_standard() -> None:
    def known(group: str) -> set[tuple[str, str]]:
        collection = Collection(group)
        found = [getattr(collection, name) for name in collection.dir()]
        return {(c.value, c.meaning) for c in found if c.scheme_designator == "LN"}

    title, *headings = HEADINGS["en"].items()
    assert title in known("CID7000")
    assert set(headings) <= known("CID7001")
    assert set(HEADINGS) == set(LANGUAGES)
    assert all(list(words) == list(HEADINGS["en"]) for words in HEADINGS.values())


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", ["X-Ray Report", "Current Procedure Descriptions", "Findings", "Impressions"]),
        ("de", ["Röntgenbefund", "Beschreibung der Untersuchung", "Befunde", "Beurteilung"]),
    ],
)
def test_title_headings_and_lines_are_named_in_the_language_of_the_report(
    language: str, expected: list[str], tmp_path: Path
) -> None:
    report, _ = report_of(source(), language=language)
    path = tmp_path / "report.dcm"
    path.write_bytes(file_bytes(report))
    page = subprocess.run(["dsr2html", "+U8", str(path)], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"<h[12]>(.+?)</h[12]>", html.unescape(page)) == expected
    names = re.findall(r"<b>(.+?):</b>", html.unescape(page.partition("<h1>")[2]))
    assert list(dict.fromkeys(names)) == expected[1:]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_text_states_the_findings_in_the_language_that_it_declares(language: str) -> None:
    report, study = report_of(source(), language=language)
    (declared,) = (i for i in items(report, "CODE") if concept(i) == ("121049", "DCM"))
    assert declared.ConceptCodeSequence[0].CodeValue == language
    wording = load_wording(language)
    written = [item.TextValue for item in items(section(report, "59776-5"), "TEXT")]
    regions = tuple(f"{label}: " for label in wording.table("regions").values())
    assert all(line.startswith(regions) for line in written)
    said = parse_findings([line.partition(": ")[2] for line in written], wording)
    assert {(f.key, f.state) for f in said.findings} == {(f.key, f.state) for f in study.findings}


def test_umlauts_survive_the_file() -> None:
    report, _ = report_of(source(), language="de")
    assert "KI-Ergebnis, nicht geprüft. Forschungssoftware, kein Medizinprodukt." in lines(report)
    assert "geprüft".encode() in file_bytes(report)


def test_each_image_that_was_not_read_has_its_code_in_order() -> None:
    unread = (*Refusal, "copy", "view")
    report, _ = report_of(source(), unread=unread)
    values = [
        item.ConceptCodeSequence[0].CodeValue
        for item in items(section(report, "55111-9"), "CODE")
        if item.ConceptNameCodeSequence[0].CodeValue == codes.NOT_READ.value
    ]
    assert values == [codes.UNREAD[key].value for key in unread]
    assert set(codes.UNREAD) == set(Refusal)
    private = [code for table in (codes.REASONS, codes.CAUTIONS, codes.UNREAD) for code in table.values()]  # type: ignore[attr-defined]
    assert len({code.value for code in private}) == len(private)
    assert all(len(code.value) <= 16 and len(code.meaning) <= 64 for code in codes.UNREAD.values())


def test_images_and_measurement_reports_are_its_evidence_and_image_one_is_the_first() -> None:
    first = source()
    report, study = report_of(first, second(first))
    (of_study,) = report.CurrentRequestedProcedureEvidenceSequence
    listed = {r.ReferencedSOPInstanceUID for s in of_study.ReferencedSeriesSequence for r in s.ReferencedSOPSequence}
    results = {encoded(ds).measurement_report.SOPInstanceUID for ds in (first, second(first))}
    assert listed == {image.sop_instance_uid for image in study.images} | results
    assert "PertinentOtherEvidenceSequence" not in report
    (shown,) = (item for item in items(section(report, "55111-9"), "TEXT") if "ContentSequence" in item)
    assert shown.TextValue == "2 chest radiographs were read: image 1 (PA), image 2 (AP)."
    referred = [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in shown.ContentSequence]
    assert referred == [image.sop_instance_uid for image in study.images]


def test_the_same_findings_make_the_same_bytes_and_a_second_version_another_object() -> None:
    first, study = report_of(source())
    again, _ = report_of(source())
    assert file_bytes(first) == file_bytes(again)
    german, _ = report_of(source(), language="de")
    assert german.SOPInstanceUID != first.SOPInstanceUID
    assert german.SeriesInstanceUID == first.SeriesInstanceUID
    replaced = reference_to(first)
    later, _ = report_of(source(), second(source()), predecessors=(replaced,))
    (document,) = later.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert document.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert later.InstanceNumber == 2
    reports, digest = [encoded(source()).measurement_report.SOPInstanceUID], load_wording("en").digest
    assert study_result(study, "DOC", reports, wording_digest=digest).instance == first.SOPInstanceUID
    assert len({first.SOPInstanceUID, later.SOPInstanceUID}) == 2


def test_models_of_all_images_are_its_equipment_and_the_first_is_its_observer() -> None:
    first = source()
    study = study_of(first, second(first))
    newer = replace(SCORES, version="0.9.0", weights_digest="e" * 64)
    study = replace(study, images=(study.images[0], replace(study.images[1], runs=(ModelRun(newer),))))
    headers = [evidence(ds, image) for ds, image in zip((first, second(first)), study.images, strict=True)]
    report = encode_text_report(headers, study, [], CREATED, wording=load_wording("en"))
    equipment = [(i.ManufacturerModelName, i.SoftwareVersions) for i in report.ContributingEquipmentSequence]
    assert equipment == [("lung_fields", "0.1.0"), ("chest_findings", "0.1.0"), ("chest_findings", "0.9.0")]
    assert report.SeriesDescription == "AI Hilum 0.1.0/0.9.0 report"
    # the others would push the sentences off the screen of viewers that list the observers first
    assert [i.UID for i in items(report, "UIDREF")] == [report.ContributingEquipmentSequence[0].DeviceUID]


def test_headers_of_other_images_are_refused() -> None:
    first = source()
    study = study_of(first, second(first))
    header = evidence(first, study.images[0])
    with pytest.raises(ValueError, match="one header for each of its 2 images"):
        encode_text_report([header], study, [], CREATED, wording=load_wording("en"))
    with pytest.raises(ValueError, match="each of its 0 images"):
        encode_text_report([], StudyFindings("1.2.3", ()), [], CREATED, wording=load_wording("en"))

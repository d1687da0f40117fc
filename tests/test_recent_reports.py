"""What the report of a study is made from when its images are not at hand: the same as with them."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import pytest
from awkward_sources import CREATED, DAMAGED, SOURCES, findings_for
from pydicom import Dataset, dcmread
from pydicom.uid import UID

from dicom_sr.evidence import evidence, evidence_from
from dicom_sr.file_format import file_of
from dicom_sr.key_objects import encode_key_objects
from dicom_sr.reader import read_result
from dicom_sr.report.wording import load_wording
from dicom_sr.results import encode_results
from dicom_sr.text_report import encode_text_report
from models.findings import ImageFindings
from models.study import StudyFindings
from orthanc_plugin.reading.recent_reports import RecentReports, digest_of

ALL = SOURCES | DAMAGED


def read_back(ds: Dataset, findings: ImageFindings) -> Dataset:
    """The measurement report as Orthanc gives it."""
    return dcmread(BytesIO(file_of(encode_results(ds, findings, CREATED).measurement_report)))


def of_the_study(headers: list[Dataset], study: StudyFindings, reports: list[Dataset]) -> tuple[bytes, bytes]:
    """What speaks for the study: report and key objects."""
    text = encode_text_report(headers, study, reports, CREATED, wording=load_wording("de"))
    key_objects = encode_key_objects(headers, study, reports, CREATED, number=1)
    assert key_objects is not None
    return file_of(text), file_of(key_objects)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.filterwarnings("ignore")
def test_report_and_key_objects_are_byte_by_byte_those_made_with_the_image(name: str) -> None:
    ds = ALL[name]()
    findings = findings_for(ds)
    report = read_back(ds, findings)
    study = StudyFindings(findings.study_instance_uid, (read_result(report),), ("view",))
    with_image = of_the_study([evidence(ds, findings)], study, [report])
    assert of_the_study([evidence_from(report, findings)], study, [report]) == with_image


@pytest.mark.parametrize("second", ["Cyrillic", "several requests", "time zone", "everything empty"])
def test_they_are_of_a_study_of_two_images_too(second: str) -> None:
    sources = [ALL["Latin-1"](), ALL[second]()]
    sources[1].SOPInstanceUID = sources[1].file_meta.MediaStorageSOPInstanceUID = UID(f"{sources[0].SOPInstanceUID}.7")
    sources[1].SeriesInstanceUID = UID(f"{sources[0].SeriesInstanceUID}.7")
    findings = [findings_for(ds) for ds in sources]
    reports = [read_back(ds, said) for ds, said in zip(sources, findings, strict=True)]
    study = StudyFindings(findings[0].study_instance_uid, tuple(map(read_result, reports)))
    headers = [evidence(ds, said) for ds, said in zip(sources, findings, strict=True)]
    recalled = [evidence_from(report, said) for report, said in zip(reports, findings, strict=True)]
    assert of_the_study(recalled, study, reports) == of_the_study(headers, study, reports)
    assert [one.PatientID for one in recalled] == [one.PatientID for one in headers]


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_remembered_of_a_report_is_what_it_says(name: str) -> None:
    ds = SOURCES[name]()
    findings = findings_for(ds)
    recent, file = RecentReports(), file_of(encode_results(ds, findings, CREATED).measurement_report)
    recent.remember(file, findings)
    assert recent.said(digest_of(file)) == read_result(dcmread(BytesIO(file)))


def test_a_report_that_was_changed_is_not_remembered_and_neither_is_the_oldest_of_many() -> None:
    ds = SOURCES["DX"]()
    findings, recent = findings_for(ds), RecentReports()
    files = [b"%d" % number for number in range(101)]
    for number, file in enumerate(files):
        recent.remember(file, replace(findings, priority_reason=str(number)))
    assert recent.said(digest_of(b"1 changed")) is None
    assert [recent.said(digest_of(file)) is None for file in files] == [True] + [False] * 100
    newest = recent.said(digest_of(files[-1]))
    assert newest is not None
    assert (newest.priority_reason, newest.segments, newest.saliency) == ("100", (), ())

"""How results follow one another in a real Orthanc: what is kept, what is replaced, what is made again."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO

import pytest
from pydicom import Dataset, dcmwrite
from running_node import Node
from test_measurement_report import LUNGS, PHANTOM, findings_for

from dicom_sr import codes
from dicom_sr.file_format import file_of
from dicom_sr.predecessor import current
from dicom_sr.reader import NotOurResult, instance_number, is_measurement_report, read_study
from dicom_sr.references import evidence_of
from dicom_sr.report.wording import load_wording
from models.findings import Caution, ImageFindings, ModelRun, Precision, Priority
from models.hanging import AS_STORED
from models.rendering import render
from models.study import StudyFindings
from orthanc_plugin.archive.client import OrthancClient
from orthanc_plugin.commands.modality import Exposure, radiograph
from orthanc_plugin.reading.publishing import ResultWorse, StudyResults
from orthanc_plugin.reading.recent_reports import RecentReports

pytestmark = pytest.mark.node
RECEIVED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Change = Callable[[ImageFindings], ImageFindings]


@pytest.fixture(scope="module")
def orthanc(hilum_node: Node) -> Iterator[OrthancClient]:
    found = hilum_node.credentials
    with OrthancClient(hilum_node.settings.http_url, found.worker_user, found.worker_password) as client:
        yield client


class Study:
    """A study of one or two images, of which Orthanc holds the results only."""

    def __init__(self, orthanc: OrthancClient, node: Node, images: int = 1) -> None:
        self.orthanc, self.node = orthanc, node
        name = uuid.uuid4().hex
        self.images = [radiograph(PHANTOM.pixels, Exposure(seed=f"{name}{n}", study=name)) for n in range(images)]
        self.uid = str(self.images[0].StudyInstanceUID)

    def results(self) -> StudyResults:
        return StudyResults(
            self.orthanc,
            self.orthanc.series_of_study(self.uid),
            ["preliminary_report"],
            load_wording("en"),
            RecentReports(),
        )

    def read(self, change: Change = lambda findings: findings) -> None:
        """Publish what one run of the worker finds."""
        results, answers = self.results(), []
        for ds in self.images:
            findings = change(findings_for(ds))
            results.publish(ds, findings, render(ds, AS_STORED), RECEIVED)
            answers.append(findings)
        results.conclude(StudyFindings(self.uid, tuple(answers)), RECEIVED)

    def objects(self) -> dict[str, bytes]:
        found = {}
        for ds in self.node.objects(self.uid):
            buffer = BytesIO()
            dcmwrite(buffer, ds, enforce_file_format=True)
            found[str(ds.SOPInstanceUID)] = buffer.getvalue()
        return found

    def reports(self) -> list[Dataset]:
        found = [ds for ds in self.node.objects(self.uid) if is_measurement_report(ds)]
        return sorted(found, key=instance_number)

    def texts(self) -> list[Dataset]:
        return [ds for ds in self.node.objects(self.uid) if ds.Modality == "SR" and not is_measurement_report(ds)]

    def delete(self, uid: str) -> None:
        (found,) = self.node.http.post("/tools/lookup", content=uid).json()
        self.node.http.delete(f"/instances/{found['ID']}").raise_for_status()


@pytest.fixture
def study(orthanc: OrthancClient, hilum_node: Node) -> Study:
    return Study(orthanc, hilum_node)


def newer(version: str) -> Change:
    def change(findings: ImageFindings) -> ImageFindings:
        return replace(findings, runs=(ModelRun(replace(LUNGS, version=version)), *findings.runs[1:]))

    return change


def in_integers(findings: ImageFindings) -> ImageFindings:
    return replace(findings, runs=tuple(replace(run, precision=Precision.INT8) for run in findings.runs))


def cautious(findings: ImageFindings) -> ImageFindings:
    return replace(findings, cautions=(Caution.BEDSIDE,))


def failed(findings: ImageFindings) -> ImageFindings:
    return replace(findings, runs=(*findings.runs[:1], replace(findings.runs[1], failure="model_failed")))


def test_the_same_answer_again_adds_nothing(study: Study) -> None:
    study.read()
    before = study.objects()
    assert len(before) == 3
    study.read()
    assert study.objects() == before


@pytest.mark.parametrize(
    "change",
    [
        newer("2.0"),
        in_integers,
        cautious,
        lambda f: replace(f, priority=Priority.CRITICAL),
        lambda f: replace(f, priority_reason="Something else"),
    ],
    ids=["model", "precision", "caution", "priority", "reason"],
)
def test_whatever_the_report_says_differently_replaces_it(study: Study, change: Change) -> None:
    study.read()
    study.read(change)
    (now,) = current(study.reports())
    assert len(study.reports()) == 2
    assert int(now.InstanceNumber) == 2
    assert len(current(study.texts())) == 1


def test_a_model_that_fails_where_it_answered_replaces_nothing(study: Study) -> None:
    study.read()
    before = study.objects()
    for change in (failed, lambda findings: in_integers(failed(findings))):
        with pytest.raises(ResultWorse, match="failed"):
            study.read(change)
        assert study.objects() == before


def test_a_model_that_answers_where_it_failed_replaces_the_failure(study: Study) -> None:
    study.read(failed)
    study.read()
    assert not any(run.failure for run in read_study(study.node.objects(study.uid)).images[0].runs)


def test_a_corrected_patient_gets_a_report_of_his_own(study: Study) -> None:
    study.read()
    patient = study.images[0].PatientID
    study.images[0].PatientID = "CORRECTED"
    study.read()
    (now,) = current(study.reports())
    assert now.PatientID == "CORRECTED"
    outlined = {ds.SOPInstanceUID: ds.PatientID for ds in study.node.objects(study.uid) if ds.Modality == "SEG"}
    assert sorted(outlined.values()) == sorted(["CORRECTED", patient])
    (named,) = [one.sop_instance_uid for one in evidence_of(now) if one.sop_instance_uid in outlined]
    assert outlined[named] == "CORRECTED"
    before = study.objects()
    study.read()
    assert study.objects() == before


def test_one_image_in_two_studies_has_results_of_its_own_in_each(study: Study, orthanc: OrthancClient) -> None:
    other = Study(orthanc, study.node)
    other.images[0].SOPInstanceUID = study.images[0].SOPInstanceUID
    other.images[0].file_meta.MediaStorageSOPInstanceUID = study.images[0].SOPInstanceUID
    study.read()
    other.read()
    assert len(study.objects()) == len(other.objects()) == 3
    assert not study.objects().keys() & other.objects().keys()


def test_what_another_node_has_read_too_becomes_one_result_again(study: Study, orthanc: OrthancClient) -> None:
    study.read()
    elsewhere = study.node.objects(study.uid)
    for ds in elsewhere:
        study.delete(ds.SOPInstanceUID)
    study.read(newer("2.0"))
    for ds in elsewhere:
        orthanc.store(file_of(ds))
    assert len(current(study.reports())) == 2
    with pytest.raises(NotOurResult, match="reread"):
        read_study(study.node.objects(study.uid))
    study.read(newer("2.0"))
    assert len(current(study.reports())) == 1
    assert len(study.reports()) == 3
    before = study.objects()
    study.read(newer("2.0"))
    assert study.objects() == before


@pytest.mark.parametrize("keyword", ["ContentDate", "InstanceNumber", "ContentSequence", "PriorityReason"])
def test_a_report_that_somebody_has_changed_is_replaced(study: Study, orthanc: OrthancClient, keyword: str) -> None:
    study.read()
    (report,) = study.reports()
    study.delete(report.SOPInstanceUID)
    if keyword == "PriorityReason":
        evaluations = report.ContentSequence[-1]
        named = {item.ConceptNameCodeSequence[0].CodeValue: item for item in evaluations.ContentSequence}
        named[codes.PRIORITY.value].ContentSequence[0].TextValue = "All is well"
    else:
        del report[keyword]
    orthanc.store(file_of(report))
    study.read()
    assert len(current(study.reports())) == 1
    (image,) = read_study(study.node.objects(study.uid)).images
    assert image.priority_reason == findings_for(study.images[0]).priority_reason
    before = study.objects()
    study.read()
    assert study.objects() == before


def test_an_image_that_is_no_longer_read_has_its_result_withdrawn(study: Study) -> None:
    study.read()
    for _ in range(2):
        results = study.results()
        withdrawn = results.withdraw(str(study.images[0].SOPInstanceUID), "age")
        assert withdrawn is not None
        results.conclude(StudyFindings(study.uid, (withdrawn,), ("age",)), RECEIVED)
        (image,) = read_study(study.node.objects(study.uid)).images
        assert image.withdrawn
        assert not image.present
        assert not image.segments
        (text,) = current(study.texts())
        assert "No chest radiograph was read." in text.to_json()
        assert len(study.reports()) == len(study.texts()) == 2
    assert study.results().withdraw("1.2.3.4", "age") is None
    study.read()
    assert not read_study(study.node.objects(study.uid)).images[0].withdrawn


def test_a_withdrawal_says_of_whom_it_is_and_who_asked_as_the_result_did(study: Study) -> None:
    identified = Dataset()
    identified.PatientID, identified.TypeOfPatientID = "ÄB-1", "TEXT"
    request = Dataset()
    request.RequestedProcedureID, request.AccessionNumber = "RP1", "A1"
    study.images[0].OtherPatientIDsSequence, study.images[0].RequestAttributesSequence = [identified], [request]
    study.read()
    study.results().withdraw(str(study.images[0].SOPInstanceUID), "age")
    first, withdrawal = study.reports()
    for keyword in ("OtherPatientIDsSequence", "ReferencedRequestSequence", "PatientName", "StudyDescription"):
        assert withdrawal[keyword].value == first[keyword].value, keyword


def test_a_link_that_somebody_deletes_brings_no_older_report_back(study: Study) -> None:
    study.read()
    study.read(newer("2.0"))
    study.read(newer("3.0"))
    one, two, three = study.reports()
    study.delete(two.SOPInstanceUID)
    assert [ds.SOPInstanceUID for ds in current(study.reports())] == [three.SOPInstanceUID]
    before = study.objects()
    study.read(newer("3.0"))
    assert study.objects() == before
    assert one.SOPInstanceUID in before


@pytest.mark.parametrize("kind", ["SR", "SEG"])
def test_a_part_that_somebody_deletes_is_made_again_byte_by_byte(
    orthanc: OrthancClient, hilum_node: Node, kind: str
) -> None:
    study = Study(orthanc, hilum_node, images=2)
    study.read()
    before = study.objects()
    first = study.reports()[0]
    about = {r.ReferencedSOPInstanceUID
             for s in first.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
             for r in s.ReferencedSOPSequence}  # fmt: skip
    gone = [ds for ds in hilum_node.objects(study.uid) if ds.Modality == "SEG" and ds.SOPInstanceUID in about]
    study.delete(first.SOPInstanceUID if kind == "SR" else gone[0].SOPInstanceUID)
    study.read()
    assert study.objects() == before


def test_a_document_of_another_maker_of_our_name_is_no_predecessor(study: Study) -> None:
    study.read()
    foreign = study.texts()[0]
    foreign.SOPInstanceUID = foreign.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{uuid.uuid4().int % 10**30}"
    foreign.ManufacturerModelName = "Reader"
    del foreign.InstanceNumber
    study.orthanc.store(file_of(foreign))
    before = study.objects()
    study.read()
    assert study.objects() == before
    study.read(newer("2.0"))
    (ours,) = (t for t in current(study.texts()) if t.ManufacturerModelName == "Hilum")
    assert foreign.SOPInstanceUID not in str(ours.PredecessorDocumentsSequence)


@pytest.mark.parametrize("change", ["a sentence", "a signature"])
def test_a_text_that_somebody_has_changed_is_replaced(study: Study, orthanc: OrthancClient, change: str) -> None:
    study.read()
    (text,) = study.texts()
    study.delete(text.SOPInstanceUID)
    if change == "a sentence":
        text.ContentSequence[-1].ContentSequence[0].TextValue = "All is well."
    else:
        text.VerificationFlag = "VERIFIED"
    orthanc.store(file_of(text))
    study.read()
    (now,) = current(study.texts())
    assert now.SOPInstanceUID != text.SOPInstanceUID
    assert now.VerificationFlag == "UNVERIFIED"
    assert "All is well" not in now.to_json()
    before = study.objects()
    study.read()
    assert study.objects() == before


def test_going_back_to_an_earlier_model_changes_no_earlier_object_and_outlines_the_same(study: Study) -> None:
    study.read()
    (old,) = [ds for ds in study.node.objects(study.uid) if ds.Modality == "SEG"]
    before = study.objects()
    study.read(newer("2.0"))
    study.read()
    assert before.items() <= study.objects().items()
    (now,) = current(study.reports())
    named = {one.sop_instance_uid for one in evidence_of(now)}
    (its_own,) = [ds for ds in study.node.objects(study.uid) if ds.Modality == "SEG" and ds.SOPInstanceUID in named]
    assert its_own.SOPInstanceUID != old.SOPInstanceUID
    assert its_own.SeriesInstanceUID == old.SeriesInstanceUID
    assert its_own.PixelData == old.PixelData

"""What becomes of the readings of one study in Orthanc: each result is stored once and follows on what it replaces.

The rule: Orthanc alone says what is there. A result whose identity it holds is not made again; one that differs from
the current one names it as its predecessor, and nothing is ever deleted. A measurement report goes last, so that a
Segmentation which no report names does not count.

::

    ResultWorse    an image that has a result would get a worse one, or none: it stands, the study is tried again
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydicom import Dataset

from dicom_sr import identity
from dicom_sr.evidence import evidence
from dicom_sr.heat_map import LONGEST, encode_heat_map
from dicom_sr.key_objects import encode_key_objects
from dicom_sr.ownership import is_own_result
from dicom_sr.predecessor import current
from dicom_sr.presentation_state import encode_presentation_state
from dicom_sr.reader import (
    NotOurResult,
    is_measurement_report,
    is_preliminary_report,
    read_result,
)
from dicom_sr.references import evidence_of
from dicom_sr.report.wording import Wording
from dicom_sr.results import EncodingFailed, encode_results, encoding
from dicom_sr.text_report import encode_text_report
from models.findings import ImageFindings
from models.rendering import RenderedImage
from models.study import StudyFindings
from orthanc_plugin.archive.client import OrthancClient, ResultRefused, Series
from orthanc_plugin.failpoints import reach
from orthanc_plugin.reading.documents import (
    DueDocument,
    documents_of,
    due_document,
    header_from,
    is_withdrawn,
    is_worse,
    same_content,
    says_the_same,
)
from orthanc_plugin.reading.study_pictures import Kept, keep_pictures

log = logging.getLogger("hilum.publishing")


class ResultWorse(Exception):
    """What was read before failed now; nothing is replaced."""


@dataclass(frozen=True)
class Published:
    """SOP Instance UIDs of the results of one image that Orthanc now holds, and which pictures."""

    measurement_report: str
    segmentation: str | None
    pictures: Kept


class StudyResults:
    """The results of one study, those that Orthanc held before and those of this run."""

    def __init__(self, orthanc: OrthancClient, series: Sequence[Series], outputs: Sequence[str], wording: Wording):
        self._orthanc, self._outputs, self._wording = orthanc, outputs, wording
        documents = list(documents_of(orthanc, series))
        self._reports = [ds for ds in documents if is_measurement_report(ds)]
        self._texts = [ds for ds in documents if is_preliminary_report(ds)]
        self._key_objects = sum(
            len(s.instances) for s in series if s.modality == "KO" and is_own_result("KO", s.manufacturer)
        )
        self.stored: list[str] = []  # Orthanc's names of what this run stored
        self._evidences: list[Dataset] = []
        self._current: list[Dataset] = []

    @property
    def patients(self) -> int:
        """Whose images have results in this run: more than one patient when two studies bear the same UID."""
        return len({str(one.get("PatientID") or "") for one in self._evidences})

    def publish(self, header: Dataset, findings: ImageFindings, image: RenderedImage, received: datetime) -> Published:
        """Store the results of one image, and tell which they are.

        Parameters
        ----------
        received
            When Orthanc received the image: the date of its first results, so that making them again gives the same
            bytes. What replaces a result is dated now.

        Raises
        ------
        EncodingFailed, ResultRefused, ResultWorse
        OrthancUnavailable
        """
        before = self._reports_on(findings.sop_instance_uid)
        if any(is_worse(findings, report) for report in before):
            raise ResultWorse(f"image {findings.sop_instance_uid}: a model failed that read it before")
        document, segmentation = self._publish(header, findings, before, received)
        pictures = keep_pictures(self._orthanc, document.uid, image, findings)
        light = self._evidences[-1]
        if "heat_map" in self._outputs and findings.saliency:
            self._store_optional(
                identity.image_result(findings, "SC", document.follows).instance,
                lambda: encode_heat_map(
                    light,
                    findings,
                    image.preview(LONGEST),
                    document.created,
                    number=document.number,
                    predecessor_uid=document.follows,
                ),
            )
        if "presentation_state" in self._outputs:
            self._store_optional(
                identity.image_result(findings, "PR", document.follows).instance,
                lambda: encode_presentation_state(
                    light, findings, document.created, number=document.number, predecessor_uid=document.follows
                ),
            )
        return Published(document.uid, segmentation, pictures)

    def has_result(self, sop_instance_uid: str) -> bool:
        """Whether an image has a result that stands."""
        return any(not is_withdrawn(report) for report in self._reports_on(sop_instance_uid))

    def recall(self, header: Dataset, sop_instance_uid: str) -> ImageFindings | None:
        """What the current result of an image says; None when there is not exactly one that stands."""
        reports = self._reports_on(sop_instance_uid)
        try:
            (findings,) = map(read_result, reports)
        except ValueError:  # NotOurResult is one, and so is another number than one
            return None
        if findings.withdrawn:
            return None
        with encoding(sop_instance_uid):
            self._evidences.append(evidence(header, findings))
        self._current.extend(reports)
        return findings

    def withdraw(self, sop_instance_uid: str, why: str) -> ImageFindings | None:
        """Replace the result of an image that is no longer read by one that says so; None when it has none.

        Parameters
        ----------
        why
            The code of the refusal.

        Raises
        ------
        EncodingFailed, ResultRefused
        OrthancUnavailable
        """
        before = self._reports_on(sop_instance_uid)
        if not before:
            return None
        try:
            findings = read_result(before[-1]).withdraw(why)
        except NotOurResult:
            log.warning("an earlier result cannot be withdrawn", extra={"sop_instance_uid": sop_instance_uid})
            return None
        self._publish(header_from(before[-1], findings), findings, before, datetime.now(UTC).astimezone())
        return findings

    def conclude(self, study: StudyFindings, created: datetime) -> str | None:
        """Store what speaks for the whole study; returns the SOP Instance UID of the preliminary report.

        Nothing does where images of several patients bear the same Study Instance UID. The images have their results by
        then, so that a report which cannot be made is told in the log and fails nothing.

        Raises
        ------
        OrthancUnavailable
        """
        if self.patients > 1:
            log.error("images of several patients in one study", extra={"study_instance_uid": study.study_instance_uid})
            return None
        reports = [str(report.SOPInstanceUID) for report in self._current]
        if "key_objects" in self._outputs:
            self._store_optional(
                identity.study_result(study, "KO", reports).instance,
                lambda: encode_key_objects(
                    self._evidences, study, self._current, created, number=self._key_objects + 1
                ),
            )
        if "preliminary_report" not in self._outputs:
            return None
        try:
            return self._store_preliminary_report(study, reports, created)
        except (EncodingFailed, ResultRefused):
            log.exception("no report of the study", extra={"study_instance_uid": study.study_instance_uid})
            return None

    def _reports_on(self, sop_instance_uid: str) -> list[Dataset]:
        """The current measurement report on an image; several when another node has read it too."""

        def is_on_it(report: Dataset) -> bool:
            return any(one.sop_instance_uid == sop_instance_uid for one in evidence_of(report))

        return current(filter(is_on_it, self._reports))

    def _publish(
        self, header: Dataset, findings: ImageFindings, before: Sequence[Dataset], received: datetime
    ) -> tuple[DueDocument, str | None]:
        """Store report and Segmentation unless Orthanc holds them; tells the report, and the Segmentation's UID."""
        with encoding(findings.sop_instance_uid):
            light = evidence(header, findings)
        document = due_document(
            before,
            self._reports,
            lambda uid: identity.image_result(findings, "SR", uid).instance,
            received,
            unchanged=all(says_the_same(report, findings, light) for report in before),
        )
        segmentation = None
        if findings.segments:
            segmentation = identity.image_result(findings, "SEG", document.follows).instance
        outlined = segmentation is None or self._orthanc.has_instances([segmentation])
        report = document.again
        if report is None or not outlined:
            results = encode_results(
                header,
                findings,
                document.created,
                number=document.number,
                predecessors=document.predecessors,
            )
            if results.segmentation is not None and not outlined:
                self._store(results.segmentation)
                reach("segmentation_stored")
            if report is None:
                report = results.measurement_report
                self._store(report)
                reach("report_stored")
                self._reports.append(report)
        self._evidences.append(light)
        self._current.append(report)
        return document, segmentation

    def _store(self, result: Dataset) -> None:
        self.stored.append(self._orthanc.store(result))

    def _store_optional(self, uid: str, encode: Callable[[], Dataset | None]) -> None:
        """Store a result that is not asked of every study; when it cannot be made, that is told and fails nothing."""
        if self._orthanc.has_instances([uid]):
            return
        try:
            with encoding(uid):
                result = encode()
            if result is not None:
                self._store(result)
        except (EncodingFailed, ResultRefused):
            log.exception("an optional result is missing", extra={"sop_instance_uid": uid})

    def _store_preliminary_report(self, study: StudyFindings, reports: Sequence[str], created: datetime) -> str:
        def instance(predecessor_uid: str) -> str:
            digest = self._wording.digest
            named = identity.study_result(study, "DOC", reports, wording_digest=digest, predecessor_uid=predecessor_uid)
            return named.instance

        before = current(self._texts)
        document = due_document(before, self._texts, instance, created)
        text = self._encode_preliminary_report(study, document)
        if document.again is not None and not same_content(document.again, text):  # somebody has edited it
            document = due_document(before, self._texts, instance, created, unchanged=False)
            text = self._encode_preliminary_report(study, document)
        if document.again is None:
            self._store(text)
            reach("text_stored")
        return document.uid

    def _encode_preliminary_report(self, study: StudyFindings, document: DueDocument) -> Dataset:
        with encoding(study.study_instance_uid):
            return encode_text_report(
                self._evidences,
                study,
                self._current,
                document.created,
                wording=self._wording,
                number=document.number,
                predecessors=document.predecessors,
            )

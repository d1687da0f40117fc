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
from functools import partial

from pydicom import Dataset

from dicom_sr import identity
from dicom_sr.evidence import evidence, evidence_from
from dicom_sr.file_format import file_of
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
from dicom_sr.results import EncodingFailed, encode_results_of, encoding
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
    is_withdrawn,
    is_worse,
    same_content,
    says_the_same,
)
from orthanc_plugin.reading.recent_reports import RecentReports
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


@dataclass(frozen=True, eq=False)
class _Sent:
    """What speaks for an image from now on, while Orthanc takes it.

    Parameters
    ----------
    light
        From ``dicom_sr.evidence``.
    name
        Waits until Orthanc holds both, and tells its name of the one that was stored last; None where it held them.
    """

    document: DueDocument
    segmentation: str | None
    report: Dataset
    light: Dataset
    name: Callable[[], str | None]


class StudyResults:
    """The results of one study, those that Orthanc held before and those of this run.

    Parameters
    ----------
    series
        What Orthanc holds of the study.
    recent
        What this process stored before.
    """

    def __init__(
        self,
        orthanc: OrthancClient,
        series: Sequence[Series],
        outputs: Sequence[str],
        wording: Wording,
        recent: RecentReports,
    ) -> None:
        self._orthanc, self._outputs, self._wording, self._recent = orthanc, outputs, wording, recent
        documents = list(documents_of(orthanc, series))
        self._digests = {str(held.dataset.SOPInstanceUID): held.digest for held in documents}
        self._reports = [held.dataset for held in documents if is_measurement_report(held.dataset)]
        self._texts = [held.dataset for held in documents if is_preliminary_report(held.dataset)]
        own = [s for s in series if is_own_result(s.modality, s.manufacturer)]
        self._held = {s.modality for s in own}
        self._key_objects = sum(len(s.instances) for s in own if s.modality == "KO")
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
        with encoding(findings.sop_instance_uid):
            light = evidence(header, findings)
        sent = self._send(light, findings, before, received)
        document = sent.document
        if document.again is None:
            pictures = keep_pictures(self._orthanc, document.uid, image, findings, partial(self._wait_for, sent))
        else:
            self._wait_for(sent)
            pictures = keep_pictures(self._orthanc, document.uid, image, findings)
        if "heat_map" in self._outputs and findings.saliency:
            self._store_optional(
                "OT",
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
                "PR",
                identity.image_result(findings, "PR", document.follows).instance,
                lambda: encode_presentation_state(
                    light, findings, document.created, number=document.number, predecessor_uid=document.follows
                ),
            )
        return Published(document.uid, sent.segmentation, pictures)

    def has_result(self, sop_instance_uid: str) -> bool:
        """Whether an image has a result that stands."""
        return any(not is_withdrawn(report) for report in self._reports_on(sop_instance_uid))

    def recall(self, sop_instance_uid: str) -> ImageFindings | None:
        """What the current result of an image says; None when there is not exactly one that stands."""
        reports = self._reports_on(sop_instance_uid)
        try:
            (findings,) = map(self._said, reports)
        except ValueError:  # NotOurResult is one, and so is another number than one
            return None
        if findings.withdrawn:
            return None
        with encoding(sop_instance_uid):
            self._evidences.append(evidence_from(reports[0], findings))
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
        with encoding(sop_instance_uid):
            light = evidence_from(before[-1], findings)
        self._wait_for(self._send(light, findings, before, datetime.now(UTC).astimezone()))
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
                "KO",
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

    def _said(self, report: Dataset) -> ImageFindings:
        remembered = self._recent.said(self._digests.get(str(report.SOPInstanceUID), ""))
        return remembered or read_result(report)

    def _send(self, light: Dataset, findings: ImageFindings, before: Sequence[Dataset], received: datetime) -> _Sent:
        """Begin to store report and Segmentation unless Orthanc holds them; the report goes last."""
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
        outlined = segmentation is None or self._is_held("SEG", segmentation)
        if document.again is not None and outlined:
            return _Sent(document, segmentation, document.again, light, lambda: None)
        results = encode_results_of(
            light, findings, document.created, number=document.number, predecessors=document.predecessors
        )
        outlines, report = None, None
        with encoding(findings.sop_instance_uid):
            if results.segmentation is not None and not outlined:
                outlines = file_of(results.segmentation)
            if document.again is None:
                report = file_of(results.measurement_report)
                self._recent.remember(report, findings)
        name = self._orthanc.beside(partial(self._store_files, outlines, report))
        return _Sent(document, segmentation, document.again or results.measurement_report, light, name)

    def _wait_for(self, sent: _Sent) -> str | None:
        """Wait until it speaks; tells what `_Sent.name` does."""
        name = sent.name()
        if sent.document.again is None:
            self._reports.append(sent.report)
        self._evidences.append(sent.light)
        self._current.append(sent.report)
        return name

    def _store_files(self, segmentation: bytes | None, report: bytes | None) -> str:
        """Store what there is of them; tells Orthanc's name of the last."""
        name = ""
        if segmentation is not None:
            name = self._store(segmentation)
            reach("segmentation_stored")
        if report is not None:
            name = self._store(report)
            reach("report_stored")
        return name

    def _store(self, file: bytes) -> str:
        name = self._orthanc.store(file)
        self.stored.append(name)
        return name

    def _is_held(self, modality: str, sop_instance_uid: str) -> bool:
        """Whether Orthanc holds a result of ours, which it does not when the study had none of its kind."""
        return modality in self._held and self._orthanc.has_instances([sop_instance_uid])

    def _store_optional(self, modality: str, uid: str, encode: Callable[[], Dataset | None]) -> None:
        """Store a result that is not asked of every study; when it cannot be made, that is told and fails nothing."""
        if self._is_held(modality, uid):
            return
        try:
            with encoding(uid):
                result = encode()
                file = None if result is None else file_of(result)
            if file is not None:
                self._store(file)
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
            with encoding(study.study_instance_uid):
                file = file_of(text)
            self._store(file)
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

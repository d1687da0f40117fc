"""What becomes of the readings of one study in Orthanc: each result is stored once and follows on what it replaces.

The rule: Orthanc alone says what is there. A result whose identity it holds is not made again; one that differs from
the current one names it as its predecessor, and nothing is ever deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from dicom_sr import identity
from dicom_sr.evidence import evidence
from dicom_sr.heat_map import LONGEST, encode_heat_map
from dicom_sr.key_objects import encode_key_objects
from dicom_sr.ownership import is_own_result
from dicom_sr.predecessor import current, follow
from dicom_sr.presentation_state import encode_presentation_state
from dicom_sr.reader import evidence_of, is_measurement_report
from dicom_sr.report.wording import Wording
from dicom_sr.results import EncodingFailed, encode_results, encoding
from dicom_sr.text_report import encode_text_report
from models.findings import ImageFindings, StudyFindings
from models.rendering import RenderedImage
from orthanc_plugin.orthanc_client import OrthancClient, ResultRefused, Series
from orthanc_plugin.thumbnail import keep_thumbnail

log = logging.getLogger("hilum.publishing")


@dataclass(frozen=True)
class Published:
    """SOP Instance UIDs of the results of one image that Orthanc now holds, and whether it has a thumbnail."""

    measurement_report: str
    segmentation: str | None
    thumbnail: bool


class StudyResults:
    """The results of one study, those that Orthanc held before and those of this run."""

    def __init__(self, orthanc: OrthancClient, series: Sequence[Series], outputs: Sequence[str], wording: Wording):
        self._orthanc, self._outputs, self._wording = orthanc, outputs, wording
        before = list(_documents(orthanc, series))
        self._reports = [ds for ds in before if is_measurement_report(ds)]
        self._preliminary = current(ds for ds in before if not is_measurement_report(ds))
        self._evidences: list[Dataset] = []
        self._current: list[Dataset] = []

    def publish(self, header: Dataset, findings: ImageFindings, image: RenderedImage, received: datetime) -> Published:
        """Store the results of one image, and tell which they are.

        Parameters
        ----------
        received
            When Orthanc received the image: the date of its first results, so that making them again gives the same
            bytes. What replaces a result is dated now.

        Raises
        ------
        EncodingFailed, ResultRefused
            Nothing is half stored: the measurement report goes last, and what it does not name does not count.
        OrthancUnavailable
        """
        mine = current(ds for ds in self._reports if findings.sop_instance_uid in evidence_of(ds))
        before = mine[-1] if mine else None
        predecessor, again = follow(before, lambda uid: identity.measurement_report(findings, uid).instance)
        uid = identity.measurement_report(findings, predecessor.sop_instance_uid if predecessor else "").instance
        segmentation = identity.image_result(findings, "SEG").instance if findings.segments else None
        number = int(before.InstanceNumber) if before is not None and again else len(self._reports) + 1
        created = received if predecessor is None else datetime.now(UTC).astimezone()
        if before is not None and again and self._orthanc.has_instances([segmentation] if segmentation else []):
            report = before
        else:
            results = encode_results(header, findings, created, number=number, predecessor=predecessor)
            for result in (results.segmentation, results.measurement_report):
                if result is not None:
                    self._orthanc.store(result)
            report = results.measurement_report
            self._reports.append(report)
        pictured = keep_thumbnail(self._orthanc, uid, image, findings)
        light = evidence(header, findings)
        self._evidences.append(light)
        self._current.append(report)
        self._store_pictures(light, findings, image, created, number)
        return Published(uid, segmentation, pictured)

    def conclude(self, study: StudyFindings, created: datetime) -> str | None:
        """Store what speaks for the whole study; returns the SOP Instance UID of the preliminary report.

        The images have their results by then, so that a report which cannot be made is told in the log and fails
        nothing.

        Raises
        ------
        OrthancUnavailable
        """
        reports = [str(report.SOPInstanceUID) for report in self._current]
        if "key_objects" in self._outputs:
            self._store_optional(
                identity.study_result(study, "KO", reports).instance,
                lambda: encode_key_objects(self._evidences, study, self._current, created, number=1),
            )
        if "preliminary_report" not in self._outputs:
            return None
        try:
            return self._store_preliminary_report(study, created)
        except (EncodingFailed, ResultRefused):
            log.exception("no report of the study", extra={"study_instance_uid": study.study_instance_uid})
            return None

    def _store_pictures(
        self, light: Dataset, findings: ImageFindings, image: RenderedImage, created: datetime, number: int
    ) -> None:
        """The optional results of one image; one that cannot be made is told in the log and fails nothing."""
        if "heat_map" in self._outputs and findings.saliency:
            self._store_optional(
                identity.image_result(findings, "SC").instance,
                lambda: encode_heat_map(light, findings, image.preview(LONGEST), created, number=number),
            )
        if "presentation_state" in self._outputs:
            self._store_optional(
                identity.image_result(findings, "PR").instance,
                lambda: encode_presentation_state(light, findings, created, number=number),
            )

    def _store_optional(self, uid: str, encode: Callable[[], Dataset | None]) -> None:
        if self._orthanc.has_instances([uid]):
            return
        try:
            with encoding(uid):
                result = encode()
            if result is not None:
                self._orthanc.store(result)
        except (EncodingFailed, ResultRefused):
            log.exception("an optional result is missing", extra={"sop_instance_uid": uid})

    def _store_preliminary_report(self, study: StudyFindings, created: datetime) -> str:
        before = self._preliminary[-1] if self._preliminary else None
        reports = [str(report.SOPInstanceUID) for report in self._current]

        def instance(predecessor_uid: str) -> str:
            named = identity.study_result(
                study, "DOC", reports, wording_digest=self._wording.digest, predecessor_uid=predecessor_uid
            )
            return named.instance

        predecessor, again = follow(before, instance)
        uid = instance(predecessor.sop_instance_uid if predecessor else "")
        if again:
            return uid
        with encoding(study.study_instance_uid):
            report = encode_text_report(
                self._evidences,
                study,
                self._current,
                created if predecessor is None else datetime.now(UTC).astimezone(),
                wording=self._wording,
                number=len(self._preliminary) + 1,
                predecessor=predecessor,
            )
        self._orthanc.store(report)
        return uid


def _documents(orthanc: OrthancClient, series: Sequence[Series]) -> Iterator[Dataset]:
    """Our documents among the series of a study."""
    for one in series:
        if one.modality == "SR" and is_own_result(one.modality, one.manufacturer):
            for instance in one.instances:
                try:
                    yield dcmread(BytesIO(orthanc.fetch(instance).content))
                except InvalidDicomError:
                    log.exception("a document is damaged", extra={"series_instance_uid": one.series_instance_uid})

"""The documents of a study that Orthanc holds, and which one is due: the same again, or one that replaces them.

The rule: identity and content decide, never a date.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from dicom_sr.file_format import file_of
from dicom_sr.ownership import is_own_result
from dicom_sr.predecessor import follow, latest
from dicom_sr.reader import NotOurResult, instance_number, is_ours, read_result
from dicom_sr.references import Reference
from models.findings import ImageFindings
from orthanc_plugin.archive.client import OrthancClient, Series
from orthanc_plugin.reading.recent_reports import digest_of

log = logging.getLogger("hilum.publishing")

# Whose a result is: when one of these was corrected in the image, the result is made anew.
_PATIENT = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
    "StudyDate",
)  # fmt: skip


@dataclass(frozen=True)
class HeldDocument:
    """A document that Orthanc holds, and the digest of its file."""

    dataset: Dataset
    digest: str


@dataclass(frozen=True)
class DueDocument:
    """Which document is due: its identity and what it replaces; `again` when Orthanc holds exactly this one."""

    uid: str
    predecessors: tuple[Reference, ...]
    number: int
    created: datetime
    again: Dataset | None

    @property
    def follows(self) -> str:
        """SOP Instance UID of its direct predecessor; empty for a first document."""
        return latest(self.predecessors)


def due_document(
    before: Sequence[Dataset],
    others: Sequence[Dataset],
    instance_after: Callable[[str], str],
    received: datetime,
    *,
    unchanged: bool = True,
) -> DueDocument:
    """The document that shall speak now; `others` have the Instance Numbers that are taken."""
    predecessors, again = follow(before, instance_after, unchanged=unchanged)
    uid = instance_after(latest(predecessors))
    if again:
        return DueDocument(
            uid, predecessors, instance_number(before[0]), _content_time(before[0]) or received, before[0]
        )
    taken = {instance_number(ds) for ds in others}
    number = next(n for n in range(1, len(taken) + 2) if n not in taken)
    return DueDocument(uid, predecessors, number, datetime.now(UTC).astimezone() if predecessors else received, None)


def is_worse(findings: ImageFindings, before: Dataset) -> bool:
    """Whether a model failed now that answered in the current result, in the same version."""
    failed = {run.model for run in findings.runs if run.failure}
    try:
        answered = {run.model for run in read_result(before).runs if not run.failure} if failed else set()
    except NotOurResult:  # of an older version
        return False
    return bool(failed & answered)


def is_withdrawn(report: Dataset) -> bool:
    """Whether a report says no more than that an earlier one does not hold."""
    try:
        return read_result(report).withdrawn
    except NotOurResult:
        return False


def says_the_same(report: Dataset, findings: ImageFindings, light: Dataset) -> bool:
    """Whether a report holds these findings, of this patient: somebody may have edited one of them."""
    try:
        held = read_result(report)
    except NotOurResult:
        return False
    whose = all(_text(report, name) == _text(light, name) for name in _PATIENT)
    unsigned = (_text(report, "VerificationFlag"), _text(report, "PreliminaryFlag")) == ("UNVERIFIED", "PRELIMINARY")
    return whose and unsigned and held == replace(findings, segments=(), saliency=())


def same_content(document: Dataset, made: Dataset) -> bool:
    """Whether a stored document is what would be made now."""
    return bool(document == dcmread(BytesIO(file_of(made))))


def _content_time(document: Dataset) -> datetime | None:
    """When a document of ours was made, if it says so."""
    text = f"{_text(document, 'ContentDate')}{_text(document, 'ContentTime')}"[:14]
    try:
        if offset := _text(document, "TimezoneOffsetFromUTC"):
            return datetime.strptime(f"{text}{offset}", "%Y%m%d%H%M%S%z")
        return datetime.strptime(text, "%Y%m%d%H%M%S").astimezone()
    except ValueError:
        return None


def _text(ds: Dataset, keyword: str) -> str:
    return str(ds.get(keyword) or "")


def documents_of(orthanc: OrthancClient, series: Sequence[Series]) -> Iterator[HeldDocument]:
    """Our documents among the series of a study."""
    for one in series:
        if one.modality == "SR" and is_own_result(one.modality, one.manufacturer):
            for instance in one.instances:
                file = orthanc.file(instance)
                try:
                    document = dcmread(BytesIO(file))
                except InvalidDicomError:
                    log.exception("a document is damaged", extra={"series_instance_uid": one.series_instance_uid})
                    continue
                if is_ours(document):
                    yield HeldDocument(document, digest_of(file))

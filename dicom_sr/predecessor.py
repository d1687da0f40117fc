"""What a result supersedes: the document of ours that spoke for the same image, or the same study, before it.

The rule: which result is current is said by this chain alone, never by a date.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pydicom import Dataset

from dicom_sr.codes import REPLACED_REPORT
from dicom_sr.equipment import coded, dataset


@dataclass(frozen=True)
class Predecessor:
    """A document that is replaced; it belongs to the same study."""

    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


def predecessor_documents(study_instance_uid: str, replaced: Predecessor) -> list[Dataset]:
    """Predecessor Documents Sequence (PS3.3 C.17.2), with its purpose (CID 7009)."""
    document = dataset(
        ReferencedSOPClassUID=replaced.sop_class_uid,
        ReferencedSOPInstanceUID=replaced.sop_instance_uid,
        PurposeOfReferenceCodeSequence=[coded(REPLACED_REPORT)],
    )
    series = dataset(SeriesInstanceUID=replaced.series_instance_uid, ReferencedSOPSequence=[document])
    return [dataset(StudyInstanceUID=study_instance_uid, ReferencedSeriesSequence=[series])]


def follow(before: Dataset | None, instance_after: Callable[[str], str]) -> tuple[Predecessor | None, bool]:
    """What a new document replaces, and whether it is the same as the one that speaks now.

    Parameters
    ----------
    before
        The current document; None when there is none yet.
    instance_after
        SOP Instance UID of the new document, given that of its predecessor (empty for none).

    Returns
    -------
    predecessor
        Of the new document. When nothing has changed since `before`, that one's own predecessor.
    again
        Whether `before` is the new document.
    """
    if before is None:
        return None, False
    own = predecessor_of(before)
    if instance_after(own.sop_instance_uid if own else "") == before.SOPInstanceUID:
        return own, True
    return Predecessor(str(before.SeriesInstanceUID), str(before.SOPClassUID), str(before.SOPInstanceUID)), False


def predecessor_of(document: Dataset) -> Predecessor | None:
    """What a document of ours names as the one that it replaces."""
    for study in document.get("PredecessorDocumentsSequence") or ():
        for series in study.ReferencedSeriesSequence:
            for reference in series.ReferencedSOPSequence:
                return Predecessor(
                    str(series.SeriesInstanceUID),
                    str(reference.ReferencedSOPClassUID),
                    str(reference.ReferencedSOPInstanceUID),
                )
    return None


def superseded_by(document: Dataset) -> set[str]:
    """SOP Instance UIDs of the documents that this one names as its predecessors."""
    return {
        str(reference.ReferencedSOPInstanceUID)
        for study in document.get("PredecessorDocumentsSequence") or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for reference in series.get("ReferencedSOPSequence") or ()
    }


def current(documents: Iterable[Dataset]) -> list[Dataset]:
    """Those that no other of them replaces, in the order in which they were given."""
    listed = list(documents)
    replaced = {uid for document in listed for uid in superseded_by(document)}
    return [document for document in listed if document.SOPInstanceUID not in replaced]

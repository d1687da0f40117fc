"""What a result supersedes: the document of ours that spoke for the same image, or the same study, before it.

The rule: which result is current is said by this chain alone, never by a date.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


def predecessor_documents(study_instance_uid: str, replaced: Sequence[Predecessor]) -> list[Dataset]:
    """Predecessor Documents Sequence (PS3.3 C.17.2), with its purpose (CID 7009).

    Parameters
    ----------
    replaced
        What the document replaces, then all that this one replaced: a chain of which somebody deletes a link must not
        bring an older document back to life.
    """
    series: dict[str, list[Dataset]] = {}
    for one in replaced:
        series.setdefault(one.series_instance_uid, []).append(
            dataset(
                ReferencedSOPClassUID=one.sop_class_uid,
                ReferencedSOPInstanceUID=one.sop_instance_uid,
                PurposeOfReferenceCodeSequence=[coded(REPLACED_REPORT)],
            )
        )
    listed = [dataset(SeriesInstanceUID=uid, ReferencedSOPSequence=documents) for uid, documents in series.items()]
    return [dataset(StudyInstanceUID=study_instance_uid, ReferencedSeriesSequence=listed)]


def follow(
    before: Dataset | None, instance_after: Callable[[str], str], *, unchanged: bool = True
) -> tuple[tuple[Predecessor, ...], bool]:
    """What a new document replaces, and whether it is the same as the one that speaks now.

    Parameters
    ----------
    before
        The current document; None when there is none yet.
    instance_after
        SOP Instance UID of the new document, given that of its direct predecessor (empty for none).
    unchanged
        Whether `before` still holds in what the identifiers do not tell.

    Returns
    -------
    predecessors
        Of the new document, the direct one first. When nothing has changed since `before`, that one's own.
    again
        Whether `before` is the new document.
    """
    if before is None:
        return (), False
    own = predecessors_of(before)
    if unchanged and instance_after(latest(own)) == before.SOPInstanceUID:
        return own, True
    replaced = Predecessor(str(before.SeriesInstanceUID), str(before.SOPClassUID), str(before.SOPInstanceUID))
    return (replaced, *own), False


def latest(predecessors: Sequence[Predecessor]) -> str:
    """SOP Instance UID of the direct predecessor; empty for a first document."""
    return predecessors[0].sop_instance_uid if predecessors else ""


def predecessors_of(document: Dataset) -> tuple[Predecessor, ...]:
    """What a document of ours names as those that it replaces, the direct one first."""
    return tuple(
        Predecessor(str(series.SeriesInstanceUID), str(one.ReferencedSOPClassUID), str(one.ReferencedSOPInstanceUID))
        for study in document.get("PredecessorDocumentsSequence") or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for one in series.get("ReferencedSOPSequence") or ()
    )


def current(documents: Iterable[Dataset]) -> list[Dataset]:
    """Those that no other of them replaces, in the order in which they were given."""
    listed = list(documents)
    replaced = {one.sop_instance_uid for document in listed for one in predecessors_of(document)}
    return [document for document in listed if document.SOPInstanceUID not in replaced]

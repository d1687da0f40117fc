"""An SR document around its content (PS3.3 C.17.2): whose it is, what it was made from, what it replaces, who asked."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset

from dicom_sr.codes import REPLACED_REPORT
from dicom_sr.equipment import dataset
from dicom_sr.identity import Identity
from dicom_sr.references import Reference, by_series, reference_to
from dicom_sr.result_object import result_object


def document(
    sources: Sequence[Dataset],
    uids: Identity,
    content: Dataset,
    *,
    sop_class_uid: str,
    series_number: int,
    number: int,
    predecessors: Sequence[Reference],
) -> Dataset:
    """A complete, preliminary, unverified report; ``equipment.complete`` finishes it.

    Parameters
    ----------
    sources
        Everything that the content refers to, all of one study; patient and study are the first one's, which comes
        from ``dicom_sr.evidence``.
    content
        The root of the content tree.
    number
        Instance Number.
    """
    evidence = sources[0]
    ds = result_object(
        evidence, uids, sop_class_uid=sop_class_uid, modality="SR", series_number=series_number, number=number
    )
    ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    ds.PerformedProcedureCodeSequence, ds.ReferencedPerformedProcedureStepSequence = [], []
    study = evidence.StudyInstanceUID
    ds.CurrentRequestedProcedureEvidenceSequence = [by_series(study, map(reference_to, sources))]
    if predecessors:
        ds.PredecessorDocumentsSequence = [by_series(study, predecessors, REPLACED_REPORT)]
    if requests := referenced_requests(evidence):
        ds.ReferencedRequestSequence = requests
    ds.update(content)
    return ds


def referenced_requests(evidence: Dataset) -> list[Dataset]:
    """Referenced Request Sequence (PS3.3 C.17.2), from the requests that the image was made for."""
    return [
        dataset(
            StudyInstanceUID=evidence.StudyInstanceUID,
            ReferencedStudySequence=[],
            AccessionNumber=request.get("AccessionNumber") or evidence.AccessionNumber or "",
            PlacerOrderNumberImagingServiceRequest="",
            FillerOrderNumberImagingServiceRequest="",
            RequestedProcedureID=request.get("RequestedProcedureID") or "",
            RequestedProcedureDescription=request.get("RequestedProcedureDescription") or "",
            RequestedProcedureCodeSequence=list(request.get("RequestedProcedureCodeSequence") or ()),
        )
        for request in evidence.get("RequestAttributesSequence") or ()
    ]

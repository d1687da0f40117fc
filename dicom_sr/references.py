"""References to other objects of a study, as SR documents list them (PS3.3 table C.17-3, by study and series)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_sr.equipment import coded, dataset


@dataclass(frozen=True)
class Reference:
    """One object: its series, its kind, and itself."""

    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str

    def item(self) -> Dataset:
        """SOP Instance Reference Macro (PS3.3 table 10-11)."""
        return dataset(ReferencedSOPClassUID=self.sop_class_uid, ReferencedSOPInstanceUID=self.sop_instance_uid)


def reference_to(ds: Dataset) -> Reference:
    """The reference to an object that is at hand."""
    return Reference(str(ds.SeriesInstanceUID), str(ds.SOPClassUID), str(ds.SOPInstanceUID))


def by_series(study_instance_uid: str, references: Iterable[Reference], purpose: Code | None = None) -> Dataset:
    """An item of the Hierarchical SOP Instance Reference Macro: each object once, in the order given.

    Parameters
    ----------
    purpose
        Why each of them is referred to; only Predecessor Documents say so.
    """
    series: dict[str, list[Dataset]] = {}
    for reference in dict.fromkeys(references):
        item = reference.item()
        if purpose is not None:
            item.PurposeOfReferenceCodeSequence = [coded(purpose)]
        series.setdefault(reference.series_instance_uid, []).append(item)
    listed = [dataset(SeriesInstanceUID=uid, ReferencedSOPSequence=items) for uid, items in series.items()]
    return dataset(StudyInstanceUID=study_instance_uid, ReferencedSeriesSequence=listed)


def evidence_of(document: Dataset) -> tuple[Reference, ...]:
    """What a document was made from (Current Requested Procedure Evidence Sequence)."""
    return _listed(document, "CurrentRequestedProcedureEvidenceSequence")


def predecessors_of(document: Dataset) -> tuple[Reference, ...]:
    """What a document names as those that it replaces, the direct one first (Predecessor Documents Sequence)."""
    return _listed(document, "PredecessorDocumentsSequence")


def _listed(document: Dataset, keyword: str) -> tuple[Reference, ...]:
    return tuple(
        Reference(
            str(series.get("SeriesInstanceUID", "")),
            str(one.get("ReferencedSOPClassUID", "")),
            str(one.get("ReferencedSOPInstanceUID", "")),
        )
        for study in document.get(keyword) or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for one in series.get("ReferencedSOPSequence") or ()
    )

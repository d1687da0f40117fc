"""The head that all results share: whose they are, and in which series of ours they stand."""

from __future__ import annotations

from highdicom.base import SOPClass
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from dicom_sr.equipment import coded, dataset
from dicom_sr.identity import Identity
from dicom_sr.ownership import MANUFACTURER
from dicom_sr.references import reference_to

_SOURCE_OF_PROCESSING = Code("121322", "DCM", "Source image for image processing operation")  # CID 7202
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def result_object(
    evidence: Dataset, uids: Identity, *, sop_class_uid: str, modality: str, series_number: int, number: int
) -> Dataset:
    """An object with the patient and study of `evidence` and nothing else yet; ``equipment.complete`` finishes it.

    Parameters
    ----------
    evidence
        From ``dicom_sr.evidence``.
    number
        Instance Number, from 1.
    """
    ds = SOPClass(
        study_instance_uid=evidence.StudyInstanceUID,
        series_instance_uid=uids.series,
        series_number=series_number,
        sop_instance_uid=uids.instance,
        sop_class_uid=sop_class_uid,
        instance_number=number,
        modality=modality,
        manufacturer=MANUFACTURER,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        patient_sex=evidence.PatientSex,
    )
    ds.copy_patient_and_study_information(evidence)
    made: Dataset = ds
    return made


def image_reference(evidence: Dataset) -> Dataset:
    """An item that refers to the source image (PS3.3 table 10-11, SOP Instance Reference Macro)."""
    return reference_to(evidence).item()


def source_image(evidence: Dataset) -> Dataset:
    """An item of the Source Image Sequence (PS3.3 C.12.4.1): what a picture was made of."""
    source = image_reference(evidence)
    source.PurposeOfReferenceCodeSequence = [coded(_SOURCE_OF_PROCESSING)]
    return source


def add_origin(ds: Dataset, evidence: Dataset) -> None:
    """Common Instance Reference (PS3.3 C.12.2); what was lossy once is so for ever (C.7.6.1.1.5)."""
    ds.ReferencedSeriesSequence = [
        dataset(SeriesInstanceUID=evidence.SeriesInstanceUID, ReferencedInstanceSequence=[image_reference(evidence)])
    ]
    if evidence.get("LossyImageCompression") == "01":
        for keyword in _LOSSY:
            if evidence.get(keyword):
                ds[keyword] = evidence[keyword]

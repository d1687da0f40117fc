"""Documents of other makers and of other kinds that may lie beside our results, each as its standard has it."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid
from studies import BASIC_TEXT_SR, COMPREHENSIVE_SR, KEY_OBJECT_SELECTION, PRESENTATION_STATE, document

from dicom_sr import codes
from dicom_sr.content import CONTAINS, HAS_OBS_CONTEXT, code, container, image, number, text, uid
from dicom_sr.equipment import dataset

_REPORT = Code("18748-4", "LN", "Diagnostic imaging report")
_FINDINGS = Code("121070", "DCM", "Findings")
_KEY_OBJECT = Code("113000", "DCM", "Of Interest")


def text_report(picture: Dataset) -> Dataset:
    """A Basic Text SR with two sections, as a preliminary report has them."""
    sections = [
        container(CONTAINS, _FINDINGS, [text(CONTAINS, codes.FINDING, "Opacity in the left lower zone.")]),
        container(CONTAINS, codes.IMPRESSION, [text(CONTAINS, codes.IMPRESSION, "Suspected pneumonia.")]),
    ]
    return _document(picture, BASIC_TEXT_SR, "SR", "AI preliminary report", container(None, _REPORT, sections))


def foreign_measurements(picture: Dataset, *, tracked: bool = True) -> Dataset:
    """A TID 1500 report of another maker without any coordinates; untracked groups are what older products write."""
    tracking = [
        text(HAS_OBS_CONTEXT, codes.TRACKING_IDENTIFIER, "Heart size"),
        uid(HAS_OBS_CONTEXT, codes.TRACKING_UNIQUE_IDENTIFIER, generate_uid()),
    ]
    group = container(
        CONTAINS,
        codes.MEASUREMENT_GROUP,
        [
            *(tracking if tracked else []),
            code(CONTAINS, codes.FINDING, Code("8186001", "SCT", "Cardiomegaly")),
            number(CONTAINS, codes.CERTAINTY, 63.0, codes.PERCENT),
        ],
        "1501",
    )
    root = container(
        None,
        codes.IMAGING_MEASUREMENT_REPORT,
        [container(CONTAINS, codes.IMAGING_MEASUREMENTS, [group])],
        template="1500",
    )
    name = "Other maker" if tracked else "Other maker, untracked"
    return _document(picture, COMPREHENSIVE_SR, "SR", name, root)


def key_object(picture: Dataset) -> Dataset:
    """A Key Object Selection of the radiograph."""
    root = container(None, _KEY_OBJECT, [image(CONTAINS, codes.SOURCE_IMAGE, picture)], template="2010")
    return _document(picture, KEY_OBJECT_SELECTION, "KO", "AI for attention", root)


def presentation_state(picture: Dataset) -> Dataset:
    """A Grayscale Softcopy Presentation State that shows the whole radiograph."""
    ds = _document(picture, PRESENTATION_STATE, "PR", "AI presentation", Dataset())
    reference = dataset(
        ReferencedSOPClassUID=picture.SOPClassUID, ReferencedSOPInstanceUID=picture.SOPInstanceUID
    )
    ds.ContentLabel, ds.ContentDescription, ds.ContentCreatorName = "AI", "", ""
    ds.PresentationCreationDate, ds.PresentationCreationTime = "20260102", "030000"
    ds.ReferencedSeriesSequence = [
        dataset(SeriesInstanceUID=picture.SeriesInstanceUID, ReferencedImageSequence=[reference])
    ]
    ds.PresentationLUTShape = "IDENTITY"
    return ds


def _document(picture: Dataset, sop_class: str, modality: str, description: str, root: Dataset) -> Dataset:
    ds = document(picture.StudyInstanceUID, generate_uid(), modality, 20)
    ds.update(root)
    ds.SOPClassUID, ds.SeriesDescription, ds.SeriesNumber = sop_class, description, 20
    ds.PatientID = picture.PatientID
    reference = dataset(ReferencedSOPClassUID=picture.SOPClassUID, ReferencedSOPInstanceUID=picture.SOPInstanceUID)
    series = dataset(SeriesInstanceUID=picture.SeriesInstanceUID, ReferencedSOPSequence=[reference])
    ds.CurrentRequestedProcedureEvidenceSequence = [
        dataset(StudyInstanceUID=picture.StudyInstanceUID, ReferencedSeriesSequence=[series])
    ]
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    return ds

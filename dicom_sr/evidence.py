"""The attributes of the image that its results share: patient and study, decoded, complete and in UTF-8.

The rule: values are copied exactly (IHE AIR 6.5.3); only their encoding changes, because a result may add characters
that the source's character set does not have. A value that the standard does not allow is left empty, for no archive
need accept it: a sex of ``W``, a date of ``2026-02-31``. An item that lacks what its macro requires is left out
(``dicom_sr.copied_values``). Two values are never emptied, for a result without its patient is worse than none: Patient
ID stays as it is, and Patient's Name is made valid with every letter that a name can hold.
"""

from __future__ import annotations

import re

from pydicom import DataElement, Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRLittleEndian

from dicom_sr.copied_values import SEQUENCES, decoded, name_of, valid_element, valid_items
from dicom_sr.references import evidence_of
from models.findings import ImageFindings

# Patient and study modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2). Type 1 and 2 attributes first: always present.
_REQUIRED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
_OPTIONAL = (
    "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "OtherPatientIDsSequence", "PatientAge", "PatientSize",
    "PatientWeight", "StudyDescription", "IssuerOfAccessionNumberSequence", "ReferencedStudySequence",
    "TimezoneOffsetFromUTC", "ProcedureCodeSequence", "RequestAttributesSequence",
)  # fmt: skip
_IMAGE = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "FrameOfReferenceUID", "PixelSpacing",
    "ImagerPixelSpacing", "PixelAspectRatio", "LossyImageCompression", "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)  # fmt: skip
# What each shape of a display shutter needs (PS3.3 C.7.6.11).
_SHUTTERS = {
    "RECTANGULAR": ("ShutterLeftVerticalEdge", "ShutterRightVerticalEdge", "ShutterUpperHorizontalEdge",
                    "ShutterLowerHorizontalEdge"),
    "CIRCULAR": ("CenterOfCircularShutter", "RadiusOfCircularShutter"),
    "POLYGONAL": ("VerticesOfThePolygonalShutter",),
}  # fmt: skip
# What a presentation state repeats (PS3.4 N.2), as it is: the image was rendered by it, so that none of it may fall
# away here. The presentation state writes its numbers anew.
_DISPLAY = (
    "PhotometricInterpretation", "PresentationLUTShape", "ModalityLUTSequence", "RescaleIntercept", "RescaleSlope",
    "RescaleType", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
)  # fmt: skip


def evidence(source: Dataset, findings: ImageFindings) -> Dataset:
    """A light copy of the source's header, as the encoders want it; the source is not changed.

    A missing Patient Orientation is stated as L\\F, which is how the models read the image (``models.hanging``).
    """
    copy = _empty()
    undeclared = not source.get("SpecificCharacterSet")
    for keyword in (*_REQUIRED, *_OPTIONAL, *_IMAGE):
        if (element := _copied(source, keyword, undeclared)) is not None:
            copy.add(element)
        elif keyword in _REQUIRED:
            setattr(copy, keyword, "")
    for keyword in _DISPLAY:
        if keyword in source:
            copy.add(_displayed(source[keyword], undeclared))
    for element in _shutters(source, undeclared):
        copy.add(element)
    copy.Modality = copy.get("Modality") or "CR"
    copy.SeriesInstanceUID = copy.get("SeriesInstanceUID") or copy.StudyInstanceUID
    copy.Rows, copy.Columns = findings.rows, findings.columns
    orientation = source.get("PatientOrientation")
    valid = isinstance(orientation, MultiValue) and len(orientation) == 2
    valid = valid and all(re.fullmatch("[APRLHF]{1,3}", str(direction)) for direction in orientation)
    copy.PatientOrientation = list(orientation) if valid else ["L", "F"]
    return copy


def evidence_from(report: Dataset, findings: ImageFindings) -> Dataset:
    """The same of an image whose own header is not at hand, from its measurement report, for documents.

    It holds what a document repeats of an image, with the same values, and nothing of how the image is displayed.
    """
    copy = _empty()
    for keyword in (*_REQUIRED, *_OPTIONAL):
        if keyword in report:
            copy.add(report[keyword])
        elif keyword in _REQUIRED:
            setattr(copy, keyword, "")
    if requests := report.get("ReferencedRequestSequence"):  # what became of them there becomes the same again
        copy.RequestAttributesSequence = list(requests)
    copy.SOPClassUID, copy.SOPInstanceUID = findings.sop_class_uid, findings.sop_instance_uid
    copy.SeriesInstanceUID, copy.Modality = copy.StudyInstanceUID, "CR"
    for reference in evidence_of(report):
        if reference.sop_instance_uid == findings.sop_instance_uid:
            copy.SeriesInstanceUID = reference.series_instance_uid
    copy.Rows, copy.Columns = findings.rows, findings.columns
    copy.PatientOrientation = ["L", "F"]
    return copy


def _empty() -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SpecificCharacterSet = "ISO_IR 192"
    return made


def _copied(source: Dataset, keyword: str, undeclared: bool) -> DataElement | None:
    """An attribute of the source, decoded; None when it is absent or holds what the standard does not allow."""
    if keyword not in source:
        return None
    if keyword in SEQUENCES:
        items = valid_items(source, keyword, undeclared)
        return DataElement(keyword, "SQ", items) if items else None  # all of them are optional and may not be empty
    if keyword == "PatientName":
        return DataElement(keyword, "PN", name_of(source[keyword], undeclared))
    if keyword == "PatientID" and source[keyword].VR == "LO":
        return decoded(source[keyword], undeclared)
    return valid_element(source, keyword, undeclared)


def _displayed(element: DataElement, undeclared: bool) -> DataElement:
    """What the image says about its display; a look-up table keeps its place whatever it holds."""
    if element.VR != "SQ":
        return decoded(element, undeclared)
    tables = []
    for item in element.value:
        table = Dataset()
        for keyword in ("LUTDescriptor", "LUTData"):
            if keyword in item:
                table.add(item[keyword])
        for keyword in ("LUTExplanation", "ModalityLUTType"):
            if (words := valid_element(item, keyword, undeclared)) is not None:
                table.add(words)
        tables.append(table)
    return DataElement(element.tag, "SQ", tables)


def _shutters(source: Dataset, undeclared: bool) -> list[DataElement]:
    """The shutters that are described completely: an incomplete one would make a presentation state invalid."""
    shapes = valid_element(source, "ShutterShape", undeclared)
    if shapes is None or shapes.is_empty:
        return []
    named, copied = [], []
    for shape, keywords in _SHUTTERS.items():
        parts = [valid_element(source, keyword, undeclared) for keyword in keywords]
        described = [part for part in parts if part is not None and not part.is_empty]
        if shape in shapes.value and len(described) == len(keywords):
            named.append(shape)
            copied += described
    return [DataElement("ShutterShape", "CS", named), *copied] if named else []

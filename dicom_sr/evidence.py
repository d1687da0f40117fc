"""The attributes of the image that its results share: patient and study, decoded, complete and in UTF-8.

The rule: values are copied exactly (IHE AIR 6.5.3); only their encoding changes, because a result may add characters
that the source's character set does not have. A value that the standard does not allow is left empty, for no archive
need accept it: a sex of ``W``, a date of ``2026-01-02``.
"""

from __future__ import annotations

import re

from pydicom import DataElement, Dataset
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VM, tag_for_keyword
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import PersonName, validate_value

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
# Value representations whose form archives check.
_CHECKED = frozenset({"AS", "CS", "DA", "DS", "DT", "IS", "LO", "SH", "TM", "UI"})
_IMAGE = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "FrameOfReferenceUID", "PixelSpacing",
    "ImagerPixelSpacing", "PixelAspectRatio", "LossyImageCompression", "LossyImageCompressionRatio",
    "LossyImageCompressionMethod", "ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge",
    "ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge", "CenterOfCircularShutter", "RadiusOfCircularShutter",
    "VerticesOfThePolygonalShutter",
)  # fmt: skip
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
    copy = Dataset()
    copy.file_meta = FileMetaDataset()
    copy.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    copy.SpecificCharacterSet = "ISO_IR 192"
    undeclared = not source.get("SpecificCharacterSet")
    for keyword in (*_REQUIRED, *_OPTIONAL, *_IMAGE):
        if (element := _allowed(source, tag_for_keyword(keyword) or 0, undeclared)) is not None:
            copy.add(element)
        elif keyword in _REQUIRED:
            setattr(copy, keyword, "")
    for keyword in _DISPLAY:
        if keyword in source:
            copy.add(_decoded(source[keyword], undeclared))
    copy.Modality = copy.get("Modality") or "CR"
    copy.SeriesInstanceUID = copy.get("SeriesInstanceUID") or copy.StudyInstanceUID
    copy.Rows, copy.Columns = findings.rows, findings.columns
    orientation = source.get("PatientOrientation")
    valid = isinstance(orientation, MultiValue) and len(orientation) == 2
    valid = valid and all(re.fullmatch("[APRLHF]{1,3}", str(direction)) for direction in orientation)
    copy.PatientOrientation = list(orientation) if valid else ["L", "F"]
    return copy


def _allowed(source: Dataset, tag: int, undeclared: bool) -> DataElement | None:
    """An element of the source, decoded; None when it is absent or holds what the standard does not allow."""
    if tag not in source:
        return None
    try:
        element = _decoded(source[tag], undeclared)
    except (ValueError, TypeError, ArithmeticError):  # a number that is none: ``1,75``
        return None
    return element if _is_valid(element) else None


def _decoded(element: DataElement, undeclared: bool) -> DataElement:
    """The same value as Unicode, so that it can be written in another character set."""
    if element.VR == "SQ":
        items = []
        for item in element.value:
            inner = (_allowed(item, tag, undeclared) for tag in item.keys() if not tag.is_private)  # noqa: SIM118
            plain = Dataset()
            for one in inner:
                if one is not None:
                    plain.add(one)
            items.append(plain)
        return DataElement(element.tag, "SQ", items)
    value = element.value
    if isinstance(value, PersonName):
        value = _repaired(str(value)) if undeclared else str(value)
    elif isinstance(value, str) and undeclared:
        value = _repaired(value)
    return DataElement(element.tag, element.VR, value)


def _is_valid(element: DataElement) -> bool:
    """Whether a value keeps to its value representation and multiplicity (PS3.5 6.2, PS3.6)."""
    if element.keyword in ("PatientName", "PatientID"):
        return True  # never emptied: a result without its patient is worse than none
    if element.keyword == "TimezoneOffsetFromUTC":
        written = re.fullmatch(r"([+-])(\d\d)([0-5]\d)", str(element.value))
        minutes = int(f"{written[1]}{60 * int(written[2]) + int(written[3])}") if written else 9999
        return -720 <= minutes <= 840 and element.value != "-0000"
    if element.VR not in _CHECKED:
        return not (isinstance(element.value, MultiValue) and dictionary_VM(element.tag) == "1")
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    if len(values) > 1 and dictionary_VM(element.tag) == "1":
        return False
    try:
        for value in values:
            validate_value(element.VR, "" if value is None else str(value), RAISE)
    except ValueError:
        return False
    return element.keyword != "PatientSex" or element.value in ("M", "F", "O", "", None)


def _repaired(text: str) -> str:
    """Bytes of no declared character set were read as Latin-1; where they are valid UTF-8, that is what they were."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text

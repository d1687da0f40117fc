"""Radiographs whose headers are awkward in one way each, with rich findings and every kind of result for any of them.

The rule: each is written to bytes and read again, as results meet images in practice; what a header declares wrongly
stands in the bytes as a modality writes it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from io import BytesIO

import numpy as np
from pydicom import DataElement, Dataset, config, dcmread, dcmwrite
from pydicom.uid import UID

from dicom_sr.evidence import evidence
from dicom_sr.heat_map import encode_heat_map
from dicom_sr.key_objects import encode_key_objects
from dicom_sr.presentation_state import encode_presentation_state
from dicom_sr.report.wording import load_wording
from dicom_sr.results import encode_results
from dicom_sr.text_report import encode_text_report
from models.findings import (
    Caution,
    Finding,
    FindingState,
    ImageFindings,
    Laterality,
    Line,
    Measurement,
    ModelIdentity,
    ModelRun,
    Priority,
    Region,
    SaliencyMap,
    SegmentMask,
    View,
)
from models.phantom import Pathology, Phantom, chest
from models.study import StudyFindings
from orthanc_plugin.commands.modality import Exposure, radiograph

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LUNGS = ModelIdentity("lung_fields", "0.1.0", "a" * 64, "b" * 64)
SCORES = ModelIdentity("chest_findings", "0.1.0", "c" * 64, "d" * 64)
SEGMENTS = ("lung_right", "lung_left", "heart", "pneumothorax")
SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")

# Every attribute of patient and study that a modality can leave out or empty.
_PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "StudyDescription", "ReferringPhysicianName",
)  # fmt: skip

_STRIPPED = (
    "PatientOrientation", "ImagerPixelSpacing", "BodyPartExamined", "SpecificCharacterSet", "ViewPosition",
    "SeriesDescription", "Manufacturer", "SeriesNumber", "InstanceNumber", "ImageType",
)  # fmt: skip


@cache
def phantom(rows: int, columns: int) -> Phantom:
    """The same patient at any size, with a pneumothorax on the right."""
    return chest(1, rows=rows, columns=columns, pathologies=[Pathology("pneumothorax", size=0.8)])


def findings_for(ds: Dataset) -> ImageFindings:
    """One finding in each state, two boxes, four segments, a ratio with its lines, two cautions and a saliency map."""
    rows, columns = int(ds.Rows), int(ds.Columns)
    masks = phantom(rows, columns).masks
    saliency = np.zeros((30, 26), np.float32)
    saliency[12:20, 15:21] = np.linspace(0.3, 1.0, 6, dtype=np.float32)
    return ImageFindings(
        study_instance_uid=str(ds.StudyInstanceUID),
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        rows=rows,
        columns=columns,
        view=View.AP if ds.get("ViewPosition") == "AP" else View.PA,
        runs=(ModelRun(LUNGS), ModelRun(SCORES)),
        findings=(
            Finding("pneumothorax", FindingState.PRESENT, 0.91, 0.5, Laterality.RIGHT, model="chest_findings"),
            Finding(
                "lung_opacity",
                FindingState.PRESENT,
                0.87,
                0.6,
                Laterality.BILATERAL,
                (
                    Region(150.5, 120, 60, 70.25, 0.87, Laterality.LEFT),
                    Region(40.0625, 50, 20, 20, 0.61, Laterality.RIGHT),
                ),
                model="chest_findings",
            ),
            Finding("effusion", FindingState.ABSENT, 0.04, 0.5, model="chest_findings"),
            Finding("edema", FindingState.UNDETERMINED, 0.31, 0.5, model="chest_findings"),
            Finding("nodule", FindingState.NOT_EVALUATED, reason="evidence", model="chest_findings"),
            Finding("mass", FindingState.NOT_EVALUATED, reason="model_failed", model="chest_findings"),
        ),
        segments=tuple(
            SegmentMask(key, masks[key], "chest_findings" if key == "pneumothorax" else "lung_fields")
            for key in SEGMENTS
        ),
        measurements=(
            Measurement(
                "cardiothoracic_ratio",
                0.53,
                "1",
                "lung_fields",
                (Line(80.5, 200.5, 180.0, 200.5), Line(40.0, 180.5, 229.0625, 180.5)),
                Caution.AP_VIEW,
            ),
        ),
        priority=Priority.CRITICAL,
        priority_reason="Pneumothorax 91 %, right",
        cautions=(Caution.AGE_UNKNOWN, Caution.LOW_CONTRAST),
        saliency=(SaliencyMap("lung_opacity", saliency, "chest_findings"),),
    )


def results_for(ds: Dataset, findings: ImageFindings) -> dict[str, Dataset]:
    """One object of each kind that the node can store, by name."""
    study = StudyFindings(findings.study_instance_uid, (findings,), ("view", "copy"))
    header = evidence(ds, findings)
    results = encode_results(ds, findings, CREATED)
    reports = [results.measurement_report]
    gray = phantom(findings.rows, findings.columns).pixels
    key_objects = encode_key_objects([header], study, reports, CREATED, number=1)
    assert results.segmentation is not None
    assert key_objects is not None
    return {
        "measurement report": results.measurement_report,
        "segmentation": results.segmentation,
        "preliminary report": encode_text_report([header], study, reports, CREATED, wording=load_wording("en")),
        "heat map": encode_heat_map(header, findings, gray, CREATED, number=1),
        "presentation state": encode_presentation_state(header, findings, CREATED, number=1),
        "key objects": key_objects,
    }


def file_bytes(ds: Dataset) -> bytes:
    """A whole DICOM file; what it says is not judged."""
    before = config.settings.writing_validation_mode
    config.settings.writing_validation_mode = config.IGNORE
    try:
        buffer = BytesIO()
        dcmwrite(buffer, ds, enforce_file_format=True)
        return buffer.getvalue()
    finally:
        config.settings.writing_validation_mode = before


def from_file(content: bytes) -> Dataset:
    """Read a file as the node does; pydicom warns of much that is meant here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(BytesIO(content))


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    _set(item, **attributes)
    return item


def _set(ds: Dataset, **attributes: object) -> None:
    """Set attributes to values that pydicom would not allow, too."""
    before = config.settings.writing_validation_mode
    config.settings.writing_validation_mode = config.IGNORE
    try:
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
    finally:
        config.settings.writing_validation_mode = before


def _coded(value: str, scheme: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _without(*keywords: str) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        for keyword in keywords:
            if keyword in ds:
                delattr(ds, keyword)

    return change


def _with(**attributes: object) -> Callable[[Dataset], None]:
    return lambda ds: _set(ds, **attributes)


def _undeclared(name: bytes) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        del ds.SpecificCharacterSet
        ds.PatientName = name

    return change


def _emptied(ds: Dataset) -> None:
    _set(ds, **dict.fromkeys((*_PATIENT_AND_STUDY, "PatientOrientation", "ImagerPixelSpacing"), ""))


def _long_uids(ds: Dataset) -> None:
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.840." + "1" * 56, "1.2.840." + "3" * 56
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID("1.2.840." + "2" * 56)


def _signed(ds: Dataset) -> None:
    """The same picture around zero."""
    middle = 2 ** (int(ds.BitsStored) - 1)
    values = np.frombuffer(ds.PixelData, "<u2").astype(np.int32) - middle
    ds.PixelData = values.astype("<i2").tobytes()
    ds.PixelRepresentation, ds.WindowCenter = 1, "0"


def _secondary_capture(ds: Dataset) -> None:
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    ds.Modality, ds.ConversionType = "OT", "WSD"


def _requested(ds: Dataset) -> None:
    ds.RequestAttributesSequence = [
        _item(
            RequestedProcedureID=f"RP{number}",
            RequestedProcedureDescription=f"Chest {number}",
            ScheduledProcedureStepID=f"SPS{number}",
            RequestedProcedureCodeSequence=[_coded("399208008", "SCT", "Plain chest X-ray")],
        )
        for number in (1, 2, 3)
    ]
    ds.RequestAttributesSequence[2].AccessionNumber = "OTHER"
    ds.ProcedureCodeSequence = [_coded("XRCH", "99LOCAL", "Thorax zwei Ebenen für die Akte")]


def _identified(ds: Dataset) -> None:
    ds.IssuerOfPatientID = "Klinik Süd"
    ds.IssuerOfPatientIDQualifiersSequence = [_item(UniversalEntityID="1.2.3.4", UniversalEntityIDType="ISO")]
    ds.OtherPatientIDsSequence = [
        _item(PatientID="ÄB-1", IssuerOfPatientID="Früher", TypeOfPatientID="TEXT"),
        _item(PatientID="0002", IssuerOfPatientID="", TypeOfPatientID="BARCODE"),
    ]
    ds.IssuerOfAccessionNumberSequence = [_item(LocalNamespaceEntityID="RIS")]


def _private(ds: Dataset) -> None:
    block = ds.private_block(0x0011, "ACME 1.1", create=True)
    block.add_new(0x01, "LO", "any")
    block.add_new(0x02, "SQ", [_item(PatientName="Inner^Name", SeriesDescription="inside")])
    block.add_new(0x03, "UN", b"\x00\x01\xff")
    ds.private_block(0x0029, "ACME DEEP", create=True).add_new(0x10, "SQ", [])


def _longest_texts(ds: Dataset) -> None:
    ds.PatientID, ds.StudyDescription, ds.IssuerOfPatientID = "I" * 64, "D" * 64, "S" * 64
    ds.PatientName = "F" * 31 + "^" + "G" * 32
    ds.AccessionNumber = ds.StudyID = "0123456789ABCDEF"


def _padded(ds: Dataset) -> None:
    """Spaces and nulls behind values, and before one (PS3.5 6.2: leading ones may count)."""
    _set(
        ds,
        PatientID="ABC \0",
        PatientName="Doe^Jane ^ \0",
        StudyID="7  ",
        StudyDescription="Chest \0\0",
        PatientSex="F ",
    )
    _set(ds, AccessionNumber=" A1 ", StudyDate="20260102  ", ReferringPhysicianName="   ")


def _lossy(ds: Dataset) -> None:
    ds.LossyImageCompression = "01"
    ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = "12.5", "ISO_10918_1"


def _incomplete_items(ds: Dataset) -> None:
    """Of each sequence that results repeat, items that lack what their macro requires, and one that is complete."""
    code = _coded("XRCH", "99LOCAL", "Chest")
    ds.ProcedureCodeSequence = [
        _item(CodeValue="A"),
        _item(CodeValue="B", CodingSchemeDesignator="99LOCAL"),
        _item(CodeValue="C", CodeMeaning="no scheme"),
        _item(CodingSchemeDesignator="99LOCAL", CodeMeaning="no value"),
        _coded("D", "99LOCAL-AND-MUCH-MORE", "too long a scheme"),
        _item(CodeValue="", CodingSchemeDesignator="", CodeMeaning=""),
        code,
    ]
    ds.ReferencedStudySequence = [
        _item(ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1"),
        _item(ReferencedSOPInstanceUID="1.2.3"),
        _item(ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1", ReferencedSOPInstanceUID="1.2.03"),
        _item(ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1", ReferencedSOPInstanceUID="1.2.3"),
    ]
    ds.OtherPatientIDsSequence = [
        _item(TypeOfPatientID="TEXT"),
        _item(PatientID="no type"),
        _item(PatientID="0001", TypeOfPatientID="text"),
        _item(PatientID=["00", "02"], TypeOfPatientID="TEXT"),
        _item(PatientID="0003", TypeOfPatientID="TEXT", IssuerOfPatientIDQualifiersSequence=[]),
    ]
    ds.IssuerOfPatientIDQualifiersSequence = [
        _item(
            UniversalEntityID="1.2.3",
            IdentifierTypeCode="MR",
            AssigningFacilitySequence=[_item(UniversalEntityIDType="ISO")],
            AssigningJurisdictionCodeSequence=[_item(CodeValue="DE"), code],
        )
    ]
    ds.IssuerOfAccessionNumberSequence = [_item(), _item(LocalNamespaceEntityID="RIS")]
    ds.RequestAttributesSequence = [
        _item(),
        _item(RequestedProcedureID="R" * 20),
        _item(RequestedProcedureID="RP1", RequestedProcedureCodeSequence=[_item(CodeValue="A"), code]),
        _item(RequestedProcedureID="RP2", RequestedProcedureCodeSequence=[_item(CodeMeaning="no value")]),
    ]


def _empty_sequences(ds: Dataset) -> None:
    for keyword in (
        "ProcedureCodeSequence", "ReferencedStudySequence", "OtherPatientIDsSequence", "RequestAttributesSequence",
        "IssuerOfPatientIDQualifiersSequence", "IssuerOfAccessionNumberSequence",
    ):  # fmt: skip
        setattr(ds, keyword, [])


def _too_many_items(ds: Dataset) -> None:
    """Two items where one is allowed: neither is the right one."""
    authorities = [_item(UniversalEntityID=f"1.2.{n}", UniversalEntityIDType="ISO") for n in (3, 4)]
    ds.IssuerOfPatientIDQualifiersSequence = ds.IssuerOfAccessionNumberSequence = authorities
    codes = [_coded(value, "99LOCAL", value) for value in ("A", "B")]
    ds.RequestAttributesSequence = [_item(RequestedProcedureID="RP1", RequestedProcedureCodeSequence=codes)]


def _long_codes(ds: Dataset) -> None:
    """Codes beyond 16 characters, in the attribute that is theirs and in the one that is not, and enhanced ones."""
    ds.ProcedureCodeSequence = [
        _coded("12345678901234567890", "99LOCAL", "too long for a Code Value"),
        _item(LongCodeValue="98765432109876543210", CodingSchemeDesignator="99LOCAL", CodeMeaning="in its place"),
        _item(CodeValue="urn:oid:1.2.3", CodeMeaning="a URN"),
        _item(
            CodeValue="A",
            LongCodeValue="12345678901234567890",
            CodingSchemeDesignator="99LOCAL",
            CodingSchemeVersion="",
            CodeMeaning="two values",
            ContextIdentifier="7003",
            ContextGroupExtensionFlag="Y",
            EquivalentCodeSequence=[],
        ),
    ]


def _wrong_representations(ds: Dataset) -> None:
    """Values under another value representation than theirs, at the top and within items."""
    ds.add(DataElement("StudyDescription", "ST", "Chest"))
    ds.add(DataElement("ReferringPhysicianName", "OB", b"\1\2"))
    code = _coded("XRCH", "99LOCAL", "Chest")
    code.add(DataElement("CodingSchemeVersion", "DS", "1.5"))
    broken = _coded("XRCH", "99LOCAL", "Chest")
    broken.add(DataElement("CodeMeaning", "US", [1, 2]))
    other = _item(TypeOfPatientID="TEXT")
    other.add(DataElement("PatientID", "FD", 7.0))
    ds.ProcedureCodeSequence, ds.OtherPatientIDsSequence = [code, broken], [other]
    ds.add(DataElement("ReferencedStudySequence", "LO", "1.2.3"))


def _circular_shutter_without_radius(ds: Dataset) -> None:
    """The rectangular one beside it is described completely."""
    _set(ds, ShutterShape=["CIRCULAR", "RECTANGULAR"], CenterOfCircularShutter=["100", "100"])
    _set(ds, ShutterLeftVerticalEdge="10", ShutterRightVerticalEdge="250")
    _set(ds, ShutterUpperHorizontalEdge="10", ShutterLowerHorizontalEdge="290")


def _forbidden(ds: Dataset) -> None:
    _set(ds, PatientSex="W", PatientBirthDate="1950-06-01", PatientAge="sixty", StudyTime="25:61")


def _made(
    change: Callable[[Dataset], None], size: tuple[int, int] = (300, 260), **how: object
) -> Callable[[], Dataset]:
    def make() -> Dataset:
        ds = radiograph(phantom(*size).pixels, Exposure(seed="source", **how))  # type: ignore[arg-type]
        change(ds)
        return from_file(file_bytes(ds))

    return make


def _named(charset: str | list[str], name: str, description: str = "") -> Callable[[], Dataset]:
    return _made(_with(SpecificCharacterSet=charset, PatientName=name, StudyDescription=description))


SOURCES: dict[str, Callable[[], Dataset]] = {
    "CR": _made(_with(), modality="CR"),
    "DX": _made(_with()),
    "MONOCHROME1": _made(_with(), monochrome1=True),
    "AP": _made(_with(), view="AP"),
    "8 bits, odd number of rows and columns": _made(_with(), (301, 257), bits_stored=8),
    "odd number of rows and columns": _made(_with(), (301, 257)),
    "signed pixels": _made(_signed),
    "non-square pixels": _made(_with(PixelSpacing=["0.8", "0.4"], PixelAspectRatio=["2", "1"])),
    "no spacing": _made(_without("ImagerPixelSpacing", "PixelSpacing"), modality="CR"),
    "spacing at the detector only": _made(_with(ImagerPixelSpacing=["1.43", "1.43"])),
    "spacing of zero": _made(_with(PixelSpacing=["0", "0"], ImagerPixelSpacing="")),
    "secondary capture": _made(_secondary_capture),
    "mirrored": _made(_with(PatientOrientation=["R", "F"])),
    "frame of reference": _made(_with(FrameOfReferenceUID="1.2.3.4.5", PositionReferenceIndicator="")),
    "once lossy": _made(_lossy),
    "Latin-1": _named("ISO_IR 100", "Müller^Jörg", "Thorax für Ärzte"),
    "Latin-2": _named("ISO_IR 101", "Wałęsa^Żaneta", "Klatka piersiowa, śródpiersie"),
    "Cyrillic": _named("ISO_IR 144", "Иванов^Иван", "Грудная клетка"),
    "Greek": _named("ISO_IR 126", "Διονυσιος^Νίκος", "Θώρακας"),
    "Arabic": _named("ISO_IR 127", "قباني^لنزار", "الصدر"),
    "Hebrew": _named("ISO_IR 138", "שרון^דבורה", "חזה"),
    "Thai": _named("ISO_IR 166", "นามสกุล^ชื่อ", "ทรวงอก"),
    "Japanese kanji, IR 87": _named(["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "胸部正面"),
    "Japanese kana, IR 13": _named("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ", "ｷｮｳﾌﾞ"),
    "Japanese kana and kanji, IR 13 and 87": _named(
        ["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", "ｷｮｳﾌﾞ"
    ),
    "Korean, IR 149": _named(["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", "흉부"),
    "Chinese, GB18030": _named("GB18030", "Wang^XiaoDong=王^小东", "胸部正位"),
    # pydicom would write this one without its escape sequences (PS3.5 K.2)
    "Chinese, IR 58": _made(
        _with(
            SpecificCharacterSet=["", "ISO 2022 IR 58"],
            PatientName=b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab",
        )
    ),
    "undeclared character set, bytes of UTF-8": _made(_undeclared("Ренуар^Ж".encode())),
    "undeclared character set, bytes of Latin-1": _made(_undeclared("Müller^Jörg".encode("latin-1"))),
    "unknown character set": _made(_with(SpecificCharacterSet="ISO_IR 999", PatientName=b"M\xfcller^J\xf6rg")),
    # no more than 64 bytes, which is how dciodvfy counts what may be three groups of 64 characters
    "five components and three groups": _made(_with(PatientName="Li^Bo^Jun^Dr^MD=李^波^順^医^士=り^は^じゅ^い^し")),
    "longest texts": _made(_longest_texts),
    "padded values": _made(_padded),
    "stripped header": _made(_without(*_PATIENT_AND_STUDY, *_STRIPPED), modality="CR"),
    "everything empty": _made(_emptied),
    "no Study ID": _made(_without("StudyID")),
    "empty Study Date": _made(_with(StudyDate="", StudyTime="")),
    "UIDs of 64 characters": _made(_long_uids),
    "time zone": _made(_with(TimezoneOffsetFromUTC="+0530")),
    "several requests": _made(_requested),
    "other patient IDs": _made(_identified),
    "private elements": _made(_private),
    "two accession numbers": _made(_with(AccessionNumber=["one", "two"])),
    "values that the standard forbids": _made(_forbidden),
}

# Headers that the standard does not allow. They change no picture, so that none of them has to be seen in a browser.
DAMAGED: dict[str, Callable[[], Dataset]] = {
    "sequences without items": _made(_empty_sequences),
    "items that lack what they need": _made(_incomplete_items),
    "several items where one is allowed": _made(_too_many_items),
    "codes too long for a Code Value": _made(_long_codes),
    "wrong value representations": _made(_wrong_representations),
    "several values of a name": _made(_with(PatientName=["Doe^Jane", "Roe"], ReferringPhysicianName=["A", "B"])),
    "undeclared Japanese, split within a character": _made(_undeclared("ﾀﾅｶ^表子".encode("shift_jis"))),
    "seven components of a name": _made(
        _with(PatientName="Li^Bo^Jun^Dr^MD^PhD^FRCR=李=り=x", ReferringPhysicianName="A^B^C^D^E^F")
    ),
    "name too long, with a line break": _made(_with(PatientName="L" * 40 + "^\n" + "B" * 40)),
    "days that do not exist": _made(_with(StudyDate="20260231", PatientBirthDate="19000229")),
    "range of dates": _made(_with(StudyDate="20260101-20260102", StudyTime="10-11")),
    "control characters": _made(_with(StudyDescription="Chest\nPA", StudyID="7\x01", IssuerOfPatientID="A\tB")),
    "time zone that is none": _made(_with(TimezoneOffsetFromUTC=["+0100", "+0200"])),
    "rectangular shutter without edges": _made(_with(ShutterShape="RECTANGULAR", ShutterLeftVerticalEdge="10")),
    "circular shutter without radius": _made(_circular_shutter_without_radius),
    "spacing of a tenth of a nanometre": _made(_with(ImagerPixelSpacing=["0.0000001", "0.0000001"])),
    "spacing of a hundred metres": _made(_with(PixelSpacing=["99999", "99999"])),
    "spacing in centimetres": _made(_with(ImagerPixelSpacing=["0.143", "0.143"])),
}

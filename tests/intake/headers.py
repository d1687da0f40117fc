"""Inputs that differ in what their headers say: views, languages, body parts, ages."""

from __future__ import annotations

from pydicom import Dataset

from models.refusal import Refusal
from orthanc_plugin.commands.modality import Exposure

from .case import READ, Group, silent, stored
from .pictures import hip


def view_code(value: str, meaning: str, scheme: str = "SCT") -> list[Dataset]:
    """View Code Sequence of one item (PS3.16 CID 4010)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return [item]


def views() -> Group:
    """View Position and View Code Sequence, alone and against each other."""
    group = Group("views")
    group.add("PA", READ, stored())
    group.add("PA, DX for presentation", READ, stored(None, Exposure(modality="DX")))
    group.add("AP", READ, stored(None, Exposure(modality="CR", view="AP")), "ap_view")
    group.add(
        "portable AP", READ, stored(ViewPosition="AP", SeriesDescription="Chest AP portable"), "ap_view", "bedside"
    )
    group.add("supine, 'AP SUPINE'", READ, stored(ViewPosition="AP SUPINE", SeriesDescription=""), "ap_view", "bedside")
    group.add("lower case and padded, ' ap '", READ, stored(ViewPosition=" ap "), "ap_view")
    group.add("several words, 'PA ERECT'", READ, stored(ViewPosition="PA ERECT"))
    group.add("'FRONTAL' as View Position", READ, silent(ViewPosition="FRONTAL"))
    for name, position in (
        ("left lateral, LL", "LL"), ("right lateral, RL", "RL"), ("lateral in words, 'LEFT LATERAL'", "LEFT LATERAL"),
        ("lateral, 'LLAT'", "LLAT"), ("left anterior oblique, LAO", "LAO"), ("right posterior oblique, RPO", "RPO"),
        ("oblique, LLO", "LLO"), ("left decubitus, LLD", "LLD"), ("decubitus in words, 'R DECUBITUS'", "R DECUBITUS"),
        ("lordotic, 'AP LORDOTIC'", "AP LORDOTIC"), ("lateral in Spanish, 'PERFIL'", "PERFIL"),
    ):  # fmt: skip
        group.add(name, Refusal.VIEW, stored(ViewPosition=position, SeriesDescription="Chest"))
    group.add("lateral by Patient Orientation A\\F alone", Refusal.VIEW, silent(PatientOrientation=["A", "F"]))
    group.add("lateral by Patient Orientation P\\F alone", Refusal.VIEW, silent(PatientOrientation=["P", "F"]))
    group.add(
        "empty View Position, frontal by Patient Orientation", READ, stored(ViewPosition="", SeriesDescription="")
    )
    group.add(
        "empty View Position, nothing else tells: the pixels do",
        READ,
        silent(ViewPosition="", BodyPartExamined="CHEST"),
        "view_from_pixels",
    )
    _codes(group)
    for name in ("OperatorsName", "PatientName"):
        group.add(f"two values of {name}", READ, stored(**{name: ["Doe^Jane", "Roe^Richard"]}))
    return group


def _codes(group: Group) -> None:
    for name, code, meaning, scheme in (
        ("code PA, SCT 272479007", "272479007", "postero-anterior", "SCT"),
        ("code AP, SCT 399348003", "399348003", "antero-posterior", "SCT"),
        ("code frontal, SCT 399033003", "399033003", "frontal", "SCT"),
        ("code PA, retired SRT R-40888", "R-40888", "postero-anterior", "SRT"),
        ("code AP, retired SRT R-10206", "R-10206", "antero-posterior", "SNM3"),
    ):
        group.add(name, READ, silent(ViewCodeSequence=view_code(code, meaning, scheme)))
    for name, code, meaning, scheme in (
        ("code lateral, SCT 399067008", "399067008", "lateral", "SCT"),
        ("code left lateral, SCT 399173006", "399173006", "left lateral", "SCT"),
        ("code right lateral, SCT 399198007", "399198007", "right lateral", "SCT"),
        ("code oblique, SCT 399182000", "399182000", "oblique", "SCT"),
        ("code oblique, retired SRT R-102C1, without a meaning", "R-102C1", "", "SRT"),
        ("code left lateral, retired SRT R-10236", "R-10236", "left lateral", "SRT"),
        ("private code with the meaning 'lateral'", "LAT01", "Lateral chest", "99LOCAL"),
    ):
        group.add(name, Refusal.VIEW, silent(ViewCodeSequence=view_code(code, meaning, scheme)))
    lateral, frontal = view_code("399067008", "lateral"), view_code("272479007", "postero-anterior")
    group.add("code lateral, View Position PA: the code wins", Refusal.VIEW, stored(ViewCodeSequence=lateral))
    group.add("code PA, View Position LL: the code wins", READ, stored(ViewCodeSequence=frontal, ViewPosition="LL"))
    unknown = view_code("LOCAL7", "Thorax Standard", "99LOCAL")
    group.add("private code that says nothing, View Position PA", READ, stored(ViewCodeSequence=unknown))


# Language, text as Study Description or Series Description, whether it is frontal, cautions.
_TEXTS = (
    ("Spanish", "Tórax de frente", True), ("Spanish", "TORAX AP PORTATIL EN CAMA", True),
    ("Spanish", "Tórax perfil", False), ("Spanish", "TORAX LATERAL", False),
    ("Spanish", "Tórax oblicua anterior", False),
    ("Portuguese", "RX tórax PA", True), ("Portuguese", "Tórax perfil esquerdo", False),
    ("Portuguese", "Tórax AP em decúbito dorsal no leito", True),
    ("German", "Thorax p.a.", True), ("German", "Thorax a.p. im Bett liegend", True),
    ("German", "Thorax seitlich", False), ("German", "Thorax Schrägaufnahme", False),
    ("French", "Thorax de face", True), ("French", "Radiographie pulmonaire au lit", True),
    ("French", "Thorax de face en décubitus dorsal", True), ("French", "Thorax de profil gauche", False),
    ("Italian", "Torace AP a letto", True), ("Italian", "Torace in proiezione PA", True),
    ("Italian", "Torace LL", False), ("Italian", "Torace laterale", False), ("Italian", "Torace profilo", False),
    ("English", "Portable chest AP", True), ("English", "Chest lateral decubitus", False),
    ("English", "Apical lordotic", False),
    ("Dutch", "Thorax dwars", False), ("Polish", "Klatka piersiowa boczne", False),
    ("Turkish", "Akciğer PA", True),
    ("mis-encoded", "T?RAX FRENTE", True), ("mis-encoded", "TÃ³rax de frente", True),
    ("Russian, silent to us", "Грудная клетка", True), ("Japanese, silent to us", "胸部正面", True),
)  # fmt: skip
_BEDSIDE = frozenset({
    "TORAX AP PORTATIL EN CAMA", "Tórax AP em decúbito dorsal no leito", "Thorax a.p. im Bett liegend",
    "Radiographie pulmonaire au lit", "Thorax de face en décubitus dorsal", "Torace AP a letto", "Portable chest AP",
})  # fmt: skip


def languages() -> Group:
    """Descriptions as the only evidence of the view."""
    group = Group("languages")
    for language, text, is_frontal in _TEXTS:
        cautions = ("bedside",) if text in _BEDSIDE else ()
        fate = READ if is_frontal else Refusal.VIEW
        group.add(f"{language}: '{text}'", fate, silent(SeriesDescription=text), *cautions)
    both = silent(StudyDescription="XR CHEST PA AND LATERAL", BodyPartExamined="CHEST")
    group.add("Study Description names both views, nothing else tells: the pixels do", READ, both)
    group.add(
        "Study Description names both views, Series Description 'LAT'",
        Refusal.VIEW,
        silent(StudyDescription="XR CHEST PA AND LATERAL", SeriesDescription="LAT"),
    )
    group.add("two planes, 'Thorax in 2 Ebenen': the pixels tell", READ, silent(StudyDescription="Thorax in 2 Ebenen"))
    return group


def body_parts() -> Group:
    """Body Part Examined and descriptions, right and wrong."""
    group = Group("body part")
    for value in ("CHEST", "PORT CHEST", "TORAX", "T?RAX", "Pecho", "2- TORAX", "TÓRAX", ""):
        group.add(f"Body Part Examined '{value}'", READ, stored(BodyPartExamined=value, StudyDescription=""))
    for value in ("ABDOMEN", "SKULL"):
        doubtful = stored(BodyPartExamined=value, StudyDescription="", SeriesDescription="AP", ViewPosition="AP")
        group.add(f"a chest, mislabelled {value}", READ, doubtful, "body_part_doubtful")
    hips = {"BodyPartExamined": "HIP", "StudyDescription": "Hip", "SeriesDescription": "Hip AP", "ViewPosition": "AP"}
    group.add("a hip, rightly described", Refusal.BODY_PART, stored(hip(), **hips))
    nameless = {**hips, "StudyDescription": "", "SeriesDescription": "AP"}
    group.add("a hip, only Body Part Examined says so", Refusal.BODY_PART, stored(hip(), **nameless))
    group.add("a hip, described as a PA chest", Refusal.VIEW_CONFLICT, stored(hip()))
    group.add("a hip, nothing described", Refusal.PIXEL_GATE, silent(hip()))
    group.add("Spanish: 'Cadera AP'", Refusal.BODY_PART, silent(hip(), SeriesDescription="Cadera AP"))
    return group


def ages() -> Group:
    """Patient's Age (PS3.5 AS) and Patient's Birth Date; pixels of an adult."""
    group = Group("age")
    group.add("adult, 018Y", READ, stored(PatientAge="018Y"))
    group.add("adult, without a unit, '062'", READ, stored(PatientAge="062"))
    group.add("adult by birth date", READ, stored(PatientAge=None, PatientBirthDate="19500601"))
    group.add("child, 017Y", Refusal.AGE, stored(PatientAge="017Y"))
    group.add("infant in months, 009M", Refusal.AGE, stored(PatientAge="009M"))
    group.add("newborn in weeks, 002W", Refusal.AGE, stored(PatientAge="002W"))
    group.add("newborn in days, 003D", Refusal.AGE, stored(PatientAge="003D"))
    group.add("child by birth date", Refusal.AGE, stored(PatientAge=None, PatientBirthDate="20200101"))
    group.add(
        "child by birth date, eighteen tomorrow",
        Refusal.AGE,
        stored(PatientAge="", PatientBirthDate="20080103", AcquisitionDate="20260102"),
    )
    group.add("age unknown", READ, stored(PatientAge="", PatientBirthDate=""), "age_unknown")
    unlikely = stored(PatientAge="", PatientBirthDate="18000101")
    group.add("age unknown, birth date 1800", READ, unlikely, "age_unknown")
    group.add("child, lateral", Refusal.VIEW, stored(PatientAge="005Y", ViewPosition="LL"))
    return group

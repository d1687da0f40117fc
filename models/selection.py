"""Which instances of a study are frontal chest radiographs that the models may read, and why the others are not.

The rule: evidence is taken in a fixed order, the first decisive one wins, and what it was is kept. Nothing is guessed
from silence: an image whose view no evidence tells is refused as such.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID

from models.findings import View

CR = UID("1.2.840.10008.5.1.4.1.1.1")
DX_FOR_PRESENTATION = UID("1.2.840.10008.5.1.4.1.1.1.1")
DX_FOR_PROCESSING = UID("1.2.840.10008.5.1.4.1.1.1.1.1")
SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")
READABLE_SOP_CLASSES = frozenset({CR, DX_FOR_PRESENTATION, SECONDARY_CAPTURE})
RADIOGRAPH_MODALITIES = frozenset({"CR", "DX", "RG"})


class Refusal(StrEnum):
    """Why an image gets no result; the code reaches the worklist and the metrics."""

    MODALITY = "modality"  # not a projection radiograph
    INTENT = "intent"  # FOR PROCESSING, localiser or vendor post-processing
    MULTI_FRAME = "multi_frame"
    VIEW = "view"  # lateral, oblique, or another view that the models do not read
    VIEW_UNKNOWN = "view_unknown"
    BODY_PART = "body_part"
    ORIENTATION = "orientation"  # stored mirrored or upside down
    AGE = "age"  # outside the validated ages
    UNREADABLE_PIXELS = "unreadable_pixels"
    UNREADABLE_HEADER = "unreadable_header"
    LUNGS_NOT_FOUND = "lungs_not_found"  # the picture shows no plausible pair of lungs


class ImageRefused(Exception):
    """An image that will get no result. `code` says why, the message says it to a person, without patient data."""

    def __init__(self, code: Refusal, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Selection:
    """A frontal chest radiograph that may be read.

    Parameters
    ----------
    evidence
        The header attribute that decided on the view, and what it said.
    cautions
        Codes of what limits the result.
    """

    view: View
    evidence: str
    cautions: tuple[str, ...] = ()


# CID 4010 (PS3.16); the retired SRT values are still sent by older modalities.
_VIEW_CODES = {
    "272479007": View.PA,
    "R-10214": View.PA,
    "399348003": View.AP,
    "R-10206": View.AP,
    "399033003": View.FRONTAL,
}
_OTHER_VIEW_CODES = frozenset({"399067008", "399173006", "399198007", "R-10236", "R-10232", "R-10228"})
_FRONTAL_POSITIONS = {"PA": View.PA, "AP": View.AP}
_OTHER_POSITIONS = frozenset(
    {"LL", "RL", "LLD", "RLD", "LLO", "RLO", "LAT", "LATERAL", "RAO", "LAO", "RPO", "LPO", "OBL"}
)
_FRONTAL_WORDS = re.compile(r"\b(frontal|frente|face|facing|posteroanterior|anteroposterior|p\.?a\.?|a\.?p\.?)\b")
_OTHER_WORDS = re.compile(r"\b(lat|lateral|laterale|seitlich|seitl|perfil|profil|profile|oblique|obl|schraeg)\b")
_CHEST_WORDS = re.compile(r"\b(chest|thorax|torax|pecho|lung|lungs|thor|cxr|rtg klp|poumon|poumons)\b")
_OTHER_BODY_WORDS = re.compile(
    r"\b(hip|knee|hand|foot|ankle|wrist|elbow|shoulder|pelvis|skull|extremity|femur|tibia|humerus|forearm|"
    r"spine|cspine|lspine|tspine|finger|toe|leg|arm|breast|mammo|dental|jaw|abdomen|abdominal)\b"
)


def select(ds: Dataset, *, minimum_age: int = 18) -> Selection:
    """Decide from the header whether the models may read this image.

    Parameters
    ----------
    ds
        The instance; pixel data is not looked at.
    minimum_age
        Years; younger patients lie outside the validation of the models.

    Raises
    ------
    ImageRefused
        With the code of the first decisive piece of evidence.
    """
    _check_modality(ds)
    _check_intent(ds)
    _check_body_part(ds)
    view, evidence = _view(ds)
    _check_orientation(ds)
    cautions = [*_age_cautions(ds, minimum_age)]
    if view is View.AP:
        cautions.append("ap_view")
    return Selection(view, evidence, tuple(cautions))


def _check_modality(ds: Dataset) -> None:
    sop_class, modality = UID(str(ds.get("SOPClassUID", ""))), _text(ds, "Modality").upper()
    if sop_class == DX_FOR_PROCESSING:
        raise ImageRefused(Refusal.INTENT, "the image is FOR PROCESSING")
    if sop_class not in READABLE_SOP_CLASSES:
        raise ImageRefused(Refusal.MODALITY, f"{sop_class.name or 'unknown SOP class'} is not a radiograph")
    if modality not in RADIOGRAPH_MODALITIES and not (sop_class == SECONDARY_CAPTURE and _mentions_chest(ds)):
        raise ImageRefused(Refusal.MODALITY, f"modality {modality or 'absent'}, no evidence of a chest radiograph")


def _check_intent(ds: Dataset) -> None:
    if _text(ds, "PresentationIntentType").upper() == "FOR PROCESSING":
        raise ImageRefused(Refusal.INTENT, "the image is FOR PROCESSING")
    image_type = {str(v).upper() for v in _values(ds, "ImageType")}
    if "LOCALIZER" in image_type:
        raise ImageRefused(Refusal.INTENT, "the image is a localiser")
    if image_type & {"BONE_SUPPRESSED", "SUBTRACTED", "SUBTRACTION", "EDGE_ENHANCED"}:
        raise ImageRefused(Refusal.INTENT, "the image is a vendor's post-processing")
    if integer(ds, "NumberOfFrames", 1) > 1:
        raise ImageRefused(Refusal.MULTI_FRAME, f"{ds.NumberOfFrames} frames")


def _view(ds: Dataset) -> tuple[View, str]:
    for item in _values(ds, "ViewCodeSequence"):
        code = str(item.get("CodeValue", ""))
        if code in _VIEW_CODES:
            return _VIEW_CODES[code], f"ViewCodeSequence {code}"
        if code in _OTHER_VIEW_CODES:
            raise ImageRefused(Refusal.VIEW, f"ViewCodeSequence says {item.get('CodeMeaning', code)}")
    words = re.split(r"[^A-Z]+", _text(ds, "ViewPosition").upper())
    if _OTHER_POSITIONS.intersection(words):
        raise ImageRefused(Refusal.VIEW, "ViewPosition says " + " ".join(w for w in words if w))
    for word in words:
        if word in _FRONTAL_POSITIONS:
            return _FRONTAL_POSITIONS[word], f"ViewPosition {word}"
    orientation = [str(v).upper() for v in _values(ds, "PatientOrientation")]
    if orientation and orientation[0][:1] in ("A", "P"):
        raise ImageRefused(Refusal.VIEW, "PatientOrientation says lateral")
    for keyword in ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription", "StudyDescription"):
        text = _plain(_text(ds, keyword))
        if match := _OTHER_WORDS.search(text):
            raise ImageRefused(Refusal.VIEW, f"{keyword} says '{match[0]}'")
        if match := _FRONTAL_WORDS.search(text):
            letters = match[0].replace(".", "")
            return _FRONTAL_POSITIONS.get(letters.upper(), View.FRONTAL), f"{keyword} '{match[0]}'"
    if len(orientation) == 2 and orientation[0][:1] in ("L", "R") and _mentions_chest(ds):
        return View.FRONTAL, "PatientOrientation " + "\\".join(orientation)
    raise ImageRefused(Refusal.VIEW_UNKNOWN, "no header attribute tells whether this is a frontal view")


def _check_body_part(ds: Dataset) -> None:
    """Refuse another body part, unless any of the same attributes also names the chest: they are often wrong."""
    if _mentions_chest(ds):
        return
    for keyword in ("BodyPartExamined", "StudyDescription", "SeriesDescription", "ProtocolName"):
        if match := _OTHER_BODY_WORDS.search(_plain(_text(ds, keyword))):
            raise ImageRefused(Refusal.BODY_PART, f"{keyword} says '{match[0]}'")


def _check_orientation(ds: Dataset) -> None:
    orientation = [str(v).upper() for v in _values(ds, "PatientOrientation")]
    if len(orientation) == 2 and (orientation[0][:1] == "R" or orientation[1][:1] == "H"):
        raise ImageRefused(Refusal.ORIENTATION, f"stored as {orientation[0]}\\{orientation[1]}, not as hung")


def _age_cautions(ds: Dataset, minimum_age: int) -> list[str]:
    """Cautions about age, from Patient's Age (PS3.5 AS) or the dates of birth and study."""
    age = _age_years(ds)
    if age is None:
        return ["age_unknown"]
    if age < minimum_age:
        raise ImageRefused(Refusal.AGE, f"the patient is younger than {minimum_age} years")
    return []


def _age_years(ds: Dataset) -> float | None:
    text = _text(ds, "PatientAge").upper()
    if match := re.fullmatch(r"(\d{1,3})([DWMY]?)", text):
        days = {"D": 1.0, "W": 7.0, "M": 30.44, "Y": 365.25, "": 365.25}[match[2]]
        return int(match[1]) * days / 365.25
    born, taken = _text(ds, "PatientBirthDate"), _text(ds, "AcquisitionDate") or _text(ds, "StudyDate")
    if re.fullmatch(r"\d{8}", born) and re.fullmatch(r"\d{8}", taken):
        years = int(taken[:4]) - int(born[:4]) - (taken[4:] < born[4:])
        return float(years) if years >= 0 else None
    return None


def _mentions_chest(ds: Dataset) -> bool:
    keywords = ("BodyPartExamined", "SeriesDescription", "StudyDescription", "ProtocolName")
    return any(_CHEST_WORDS.search(_plain(_text(ds, keyword))) for keyword in keywords)


def integer(ds: Dataset, keyword: str, default: int) -> int:
    """The value of an integer attribute; `default` when it is absent or empty.

    Raises
    ------
    ImageRefused
        ``unreadable_header`` when it holds something else.
    """
    value = ds.get(keyword)
    if value is None or value == "":
        return default
    try:
        return int(value)
    except (ValueError, TypeError) as error:
        raise ImageRefused(Refusal.UNREADABLE_HEADER, f"{keyword} is not a number") from error


def _text(ds: Dataset, keyword: str) -> str:
    value = ds.get(keyword)
    return "" if value is None else str(value).strip()


def _values(ds: Dataset, keyword: str) -> list[Any]:
    value = ds.get(keyword)
    if value is None:
        return []
    return list(value) if not isinstance(value, str) else [value]


def _plain(text: str) -> str:
    """Lower case, accents stripped, anything but letters and full stops turned into spaces."""
    decomposed = unicodedata.normalize("NFKD", text.lower())
    return re.sub(r"[^a-z.]+", " ", "".join(c for c in decomposed if not unicodedata.combining(c)))

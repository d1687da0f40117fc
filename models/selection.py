"""Which instances of a study are frontal chest radiographs that the models may read, and why the others are not.

The rule: evidence is taken in a fixed order, the first decisive one wins, and all that was looked at is kept. Nothing
is guessed from silence: where the header is silent the pixels are asked (``models.pixel_gate``), and where the two
contradict each other the image is refused.

The order: SOP Class and Modality; Presentation Intent Type and Image Type; frames; View Code Sequence; View Position;
Patient Orientation; descriptions; Body Part Examined, which is often wrong and only asks for a look at the pixels; age.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID

from models.findings import Caution, View
from models.hanging import AS_STORED, Hanging, hanging_of, is_lateral
from models.header_terms import (
    BEDSIDE_WORDS,
    CHEST_WORDS,
    DESCRIPTIONS,
    DX_FOR_PROCESSING,
    FRONTAL_SIDES,
    FRONTAL_WORDS,
    LATERAL_WORDS,
    ODD_WORDS,
    OTHER_BODY_WORDS,
    OTHER_POSITIONS,
    OTHER_VIEW_CODES,
    POST_PROCESSED,
    PROCESSED_WORDS,
    RADIOGRAPH_MODALITIES,
    READABLE_SOP_CLASSES,
    SECONDARY_CAPTURE,
    UNSAID_MODALITIES,
    VIEW_CODES,
    plain,
    plain_code,
)
from models.refusal import Evidence, ImageRefused, Refusal, integer

# |Deviation Index| from which an exposure is far off its target: a factor of two (IEC 62494-1; AAPM TG-116).
_EXTREME_DEVIATION = 3.0
_OLDEST = 115  # years


@dataclass(frozen=True)
class Policy:
    """What the site decides about intake.

    Parameters
    ----------
    minimum_age
        Years; the models were not validated on younger patients.
    read_children
        Read them all the same, with a caution, instead of refusing.
    """

    minimum_age: int = 18
    read_children: bool = False

    @property
    def children(self) -> bool:
        """Whether a picture that shows a child may be read."""
        return self.read_children or self.minimum_age <= 0


@dataclass(frozen=True)
class Selection:
    """An image that its header lets pass.

    Parameters
    ----------
    view
        None when no attribute tells it: then the pixels have to.
    hanging
        How the image is to be turned, from the header alone.
    evidence
        All that was looked at, in order; the first that names a view decided on it.
    cautions
        What limits the result.
    body_part_doubtful
        Body Part Examined names something else and nothing names the chest: the pixels have to show it.
    """

    view: View | None
    hanging: Hanging
    evidence: tuple[Evidence, ...]
    cautions: tuple[Caution, ...] = ()
    body_part_doubtful: bool = False


def select(ds: Dataset, policy: Policy | None = None) -> Selection:
    """Decide from the header whether the models may read this image.

    Parameters
    ----------
    ds
        The instance; pixel data is not looked at.

    Raises
    ------
    ImageRefused
        With the code of the first decisive piece of evidence, and the evidence.
    """
    trail = _Trail(ds)
    _check_modality(trail)
    _check_intent(trail)
    view = _view(trail)
    doubtful = _check_body_part(trail)
    hanging = _hanging(trail)
    cautions = [*_age_cautions(trail, policy or Policy()), *_technique_cautions(trail, view)]
    if doubtful:
        cautions.append(Caution.BODY_PART_DOUBTFUL)
    return Selection(view, hanging, tuple(trail.evidence), tuple(cautions), doubtful)


class _Trail:
    """The header being looked at, and what was seen so far."""

    def __init__(self, ds: Dataset) -> None:
        self.ds = ds
        self.evidence: list[Evidence] = []

    def note(self, source: str, says: str) -> None:
        self.evidence.append(Evidence(source, says))

    def refuse(self, code: Refusal, message: str, source: str, says: str) -> ImageRefused:
        """Note what decided; the caller raises the answer."""
        self.note(source, says)
        return ImageRefused(code, message, tuple(self.evidence))

    def text(self, keyword: str) -> str:
        value = self.ds.get(keyword)
        return "" if value is None else str(value).strip()

    def values(self, keyword: str) -> list[Any]:
        value = self.ds.get(keyword)
        if value is None:
            return []
        return list(value) if not isinstance(value, str | bytes | int | float) else [value]


def _check_modality(trail: _Trail) -> None:
    """SOP Class (PS3.4 B.5) and Modality (PS3.3 C.7.3.1.1.1); other captures only when the chest is named."""
    sop_class, modality = UID(trail.text("SOPClassUID")), plain_code(trail.text("Modality"))
    name = sop_class.name if sop_class.name != str(sop_class) else "unknown SOP class"
    if sop_class == DX_FOR_PROCESSING:
        raise trail.refuse(Refusal.INTENT, "the image is FOR PROCESSING", "SOPClassUID", name)
    if sop_class not in READABLE_SOP_CLASSES:
        raise trail.refuse(Refusal.MODALITY, f"{name} is not a radiograph", "SOPClassUID", name)
    trail.note("SOPClassUID", name)
    unsaid = modality in UNSAID_MODALITIES and (sop_class != SECONDARY_CAPTURE or _mentions_chest(trail))
    if modality in RADIOGRAPH_MODALITIES or unsaid:
        trail.note("Modality", modality or "absent")
        return
    message = f"modality {modality or 'absent'}, no evidence of a chest radiograph"
    raise trail.refuse(Refusal.MODALITY, message, "Modality", modality or "absent")


def _check_intent(trail: _Trail) -> None:
    """Presentation Intent Type (PS3.3 C.8.11.1.1.1), Image Type (C.7.6.1.1.2), Number of Frames (C.7.6.6)."""
    if trail.text("PresentationIntentType").upper() == "FOR PROCESSING":
        raise trail.refuse(Refusal.INTENT, "the image is FOR PROCESSING", "PresentationIntentType", "FOR PROCESSING")
    image_type = [str(v).strip().upper().replace(" ", "_") for v in trail.values("ImageType")]
    if "LOCALIZER" in image_type:
        raise trail.refuse(Refusal.INTENT, "the image is a localiser", "ImageType", "LOCALIZER")
    if marks := [v for v in image_type if v in POST_PROCESSED]:
        raise trail.refuse(Refusal.INTENT, "the image is a vendor's post-processing", "ImageType", marks[0])
    if match := PROCESSED_WORDS.search(plain(trail.text("SeriesDescription"))):
        says = f"'{match[0]}'"
        raise trail.refuse(Refusal.INTENT, "the image is a vendor's post-processing", "SeriesDescription", says)
    if (frames := integer(trail.ds, "NumberOfFrames", 1)) > 1:
        raise trail.refuse(Refusal.MULTI_FRAME, f"{frames} frames", "NumberOfFrames", str(frames))


def _view(trail: _Trail) -> View | None:
    """The first of the rules below that tells; None when all are silent.

    Raises
    ------
    ImageRefused
        When it tells of a view that the models do not read.
    """
    rules: tuple[Callable[[_Trail], View | None], ...] = (
        _view_of_code, _view_of_position, _view_of_orientation, _view_of_words,
    )  # fmt: skip
    return next((view for rule in rules if (view := rule(trail)) is not None), None)


def _view_of_code(trail: _Trail) -> View | None:
    """View Code Sequence (PS3.3 C.8.11.5, PS3.16 CID 4010)."""
    for item in trail.values("ViewCodeSequence"):
        if not isinstance(item, Dataset):
            continue
        code, meaning = str(item.get("CodeValue", "")).strip(), plain(str(item.get("CodeMeaning", "")))
        if code in VIEW_CODES:
            trail.note("ViewCodeSequence", code)
            return VIEW_CODES[code]
        word = _not_frontal(meaning)
        if word or code in OTHER_VIEW_CODES:
            says = f"'{word}'" if word else code
            raise trail.refuse(Refusal.VIEW, f"the view is not frontal ({says})", "ViewCodeSequence", says)
    return None


def _view_of_position(trail: _Trail) -> View | None:
    """View Position (PS3.3 C.8.1.1, C.8.11.5), as it is met: padded, in lower case, with further words, often empty."""
    text = plain(trail.text("ViewPosition"))
    other = next((word for word in text.split() if word in OTHER_POSITIONS), None) or _not_frontal(text)
    if other:
        raise trail.refuse(Refusal.VIEW, f"the view is not frontal ({other.upper()})", "ViewPosition", other.upper())
    if match := FRONTAL_WORDS.search(text):
        trail.note("ViewPosition", match[0].upper())
        return _side(match[0])
    return None


def _view_of_orientation(trail: _Trail) -> View | None:
    """Patient Orientation (PS3.3 C.7.6.1.1.1): it can say that a view is lateral, and with the chest, frontal."""
    orientation = [str(v) for v in trail.values("PatientOrientation")]
    if is_lateral(orientation):
        letters = "\\".join(direction.strip().upper()[:1] for direction in orientation)
        raise trail.refuse(Refusal.VIEW, f"the view is lateral ({letters})", "PatientOrientation", letters)
    return None


def _view_of_words(trail: _Trail) -> View | None:
    """Descriptions in several languages; then Patient Orientation where the chest is named at all."""
    for keyword in DESCRIPTIONS:
        text = plain(trail.text(keyword))
        frontal, other = FRONTAL_WORDS.search(text), _not_frontal(text)
        if frontal and other and not ODD_WORDS.search(text):
            continue  # "PA and lateral" speaks of the study, not of this image
        if other:
            raise trail.refuse(Refusal.VIEW, f"the view is not frontal ('{other}')", keyword, f"'{other}'")
        if frontal:
            trail.note(keyword, f"'{frontal[0]}'")
            return _side(frontal[0])
    orientation = [str(v) for v in trail.values("PatientOrientation")]
    if hanging_of(orientation) is not None and _mentions_chest(trail):
        trail.note("PatientOrientation", "\\".join(v.strip().upper()[:1] for v in orientation))
        return View.FRONTAL
    return None


def _check_body_part(trail: _Trail) -> bool:
    """The narrowest word decides (PS3.3 C.7.3.1, C.7.2.1), and that of the series may refuse.

    True when the pixels have to show whether it is a chest:
    Study Description often tells why a patient is examined, and Body Part Examined is often wrong: both only doubt.
    """
    for keyword in ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription"):
        text = plain(trail.text(keyword))
        if CHEST_WORDS.search(text):
            return False
        if match := OTHER_BODY_WORDS.search(text):
            if not _mentions_chest(trail):
                raise trail.refuse(Refusal.BODY_PART, f"not the chest ('{match[0]}')", keyword, f"'{match[0]}'")
            trail.note(keyword, f"'{match[0]}'")  # "AP on spine board", or a shoulder in a study of the chest
            return True
    if _mentions_chest(trail):
        return False
    for keyword in ("BodyPartExamined", "StudyDescription"):
        if match := OTHER_BODY_WORDS.search(plain(trail.text(keyword))):
            trail.note(keyword, f"'{match[0]}'")
            return True
    return False


def _hanging(trail: _Trail) -> Hanging:
    orientation = [str(v) for v in trail.values("PatientOrientation")]
    hanging = hanging_of(orientation)
    if hanging is None or hanging.as_stored:
        return AS_STORED
    trail.note("PatientOrientation", "\\".join(v.strip().upper()[:1] for v in orientation) + ", turned to hang")
    return hanging


def _technique_cautions(trail: _Trail, view: View | None) -> list[Caution]:
    cautions = [Caution.AP_VIEW] if view is View.AP else []
    if any(BEDSIDE_WORDS.search(plain(trail.text(k))) for k in (*DESCRIPTIONS, "BodyPartExamined", "ViewPosition")):
        cautions.append(Caution.BEDSIDE)
    try:
        deviation = float(trail.ds.get("DeviationIndex") or 0)
    except (TypeError, ValueError, OverflowError):
        deviation = 0.0  # a caution is all that hangs on it
    if abs(deviation) >= _EXTREME_DEVIATION:
        trail.note("DeviationIndex", f"{deviation:+.1f}")
        cautions.append(Caution.EXTREME_EXPOSURE)
    return cautions


def _age_cautions(trail: _Trail, policy: Policy) -> list[Caution]:
    """Patient's Age (PS3.5 AS), or the dates of birth and acquisition."""
    age = _age_years(trail)
    if age is None:
        return [Caution.AGE_UNKNOWN]
    if age >= policy.minimum_age:
        return []
    source = "PatientAge" if _age_told(trail) == age else "PatientBirthDate"
    says = f"younger than {policy.minimum_age} years"
    if policy.children:
        trail.note(source, says)
        return [Caution.AGE_OUTSIDE_VALIDATION]
    raise trail.refuse(Refusal.AGE, f"the patient is {says}", source, says)


def _age_years(trail: _Trail) -> float | None:
    """The age in years; the lower one where Patient's Age and the dates contradict each other."""
    told = [age for age in (_age_told(trail), _age_by_dates(trail)) if age is not None]
    return min(told, default=None)


def _age_told(trail: _Trail) -> float | None:
    """Patient's Age, as it is met: ``014Y``, ``14 Y``, ``14``, German ``014J``, Spanish and French ``014A``."""
    texts = [str(value).strip().upper() for value in trail.values("PatientAge")]
    days = {"D": 1.0, "W": 7.0, "M": 30.44, "Y": 365.25, "J": 365.25, "A": 365.25, "": 365.25}
    ages = []
    for match in (re.fullmatch(r"(\d{1,3}) ?([DWMYJA]?)", text) for text in texts):
        if match and (int(match[1]) > 0 or match[2] in ("D", "W", "M")):  # 000Y stands for "unknown"
            ages.append(int(match[1]) * days[match[2]] / 365.25)
    return min(ages, default=None)


def _age_by_dates(trail: _Trail) -> float | None:
    """From Patient's Birth Date to the first date that tells when the image was taken; dots are of ACR-NEMA times."""
    taken = ("AcquisitionDate", "AcquisitionDateTime", "StudyDate", "SeriesDate", "ContentDate")
    dates = [re.sub(r"[.-]", "", trail.text(keyword))[:8] for keyword in ("PatientBirthDate", *taken)]
    born, later = dates[0], next((date for date in dates[1:] if re.fullmatch(r"\d{8}", date)), "")
    if not later or not re.fullmatch(r"\d{8}", born):
        return None
    years = int(later[:4]) - int(born[:4]) - (later[4:] < born[4:])
    return float(years) if 0 <= years <= _OLDEST else None  # 1900-01-01 and the like stand for "unknown"


def _mentions_chest(trail: _Trail) -> bool:
    keywords = ("BodyPartExamined", "SeriesDescription", "StudyDescription", "ProtocolName")
    return any(CHEST_WORDS.search(plain(trail.text(keyword))) for keyword in keywords)


def _not_frontal(text: str) -> str | None:
    """The word of a plain text that tells of a lateral or oblique view, or of a patient who lies on the side."""
    match = ODD_WORDS.search(text) or LATERAL_WORDS.search(text)
    return match[0] if match else None


def _side(word: str) -> View:
    return FRONTAL_SIDES.get(re.sub(r"[^a-z]", "", word), View.FRONTAL)

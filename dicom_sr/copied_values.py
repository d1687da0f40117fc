"""Values that a result takes over from its image: decoded, and only where the standard allows them.

The rule: a value keeps to its value representation and multiplicity (PS3.5 6.2, 6.4) or is not taken over; an item of a
sequence that lacks what its macro requires falls away, and so does an optional sequence without items.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pydicom import DataElement, Dataset
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName, validate_value

# Value representations whose form archives check.
_CHECKED = frozenset({"AS", "CS", "DA", "DS", "DT", "IS", "LO", "SH", "TM", "UI"})
# Those of one line of text, which holds no control characters.
_LINES = frozenset({"LO", "PN", "SH", "UC", "UR"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Code extensions (PS3.5 6.1.2.5.3) that pydicom leaves standing in decoded text, of ISO 2022 IR 58.
_ESCAPE_SEQUENCE = re.compile(r"\x1b[\x20-\x2f]+[\x30-\x7e]")


@dataclass(frozen=True)
class Macro:
    """What an item of a sequence may say, and what it is nothing without.

    Parameters
    ----------
    copied
        Keywords that are taken over; whatever else an item holds is not.
    needed
        Those of them that each item has to have.
    single
        Whether the sequence has at most one item.
    """

    copied: tuple[str, ...]
    needed: tuple[str, ...] = ()
    single: bool = False


# The basic attributes define a coded entry fully (PS3.3 8.8); `_add_code_value` adds the value to these.
_CODE = Macro(("CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning"), ("CodeMeaning",))
_ONE_CODE = Macro(_CODE.copied, _CODE.needed, single=True)
_CODES = frozenset({_CODE, _ONE_CODE})
# HL7v2 Hierarchic Designator (PS3.3 table 10-17); either identifier will do.
_AUTHORITY = Macro(("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType"), single=True)
# Sequences of patient, study and series, and those within their items.
SEQUENCES = {
    "ProcedureCodeSequence": _CODE,
    "RequestedProcedureCodeSequence": _ONE_CODE,
    "AssigningJurisdictionCodeSequence": _ONE_CODE,
    "AssigningAgencyOrDepartmentCodeSequence": _ONE_CODE,
    "AssigningFacilitySequence": _AUTHORITY,
    "IssuerOfAccessionNumberSequence": _AUTHORITY,
    "IssuerOfPatientIDQualifiersSequence": Macro(  # PS3.3 table 10-18
        ("UniversalEntityID", "UniversalEntityIDType", "IdentifierTypeCode", "AssigningFacilitySequence",
         "AssigningJurisdictionCodeSequence", "AssigningAgencyOrDepartmentCodeSequence"),
        single=True,
    ),
    "OtherPatientIDsSequence": Macro(  # PS3.3 table C.7-1; of which type an identifier is, is not guessed
        ("PatientID", "IssuerOfPatientID", "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence"),
        ("PatientID", "TypeOfPatientID"),
    ),
    "ReferencedStudySequence": Macro(  # PS3.3 table 10-11
        ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"), ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")
    ),
    "RequestAttributesSequence": Macro(  # PS3.3 table 10-9, as far as a document's Referenced Request repeats it
        ("AccessionNumber", "RequestedProcedureID", "RequestedProcedureDescription", "RequestedProcedureCodeSequence",
         "ScheduledProcedureStepID"),
    ),
}  # fmt: skip


def valid_element(source: Dataset, keyword: str, undeclared: bool) -> DataElement | None:
    """An attribute of the source, decoded; None when it is absent or holds what the standard does not allow.

    Parameters
    ----------
    undeclared
        Whether the source declares no character set.
    """
    if keyword not in source:
        return None
    try:
        element = _of_its_own_vr(decoded(source[keyword], undeclared))
        return element if _is_valid(element) else None
    except (ValueError, TypeError, ArithmeticError):  # a number that is none: ``1,75``
        return None


def valid_items(source: Dataset, keyword: str, undeclared: bool) -> list[Dataset]:
    """The items of one of `SEQUENCES` that are complete; none where more than the one that is allowed are left."""
    if keyword not in source or source[keyword].VR != "SQ":
        return []
    macro = SEQUENCES[keyword]
    items = [item for item in (_item(one, macro, undeclared) for one in source[keyword].value) if item is not None]
    return [] if macro.single and len(items) > 1 else items


def decoded(element: DataElement, undeclared: bool) -> DataElement:
    """The same value as Unicode, so that it can be written in another character set."""
    several = isinstance(element.value, MultiValue)
    values = [_text(value, undeclared) for value in (element.value if several else [element.value])]
    return DataElement(element.tag, element.VR, values if several else values[0])


def name_of(element: DataElement, undeclared: bool) -> str:
    """Patient's Name with as much of it as a valid name can hold (PS3.5 6.2.1); a valid one as it is.

    Of several values, which a name does not have, the first that says something: what the backslash between them stood
    for nobody knows, it may be half a character of an undeclared character set. Components beyond the fifth join the
    fifth, for they are part of what the patient is called; groups beyond the third have no meaning.
    """
    several = isinstance(element.value, MultiValue)
    texts = [_text(value, undeclared) for value in (element.value if several else [element.value])]
    name = next((text for text in texts if isinstance(text, str) and text), "")
    return name if _is_name(name) else "=".join(_group(group) for group in _CONTROL.sub(" ", name).split("=")[:3])


def _item(source: Dataset, macro: Macro, undeclared: bool) -> Dataset | None:
    """What may be copied of an item; None when it lacks what it needs, or nothing is left. Nothing in it is empty."""
    item = Dataset()
    for keyword in macro.copied:
        if keyword in SEQUENCES:
            if items := valid_items(source, keyword, undeclared):
                item.add(DataElement(keyword, "SQ", items))
        elif (element := valid_element(source, keyword, undeclared)) is not None and not element.is_empty:
            item.add(element)
    if macro in _CODES and not _add_code_value(item, source, undeclared):
        return None
    if ("UniversalEntityID" in item) != ("UniversalEntityIDType" in item):  # neither is valid alone
        item.pop("UniversalEntityID", None)
        item.pop("UniversalEntityIDType", None)
    return item if len(item) and all(keyword in item for keyword in macro.needed) else None


def _add_code_value(item: Dataset, source: Dataset, undeclared: bool) -> bool:
    """Add the code to an item, in the one of three attributes that it belongs to (PS3.3 table 8.8-1a).

    Returns
    -------
    bool
        Whether it is complete: a code needs its scheme unless it is a URN or URL.
    """
    texts = (_text(source.get(keyword), undeclared) for keyword in ("CodeValue", "LongCodeValue", "URNCodeValue"))
    value = next((text for text in texts if isinstance(text, str) and text), "")
    if not value or _CONTROL.search(value):
        return False
    if re.match(r"(?i)(urn|https?):", value):
        item.URNCodeValue = value
    elif len(value) <= 16:
        item.CodeValue = value
    else:
        item.LongCodeValue = value
    if "CodingSchemeDesignator" in item:
        return True
    item.pop("CodingSchemeVersion", None)
    return "URNCodeValue" in item


def _text(value: object, undeclared: bool) -> object:
    """Text as Unicode; anything else as it is."""
    if isinstance(value, PersonName):
        value = str(value)
    if type(value) is not str:  # numbers are strings too, and are to stay what they are
        return value
    return _ESCAPE_SEQUENCE.sub("", _repaired(value) if undeclared else value)


def _repaired(text: str) -> str:
    """Bytes of no declared character set were read as Latin-1; where they are valid UTF-8, that is what they were."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _of_its_own_vr(element: DataElement) -> DataElement:
    """The element with the value representation of the dictionary (PS3.6), where its value is text or a number.

    Raises
    ------
    ValueError
        When it is something else.
    """
    own = dictionary_VR(element.tag)
    if element.VR in own.split(" or "):
        return element
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    if not all(isinstance(value, str | int | float) for value in values):
        raise ValueError("not text")
    return DataElement(element.tag, own, [str(value) for value in values])


def _is_valid(element: DataElement) -> bool:
    """Whether a value keeps to its value representation and multiplicity, and to the terms that are enumerated."""
    values = [] if element.is_empty else element.value if isinstance(element.value, MultiValue) else [element.value]
    if values and not _may_number(len(values), dictionary_VM(element.tag)):
        return False
    texts = ["" if value is None else str(value) for value in values]
    if element.VR in _LINES and any(_CONTROL.search(text) for text in texts):
        return False
    if element.VR in _CHECKED:
        for text in texts:
            validate_value(element.VR, text, RAISE)
    rules = [_RULES[name] for name in (element.VR, element.keyword) if name in _RULES]
    return all(rule(text) for rule in rules for text in texts if text)


def _may_number(count: int, multiplicity: str) -> bool:
    """Whether `count` values keep to a multiplicity as PS3.6 writes it: ``1``, ``1-3``, ``1-n``, ``2-2n``."""
    least, _, most = multiplicity.partition("-")
    if not most:
        return count == int(least)
    if most.endswith("n"):
        return count >= int(least) and count % int(most[:-1] or 1) == 0
    return int(least) <= count <= int(most)


def _is_date(text: str) -> bool:
    """Whether there is such a day; the form alone allows 31 February."""
    try:
        return bool(re.fullmatch(r"\d{8}", text)) and datetime.strptime(text, "%Y%m%d") is not None
    except ValueError:
        return False


def _is_offset(text: str) -> bool:
    """Hours and minutes from UTC, -1200 to +1400 (PS3.3 C.12.1)."""
    written = re.fullmatch(r"([+-])(\d\d)([0-5]\d)", text)
    return bool(written) and text != "-0000" and -1200 <= int(text) <= 1400


def _is_name(text: str) -> bool:
    """At most three groups, of at most 64 characters and five components each (PS3.5 6.2.1)."""
    groups = text.split("=")
    fits = all(len(group) <= 64 and group.count("^") <= 4 for group in groups)
    return len(groups) <= 3 and fits and not _CONTROL.search(text)


def _group(text: str) -> str:
    """One group of a name with its surplus components in the fifth one."""
    first, rest = text.split("^")[:4], text.split("^")[4:]
    return "^".join([*first, *([" ".join(filter(None, rest))] if rest else [])])[:64]


# What pydicom's check of the form leaves open, by value representation or keyword; of a text that is not empty.
_RULES: dict[str, Callable[[str], bool]] = {
    "DA": _is_date,
    "TM": lambda text: "-" not in text,  # a range is for queries
    "PN": _is_name,
    "TimezoneOffsetFromUTC": _is_offset,
    "PatientSex": lambda text: text in ("M", "F", "O"),
}

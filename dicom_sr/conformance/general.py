"""Rules for every DICOM object: values that their representation allows, UIDs, character set, time zone.

The rule: a value is judged as PS3.5 6.2 describes it, whoever wrote the object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

from pydicom import DataElement, Dataset
from pydicom.charset import python_encoding
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VM
from pydicom.valuerep import validate_value

from dicom_sr.conformance.tree import Violation, elements, items, listed, text

_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
# Representations whose form pydicom knows (PS3.5 table 6.2-1). PN is not among them: names are copied as they are.
_FORMED = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "SH", "TM", "UR"})
_TEXTS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_JUDGED = _FORMED | _TEXTS | {"UI", "FD", "FL", "SL", "SS", "UL", "US"}
# Copied from the image exactly, whatever their length (IHE AIR 6.5.3).
_COPIED = frozenset({"PatientID", "PatientName", "OtherPatientIDs", "AccessionNumber"})
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality")
_REPLACEMENT = "�"


def check_general(ds: Dataset) -> Iterator[Violation]:
    """Judge the values of a decoded data set."""
    for keyword in _REQUIRED:
        if not text(ds, keyword):
            yield Violation("PS3.3 C.12.1", keyword, "absent or empty")
    beyond_ascii = False
    for path, element in elements(ds):
        yield from _value_violations(path, element)
        if element.VR in _TEXTS:
            beyond_ascii = beyond_ascii or not _joined(element).isascii()
    yield from _character_set(ds, beyond_ascii)
    yield from _time_zone(ds)


def check_uid(value: str) -> str:
    """What is wrong with a UID; empty when nothing is (PS3.5 9.1)."""
    if len(value) > 64:
        return f"{len(value)} characters, of which 64 are allowed"
    return "" if _UID.fullmatch(value) else "not digits in components without leading zeros"


def _value_violations(path: str, element: DataElement) -> Iterator[Violation]:
    if element.VR not in _JUDGED:
        return
    values = listed(element.value)
    if len(values) > 1 and element.tag.is_private is False and _single(element):
        yield Violation("PS3.6 6", path, f"{len(values)} values, of which one is allowed")
    for value in values:
        written = "" if value is None else _as_written(value)
        if element.VR == "UI" and written and (wrong := check_uid(written)):
            yield Violation("PS3.5 9.1", path, f"UID {written[:80]}: {wrong}")
        if element.VR in _TEXTS and _REPLACEMENT in written:
            yield Violation("PS3.5 6.1.2", path, "holds bytes that its character set does not have")
        if element.VR in _FORMED and element.keyword not in _COPIED and not well_formed(element.VR, written):
            yield Violation("PS3.5 6.2", path, f"the value is not a valid {element.VR}")


def well_formed(vr: str, value: str) -> bool:
    """Whether a value is one of its representation (PS3.5 6.2); days must exist."""
    try:
        validate_value(vr, value, RAISE)
        if vr in ("DA", "DT") and len(value) >= 8:
            date(int(value[:4]), int(value[4:6]), int(value[6:8]))
    except ValueError:
        return False
    return True


def _character_set(ds: Dataset, beyond_ascii: bool) -> Iterator[Violation]:
    declared = [name for name in text(ds, "SpecificCharacterSet").split("\\") if name]
    for name in declared:
        if name not in python_encoding:
            yield Violation("PS3.3 C.12.1.1.2", "SpecificCharacterSet", f"{name[:16]} is not a defined term")
    if beyond_ascii and not declared:
        message = "absent, though there are characters beyond ASCII"
        yield Violation("PS3.3 C.12.1.1.2", "SpecificCharacterSet", message)


def _time_zone(ds: Dataset) -> Iterator[Violation]:
    """The offset lies between -1200 and +1400, and zero is +0000 (PS3.3 C.12.1.1.8)."""
    offset = text(ds, "TimezoneOffsetFromUTC")
    if not offset:
        return
    formed = re.fullmatch(r"([+-])(\d\d)([0-5]\d)", offset)
    minutes = int(formed[2]) * 60 + int(formed[3]) if formed else 0
    if not formed or minutes > (840 if formed[1] == "+" else 720) or offset == "-0000":
        yield Violation("PS3.3 C.12.1.1.8", "TimezoneOffsetFromUTC", "not an offset such as +0100")


def check_contributing_equipment(ds: Dataset) -> Iterator[Violation]:
    """Each item has a purpose and a manufacturer (PS3.3 table C.12-1, type 1)."""
    for n, item in enumerate(items(ds, "ContributingEquipmentSequence"), start=1):
        where = f"ContributingEquipmentSequence[{n}]"
        for keyword in ("PurposeOfReferenceCodeSequence", "Manufacturer"):
            if not (items(item, keyword) or text(item, keyword)):
                yield Violation("PS3.3 C.12.1", f"{where}.{keyword}", "absent or empty")


def _single(element: DataElement) -> bool:
    try:
        return dictionary_VM(element.tag) == "1"
    except KeyError:
        return False


def _as_written(value: object) -> str:
    original = getattr(value, "original_string", None)
    return original if isinstance(original, str) else str(value)


def _joined(element: DataElement) -> str:
    return "".join(str(value or "") for value in listed(element.value))

"""What our own results must keep besides the standard: the *shall*s of IHE AI Results (AIR Rev 1.3), and our identity.

The rule: an AI result is known as one. A device observes, no person is named as author, it is preliminary and
unverified, and each algorithm is a Contributing Equipment item that says exactly which one it was.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from pydicom import Dataset

from dicom_sr.conformance.coding import check_own_codes, context_group, is_private, used_schemes
from dicom_sr.conformance.content import KEY_OBJECTS
from dicom_sr.conformance.tree import Node, Violation, concept, elements, items, listed, numbers, text
from dicom_sr.ownership import MANUFACTURER

_OUR_SCHEME = "99HILUM"
_PROCESSING = ("109102", "DCM")
_NOT_READ = ("NOTREAD", _OUR_SCHEME)
_FLAGS = {"CompletionFlag": "COMPLETE", "VerificationFlag": "UNVERIFIED", "PreliminaryFlag": "PRELIMINARY"}
# Who made, read or verified something: never filled in by a machine.
_PERSONS = ("OperatorsName", "PerformingPhysicianName", "ContentCreatorName", "NameOfPhysiciansReadingStudy",
            "PhysiciansOfRecord", "VerifyingObserverName", "PersonName")  # fmt: skip
# Concepts whose values we take from a context group, and whether ours may add to it.
_CONTEXT = {
    ("111031", "DCM"): (4010, False),  # Image View
    ("111017", "DCM"): (6047, False),  # CAD Processing and Findings Summary
    ("260870009", "SCT"): (7035, True),  # Priority
}


def is_ours(ds: Dataset) -> bool:
    """Whether an object is held to these rules."""
    return text(ds, "Manufacturer") == MANUFACTURER


def check_header(ds: Dataset) -> Iterator[Violation]:
    """What every result of ours carries, whatever its kind."""
    number = numbers(ds, "SeriesNumber")
    if not number or number[0] <= 9000:
        yield Violation("Hilum identity", "SeriesNumber", "not above 9000")
    if not text(ds, "SeriesDescription").startswith("AI "):
        yield Violation("Hilum identity", "SeriesDescription", 'does not start with "AI "')
    if text(ds, "SpecificCharacterSet") != "ISO_IR 192":
        yield Violation("Hilum identity", "SpecificCharacterSet", "not ISO_IR 192")
    for keyword in _PERSONS:
        if text(ds, keyword):
            yield Violation("AIR 6.5.3.1", keyword, "names a person; the author is a device")
    yield from _equipment(ds)
    yield from _schemes(ds)
    yield from check_own_codes(ds)


def check_document(ds: Dataset, root: Node) -> Iterator[Violation]:
    """What every document of ours says about its state and its author."""
    if text(ds, "SOPClassUID") != KEY_OBJECTS:
        for keyword, value in _FLAGS.items():
            if text(ds, keyword) != value:
                yield Violation("AIR 6.5.3.1", keyword, f"not {value}")
    if items(ds, "VerifyingObserverSequence"):
        yield Violation("AIR 6.5.3.1", "VerifyingObserverSequence", "present, though nobody has verified it")
    for author in items(ds, "AuthorObserverSequence"):
        if text(author, "ObserverType") != "DEV" or text(author, "PersonName"):
            yield Violation("AIR 6.5.3.1", "AuthorObserverSequence", "an author who is not a device")
    yield from _observer(ds, root)
    for node in root.walk():
        if node.value_type == "PNAME":
            yield Violation("AIR 6.5.3.1", node.path, "names a person; the author is a device")
        yield from _algorithm(ds, node)
        yield from _context(node)
        yield from _repeated(node)


def processing_equipment(ds: Dataset) -> tuple[Dataset, ...]:
    """The Contributing Equipment items with the purpose (109102, DCM, Processing Equipment)."""
    contributed = items(ds, "ContributingEquipmentSequence")
    return tuple(i for i in contributed if concept(i, "PurposeOfReferenceCodeSequence").key == _PROCESSING)


def _equipment(ds: Dataset) -> Iterator[Violation]:
    """Each algorithm with manufacturer, model name, version and a Device UID of its own."""
    where, devices = "ContributingEquipmentSequence", processing_equipment(ds)
    if not devices:
        yield Violation("AIR 6.5.3.1", where, "no item with the purpose (109102, DCM, Processing Equipment)")
    for item in devices:
        for keyword in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceUID"):
            if not text(item, keyword):
                yield Violation("AIR 6.5.3.1", f"{where}.{keyword}", "absent or empty")
    if len({text(item, "DeviceUID") for item in devices}) < len(devices):
        yield Violation("AIR 6.5.3.1", f"{where}.DeviceUID", "two items have the same Device UID")
    for item in items(ds, where):
        for path, element in elements(item):
            if element.VR == "PN" and any(str(value or "") for value in listed(element.value)):
                yield Violation("AIR 6.5.3.1", f"{where}.{path}", "names a person; only devices contributed")


def _schemes(ds: Dataset) -> Iterator[Violation]:
    """Every scheme but DCM is identified, and ours named, versioned and answered for (PS3.3 C.12.1)."""
    identified = {text(i, "CodingSchemeDesignator"): i for i in items(ds, "CodingSchemeIdentificationSequence")}
    for scheme, versions in sorted(used_schemes(ds).items()):
        where = "CodingSchemeIdentificationSequence"
        item = identified.get(scheme)
        if item is None:
            if scheme != "DCM":
                yield Violation("PS3.3 C.12.1", where, f"codes of {scheme} are used, which no item identifies")
            continue
        if scheme != _OUR_SCHEME:
            continue  # what a site means by the codes of its images, only the site knows
        for keyword in ("CodingSchemeName", "CodingSchemeResponsibleOrganization", "CodingSchemeVersion"):
            if not text(item, keyword):
                yield Violation("PS3.3 C.12.1", f"{where}.{keyword}", f"absent for the private scheme {scheme}")
        if versions != {text(item, "CodingSchemeVersion")}:
            stated = ", ".join(sorted(version or "none" for version in versions))
            yield Violation("PS3.3 8.2", where, f"codes of {scheme} are of version {stated}")


def _observer(ds: Dataset, root: Node) -> Iterator[Violation]:
    types = root.named("121005")
    if not any(item.value.key == ("121007", "DCM") for item in types):
        yield Violation("AIR 6.5.3.1", root.path, "no Observer Type (121007, DCM, Device)")
    devices = {text(item, "DeviceUID") for item in processing_equipment(ds)}
    observers = root.named("121012")
    if not observers:
        yield Violation("PS3.16 TID 1004 row 1", root.path, "no Device Observer UID")
    for uid in observers:
        if text(uid.ds, "UID") not in devices:
            yield Violation("AIR 6.5.3.1", uid.path, "Device Observer UID is the Device UID of no Processing Equipment")


def _algorithm(ds: Dataset, node: Node) -> Iterator[Violation]:
    """TID 4019 agrees with Contributing Equipment."""
    names, versions = node.named("111001"), node.named("111003")
    if not names or not versions:
        return
    equipment = {(text(i, "ManufacturerModelName"), text(i, "SoftwareVersions")) for i in processing_equipment(ds)}
    stated = text(names[0].ds, "TextValue"), text(versions[0].ds, "TextValue")
    if stated not in equipment:
        message = f"algorithm {stated[0]} {stated[1]} is no Contributing Equipment item"
        yield Violation("AIR 6.5.3.1", names[0].path, message)


def _context(node: Node) -> Iterator[Violation]:
    if node.value_type == "CODE" and node.name.key in _CONTEXT:
        group, extended = _CONTEXT[node.name.key]
        if node.value.key not in context_group(group) and not (extended and is_private(node.value.scheme)):
            yield Violation(f"PS3.16 CID {group}", node.path, f"{node.value} is not of CID {group}")


def _repeated(node: Node) -> Iterator[Violation]:
    seen: set[Hashable] = set()
    for child in node.children:
        if child.relationship == "HAS OBS CONTEXT" or child.name.key == _NOT_READ:
            continue  # two observers may well have one manufacturer, and two images one reason not to be read
        key = _identity(child)
        if key in seen:
            yield Violation("Hilum identity", child.path, f"{child.value_type} {child.name} says the same twice")
        seen.add(key)


def _identity(node: Node) -> Hashable:
    """Everything that a content item says, for comparison."""
    said = [text(node.ds, keyword) for keyword in ("TextValue", "UID", "Date", "Time", "DateTime", "GraphicData")]
    measured = [text(m, "NumericValue") for m in items(node.ds, "MeasuredValueSequence")]
    referred = [
        (text(r, "ReferencedSOPInstanceUID"), text(r, "ReferencedSegmentNumber"), text(r, "ReferencedFrameNumber"))
        for r in node.references
    ]
    below = tuple(_identity(child) for child in node.children)
    return node.relationship, node.value_type, node.name.key, node.value.key, *said, *measured, *referred, below

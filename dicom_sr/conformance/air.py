"""What our own results must keep besides the standard: the *shall*s of IHE AI Results (AIR Rev 1.3), and our identity.

The rule: an AI result is known as one. A device observes, no person is named as author, it is preliminary and
unverified, and each algorithm is a Contributing Equipment item that says exactly which one it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator

from pydicom import Dataset

from dicom_sr.conformance.coding import context_group, is_private, used_schemes
from dicom_sr.conformance.content import KEY_OBJECTS
from dicom_sr.conformance.tree import Node, Violation, concept, items, numbers, text
from dicom_sr.ownership import MANUFACTURER

_OUR_SCHEME = "99HILUM"
_PROCESSING = ("109102", "DCM")
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
_PRESENT, _ABSENT, _UNDETERMINED = ("52101004", "SCT"), ("272519000", "SCT"), ("373068000", "SCT")
_EVALUATED = frozenset({_PRESENT, _ABSENT, _UNDETERMINED})
_UNEVALUATED = frozenset({("NOTEVALUATED", "99HILUM"), ("FAILED", "99HILUM")})
_STATES = _EVALUATED | _UNEVALUATED
# What a CODE of a group may be besides the state of a finding.
_NO_STATE = frozenset({"121071", "276214006", "130400", "REASON", "CAUTION"})
_WITH_FINDINGS, _WITHOUT_FINDINGS = {"111242", "111244"}, {"111241", "111243", "111245"}


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


def check_report(root: Node) -> Iterator[Violation]:
    """What a measurement report of ours says: procedure, tracked groups, one state for each finding, a summary."""
    if not root.named("121058"):
        yield Violation("AIR 6.5.3.1", root.path, "no Procedure Reported (121058, DCM)")
    groups = [node for node in root.walk() if node.name.key == ("125007", "DCM")]
    tracking = Counter(text(uid.ds, "UID") for group in groups for uid in group.named("112040"))
    for group in groups:
        for name in ("112039", "112040"):
            if not group.named(name):
                yield Violation("AIR 6.5.3", group.path, f"Measurement Group without ({name}, DCM)")
        for uid in group.named("112040"):
            if tracking[text(uid.ds, "UID")] > 1:
                yield Violation("Hilum identity", uid.path, "another group has the same Tracking Unique Identifier")
        yield from _state(group)
    yield from _summary(root, groups)


def processing_equipment(ds: Dataset) -> tuple[Dataset, ...]:
    """The Contributing Equipment items with the purpose (109102, DCM, Processing Equipment)."""
    listed = items(ds, "ContributingEquipmentSequence")
    return tuple(i for i in listed if concept(i, "PurposeOfReferenceCodeSequence").key == _PROCESSING)


def _equipment(ds: Dataset) -> Iterator[Violation]:
    """Each algorithm with manufacturer, model name, version and a Device UID of its own."""
    where, listed = "ContributingEquipmentSequence", processing_equipment(ds)
    if not listed:
        yield Violation("AIR 6.5.3.1", where, "no item with the purpose (109102, DCM, Processing Equipment)")
    for item in listed:
        for keyword in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceUID"):
            if not text(item, keyword):
                yield Violation("AIR 6.5.3.1", f"{where}.{keyword}", "absent or empty")
    if len({text(item, "DeviceUID") for item in listed}) < len(listed):
        yield Violation("AIR 6.5.3.1", f"{where}.DeviceUID", "two items have the same Device UID")


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
        if child.relationship == "HAS OBS CONTEXT":
            continue  # two observers may well have one manufacturer
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


def _state(group: Node) -> Iterator[Violation]:
    """A finding has one state; only a present one has a Finding item; only an evaluated one has a certainty."""
    coded = [c for c in group.children if c.value_type == "CODE" and c.relationship == "CONTAINS"]
    states = [c for c in coded if c.name.value not in _NO_STATE]
    for item in states:
        if item.value.key not in _STATES:
            yield Violation("PS3.16 CID 240", item.path, f"{item.value} is not the state of a finding")
    if len(states) > 1:
        yield Violation("Hilum states", states[1].path, "a group with the states of two findings")
    if len(states) != 1 or states[0].value.key not in _STATES:
        return
    state, findings = states[0].value.key, group.named("121071")
    if state != _PRESENT and findings:
        yield Violation(
            "Hilum states", findings[0].path, "a finding that is not present has a Finding item (121071, DCM)"
        )
    if state == _PRESENT and [f.value.key for f in findings] != [states[0].name.key]:
        yield Violation("Hilum states", group.path, "a present finding lacks its own Finding item (121071, DCM)")
    if (state in _EVALUATED) != bool(group.named("111012")):
        yield Violation("Hilum states", group.path, "evaluated without certainty, or a certainty without evaluation")
    if state in _UNEVALUATED and not group.named("REASON"):
        yield Violation("Hilum states", group.path, "not evaluated, and no reason given")
    yield from _threshold(group, state)


def _threshold(group: Node, state: tuple[str, str]) -> Iterator[Violation]:
    """The state is what the certainty and the threshold say; both in percent."""
    certainty, threshold = (_percent(group, name) for name in ("111012", "THRESHOLD"))
    if threshold is not None and not 0 <= threshold <= 100:
        yield Violation("Hilum states", group.path, f"a threshold of {threshold} %")
    if certainty is None or threshold is None:
        return
    contradicts = certainty < threshold - 1e-4 if state == _PRESENT else certainty > threshold + 1e-4
    if contradicts and state in (_PRESENT, _ABSENT):
        yield Violation(
            "Hilum states", group.path, f"the state contradicts {certainty} % at a threshold of {threshold} %"
        )


def _percent(group: Node, name: str) -> float | None:
    for item in group.named(name):
        for measured in items(item.ds, "MeasuredValueSequence"):
            if concept(measured, "MeasurementUnitsCodeSequence").key == ("%", "UCUM"):
                return next(iter(numbers(measured, "NumericValue")), None)
    return None


def _summary(root: Node, groups: list[Node]) -> Iterator[Violation]:
    """One run summary, which agrees with the states."""
    summaries = [node for node in root.walk() if node.name.key == ("111017", "DCM")]
    if len(summaries) != 1:
        yield Violation("PS3.16 CID 6047", root.path, f"{len(summaries)} summaries of the run instead of one")
        return
    present = any(c.value.key == _PRESENT for group in groups for c in group.children if c.value_type == "CODE")
    if summaries[0].value.value in (_WITHOUT_FINDINGS if present else _WITH_FINDINGS):
        yield Violation(
            "PS3.16 CID 6047", summaries[0].path, f"{summaries[0].value} contradicts the states of the findings"
        )

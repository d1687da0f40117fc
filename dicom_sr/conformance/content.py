"""Rules for the content tree of any Structured Report: which item may stand below which, and what each must hold.

The rule: the relationships are those of the IOD (PS3.3 A.35.x tables), and every instance that the tree refers to is in
the evidence of the document (PS3.3 C.17.2).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from pydicom import Dataset

from dicom_sr.conformance.coding import context_group
from dicom_sr.conformance.general import check_uid
from dicom_sr.conformance.tree import MAX_DEPTH, Node, Violation, class_name, concept, items, numbers, text

BASIC_TEXT = "1.2.840.10008.5.1.4.1.1.88.11"
ENHANCED = "1.2.840.10008.5.1.4.1.1.88.22"
COMPREHENSIVE = "1.2.840.10008.5.1.4.1.1.88.33"
COMPREHENSIVE_3D = "1.2.840.10008.5.1.4.1.1.88.34"
KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"
DOCUMENTS = frozenset({BASIC_TEXT, ENHANCED, COMPREHENSIVE, COMPREHENSIVE_3D, KEY_OBJECTS})
EVIDENCE = ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")

_PLAIN = {"TEXT", "CODE", "DATETIME", "DATE", "TIME", "UIDREF", "PNAME"}
_OBJECTS = {"COMPOSITE", "IMAGE", "WAVEFORM"}
_COORDINATES = {"SCOORD", "SCOORD3D", "TCOORD"}
_MEASURED = {"TEXT", "CODE", "NUM"}
_Table = tuple[tuple[set[str], str, set[str]], ...]
_PERSON = ({"PNAME"}, "HAS PROPERTIES", _PLAIN)


def _measuring(coordinates: set[str], contained: set[str]) -> _Table:
    """PS3.3 tables A.35.2-2, A.35.3-2 and A.35.13-2, which differ in coordinates and containers."""
    anything = _PLAIN | {"NUM"} | _OBJECTS | coordinates | contained
    observed = _PLAIN | {"NUM", "COMPOSITE"}
    return (
        ({"CONTAINER"}, "CONTAINS", _PLAIN | {"NUM", "CONTAINER"} | _OBJECTS | coordinates),
        ({"CONTAINER"}, "HAS OBS CONTEXT", observed | {"CONTAINER"}),
        (_MEASURED if contained else set(), "HAS OBS CONTEXT", observed),
        ({"CONTAINER", "NUM"} | _OBJECTS, "HAS ACQ CONTEXT", _PLAIN | {"NUM"} | contained),
        (set(), "HAS CONCEPT MOD", {"TEXT", "CODE"}),
        (_MEASURED, "HAS PROPERTIES", anything),
        _PERSON,
        (_MEASURED, "INFERRED FROM", anything),
        ({"SCOORD"}, "SELECTED FROM", {"IMAGE"}),
        ({"TCOORD"}, "SELECTED FROM", {"IMAGE", "WAVEFORM"} | (coordinates - {"TCOORD"})),
    )


# Sources, relationship, targets; HAS CONCEPT MOD may have any source.
_RELATIONSHIPS: dict[str, tuple[str, _Table]] = {
    BASIC_TEXT: ("PS3.3 A.35.1.3.1.2", (
        ({"CONTAINER"}, "CONTAINS", _PLAIN | _OBJECTS | {"CONTAINER"}),
        ({"CONTAINER"}, "HAS OBS CONTEXT", _PLAIN | {"COMPOSITE", "CONTAINER"}),
        ({"CONTAINER"} | _OBJECTS, "HAS ACQ CONTEXT", _PLAIN),
        (set(), "HAS CONCEPT MOD", {"TEXT", "CODE"}),
        ({"TEXT"}, "HAS PROPERTIES", _PLAIN | _OBJECTS),
        _PERSON,
        ({"TEXT"}, "INFERRED FROM", _PLAIN | _OBJECTS),
    )),
    ENHANCED: ("PS3.3 A.35.2.3.1.2", _measuring({"SCOORD", "TCOORD"}, set())),
    COMPREHENSIVE: ("PS3.3 A.35.3.3.1.2", _measuring({"SCOORD", "TCOORD"}, {"CONTAINER"})),
    COMPREHENSIVE_3D: ("PS3.3 A.35.13.3.1.2", _measuring(_COORDINATES, {"CONTAINER"})),
    KEY_OBJECTS: ("PS3.3 A.35.4.3.1.2", (
        ({"CONTAINER"}, "CONTAINS", {"TEXT", "CONTAINER"} | _OBJECTS),
        ({"CONTAINER"}, "HAS OBS CONTEXT", {"TEXT", "CODE", "UIDREF", "PNAME", "CONTAINER"}),
        ({"CONTAINER"}, "HAS CONCEPT MOD", {"CODE"}),
    )),
}  # fmt: skip
# Context groups of lengths, areas and volumes.
_EXTENTS = (7470, 7471, 7472)
_BY_REFERENCE = frozenset({COMPREHENSIVE, COMPREHENSIVE_3D})
# What each value type must hold (PS3.3 C.17.3 and C.18).
_VALUE = {
    "TEXT": "TextValue", "CODE": "ConceptCodeSequence", "DATETIME": "DateTime", "DATE": "Date", "TIME": "Time",
    "UIDREF": "UID", "PNAME": "PersonName", "COMPOSITE": "ReferencedSOPSequence", "IMAGE": "ReferencedSOPSequence",
    "WAVEFORM": "ReferencedSOPSequence", "SCOORD": "GraphicType", "SCOORD3D": "GraphicType", "CONTAINER":
    "ContinuityOfContent", "TCOORD": "TemporalRangeType", "NUM": "ConceptNameCodeSequence",
}  # fmt: skip
_UNNAMED = frozenset({"IMAGE", "COMPOSITE", "WAVEFORM", "CONTAINER", "SCOORD", "SCOORD3D", "TCOORD"})
# Fewest and most points of a graphic (PS3.3 C.18.6.1.2).
_POINTS = {"POINT": (1, 1), "MULTIPOINT": (1, 0), "POLYLINE": (2, 0), "CIRCLE": (2, 2), "ELLIPSE": (4, 4)}


def check_content(root: Node, ds: Dataset) -> Iterator[Violation]:
    """Judge the content tree of a document by its IOD, and its evidence."""
    sop_class = text(ds, "SOPClassUID")
    if root.value_type != "CONTAINER" or root.relationship:
        yield Violation("PS3.3 C.17.3", root.path, "the root is not a CONTAINER without relationship")
    if not root.name.value:
        yield Violation("PS3.3 C.17.3", root.path, "the document has no title")
    for node in root.walk():
        if node.path.count(".") >= MAX_DEPTH:
            yield Violation("PS3.3 C.17.3", node.path, f"nested more than {MAX_DEPTH} deep")
        for child in node.children:
            yield from _relationship(node, child, sop_class)
        yield from _value(node)
        if node.value_type == "NUM":
            yield from _number(node)
        elif node.value_type == "SCOORD" and not node.by_reference:
            yield from _graphic(node)
        elif node.value_type in _OBJECTS:
            yield from _reference(node)
    yield from _loops(root, sop_class)
    yield from points_outside(root, image_sizes(root))
    yield from _evidence(root, ds)


def evidence_references(ds: Dataset) -> Iterator[tuple[str, str, str, str, str]]:
    """Keyword, study, series, SOP class and SOP instance of everything that the evidence lists."""
    for keyword in EVIDENCE:
        for study in items(ds, keyword):
            for series in items(study, "ReferencedSeriesSequence"):
                for instance in items(series, "ReferencedSOPSequence"):
                    yield (
                        keyword,
                        text(study, "StudyInstanceUID"),
                        text(series, "SeriesInstanceUID"),
                        text(instance, "ReferencedSOPClassUID"),
                        text(instance, "ReferencedSOPInstanceUID"),
                    )


def image_sizes(root: Node) -> dict[str, tuple[float, float]]:
    """Columns and rows of each image that the image library describes (PS3.16 TID 1602 rows 11 and 12)."""
    sizes = {}
    for node in root.walk():
        rows, columns = _measured(node, "110910"), _measured(node, "110911")
        if node.value_type == "IMAGE" and rows is not None and columns is not None:
            for reference in node.references:
                sizes[text(reference, "ReferencedSOPInstanceUID")] = (columns, rows)
    return sizes


def points_outside(root: Node, sizes: Mapping[str, tuple[float, float]]) -> Iterator[Violation]:
    """No point of a graphic lies outside its image, nor above or left of one whose size is unknown.

    Parameters
    ----------
    sizes
        Columns and rows of an image by its SOP Instance UID (PS3.3 C.18.6.1.2).
    """
    for node in root.walk():
        if node.value_type != "SCOORD" or node.by_reference:
            continue
        data = numbers(node.ds, "GraphicData")
        for reference in (reference for image in _selected(node) for reference in image.references):
            columns, rows = sizes.get(text(reference, "ReferencedSOPInstanceUID"), (math.inf, math.inf))
            if any(not 0 <= x <= columns for x in data[::2]) or any(not 0 <= y <= rows for y in data[1::2]):
                where = f"outside the {columns:.0f} x {rows:.0f} image"
                yield Violation("PS3.3 C.18.6.1.2", node.path, f"a point lies {where}")


def _selected(node: Node) -> list[Node]:
    return [c for c in node.children if c.relationship == "SELECTED FROM" and c.value_type == "IMAGE"]


def _loops(root: Node, sop_class: str) -> Iterator[Violation]:
    """No path through the tree and its references comes back to where it was (PS3.3 A.35.3.3.1.2)."""
    nodes = {node.path: node for node in root.walk()}
    rule = _RELATIONSHIPS.get(sop_class, ("PS3.3 C.17.3.2.5", ()))[0]
    open_paths, done = {root.path}, set[str]()
    stack = [(root.path, iter(_next(root)))]
    while stack:
        path, following = stack[-1]
        step = next(following, None)
        if step is None:
            stack.pop()
            open_paths.discard(path)
            done.add(path)
        elif step in open_paths:
            yield Violation(rule, path, f"refers back to {step}, which leads here")
        elif step in nodes and step not in done:
            open_paths.add(step)
            stack.append((step, iter(_next(nodes[step]))))


def _next(node: Node) -> list[str]:
    return [node.refers_to] if node.by_reference else [child.path for child in node.children]


def _relationship(parent: Node, child: Node, sop_class: str) -> Iterator[Violation]:
    rule, table = _RELATIONSHIPS.get(sop_class, ("", ()))
    if not rule:
        return
    if child.by_reference and sop_class not in _BY_REFERENCE:
        yield Violation(rule, child.path, "refers to another item, which this kind of document does not allow")
    elif child.by_reference and not child.value_type:
        yield Violation("PS3.3 C.17.3.2.5", child.path, "refers to an item that does not exist")
    allowed = any(
        relationship == child.relationship
        and (parent.value_type in sources or relationship == "HAS CONCEPT MOD")
        and child.value_type in targets
        for sources, relationship, targets in table
    )
    if not allowed:
        message = f"{parent.value_type} {child.relationship or 'without relationship'} {child.value_type or 'nothing'}"
        yield Violation(rule, child.path, f"{message} is not a relationship of {class_name(sop_class)}")


def _value(node: Node) -> Iterator[Violation]:
    needed = _VALUE.get(node.value_type)
    if node.value_type and needed is None:
        yield Violation("PS3.3 C.17.3.2.1", node.path, f"{node.value_type} is not a value type")
    elif needed and not (items(node.ds, needed) or text(node.ds, needed)):
        yield Violation("PS3.3 C.17.3", node.path, f"{node.value_type} without {needed}")
    if node.value_type and not node.name.value and node.value_type not in _UNNAMED:
        yield Violation("PS3.3 C.17.3", node.path, f"{node.value_type} without Concept Name")
    if node.value_type == "UIDREF" and (wrong := check_uid(text(node.ds, "UID"))):
        yield Violation("PS3.5 9.1", node.path, wrong)


def _number(node: Node) -> Iterator[Violation]:
    """PS3.3 C.18.1: one measured value with a UCUM unit, or none and the reason why."""
    measured = items(node.ds, "MeasuredValueSequence")
    if not measured:
        if not items(node.ds, "NumericValueQualifierCodeSequence"):
            yield Violation("PS3.3 C.18.1", node.path, "NUM without value and without Numeric Value Qualifier")
        return
    value, unit = numbers(measured[0], "NumericValue"), concept(measured[0], "MeasurementUnitsCodeSequence")
    if len(measured) > 1 or len(value) != 1:
        yield Violation("PS3.3 C.18.1", node.path, f"{len(measured)} measured values, {len(value)} numbers")
        return
    if unit.scheme != "UCUM":
        yield Violation("PS3.3 C.18.1", node.path, f"the unit {unit} is not of UCUM (CID 82)")
    elif not _is_written_as_unit(unit.value):
        yield Violation("UCUM 2.1", node.path, f"{unit} is not written as a unit")
    for group in _EXTENTS:
        if value[0] < 0 and node.name.key in context_group(group):
            yield Violation(f"PS3.16 CID {group}", node.path, f"{node.name} is negative")
    exact = numbers(measured[0], "FloatingPointValue")
    if exact and not math.isclose(exact[0], value[0], rel_tol=1e-6, abs_tol=1e-6):
        yield Violation("PS3.3 C.18.1", node.path, f"Floating Point Value {exact[0]} disagrees with {value[0]}")
    if not math.isfinite(value[0]) or (exact and not math.isfinite(exact[0])):
        yield Violation("PS3.3 C.18.1", node.path, "the value is not a finite number")
    if node.name.key == ("111012", "DCM") and unit.key == ("%", "UCUM") and not 0 <= value[0] <= 100:
        yield Violation("PS3.16 D 111012", node.path, f"a certainty of {value[0]} %")


def _graphic(node: Node) -> Iterator[Violation]:
    """PS3.3 C.18.6.1.2: as many points as the type has."""
    kind, data = text(node.ds, "GraphicType"), numbers(node.ds, "GraphicData")
    fewest, most = _POINTS.get(kind, (1, 0))
    if kind not in _POINTS:
        yield Violation("PS3.3 C.18.6.1.2", node.path, f"{kind or 'nothing'} is not a Graphic Type")
    if len(data) % 2 or len(data) < 2 * fewest or (most and len(data) > 2 * most):
        yield Violation("PS3.3 C.18.6.1.2", node.path, f"{kind} with {len(data)} coordinates")
    if not _selected(node):
        yield Violation("PS3.3 C.18.6", node.path, "SCOORD is SELECTED FROM no IMAGE")


def _reference(node: Node) -> Iterator[Violation]:
    """PS3.3 table 10-3: one instance; a frame or a segment of it, not both."""
    if len(node.references) != 1:
        yield Violation("PS3.3 C.18.3", node.path, f"{node.value_type} refers to {len(node.references)} instances")
    for reference in node.references:
        if "ReferencedFrameNumber" in reference and "ReferencedSegmentNumber" in reference:
            message = "Referenced Frame Number and Referenced Segment Number exclude each other"
            yield Violation("PS3.3 10.3", node.path, message)


def _is_written_as_unit(unit: str) -> bool:
    """Printable ASCII without blanks, with brackets in pairs (UCUM 2.1); whether the unit exists, is not asked."""
    bare = re.sub(r"\{[!-z|~]*\}|\[[!-Z^-~]*\]", "1", unit)
    if not re.fullmatch(r"[!-~]+", unit) or re.search(r"[\[\]{}]", bare):
        return False
    return bare.count("(") == bare.count(")")


def _measured(node: Node, name: str) -> float | None:
    for child in node.named(name):
        for measured in items(child.ds, "MeasuredValueSequence"):
            for value in numbers(measured, "NumericValue"):
                return value
    return None


def _evidence(root: Node, ds: Dataset) -> Iterator[Violation]:
    """PS3.3 C.17.2.3: everything that the tree refers to, once, with its class, its series and its study."""
    listed = list(evidence_references(ds))
    classes = {instance: sop_class for _keyword, _study, _series, sop_class, instance in listed}
    for instance, count in Counter(instance for *_, instance in listed).items():
        if count > 1:
            yield Violation("PS3.3 C.17.2.3", EVIDENCE[0], f"{instance} is listed {count} times")
    for keyword, study, series, sop_class, instance in listed:
        if not (study and series and sop_class and instance):
            yield Violation("PS3.3 C.17.2.3", keyword, f"{instance or 'an instance'} without study, series or class")
    for node in root.walk():
        for reference in node.references if node.value_type in _OBJECTS else ():
            instance, sop_class = text(reference, "ReferencedSOPInstanceUID"), text(reference, "ReferencedSOPClassUID")
            if instance not in classes:
                yield Violation("PS3.3 C.17.2.3", node.path, f"{instance} is not among the evidence")
            elif classes[instance] != sop_class:
                message = f"{instance} is a {class_name(classes[instance])} among the evidence"
                yield Violation("PS3.3 C.17.2.3", node.path, f"{message}, here a {class_name(sop_class)}")


def check_predecessors(ds: Dataset) -> Iterator[Violation]:
    """PS3.3 C.17.2: a predecessor has its purpose (CID 7009), is a document and is not the document itself."""
    for study in items(ds, "PredecessorDocumentsSequence"):
        for series in items(study, "ReferencedSeriesSequence"):
            for document in items(series, "ReferencedSOPSequence"):
                instance = text(document, "ReferencedSOPInstanceUID")
                where = "PredecessorDocumentsSequence"
                purpose = concept(document, "PurposeOfReferenceCodeSequence")
                if purpose.value and purpose.key not in context_group(7009):
                    yield Violation("PS3.16 CID 7009", where, f"{purpose} is no purpose of a predecessor")
                if instance == text(ds, "SOPInstanceUID"):
                    yield Violation("PS3.3 C.17.2", where, "the document is its own predecessor")
                if not text(series, "SeriesInstanceUID") or not text(study, "StudyInstanceUID") or not instance:
                    yield Violation("PS3.3 C.17.2", where, "a predecessor without study, series or instance")

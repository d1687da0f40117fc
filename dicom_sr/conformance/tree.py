"""A data set as the rules read it: decoded as far as it can be, and its content tree with numbered items.

The rule: reading never raises. What cannot be decoded becomes a violation and is then absent, so that every other rule
may trust the types that it meets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag
from pydicom.uid import UID

# A crafted object must not exhaust the stack.
MAX_DEPTH = 64
# What pydicom raises for bytes that are no value of their representation.
_UNDECODABLE = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, NotImplementedError, EOFError, OSError,
    struct.error, BytesLengthException,
)  # fmt: skip
_UNDEFINED = 0xFFFFFFFF  # the length of a sequence or of compressed pixels that a delimiter ends
_BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})


@dataclass(frozen=True)
class Violation:
    """One broken rule.

    Parameters
    ----------
    rule
        What was broken: ``PS3.16 TID 1501 row 3``, ``AIR 6.5.3.1``, ``PS3.5 9.1``.
    where
        Position in the content tree as ``dsrdump`` numbers it, e.g. ``1.5.2.3``, or the keyword of the attribute.
    message
        A sentence. It holds codes and UIDs and nothing of the patient.
    """

    rule: str
    where: str
    message: str


@dataclass(frozen=True)
class Concept:
    """A coded concept; empty strings where the object says nothing."""

    value: str = ""
    scheme: str = ""
    meaning: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Value and Coding Scheme Designator, which identify it."""
        return self.value, self.scheme

    def __str__(self) -> str:
        return f'({self.value}, {self.scheme}, "{self.meaning}")'


@dataclass(frozen=True, eq=False)
class Node:
    """One content item (PS3.3 C.17.3).

    Parameters
    ----------
    refers_to
        Position of the item that a by-reference item stands for; empty for any other.
    """

    ds: Dataset
    path: str
    relationship: str
    value_type: str
    name: Concept
    children: tuple[Node, ...] = field(repr=False)
    refers_to: str = ""

    @property
    def by_reference(self) -> bool:
        """Whether it only refers to another content item (PS3.3 C.17.3.2.5)."""
        return bool(self.refers_to)

    @property
    def value(self) -> Concept:
        """The value of a CODE."""
        return concept(self.ds, "ConceptCodeSequence")

    @property
    def references(self) -> tuple[Dataset, ...]:
        """What an IMAGE, COMPOSITE or WAVEFORM refers to."""
        return items(self.ds, "ReferencedSOPSequence")

    def walk(self) -> Iterator[Node]:
        """The item and everything below it, in document order."""
        yield self
        for child in self.children:
            yield from child.walk()

    def named(self, *values: str) -> tuple[Node, ...]:
        """The children whose concept name has one of these code values."""
        return tuple(child for child in self.children if child.name.value in values)


def decoded(ds: Dataset) -> tuple[Dataset, list[Violation]]:
    """A copy whose every element is decoded, and what could not be."""
    found: list[Violation] = []
    return _decoded(ds, "", found, 0), found


def cut_off(ds: Dataset) -> str:
    """Keyword of the element of a file that has fewer bytes than it announces; empty when none has (PS3.5 7.1.1).

    pydicom gives what is there and says nothing. It knows the announced length of what nobody has decoded yet, so ask
    before anything else of a data set that was just read.
    """
    for tag in ds.keys():  # noqa: SIM118  (a data set gives its elements, decoded)
        element: object = ds.get_item(tag, keep_deferred=True)
        if not isinstance(element, RawDataElement) or not isinstance(element.value, bytes):
            continue
        if len(element.value) < element.length != _UNDEFINED:
            return _keyword(element.tag)
    return ""


def content_tree(root: Dataset) -> Node:
    """The content tree of a decoded document; by-reference items stand as what they refer to."""
    return _node(root, "1", root, 0)


def items(ds: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """The items of a sequence; none when it is absent or no sequence."""
    value = ds.get(keyword)
    return tuple(value) if isinstance(value, Items) else ()


def text(ds: Dataset, keyword: str) -> str:
    """A value as text: empty when absent, several values joined by a backslash."""
    value = ds.get(keyword)
    if value is None or isinstance(value, Items | bytes):
        return ""
    return "\\".join(str(v) for v in listed(value))


def numbers(ds: Dataset, keyword: str) -> tuple[float, ...]:
    """The values of a numeric attribute; those that are no number are left out."""
    return tuple(n for n in map(_number, listed(ds.get(keyword))) if n is not None)


def listed(value: object) -> list[object]:
    """The values of an element, of which most have one; pydicom gives several as either of two kinds of list."""
    return list(value) if isinstance(value, MultiValue | list) else [value]


def concept(ds: Dataset, keyword: str) -> Concept:
    """The first item of a code sequence."""
    coded = items(ds, keyword)
    return read_concept(coded[0]) if coded else Concept()


def measured(number: Node) -> tuple[float | None, str]:
    """The value of a NUM, None where it has none, and its unit (UCUM)."""
    for value in items(number.ds, "MeasuredValueSequence"):
        return next(iter(numbers(value, "NumericValue")), None), concept(value, "MeasurementUnitsCodeSequence").value
    return None, ""


def read_concept(item: Dataset) -> Concept:
    """A code sequence item as a concept (PS3.3 8.8)."""
    value = text(item, "CodeValue") or text(item, "LongCodeValue") or text(item, "URNCodeValue")
    return Concept(value, text(item, "CodingSchemeDesignator"), text(item, "CodeMeaning"))


def elements(ds: Dataset, where: str = "") -> Iterator[tuple[str, DataElement]]:
    """Every element with the path of its keyword; sequences before what is in them."""
    for element in ds:
        path = f"{where}{element.keyword or element.tag}"
        yield path, element
        if isinstance(element.value, Items):
            for number, item in enumerate(element.value, start=1):
                yield from elements(item, f"{path}[{number}].")


def class_name(sop_class_uid: str) -> str:
    """A SOP class in words."""
    return UID(sop_class_uid).name


def _decoded(ds: Dataset, where: str, found: list[Violation], depth: int) -> Dataset:
    copy = Dataset()
    for tag in sorted(ds.keys()):
        try:
            element = ds[tag]
        except _UNDECODABLE:
            found.append(Violation("PS3.5 6.2", f"{where}{_keyword(tag)}", "the value cannot be decoded"))
            continue
        if element.VR == "SQ":
            element = _decoded_sequence(element, where, found, depth)
        elif not isinstance(element.value, Items) and element.VR not in _BULK:
            expected = _dictionary_vr(element.tag)
            if expected and element.VR not in (*expected.split(" or "), expected):
                message = f"value representation {element.VR}, which PS3.6 gives as {expected}"
                found.append(Violation("PS3.6 6", f"{where}{_keyword(tag)}", message))
                continue
        copy.add(element)
    return copy


def _decoded_sequence(element: DataElement, where: str, found: list[Violation], depth: int) -> DataElement:
    path = f"{where}{element.keyword or element.tag}"
    if depth >= MAX_DEPTH:
        found.append(Violation("PS3.5 7.5", path, f"nested more than {MAX_DEPTH} deep: not followed any further"))
        return DataElement(element.tag, "SQ", [])
    inner = [_decoded(item, f"{path}[{n}].", found, depth + 1) for n, item in enumerate(element.value or (), start=1)]
    return DataElement(element.tag, "SQ", inner)


def _keyword(tag: BaseTag) -> str:
    return DataElement(tag, "UN", b"").keyword or str(tag)


def _dictionary_vr(tag: BaseTag) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return ""  # private, or newer than the dictionary


def _node(ds: Dataset, path: str, root: Dataset, depth: int) -> Node:
    target, refers_to = ds, ""
    if "ReferencedContentItemIdentifier" in ds and "ValueType" not in ds:
        position = numbers(ds, "ReferencedContentItemIdentifier")
        target, refers_to = _find(root, position), ".".join(f"{step:.0f}" for step in position) or "nothing"
    below = () if refers_to or depth >= MAX_DEPTH else items(ds, "ContentSequence")
    return Node(
        target,
        path,
        text(ds, "RelationshipType"),
        text(target, "ValueType"),
        concept(target, "ConceptNameCodeSequence"),
        tuple(_node(child, f"{path}.{n}", root, depth + 1) for n, child in enumerate(below, start=1)),
        refers_to,
    )


def _find(root: Dataset, position: tuple[float, ...]) -> Dataset:
    """The content item at a position such as (1, 2, 3); empty when there is none (PS3.3 C.17.3.2.5)."""
    here = root if position[:1] == (1,) else Dataset()
    for step in position[1:]:
        below = items(here, "ContentSequence")
        here = below[int(step) - 1] if 1 <= step <= len(below) else Dataset()
    return here


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None

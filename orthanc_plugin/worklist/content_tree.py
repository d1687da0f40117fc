"""The content tree of a structured report, from Orthanc's JSON of it (``/instances/{id}/tags?short``). Pure, no I/O.

The rule: what is shown is what the object holds, in its order; nothing is left out but identifiers of coding schemes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from models.names import how_precisely

# PS3.3 C.17.3: what holds the parts of a content item
_RELATION, _TYPE, _NAME, _CONTENT = "0040,a010", "0040,a040", "0040,a043", "0040,a730"
_MEASURED, _UNIT, _NUMBER = "0040,a300", "0040,08ea", "0040,a30a"
_MEANING, _VALUE = "0008,0104", "0008,0100"
_REFERENCED, _SOP_INSTANCE = "0008,1199", "0008,1155"
_CODE = "0040,a168"
# PS3.3 table C.17.3-7: value types that are one attribute
_PLAIN = {
    "TEXT": "0040,a160", "UIDREF": "0040,a124", "PNAME": "0040,a123", "DATE": "0040,a121", "TIME": "0040,a122",
    "DATETIME": "0040,a120",
}  # fmt: skip
LONG_VALUES = "0040-a160"  # Orthanc leaves a text out that is longer than 256 characters, unless it is told not to
_DEEPEST = 32
_RUN, _ALGORITHM, _VERSION, _PARAMETERS = "Model run", "Algorithm Name", "Algorithm Version", "Algorithm Parameters"
# How parameters begin (``dicom_sr.parameters``, which the Orthanc process does not load)
_TOLD_ONCE = ("weights sha256:", "config sha256:", "precision=")


@dataclass(frozen=True)
class Item:
    """One content item: how it relates to its parent, its value type, its concept name, its value in words."""

    relation: str
    kind: str
    name: str
    value: str
    children: tuple[Item, ...] = ()

    def walk(self) -> Iterator[Item]:
        """Itself and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def named(self, name: str) -> list[Item]:
        """The children with this concept name."""
        return [child for child in self.children if child.name == name]


@dataclass(frozen=True)
class Section:
    """A heading of a preliminary report and its sentences."""

    heading: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One model as a report names it, outcome and precision in words; the digests are SHA-256 in hexadecimal."""

    name: str
    version: str
    outcome: str
    precision: str
    weights: str
    config: str


def content_tree(tags: dict[str, Any]) -> Item:
    """The content tree of a report."""
    return _item(tags, 0)


def sections(report: Item) -> tuple[Section, ...]:
    """What a report in sentences says."""
    return tuple(
        Section(part.name, tuple(child.value for child in part.children if child.kind == "TEXT" and child.value))
        for part in report.children
        if part.kind == "CONTAINER"
    )


def runs(report: Item) -> tuple[Run, ...]:
    """The models that a measurement report names."""
    return tuple(_run(item) for item in report.walk() if item.name == _RUN)


def _run(item: Item) -> Run:
    said = [parameter.value for parameter in item.named(_PARAMETERS)]
    told = [next((child.value for child in item.named(name)), "") for name in (_ALGORITHM, _VERSION)]
    weights, config, precision = [
        next((one.removeprefix(begins) for one in said if one.startswith(begins)), "") for begins in _TOLD_ONCE
    ]
    return Run(told[0], told[1], item.value, how_precisely(precision or "float32"), weights, config)


def _item(node: dict[str, Any], depth: int) -> Item:
    nested = node.get(_CONTENT) if depth < _DEEPEST else None
    kind = str(node.get(_TYPE) or "")
    children = tuple(_item(child, depth + 1) for child in nested or () if isinstance(child, dict))
    return Item(str(node.get(_RELATION) or ""), kind, _meaning(node.get(_NAME)), _value(node, kind), children)


def _value(node: dict[str, Any], kind: str) -> str:
    if kind == "CODE":
        return _meaning(node.get(_CODE))
    if kind == "NUM":
        measured = _first(node.get(_MEASURED))
        number, unit = str(measured.get(_NUMBER) or ""), _first(measured.get(_UNIT))
        named = str(unit.get(_VALUE) or "")
        return number if named in ("1", "") or named.startswith("{") else f"{number} {named}"
    if kind in ("IMAGE", "COMPOSITE"):
        return str(_first(node.get(_REFERENCED)).get(_SOP_INSTANCE) or "")
    if kind == "SCOORD":
        points = str(node.get("0070,0022") or "").replace("\\", ", ")
        return f"{node.get('0070,0023') or ''} {points}".strip()
    return str(node.get(_PLAIN.get(kind, "")) or "")


def _meaning(sequence: Any) -> str:
    coded = _first(sequence)
    return str(coded.get(_MEANING) or coded.get(_VALUE) or "")


def _first(sequence: Any) -> dict[str, Any]:
    return sequence[0] if isinstance(sequence, list) and sequence and isinstance(sequence[0], dict) else {}

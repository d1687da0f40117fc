"""The templates of PS3.16 that measurement reports are made of, as a table, and whether a content tree keeps to them.

``templates.csv`` has the columns of PS3.16: one line for each row, with its nesting level below the root of the
template. `need` is ``M``, ``U``, ``ANY x`` (one row or more of those marked x) or ``ONE x`` (exactly one of them), and
may end in ``IFF 7|10`` (when one of these rows is there, and only then).

The rule: what a row names must be as the row says; what no row names is an extension, which templates allow (PS3.16
6.2.2) unless they say that they are not extensible.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from pydicom import Dataset

from dicom_sr.conformance.coding import context_group
from dicom_sr.conformance.tree import Node, Violation, concept, items, text

# Whose rows 7, 8 and 9 of TID 1500 a Measurement Group may be.
GROUP_TEMPLATES = ("1410", "1411", "1501")
_NOT_EXTENSIBLE = frozenset({"2010"})
_GROUP = ("125007", "DCM")


@dataclass(frozen=True)
class Row:
    """One row of a template, with the rows nested below it.

    Parameters
    ----------
    concept
        Value and scheme of the concept name, ``CID 7021``, or empty where any concept will do.
    need
        ``M``, ``U``, ``ANY`` or ``ONE``; `alternatives` names the rows that share the need.
    condition
        Labels of the rows, of which one must be there for the need to hold; without them this row must be absent.
    optional
        The inclusion that this row comes with, where that inclusion is optional: a mandatory row is needed only when
        another row of the same inclusion is there.
    """

    template: str
    label: str
    relationship: str
    types: tuple[str, ...]
    concept: str
    repeated: bool
    need: str
    alternatives: str
    condition: tuple[str, ...]
    values: str
    optional: str = ""
    children: tuple[Row, ...] = ()

    @property
    def rule(self) -> str:
        """How it is cited."""
        return f"PS3.16 TID {self.template} row {self.label}"

    @property
    def names(self) -> bool:
        """Whether it names one concept."""
        return bool(self.concept) and not self.concept.startswith("CID")

    def accepts(self, node: Node) -> bool:
        """Whether a content item has the relationship and the value type of the row."""
        return node.value_type in self.types and (not self.relationship or node.relationship == self.relationship)


def check_template(root: Node, template: str) -> Iterator[Violation]:
    """Judge a document by the template of its root."""
    row = template_rows(template)[0]
    if not _in_group(root.name.key, row.concept):
        yield Violation(row.rule, root.path, f"the title {root.name} is not of {row.concept}")
    stated = template_of(root)
    if stated and stated != template:
        yield Violation(row.rule, root.path, f"Content Template Sequence says TID {stated}, the title TID {template}")
    yield from _below(root, row.children)


def template_of(node: Node) -> str:
    """The template that a container says it follows; empty when it does not say."""
    stated = items(node.ds, "ContentTemplateSequence")
    return text(stated[0], "TemplateIdentifier") if stated else ""


def group_template(group: Node) -> str:
    """Which of its three templates a Measurement Group follows: what it says, or else what it holds."""
    stated = template_of(group)
    if stated in GROUP_TEMPLATES:
        return stated
    if group.named("121191", "121231", "121232"):
        return "1411"
    regions = [child for child in group.named("111030", "121214") if child.relationship == "CONTAINS"]
    return "1410" if regions else "1501"


@cache
def template_rows(template: str) -> tuple[Row, ...]:
    """The rows of a template, included ones in their place.

    Raises
    ------
    KeyError
        When the table does not have the template.
    """
    return _nested(_lines()[template], 0, template)


def _below(node: Node, rows: Sequence[Row]) -> Iterator[Violation]:
    """Judge the children of a content item by the rows of one level."""
    matched: dict[int, list[Node]] = {n: [] for n in range(len(rows))}
    for child in node.children:
        candidates = [n for n, row in enumerate(rows) if row.names and row.concept == " ".join(child.name.key)]
        candidates = candidates or [n for n, row in enumerate(rows) if not row.names and _suits(row, child)]
        fitting = [n for n in candidates if rows[n].accepts(child)]
        if fitting:
            matched[fitting[0]].append(child)
        elif candidates:
            row = rows[candidates[0]]
            message = (
                f"{child.name} is {child.relationship} {child.value_type}: {row.relationship} {'|'.join(row.types)}"
            )
            yield Violation(row.rule, child.path, f"{message} is expected")
        elif rows and rows[0].template in _NOT_EXTENSIBLE and child.relationship == "CONTAINS":
            message = f"{child.value_type} {child.name} has no row in this template, which is not extensible"
            yield Violation(f"PS3.16 TID {rows[0].template}", child.path, message)
    yield from _needs(node, rows, matched)
    for n, children in matched.items():
        for child in children:
            if not child.by_reference:
                yield from _one(child, rows[n])


def _one(child: Node, row: Row) -> Iterator[Violation]:
    """Judge one content item by its row: its value, and what is below it."""
    if row.values.startswith("CID") and row.types == ("CODE",):
        if not _in_group(child.value.key, row.values):
            yield Violation(row.rule, child.path, f"{child.value} is not of {row.values}")
    elif row.values:
        unit = concept(_measured(child), "MeasurementUnitsCodeSequence")
        if " ".join(unit.key) != row.values:
            yield Violation(row.rule, child.path, f"the unit is {unit} instead of {row.values}")
    if child.name.key == _GROUP and row.concept == " ".join(_GROUP):
        stated = template_of(child)
        if stated and stated not in GROUP_TEMPLATES:
            yield Violation("PS3.16 TID 1500 row 9", child.path, f"a Measurement Group does not follow TID {stated}")
        yield from _below(child, template_rows(group_template(child)))
    else:
        yield from _below(child, row.children)


def _needs(node: Node, rows: Sequence[Row], matched: dict[int, list[Node]]) -> Iterator[Violation]:
    present = {row.label for n, row in enumerate(rows) if matched[n]}
    included = {row.optional for n, row in enumerate(rows) if matched[n] and row.optional}
    judged: set[tuple[str, str]] = set()
    for n, row in enumerate(rows):
        count = len(matched[n])
        if count > 1 and not row.repeated:
            yield Violation(row.rule, matched[n][1].path, f"{_what(row)} is there {count} times, once is allowed")
        holds = not row.condition or bool(present & set(row.condition))
        if count and not holds:
            message = f"{_what(row)} needs row {' or '.join(row.condition)} beside it"
            yield Violation(row.rule, matched[n][0].path, message)
        if row.need == "M" and not count and holds and (not row.optional or row.optional in included):
            yield Violation(row.rule, node.path, f"{_what(row)} is missing")
        if row.need in ("ANY", "ONE") and holds and (row.template, row.alternatives) not in judged:
            judged.add((row.template, row.alternatives))
            yield from _alternatives(node, rows, matched, row)


def _alternatives(node: Node, rows: Sequence[Row], matched: dict[int, list[Node]], first: Row) -> Iterator[Violation]:
    shared = [
        n for n, row in enumerate(rows) if (row.template, row.alternatives) == (first.template, first.alternatives)
    ]
    present = sum(bool(matched[n]) for n in shared)
    if not present or (first.need == "ONE" and present > 1):
        what = " or ".join(dict.fromkeys(_what(rows[n]) for n in shared))
        number = "exactly one" if first.need == "ONE" else "one"
        yield Violation(first.rule, node.path, f"{number} of {what} is needed, there are {present}")


def _suits(row: Row, child: Node) -> bool:
    """Whether a row that names no single concept is meant for a child: by relationship and type."""
    return row.accepts(child) and (not row.concept or _in_group(child.name.key, row.concept))


def _what(row: Row) -> str:
    return f"{'|'.join(row.types)} {row.concept}".strip()


def _measured(node: Node) -> Dataset:
    measured = items(node.ds, "MeasuredValueSequence")
    return measured[0] if measured else node.ds


def _in_group(key: tuple[str, str], group: str) -> bool:
    """Whether a code is of a context group such as ``CID 7021``; of a group that nobody knows, everything is."""
    members = context_group(int(group.removeprefix("CID "))) if group else frozenset()
    return not members or key in members


@cache
def _lines() -> dict[str, list[dict[str, str]]]:
    with (Path(__file__).parent / "templates.csv").open(encoding="utf-8", newline="") as file:
        listed: dict[str, list[dict[str, str]]] = {}
        for line in csv.DictReader(file):
            listed.setdefault(line["template"], []).append(line)
    return listed


def _nested(lines: Sequence[dict[str, str]], level: int, include: str) -> tuple[Row, ...]:
    """The rows of one level, each with those that follow it at deeper levels."""
    found: list[Row] = []
    starts = [n for n, line in enumerate(lines) if int(line["level"]) == level]
    for n, start in enumerate(starts):
        line, end = lines[start], starts[n + 1] if n + 1 < len(starts) else len(lines)
        if line["type"].startswith("INCLUDE"):
            found.extend(_included(line, include))
        else:
            found.append(_row(line, _nested(lines[start + 1 : end], level + 1, include)))
    return tuple(found)


def _included(line: dict[str, str], include: str) -> Iterator[Row]:
    """The rows of another template in the place of the row that includes it."""
    optional = "" if line["need"] == "M" else f"{include} {line['row']}"
    for row in template_rows(line["type"].split()[1]):
        yield replace(row, optional=row.optional or optional, relationship=row.relationship or line["relationship"])


def _row(line: dict[str, str], children: tuple[Row, ...]) -> Row:
    need, _, condition = line["need"].partition(" IFF ")
    kind, _, alternatives = need.partition(" ")
    return Row(
        template=line["template"],
        label=line["row"],
        relationship=line["relationship"],
        types=tuple(line["type"].split("|")),
        concept=line["concept"],
        repeated=line["max"] == "n",
        need=kind,
        alternatives=alternatives,
        condition=tuple(condition.split("|")) if condition else (),
        values=line["values"],
        children=children,
    )

"""What a measurement report of ours says in two places, and must say alike: sites, sides, boxes, ratios, priority.

The rule: a number that other numbers of the report give is that number, a box has the side and the place of its
finding, and the priority is what the findings called present ask for, no more and no less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from dicom_sr.codes import PRIORITIES, SIDES, FindingCodes, finding_table
from dicom_sr.conformance.criteria import criteria_of
from dicom_sr.conformance.report import EVALUATED, PRESENT, states_of
from dicom_sr.conformance.tree import Node, Violation, measured, numbers, text
from models.findings import OF_ABSENCE, Finding, FindingState, Priority

_BOX, _LINE = "Cornerstone3DTools@^0.1.0:RectangleROI", "Cornerstone3DTools@^0.1.0:Length"
_RATIO, _HEART, _CHEST = "cardiothoracic_ratio", ("80891009", "SCT"), ("816094009", "SCT")
_RIGHT, _LEFT, _BOTH = [(code.value, code.scheme_designator) for code in SIDES.values()]
# Sentences give a ratio in hundredths, and the ends of its lines lie on a grid of a sixteenth of a pixel.
_RATIO_TOLERANCE = 0.005
_SAME_LENGTH = 1e-3  # of two lengths, relative

Points = tuple[float, ...]


def check_consistency(root: Node) -> Iterator[Violation]:
    """Judge the content tree of a measurement report of ours."""
    groups = [node for node in root.walk() if node.name.key == ("125007", "DCM") and not node.by_reference]
    for group in groups:
        yield from _site(group)
        if key_of(group) == _BOX:
            yield from _rectangle(group)
    yield from _sides(groups)
    yield from _ratio(groups)
    yield from _priority(root, groups)


def key_of(group: Node) -> str:
    """The tracking identifier: of what a group is."""
    return next((text(item.ds, "TextValue") for item in group.named("112039")), "")


def diameters(root: Node) -> Iterator[tuple[Node, float, str, Points]]:
    """Each line that is drawn: its group, its length, the unit of it (UCUM) and its ends (x, y, x, y) in pixels."""
    for group in root.walk():
        if group.name.key == ("125007", "DCM") and key_of(group) == _LINE:
            for number in group.named("81827009"):
                for points in lines_of(number):
                    value, unit = measured(number)
                    if value is not None:
                        yield group, value, unit, points


def lines_of(number: Node) -> list[Points]:
    """The straight lines (x, y, x, y) that a NUM was inferred from."""
    drawn = [numbers(region.ds, "GraphicData") for region in number.named("111030")]
    return [points for points in drawn if len(points) == 4]


def _site(group: Node) -> Iterator[Violation]:
    """Finding Site is the one that ``codes.csv`` has for the finding or the structure."""
    known = _drawn(group) if key_of(group) == _BOX else finding_table().get(key_of(group))
    if known is None:
        return
    sites = [site.value.key for site in group.named("363698007")]
    if sites != [(known.site.value, known.site.scheme_designator)]:
        yield Violation("Hilum codes", group.path, f"the site of {known.finding.meaning} is not {known.site.meaning}")


def _drawn(box: Node) -> FindingCodes | None:
    """The codes of the finding that a box is around."""
    named = {finding.value.key for finding in box.named("121071")}
    known = finding_table().values()
    return next((k for k in known if (k.finding.value, k.finding.scheme_designator) in named), None)


def _rectangle(box: Node) -> Iterator[Violation]:
    """Five corners, of which the last is the first, upright and with an area (PS3.3 C.18.6.1.2)."""
    for region in (region for number in box.named("111012") for region in number.named("111030")):
        data = numbers(region.ds, "GraphicData")
        corners = list(zip(data[::2], data[1::2], strict=False))
        upright = len(corners) == 5 and all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(corners))
        if not upright or corners[0] != corners[-1] or len(set(corners)) != 4:
            yield Violation("Hilum report", region.path, "a box that is not a closed rectangle")


def _sides(groups: Sequence[Node]) -> Iterator[Violation]:
    """Boxes that all lie on one side give this side to their finding; no finding is on a side without a box of it."""
    boxes = [group for group in groups if key_of(group) == _BOX]
    for group in groups:
        known = finding_table().get(key_of(group))
        mine = [box for box in boxes if known is not None and _drawn(box) == known]
        drawn, stated = {side for box in mine for side in _side(box)}, set(_side(group))
        if not states_of(group) or not drawn:
            continue
        allowed = [{_RIGHT}, {_LEFT}, {_BOTH}] if drawn == {_RIGHT, _LEFT} else [drawn]
        if stated not in allowed:
            yield Violation("Hilum report", group.path, f"{key_of(group)} is not on the side of its boxes")


def _side(group: Node) -> list[tuple[str, str]]:
    return [side.value.key for site in group.named("363698007") for side in site.named("272741003")]


def _ratio(groups: Sequence[Node]) -> Iterator[Violation]:
    """The cardiothoracic ratio is that of the two diameters, whose lines it was inferred from, all of one scale."""
    told = {site: line for group in groups for site in _sites(group) for line in diameters(group)}
    heart, chest = told.get(_HEART), told.get(_CHEST)
    for line in told.values():
        if line[2] == "{pixels}" and not math.isclose(line[1], _length(line[3]), rel_tol=_SAME_LENGTH):
            yield Violation("Hilum report", line[0].path, "a diameter of another length than its line")
    for number in (number for group in groups if key_of(group) == _RATIO for number in group.named("CTR")):
        value, _unit = measured(number)
        if value is None or heart is None or chest is None:
            continue
        if lines_of(number) != [heart[3], chest[3]]:
            yield Violation("Hilum report", number.path, "the ratio has other lines than its diameters")
        pairs = [(heart[1], chest[1])]
        if _parallel(heart[3], chest[3]):
            pairs.append((_length(heart[3]), _length(chest[3])))
        if heart[2] != chest[2] or any(not b or abs(value - a / b) > _RATIO_TOLERANCE for a, b in pairs):
            yield Violation("Hilum report", number.path, f"a ratio of {value} contradicts its diameters")


def _sites(group: Node) -> list[tuple[str, str]]:
    return [site.value.key for site in group.named("363698007")]


def _length(points: Points) -> float:
    return math.hypot(points[2] - points[0], points[3] - points[1])


def _parallel(one: Points, other: Points) -> bool:
    """Where pixels are not square, the lengths of lines compare only in one direction."""
    return abs((one[2] - one[0]) * (other[3] - other[1]) - (one[3] - one[1]) * (other[2] - other[0])) < 1e-6


def _priority(root: Node, groups: Sequence[Node]) -> Iterator[Violation]:
    """That of the finding called present that wants to be read first; routine where something was evaluated.

    A derived finding raises nothing.
    """
    states: Mapping[str, tuple[str, str]] = {key_of(g): s.value.key for g in groups for s in states_of(g)}
    derived = {key_of(g) for g in groups for s in states_of(g) if criteria_of(s)}
    present = [key for key, state in states.items() if state == PRESENT and key not in OF_ABSENCE | derived]
    evaluated = any(state in EVALUATED for state in states.values())
    urgencies = [Finding(key, FindingState.PRESENT).urgency for key in present]
    expected = min(urgencies, key=lambda p: p.rank, default=Priority.ROUTINE if evaluated else Priority.NONE)
    known = {(code.value, code.scheme_designator): priority for priority, code in PRIORITIES.items()}
    for item in (item for section in root.named("C0034375") for item in section.named("260870009")):
        priority = known.get(item.value.key)
        if priority is not None and priority is not expected:
            yield Violation("Hilum report", item.path, f"the priority is {priority}, the findings make it {expected}")

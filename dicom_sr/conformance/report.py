"""What a measurement report of ours says, and what must not contradict itself in it.

The rule: procedure, size of the image, priority, impression and every model run are there; each finding has one state,
which its certainty and its threshold, or its criteria, its model and the summary of the run agree with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from pydicom import Dataset

from dicom_sr.codes import MEASUREMENTS, PRIVATE_SCHEME, SIDES, finding_table, side_of
from dicom_sr.conformance.air import processing_equipment
from dicom_sr.conformance.content import image_sizes
from dicom_sr.conformance.criteria import UNITS, check_criteria, criteria_of
from dicom_sr.conformance.tree import Node, Violation, concept, items, numbers, text
from dicom_sr.parameters import PRECISION
from models.findings import MIDLINE, OF_ABSENCE, Precision

PRESENT, _ABSENT, _UNDETERMINED = ("52101004", "SCT"), ("272519000", "SCT"), ("373068000", "SCT")
EVALUATED = frozenset({PRESENT, _ABSENT, _UNDETERMINED})
_UNEVALUATED = frozenset({("NOTEVALUATED", PRIVATE_SCHEME), ("FAILED", PRIVATE_SCHEME)})
_STATES = EVALUATED | _UNEVALUATED
# What a CODE of a group may be besides the state of a finding.
_NO_STATE = frozenset({"121071", "276214006", "130400", "REASON", "CAUTION"})
# Groups that draw something: a box, a line.
_DRAWN = "Cornerstone3DTools@"
# PS3.16 CID 6047, by what became of the runs and by what was found.
_ALL, _SOME, _NO_RUN = {"111241", "111242"}, {"111243", "111244"}, {"111245"}
_WITH_FINDINGS, _WITHOUT_FINDINGS = {"111242", "111244"}, {"111241", "111243", "111245"}
_LOWERED = frozenset(Precision) - {Precision.FLOAT32}
_UNITS = {
    ("111012", "DCM"): {"%"},  # Certainty of Finding
    ("THRESHOLD", PRIVATE_SCHEME): {"%"},
    ("CTR", PRIVATE_SCHEME): {"1"},
    ("81827009", "SCT"): {"mm", "{pixels}"},  # Diameter
    ("42798000", "SCT"): {"mm2", "{pixels}"},  # Area
    ("110910", "DCM"): {"{pixels}"},
    ("110911", "DCM"): {"{pixels}"},
    **UNITS,
}


def check_report(ds: Dataset, root: Node) -> Iterator[Violation]:
    """Judge a decoded measurement report of ours and its content tree."""
    if not root.named("121058"):
        yield Violation("AIR 6.5.3.1", root.path, "no Procedure Reported (121058, DCM)")
    if not image_sizes(root):
        yield Violation("Hilum report", root.path, "no image library that tells the size of the image")
    groups = [node for node in root.walk() if node.name.key == ("125007", "DCM") and not node.by_reference]
    tracking = Counter(text(uid.ds, "UID") for group in groups for uid in group.named("112040"))
    for group in groups:
        for name in ("112039", "112040"):
            if not group.named(name):
                yield Violation("AIR 6.5.3", group.path, f"Measurement Group without ({name}, DCM)")
        for uid in group.named("112040"):
            if tracking[text(uid.ds, "UID")] > 1:
                yield Violation("Hilum identity", uid.path, "another group has the same Tracking Unique Identifier")
        yield from _group(group)
        yield from _state(group)
    yield from _one_state_each(groups)
    yield from _units(root)
    yield from _evaluations(ds, root, groups)


def states_of(group: Node) -> list[Node]:
    """The codes of a group that tell the state of a finding; one where it is a group of ours on a finding."""
    coded = [c for c in group.children if c.value_type == "CODE" and c.relationship == "CONTAINS"]
    return [c for c in coded if c.name.value not in _NO_STATE]


def _group(group: Node) -> Iterator[Violation]:
    """The tracking identifier names a drawing, a measurement, a structure or a finding: the group holds just that."""
    key = next((text(item.ds, "TextValue") for item in group.named("112039")), "")
    states = states_of(group)
    if key in MEASUREMENTS:
        if not group.named(MEASUREMENTS[key].value):
            yield Violation("Hilum report", group.path, f"{key} without its number")
    elif key in finding_table():
        coded = finding_table()[key]
        if coded.finding != coded.site:  # no structure, which has no state
            if not states:
                yield Violation("Hilum states", group.path, f"{key} without a state")
            elif states[0].name.key != (coded.finding.value, coded.finding.scheme_designator):
                yield Violation("Hilum states", states[0].path, f"{states[0].name} is not the finding {key}")
        yield from _side(group, key)
    elif key and not key.startswith(_DRAWN):
        yield Violation("Hilum identity", group.path, f"the tracking identifier {key} is of nothing that we find")


def _side(group: Node, key: str) -> Iterator[Violation]:
    """What has its side in its name has this side, and what lies in the middle has none."""
    stated = [side.value.key for site in group.named("363698007") for side in site.named("272741003")]
    side = side_of(key)
    if side is not None and stated != [(SIDES[side].value, SIDES[side].scheme_designator)]:
        yield Violation("PS3.16 CID 244", group.path, f"the laterality is not the side of {key}")
    if key in MIDLINE and stated:
        yield Violation("PS3.16 CID 244", group.path, f"{key} has no side")


def _state(group: Node) -> Iterator[Violation]:
    """A finding has one state; only a present one has a Finding item; only an evaluated one, which nobody derived, has
    a certainty.
    """
    states = states_of(group)
    for item in states:
        if item.value.key not in _STATES:
            yield Violation("PS3.16 CID 240", item.path, f"{item.value} is not the state of a finding")
    if len(states) > 1:
        yield Violation("Hilum states", states[1].path, "a group with the states of two findings")
    if len(states) != 1 or states[0].value.key not in _STATES:
        return
    state, findings = states[0].value.key, group.named("121071")
    if state != PRESENT and findings:
        yield Violation(
            "Hilum states", findings[0].path, "a finding that is not present has a Finding item (121071, DCM)"
        )
    if state == PRESENT and [f.value.key for f in findings] != [states[0].name.key]:
        yield Violation("Hilum states", group.path, "a present finding lacks its own Finding item (121071, DCM)")
    scored = state in EVALUATED and not criteria_of(states[0])
    if scored != bool(group.named("111012")):
        message = "evaluated without certainty and criteria, or a certainty without evaluation or beside criteria"
        yield Violation("Hilum states", group.path, message)
    if scored and (len(group.named("111012")) > 1 or len(group.named("THRESHOLD")) != 1):
        yield Violation("Hilum states", group.path, "evaluated, and not by one certainty and one threshold")
    yield from check_criteria(states[0], present=state == PRESENT)
    if (state in _UNEVALUATED) != bool(group.named("REASON")):
        message = "not evaluated, and no reason given, or evaluated, and a reason why not"
        yield Violation("Hilum states", group.path, message)
    yield from _threshold(group, state)


def _threshold(group: Node, state: tuple[str, str]) -> Iterator[Violation]:
    """The state is what the certainty and the threshold say; both in percent."""
    certainty, threshold = (_percent(group, name) for name in ("111012", "THRESHOLD"))
    if threshold is not None and not 0 <= threshold <= 100:
        yield Violation("Hilum states", group.path, f"a threshold of {threshold} %")
    if certainty is None or threshold is None:
        return
    contradicts = certainty < threshold - 1e-4 if state == PRESENT else certainty > threshold + 1e-4
    if contradicts and state in (PRESENT, _ABSENT):
        yield Violation(
            "Hilum states", group.path, f"the state contradicts {certainty} % at a threshold of {threshold} %"
        )


def _percent(group: Node, name: str) -> float | None:
    for item in group.named(name):
        for measured in items(item.ds, "MeasuredValueSequence"):
            if concept(measured, "MeasurementUnitsCodeSequence").key == ("%", "UCUM"):
                return next(iter(numbers(measured, "NumericValue")), None)
    return None


def _one_state_each(groups: Sequence[Node]) -> Iterator[Violation]:
    told: dict[tuple[str, str], Node] = {}
    for item in (item for group in groups for item in states_of(group)[:1]):
        first = told.setdefault(item.name.key, item)
        if first is not item:
            message = f"{item.name} is {item.value} here and {first.value} at {first.path}"
            yield Violation("Hilum states", item.path, message)


def _units(root: Node) -> Iterator[Violation]:
    """Each number is in the unit that its concept has with us, and none is negative."""
    known = {unit for units in _UNITS.values() for unit in units}
    for node in root.walk():
        if node.value_type != "NUM" or node.by_reference:
            continue
        allowed = _UNITS.get(node.name.key, known)
        for measured in items(node.ds, "MeasuredValueSequence")[:1]:
            unit = concept(measured, "MeasurementUnitsCodeSequence")
            if unit.scheme == "UCUM" and unit.value not in allowed:
                yield Violation(
                    "Hilum units", node.path, f"{node.name} in {unit} instead of {' or '.join(sorted(allowed))}"
                )
            if any(value < 0 for value in numbers(measured, "NumericValue")):
                yield Violation("Hilum units", node.path, f"{node.name} is negative")


def _evaluations(ds: Dataset, root: Node, groups: Sequence[Node]) -> Iterator[Violation]:
    """What holds for the run as a whole: priority, impression, runs, and one summary that agrees with all of them."""
    told = [child for section in root.named("C0034375") for child in section.children]
    for name, what in (("260870009", "Priority (260870009, SCT)"), ("121073", "Impression (121073, DCM)")):
        if not any(item.name.value == name for item in told):
            yield Violation("Hilum report", root.path, f"no {what}")
    runs = [item for item in told if item.name.key == ("MODELRUN", PRIVATE_SCHEME)]
    if not runs:
        yield Violation("Hilum report", root.path, "no Model run (MODELRUN, 99HILUM)")
    yield from _runs(ds, runs, groups)
    summaries = [node for node in root.walk() if node.name.key == ("111017", "DCM")]
    if len(summaries) != 1:
        yield Violation("PS3.16 CID 6047", root.path, f"{len(summaries)} summaries of the run instead of one")
        return
    summary = summaries[0]
    outcomes = {run.value.value for run in runs}
    if runs and outcomes <= {"SUCCEEDED", "FAILED"} and summary.value.value in _ALL | _SOME | _NO_RUN:
        expected = _ALL if outcomes == {"SUCCEEDED"} else _NO_RUN if outcomes == {"FAILED"} else _SOME
        if summary.value.value not in expected:
            yield Violation("PS3.16 CID 6047", summary.path, f"{summary.value} contradicts the model runs")
    of_absence = {finding_table()[key].finding.value for key in OF_ABSENCE}
    present = [i for group in groups for i in states_of(group) if i.value.key == PRESENT]
    found = any(item.name.value not in of_absence for item in present)
    if summary.value.value in (_WITHOUT_FINDINGS if found else _WITH_FINDINGS):
        message = f"{summary.value} contradicts the states of the findings"
        yield Violation("PS3.16 CID 6047", summary.path, message)


def _runs(ds: Dataset, runs: Sequence[Node], groups: Sequence[Node]) -> Iterator[Violation]:
    """Each algorithm has a run; one that failed says why and evaluated nothing."""
    for run in runs:
        outcome, reason = run.value.key, bool(run.named("REASON"))
        if outcome not in (("SUCCEEDED", PRIVATE_SCHEME), ("FAILED", PRIVATE_SCHEME)):
            yield Violation("Hilum report", run.path, f"{run.value} is not the outcome of a model run")
        elif reason != (outcome[0] == "FAILED"):
            yield Violation("Hilum report", run.path, "a failed run without reason, or a reason without failure")
        yield from _parameters(run)
    names = {_algorithm(run) for run in runs}
    for item in processing_equipment(ds) if runs else ():
        if text(item, "ManufacturerModelName") not in names:
            message = f"the algorithm {text(item, 'ManufacturerModelName')} has no model run"
            yield Violation("AIR 6.5.3.1", "ContributingEquipmentSequence", message)
    failed = {_algorithm(run) for run in runs if run.value.value == "FAILED"}
    failed -= {_algorithm(run) for run in runs if run.value.value == "SUCCEEDED"}
    for group in groups:
        if _algorithm(group) in failed and any(item.value.key in EVALUATED for item in states_of(group)):
            yield Violation("Hilum states", group.path, f"evaluated by {_algorithm(group)}, which failed")


def _parameters(run: Node) -> Iterator[Violation]:
    """The precision is one that we know, and named only where it is not float32."""
    said = [item for item in run.named("111002") if text(item.ds, "TextValue").startswith(PRECISION)]
    for item in said:
        if text(item.ds, "TextValue").removeprefix(PRECISION) not in _LOWERED:
            yield Violation("Hilum identity", item.path, f"{text(item.ds, 'TextValue')} is no lowered precision")
    if len(said) > 1:
        yield Violation("Hilum identity", said[1].path, "one run in two precisions")


def _algorithm(node: Node) -> str:
    return next((text(item.ds, "TextValue") for item in node.named("111001")), "")

"""What the state of a derived finding rests on in a measurement report of ours: its criteria and their numbers.

The rule: a derived finding has criteria and no certainty; each criterion is one that we have, once, and what is said to
have become of it is what its number and its threshold say.
"""

from __future__ import annotations

from collections.abc import Iterator

from dicom_sr.codes import CRITERIA, CRITERION_UNITS, CRITERION_VALUE, OUTCOMES, REASON, SENSES
from dicom_sr.conformance.tree import Node, Violation, measured
from models.findings import FindingState, Sense

RULE = "Hilum criteria"
# Units in which the numbers of a criterion may be, by concept name.
UNITS = {(code.value, code.scheme_designator): set(CRITERION_UNITS) for code in (CRITERION_VALUE, *SENSES.values())}

_KNOWN = {(code.value, code.scheme_designator): key for key, code in CRITERIA.items()}
_OUTCOMES = {(code.value, code.scheme_designator): state for state, code in OUTCOMES.items()}


def criteria_of(state: Node) -> list[Node]:
    """The criteria that the state of a finding is inferred from; none where it is not derived."""
    return [child for child in state.children if child.relationship == "INFERRED FROM" and child.value_type == "CODE"]


def check_criteria(state: Node, *, present: bool) -> Iterator[Violation]:
    """Judge the criteria below the state of a finding."""
    criteria = criteria_of(state)
    seen: set[str] = set()
    for item in criteria:
        key = _KNOWN.get(item.name.key)
        if key is None or key in seen:
            yield Violation(RULE, item.path, f"{item.name} is no criterion of ours, or is there twice")
            continue
        seen.add(key)
        yield from _outcome(item)
    if criteria and present and not any(_outcome_of(item) is FindingState.PRESENT for item in criteria):
        yield Violation(RULE, state.path, f"{state.name} is present, and none of its criteria is met")


def _outcome(item: Node) -> Iterator[Violation]:
    outcome = _outcome_of(item)
    if outcome is None:
        yield Violation(RULE, item.path, f"{item.value} is not what can become of a criterion")
        return
    values = item.named(CRITERION_VALUE.value)
    limits = [(sense, limit) for sense, code in SENSES.items() for limit in item.named(code.value)]
    if len(values) > 1 or len(limits) > 1:
        yield Violation(RULE, item.path, "a criterion with two numbers or two thresholds")
    elif outcome is FindingState.NOT_EVALUATED and not item.named(REASON.value):
        yield Violation(RULE, item.path, "not evaluated, and no reason given")
    elif values and limits:
        yield from _numbers(item, outcome, values[0], *limits[0])


def _numbers(item: Node, outcome: FindingState, value: Node, sense: Sense, limit: Node) -> Iterator[Violation]:
    (found, unit), (threshold, other) = measured(value), measured(limit)
    if unit != other:
        yield Violation(RULE, item.path, f"a value in {unit} with a threshold in {other}")
    elif found is not None and threshold is not None:
        contrary = FindingState.ABSENT if sense.holds(found, threshold) else FindingState.PRESENT
        if outcome is contrary:
            message = f"{item.value} contradicts a value of {found:g} where {sense} {threshold:g} is asked for"
            yield Violation(RULE, item.path, message)


def _outcome_of(item: Node) -> FindingState | None:
    return _OUTCOMES.get(item.value.key)

"""From findings to a reading priority, with the reason in words.

The rule: a finding can raise a study, none can lower it, and support devices alone never raise it.
"""

from __future__ import annotations

from dataclasses import replace

from models.findings import Finding, ImageFindings, Laterality, Priority, in_words, percent

# ACR actionable categories (CID 7035): 1 wants minutes, 2 wants hours; everything else is read in its turn.
URGENCY: dict[str, Priority] = {
    "pneumothorax": Priority.CRITICAL,
    "pneumoperitoneum": Priority.CRITICAL,
    "consolidation": Priority.URGENT,
    "covid_atypical": Priority.URGENT,
    "covid_indeterminate": Priority.URGENT,
    "covid_typical": Priority.URGENT,
    "edema": Priority.URGENT,
    "effusion": Priority.URGENT,
    "fracture": Priority.URGENT,
    "infiltration": Priority.URGENT,
    "lung_opacity": Priority.URGENT,
    "mass": Priority.URGENT,
    "mediastinal_widening": Priority.URGENT,
    "pneumonia": Priority.URGENT,
    "tuberculosis": Priority.URGENT,
}


def prioritise(findings: ImageFindings) -> ImageFindings:
    """Set the priority of one image and say why."""
    if all(run.failure for run in findings.runs):
        return replace(findings, priority=Priority.NONE, priority_reason="No model answered")
    if not findings.present:
        return replace(findings, priority=Priority.ROUTINE, priority_reason="Nothing found by the evaluated models")
    leading = min(findings.present, key=lambda f: (urgency(f).rank, -(f.probability or 0.0)))
    return replace(findings, priority=urgency(leading), priority_reason=describe(leading))


def urgency(finding: Finding) -> Priority:
    """How soon a finding, if present, wants to be read."""
    return URGENCY.get(finding.key, Priority.ROUTINE)


def describe(finding: Finding) -> str:
    """A finding as people say it: ``Pneumothorax 91 %, right``."""
    words = in_words(finding.key)
    if finding.probability is not None:
        words += f" {percent(finding.probability)} %"
    sides = {Laterality.RIGHT: ", right", Laterality.LEFT: ", left", Laterality.BILATERAL: ", both sides"}
    return words + (sides[finding.laterality] if finding.laterality else "")

"""From findings to a reading priority, with the reason in words.

The rule: a finding can raise a study, none can lower it, and support devices alone never raise it; nor does a finding
that was derived from others by criteria, for where they press they have raised it themselves. That nothing was found is
said only where a finding was evaluated, and a model that failed is named.
"""

from __future__ import annotations

from dataclasses import replace

from models.findings import Finding, FindingState, ImageFindings, Laterality, Priority, percent
from models.names import in_words


def prioritise(findings: ImageFindings) -> ImageFindings:
    """Set the priority of one image and say why."""
    failed = [run.model.name.replace("_", " ") for run in findings.runs if run.failure]
    leading = findings.leading
    if failed and len(failed) == len(findings.runs):
        priority, reason, failed = Priority.NONE, "No model answered", []
    elif leading is not None:
        priority, reason = leading.urgency, describe(leading)
    elif findings.evaluated:
        own = [finding for finding in findings.findings if finding.key not in findings.derived]
        open_ = sum(finding.state is FindingState.UNDETERMINED for finding in own)
        reason = (
            f"Nothing called present, {open_} undetermined" if open_ else "Nothing found among the evaluated findings"
        )
        priority = Priority.ROUTINE
    else:
        priority, reason = Priority.NONE, "No finding was evaluated"
    return replace(
        findings, priority=priority, priority_reason="; ".join([reason, *(f"{name} model failed" for name in failed)])
    )


def describe(finding: Finding) -> str:
    """A finding as people say it: ``Pneumothorax 91 %, right``."""
    words = in_words(finding.key)
    if finding.probability is not None:
        words += f" {percent(finding.probability)} %"
    sides = {Laterality.RIGHT: ", right", Laterality.LEFT: ", left", Laterality.BILATERAL: ", both sides"}
    return words + (sides[finding.laterality] if finding.laterality else "")

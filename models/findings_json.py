"""The findings of an image as JSON types: what the ledger keeps and ``./hilum predict`` prints.

The rule: all but the pixels is there; segments and maps are listed by key, lines are left to the objects.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from models.findings import Finding, ImageFindings


def findings_json(image: ImageFindings) -> dict[str, Any]:
    """Everything that is said about an image."""
    return {
        "sop_instance_uid": image.sop_instance_uid,
        "rows": image.rows,
        "columns": image.columns,
        "view": image.view.value,
        "models": {run.model.name: run.model.version for run in image.runs},
        "precisions": {run.model.name: run.precision.value for run in image.runs},
        "failures": {run.model.name: run.failure for run in image.runs if run.failure},
        "findings": [_finding_json(f) for f in image.findings],
        "segments": [s.key for s in image.segments],
        "maps": [s.key for s in image.saliency],
        "measurements": [
            {"key": m.key, "value": round(m.value, 4), "unit": m.unit, "caution": m.caution} for m in image.measurements
        ],
        "criteria": [asdict(criterion) | {"met": criterion.met} for criterion in image.criteria],
        "priority": image.priority.value,
        "priority_reason": image.priority_reason,
        "cautions": list(image.cautions),
        "route": image.route,
    }


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "key": finding.key,
        "state": finding.state.value,
        "probability": None if finding.probability is None else round(finding.probability, 4),
        "threshold": finding.threshold,
        "laterality": finding.laterality.value if finding.laterality else None,
        "regions": [
            [round(r.x, 1), round(r.y, 1), round(r.width, 1), round(r.height, 1), finding.key, round(r.score, 4)]
            for r in finding.regions
        ],
        "reason": finding.reason,
        "model": finding.model,
    }

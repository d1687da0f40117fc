"""One row of the reading worklist, made from a task of the ledger. Pure functions, no I/O.

The rule: a row says only what the ledger holds. A study without an answer has no findings, not "normal" ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

DISCLAIMER = "Research software, not a medical device. AI results, not reviewed."
_STATE_RANK = {"present": 0, "undetermined": 1, "absent": 2, "not_evaluated": 3}


@dataclass(frozen=True)
class FindingCell:
    """The state of one finding in a study: the most telling of its images."""

    key: str
    state: str
    probability: float | None
    laterality: str | None
    regions: int

    @property
    def label(self) -> str:
        """In words, e.g. ``Lung opacity``."""
        return self.key.replace("_", " ").capitalize()


@dataclass(frozen=True)
class WorklistRow:
    """A study as the worklist shows it; times are seconds since 1970 (UTC)."""

    study_instance_uid: str
    status: str
    priority: str
    reason: str | None
    message: str | None
    received_at: float
    completed_at: float | None
    patient_name: str = field(repr=False)
    patient_id: str = field(repr=False)
    patient_birth_date: str = field(repr=False)
    patient_sex: str = field(repr=False)
    accession_number: str = field(repr=False)
    study_date: str
    study_time: str
    study_description: str = field(repr=False)
    findings: tuple[FindingCell, ...]
    views: tuple[str, ...]
    models: tuple[tuple[str, str], ...]
    refused: tuple[tuple[str, str], ...]
    cautions: tuple[str, ...]

    @property
    def ohif_url(self) -> str:
        """The link that opens the study with its results."""
        return f"/ohif/viewer?StudyInstanceUIDs={quote(self.study_instance_uid)}"

    def in_state(self, *states: str) -> tuple[FindingCell, ...]:
        """The findings in one of these states, the most probable first."""
        chosen = [f for f in self.findings if f.state in states]
        return tuple(sorted(chosen, key=lambda f: (_STATE_RANK[f.state], -(f.probability or 0.0))))


def worklist_row(task: dict[str, Any]) -> WorklistRow:
    """Make the row of one task as ``tasks.reading_order`` gives it."""
    images = task["result"].get("images", [])
    read = [image for image in images if image["status"] == "done"]
    return WorklistRow(
        study_instance_uid=task["study_instance_uid"],
        status=task["status"],
        priority=task["priority"],
        reason=task["reason"],
        message=task["message"],
        received_at=task["received_at"],
        completed_at=task["completed_at"],
        patient_name=task["patient_name"],
        patient_id=task["patient_id"],
        patient_birth_date=task["patient_birth_date"],
        patient_sex=task["patient_sex"],
        accession_number=task["accession_number"],
        study_date=task["study_date"],
        study_time=task["study_time"],
        study_description=task["study_description"],
        findings=_study_findings(read),
        views=tuple(image["view"] for image in read),
        models=tuple(sorted({pair for image in read for pair in image["models"].items()})),
        refused=tuple((i["reason"], i["message"]) for i in images if i["status"] == "not_processed"),
        cautions=tuple(sorted({caution for image in read for caution in image["cautions"]})),
    )


def to_json(row: WorklistRow) -> dict[str, Any]:
    """The row of ``GET /hilum/api/worklist``: a contract with other programs."""
    return {
        "study_instance_uid": row.study_instance_uid,
        "status": row.status,
        "priority": row.priority,
        "reason": row.reason,
        "message": row.message,
        "findings": [
            {"key": f.key, "state": f.state, "probability": f.probability, "laterality": f.laterality,
             "regions": f.regions}
            for f in row.findings
        ],
        "refused_images": [{"reason": reason, "message": message} for reason, message in row.refused],
        "views": list(row.views),
        "models": dict(row.models),
        "cautions": list(row.cautions),
        "received_at": row.received_at,
        "completed_at": row.completed_at,
        "ohif_url": row.ohif_url,
        "patient_name": row.patient_name,
        "patient_id": row.patient_id,
        "accession_number": row.accession_number,
        "study_date": row.study_date,
        "study_time": row.study_time,
        "study_description": row.study_description,
    }  # fmt: skip


def _study_findings(images: list[dict[str, Any]]) -> tuple[FindingCell, ...]:
    """For each finding its most telling image: present before undetermined, the more probable first; never a mean."""
    best: dict[str, FindingCell] = {}
    for image in images:
        for f in image["findings"]:
            cell = FindingCell(f["key"], f["state"], f["probability"], f["laterality"], len(f["regions"]))
            if cell.key not in best or _rank(cell) < _rank(best[cell.key]):
                best[cell.key] = cell
    return tuple(best.values())


def _rank(cell: FindingCell) -> tuple[int, float]:
    return _STATE_RANK[cell.state], -(cell.probability or 0.0)

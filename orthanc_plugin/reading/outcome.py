"""What the ledger keeps of a study that was read: an entry for each image, the answer, when the study is complete."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from models.findings import ImageFindings, Priority
from models.findings_json import findings_json
from models.reading import Reading
from models.refusal import Evidence, ImageRefused, Refusal
from models.study import StudyFindings
from orthanc_plugin.ledger.tasks import InferenceTask, Outcome, TaskStatus
from orthanc_plugin.reading.publishing import Published
from orthanc_plugin.settings import Settings

_HISTORY = 20  # earlier answers that are remembered


def read_entry(
    reading: Reading, published: Published, instance: str, received: str, calling_ae_title: str = ""
) -> dict[str, Any]:
    """The entry of an image that has its results; `instance` is Orthanc's name for it."""
    findings, gate = reading.findings, reading.gate
    return {
        **findings_json(findings),
        "status": TaskStatus.DONE.value,
        "reason": None,
        "instance": instance,
        "received": received,
        "calling_ae_title": calling_ae_title,
        "evidence": _evidence_json(reading.evidence),
        "pixel_gate": None if gate is None else {"shows": gate.shows, "score": round(gate.score, 4)},
        "segmentation": published.segmentation,
        "measurement_report": published.measurement_report,
        "thumbnail": published.pictures.thumbnail,
        "layers": list(published.pictures.layers),
        "aspect": published.pictures.aspect,
    }


def refused_entry(sop_instance_uid: str, refusal: ImageRefused) -> dict[str, Any]:
    """The entry of an image that is not read, or, without a SOP Instance UID, of a whole series."""
    return {
        "sop_instance_uid": sop_instance_uid,
        "status": TaskStatus.NOT_PROCESSED.value,
        "reason": refusal.code.value,
        "message": str(refusal),
        "evidence": _evidence_json(refusal.evidence),
    }


def is_read(entry: dict[str, Any]) -> bool:
    """Whether the image of an entry has its results."""
    return bool(entry["status"] == TaskStatus.DONE.value)


def received_at(text: str) -> datetime:
    """When Orthanc received something (UTC, ``YYYYMMDDTHHMMSS``), in the time zone of this node."""
    return datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=UTC).astimezone()


def unread(entries: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Why images are not read, one code for each, in the order of the codes."""
    counted = Counter(entry["reason"] for entry in entries)
    return tuple(code.value for code in Refusal for _ in range(counted[code.value]))


def complete_at(task: InferenceTask, entries: Sequence[dict[str, Any]], settings: Settings) -> float:
    """When a study counts as complete, in seconds since 1970: its own report is made then.

    That is when no image has come for `quiet_seconds`, or all `expected_views` are there, or
    `study_deadline_seconds` have passed since the first readable image of which the last report does not tell.
    """
    seen = {"frontal" if is_read(entry) else entry["reason"] for entry in entries}
    seen = {"lateral" if view == Refusal.VIEW.value else view for view in seen}
    if settings.expected_views and seen.issuperset(settings.expected_views):
        return 0.0
    known = set(task.result.get("concluded", ()))
    new = [received_at(e["received"]).timestamp() for e in entries if is_read(e) and e["sop_instance_uid"] not in known]
    first = min(new, default=task.last_instance_at)
    latest = min(task.last_instance_at, time.time())  # the clock may have been put back since
    return min(latest + settings.quiet_seconds, first + settings.study_deadline_seconds)


def outcome_of(
    task: InferenceTask,
    entries: list[dict[str, Any]],
    answers: Sequence[ImageFindings],
    *,
    report: str | None,
    conclude_at: float | None,
    content: str,
    patients: int = 1,
) -> Outcome:
    """The answer for the ledger.

    Parameters
    ----------
    report
        SOP Instance UID of the preliminary report, the earlier one while this one is not due.
    conclude_at
        When that is; None when it is made.
    content
        From ``study_content.content_digest``.
    patients
        Whose images were read. Of more than one, the worklist says so first.
    """
    study = StudyFindings(task.study_instance_uid, tuple(answers)) if answers else None
    priority = study.leading.priority if study is not None else Priority.NONE
    concluded = [e["sop_instance_uid"] for e in entries] if conclude_at is None else task.result.get("concluded", [])
    result = {**_versioned(task.result, entries, priority), "preliminary_report": report, "concluded": concluded}
    if study is not None:
        status, reason, message = TaskStatus.DONE, None, study.priority_reason
        if patients > 1:
            reason = "several_patients"
            message = f"Images of {patients} patients share this Study Instance UID: see each image. {message}"
    else:  # the image that came closest to being read says most about why there is no answer
        nothing = {"reason": Refusal.MODALITY.value, "message": "the study holds no image"}
        closest = max(entries, key=lambda e: list(Refusal).index(Refusal(e["reason"])), default=nothing)
        status, reason, message = TaskStatus.NOT_PROCESSED, closest["reason"], closest["message"]
    return Outcome(
        status,
        priority.value,
        priority.rank,
        result,
        reason=reason,
        message=message,
        conclude_at=conclude_at,
        content=content,
    )


def _versioned(before: dict[str, Any], entries: list[dict[str, Any]], priority: Priority) -> dict[str, Any]:
    """The study's answer; another set of images, or another fate of one, makes it a new version of the last."""
    version, history = int(before.get("version", 0)), list(before.get("history", []))
    if not version or _fates(before["images"]) != _fates(entries):
        version += 1
        history.append(
            {
                "version": version,
                "answered_at": time.time(),
                "priority": priority.value,
                "images_read": sum(map(is_read, entries)),
            }
        )
    return {"version": version, "images": entries, "history": history[-_HISTORY:]}


def _fates(entries: Sequence[dict[str, Any]]) -> Counter[tuple[str, str, str]]:
    return Counter((e["sop_instance_uid"], e["status"], e["reason"] or e["measurement_report"]) for e in entries)


def _evidence_json(evidence: tuple[Evidence, ...]) -> list[dict[str, str]]:
    return [{"source": e.source, "says": e.says} for e in evidence]

"""One row of the reading worklist, made from a task of the ledger. Pure functions, no I/O.

The rule: a row says only what the ledger holds. A study without an answer has no findings, not "normal" ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any
from urllib.parse import quote

from models.names import in_short, in_words, within_sentence
from orthanc_plugin.worklist.reasons import counted, why_in_words

DISCLAIMER = "Research software, not a medical device. AI result, not verified."
IMAGE_CONDITIONS = ("study_instance_uid", "sop_instance_uid", "status", "view", "reason", "evidence", "caution")
_PRIORITIES = ("critical", "urgent", "routine", "none")
# Findings that say that nothing was found (``models.findings.OF_ABSENCE``).
_OF_ABSENCE = frozenset({"no_finding", "covid_negative"})
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
        """In words, e.g. ``Typical appearance for COVID-19 pneumonia``."""
        return in_words(self.key)

    @property
    def short(self) -> str:
        """The same for a list, e.g. ``COVID-19: typical``."""
        return in_short(self.key)


@dataclass(frozen=True)
class Thumbnail:
    """Where the small picture of a radiograph with the AI's marks lies, and what it shows, in words."""

    url: str
    words: str


@dataclass(frozen=True)
class ImageLine:
    """What became of one image, or of a whole series that was not looked at, and why.

    Parameters
    ----------
    sop_instance_uid
        Empty for a series.
    view
        Empty when it was not read.
    reason, message
        Code and words of a refusal; None when it was read.
    evidence
        What was looked at, in order: attribute (or ``pixels``) and what it said.
    """

    sop_instance_uid: str
    status: str
    view: str
    reason: str | None
    message: str | None
    evidence: tuple[tuple[str, str], ...]
    cautions: tuple[str, ...]
    thumbnail: Thumbnail | None = None

    def to_json(self) -> dict[str, Any]:
        """As the interface gives it."""
        return {
            "sop_instance_uid": self.sop_instance_uid,
            "status": self.status,
            "view": self.view or None,
            "reason": self.reason,
            "message": self.message,
            "evidence": [{"source": source, "says": says} for source, says in self.evidence],
            "cautions": list(self.cautions),
            "thumbnail": self.thumbnail.url if self.thumbnail else None,
        }


@dataclass(frozen=True)
class ReadingState:
    """What people have done with a study; times are seconds since 1970 (UTC).

    Parameters
    ----------
    group
        Where it stands: ``critical``, ``overdue``, ``urgent``, ``routine``, ``read`` (``ledger.reading_order``).
    due_at
        When the waiting limit of its priority ends, or ended.
    read_at, read_by
        When a person read it; None and who read it before, or nobody, while it is unread.
    changed
        An image or another answer came after it was read.
    reopened_at
        When it became unread because its priority rose after it had been read; None when it did not.
    claimed_by, claimed_until
        Who has it in hand; empty: nobody.
    """

    group: str
    due_at: float
    read_at: float | None
    read_by: str
    changed: bool
    reopened_at: float | None
    claimed_by: str
    claimed_until: float
    assigned_to: str


@dataclass(frozen=True)
class WorklistRow:
    """A study as the worklist shows it; times are seconds since 1970 (UTC).

    Parameters
    ----------
    version
        Of the study's answer: it grows when images come or are answered differently; 0 before the first answer.
    history
        When each version was answered, with its priority and the number of images that were read.
    images
        Each image with what became of it.
    thumbnail
        Of the image that sets the priority; None when it has none.
    why
        Why it has its priority, in words; empty before the first answer.
    first_answer
        Whether that is a first answer, whose results are not stored yet.
    lowered_from
        The earlier answer whose priority it keeps, e.g. ``critical, Pneumothorax 91 %``; empty when it keeps none.
    marks
        How often people did something with it.
    attempts
        How often reading it failed by itself since its last image.
    trace
        Where it failed: lines of ``file:line function``.
    """

    study_instance_uid: str
    status: str
    priority: str
    reason: str | None
    message: str | None
    why: str
    first_answer: bool
    lowered_from: str
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
    referring_physician: str = field(repr=False)
    patient_age: str = field(repr=False)
    marks: int
    reading: ReadingState
    findings: tuple[FindingCell, ...]
    views: tuple[str, ...]
    models: tuple[tuple[str, str], ...]
    images: tuple[ImageLine, ...]
    version: int
    history: tuple[dict[str, Any], ...]
    cautions: tuple[str, ...]
    thumbnail: Thumbnail | None
    attempts: int
    trace: tuple[str, ...]

    @property
    def ohif_url(self) -> str:
        """The link that opens the study with its results."""
        return f"/ohif/viewer?StudyInstanceUIDs={quote(self.study_instance_uid)}"

    def in_state(self, *states: str) -> tuple[FindingCell, ...]:
        """The findings in one of these states, the most probable first."""
        chosen = [f for f in self.findings if f.state in states]
        return tuple(sorted(chosen, key=lambda f: (_STATE_RANK[f.state], -(f.probability or 0.0))))

    @property
    def found(self) -> tuple[FindingCell, ...]:
        """What was called present; not a class such as "no finding"."""
        return tuple(f for f in self.in_state("present") if f.key not in _OF_ABSENCE)

    @property
    def nothing(self) -> str:
        """What stands in place of findings when none is present; a study of which nothing is known is not one of those
        in which nothing was found.
        """
        evaluated = self.in_state("present", "undetermined", "absent")
        return "Nothing called present" if evaluated else "No finding was evaluated"

    @property
    def seen(self) -> str:
        """What who looks at this row has seen of the AI's answer, as a mark of reading names it."""
        return f"{self.version}:{self.priority}"

    @property
    def refused(self) -> tuple[ImageLine, ...]:
        """The images without a result."""
        return tuple(image for image in self.images if image.status != "done")


def worklist_row(task: dict[str, Any]) -> WorklistRow:
    """Make the row of one task as ``ledger.pages`` gives it."""
    images = task["result"].get("images", [])
    read = [image for image in images if image["status"] == "done"]
    found = _study_findings(read)
    undetermined = sum(f.state == "undetermined" for f in found)
    return WorklistRow(
        study_instance_uid=task["study_instance_uid"],
        status=task["status"],
        priority=task["priority"],
        reason=task["reason"],
        message=task["message"] and counted(task["message"], undetermined),
        why=why_in_words(task, read, undetermined),
        first_answer=bool(task["first_answer"]),
        lowered_from=task["lowered_from"],
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
        referring_physician=task["referring_physician"],
        patient_age=task["patient_age"],
        marks=task["marks"],
        reading=ReadingState(**{f.name: task[f.name] for f in fields(ReadingState)}),
        findings=found,
        views=tuple(image["view"] for image in read),
        models=tuple(sorted({pair for image in read for pair in image["models"].items()})),
        images=tuple(image_line(image, task["study_instance_uid"]) for image in images),
        version=task["result"].get("version", 0),
        history=tuple(task["result"].get("history", ())),
        cautions=tuple(sorted({caution for image in read for caution in image["cautions"]})),
        thumbnail=_thumbnail(min(read, key=_pressing), task["study_instance_uid"]) if read else None,
        attempts=task["attempts"],
        trace=tuple((task["trace"] or "").splitlines()),
    )


def image_line(image: dict[str, Any], study_instance_uid: str) -> ImageLine:
    """Make the line of one entry of a task's result."""
    return ImageLine(
        sop_instance_uid=image["sop_instance_uid"],
        status=image["status"],
        view=image.get("view", ""),
        reason=image.get("reason"),
        message=image.get("message"),
        # the first version kept one sentence, or nothing
        evidence=tuple((e["source"], e["says"]) for e in image.get("evidence", ()) if isinstance(e, dict)),
        cautions=tuple(image.get("cautions", ())),
        thumbnail=_thumbnail(image, study_instance_uid),
    )


def matching_images(tasks: list[dict[str, Any]], wanted: Mapping[str, str]) -> list[dict[str, Any]]:
    """Images of these tasks that fit every condition, as JSON types with their study.

    Parameters
    ----------
    wanted
        ``study_instance_uid``, ``sop_instance_uid``, ``status``, ``view``, ``reason``: equal to; ``evidence``: the
        attribute that was looked at, e.g. ``ViewPosition``; ``caution``: one of its cautions.

    Raises
    ------
    ValueError
        When a condition is unknown.
    """
    if unknown := sorted(set(wanted) - set(IMAGE_CONDITIONS)):
        raise ValueError(f"unknown condition {unknown[0]}; known are {', '.join(IMAGE_CONDITIONS)}")
    found = []
    for task in tasks:
        for image in task["result"].get("images", []):
            study = task["study_instance_uid"]
            entry = {"study_instance_uid": study, **image_line(image, study).to_json()}
            values = {
                **{name: [value] for name, value in entry.items()},
                "evidence": [e["source"] for e in entry["evidence"]],
                "caution": entry["cautions"],
            }
            if all(value in values[name] for name, value in wanted.items()):
                found.append(entry)
    return found


def to_json(row: WorklistRow) -> dict[str, Any]:
    """The row of ``GET /hilum/api/worklist``: a contract with other programs."""
    return {
        "study_instance_uid": row.study_instance_uid,
        "status": row.status,
        "priority": row.priority,
        "reason": row.reason,
        "message": row.message,
        "priority_reason": row.why or None,
        "lowered_from": row.lowered_from or None,
        "attempts": row.attempts,
        "trace": list(row.trace),
        "findings": [
            {"key": f.key, "state": f.state, "probability": f.probability, "laterality": f.laterality,
             "regions": f.regions}
            for f in row.findings
        ],
        "version": row.version,
        "history": list(row.history),
        "images": [image.to_json() for image in row.images],
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
        "patient_birth_date": row.patient_birth_date,
        "patient_sex": row.patient_sex,
        "patient_age": row.patient_age,
        "referring_physician": row.referring_physician,
        **asdict(row.reading),
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


def _thumbnail(image: dict[str, Any], study_instance_uid: str) -> Thumbnail | None:
    if not image.get("thumbnail"):
        return None
    url = f"/hilum/thumbnails/{quote(image['measurement_report'])}?study_instance_uid={quote(study_instance_uid)}"
    return Thumbnail(url, _shown(image))


def _shown(image: dict[str, Any]) -> str:
    """What a thumbnail shows of what was called present: heat maps, and boxes and outlines where there is none."""
    present = [f for f in image["findings"] if f["state"] == "present" and f["key"] not in _OF_ABSENCE]
    # the first versions listed no maps: whatever had regions had one
    maps = image.get("maps", [f["key"] for f in present if f["regions"]])
    drawn = [f for f in present if f["key"] not in maps and (f["regions"] or f["key"] in image.get("segments", ()))]
    parts = [("AI heat map", [f for f in present if f["key"] in maps]), ("AI outline", drawn)]
    if told := [f"{what}: {'; '.join(map(_named, shown))}" for what, shown in parts if shown]:
        return ". ".join(told)
    if present:
        return "Radiograph; nothing drawn for what was called present"
    evaluated = any(f["state"] != "not_evaluated" for f in image["findings"])
    return f"Radiograph; {'nothing called present' if evaluated else 'no finding was evaluated'}"


def _named(finding: dict[str, Any]) -> str:
    side = f", {finding['laterality']}" if finding["laterality"] else ""
    return f"{within_sentence(finding['key'])}{side}"


def _pressing(image: dict[str, Any]) -> tuple[int, float]:
    """Orders the images of a study as ``models.triage`` does, then by what was called present with most certainty."""
    present = [f["probability"] or 0.0 for f in image["findings"] if f["state"] == "present"]
    return _PRIORITIES.index(image.get("priority", "none")), -max(present, default=0.0)


def _rank(cell: FindingCell) -> tuple[int, float]:
    return _STATE_RANK[cell.state], -(cell.probability or 0.0)

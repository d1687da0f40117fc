"""The page of one study, made from its row, its marks and what Orthanc holds of it. Pure functions, no I/O.

The rule: as on the worklist, only what the ledger, the audit log and the stored objects hold; what is not known is left
out, and a prior study is never taken for this patient's because of the Patient ID alone: name and birth date are held
beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from models.names import in_words
from orthanc_plugin.worklist.content_tree import Run, Section
from orthanc_plugin.worklist.rows import FindingCell, ImageLine, WorklistRow, image_line, worklist_row

_REASONS = {
    "evidence": "the evidence for it does not carry",
    "model_failed": "the model failed",
    "view": "not in this view",
    "no_model": "no active model looks for it",
    "routing": "a rule of the site left its model out",
    "refused": "the image is no longer read",
}
_WHY = {
    "critical": "a finding that wants minutes was called present",
    "urgent": "a finding that wants to be read within hours was called present",
    "routine": "nothing was called present that raises it",
    "none": "nothing was read, so the AI has no opinion",
}
_SAID = {
    "claim": "claimed", "release": "released", "read": "marked as read", "unread": "marked as unread",
    "reopened": "unread again: its priority rose", "assign": "assigned", "agree": "agreed with the AI",
    "disagree": "disagreed with the AI", "note": "left a note", "undo": "took a mark back",
}  # fmt: skip
_SEEN = {
    "view_study": "opened",
    "retry": "had it tried again",
    "reread": "had it read once more",
    "store": "stored or deleted objects",
}


@dataclass(frozen=True)
class Evidence:
    """What a finding's state rests on, in one image.

    Parameters
    ----------
    absent_below, present_from
        Probabilities between which it is undetermined; None where that is not known, or it is derived by criteria.
    basis
        On what its probability was calibrated, in words; empty when the model does not tell.
    why
        Why it was not evaluated, in words; empty when it was.
    """

    finding: FindingCell
    model: str
    absent_below: float | None
    present_from: float | None
    basis: str
    why: str


@dataclass(frozen=True)
class Box:
    """A region in stored pixels, with a name."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class ImageDetail:
    """One image of the study with everything that is said of it.

    Parameters
    ----------
    aspect
        Height of a stored pixel over its width.
    layers
        Addresses of ``picture``, ``outlines`` and ``heat_map``, those that there are.
    fallback
        Address of Orthanc's own rendering, for an image that has no picture of ours; empty when it has.
    runs
        The models with their digests, as its report names them.
    """

    line: ImageLine
    report: str
    rows: int
    columns: int
    aspect: float
    layers: Mapping[str, str]
    fallback: str
    boxes: tuple[Box, ...]
    outlined: tuple[str, ...]
    mapped: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    criteria: tuple[dict[str, Any], ...]
    measurements: tuple[dict[str, Any], ...]
    priority: str
    priority_reason: str
    runs: tuple[Run, ...] = ()

    @property
    def is_of_before(self) -> bool:
        """Whether it was read by a Hilum that kept no picture for this page."""
        return self.line.status == "done" and "picture" not in self.layers

    def in_state(self, *states: str) -> tuple[Evidence, ...]:
        """The findings in one of these states, the most probable first."""
        chosen = [e for e in self.evidence if e.finding.state in states]
        order = {state: number for number, state in enumerate(states)}
        return tuple(sorted(chosen, key=lambda e: (order[e.finding.state], -(e.finding.probability or 0.0))))


@dataclass(frozen=True)
class Prior:
    """Another study under the same Patient ID, and whether it is of the same person as far as the headers tell."""

    row: WorklistRow
    same_name: bool
    same_birth_date: bool
    url: str

    @property
    def doubt(self) -> str:
        """What does not agree, in words; empty when name and birth date do."""
        parts = [*["another name"] * (not self.same_name), *["another birth date"] * (not self.same_birth_date)]
        return " and ".join(parts)


@dataclass(frozen=True)
class Moment:
    """Something that happened to the study; `who` is empty for the node itself."""

    at: float
    what: str
    who: str = ""
    note: str = field(default="", repr=False)


@dataclass(frozen=True)
class StudyDetail:
    """Everything on the page of a study.

    Parameters
    ----------
    why
        Why it has its priority, in words.
    judgements
        By finding: who agreed or disagreed last, and the comment.
    """

    row: WorklistRow
    images: tuple[ImageDetail, ...]
    report: tuple[Section, ...]
    report_uid: str
    priors: tuple[Prior, ...]
    timeline: tuple[Moment, ...]
    judgements: Mapping[str, tuple[tuple[str, bool, str], ...]]
    notes: tuple[Moment, ...]

    @property
    def why(self) -> str:
        """Why the study has its priority."""
        return _WHY.get(self.row.priority, "")


def study_url(study_instance_uid: str) -> str:
    """Where the page of a study is."""
    return f"/hilum/studies/{quote(study_instance_uid)}"


def image_detail(
    image: dict[str, Any], study: str, contracts: Mapping[str, dict[str, Any]], *, fallback: str, runs: tuple[Run, ...]
) -> ImageDetail:
    """Make the part of one image from its entry in the ledger.

    Parameters
    ----------
    contracts
        By model name the section ``hilum`` of its metadata, of the version that read the image.
    """
    report, found = image.get("measurement_report") or "", image.get("findings", ())
    base = f"{study_url(study)}/images/{quote(report)}"
    layers = {name: f"{base}/{name}" for name in image.get("layers", ())}
    boxes = [(f, region) for f in found if f["state"] == "present" for region in f["regions"]]
    return ImageDetail(
        line=image_line(image, study),
        report=report,
        rows=int(image.get("rows") or 0),
        columns=int(image.get("columns") or 0),
        aspect=float(image.get("aspect") or 1.0),
        layers=layers,
        fallback="" if "picture" in layers else fallback,
        boxes=tuple(Box(r[0], r[1], r[2], r[3], _box_label(f, r)) for f, r in boxes),
        outlined=tuple(in_words(key) for key in image.get("segments", ())),
        mapped=tuple(in_words(key) for key in image.get("maps", ())),
        evidence=tuple(_evidence(f, contracts) for f in found),
        criteria=tuple(image.get("criteria", ())),
        measurements=tuple(image.get("measurements", ())),
        priority=image.get("priority", "none"),
        priority_reason=image.get("priority_reason", ""),
        runs=runs,
    )


def prior_studies(tasks: Iterable[dict[str, Any]], row: WorklistRow) -> tuple[Prior, ...]:
    """Other studies under the Patient ID of `row`, the latest first."""
    listed = []
    for task in tasks:
        other = worklist_row(task)
        if other.study_instance_uid != row.study_instance_uid:
            same_name = _folded(other.patient_name) == _folded(row.patient_name)
            same_birth = other.patient_birth_date == row.patient_birth_date
            listed.append(Prior(other, same_name, same_birth, study_url(other.study_instance_uid)))
    return tuple(sorted(listed, key=lambda p: (p.row.study_date, p.row.study_time), reverse=True))


def timeline(
    row: WorklistRow,
    result: Mapping[str, Any],
    last_instance_at: float,
    stored: Sequence[tuple[str, float]],
    *,
    marks: Iterable[Any],
    seen: Iterable[Mapping[str, Any]],
) -> tuple[Moment, ...]:
    """What happened to the study, the earliest first.

    Parameters
    ----------
    stored
        Names of results and when Orthanc stored them, in seconds since 1970.
    marks
        ``ledger.marks.Mark`` of the study.
    seen
        Entries of the audit log about it.
    """
    moments = [Moment(row.received_at, "first image received")]
    if last_instance_at - row.received_at > 1:
        moments.append(Moment(last_instance_at, "last image received"))
    if started := result.get("started_at"):
        moments.append(Moment(float(started), "reading started"))
    moments += [Moment(at, f"{name} stored") for name, at in stored]
    for entry in row.history:
        read = entry.get("images_read", 0)
        words = f"version {entry['version']}: priority {entry['priority']}, {read} image{'s' * (read != 1)} read"
        moments.append(Moment(float(entry["answered_at"]), f"answered, {words}"))
    if row.status == "quarantined" and row.completed_at:
        moments.append(Moment(row.completed_at, "given up", note=row.message or ""))
    moments += [
        Moment(
            m.made_at, _mark_words(m), "" if m.kind == "reopened" else m.made_by, m.note if m.kind != "assign" else ""
        )
        for m in marks
    ]
    moments += [
        Moment(datetime.fromisoformat(e["time"]).timestamp(), _SEEN[e["action"]], e["who"])
        for e in seen
        if e.get("action") in _SEEN and e.get("outcome") == "done"
    ]
    return tuple(sorted(moments, key=lambda moment: moment.at))


def _mark_words(mark: Any) -> str:
    if mark.kind == "assign":
        return f"assigned to {mark.note}" if mark.note else "assigned to nobody"
    about = f" about {in_words(mark.finding).lower()}" if mark.finding else ""
    return _SAID.get(str(mark.kind), str(mark.kind)) + about


def _evidence(f: dict[str, Any], contracts: Mapping[str, dict[str, Any]]) -> Evidence:
    cell = FindingCell(f["key"], f["state"], f["probability"], f["laterality"], len(f["regions"]))
    model = next((name for name, part in contracts.items() if f["key"] in _contents(part, "findings")), "")
    contract = _contents(contracts.get(model, {}), "findings").get(f["key"], {})
    calibrated = f["probability"] is not None
    figures = _contents(contracts.get(model, {}), "figures").get(f["key"], {})
    return Evidence(
        cell,
        model or next((name for name, part in contracts.items() if part.get("interpreter") == "criteria"), ""),
        contract.get("threshold_absent") if calibrated else None,
        f["threshold"],
        _basis(figures) if calibrated else "",
        "" if f["state"] != "not_evaluated" else _REASONS.get(f["reason"] or "", (f["reason"] or "").replace("_", " ")),
    )


def _basis(figures: Mapping[str, Any]) -> str:
    """On what the probability rests, e.g. ``434 held-out images, 125 of them positive; AUROC 0.82 (0.78 to 0.86)``."""
    try:
        auroc = figures["auroc"]
        return (
            f"{figures['images']} images of patients not learnt from, {figures['positives']} positive; "
            f"AUROC {auroc['value']:.2f} ({auroc['low']:.2f} to {auroc['high']:.2f}), "
            f"calibration error {100 * figures['calibration']:.1f} %"
        )
    except (KeyError, TypeError, ValueError):
        return ""


def _contents(part: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = part.get(name)
    return found if isinstance(found, Mapping) else {}


def _box_label(f: dict[str, Any], region: Sequence[Any]) -> str:
    return f"{in_words(f['key'])} {100 * float(region[5]):.0f} %"


def _folded(name: str) -> str:
    """A PN without what two systems write differently: case, empty components, spaces."""
    return " ".join(name.replace("^", " ").replace("=", " ").casefold().split())

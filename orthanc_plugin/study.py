"""Reads one study: every image is looked at, each exposure is read once, and the most pressing answer speaks for all.

The rule: what a study holds is listed whole. An image without a result has a code and the evidence for it; nothing is
averaged over images.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dicom_sr.ownership import ACCOMPANYING_MODALITIES, MODEL_NAME, is_own_result
from dicom_sr.report.wording import Wording
from dicom_sr.results import EncodingFailed
from models.exposures import relation
from models.findings import ImageFindings, Priority, StudyFindings
from models.header_terms import plain_code
from models.inference import Models
from models.intake import LARGEST_FILE, Intake, NotTakenIn
from models.reading import Reading, read_intake
from models.refusal import Evidence, ImageRefused, Refusal
from orthanc_plugin.isolation import IntakeProcess, policy_of
from orthanc_plugin.orthanc_client import OrthancClient, ResultRefused, Series, StoredInstance
from orthanc_plugin.publishing import ResultWorse, StudyResults
from orthanc_plugin.settings import Settings
from orthanc_plugin.tasks import InferenceTask, Outcome, TaskStatus

# Series of these modalities are looked at image by image; of any other the whole series is refused (intake rules).
_MAY_HOLD_RADIOGRAPHS = frozenset({"CR", "DX", "RG", "DR", "OT", "SC", "XC", ""})
# So many rendered images wait in memory for their turn; of a study with more the others are taken in twice.
_MOST_IN_MEMORY = 4
_HISTORY = 20  # earlier answers that are remembered


log = logging.getLogger("hilum.study")


@dataclass(frozen=True)
class Reader:
    """What a study is read with."""

    settings: Settings
    orthanc: OrthancClient
    models: Models
    intake: IntakeProcess
    wording: Wording


@dataclass
class _Candidate:
    """An image that its header lets pass, waiting for its turn."""

    instance: str
    received: str
    taken: Intake
    in_memory: bool

    def turn(self, read_before: set[str]) -> tuple[bool, bool, float, int, str]:
        """What was read stays read; then originals before what was derived from them, in the order of exposure."""
        key, header = self.taken.key, self.taken.header
        number = str(header.get("InstanceNumber") or "")
        acquired = key.acquired if key.acquired is not None else float("inf")
        first = self.uid not in read_before
        return (
            first,
            not key.original,
            acquired,
            int(number) if number.isdecimal() and len(number) <= 12 else 0,
            self.uid,
        )

    @property
    def uid(self) -> str:
        return str(self.taken.header.SOPInstanceUID)


def process_study(task: InferenceTask, reader: Reader) -> Outcome:
    """Read every radiograph of a study and store the results: the whole flow on one screen.

    Raises
    ------
    OrthancUnavailable
        When Orthanc cannot be reached; the task may be tried again.
    ResultWorse
        When a model failed on an image that it read before; the other images have their results.
    """
    entries: list[dict[str, Any]] = []
    candidates: list[_Candidate] = []
    held = reader.orthanc.series_of_study(task.study_instance_uid)
    for series in _image_series(held, reader.orthanc):
        if series.modality not in _MAY_HOLD_RADIOGRAPHS:
            modality = plain_code(series.modality)
            message = f"a series of {len(series.instances)} {modality} images is not a radiograph"
            evidence = (Evidence("Modality", modality),)
            entries.append(_refused("", ImageRefused(Refusal.MODALITY, message, evidence)))
            continue
        for instance in series.instances:
            try:
                candidates.append(_take_in(instance, reader, in_memory=len(candidates) < _MOST_IN_MEMORY))
            except NotTakenIn as refusal:
                entries.append(_refused(refusal.sop_instance_uid, refusal))
    read_before: list[_Candidate] = []
    answers: list[ImageFindings] = []
    worse: list[ResultWorse] = []
    results = StudyResults(reader.orthanc, held, reader.settings.outputs, reader.wording)
    known = {e["sop_instance_uid"] for e in task.result.get("images", []) if e["status"] == TaskStatus.DONE.value}
    # of an image that came twice, perhaps corrected, the later one speaks
    latest_first = sorted(candidates, key=lambda c: c.received, reverse=True)
    for candidate in sorted(latest_first, key=lambda c: c.turn(known)):
        try:
            _refuse_copy(candidate, read_before)
            taken, reading = _read(candidate, reader)
            entries.append(_publish(candidate, taken, reading, results))
        except ResultWorse as error:
            worse.append(error)
            continue
        except ImageRefused as refusal:
            entries.append(_refused(candidate.uid, refusal))
            continue
        read_before.append(candidate)
        answers.append(reading.findings)
    if worse:  # after the others have their results
        raise worse[0]
    withdrawn = _withdraw(entries, answers, results)
    report = None
    if answers or withdrawn:
        counted = Counter(entry["reason"] for entry in entries)
        unread = tuple(code.value for code in Refusal for _ in range(counted[code.value]))
        study = StudyFindings(task.study_instance_uid, (*answers, *withdrawn), unread)
        arrived = [_received(candidate.received) for candidate in read_before]
        report = results.conclude(study, max(arrived, default=datetime.now(UTC).astimezone()))
    return _outcome(task, entries, answers, report)


def _withdraw(
    entries: list[dict[str, Any]], answers: list[ImageFindings], results: StudyResults
) -> list[ImageFindings]:
    """An image that was read once and is refused now keeps no result that speaks for it."""
    read = {answer.sop_instance_uid for answer in answers}
    withdrawn = []
    for entry in entries:
        uid, reason = entry["sop_instance_uid"], entry["reason"]
        if reason is None or not uid or uid in read:
            continue
        try:
            if (findings := results.withdraw(uid, reason)) is not None:
                withdrawn.append(findings)
        except (EncodingFailed, ResultRefused):
            log.exception("an earlier result still speaks", extra={"sop_instance_uid": uid})
    return withdrawn


def _image_series(found: list[Series], orthanc: OrthancClient) -> Iterator[Series]:
    for series in sorted(found, key=lambda s: s.series_instance_uid):
        if series.modality in ACCOMPANYING_MODALITIES:
            continue
        named_as_ours = is_own_result(series.modality, series.manufacturer)
        if not named_as_ours or orthanc.model_name(series.instances[0]) != MODEL_NAME:  # a maker of our name
            yield series


def _take_in(instance: str, reader: Reader, *, in_memory: bool) -> _Candidate:
    stored = _fetch(instance, reader)
    taken = reader.intake.take_in(stored.content, policy_of(reader.settings))
    if not in_memory:
        taken = taken.without_pixels()
    return _Candidate(instance, stored.received, taken, in_memory)


def _fetch(instance: str, reader: Reader) -> StoredInstance:
    if (size := reader.orthanc.file_size(instance)) > LARGEST_FILE:
        message = f"{size} bytes are more than a radiograph holds"
        raise NotTakenIn(Refusal.UNREADABLE_PIXELS, message, (Evidence("file", f"{size} bytes"),))
    return reader.orthanc.fetch(instance)


def _refuse_copy(candidate: _Candidate, read_before: list[_Candidate]) -> None:
    for other in read_before:
        if shared := relation(candidate.taken.key, other.taken.key):
            evidence = (*candidate.taken.selection.evidence, Evidence("pixels", f"{shared} as {other.uid}"))
            raise ImageRefused(Refusal.COPY, f"{shared} as another image of this study, which was read", evidence)


def _read(candidate: _Candidate, reader: Reader) -> tuple[Intake, Reading]:
    taken, policy = candidate.taken, policy_of(reader.settings)
    if not candidate.in_memory:
        taken = reader.intake.take_in(reader.orthanc.fetch(candidate.instance).content, policy)
    return taken, read_intake(taken, reader.models, policy)


def _publish(candidate: _Candidate, taken: Intake, reading: Reading, results: StudyResults) -> dict[str, Any]:
    """Store the results of one image; returns the row's entry."""
    findings, gate = reading.findings, reading.gate
    try:
        published = results.publish(taken.header, findings, taken.image, _received(candidate.received))
    except (EncodingFailed, ResultRefused) as error:  # one odd header must not cost the other images their answer
        log.exception("results could not be made", extra={"study_instance_uid": findings.study_instance_uid})
        message = "no results can be made of this header, perhaps for an invalid identifier; see the worker's log"
        raise ImageRefused(Refusal.UNREADABLE_HEADER, message, reading.evidence) from error
    return {
        **findings.to_json(),
        "status": TaskStatus.DONE.value,
        "reason": None,
        "evidence": _evidence_json(reading.evidence),
        "pixel_gate": None if gate is None else {"shows": gate.shows, "score": round(gate.score, 4)},
        "segmentation": published.segmentation,
        "measurement_report": published.measurement_report,
        "thumbnail": published.thumbnail,
    }


def _received(text: str) -> datetime:
    """When Orthanc received the image, in the time zone of this node."""
    return datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=UTC).astimezone()


def _refused(sop_instance_uid: str, refusal: ImageRefused) -> dict[str, Any]:
    return {
        "sop_instance_uid": sop_instance_uid,
        "status": TaskStatus.NOT_PROCESSED.value,
        "reason": refusal.code.value,
        "message": str(refusal),
        "evidence": _evidence_json(refusal.evidence),
    }


def _evidence_json(evidence: tuple[Evidence, ...]) -> list[dict[str, str]]:
    return [{"source": e.source, "says": e.says} for e in evidence]


def _outcome(
    task: InferenceTask, entries: list[dict[str, Any]], answers: list[ImageFindings], report: str | None
) -> Outcome:
    study = StudyFindings(task.study_instance_uid, tuple(answers)) if answers else None
    priority = study.leading.priority if study is not None else Priority.NONE
    result = {**_versioned(task.result, entries, priority), "preliminary_report": report}
    if study is not None:
        return Outcome(TaskStatus.DONE, priority.value, priority.rank, result, message=study.priority_reason)
    # the image that came closest to being read says most about why there is no answer
    nothing = {"reason": Refusal.MODALITY.value, "message": "the study holds no image"}
    closest = max(entries, key=lambda e: list(Refusal).index(Refusal(e["reason"])), default=nothing)
    return Outcome(
        TaskStatus.NOT_PROCESSED, priority.value, priority.rank, result, closest["reason"], closest["message"]
    )


def _versioned(before: dict[str, Any], entries: list[dict[str, Any]], priority: Priority) -> dict[str, Any]:
    """The study's answer; another set of images, or another fate of one, makes it a new version of the last."""
    version, history = int(before.get("version", 0)), list(before.get("history", []))
    if not version or _fates(before["images"]) != _fates(entries):
        version += 1
        read_images = sum(entry["status"] == TaskStatus.DONE.value for entry in entries)
        history.append(
            {"version": version, "answered_at": time.time(), "priority": priority.value, "images_read": read_images}
        )
    return {"version": version, "images": entries, "history": history[-_HISTORY:]}


def _fates(entries: list[dict[str, Any]]) -> Counter[tuple[str, str, str]]:
    return Counter((e["sop_instance_uid"], e["status"], e["reason"] or e["measurement_report"]) for e in entries)

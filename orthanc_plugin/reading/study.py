"""Reads one study: every image is looked at, each exposure is read once, and the most pressing answer speaks for all.

The rule: what a study holds is listed whole. An image without a result has a code and the evidence for it; nothing is
averaged over images. An image has its results at once, the study its report when it is complete.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from httpx import HTTPStatusError

from dicom_sr.ownership import ACCOMPANYING_MODALITIES, MODEL_NAME, is_own_result
from dicom_sr.report.wording import Wording
from dicom_sr.results import EncodingFailed
from models.exposures import relation
from models.findings import ImageFindings
from models.header_terms import plain_code
from models.inference import Models
from models.intake import LARGEST_FILE, Intake, NotTakenIn
from models.reading import Reading, read_intake
from models.refusal import Evidence, ImageRefused, Refusal
from models.study import StudyFindings
from orthanc_plugin.archive.client import (
    OrthancClient,
    OrthancUnavailable,
    ResultRefused,
    Series,
    StoredInstance,
)
from orthanc_plugin.archive.kept_answer import keep_answer
from orthanc_plugin.archive.study_content import content_digest, images_digest
from orthanc_plugin.failpoints import reach
from orthanc_plugin.ledger.flagging import Flag
from orthanc_plugin.ledger.tasks import InferenceTask, Outcome
from orthanc_plugin.reading.intake_process import IntakeProcess, policy_of
from orthanc_plugin.reading.outcome import (
    complete_at,
    is_read,
    outcome_of,
    read_entry,
    received_at,
    refused_entry,
    unread,
)
from orthanc_plugin.reading.publishing import ResultWorse, StudyResults
from orthanc_plugin.reading.recent_reports import RecentReports
from orthanc_plugin.reading.routing import RULE, models_for, route_of
from orthanc_plugin.reading.shadow import Shadows
from orthanc_plugin.settings import Settings

# Series of these modalities are looked at image by image; of any other the whole series is refused (intake rules).
_MAY_HOLD_RADIOGRAPHS = frozenset({"CR", "DX", "RG", "DR", "OT", "SC", "XC", ""})
# So many rendered images wait in memory for their turn; of a study with more the others are taken in twice.
_MOST_IN_MEMORY = 4


log = logging.getLogger("hilum.study")


@dataclass(frozen=True)
class Reader:
    """What a study is read with."""

    settings: Settings
    orthanc: OrthancClient
    models: Models
    intake: IntakeProcess
    wording: Wording
    shadows: Shadows = field(default_factory=Shadows)
    recent: RecentReports = field(default_factory=RecentReports)


@dataclass
class _Candidate:
    """An image that its header lets pass, waiting for its turn."""

    instance: str
    received: str
    calling_ae_title: str
    taken: Intake
    in_memory: bool
    models: Models

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
    def patient(self) -> str:
        return str(self.taken.header.get("PatientID") or "")

    @property
    def uid(self) -> str:
        return str(self.taken.header.SOPInstanceUID)


@dataclass(frozen=True)
class _Job:
    """One study at work; `held` is what Orthanc held of it when it was looked at."""

    task: InferenceTask
    reader: Reader
    held: list[Series]
    results: StudyResults
    tell: Callable[[Flag], None]


@dataclass(frozen=True)
class _Read:
    """What became of the images of a study.

    Parameters
    ----------
    entries
        For the ledger, one for each image.
    answers
        Of those that were read.
    withdrawn
        Of those that were read once and are refused now.
    looked_at
        What the answer says of when and at what the study was looked.
    """

    entries: list[dict[str, Any]]
    answers: list[ImageFindings]
    withdrawn: list[ImageFindings]
    looked_at: dict[str, Any]

    @property
    def speaking(self) -> tuple[ImageFindings, ...]:
        """What the report of the study is made from; without any there is none to make."""
        return (*self.answers, *self.withdrawn)


def process_study(task: InferenceTask, reader: Reader, tell: Callable[[Flag], None] = lambda _: None) -> Outcome:
    """Read every radiograph of a study and store the results: the whole flow on one screen.

    Parameters
    ----------
    tell
        Told the priority of the study as soon as the models have answered, before their results are stored.

    Raises
    ------
    OrthancUnavailable
        When Orthanc cannot be reached; the task may be tried again.
    ResultWorse
        When a model failed on an image that it read before; the other images have their results.
    """
    started = task.result.get("started_at") if task.conclude else time.time()
    held = reader.orthanc.series_of_study(task.study_instance_uid)
    results = StudyResults(reader.orthanc, held, reader.settings.outputs, reader.wording, reader.recent)
    job = _Job(task, reader, held, results, tell)
    looked_at = {"looked_at": images_digest(held), "started_at": started}
    as_before = task.conclude and task.result.get("looked_at") == looked_at["looked_at"]  # no image came unnoticed
    if as_before and (recalled := _recall(job)) is not None:
        entries, answers = task.result["images"], recalled
    else:
        entries, answers = _read_images(job)
    read = _Read(entries, answers, _withdraw(entries, answers, results), looked_at)
    if task.conclude or not read.speaking:
        return _conclude(job, read)
    due = complete_at(task, entries, reader.settings)
    if due <= time.time() and (outcome := _conclude_at_once(job, read)) is not None:
        return outcome
    return _outcome(job, read, report=task.result.get("preliminary_report"), conclude_at=due)


def _conclude(job: _Job, read: _Read) -> Outcome:
    """Make the report of a complete study, and keep the answer with it."""
    report = None
    if read.speaking:
        study = StudyFindings(job.task.study_instance_uid, read.speaking, unread(read.entries))
        arrived = [received_at(entry["received"]) for entry in read.entries if is_read(entry)]
        report = job.results.conclude(study, max(arrived, default=datetime.now(UTC).astimezone()))
    outcome = _outcome(job, read, report=report, conclude_at=None)
    keep_answer(job.reader.orthanc, {series.study for series in job.held}, job.task, outcome)
    return outcome


def _conclude_at_once(job: _Job, read: _Read) -> Outcome | None:
    """That of a study that is complete as soon as it is read; None when it needs a pass of its own.

    It does when an image came while the others were read, and when Orthanc is in the way: the images are answered then.
    """
    try:
        now = images_digest(job.reader.orthanc.series_of_study(job.task.study_instance_uid))
        return _conclude(job, read) if now == read.looked_at["looked_at"] else None
    except (OrthancUnavailable, HTTPStatusError) as error:
        about = {"study_instance_uid": job.task.study_instance_uid}
        log.warning("the report of the study follows later: %s", error, extra=about)
        return None


def _outcome(job: _Job, read: _Read, *, report: str | None, conclude_at: float | None) -> Outcome:
    outcome = outcome_of(
        job.task,
        read.entries,
        read.answers,
        report=report,
        conclude_at=conclude_at,
        content=content_digest(job.held, job.results.stored),
        patients=job.results.patients,
    )
    outcome.result.update(read.looked_at)
    return outcome


def _read_images(job: _Job) -> tuple[list[dict[str, Any]], list[ImageFindings]]:
    """Read what can be read, each exposure once; an entry for each image, the findings of those that were read."""
    entries, candidates = _take_in_all(job)
    answers: list[ImageFindings] = []
    read_before: list[_Candidate] = []
    worse: list[ResultWorse] = []
    known = {entry["sop_instance_uid"] for entry in job.task.result.get("images", []) if is_read(entry)}
    # of an image that came twice, perhaps corrected, the later one speaks
    latest_first = sorted(candidates, key=lambda c: c.received, reverse=True)
    for candidate in sorted(latest_first, key=lambda c: c.turn(known)):
        try:
            _refuse_copy(candidate, read_before)
            taken, reading = _read(candidate, job.reader)
            reach("read")
            job.tell(_flag([*answers, reading.findings]))
            entries.append(_publish(candidate, taken, reading, job.results))
        except ResultWorse as error:
            worse.append(error)
            continue
        except ImageRefused as refusal:
            entries.append(refused_entry(candidate.uid, refusal))
            continue
        read_before.append(candidate)
        answers.append(reading.findings)
        job.reader.shadows.remember(taken.image, reading.findings)
    if worse:  # after the others have their results
        raise worse[0]
    return entries, answers


def _flag(answers: list[ImageFindings]) -> Flag:
    study = StudyFindings(answers[0].study_instance_uid, tuple(answers))
    return Flag(study.leading.priority.value, study.leading.priority.rank, study.priority_reason)


def _recall(job: _Job) -> list[ImageFindings] | None:
    """What the stored results of the images say; None when somebody took one of them, or an image, away."""
    held = {instance for series in job.held for instance in series.instances}
    answers = []
    for entry in filter(is_read, job.task.result["images"]):
        if entry["instance"] not in held:
            return None
        if (findings := job.results.recall(entry["sop_instance_uid"])) is None:
            return None
        answers.append(findings)
    return answers


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


def _take_in_all(job: _Job) -> tuple[list[dict[str, Any]], list[_Candidate]]:
    """The entries of what is refused by its header or its series, and the images that may be read."""
    entries: list[dict[str, Any]] = []
    candidates: list[_Candidate] = []
    for series in _image_series(job.held, job.reader.orthanc):
        if series.modality not in _MAY_HOLD_RADIOGRAPHS:
            modality = plain_code(series.modality)
            message = f"a series of {len(series.instances)} {modality} images is not a radiograph"
            refusal = ImageRefused(Refusal.MODALITY, message, (Evidence("Modality", modality),))
            entries.append(refused_entry("", refusal))
            continue
        for instance in series.instances:
            try:
                candidates.append(_take_in(instance, job.reader, in_memory=len(candidates) < _MOST_IN_MEMORY))
            except NotTakenIn as refusal:
                entries.append(refused_entry(refusal.sop_instance_uid, refusal))
    return entries, candidates


def _image_series(found: list[Series], orthanc: OrthancClient) -> Iterator[Series]:
    for series in sorted(found, key=lambda s: s.series_instance_uid):
        if series.modality in ACCOMPANYING_MODALITIES:
            continue
        named_as_ours = is_own_result(series.modality, series.manufacturer)
        if not named_as_ours or orthanc.model_name(series.instances[0]) != MODEL_NAME:  # a maker of our name
            yield series


def _take_in(instance: str, reader: Reader, *, in_memory: bool) -> _Candidate:
    stored = _fetch(instance, reader)
    reach("fetched")
    taken = reader.intake.take_in(stored.content, policy_of(reader.settings))
    models = _models_of(taken, stored.calling_ae_title, reader)
    if not in_memory:
        taken = taken.without_pixels()
    return _Candidate(instance, stored.received, stored.calling_ae_title, taken, in_memory, models)


def _models_of(taken: Intake, calling_ae_title: str, reader: Reader) -> Models:
    """Those that the site's rules have read an image."""
    route = route_of(reader.settings.routes, taken.header, calling_ae_title)
    try:
        return models_for(route, reader.models, taken.selection.evidence)
    except NotTakenIn as refusal:
        refusal.sop_instance_uid = str(taken.header.SOPInstanceUID)
        raise


def _fetch(instance: str, reader: Reader) -> StoredInstance:
    if (size := reader.orthanc.file_size(instance)) > LARGEST_FILE:
        message = f"{size} bytes are more than a radiograph holds"
        raise NotTakenIn(Refusal.UNREADABLE_PIXELS, message, (Evidence("file", f"{size} bytes"),))
    return reader.orthanc.fetch(instance)


def _refuse_copy(candidate: _Candidate, read_before: list[_Candidate]) -> None:
    for other in read_before:
        if candidate.uid != other.uid and candidate.patient != other.patient:
            continue  # the same picture under another patient's name: which of them is right is not ours to say
        if shared := relation(candidate.taken.key, other.taken.key):
            evidence = (*candidate.taken.selection.evidence, Evidence("pixels", f"{shared} as {other.uid}"))
            raise ImageRefused(Refusal.COPY, f"{shared} as another image of this study, which was read", evidence)


def _read(candidate: _Candidate, reader: Reader) -> tuple[Intake, Reading]:
    taken, policy = candidate.taken, policy_of(reader.settings)
    if not candidate.in_memory:
        taken = reader.intake.take_in(reader.orthanc.file(candidate.instance), policy)
    reading = read_intake(taken, candidate.models, policy)
    if reading.findings.route:
        reading = replace(reading, evidence=(*reading.evidence, Evidence(RULE, reading.findings.route)))
    return taken, reading


def _publish(candidate: _Candidate, taken: Intake, reading: Reading, results: StudyResults) -> dict[str, Any]:
    """Store the results of one image; returns its entry."""
    try:
        published = results.publish(taken.header, reading.findings, taken.image, received_at(candidate.received))
    except (EncodingFailed, ResultRefused) as error:  # one odd header must not cost the other images their answer
        log.exception("results could not be made", extra={"study_instance_uid": reading.findings.study_instance_uid})
        if results.has_result(candidate.uid):
            raise ResultWorse(f"image {candidate.uid}: its results cannot be made anew") from error
        message = "no results can be made of this header, perhaps for an invalid identifier; see the worker's log"
        raise ImageRefused(Refusal.UNREADABLE_HEADER, message, reading.evidence) from error
    return read_entry(reading, published, candidate.instance, candidate.received, candidate.calling_ae_title)

"""The worker: claims a study, reads its radiographs, stores what it found, and says so in the ledger.

The rule: it may die at any line. Nothing is recorded as done before Orthanc holds the results, and doing the work again
gives objects with the same identifiers.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import sqlite3
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from dicom_sr.identity import result_uids
from dicom_sr.ownership import is_own_result
from dicom_sr.results import encode_results
from models.bundle import BundleInvalid
from models.findings import ImageFindings, Priority
from models.inference import ImageIdentity, Models, load_models
from models.rendering import render
from models.selection import ImageRefused, Refusal, select
from models.triage import most_pressing, prioritise
from orthanc_plugin import tasks
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.logs import start_logging
from orthanc_plugin.orthanc_client import OrthancClient, OrthancUnavailable, Series
from orthanc_plugin.settings import REPOSITORY, Settings, load_settings
from orthanc_plugin.tasks import ClaimLost, InferenceTask, Outcome, TaskStatus

log = logging.getLogger("hilum.worker")

# Series of these modalities are looked at image by image; of any other the whole series is refused (intake rules).
_MAY_HOLD_RADIOGRAPHS = frozenset({"CR", "DX", "RG", "OT", "SC", "XC", ""})
# Objects that accompany images and are never read.
_NOT_IMAGES = frozenset({"SR", "SEG", "PR", "KO", "DOC", "REG", "FID", "AU", "RTSTRUCT", "PLAN", "RWV", "SMR"})
# What pydicom raises on files that are no valid DICOM.
_UNPARSABLE = (InvalidDicomError, ValueError, EOFError, NotImplementedError, LookupError, TypeError, AttributeError,
               ArithmeticError, struct.error)  # fmt: skip
_FIRST_RETRY_SECONDS = 2.0
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Reader:
    """What a study is read with."""

    settings: Settings
    orthanc: OrthancClient
    models: Models


@dataclass(frozen=True)
class Refused:
    """An image, or a whole series, that gets no result."""

    sop_instance_uid: str
    code: Refusal
    message: str

    def to_json(self) -> dict[str, Any]:
        """The row's entry for this image."""
        return {
            "sop_instance_uid": self.sop_instance_uid,
            "status": TaskStatus.NOT_PROCESSED.value,
            "reason": self.code.value,
            "message": self.message,
        }


def process_study(task: InferenceTask, reader: Reader) -> Outcome:
    """Read every radiograph of a study and store the results: the whole flow on one screen.

    Raises
    ------
    OrthancUnavailable
        When Orthanc cannot be reached; the task may be tried again.
    """
    entries: list[dict[str, Any]] = []
    read: list[ImageFindings] = []
    for series in _image_series(reader.orthanc.series_of_study(task.study_instance_uid)):
        if series.modality not in _MAY_HOLD_RADIOGRAPHS:
            message = f"a series of {len(series.instances)} {series.modality} images is not a radiograph"
            entries.append(Refused("", Refusal.MODALITY, message).to_json())
            continue
        for instance in series.instances:
            stored = reader.orthanc.fetch(instance)
            source: Dataset | None = None
            try:
                source = _parse(stored.content)
                findings, evidence = read_image(source, reader)
            except ImageRefused as refusal:
                uid = str(source.get("SOPInstanceUID", "")) if source is not None else ""
                entries.append(Refused(uid, refusal.code, str(refusal)).to_json())
                continue
            uids = result_uids(findings)
            objects = (uids.segmentation, uids.measurement_report)
            if not reader.orthanc.has_instances(objects if findings.segments else objects[1:]):
                results = encode_results(source, findings, _received(stored.received))
                for result in (results.segmentation, results.measurement_report):
                    if result is not None:
                        reader.orthanc.store(result)
            entries.append(_done(findings, evidence, objects))
            read.append(findings)
    return _outcome(entries, read)


def read_image(source: Dataset, reader: Reader) -> tuple[ImageFindings, str]:
    """Select, render, predict and prioritise one image; the second value is the evidence for its view.

    Raises
    ------
    ImageRefused
    """
    chosen = select(source, minimum_age=reader.settings.minimum_age)
    identity = ImageIdentity(
        study_instance_uid=str(source.StudyInstanceUID),
        sop_class_uid=str(source.SOPClassUID),
        sop_instance_uid=str(source.SOPInstanceUID),
        view=chosen.view,
    )
    findings = reader.models.predict(render(source), identity)
    cautions = tuple(dict.fromkeys((*findings.cautions, *chosen.cautions)))
    return prioritise(replace(findings, cautions=cautions)), chosen.evidence


def _image_series(found: list[Series]) -> Iterator[Series]:
    for series in sorted(found, key=lambda s: s.series_instance_uid):
        if series.modality not in _NOT_IMAGES and not is_own_result(series.modality, series.manufacturer):
            yield series


def _parse(content: bytes) -> Dataset:
    try:
        source = dcmread(BytesIO(content))
        source.walk(lambda _ds, _element: None)  # decode every element now: a broken one must not surface later
        for keyword in ("StudyInstanceUID", "SOPClassUID", "SOPInstanceUID"):
            if not source.get(keyword):
                raise ImageRefused(Refusal.UNREADABLE_HEADER, f"{keyword} is missing")
    except _UNPARSABLE as error:
        raise ImageRefused(Refusal.UNREADABLE_HEADER, f"not valid DICOM: {type(error).__name__}") from error
    return source


def _received(text: str) -> datetime:
    """When Orthanc received the image: the results' date, so that making them again gives the same bytes."""
    return datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)


def _done(findings: ImageFindings, evidence: str, objects: tuple[str, str]) -> dict[str, Any]:
    entry = findings.to_json()
    entry.update(status=TaskStatus.DONE.value, reason=None, evidence=evidence)
    entry.update(segmentation=objects[0] if findings.segments else None, measurement_report=objects[1])
    return entry


def _outcome(entries: list[dict[str, Any]], read: list[ImageFindings]) -> Outcome:
    leading = most_pressing(read)
    if leading is not None:
        return Outcome(
            TaskStatus.DONE,
            leading.priority.value,
            leading.priority.rank,
            {"images": entries},
            message=leading.priority_reason,
        )
    first = entries[0] if entries else {"reason": Refusal.MODALITY.value, "message": "the study holds no image"}
    none = Priority.NONE
    return Outcome(
        TaskStatus.NOT_PROCESSED, none.value, none.rank, {"images": entries}, first["reason"], first["message"]
    )


@dataclass(frozen=True)
class Plugin:
    """What the worker hears of the plugin: that there is work, and that it has gone."""

    rang: threading.Event
    gone: threading.Event

    def listen(self) -> None:
        """Each byte on standard input means new work; its end means that the plugin has gone.

        A worker that somebody started by hand has no such pipe: it looks for work by itself and runs until it is ended.
        """
        if not stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
            return
        while os.read(sys.stdin.fileno(), 4096):
            self.rang.set()
        self.gone.set()
        self.rang.set()


def work(reader: Reader, plugin: Plugin, worker_id: str) -> None:
    """Claim and process tasks until the plugin has gone."""
    settings = reader.settings
    while not plugin.gone.is_set():
        plugin.rang.clear()
        with tasks.connect(settings.ledger) as db:
            tasks.report_worker(db, worker_id, "ready", reader.models.versions, now=time.time())
            task = tasks.claim(db, now=time.time(), lease_seconds=settings.lease_seconds, attempts=settings.attempts)
        if task is not None:
            attempt(task, reader)
        else:
            plugin.rang.wait(_POLL_SECONDS)


def attempt(task: InferenceTask, reader: Reader) -> None:
    """Process one claimed task and record what became of it, whatever happens."""
    settings, started = reader.settings, time.monotonic()
    about = {"study_instance_uid": task.study_instance_uid, "fence": task.fence, "attempt": task.attempts}
    try:
        with _lease(task, settings):
            outcome = process_study(task, reader)
        with tasks.connect(settings.ledger) as db:
            tasks.complete(db, task, outcome, now=time.time())
        seconds = round(time.monotonic() - started, 3)
        log.info(
            "study processed",
            extra={**about, "status": outcome.status.value, "reason": outcome.reason, "seconds": seconds},
        )
    except ClaimLost:
        log.warning("claim lost, work dropped", extra=about)
    except OrthancUnavailable as error:
        log.warning("Orthanc unavailable: %s", error, extra=about)
        _retry(task, settings, "orthanc_unavailable", "Orthanc did not answer; the study will be tried again")
    except Exception as error:  # the worker goes on, whatever a study holds
        log.exception("attempt failed", extra=about)
        message = f"processing failed ({type(error).__name__}); see the worker's log for this study"
        _retry(task, settings, "internal_error", message)


def _retry(task: InferenceTask, settings: Settings, reason: str, message: str) -> None:
    # Waiting for Orthanc is not the study's fault: such attempts do not count as its last.
    final = task.attempts >= settings.attempts and reason != "orthanc_unavailable"
    pause = _FIRST_RETRY_SECONDS * 2 ** min(task.attempts - 1, 6) * random.uniform(0.8, 1.2)  # noqa: S311
    now = time.time()
    try:
        with tasks.connect(settings.ledger) as db:
            tasks.fail(db, task, reason, message, now=now, retry_at=None if final else now + pause)
    except ClaimLost:
        log.warning("claim lost", extra={"study_instance_uid": task.study_instance_uid, "fence": task.fence})


@contextmanager
def _lease(task: InferenceTask, settings: Settings) -> Iterator[None]:
    """Prolong the lease from a second thread while the task is worked on."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(settings.lease_seconds / 4):
            try:
                with tasks.connect(settings.ledger) as db:
                    tasks.heartbeat(db, task, now=time.time(), lease_seconds=settings.lease_seconds)
            except ClaimLost:
                return
            except sqlite3.Error:
                continue  # the ledger may answer the next time, well before the lease ends

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def main() -> int:
    """Run one worker beside the plugin that started it, or by hand (``python -m orthanc_plugin.worker``)."""
    start_logging()
    settings = load_settings()
    credentials = load_credentials(settings.credentials)
    tasks.create(settings.ledger)
    worker_id = f"{socket.gethostname()}-{os.getpid()}"
    plugin = Plugin(threading.Event(), threading.Event())
    threading.Thread(target=plugin.listen, name="plugin", daemon=True).start()
    with tasks.connect(settings.ledger) as db:
        tasks.report_worker(db, worker_id, "starting", {}, now=time.time())
    started = time.monotonic()
    try:
        models = load_models(REPOSITORY / "models", settings.bundles, threads=settings.threads or os.cpu_count() or 1)
    except BundleInvalid as error:
        log.error("no worker without its models: %s", error)
        return 2
    models.warm_up()
    log.info("models loaded", extra={"worker": worker_id, "seconds": round(time.monotonic() - started, 2)})
    with OrthancClient(settings.http_url, credentials.worker_user, credentials.worker_password) as orthanc:
        work(Reader(settings, orthanc, models), plugin, worker_id)
    return 0


if __name__ == "__main__":
    sys.exit(main())

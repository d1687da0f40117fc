"""The worker: claims a study, reads its radiographs, stores what it found, and says so in the ledger.

The rule: it may die at any line. Nothing is recorded as done before Orthanc holds the results, and doing the work again
gives objects with the same identifiers.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import socket
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dicom_sr.report.wording import WordingInvalid, load_wording
from models.bundle import BundleInvalid
from models.inference import load_models
from orthanc_plugin import tasks
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.isolation import IntakeProcess, IsolationFailed
from orthanc_plugin.logs import start_logging
from orthanc_plugin.orthanc_client import OrthancClient, OrthancUnavailable
from orthanc_plugin.settings import REPOSITORY, Settings, load_settings
from orthanc_plugin.study import Reader, process_study
from orthanc_plugin.tasks import ClaimLost, InferenceTask

log = logging.getLogger("hilum.worker")

_FIRST_RETRY_SECONDS = 2.0
_POLL_SECONDS = 0.5
_BEAT_SECONDS = 5.0  # the worklist calls a worker silent after three of them


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
            attempt(task, reader, worker_id)
        else:
            plugin.rang.wait(_POLL_SECONDS)


def attempt(task: InferenceTask, reader: Reader, worker_id: str) -> None:
    """Process one claimed task and record what became of it, whatever happens."""
    settings, started = reader.settings, time.monotonic()
    about = {"study_instance_uid": task.study_instance_uid, "fence": task.fence, "attempt": task.attempts}
    try:
        with _lease(task, reader, worker_id):
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
    except IsolationFailed as error:
        log.error("%s", error, extra=about)
        _retry(task, settings, "intake_unavailable", "images cannot be read now; the study will be tried again")
    except Exception as error:  # the worker goes on, whatever a study holds
        log.exception("attempt failed", extra=about)
        message = f"processing failed ({type(error).__name__}); see the worker's log for this study"
        _retry(task, settings, "internal_error", message)


def _retry(task: InferenceTask, settings: Settings, reason: str, message: str) -> None:
    # Waiting for what the study cannot help does not count as its last attempt.
    final = task.attempts >= settings.attempts and reason not in ("orthanc_unavailable", "intake_unavailable")
    pause = _FIRST_RETRY_SECONDS * 2 ** min(task.attempts - 1, 6) * random.uniform(0.8, 1.2)  # noqa: S311
    now = time.time()
    try:
        with tasks.connect(settings.ledger) as db:
            tasks.fail(db, task, reason, message, now=now, retry_at=None if final else now + pause)
    except ClaimLost:
        log.warning("claim lost", extra={"study_instance_uid": task.study_instance_uid, "fence": task.fence})


@contextmanager
def _lease(task: InferenceTask, reader: Reader, worker_id: str) -> Iterator[None]:
    """Prolong the lease from a second thread while the task is worked on, and say that the worker lives."""
    done, settings = threading.Event(), reader.settings

    def beat() -> None:
        while not done.wait(min(settings.lease_seconds / 4, _BEAT_SECONDS)):
            try:
                with tasks.connect(settings.ledger) as db:
                    tasks.report_worker(db, worker_id, "ready", reader.models.versions, now=time.time())
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
        wording = load_wording(settings.report_language, settings.site_wording)
    except (BundleInvalid, WordingInvalid) as error:
        log.error("no worker without its models and its sentences: %s", error)
        return 2
    models.warm_up()
    # what is loaded by now stays for ever; without this, Python walks through all of it in the middle of a patient
    gc.collect()
    gc.freeze()
    log.info("models loaded", extra={"worker": worker_id, "seconds": round(time.monotonic() - started, 2)})
    user, password = credentials.worker_user, credentials.worker_password
    with OrthancClient(settings.http_url, user, password) as orthanc, IntakeProcess(settings.intake_seconds) as intake:
        work(Reader(settings, orthanc, models, intake, wording), plugin, worker_id)
    return 0


if __name__ == "__main__":
    sys.exit(main())

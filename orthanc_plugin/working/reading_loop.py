"""What a reading process does: it holds the models, takes one task after the other, and says what came of it.

The rule: whatever a study raises here is told as a coded `Failure`, without a value of the study in it. The worker's
side of the connection, and what is said on it, is ``reading_process``.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import logging
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import BinaryIO

from orthanc_plugin.child_process import settle
from orthanc_plugin.failpoints import reach
from orthanc_plugin.fork_server import fork_children
from orthanc_plugin.free_space import FreeSpace
from orthanc_plugin.ledger.flagging import Flag
from orthanc_plugin.ledger.tasks import Failure, InferenceTask, Outcome, Urgency
from orthanc_plugin.logs import start_logging, where
from orthanc_plugin.settings import Settings, SettingsInvalid, load_settings
from orthanc_plugin.trust import TlsUnusable, http_trust
from orthanc_plugin.working.reading_process import line_of, short_trace

log = logging.getLogger("hilum.reading")

Tell = Callable[[Flag], None]
_IDLE_SECONDS = 0.3  # without a task; the worker has the next one sooner, if there is one


def serve(
    channel: socket.socket,
    read: Callable[[InferenceTask, Tell], Outcome],
    versions: Mapping[str, str],
    expected: Mapping[type[Exception], tuple[str, str]],
    work: Callable[[], bool] = lambda: False,
) -> None:
    """Answer tasks until the worker has gone.

    Parameters
    ----------
    channel
        What `become_reader` gave.
    versions
        Of the models: name to version.
    expected
        What `read` may raise, with reason and message of the failure that it is; anything else is a defect.
    work
        Called while there is no task, for something that can wait; True when it did something. It raises nothing.
    """
    with channel, channel.makefile("rb") as lines:
        try:
            channel.sendall(line_of({"ready": dict(versions)}))
            while line := _next_task(channel, lines, work):
                channel.sendall(_attempt(_task(line), read, expected, channel))
                reach("outcome_sent")
        except ConnectionError:
            return  # the worker has gone


def _next_task(channel: socket.socket, lines: BinaryIO, work: Callable[[], bool]) -> bytes:
    """The next line of the worker, which sends one only after the last was answered; empty when it has gone."""
    while not select.select([channel], [], [], _IDLE_SECONDS)[0]:
        if not work():
            break
    return lines.readline()


def _task(line: bytes) -> InferenceTask:
    fields = json.loads(line)
    return InferenceTask(**{**fields, "urgency": Urgency(fields["urgency"])})


def _attempt(
    task: InferenceTask,
    read: Callable[[InferenceTask, Tell], Outcome],
    expected: Mapping[type[Exception], tuple[str, str]],
    channel: socket.socket,
) -> bytes:
    """The line that answers a task; what is flagged before is sent at once."""

    def tell(raised: Flag) -> None:
        channel.sendall(line_of({"fence": task.fence, "flag": asdict(raised)}))

    about = {"study_instance_uid": task.study_instance_uid, "fence": task.fence, "attempt": task.attempts}
    try:
        return line_of({"fence": task.fence, "outcome": asdict(read(task, tell))})
    except MemoryError as error:
        reason, message, trace = "out_of_memory", "the reading process got no more memory", error.__traceback__
    except tuple(expected) as error:
        log.warning("%s", error, extra=about)
        reason, message = next(expected[kind] for kind in type(error).__mro__ if kind in expected)
        trace = error.__traceback__
    except Exception as error:  # the process goes on, whatever a study holds
        log.exception("a study could not be read", extra=about)
        reason, trace = "internal_error", error.__traceback__
        message = f"processing failed ({type(error).__name__}); see the worker's log for this study"
    return line_of({"fence": task.fence, "failure": asdict(Failure(reason, message, short_trace(where(trace))))})


def begin() -> None:
    """First of all in a fork server of reading processes: end with the worker."""
    settle(int(sys.argv[1]))
    start_logging()


def become_reader() -> socket.socket:
    """Wait for the worker to want a reading process; returns in each, with the connection to the worker."""
    gc.collect()
    gc.freeze()  # what is imported by now stays for ever: Python need not walk through it, and no child copies it
    connection, last_words = fork_children(int(sys.argv[1]))
    faulthandler.enable(last_words, all_threads=False)  # where it was when it crashes
    return socket.socket(fileno=connection)


def refuse(channel: socket.socket, message: str) -> int:
    """Tell the worker why this process cannot read, for people; returns its exit code."""
    with channel:
        channel.sendall(line_of({"unusable": message}))
    return 2


def main() -> int:
    """Load the models and read what comes."""
    begin()
    # everything heavy comes only now: the worker imports this module too
    from dicom_sr.report.wording import WordingInvalid, load_wording
    from models.bundle import BundleInvalid
    from orthanc_plugin.archive.client import OrthancClient, OrthancFailed, OrthancUnavailable, StorageFull
    from orthanc_plugin.credentials import load_worker_account
    from orthanc_plugin.reading.active_models import load_active, load_shadows, prepare
    from orthanc_plugin.reading.intake_process import IntakeProcess, IsolationFailed
    from orthanc_plugin.reading.publishing import ResultWorse
    from orthanc_plugin.reading.study import Reader, process_study

    with contextlib.suppress(SettingsInvalid, OSError):  # of which the reading process tells
        prepare(load_settings())
    channel, started = become_reader(), time.monotonic()
    try:
        settings: Settings = load_settings()
        intake = IntakeProcess(settings.intake_seconds)
        intake.launch()  # it starts while the models are loaded
        models = load_active(settings)
        wording = load_wording(settings.report_language, settings.site_wording)
        own = load_worker_account(settings.credentials)
        trust = http_trust(settings, settings.orthanc_address)
    except (BundleInvalid, WordingInvalid, SettingsInvalid, TlsUnusable, OSError) as error:
        return refuse(channel, str(error))
    shadows = load_shadows(settings)
    models.warm_up()
    # the models stay as well; without this, Python walks through all of them in the middle of a patient
    gc.collect()
    gc.freeze()
    log.info("models loaded", extra={"pid": os.getpid(), "seconds": round(time.monotonic() - started, 2)})
    expected: dict[type[Exception], tuple[str, str]] = {
        StorageFull: ("storage_full", "Orthanc cannot write results"),
        OrthancUnavailable: ("orthanc_unavailable", "Orthanc did not answer"),
        OrthancFailed: ("orthanc_error", "Orthanc failed at a request; a file of the study may be damaged"),
        IsolationFailed: ("intake_unavailable", "images could not be taken in: no process for it"),
        ResultWorse: ("result_worse", "a model failed on an image that it read before; the earlier result stands"),
    }
    with OrthancClient(settings.orthanc_address, own.user, own.password, trust=trust) as orthanc, intake:
        reader = Reader(settings, orthanc, models, intake, wording, shadows)
        # the disk of an Orthanc elsewhere is not to be seen from here
        space = FreeSpace([f for f in (settings.storage, settings.home) if f.is_dir()], settings.reserve_mb)

        def read(task: InferenceTask, tell: Tell) -> Outcome:
            try:
                return process_study(task, reader, tell)
            except OrthancFailed as error:
                if space.free_mb() < 1:
                    raise StorageFull(f"{error}, and its disk cannot be written to") from error
                raise

        serve(channel, read, models.versions, expected, shadows.work)
    return 0


if __name__ == "__main__":
    sys.exit(main())

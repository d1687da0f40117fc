"""The process that reads studies: it holds the models, takes one task after the other, and may die of any of them.

The rule: what a study does to it, be it a crash, a hang or all memory, costs that attempt: the worker gets a coded
`Failure` and starts another. The worker's side of this module loads no model library.

Both sides send one JSON object a line, so that no garbage from a broken process is more than a wrong line::

    worker  --->  {"study_instance_uid": ..., "fence": ..., ...}               an InferenceTask
    process --->  {"ready": {model: version}} | {"unusable": message}          once
                  {"fence": ..., "outcome": {...}} | {"fence": ..., "failure": {...}}   for each task
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import logging
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from orthanc_plugin.child_process import end_child, how_it_ended, settle, start_child
from orthanc_plugin.failpoints import reach
from orthanc_plugin.ledger.tasks import Failure, InferenceTask, Outcome, TaskStatus, Urgency
from orthanc_plugin.logs import start_logging, where
from orthanc_plugin.settings import REPOSITORY, Settings, SettingsInvalid, load_settings

log = logging.getLogger("hilum.reading")

COMMAND = (sys.executable, "-W", "ignore", "-m", "orthanc_plugin.working.reading_process")
_START_SECONDS = 300.0  # a slow disk, with every other reading process starting too
_WATCH_SECONDS = 0.2  # a process that asks for all memory gets about 1 GB in this time
_LAST_WORDS_SECONDS = 0.5  # for saying where it hung
_LONGEST_ANSWER = 64 * 2**20  # bytes; a study of a thousand images has about 3 MB
_CHUNK = 2**16  # bytes received at once
_IDLE_SECONDS = 0.3  # without a task; the worker has the next one sooner, if there is one
_FRAMES = 12  # of a trace: more say no more
_MEBIBYTE = 2**20


class NotReady(Exception):
    """The process does not come as far as taking a task; the message says why."""


class ModelsUnusable(NotReady):
    """The process itself says that it cannot read, and why."""


class Abandoned(Exception):
    """The answer is not wanted any more, and the process has been ended."""


class _Exceeded(Exception):
    """The process is over a limit: reason of the failure, and what it did."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


class ReadingProcess:
    """The worker's side. A context manager; making it returns when the models are loaded.

    The process ends with the thread that made this (see ``child_process``).

    Parameters
    ----------
    memory_mb
        MiB of resident memory beyond which it is ended.
    unwanted
        Asked every `_WATCH_SECONDS`: whether to stop waiting for it.
    command
        The program; one that calls `serve`.

    Raises
    ------
    NotReady
    Abandoned
    """

    def __init__(self, memory_mb: int, unwanted: Callable[[], bool], command: Sequence[str] = COMMAND) -> None:
        self._memory_mb, self._received = memory_mb, bytearray()
        self._last_words = os.memfd_create("hilum-last-words")
        try:
            self._process, self._channel = start_child(command, [self._last_words])
        except OSError as error:
            os.close(self._last_words)
            raise NotReady(f"no process can be started ({type(error).__name__})") from error
        try:
            self.versions = self._wait_until_ready(unwanted)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ReadingProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def lives(self) -> bool:
        """Whether it can be given a task."""
        return self._channel.fileno() >= 0 and self._process.poll() is None and not self._received

    def read(self, task: InferenceTask, seconds: float, unwanted: Callable[[], bool]) -> Outcome | Failure:
        """Have one study read. The process does not live on (`lives`) when it failed as a process.

        Parameters
        ----------
        seconds
            How long this may take before the process is ended.

        Raises
        ------
        NotReady
            When the process died before it had the task: no fault of the study.
        Abandoned
        """
        try:
            self._channel.settimeout(seconds)
            self._channel.sendall(_line(asdict(task)))
        except OSError as error:
            self.close()
            raise NotReady(f"the reading process took no task ({type(error).__name__})") from error
        reach("task_sent")
        try:
            answer = _answer(self._next_line(seconds, unwanted), task)
        except _Exceeded as limit:
            return self._given_up(limit.reason, f"the study {limit}")
        except ConnectionError:
            return self._died()
        except (ValueError, TypeError, KeyError, RecursionError):
            self.close()
            return Failure("reader_died", "the reading process answered with something that is no answer")
        if isinstance(answer, Failure) and answer.reason == "out_of_memory":
            self.close()  # what is left of it would fail the next study too
        return answer

    def close(self) -> None:
        """End the process, in the middle of a study if need be; those that it started end with it."""
        if self._channel.fileno() >= 0:
            self._channel.close()
            end_child(self._process)
            os.close(self._last_words)

    def _wait_until_ready(self, unwanted: Callable[[], bool]) -> dict[str, str]:
        try:
            message = json.loads(self._next_line(_START_SECONDS, unwanted))
            if "unusable" in message:
                raise ModelsUnusable(str(message["unusable"]))
            return {str(name): str(version) for name, version in message["ready"].items()}
        except _Exceeded as limit:
            raise NotReady(f"loading the models {limit}") from None
        except ConnectionError:
            raise NotReady(f"{self._how_it_died()} before it was ready; see the worker's log") from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise NotReady("the reading process did not say that it is ready") from None

    def _next_line(self, seconds: float, unwanted: Callable[[], bool]) -> bytes:
        """What comes next on the connection.

        Raises
        ------
        _Exceeded
        ConnectionError
            It has gone.
        Abandoned
        """
        deadline = time.monotonic() + seconds
        self._channel.settimeout(_WATCH_SECONDS)
        while b"\n" not in self._received[-_CHUNK:]:
            if unwanted():
                self.close()
                raise Abandoned
            if time.monotonic() > deadline:
                raise _Exceeded("time_limit", f"took longer than {seconds:g} s")
            if self._resident() > self._memory_mb * _MEBIBYTE:
                raise _Exceeded("out_of_memory", f"took more than {self._memory_mb} MiB of memory")
            try:
                more = self._channel.recv(_CHUNK)
            except TimeoutError:
                continue
            if not more or len(self._received) > _LONGEST_ANSWER:
                raise ConnectionError
            self._received += more
        line, _, self._received = self._received.partition(b"\n")
        return bytes(line)

    def _resident(self) -> int:
        """Bytes of memory that the process has now; 0 when it has gone."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            return 0

    def _given_up(self, reason: str, message: str) -> Failure:
        """End a process that exceeded a limit, after it has said where it was."""
        self._process.send_signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS_SECONDS)
        trace = self._trace()
        self.close()
        return Failure(reason, message, trace)

    def _died(self) -> Failure:
        message, trace = self._how_it_died(), self._trace()
        self.close()
        return Failure("reader_died", message, trace)

    def _how_it_died(self) -> str:
        code = how_it_ended(self._process)
        if code is None:
            return "the reading process closed its connection"
        if code < 0:
            return f"the reading process was ended by {signal.Signals(-code).name}"
        return f"the reading process ended with code {code}"

    def _trace(self) -> str:
        """Where the process was when it died, as ``faulthandler`` told: innermost frame first over there, last here."""
        said = os.pread(self._last_words, 2**16, 0).decode("utf-8", "replace")
        frames = re.findall(r'^  File "(.+)", line (\d+) in (.+)$', said, re.MULTILINE)
        return _short([f"{file}:{line} {function}" for file, line, function in reversed(frames)])


def _short(frames: Sequence[str]) -> str:
    return "\n".join(frames[-_FRAMES:]).replace(f"{REPOSITORY}/", "")


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _task(line: bytes) -> InferenceTask:
    fields = json.loads(line)
    return InferenceTask(**{**fields, "urgency": Urgency(fields["urgency"])})


def _answer(line: bytes, task: InferenceTask) -> Outcome | Failure:
    """What a line says of a task; ValueError, TypeError or KeyError when it is no answer to it."""
    message = json.loads(line)
    if message["fence"] != task.fence:
        raise ValueError("the answer to another task")
    if "failure" in message:
        return Failure(**{name: str(value) for name, value in message["failure"].items()})
    fields = message["outcome"]
    return Outcome(**{**fields, "status": TaskStatus(fields["status"])})


def serve(
    read: Callable[[InferenceTask], Outcome],
    versions: Mapping[str, str],
    expected: Mapping[type[Exception], tuple[str, str]],
    work: Callable[[], bool] = lambda: False,
) -> None:
    """Answer tasks until the worker has gone; runs in the reading process, after `prepare`.

    Parameters
    ----------
    versions
        Of the models: name to version.
    expected
        What `read` may raise, with reason and message of the failure that it is; anything else is a defect.
    work
        Called while there is no task, for something that can wait; True when it did something. It raises nothing.
    """
    channel = socket.socket(fileno=int(sys.argv[1]))
    with channel, channel.makefile("rb") as lines:
        try:
            channel.sendall(_line({"ready": dict(versions)}))
            while line := _next_task(channel, lines, work):
                channel.sendall(_attempt(_task(line), read, expected))
                reach("outcome_sent")
        except ConnectionError:
            return  # the worker has gone


def _next_task(channel: socket.socket, lines: BinaryIO, work: Callable[[], bool]) -> bytes:
    """The next line of the worker, which sends one only after the last was answered; empty when it has gone."""
    while not select.select([channel], [], [], _IDLE_SECONDS)[0]:
        if not work():
            break
    return lines.readline()


def _attempt(
    task: InferenceTask,
    read: Callable[[InferenceTask], Outcome],
    expected: Mapping[type[Exception], tuple[str, str]],
) -> bytes:
    """The line that answers a task."""
    about = {"study_instance_uid": task.study_instance_uid, "fence": task.fence, "attempt": task.attempts}
    try:
        return _line({"fence": task.fence, "outcome": asdict(read(task))})
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
    return _line({"fence": task.fence, "failure": asdict(Failure(reason, message, _short(where(trace))))})


def prepare() -> None:
    """First of all in a reading process: end with the worker, and say where when it crashes."""
    settle(int(sys.argv[1]))
    faulthandler.enable(int(sys.argv[2]), all_threads=False)
    start_logging()


def refuse(message: str) -> int:
    """Tell the worker why this process cannot read, for people; returns its exit code."""
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        channel.sendall(_line({"unusable": message}))
    return 2


def main() -> int:
    """Load the models and read what comes."""
    prepare()
    started = time.monotonic()
    # everything heavy comes only now: the worker imports this module too
    from dicom_sr.report.wording import WordingInvalid, load_wording
    from models.bundle import BundleInvalid
    from orthanc_plugin.archive.client import OrthancClient, OrthancFailed, OrthancUnavailable, StorageFull
    from orthanc_plugin.credentials import load_credentials
    from orthanc_plugin.reading.active_models import load_active, load_shadows
    from orthanc_plugin.reading.intake_process import IntakeProcess, IsolationFailed
    from orthanc_plugin.reading.publishing import ResultWorse
    from orthanc_plugin.reading.study import Reader, process_study

    try:
        settings: Settings = load_settings()
        models = load_active(settings)
        wording = load_wording(settings.report_language, settings.site_wording)
        credentials = load_credentials(settings.credentials)
    except (BundleInvalid, WordingInvalid, SettingsInvalid, OSError) as error:
        return refuse(str(error))
    shadows = load_shadows(settings)
    models.warm_up()
    # what is loaded by now stays for ever; without this, Python walks through all of it in the middle of a patient
    gc.collect()
    gc.freeze()
    log.info("models loaded", extra={"pid": os.getpid(), "seconds": round(time.monotonic() - started, 2)})
    expected: dict[type[Exception], tuple[str, str]] = {
        StorageFull: ("storage_full", "Orthanc has no room for results"),
        OrthancUnavailable: ("orthanc_unavailable", "Orthanc did not answer"),
        OrthancFailed: ("orthanc_error", "Orthanc failed at a request; a file of the study may be damaged"),
        IsolationFailed: ("intake_unavailable", "images could not be taken in: no process for it"),
        ResultWorse: ("result_worse", "a model failed on an image that it read before; the earlier result stands"),
    }
    user, password = credentials.worker_user, credentials.worker_password
    with OrthancClient(settings.http_url, user, password) as orthanc, IntakeProcess(settings.intake_seconds) as intake:
        reader = Reader(settings, orthanc, models, intake, wording, shadows)
        serve(lambda task: process_study(task, reader), models.versions, expected, shadows.work)
    return 0


if __name__ == "__main__":
    sys.exit(main())

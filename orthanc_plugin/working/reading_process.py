"""The worker's side of the process that reads studies, which may die of any of them.

The rule: what a study does to it, be it a crash, a hang or all memory, costs that attempt: the worker gets a coded
`Failure` and starts another. A fork server has loaded the model libraries, so that the next reading process is there in
half a second and not after the three that importing them takes; the worker loads none of them.

Both sides send lines (``reader``)::

    worker  --->  {"study_instance_uid": ..., "fence": ..., ...}               an InferenceTask
    process --->  {"ready": {model: version}} | {"unusable": message}          once
                  {"fence": ..., "flag": {...}}                            for a task, once or more, or never
                  {"fence": ..., "outcome": {...}} | {"fence": ..., "failure": {...}}   for each task
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

from orthanc_plugin.child_process import Child, Patience, end_child, how_it_ended
from orthanc_plugin.failpoints import reach
from orthanc_plugin.fork_server import ForkServer, ServerEnded
from orthanc_plugin.ledger.flagging import Flag
from orthanc_plugin.ledger.tasks import Failure, InferenceTask, Outcome
from orthanc_plugin.working.reader import Abandoned, ModelsUnusable, NotReady, answer_of, line_of, short_trace

log = logging.getLogger("hilum.reading")

COMMAND = (sys.executable, "-W", "ignore", "-m", "orthanc_plugin.working.reading_loop")
_START_SECONDS = 300.0  # a slow disk, with every other reading process starting too
_WATCH_SECONDS = 0.2  # a process that asks for all memory gets about 1 GB in this time
_LAST_WORDS_SECONDS = 0.5  # for saying where it hung
_LONGEST_ANSWER = 64 * 2**20  # bytes; a study of a thousand images has about 3 MB
_CHUNK = 2**16  # bytes received at once
_MEBIBYTE = 2**20


class _Exceeded(Exception):
    """The process is over a limit: reason of the failure, and what it did."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


class ReadingProcesses:
    """Reading processes of one fork server, one after the other: the `Readers` of a seat on this machine.

    Parameters
    ----------
    command
        Of the fork server.
    """

    def __init__(self, memory_mb: int, command: Sequence[str]) -> None:
        self._memory_mb, self._server = memory_mb, ForkServer(command)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def open(self, _chosen: bytes, unwanted: Callable[[], bool]) -> ReadingProcess:
        """Start the next one: it loads what is chosen now."""
        return ReadingProcess(self._memory_mb, unwanted, self._server)


class ReadingProcess:
    """The worker's side. A context manager; making it returns when the models are loaded.

    The process ends with the thread that first asked its server for one (see ``child_process``).

    Parameters
    ----------
    memory_mb
        MiB of resident memory beyond which it is ended.
    unwanted
        Asked every `_WATCH_SECONDS`: whether to stop waiting for it.
    server
        Of `COMMAND`, or another program that calls `begin`, `become_reader` and `serve`.

    Raises
    ------
    NotReady
    Abandoned
    """

    def __init__(self, memory_mb: int, unwanted: Callable[[], bool], server: ForkServer) -> None:
        self._memory_mb, self._received = memory_mb, bytearray()
        self._last_words = os.memfd_create("hilum-last-words")
        self._channel, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = _forked(server, [theirs.fileno(), self._last_words], unwanted)
        except BaseException:
            self._channel.close()
            os.close(self._last_words)
            raise
        try:
            self.versions = self._wait_until_ready(unwanted)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
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

    def is_released(self) -> bool:
        """Never: a process of this machine is always needed."""
        return False

    def read(
        self,
        task: InferenceTask,
        seconds: float,
        unwanted: Callable[[], bool],
        flagged: Callable[[Flag], None] = lambda _: None,
    ) -> Outcome | Failure:
        """Have one study read. The process does not live on (`lives`) when it failed as a process.

        Parameters
        ----------
        seconds
            How long this may take before the process is ended, see ``Patience``.
        flagged
            Told what the models say of an image, before its results are stored.

        Raises
        ------
        NotReady
            When the process died before it had the task: no fault of the study.
        Abandoned
        """
        try:
            self._channel.settimeout(seconds)
            self._channel.sendall(line_of(asdict(task)))
        except OSError as error:
            self.close()
            raise NotReady(f"the reading process took no task ({type(error).__name__})") from error
        reach("task_sent")
        try:
            patience = Patience(self.pid, seconds)
            while isinstance(answer := _answer(self._next_line(patience, unwanted), task), Flag):
                flagged(answer)
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
            message = json.loads(self._next_line(Patience(self.pid, _START_SECONDS), unwanted))
            if "unusable" in message:
                raise ModelsUnusable(str(message["unusable"]))
            return {str(name): str(version) for name, version in message["ready"].items()}
        except _Exceeded as limit:
            raise NotReady(f"loading the models {limit}") from None
        except ConnectionError:
            raise NotReady(f"{_how_it_died(self._process)} before it was ready; see the worker's log") from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise NotReady("the reading process did not say that it is ready") from None

    def _next_line(self, patience: Patience, unwanted: Callable[[], bool]) -> bytes:
        """What comes next on the connection.

        Raises
        ------
        _Exceeded
        ConnectionError
            It has gone.
        Abandoned
        """
        self._channel.settimeout(_WATCH_SECONDS)
        while b"\n" not in self._received:
            if unwanted():
                self.close()
                raise Abandoned
            if patience.is_over:
                raise _Exceeded("time_limit", f"took longer than {patience.seconds:g} s")
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
        message, trace = _how_it_died(self._process), self._trace()
        self.close()
        return Failure("reader_died", message, trace)

    def _trace(self) -> str:
        """Where the process was when it died, as ``faulthandler`` told: innermost frame first over there, last here."""
        said = os.pread(self._last_words, 2**16, 0).decode("utf-8", "replace")
        frames = re.findall(r'^  File "(.+)", line (\d+) in (.+)$', said, re.MULTILINE)
        return short_trace([f"{file}:{line} {function}" for file, line, function in reversed(frames)])


def _forked(server: ForkServer, descriptors: Sequence[int], unwanted: Callable[[], bool]) -> Child:
    """A process of the server; NotReady or Abandoned when none comes."""
    deadline = time.monotonic() + _START_SECONDS
    try:
        child = server.fork(descriptors, lambda: unwanted() or time.monotonic() > deadline)
    except OSError as error:
        raise NotReady(f"no process can be started: {error.strerror or type(error).__name__}") from error
    except ServerEnded as error:
        raise NotReady(f"{_how_it_died(error.process)} before it was ready; see the worker's log") from None
    if child is None:
        if unwanted():
            raise Abandoned
        raise NotReady(f"loading the code took longer than {_START_SECONDS:g} s")
    return child


def _how_it_died(process: Child) -> str:
    code = how_it_ended(process)
    if code is None:
        return "the reading process closed its connection"
    if code < 0:
        return f"the reading process was ended by {signal.Signals(-code).name}"
    return f"the reading process ended with code {code}"


def _answer(line: bytes, task: InferenceTask) -> Outcome | Failure | Flag:
    """What a line says of a task; ValueError, TypeError or KeyError when it is no answer to it."""
    message = json.loads(line)
    if message["fence"] != task.fence:
        raise ValueError("the answer to another task")
    return answer_of(message)

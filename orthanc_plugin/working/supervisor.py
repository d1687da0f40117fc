"""Keeps one worker process alive, beside the plugin or elsewhere: starts it, wakes it, and again when it dies.

The rule: models never run inside Orthanc. A crash, an out-of-memory kill or a hang costs a worker, not the PACS.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import select
import socket
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

log = logging.getLogger("hilum.supervisor")

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 60.0
_NICENESS = 10  # taking images goes before reading them; what the worker starts inherits it
_STEADY_SECONDS = 5.0  # a worker that lived this long has earned a prompt restart
_SILENT_SECONDS = 90.0  # a worker that does not beat for so long hangs; longer than any wait for its ledger
_STOP_SECONDS = 15.0  # in which the worker gives its tasks back; without that, they wait for the end of their lease


class Supervisor:
    """One worker process; every method may be called from any thread.

    Parameters
    ----------
    python
        The interpreter that has the models' packages; inside Orthanc `sys.executable` is Orthanc itself.
    log_file
        Where the worker's log goes; None: to standard error of this process.
    """

    def __init__(self, python: Path, log_file: Path | None) -> None:
        self._python, self._log_file = python, log_file
        self._worker_id = new_worker_id()  # of one after the other: the next may take what a dead one had in hand
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start the worker and watch it."""
        self._thread.start()

    def wake(self) -> None:
        """Tell the worker that there is work; without a worker this does nothing, for it looks when it starts."""
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                process.stdin.write(b"\n")
                process.stdin.flush()

    def stop(self) -> None:
        """Close the worker's input, at which it gives its tasks back and ends; kill it when it does not end in time."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        with contextlib.suppress(OSError, ValueError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _keep_alive(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                code = self._run_once()
            except OSError as error:
                log.error("the worker cannot be started: %s", type(error).__name__)
                code = -1
            if time.monotonic() - started > _STEADY_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            if not self._stopping.is_set():
                log.warning("worker ended", extra={"code": code, "restart_in": pause})
                self._stopping.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _run_once(self) -> int:
        beats, beat = os.pipe()
        with os.fdopen(beats, "rb", buffering=0) as heard:
            try:
                with self._output() as output:
                    process = subprocess.Popen(
                        [self._python, "-m", "orthanc_plugin.working.worker_process", self._worker_id, str(beat)],
                        stdin=subprocess.PIPE,
                        stdout=output or sys.stderr,
                        stderr=output or sys.stderr,
                        env={**os.environ, "PYTHONUNBUFFERED": "1"},
                        pass_fds=[beat],
                    )
            finally:
                os.close(beat)
            self._process = process
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
            log.info("worker started", extra={"pid": process.pid})
            if _falls_silent(heard):
                log.error("worker hangs, it is killed", extra={"pid": process.pid, "silent_seconds": _SILENT_SECONDS})
                process.kill()
            code = process.wait()
        self._process = None
        return code

    def _output(self) -> AbstractContextManager[IO[bytes] | None]:
        if self._log_file is None:
            return contextlib.nullcontext()
        try:
            return self._log_file.open("ab")
        except OSError:  # a worker without a log is better than none
            return Path(os.devnull).open("ab")


def _falls_silent(heard: IO[bytes]) -> bool:
    """Listen to a worker; True when it lives and says nothing, False when it has ended."""
    # a thread of Orthanc may have a file number that select(2) does not take
    waiting = select.poll()
    waiting.register(heard, select.POLLIN)
    while waiting.poll(_SILENT_SECONDS * 1000):
        if not heard.read(64):
            return False
    return True


def new_worker_id() -> str:
    """A name that no other worker has, which says on which machine it runs."""
    return f"{socket.gethostname()}-{secrets.token_hex(4)}"


def of_this_machine(worker_id: str) -> bool:
    """Whether a name was given by `new_worker_id` here."""
    return worker_id.rpartition("-")[0] == socket.gethostname()


def worker_python() -> Path:
    """The interpreter of the environment that the launcher prepared (``HILUM_PYTHON``), or this one outside Orthanc."""
    return Path(os.environ.get("HILUM_PYTHON") or sys.executable)

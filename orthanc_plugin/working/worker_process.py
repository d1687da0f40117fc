"""The process of a worker: how it is told of new work, says that it lives, and ends."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Sequence

from orthanc_plugin.log_files import file_of_stderr, follow, rotate
from orthanc_plugin.logs import start_logging
from orthanc_plugin.settings import Settings, load_settings
from orthanc_plugin.working.supervisor import new_worker_id
from orthanc_plugin.working.worker import Worker

log = logging.getLogger("hilum.worker")

_DEAF_SECONDS = 0.5  # at most, without noticing that the plugin has gone


def listen(worker: Worker) -> None:
    """Each byte on standard input means new work; its end means that the plugin has gone, and ends the worker.

    A worker that somebody started by hand has no such pipe: it looks for work by itself and runs until it is ended.
    """
    if not stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        return
    while os.read(sys.stdin.fileno(), 4096):
        worker.heard.clear()
        worker.rang.set()
        worker.heard.wait(_DEAF_SECONDS)  # while nobody looks for work, not every image need wake this process
    os.kill(os.getpid(), signal.SIGTERM)


def beating(descriptor: int) -> Callable[[], None]:
    """What tells the plugin, at the other end of this pipe, that the worker lives."""
    os.set_blocking(descriptor, False)

    def beat() -> None:
        with contextlib.suppress(OSError):  # nobody listens, or not fast enough
            os.write(descriptor, b".")

    return beat


def keeping_log(settings: Settings, beat: Callable[[], None]) -> Callable[[], None]:
    """A beat that also begins a new log file where the one of this worker and of what it started is full."""
    file = file_of_stderr()
    if file is None or file.parent != settings.logs:
        return beat

    def beat_and_rotate() -> None:
        beat()
        if rotate(file, longest=settings.log_mb * 1_000_000, files=settings.log_files):
            follow(file)

    return beat_and_rotate


def main(command: Sequence[str] | None = None) -> int:
    """Run one worker: beside the plugin, which gives it a name and a pipe to beat on, or by hand, without arguments."""
    start_logging()
    endings = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, endings)  # before any thread is there: only this one waits for them
    settings = load_settings()
    if len(sys.argv) > 1:
        worker = Worker(settings, sys.argv[1], command, keeping_log(settings, beating(int(sys.argv[2]))))
    else:
        worker = Worker(settings, new_worker_id(), command)
    worker.start()
    threading.Thread(target=listen, args=[worker], name="plugin", daemon=True).start()
    ending = signal.sigwait(endings)
    log.info("ending: %s", signal.Signals(ending).name)
    worker.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())

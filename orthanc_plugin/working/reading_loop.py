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
from functools import partial
from typing import BinaryIO

from orthanc_plugin.child_process import settle
from orthanc_plugin.failpoints import reach
from orthanc_plugin.fork_server import fork_children, run_apart
from orthanc_plugin.ledger.flagging import Flag
from orthanc_plugin.ledger.tasks import Failure, InferenceTask, Outcome
from orthanc_plugin.logs import start_logging, where
from orthanc_plugin.settings import SettingsInvalid, load_settings
from orthanc_plugin.working.reader import line_of, short_trace, task_of

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
                task = task_of(json.loads(line))

                def tell(raised: Flag, fence: int = task.fence) -> None:
                    channel.sendall(line_of({"fence": fence, "flag": asdict(raised)}))

                channel.sendall(attempt(task, read, expected, tell))
                reach("outcome_sent")
        except ConnectionError:
            return  # the worker has gone


def _next_task(channel: socket.socket, lines: BinaryIO, work: Callable[[], bool]) -> bytes:
    """The next line of the worker, which sends one only after the last was answered; empty when it has gone."""
    while not select.select([channel], [], [], _IDLE_SECONDS)[0]:
        if not work():
            break
    return lines.readline()


def attempt(
    task: InferenceTask,
    read: Callable[[InferenceTask, Tell], Outcome],
    expected: Mapping[type[Exception], tuple[str, str]],
    tell: Tell,
) -> bytes:
    """The line that answers a task, whatever the study does to `read`; see `serve`."""
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
    from orthanc_plugin.reading.active_models import prepare
    from orthanc_plugin.working.equipment import UNUSABLE, Equipment

    with contextlib.suppress(SettingsInvalid, OSError):  # of which the reading process tells
        prepare(load_settings())
    channel, started = become_reader(), time.monotonic()
    try:
        settings = load_settings()
        intake = Equipment.start_intake(settings)  # it starts while the models are loaded
        equipment = Equipment.load(settings, apart=partial(run_apart, channel.fileno()))
    except UNUSABLE as error:
        return refuse(channel, str(error))
    # the models stay as well; without this, Python walks through all of them in the middle of a patient
    gc.collect()
    gc.freeze()
    log.info("models loaded", extra={"pid": os.getpid(), "seconds": round(time.monotonic() - started, 2)})
    with equipment.reading(intake) as read:
        serve(channel, read, equipment.versions, equipment.expected, equipment.idle)
    return 0


if __name__ == "__main__":
    sys.exit(main())

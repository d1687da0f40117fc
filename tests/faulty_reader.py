"""A reading process without models which does to itself what a study's name asks for; started by tests.

Everything else is the real one: the connection, the limits, how it ends. ``FAULTS`` names a folder by which a test and
this process tell each other something.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from orthanc_plugin.child_process import start_child
from orthanc_plugin.ledger.flagging import Flag
from orthanc_plugin.ledger.tasks import InferenceTask, Outcome, TaskStatus
from orthanc_plugin.working.reading_loop import Tell, become_reader, begin, refuse, serve

COMMAND = (sys.executable, str(Path(__file__).resolve()))
FOLDER = Path(os.environ.get("FAULTS", "."))
SECRET = "DOE^JANE"  # what no log and no trace may hold
_CHILD = "from orthanc_plugin.child_process import settle; import sys, time; settle(int(sys.argv[1])); time.sleep(600)"


class OrthancAway(Exception):
    """Stands for what this process expects to be raised."""


class StorageFull(OrthancAway):
    """A kind of it that is not named itself."""


def say(line: bytes) -> None:
    """Write to the worker past the protocol."""
    CHANNEL.sendall(line + b"\n")


def start_another(_task: InferenceTask) -> None:
    child, _channel = start_child([sys.executable, "-c", _CHILD])
    (FOLDER / "draft").write_text(str(child.pid))
    (FOLDER / "draft").rename(FOLDER / "child")
    time.sleep(600)


def take_all_memory(_task: InferenceTask) -> None:
    kept = []
    while True:
        kept.append(b"x" * 2**24)


def babble(_task: InferenceTask) -> None:
    while True:
        CHANNEL.sendall(bytes(2**16))


def need_orthanc(_task: InferenceTask) -> None:
    if not (FOLDER / "back").exists():
        raise StorageFull("no answer")


def fail_to_allocate(_task: InferenceTask) -> None:
    raise MemoryError


def stumble(_task: InferenceTask) -> None:
    raise KeyError(SECRET)


FAULTS: dict[str, Callable[[InferenceTask], object]] = {
    "slow": lambda task: time.sleep(float(task.study_instance_uid.removeprefix("slow."))),
    "crash": lambda _: ctypes.string_at(0),
    "killed": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda _: os._exit(3),
    "hang": lambda _: ctypes.PyDLL(None).sleep(600),  # native code that keeps the interpreter's lock
    "parent": start_another,
    "hog": take_all_memory,
    "exhausted": fail_to_allocate,
    "defect": stumble,
    "away": need_orthanc,
    "dies flagged": lambda _: os.abort(),
    "garbage": lambda _: say(b"\x00\xff\x80garbage" * 1000),
    "endless": babble,
    "foreign": lambda _: say(b'{"fence":-1,"outcome":{}}'),
    "twice": lambda task: say(b'{"fence":%d,"failure":{"reason":"a","message":"b"}}' % task.fence),
}


def read(task: InferenceTask, tell: Tell) -> Outcome:
    """Answer, or fail as ``<fault>.<anything>`` says."""
    fault = task.study_instance_uid.partition(".")[0]
    with (FOLDER / "attempts").open("a") as attempts:
        attempts.write(f"{task.study_instance_uid} {os.getpid()}\n")
    if fault in ("flagged", "dies flagged"):
        tell(Flag("critical", 0, "Pneumothorax 91 %"))
    FAULTS.get(fault, lambda _: None)(task)
    images = object() if fault == "untold" else [{"by": os.getpid()}]
    rank: Any = {} if fault == "unstorable" else 3
    return Outcome(TaskStatus.DONE, "none", rank, {"images": images}, message="nothing found", content="c")


if __name__ == "__main__":
    begin()
    if (FOLDER / "slow to import").exists():
        time.sleep(600)
    CHANNEL: socket.socket = become_reader()
    if (FOLDER / "stuck").exists():
        time.sleep(600)
    if (FOLDER / "dying").exists():
        os.abort()
    if (FOLDER / "broken").exists():
        sys.exit(refuse(CHANNEL, "bundle lungs: its weights are damaged"))
    serve(CHANNEL, read, {"lungs": "1.0"}, {OrthancAway: ("orthanc_unavailable", "Orthanc did not answer")})

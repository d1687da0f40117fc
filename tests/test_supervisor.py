"""The worker beside the plugin: it comes again when it dies, and when it lives but does nothing any more."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orthanc_plugin.working import supervisor
from orthanc_plugin.working.supervisor import Supervisor

_FAKE = """#!{python}
import os, sys, time
name, beat = sys.argv[3:]
with open({notes!r}, "a") as notes:
    print(name, os.getpid(), file=notes, flush=True)
while True:
    if {beats}:
        os.write(int(beat), b".")
    time.sleep(0.05)
"""


def wait(question: Callable[[], Any], seconds: float = 10.0) -> Any:
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return answer


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], Callable[[], list[list[str]]]]]:
    """Start a supervisor whose worker does nothing but beat, or not even that; gives the workers that were started."""
    monkeypatch.setattr(supervisor, "_SILENT_SECONDS", 0.5)
    running = []

    def begin(beats: bool) -> Callable[[], list[list[str]]]:
        notes, worker = tmp_path / "notes", tmp_path / "worker"
        worker.write_text(_FAKE.format(python=sys.executable, notes=str(notes), beats=beats))
        worker.chmod(0o700)
        one = Supervisor(worker, tmp_path / "worker.log")
        one.start()
        running.append((one, notes))
        return lambda: [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []

    yield begin
    for one, notes in running:
        pid = int(notes.read_text().split()[-1])
        one._stopping.set()
        os.kill(pid, 9)
        one.stop()


def test_a_worker_that_hangs_is_killed_and_followed_by_another_of_its_name(start: Any) -> None:
    started = start(False)
    (first, pid), (second, other) = wait(lambda: len(started()) > 1 and started())[:2]
    assert (first, pid != other) == (second, True)
    assert not Path(f"/proc/{pid}").exists()


def test_a_worker_that_beats_is_left_alone_and_one_that_died_is_followed(start: Any) -> None:
    started = start(True)
    ((_, pid),) = wait(started)
    time.sleep(1.5)  # three times the silence that is allowed
    assert len(started()) == 1
    os.kill(int(pid), 9)
    wait(lambda: len(started()) == 2)

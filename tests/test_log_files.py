"""A log that several processes write is rotated under them, and no line is lost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from orthanc_plugin.log_files import rotate
from orthanc_plugin.logs import FIELDS
from orthanc_plugin.settings import REPOSITORY

# Writes lines of its own, as a worker does, and has a child that was forked write others.
WRITER = """
import logging, os, sys, time
from orthanc_plugin.logs import start_logging
start_logging()
log = logging.getLogger("hilum.test")
name, lines = sys.argv[1], int(sys.argv[2])
if os.fork() == 0:
    name += "-child"
for number in range(lines):
    log.info("%s %d %s", name, number, "x" * 200)
    if number % 50 == 0:
        time.sleep(0.002)
if name.endswith("-child"):
    os._exit(0)
os.wait()
"""


def lines_of(folder: Path) -> list[str]:
    return [line for file in folder.iterdir() for line in file.read_text().splitlines()]


def start(log: Path, name: str, lines: int) -> subprocess.Popen[bytes]:
    with log.open("ab") as opened:
        environment = {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", "PATH": "/usr/bin:/bin"}
        return subprocess.Popen([sys.executable, "-c", WRITER, name, str(lines)], stderr=opened, env=environment)


def test_several_processes_lose_no_line_while_their_log_is_rotated(tmp_path: Path) -> None:
    log, rotations = tmp_path / "worker.log", 0
    writers = [start(log, f"w{number}", 2000) for number in range(3)]
    while any(writer.poll() is None for writer in writers):
        rotations += rotate(log, longest=50_000, files=1000)
        time.sleep(0.001)
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert rotations > 5
    told = Counter(json.loads(line)["event"].rpartition(" ")[0] for line in lines_of(tmp_path))
    names = [f"w{number}{child}" for number in range(3) for child in ("", "-child")]
    assert told == Counter(f"{name} {number}" for name in names for number in range(2000))


def test_no_more_files_are_kept_than_the_site_wants_and_the_oldest_go(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    for number in range(9):
        log.write_text(f"{number}\n" * 100)
        assert rotate(log, longest=100, files=3)
    assert {file.name: file.read_text()[:1] for file in tmp_path.iterdir()} == {
        "worker.log": "", "worker.log.1": "8", "worker.log.2": "7",
    }  # fmt: skip
    log.write_text("9\n" * 100)
    assert rotate(log, longest=100, files=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["worker.log", "worker.log.1"]


def test_a_log_that_is_not_full_or_not_there_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    assert not rotate(log, longest=10, files=3)
    log.write_text("short")
    assert not rotate(log, longest=10, files=3)
    assert [file.name for file in tmp_path.iterdir()] == ["worker.log"]


@pytest.mark.parametrize("field", ["time", "level", "part", "event", "error", "where", "source", "thread", *FIELDS])
def test_every_field_of_a_log_is_documented(field: str) -> None:
    document = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
    section = document.partition("## Logs")[2].partition("\n## ")[0]
    assert re.search(rf"`{field}`", section), f"docs/operations.md, Logs: {field} is missing"

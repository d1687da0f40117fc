"""What is called wrong, the room on the disk, and the clock."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from orthanc_plugin.free_space import FreeSpace
from orthanc_plugin.hosting.health import ClockWatch, Vitals, problems, state
from orthanc_plugin.ledger.database import LedgerUnavailable, LedgerUnusable
from orthanc_plugin.ledger.delivery_views import Undelivered
from orthanc_plugin.ledger.ownership import LedgerOfAnotherArchive
from orthanc_plugin.redaction import copy_lines

WELL = Vitals(
    ledger_error=None,
    free_mb=5000,
    reserve_mb=500,
    worker_seen=True,
    worker_problem="",
    running_seconds=100.0,
)
MODELS = {"chest_findings": "1"}


def test_a_node_that_is_well_has_no_problem() -> None:
    assert problems(WELL) == []
    assert (state([], MODELS), state([], None)) == ("ready", "starting")


@pytest.mark.parametrize(
    ("vitals", "code", "stops"),
    [
        (replace(WELL, ledger_error=LedgerUnavailable("x")), "ledger_unavailable", True),
        (replace(WELL, ledger_error=LedgerUnusable("x")), "ledger_unusable", True),
        (replace(WELL, ledger_error=LedgerOfAnotherArchive("x")), "ledger_of_another_archive", True),
        (replace(WELL, free_mb=499), "storage_full", True),
        (replace(WELL, free_mb=500), "storage_low", False),
        (replace(WELL, free_mb=0, read_only=True), "storage_read_only", True),
        (replace(WELL, worker_seen=False), "worker_silent", True),
        (replace(WELL, worker_problem="models_unusable"), "models_unusable", True),
        (replace(WELL, worker_problem="orthanc_unavailable"), "orthanc_unavailable", True),
        (replace(WELL, worker_problem="something_new"), "something_new", True),
        (replace(WELL, quarantined=1), "quarantined", False),
        (replace(WELL, oldest_waiting_seconds=601.0), "waiting_long", False),
        (replace(WELL, orphans=2), "orphans", False),
        (replace(WELL, clock_jump_seconds=-3600.0), "clock_jumped", False),
        (replace(WELL, undelivered=(Undelivered("pacs", 3, 0, "away"),)), "undelivered_pacs", False),
        (replace(WELL, undelivered=(Undelivered("pacs", 0, 1, "status 0xA900"),)), "refused_pacs", False),
    ],
)
def test_each_problem_has_a_code_words_and_something_to_do(vitals: Vitals, code: str, stops: bool) -> None:
    (found,) = problems(vitals)
    assert (found.code, found.stops) == (code, stops)
    assert found.text.endswith(".")
    assert found.what_to_do.endswith((".", "--all."))
    assert state([found], MODELS) == ("impaired" if stops else "ready")


@pytest.mark.parametrize(
    "vitals",
    [
        replace(WELL, free_mb=1000),
        replace(WELL, worker_seen=False, running_seconds=10.0),
        replace(WELL, oldest_waiting_seconds=599.0),
    ],
    ids=["room", "just started", "short wait"],
)
def test_what_is_ordinary_is_no_problem(vitals: Vitals) -> None:
    assert problems(vitals) == []


def test_an_outage_of_the_ledger_is_not_blamed_on_the_worker() -> None:
    away = replace(WELL, ledger_error=LedgerUnavailable("x"), worker_seen=False, unrecorded=2)
    (found,) = problems(away)
    assert "2 studies wait" in found.what_to_do


def test_what_stops_work_comes_first() -> None:
    both = replace(WELL, quarantined=3, free_mb=1)
    assert [problem.code for problem in problems(both)] == ["storage_full", "quarantined"]


def test_images_are_refused_below_the_reserve_and_the_fullest_disk_counts(tmp_path: Path) -> None:
    free = FreeSpace([tmp_path], 0).free_mb()
    assert free > 0
    assert not FreeSpace([tmp_path], 0).refuses()
    assert FreeSpace([tmp_path], free + 100_000).refuses()
    assert FreeSpace([tmp_path, tmp_path / "missing"], 1).refuses()


def test_a_folder_that_cannot_be_asked_has_no_room(tmp_path: Path) -> None:
    assert FreeSpace([tmp_path, tmp_path / "unmounted"], 1).refuses()


def test_the_disk_is_asked_once_a_second(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    space = FreeSpace([folder], 1)
    assert not space.refuses()
    folder.rmdir()
    assert not space.refuses()


class Clocks:
    """A wall clock that can be set, and one that cannot."""

    wall, steady = 1000.0, 0.0

    def go(self, seconds: float, jump: float = 0.0) -> None:
        self.wall, self.steady = self.wall + seconds + jump, self.steady + seconds


@pytest.mark.parametrize("jump", [-3600.0, 7200.0])
def test_a_clock_that_was_set_is_noticed_for_an_hour(jump: float) -> None:
    clocks = Clocks()
    watch = ClockWatch(lambda: clocks.wall, lambda: clocks.steady)
    clocks.go(5.0)
    assert watch.jump_seconds() == 0
    clocks.go(5.0, jump)
    assert watch.jump_seconds() == pytest.approx(jump)
    clocks.go(1800.0)
    assert watch.jump_seconds() == pytest.approx(jump)
    clocks.go(1801.0)
    assert watch.jump_seconds() == 0


def test_a_clock_that_is_corrected_gently_is_left_alone() -> None:
    clocks = Clocks()
    watch = ClockWatch(lambda: clocks.wall, lambda: clocks.steady)
    for _ in range(10):
        clocks.go(10.0, 0.5)
        assert watch.jump_seconds() == 0


def test_a_full_disk_costs_lines_of_the_log_and_does_not_end_orthanc() -> None:
    # Orthanc writes to a pipe; if its reader ended, the next line would end Orthanc (SIGPIPE)
    given = iter(["one\n", "two\n"])
    copy_lines(given, Path("/dev/full"), longest=1000, files=2)
    assert next(given, None) is None


def test_a_disk_that_can_only_be_read_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writable = os.statvfs(tmp_path)
    fields = [*writable[:8], writable.f_flag | os.ST_RDONLY, writable.f_namemax]
    space = FreeSpace([tmp_path], 1)
    assert not space.read_only()
    monkeypatch.setattr(os, "statvfs", lambda _folder: os.statvfs_result(fields))
    space = FreeSpace([tmp_path], 1)
    assert space.read_only()
    assert space.refuses()


@pytest.mark.parametrize(("code", "read_only"), [(errno.EROFS, True), (errno.EIO, True), (errno.EOPNOTSUPP, False)])
def test_a_disk_that_takes_no_file_has_no_room_whatever_it_is_called(
    code: int, read_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ext4 after an error: not mounted read-only, and yet every write fails."""

    def refuse(*_arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    space = FreeSpace([tmp_path], 1)
    assert space.read_only() is read_only
    assert space.refuses() is read_only


def test_asking_for_room_leaves_no_file_behind(tmp_path: Path) -> None:
    assert not FreeSpace([tmp_path], 1).refuses()
    assert list(tmp_path.iterdir()) == []

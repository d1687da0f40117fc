"""The ledger: every change of state, on a real SQLite file."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from orthanc_plugin import tasks
from orthanc_plugin.tasks import Arrival, ClaimLost, InferenceTask, Outcome, TaskStatus

DONE = Outcome(TaskStatus.DONE, "critical", 0, {"images": [{"sop_instance_uid": "1.2"}]}, message="why")
STUDY = Arrival("1.2.3", patient_name="Phantom^One")


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite"
    tasks.create(path)
    return path


@pytest.fixture
def db(ledger: Path) -> Iterator[sqlite3.Connection]:
    with tasks.connect(ledger) as connection:
        yield connection


def enqueue(db: sqlite3.Connection, now: float, arrival: Arrival = STUDY) -> None:
    tasks.enqueue(db, arrival, now=now, quiet_seconds=0.5)


def claim(db: sqlite3.Connection, now: float, attempts: int = 3) -> InferenceTask:
    task = tasks.claim(db, now=now, lease_seconds=30, attempts=attempts)
    assert task is not None
    return task


def nothing_due(db: sqlite3.Connection, now: float) -> bool:
    return tasks.claim(db, now=now, lease_seconds=30, attempts=3) is None


def status_of(db: sqlite3.Connection) -> str:
    return str(tasks.reading_order(db)[0]["status"])


def test_a_new_study_is_due_at_once_and_claimed_once(db: sqlite3.Connection) -> None:
    enqueue(db, 100)
    assert claim(db, 100).study_instance_uid == "1.2.3"
    assert nothing_due(db, 101)


def test_a_completed_study_is_not_done_again(db: sqlite3.Connection) -> None:
    enqueue(db, 100)
    tasks.complete(db, claim(db, 100), DONE, now=101)
    assert status_of(db) == "done"
    assert nothing_due(db, 1000)


def test_an_image_that_comes_while_the_study_is_read_queues_it_again_and_keeps_the_answer(
    db: sqlite3.Connection,
) -> None:
    enqueue(db, 100)
    task = claim(db, 100)
    enqueue(db, 100.2)
    tasks.complete(db, task, DONE, now=101)
    row = tasks.reading_order(db)[0]
    assert (row["status"], row["priority"], row["result"]) == ("queued", "critical", DONE.result)
    assert claim(db, 101).result == DONE.result


def test_a_later_image_restarts_the_quiet_time_of_an_answered_study(db: sqlite3.Connection) -> None:
    enqueue(db, 100)
    tasks.complete(db, claim(db, 100), DONE, now=101)
    enqueue(db, 200)
    assert nothing_due(db, 200.4)
    assert claim(db, 200.6).generation == 2


def test_a_silent_worker_loses_its_claim_and_its_late_answer(db: sqlite3.Connection) -> None:
    enqueue(db, 100)
    slow = claim(db, 100)
    fresh = claim(db, 131)
    with pytest.raises(ClaimLost):
        tasks.complete(db, slow, DONE, now=132)
    with pytest.raises(ClaimLost):
        tasks.heartbeat(db, slow, now=132, lease_seconds=30)
    tasks.complete(db, fresh, DONE, now=133)
    assert status_of(db) == "done"


def test_a_heartbeat_keeps_the_claim(db: sqlite3.Connection) -> None:
    enqueue(db, 100)
    task = claim(db, 100)
    tasks.heartbeat(db, task, now=125, lease_seconds=30)
    assert nothing_due(db, 140)


def test_a_failed_attempt_waits_and_the_last_one_is_final(db: sqlite3.Connection) -> None:
    enqueue(db, 100)
    tasks.fail(db, claim(db, 100), "internal_error", "why", now=101, retry_at=110)
    assert nothing_due(db, 109)
    second = claim(db, 110)
    assert second.attempts == 2
    tasks.fail(db, second, "internal_error", "why", now=111, retry_at=None)
    assert status_of(db) == "failed"
    assert nothing_due(db, 10_000)


def test_an_image_that_comes_during_the_last_attempt_is_still_looked_at(db: sqlite3.Connection) -> None:
    enqueue(db, 100)
    task = claim(db, 100)
    enqueue(db, 100.2)
    tasks.fail(db, task, "internal_error", "why", now=101, retry_at=None)
    assert status_of(db) == "queued"
    assert claim(db, 101).generation == 2


def test_a_study_that_kills_every_worker_is_given_up(db: sqlite3.Connection) -> None:
    enqueue(db, 0)
    for now in (0, 100, 200):
        claim(db, now)
    assert nothing_due(db, 300)
    row = tasks.reading_order(db)[0]
    assert (row["status"], row["reason"]) == ("failed", "worker_died")


def test_a_new_image_gives_a_failed_study_another_chance(db: sqlite3.Connection) -> None:
    enqueue(db, 0)
    tasks.fail(db, claim(db, 0), "internal_error", "why", now=1, retry_at=None)
    enqueue(db, 10)
    assert claim(db, 11).attempts == 1


def test_the_most_pressing_study_comes_first_then_the_one_that_waits_longest(db: sqlite3.Connection) -> None:
    for uid, now in (("1.1", 1.0), ("1.2", 2.0), ("1.3", 3.0)):
        enqueue(db, now, Arrival(uid))
    for expected in ("1.1", "1.2", "1.3"):
        task = claim(db, 10)
        assert task.study_instance_uid == expected
        rank = 0 if expected == "1.3" else 2
        tasks.complete(db, task, Outcome(TaskStatus.DONE, "routine", rank, {"images": []}), now=11)
    assert [r["study_instance_uid"] for r in tasks.reading_order(db)] == ["1.3", "1.1", "1.2"]


def test_only_a_ready_worker_that_was_seen_lately_counts(db: sqlite3.Connection) -> None:
    tasks.report_worker(db, "w", "starting", {}, now=100)
    assert tasks.ready_models(db, now=101, silent_seconds=15) is None
    tasks.report_worker(db, "w", "ready", {"lung_fields": "1"}, now=102)
    assert tasks.ready_models(db, now=103, silent_seconds=15) == {"lung_fields": "1"}
    assert tasks.ready_models(db, now=200, silent_seconds=15) is None
    tasks.forget_workers(db)
    assert tasks.ready_models(db, now=103, silent_seconds=15) is None


def test_the_ledger_is_readable_by_its_owner_alone(ledger: Path) -> None:
    assert stat.S_IMODE(ledger.stat().st_mode) == 0o600


def test_a_ledger_of_a_newer_version_is_refused(ledger: Path) -> None:
    with tasks.connect(ledger) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(tasks.LedgerUnusable, match="update Hilum"):
        tasks.create(ledger)


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is not a database, it is a note to nobody in particular" * 20)
    with pytest.raises(tasks.LedgerUnusable, match="move it away"):
        tasks.create(path)


def test_an_arrival_does_not_print_its_patient() -> None:
    assert "Phantom" not in repr(STUDY)

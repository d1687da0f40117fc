"""The ledger: one inference task for each study, and what became of it.

The rule: every change of state is one conditional UPDATE, so that two workers, or a worker that was thought dead, can
never both write. The images and results themselves live in Orthanc; a lost ledger is rebuilt from there.

::

    stored instance --> QUEUED --claim--> RUNNING --complete--> DONE | NOT_PROCESSED
                          ^  ^              |  |
                          |  '--later image-'  |     (the row keeps the answer it has)
                          '----fail, retry-----'--fail, last attempt--> FAILED
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    study_instance_uid  TEXT PRIMARY KEY,
    status              TEXT NOT NULL,
    generation          INTEGER NOT NULL,            -- instances announced so far
    claimed_generation  INTEGER NOT NULL DEFAULT 0,  -- what the current claim has seen
    fence               INTEGER NOT NULL DEFAULT 0,  -- grows with each claim: an old worker's write no longer fits
    attempts            INTEGER NOT NULL DEFAULT 0,  -- since the last new instance
    not_before          REAL NOT NULL,               -- all times: seconds since 1970, UTC
    lease_until         REAL,
    received_at         REAL NOT NULL,
    last_instance_at    REAL NOT NULL,
    completed_at        REAL,
    priority            TEXT NOT NULL DEFAULT 'none',
    priority_rank       INTEGER NOT NULL DEFAULT 3,
    reason              TEXT,                        -- code
    message             TEXT,                        -- for people, without patient data
    result              TEXT NOT NULL DEFAULT '{}',  -- JSON: images with findings and result UIDs
    patient_name        TEXT NOT NULL DEFAULT '',
    patient_id          TEXT NOT NULL DEFAULT '',
    patient_birth_date  TEXT NOT NULL DEFAULT '',
    patient_sex         TEXT NOT NULL DEFAULT '',
    accession_number    TEXT NOT NULL DEFAULT '',
    study_date          TEXT NOT NULL DEFAULT '',
    study_time          TEXT NOT NULL DEFAULT '',
    study_description   TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS tasks_claimable ON tasks (not_before) WHERE status = 'queued';
CREATE INDEX IF NOT EXISTS tasks_leased ON tasks (lease_until) WHERE status = 'running';
CREATE INDEX IF NOT EXISTS tasks_reading_order ON tasks (priority_rank, received_at);
CREATE TABLE IF NOT EXISTS workers (
    worker_id  TEXT PRIMARY KEY,
    state      TEXT NOT NULL,                        -- starting | ready
    models     TEXT NOT NULL DEFAULT '{}',           -- JSON: name -> version
    seen_at    REAL NOT NULL
);
"""


class TaskStatus(StrEnum):
    """Where a study stands; the values are those of the worklist's interface."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    NOT_PROCESSED = "not_processed"  # no image of the study may be read: see its reason
    FAILED = "failed"  # every attempt failed: see its reason


class LedgerUnusable(Exception):
    """The ledger file was written by a newer version, or is no ledger; the message says what to do."""


class ClaimLost(Exception):
    """The task was taken over by another worker, or removed, since it was claimed: drop the work."""


@dataclass(frozen=True)
class Arrival:
    """What the plugin knows of a stored instance: enough for a row of the worklist."""

    study_instance_uid: str
    patient_name: str = field(default="", repr=False)
    patient_id: str = field(default="", repr=False)
    patient_birth_date: str = field(default="", repr=False)
    patient_sex: str = field(default="", repr=False)
    accession_number: str = field(default="", repr=False)
    study_date: str = ""
    study_time: str = ""
    study_description: str = field(default="", repr=False)


@dataclass(frozen=True)
class InferenceTask:
    """A study that this worker has claimed until its lease ends."""

    study_instance_uid: str
    fence: int
    generation: int
    attempts: int
    result: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of a claimed task.

    Parameters
    ----------
    status
        DONE or NOT_PROCESSED.
    result
        JSON: ``{"images": [...]}``.
    """

    status: TaskStatus
    priority: str
    priority_rank: int
    result: dict[str, Any]
    reason: str | None = None
    message: str | None = None


@contextmanager
def connect(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the ledger for one unit of work in this thread; every statement commits by itself."""
    db = sqlite3.connect(path, timeout=10.0, isolation_level=None)
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA synchronous = NORMAL")
        yield db
    finally:
        db.close()


def create(path: Path) -> None:
    """Make the ledger if there is none yet.

    Raises
    ------
    LedgerUnusable
        When the file was written by a newer version of Hilum, or is no ledger.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    try:
        with connect(path) as db:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if version > SCHEMA_VERSION:
                raise LedgerUnusable(f"{path} has schema {version}, this Hilum knows {SCHEMA_VERSION}: update Hilum")
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except sqlite3.DatabaseError as error:
        raise LedgerUnusable(f"{path} cannot be used ({error}): move it away and start again") from error


def enqueue(db: sqlite3.Connection, arrival: Arrival, *, now: float, quiet_seconds: float) -> None:
    """Record a stored instance: a new study is due at once, a known one again after `quiet_seconds`."""
    db.execute(
        """
        INSERT INTO tasks (study_instance_uid, status, generation, not_before, received_at, last_instance_at,
                           patient_name, patient_id, patient_birth_date, patient_sex, accession_number,
                           study_date, study_time, study_description)
        VALUES (:study_instance_uid, 'queued', 1, :now, :now, :now,
                :patient_name, :patient_id, :patient_birth_date, :patient_sex, :accession_number,
                :study_date, :study_time, :study_description)
        ON CONFLICT (study_instance_uid) DO UPDATE SET
            generation = generation + 1,
            attempts = 0,
            last_instance_at = :now,
            not_before = CASE WHEN status = 'queued' THEN min(not_before, :later) ELSE :later END,
            status = CASE WHEN status = 'running' THEN 'running' ELSE 'queued' END
        """,
        {**arrival.__dict__, "now": now, "later": now + quiet_seconds},
    )


def request_again(db: sqlite3.Connection, study_instance_uid: str, *, now: float) -> bool:
    """Have a known study read once more, as if an image had come; False when the ledger does not know it."""
    changed = db.execute(
        """
        UPDATE tasks SET generation = generation + 1, attempts = 0, not_before = :now,
                         status = CASE WHEN status = 'running' THEN 'running' ELSE 'queued' END
        WHERE study_instance_uid = :uid
        """,
        {"uid": study_instance_uid, "now": now},
    ).rowcount
    return changed == 1


def claim(db: sqlite3.Connection, *, now: float, lease_seconds: float, attempts: int) -> InferenceTask | None:
    """Take the task that is due longest, or one whose worker fell silent; None when nothing is due.

    A study under which `attempts` workers fell silent is reported as failed instead of being tried for ever.
    """
    db.execute(
        """
        UPDATE tasks SET status = 'failed', reason = 'worker_died', lease_until = NULL, completed_at = :now,
                         message = 'the worker died on this study at every attempt; see its log'
        WHERE status = 'running' AND lease_until < :now AND attempts >= :attempts
        """,
        {"now": now, "attempts": attempts},
    )
    row = db.execute(
        """
        UPDATE tasks SET status = 'running', fence = fence + 1, attempts = attempts + 1,
                         claimed_generation = generation, lease_until = :now + :lease
        WHERE study_instance_uid = (
            SELECT study_instance_uid FROM (
                SELECT study_instance_uid, not_before AS due FROM tasks
                WHERE status = 'queued' AND not_before <= :now
                UNION ALL
                SELECT study_instance_uid, lease_until AS due FROM tasks
                WHERE status = 'running' AND lease_until < :now)
            ORDER BY due LIMIT 1)
        RETURNING study_instance_uid, fence, generation, attempts, result
        """,
        {"now": now, "lease": lease_seconds},
    ).fetchone()
    if row is None:
        return None
    return InferenceTask(
        row["study_instance_uid"], row["fence"], row["generation"], row["attempts"], json.loads(row["result"])
    )


def heartbeat(db: sqlite3.Connection, task: InferenceTask, *, now: float, lease_seconds: float) -> None:
    """Prolong the lease of a claimed task.

    Raises
    ------
    ClaimLost
    """
    changed = db.execute(
        "UPDATE tasks SET lease_until = ? WHERE study_instance_uid = ? AND fence = ? AND status = 'running'",
        (now + lease_seconds, task.study_instance_uid, task.fence),
    ).rowcount
    _expect(changed, task)


def complete(db: sqlite3.Connection, task: InferenceTask, outcome: Outcome, *, now: float) -> None:
    """Record the answer; a study to which images came meanwhile is queued again and keeps this answer till then.

    Raises
    ------
    ClaimLost
    """
    changed = db.execute(
        """
        UPDATE tasks SET
            status = CASE WHEN generation > claimed_generation THEN 'queued' ELSE :status END,
            priority = :priority, priority_rank = :priority_rank, reason = :reason, message = :message,
            result = :result, completed_at = :now, lease_until = NULL,
            attempts = CASE WHEN generation > claimed_generation THEN 0 ELSE attempts END
        WHERE study_instance_uid = :uid AND fence = :fence AND status = 'running'
        """,
        {
            "status": outcome.status.value,
            "priority": outcome.priority,
            "priority_rank": outcome.priority_rank,
            "reason": outcome.reason,
            "message": outcome.message,
            "result": json.dumps(outcome.result, separators=(",", ":")),
            "now": now,
            "uid": task.study_instance_uid,
            "fence": task.fence,
        },
    ).rowcount
    _expect(changed, task)


def fail(
    db: sqlite3.Connection, task: InferenceTask, reason: str, message: str, *, now: float, retry_at: float | None
) -> None:
    """Record a failed attempt: queued again at `retry_at`, or FAILED when that is None and no image came meanwhile.

    Raises
    ------
    ClaimLost
    """
    changed = db.execute(
        """
        UPDATE tasks SET status = CASE WHEN :retry_at IS NULL AND generation = claimed_generation
                                       THEN 'failed' ELSE 'queued' END,
                         not_before = coalesce(:retry_at, not_before), lease_until = NULL,
                         reason = :reason, message = :message,
                         completed_at = CASE WHEN :retry_at IS NULL THEN :now ELSE completed_at END
        WHERE study_instance_uid = :uid AND fence = :fence AND status = 'running'
        """,
        {
            "retry_at": retry_at,
            "reason": reason,
            "message": message,
            "now": now,
            "uid": task.study_instance_uid,
            "fence": task.fence,
        },
    ).rowcount
    _expect(changed, task)


def report_worker(db: sqlite3.Connection, worker_id: str, state: str, models: dict[str, str], *, now: float) -> None:
    """Note that a worker lives, in which state, and which models it runs."""
    db.execute(
        """
        INSERT INTO workers VALUES (?, ?, ?, ?)
        ON CONFLICT (worker_id) DO UPDATE SET state = excluded.state, models = excluded.models,
                                              seen_at = excluded.seen_at
        """,
        (worker_id, state, json.dumps(models), now),
    )


def forget_workers(db: sqlite3.Connection) -> None:
    """Start with no worker known: those that live report again within a second."""
    db.execute("DELETE FROM workers")


def ready_models(db: sqlite3.Connection, *, now: float, silent_seconds: float) -> dict[str, str] | None:
    """The models (name to version) of a worker that is ready and was seen lately; None when there is no such worker."""
    row = db.execute(
        "SELECT models FROM workers WHERE state = 'ready' AND seen_at > ? ORDER BY seen_at DESC LIMIT 1",
        (now - silent_seconds,),
    ).fetchone()
    return None if row is None else json.loads(row["models"])


def count_by_status(db: sqlite3.Connection) -> dict[str, int]:
    """Number of studies in each state; every state is there."""
    counts = {status.value: 0 for status in TaskStatus}
    counts.update(dict(db.execute("SELECT status, count(*) FROM tasks GROUP BY status").fetchall()))
    return counts


def reading_order(db: sqlite3.Connection, *, limit: int = 500) -> list[dict[str, Any]]:
    """The `limit` studies that came last, the most pressing first, then the one that waits longest."""
    rows = db.execute(
        """
        SELECT * FROM (SELECT * FROM tasks ORDER BY last_instance_at DESC LIMIT ?)
        ORDER BY priority_rank, received_at
        """,
        (limit,),
    ).fetchall()
    return [_with_result(row) for row in rows]


def of_study(db: sqlite3.Connection, study_instance_uid: str) -> list[dict[str, Any]]:
    """The task of one study, as `reading_order` gives it; an empty list when there is none."""
    rows = db.execute("SELECT * FROM tasks WHERE study_instance_uid = ?", (study_instance_uid,)).fetchall()
    return [_with_result(row) for row in rows]


def _with_result(row: sqlite3.Row) -> dict[str, Any]:
    return {**dict(row), "result": json.loads(row["result"])}


def _expect(changed: int, task: InferenceTask) -> None:
    if changed != 1:
        raise ClaimLost(f"study {task.study_instance_uid}: the claim (fence {task.fence}) no longer holds")

"""The tables of the ledger, as the steps that lead from one schema to the next and back. Plain SQL, no code.

The rule: a step keeps every row in both directions, and its SQL is the same for SQLite (3.35 and later) and PostgreSQL.
All times are seconds since 1970 (UTC), as DOUBLE PRECISION: PostgreSQL's REAL would round them to minutes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Migration:
    """The step to one schema.

    Parameters
    ----------
    version
        The schema that `up` leads to.
    up
        Statements that lead there from the schema before.
    down
        Statements that lead back; empty for the first schema.
    """

    version: int
    up: tuple[str, ...]
    down: tuple[str, ...]


_FIRST = Migration(
    1,
    up=(
        """
        CREATE TABLE tasks (
            study_instance_uid  TEXT PRIMARY KEY,
            status              TEXT NOT NULL,
            generation          INTEGER NOT NULL,            -- instances announced so far
            claimed_generation  INTEGER NOT NULL DEFAULT 0,  -- what the current claim has seen
            fence               INTEGER NOT NULL DEFAULT 0,  -- grows with each claim: an old worker's write misses
            attempts            INTEGER NOT NULL DEFAULT 0,  -- failures of its own since the last new instance
            not_before          DOUBLE PRECISION NOT NULL,
            lease_until         DOUBLE PRECISION,
            received_at         DOUBLE PRECISION NOT NULL,
            last_instance_at    DOUBLE PRECISION NOT NULL,
            completed_at        DOUBLE PRECISION,
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
        )
        """,
        "CREATE INDEX tasks_claimable ON tasks (not_before) WHERE status = 'queued'",
        "CREATE INDEX tasks_leased ON tasks (lease_until) WHERE status = 'running'",
        "CREATE INDEX tasks_reading_order ON tasks (priority_rank, received_at)",
        """
        CREATE TABLE workers (
            worker_id  TEXT PRIMARY KEY,
            state      TEXT NOT NULL,                        -- starting | ready
            models     TEXT NOT NULL DEFAULT '{}',           -- JSON: name -> version
            seen_at    DOUBLE PRECISION NOT NULL
        )
        """,
    ),
    down=(),
)

_NOTHING_IS_LOST = Migration(
    2,
    up=(
        "ALTER TABLE tasks ADD COLUMN urgency INTEGER NOT NULL DEFAULT 1",  # 0 STAT, 1 ROUTINE, 2 BACKGROUND
        "ALTER TABLE tasks ADD COLUMN due_order DOUBLE PRECISION",  # place in the queue; NULL: not in it
        "ALTER TABLE tasks ADD COLUMN written_at DOUBLE PRECISION NOT NULL DEFAULT 0",  # the clock at the last change
        "ALTER TABLE tasks ADD COLUMN abandoned INTEGER NOT NULL DEFAULT 0",  # workers that fell silent on it
        "ALTER TABLE tasks ADD COLUMN failures INTEGER NOT NULL DEFAULT 0",  # in a row, its own or not: the back-off
        "ALTER TABLE tasks ADD COLUMN first_failed_at DOUBLE PRECISION",  # the first of them
        "ALTER TABLE tasks ADD COLUMN trace TEXT",  # where it failed: file:line function, never values
        "ALTER TABLE tasks ADD COLUMN answered_generation INTEGER NOT NULL DEFAULT 0",  # seen by the stored answer
        "ALTER TABLE tasks ADD COLUMN content TEXT NOT NULL DEFAULT ''",  # digest of what Orthanc held then
        "UPDATE tasks SET status = 'quarantined' WHERE status = 'failed'",
        "UPDATE tasks SET status = 'removed' WHERE status = 'not_processed' AND reason = 'removed'",
        "UPDATE tasks SET answered_generation = generation WHERE status IN ('done', 'not_processed')",
        "UPDATE tasks SET due_order = not_before WHERE status = 'queued'",
        "DROP INDEX tasks_claimable",
        "DROP INDEX tasks_leased",
        "DROP INDEX tasks_reading_order",
        "CREATE INDEX tasks_live ON tasks (due_order) WHERE urgency < 2 AND due_order IS NOT NULL",
        "CREATE INDEX tasks_background ON tasks (due_order) WHERE urgency = 2 AND due_order IS NOT NULL",
        "CREATE INDEX tasks_written ON tasks (written_at) WHERE due_order IS NOT NULL",
        "CREATE INDEX tasks_waiting ON tasks (not_before) WHERE status = 'queued' AND urgency < 2",
        "CREATE INDEX tasks_latest ON tasks (last_instance_at) WHERE status <> 'removed'",
        "CREATE INDEX tasks_status ON tasks (status)",
        "ALTER TABLE workers ADD COLUMN problem TEXT NOT NULL DEFAULT ''",  # code; empty when well
        "ALTER TABLE workers ADD COLUMN busy INTEGER NOT NULL DEFAULT 0",  # tasks in hand
        "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",  # archive id, last change number ...
    ),
    down=(
        "DROP TABLE facts",
        "ALTER TABLE workers DROP COLUMN busy",
        "ALTER TABLE workers DROP COLUMN problem",
        "DROP INDEX tasks_status",
        "DROP INDEX tasks_latest",
        "DROP INDEX tasks_waiting",
        "DROP INDEX tasks_written",
        "DROP INDEX tasks_background",
        "DROP INDEX tasks_live",
        "UPDATE tasks SET status = 'failed' WHERE status = 'quarantined'",
        "UPDATE tasks SET status = 'queued' WHERE status = 'answered'",
        "UPDATE tasks SET status = 'not_processed', reason = 'removed', message = 'the study is no longer in Orthanc' "
        "WHERE status = 'removed'",
        "ALTER TABLE tasks DROP COLUMN content",
        "ALTER TABLE tasks DROP COLUMN answered_generation",
        "ALTER TABLE tasks DROP COLUMN trace",
        "ALTER TABLE tasks DROP COLUMN first_failed_at",
        "ALTER TABLE tasks DROP COLUMN failures",
        "ALTER TABLE tasks DROP COLUMN abandoned",
        "ALTER TABLE tasks DROP COLUMN written_at",
        "ALTER TABLE tasks DROP COLUMN due_order",
        "ALTER TABLE tasks DROP COLUMN urgency",
        "CREATE INDEX tasks_claimable ON tasks (not_before) WHERE status = 'queued'",
        "CREATE INDEX tasks_leased ON tasks (lease_until) WHERE status = 'running'",
        "CREATE INDEX tasks_reading_order ON tasks (priority_rank, received_at)",
    ),
)

_HOLDER = Migration(
    3,
    up=("ALTER TABLE tasks ADD COLUMN holder TEXT NOT NULL DEFAULT ''",),  # worker_id of the last claim
    down=("ALTER TABLE tasks DROP COLUMN holder",),
)

MIGRATIONS = (_FIRST, _NOTHING_IS_LOST, _HOLDER)
SCHEMA_VERSION = MIGRATIONS[-1].version

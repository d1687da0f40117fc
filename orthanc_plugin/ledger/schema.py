"""The tables of the ledger, as the steps that lead from one schema to the next and back. Plain SQL, no code.

The rule: a step keeps every row in both directions, and its SQL is the same for SQLite (3.35 and later) and PostgreSQL,
but for two words (``database``): ``{bytewise}``, by which PostgreSQL orders a text as SQLite does, for prefixes are
ranges only so; and ``{clustered}``, by which SQLite keeps a table in the order of its key and not a second time.
All times are seconds since 1970 (UTC), as DOUBLE PRECISION: PostgreSQL's REAL would round them to minutes.
"""

from __future__ import annotations

from orthanc_plugin.ledger.early_schema import EARLY, Migration

__all__ = ["MIGRATIONS", "SCHEMA_VERSION", "Migration"]

_ACTS = Migration(
    5,
    up=(
        "ALTER TABLE tasks ADD COLUMN lowered_from TEXT NOT NULL DEFAULT ''",  # see ledger/lowering.py
        "ALTER TABLE reading_marks ADD COLUMN act INTEGER NOT NULL DEFAULT 0",  # marks of a person made at once
        "CREATE TABLE mark_acts (person TEXT PRIMARY KEY, latest INTEGER NOT NULL)",  # number of their latest act
        "CREATE INDEX reading_marks_of_act ON reading_marks (made_by, act, study_instance_uid, number)",
    ),
    down=(
        "DROP INDEX reading_marks_of_act",
        "DROP TABLE mark_acts",
        "ALTER TABLE reading_marks DROP COLUMN act",
        "ALTER TABLE tasks DROP COLUMN lowered_from",
    ),
)

# What a page is found by stands where it is looked for: in the order's indexes, and beside each word.
_FINDING = Migration(
    6,
    up=(
        """
        CREATE TABLE found_words (                               -- derived from tasks, see ledger/derived.py
            term                TEXT {bytewise} NOT NULL,
            study_instance_uid  TEXT NOT NULL,
            search_words        TEXT {bytewise} NOT NULL,        -- all of them, so that a second word costs no look-up
            PRIMARY KEY (term, study_instance_uid, search_words)
        ) {clustered}
        """,
        "INSERT INTO found_words (term, study_instance_uid, search_words) "
        "SELECT s.term, s.study_instance_uid, t.search_words FROM search_terms AS s "
        "JOIN tasks AS t ON t.study_instance_uid = s.study_instance_uid WHERE t.search_words IS NOT NULL",
        "DROP TABLE search_terms",
        "ALTER TABLE found_words RENAME TO search_terms",
        """
        CREATE TABLE found_findings (                            -- the same: present and undetermined alone
            key                 TEXT NOT NULL,
            state               TEXT NOT NULL,
            study_instance_uid  TEXT NOT NULL,
            probability         DOUBLE PRECISION,
            PRIMARY KEY (key, state, study_instance_uid)
        ) {clustered}
        """,
        "INSERT INTO found_findings (key, state, study_instance_uid, probability) "
        "SELECT key, state, study_instance_uid, probability FROM study_findings",
        "DROP TABLE study_findings",
        "ALTER TABLE found_findings RENAME TO study_findings",
        "CREATE INDEX study_findings_of_study ON study_findings (study_instance_uid)",
        "DROP INDEX tasks_dated",
        "DROP INDEX tasks_read",
        "DROP INDEX tasks_unread",
        "ALTER TABLE tasks ADD COLUMN present SMALLINT NOT NULL DEFAULT 0",  # how many findings are, see derived.py
        "ALTER TABLE tasks ADD COLUMN undetermined SMALLINT NOT NULL DEFAULT 0",
        """
        UPDATE tasks SET present = f.present, undetermined = f.undetermined FROM (
            SELECT study_instance_uid AS uid,
                   sum(CASE WHEN state = 'present' AND key NOT IN ('no_finding', 'covid_negative')
                            THEN 1 ELSE 0 END) AS present,
                   sum(CASE WHEN state = 'undetermined' THEN 1 ELSE 0 END) AS undetermined
            FROM study_findings GROUP BY study_instance_uid
        ) AS f WHERE f.uid = tasks.study_instance_uid
        """,
        "CREATE INDEX tasks_unread ON tasks (priority_rank, received_at, study_instance_uid, status, study_date, "
        "search_words) WHERE read_at IS NULL AND status <> 'removed'",
        "CREATE INDEX tasks_read ON tasks (priority_rank, read_at DESC, study_instance_uid, status, study_date, "
        "search_words) WHERE read_at IS NOT NULL AND status <> 'removed'",
        "CREATE INDEX tasks_dated ON tasks (study_date, study_time, study_instance_uid, search_words) "
        "WHERE status <> 'removed'",
        "CREATE INDEX tasks_found ON tasks (present, undetermined, received_at, study_instance_uid) "
        "WHERE status <> 'removed'",
        "ALTER TABLE tasks ADD COLUMN priority_reason TEXT NOT NULL DEFAULT ''",  # of the latest answer, in words
        "ALTER TABLE tasks ADD COLUMN first_answer INTEGER NOT NULL DEFAULT 0",  # 1: its results are not stored yet
        "ALTER TABLE tasks ADD COLUMN read_as TEXT NOT NULL DEFAULT ''",  # priority and why, when it was read
        "UPDATE tasks SET priority_reason = coalesce(message, '') WHERE status IN ('done', 'answered')",
        "UPDATE tasks SET priority_reason = message, first_answer = 1 WHERE status IN ('queued', 'running') "
        "AND message IS NOT NULL AND reason IS NULL AND completed_at IS NULL",
        "ALTER TABLE mark_acts ADD COLUMN passed INTEGER",  # undo could not take this act back: it goes on before it
    ),
    down=(
        "ALTER TABLE mark_acts DROP COLUMN passed",
        "UPDATE tasks SET message = priority_reason WHERE first_answer = 1 AND reason IS NULL",
        "ALTER TABLE tasks DROP COLUMN read_as",
        "ALTER TABLE tasks DROP COLUMN first_answer",
        "ALTER TABLE tasks DROP COLUMN priority_reason",
        "DROP INDEX tasks_found",
        "DROP INDEX tasks_dated",
        "DROP INDEX tasks_read",
        "DROP INDEX tasks_unread",
        "ALTER TABLE tasks DROP COLUMN undetermined",
        "ALTER TABLE tasks DROP COLUMN present",
        "CREATE INDEX tasks_unread ON tasks (priority_rank, received_at, study_instance_uid, status) "
        "WHERE read_at IS NULL AND status <> 'removed'",
        "CREATE INDEX tasks_read ON tasks (read_at DESC, study_instance_uid, priority_rank, status) "
        "WHERE read_at IS NOT NULL AND status <> 'removed'",
        "CREATE INDEX tasks_dated ON tasks (study_date, study_time, study_instance_uid) WHERE status <> 'removed'",
        "DROP INDEX study_findings_of_study",
        "ALTER TABLE study_findings RENAME TO found_findings",
        """
        CREATE TABLE study_findings (
            study_instance_uid  TEXT NOT NULL,
            key                 TEXT NOT NULL,
            state               TEXT NOT NULL,
            probability         DOUBLE PRECISION,
            PRIMARY KEY (study_instance_uid, key)
        )
        """,
        "INSERT INTO study_findings (study_instance_uid, key, state, probability) "
        "SELECT study_instance_uid, key, state, probability FROM found_findings",
        "DROP TABLE found_findings",
        "CREATE INDEX study_findings_found ON study_findings (key, state, study_instance_uid)",
        "ALTER TABLE search_terms RENAME TO found_words",
        """
        CREATE TABLE search_terms (
            study_instance_uid  TEXT NOT NULL,
            term                TEXT {bytewise} NOT NULL,
            PRIMARY KEY (study_instance_uid, term)
        )
        """,
        "INSERT INTO search_terms (study_instance_uid, term) SELECT study_instance_uid, term FROM found_words",
        "DROP TABLE found_words",
        "CREATE INDEX search_terms_found ON search_terms (term, study_instance_uid)",
    ),
)

# Going back, what was counted waits in a table that an earlier Hilum ignores.
_COUNTING = Migration(
    7,
    up=(
        """
        CREATE TABLE IF NOT EXISTS counters (                    -- see ledger/counters.py
            name    TEXT NOT NULL,
            labels  TEXT NOT NULL,                               -- JSON list of codes
            number  BIGINT NOT NULL,
            total   DOUBLE PRECISION NOT NULL,
            PRIMARY KEY (name, labels)
        )
        """,
        "CREATE INDEX tasks_running ON tasks (lease_until) WHERE status = 'running'",
    ),
    down=("DROP INDEX tasks_running",),
)

# Going back, what is owed waits as well.
_DELIVERING = Migration(
    8,
    up=(
        """
        CREATE TABLE IF NOT EXISTS deliveries (                  -- see ledger/deliveries.py
            destination         TEXT NOT NULL,
            study_instance_uid  TEXT NOT NULL,
            state               TEXT NOT NULL,
            owed                INTEGER NOT NULL,                -- answers so far
            claimed             INTEGER NOT NULL DEFAULT 0,      -- what the current claim has seen
            fence               INTEGER NOT NULL DEFAULT 0,      -- grows with each claim: an old writer's write misses
            holder              TEXT NOT NULL DEFAULT '',
            owed_since          DOUBLE PRECISION NOT NULL,
            due_at              DOUBLE PRECISION,                -- tried next, or the end of the claim; NULL: never
            failures            INTEGER NOT NULL DEFAULT 0,      -- in a row
            error               TEXT NOT NULL DEFAULT '',        -- of the last try, without patient data
            taken               TEXT NOT NULL DEFAULT '{}',      -- JSON: what the receiver has
            delivered_at        DOUBLE PRECISION,
            PRIMARY KEY (destination, study_instance_uid)
        )
        """,
        "CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (destination, due_at) WHERE state = 'owed'",
        "CREATE INDEX IF NOT EXISTS deliveries_owed ON deliveries (destination, owed_since) WHERE state = 'owed'",
        "CREATE INDEX IF NOT EXISTS deliveries_refused ON deliveries (destination, owed_since) WHERE state = 'refused'",
        "CREATE INDEX IF NOT EXISTS deliveries_done ON deliveries (destination, delivered_at, study_instance_uid) "
        "WHERE state = 'delivered'",
        "CREATE INDEX IF NOT EXISTS deliveries_of_study ON deliveries (study_instance_uid)",
    ),
    down=(
        "DROP INDEX deliveries_of_study",
        "DROP INDEX deliveries_done",
        "DROP INDEX deliveries_refused",
        "DROP INDEX deliveries_owed",
        "DROP INDEX deliveries_due",
    ),
)

# Going back, what waits for its turn in a run waits behind live studies, as an earlier Hilum knows it; the runs wait in
# a table that it ignores.
_REPROCESSING = Migration(
    9,
    up=(
        """
        CREATE TABLE IF NOT EXISTS archive_runs (                -- see ledger/reprocessing.py
            number              INTEGER PRIMARY KEY,
            first_date          TEXT NOT NULL,                   -- of studies, YYYYMMDD
            last_date           TEXT NOT NULL,
            model               TEXT NOT NULL,                   -- NAME@VERSION; empty: whatever is active
            most                BIGINT,                          -- studies to read; NULL: all
            state               TEXT NOT NULL,                   -- running, stopped or done
            study_date          TEXT NOT NULL DEFAULT '',        -- the last study that it came to
            study_time          TEXT NOT NULL DEFAULT '',
            study_instance_uid  TEXT NOT NULL DEFAULT '',
            total               BIGINT NOT NULL,                 -- studies of these dates when it began
            passed              BIGINT NOT NULL DEFAULT 0,       -- of them it came to so many
            taken               BIGINT NOT NULL DEFAULT 0,       -- and had so many read again
            started_at          DOUBLE PRECISION NOT NULL,
            changed_at          DOUBLE PRECISION NOT NULL
        )
        """,
        "CREATE INDEX tasks_archive ON tasks (due_order) WHERE urgency = 3 AND due_order IS NOT NULL",
    ),
    down=(
        "DROP INDEX tasks_archive",
        "UPDATE tasks SET urgency = 2 WHERE urgency = 3",
    ),
)

MIGRATIONS = (*EARLY, _ACTS, _FINDING, _COUNTING, _DELIVERING, _REPROCESSING)
SCHEMA_VERSION = MIGRATIONS[-1].version

"""The tables of the ledger, as the steps that lead from one schema to the next and back. Plain SQL, no code.

The rule: a step keeps every row in both directions, and its SQL is the same for SQLite (3.35 and later) and PostgreSQL,
but for two words (``database``): ``{bytewise}``, by which PostgreSQL orders a text as SQLite does, for prefixes are
ranges only so; and ``{clustered}``, by which SQLite keeps a table in the order of its key and not a second time.
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

# Going back, an earlier Hilum finds its tables as it knows them; what people noted waits in tables that it ignores.
_READING = Migration(
    4,
    up=(
        "ALTER TABLE tasks ADD COLUMN referring_physician TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE tasks ADD COLUMN patient_age TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE tasks ADD COLUMN answer_version INTEGER NOT NULL DEFAULT 0",  # that of `result`
        "ALTER TABLE tasks ADD COLUMN search_words TEXT {bytewise}",  # in search_terms; NULL: not worked out yet
        "ALTER TABLE tasks ADD COLUMN read_at DOUBLE PRECISION",  # by a person; NULL: unread
        "ALTER TABLE tasks ADD COLUMN read_by TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE tasks ADD COLUMN read_rank INTEGER NOT NULL DEFAULT 3",  # priority_rank when it was read
        "ALTER TABLE tasks ADD COLUMN read_version INTEGER NOT NULL DEFAULT 0",  # answer_version when it was read
        "ALTER TABLE tasks ADD COLUMN reopened_at DOUBLE PRECISION",  # its priority rose after it was read
        "ALTER TABLE tasks ADD COLUMN claimed_by TEXT NOT NULL DEFAULT ''",  # a person, not a worker
        "ALTER TABLE tasks ADD COLUMN claimed_until DOUBLE PRECISION NOT NULL DEFAULT 0",
        "ALTER TABLE tasks ADD COLUMN assigned_to TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE tasks ADD COLUMN marks INTEGER NOT NULL DEFAULT 0",  # number of its latest mark
        """
        CREATE TABLE IF NOT EXISTS reading_marks (               -- what people noted; rows are only ever added
            study_instance_uid  TEXT NOT NULL,
            number              INTEGER NOT NULL,                -- 1, 2, 3 ... within the study
            made_at             DOUBLE PRECISION NOT NULL,
            made_by             TEXT NOT NULL,
            kind                TEXT NOT NULL,                   -- see ledger/marks.py
            finding             TEXT NOT NULL DEFAULT '',        -- key, of agree and disagree
            report              TEXT NOT NULL DEFAULT '',        -- SOP Instance UID of what was judged
            version             INTEGER NOT NULL DEFAULT 0,      -- of the answer that was looked at
            note                TEXT NOT NULL DEFAULT '',        -- comment, or to whom it was assigned
            before              TEXT NOT NULL DEFAULT '{}',      -- JSON: what undoing brings back
            undoes              INTEGER,                         -- number of the mark that this one takes back
            PRIMARY KEY (study_instance_uid, number)
        )
        """,
        """
        CREATE TABLE IF NOT EXISTS saved_filters (
            owner   TEXT NOT NULL,
            name    TEXT NOT NULL,
            fields  TEXT NOT NULL,                               -- JSON: Filter.to_fields, and how it is sorted
            PRIMARY KEY (owner, name)
        )
        """,
        "CREATE INDEX reading_marks_of_person ON reading_marks (made_by, made_at, study_instance_uid, number)",
        """
        CREATE TABLE search_terms (                              -- derived from tasks, see ledger/derived.py
            study_instance_uid  TEXT NOT NULL,
            term                TEXT {bytewise} NOT NULL,
            PRIMARY KEY (study_instance_uid, term)
        )
        """,
        "CREATE INDEX search_terms_found ON search_terms (term, study_instance_uid)",
        """
        CREATE TABLE study_findings (                            -- derived from tasks: present and undetermined alone
            study_instance_uid  TEXT NOT NULL,
            key                 TEXT NOT NULL,
            state               TEXT NOT NULL,
            probability         DOUBLE PRECISION,
            PRIMARY KEY (study_instance_uid, key)
        )
        """,
        "CREATE INDEX study_findings_found ON study_findings (key, state, study_instance_uid)",
        """
        CREATE TABLE IF NOT EXISTS reading_kept (
            study_instance_uid TEXT PRIMARY KEY, read_at DOUBLE PRECISION, read_by TEXT, read_rank INTEGER,
            read_version INTEGER, reopened_at DOUBLE PRECISION, claimed_by TEXT, claimed_until DOUBLE PRECISION,
            assigned_to TEXT, marks INTEGER, referring_physician TEXT, patient_age TEXT
        )
        """,
        """
        UPDATE tasks SET read_at = k.read_at, read_by = k.read_by, read_rank = k.read_rank,
            read_version = k.read_version, reopened_at = k.reopened_at, claimed_by = k.claimed_by,
            claimed_until = k.claimed_until, assigned_to = k.assigned_to, marks = k.marks,
            referring_physician = k.referring_physician, patient_age = k.patient_age
        FROM reading_kept AS k WHERE k.study_instance_uid = tasks.study_instance_uid
        """,
        "DROP TABLE reading_kept",
        "DROP INDEX tasks_latest",
        "DROP INDEX tasks_status",
        "CREATE INDEX tasks_status ON tasks (status, received_at, study_instance_uid)",
        "CREATE INDEX tasks_unread ON tasks (priority_rank, received_at, study_instance_uid, status) "
        "WHERE read_at IS NULL AND status <> 'removed'",
        "CREATE INDEX tasks_read ON tasks (read_at DESC, study_instance_uid, priority_rank, status) "
        "WHERE read_at IS NOT NULL AND status <> 'removed'",
        "CREATE INDEX tasks_received ON tasks (received_at, study_instance_uid) WHERE status <> 'removed'",
        # of an expression, so that no planner takes it for tasks_unread
        "CREATE INDEX tasks_pressing ON tasks ((3 - priority_rank), received_at, study_instance_uid) "
        "WHERE status <> 'removed'",
        "CREATE INDEX tasks_named ON tasks ((coalesce(search_words, '')), study_instance_uid) "
        "WHERE status <> 'removed'",
        "CREATE INDEX tasks_dated ON tasks (study_date, study_time, study_instance_uid) WHERE status <> 'removed'",
        "CREATE INDEX tasks_with_reason ON tasks (reason, study_instance_uid) WHERE reason IS NOT NULL",
        "CREATE INDEX tasks_claimed ON tasks (claimed_by, claimed_until, study_instance_uid) WHERE claimed_by <> ''",
        "CREATE INDEX tasks_assigned ON tasks (assigned_to, study_instance_uid) WHERE assigned_to <> ''",
        "CREATE INDEX tasks_underived ON tasks (study_instance_uid) WHERE search_words IS NULL",
    ),
    down=(
        "CREATE TABLE reading_kept AS SELECT study_instance_uid, read_at, read_by, read_rank, read_version, "
        "reopened_at, claimed_by, claimed_until, assigned_to, marks, referring_physician, patient_age FROM tasks "
        "WHERE read_at IS NOT NULL OR marks > 0 OR referring_physician <> '' OR patient_age <> ''",
        "DROP INDEX tasks_underived",
        "DROP INDEX tasks_assigned",
        "DROP INDEX tasks_claimed",
        "DROP INDEX tasks_with_reason",
        "DROP INDEX tasks_dated",
        "DROP INDEX tasks_named",
        "DROP INDEX tasks_pressing",
        "DROP INDEX tasks_received",
        "DROP INDEX tasks_read",
        "DROP INDEX tasks_unread",
        "DROP INDEX tasks_status",
        "CREATE INDEX tasks_status ON tasks (status)",
        "CREATE INDEX tasks_latest ON tasks (last_instance_at) WHERE status <> 'removed'",
        "DROP TABLE study_findings",
        "DROP TABLE search_terms",
        "DROP INDEX reading_marks_of_person",
        "ALTER TABLE tasks DROP COLUMN marks",
        "ALTER TABLE tasks DROP COLUMN assigned_to",
        "ALTER TABLE tasks DROP COLUMN claimed_until",
        "ALTER TABLE tasks DROP COLUMN claimed_by",
        "ALTER TABLE tasks DROP COLUMN reopened_at",
        "ALTER TABLE tasks DROP COLUMN read_version",
        "ALTER TABLE tasks DROP COLUMN read_rank",
        "ALTER TABLE tasks DROP COLUMN read_by",
        "ALTER TABLE tasks DROP COLUMN read_at",
        "ALTER TABLE tasks DROP COLUMN search_words",
        "ALTER TABLE tasks DROP COLUMN answer_version",
        "ALTER TABLE tasks DROP COLUMN patient_age",
        "ALTER TABLE tasks DROP COLUMN referring_physician",
    ),
)

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

MIGRATIONS = (_FIRST, _NOTHING_IS_LOST, _HOLDER, _READING, _ACTS, _FINDING)
SCHEMA_VERSION = MIGRATIONS[-1].version

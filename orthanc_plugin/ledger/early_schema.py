"""The first steps of the ledger's schema; ``schema`` has the later ones, and what holds for all of them."""

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

EARLY = (_FIRST, _NOTHING_IS_LOST, _HOLDER, _READING)

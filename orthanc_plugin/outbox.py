"""What people are to be told, and whether they were: one row for each study, priority and way of telling.

The rule: a row is written before anything is sent and closed only after it was taken, so that each notice is sent at
least once; it bears an identifier that stays the same, by which whoever gets it twice notices. It names no patient. The
file stands apart from the ledger: telling can never hold up reading, and a lost file means only that what was answered
before is not told again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

_TABLES = """
    CREATE TABLE IF NOT EXISTS begun (at REAL NOT NULL);
    CREATE TABLE IF NOT EXISTS notices (
        id TEXT NOT NULL, way TEXT NOT NULL, study_instance_uid TEXT NOT NULL, priority TEXT NOT NULL,
        noted_at REAL NOT NULL, next_at REAL, sent_at REAL, failures INTEGER NOT NULL DEFAULT 0,
        error TEXT NOT NULL DEFAULT '', PRIMARY KEY (id, way)
    );
    CREATE INDEX IF NOT EXISTS notices_due ON notices (next_at) WHERE next_at IS NOT NULL;
"""
_CHOSEN = "SELECT id, way, study_instance_uid, priority, noted_at, next_at, sent_at, failures, error FROM notices "


@dataclass(frozen=True)
class Notice:
    """One notice by one way (``webhook`` or ``email``).

    Parameters
    ----------
    next_at
        When it is tried next; None: it was sent, or given up.
    error
        Of the last try; empty when there was none.
    """

    id: str
    way: str
    study_instance_uid: str
    priority: str
    noted_at: float
    next_at: float | None
    sent_at: float | None
    failures: int
    error: str


class Outbox:
    """The file of notices."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def begun_at(self, now: float) -> float:
        """When notices were first looked for; what was answered before is not told."""
        with self._open() as db:
            db.execute("INSERT INTO begun (at) SELECT ? WHERE NOT EXISTS (SELECT 1 FROM begun)", (now,))
            return float(db.execute("SELECT min(at) FROM begun").fetchone()[0])

    def note(self, notice_id: str, way: str, study_instance_uid: str, priority: str, now: float) -> None:
        """Have something told, once."""
        with self._open() as db:
            db.execute(
                "INSERT INTO notices (id, way, study_instance_uid, priority, noted_at, next_at)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (notice_id, way, study_instance_uid, priority, now, now),
            )

    def due(self, now: float, most: int = 50) -> list[Notice]:
        """What is to be sent now."""
        return self._notices("WHERE next_at <= ? ORDER BY next_at LIMIT ?", now, most)

    def close(self, notice: Notice, now: float) -> None:
        """It was taken."""
        with self._open() as db:
            db.execute(
                "UPDATE notices SET sent_at = ?, next_at = NULL, error = '' WHERE id = ? AND way = ?",
                (now, notice.id, notice.way),
            )

    def put_off(self, notice: Notice, error: str, next_at: float | None) -> None:
        """It was not taken: try again then, or never (None)."""
        with self._open() as db:
            db.execute(
                "UPDATE notices SET failures = failures + 1, error = ?, next_at = ? WHERE id = ? AND way = ?",
                (error, next_at, notice.id, notice.way),
            )

    def troubled(self, most: int = 20) -> list[Notice]:
        """What was not taken so far, the latest first; none where nothing was ever to be told."""
        if not self._file.exists():
            return []
        return self._notices("WHERE sent_at IS NULL AND failures > 0 ORDER BY noted_at DESC LIMIT ?", most)

    def _notices(self, condition: str, *values: float) -> list[Notice]:
        with self._open() as db:
            return [Notice(*row) for row in db.execute(_CHOSEN + condition, values)]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._file, timeout=5)) as db, db:
            db.executescript(_TABLES)
            yield db

"""What people are to be told, and whether they were: one row for each study, priority and way of telling.

The rule: a row is written before anything is sent and closed only after it was taken, so that each notice is sent at
least once; whoever sends one takes it first, so that of several workers one does. It bears an identifier that stays the
same, by which whoever gets it twice notices, and names no patient. On SQLite the file stands apart from the ledger, on
PostgreSQL the tables lie beside it: telling can never hold up reading, and lost tables mean only that what was answered
before is not told again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from orthanc_plugin.ledger.database import Ledger, open_ledger
from orthanc_plugin.ledger.side_tables import SideTables

_TABLES = (
    "CREATE TABLE IF NOT EXISTS begun (at DOUBLE PRECISION NOT NULL)",
    """
    CREATE TABLE IF NOT EXISTS notices (
        id TEXT NOT NULL, way TEXT NOT NULL, study_instance_uid TEXT NOT NULL, priority TEXT NOT NULL,
        noted_at DOUBLE PRECISION NOT NULL, next_at DOUBLE PRECISION, sent_at DOUBLE PRECISION,
        failures INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '', PRIMARY KEY (id, way)
    )
    """,
    "CREATE INDEX IF NOT EXISTS notices_due ON notices (next_at) WHERE next_at IS NOT NULL",
)
_CHOSEN = "SELECT id, way, study_instance_uid, priority, noted_at, next_at, sent_at, failures, error FROM notices "
_TAKEN_SECONDS = 60.0  # for which whoever took a notice has it alone: longer than any server is waited for


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
    """The notices of an archive.

    Raises ``LedgerError`` where they cannot be read or written.
    """

    def __init__(self, ledger: Ledger, file: Path) -> None:
        """Name them: `file` is used where the ledger is a file too."""
        self._own = open_ledger(file) if ledger.path is not None else None
        self._tables = SideTables(self._own or ledger, _TABLES)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever to be told here; nothing is made to find that out."""
        file = self._tables.ledger.path
        return file is not None and not file.exists()

    def begun_at(self, now: float) -> float:
        """When notices were first looked for; what was answered before is not told."""
        with self._tables.write() as db:
            db.execute(text("INSERT INTO begun (at) SELECT :now WHERE NOT EXISTS (SELECT 1 FROM begun)"), {"now": now})
            return float(db.execute(text("SELECT min(at) FROM begun")).scalar_one())

    def note(self, notice_id: str, way: str, study_instance_uid: str, priority: str, now: float) -> None:
        """Have something told, once."""
        noting = text(
            "INSERT INTO notices (id, way, study_instance_uid, priority, noted_at, next_at)"
            " VALUES (:id, :way, :study, :priority, :now, :now) ON CONFLICT (id, way) DO NOTHING"
        )
        with self._tables.write() as db:
            db.execute(
                noting, {"id": notice_id, "way": way, "study": study_instance_uid, "priority": priority, "now": now}
            )

    def due(self, now: float, most: int = 50) -> list[Notice]:
        """What is to be sent now."""
        return self._notices("WHERE next_at <= :now ORDER BY next_at LIMIT :most", now=now, most=most)

    def take(self, notice: Notice, now: float) -> bool:
        """Have a notice for oneself for a while; False when another worker was quicker."""
        taking = text(
            "UPDATE notices SET next_at = :until WHERE id = :id AND way = :way AND next_at = :due AND sent_at IS NULL"
        )
        known = {"id": notice.id, "way": notice.way, "due": notice.next_at, "until": now + _TAKEN_SECONDS}
        with self._tables.write() as db:
            return bool(db.execute(taking, known).rowcount)

    def close(self, notice: Notice, now: float) -> None:
        """It was taken by whoever it is for."""
        self._change(notice, "sent_at = :now, next_at = NULL, error = ''", now=now)

    def put_off(self, notice: Notice, error: str, next_at: float | None) -> None:
        """It was not: try again then, or never (None)."""
        self._change(
            notice, "failures = failures + 1, error = :error, next_at = :next_at", error=error, next_at=next_at
        )

    def troubled(self, most: int = 20) -> list[Notice]:
        """What was not taken so far, the latest first; none where nothing was ever to be told."""
        if self.is_empty:
            return []
        return self._notices("WHERE sent_at IS NULL AND failures > 0 ORDER BY noted_at DESC LIMIT :most", most=most)

    def close_file(self) -> None:
        """Close the file, where it is one."""
        if self._own is not None:
            self._own.close()

    def _change(self, notice: Notice, what: str, **values: object) -> None:
        changing = text(f"UPDATE notices SET {what} WHERE id = :id AND way = :way")  # noqa: S608  (words of ours)
        with self._tables.write() as db:
            db.execute(changing, {"id": notice.id, "way": notice.way, **values})

    def _notices(self, condition: str, **values: float) -> list[Notice]:
        with self._tables.read() as db:
            return [Notice(*row) for row in db.execute(text(_CHOSEN + condition), values)]

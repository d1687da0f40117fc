"""What the admin page and the metrics count: throughput, why studies were refused, what waits. Nothing here writes.

The rule: each question walks a range of an index, a day or one state of the studies, never all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from orthanc_plugin.ledger.statements import run

HOUR = 3600.0
UNFINISHED = ("queued", "running", "answered", "quarantined")
_HOURS = 24


@dataclass(frozen=True)
class Hour:
    """The studies that came within one hour.

    Parameters
    ----------
    begins
        Seconds since 1970.
    answered
        Of them, by now.
    seconds
        From the first image to the answer, mean; None when none was answered.
    """

    begins: float
    received: int
    answered: int
    seconds: float | None


def last_day(db: Connection, now: float) -> list[Hour]:
    """The last 24 hours, the earliest first; the last one ends now."""
    return [_hour(db, now - (n + 1) * HOUR) for n in reversed(range(_HOURS))]


def refused_by_reason(db: Connection) -> dict[str, int]:
    """How many studies have each reason, the most frequent first."""
    rows = run(
        db,
        """
        SELECT reason, count(*) AS studies FROM tasks WHERE reason IS NOT NULL
        GROUP BY reason ORDER BY count(*) DESC, reason
        """,
    )
    return {row.reason: row.studies for row in rows}


def count_unfinished(db: Connection) -> dict[str, int]:
    """How many studies are in each state that is no end; every such state is there."""
    rows = run(
        db,
        """
        SELECT status, count(*) AS studies FROM tasks
        WHERE status IN ('queued', 'running', 'answered', 'quarantined') GROUP BY status
        """,
    )
    return dict.fromkeys(UNFINISHED, 0) | {row.status: row.studies for row in rows}


def ledger_bytes(db: Connection) -> int:
    """Size of the ledger: its file, or its tables with their indexes in PostgreSQL."""
    if db.dialect.name == "sqlite":
        pages = run(db, "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")
        return int(pages.scalar_one())
    tables = run(
        db,
        """
        SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class AS c
        WHERE c.relkind = 'r' AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('tasks'))
        """,
    )
    return int(tables.scalar_one())


def last_answer(db: Connection) -> float | None:
    """When one of the studies that came last was answered last, seconds since 1970; None when none of them was."""
    latest = run(
        db,
        """
        SELECT max(completed_at) FROM (
            SELECT completed_at FROM tasks WHERE status <> 'removed'
            ORDER BY received_at DESC, study_instance_uid DESC LIMIT 200
        ) AS latest
        """,
    ).scalar()
    return None if latest is None else float(latest)


def quarantined(db: Connection, most: int) -> list[dict[str, Any]]:
    """The studies in quarantine that came first: UID, when it came, reason, message and number of attempts."""
    rows = run(
        db,
        """
        SELECT study_instance_uid, received_at, reason, message, attempts FROM tasks
        WHERE status = 'quarantined' ORDER BY received_at, study_instance_uid LIMIT :most
        """,
        most=most,
    )
    return [dict(row) for row in rows.mappings()]


def _hour(db: Connection, begins: float) -> Hour:
    row = run(
        db,
        """
        SELECT count(*) AS received, count(completed_at) AS answered, avg(completed_at - received_at) AS seconds
        FROM tasks WHERE received_at >= :begins AND received_at < :ends AND status <> 'removed'
        """,
        begins=begins,
        ends=begins + HOUR,
    ).one()
    return Hour(begins, row.received, row.answered, None if row.seconds is None else float(row.seconds))

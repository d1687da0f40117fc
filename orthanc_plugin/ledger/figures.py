"""What the admin page counts: throughput, why studies were refused, what is in quarantine. Nothing here writes.

The rule: each question walks a range of an index, a day or one state of the studies, never all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from orthanc_plugin.ledger.statements import run

HOUR = 3600.0
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

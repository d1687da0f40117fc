"""What is asked of the deliveries: how each destination stands, and what may be deleted. Nothing here writes.

The rule: what a page that refreshes itself asks costs the same however much is owed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from orthanc_plugin.ledger.statements import run

_MOST_COUNTED = 1000


@dataclass(frozen=True)
class Undelivered:
    """A destination that has not taken what it was given.

    Parameters
    ----------
    waiting
        Studies that are owed to it, where the longest owed waits too long and was tried in vain; else 0. At most 1000
        are counted.
    refused
        Studies that it will not have; at most 1000 are counted.
    error
        Why one of them was not taken.
    """

    destination: str
    waiting: int
    refused: int
    error: str


def undelivered(db: Connection, destinations: Iterable[str], *, before: float) -> list[Undelivered]:
    """Those of these destinations that have not taken what was owed before a time, or refused something."""
    found = []
    for name in destinations:
        oldest = run(
            db,
            "SELECT owed_since, failures, error FROM deliveries WHERE destination = :name AND state = 'owed' "
            "ORDER BY owed_since LIMIT 1",
            name=name,
        ).one_or_none()
        refused = run(
            db, "SELECT error FROM deliveries WHERE destination = :name AND state = 'refused' LIMIT 1", name=name
        ).one_or_none()
        is_late = oldest is not None and oldest.owed_since < before and oldest.failures > 0
        if is_late or refused is not None:
            error = oldest.error if is_late and oldest is not None else refused.error if refused is not None else ""
            waiting = _count(db, name, "owed") if is_late else 0
            found.append(Undelivered(name, waiting, 0 if refused is None else _count(db, name, "refused"), error))
    return found


# a state that stands in the statement is found by its own index
_COUNTS = {
    "owed": "SELECT count(*) FROM "
    "(SELECT 1 FROM deliveries WHERE destination = :name AND state = 'owed' LIMIT :most) AS counted",
    "refused": "SELECT count(*) FROM "
    "(SELECT 1 FROM deliveries WHERE destination = :name AND state = 'refused' LIMIT :most) AS counted",
}


def _count(db: Connection, name: str, state: str) -> int:
    return int(run(db, _COUNTS[state], name=name, most=_MOST_COUNTED).scalar_one())


@dataclass(frozen=True)
class Standing:
    """How the deliveries to one destination stand.

    Parameters
    ----------
    failing
        Of those owed, how many were tried in vain.
    oldest
        Since when the oldest is owed, in seconds since 1970; None when none is.
    error
        Why the latest one was not taken.
    """

    destination: str
    owed: int
    failing: int
    refused: int
    oldest: float | None
    error: str


def standings(db: Connection) -> list[Standing]:
    """How the destinations stand to which something is owed, or refused: walks these rows alone."""
    rows = run(
        db,
        """
        SELECT destination, sum(CASE WHEN state = 'owed' THEN 1 ELSE 0 END) AS owed,
               sum(CASE WHEN state = 'owed' AND failures > 0 THEN 1 ELSE 0 END) AS failing,
               sum(CASE WHEN state = 'refused' THEN 1 ELSE 0 END) AS refused,
               min(CASE WHEN state = 'owed' THEN owed_since END) AS oldest, max(error) AS error
        FROM deliveries WHERE state IN ('owed', 'refused') GROUP BY destination ORDER BY destination
        """,
    )
    return [Standing(r.destination, int(r.owed), int(r.failing), int(r.refused), r.oldest, r.error) for r in rows]


def troubled(db: Connection, most: int) -> list[dict[str, Any]]:
    """What was not taken, the longest owed first: ``destination``, ``study_instance_uid``, ``state``, ``owed_since``,
    ``due_at``, ``failures``, ``error``."""
    rows = run(
        db,
        """
        SELECT destination, study_instance_uid, state, owed_since, due_at, failures, error FROM deliveries
        WHERE state IN ('owed', 'refused') AND error <> '' ORDER BY owed_since, destination, study_instance_uid
        LIMIT :most
        """,
        most=most,
    )
    return [dict(row) for row in rows.mappings()]


def kept_elsewhere(
    db: Connection, destination: str, *, before: float, unread: bool, after: tuple[float, str], most: int
) -> list[tuple[float, str]]:
    """Studies that a destination has and nothing is owed of, in the order in which it got them: when, and their UIDs.

    Parameters
    ----------
    before
        Both their last image and their delivery came before this time.
    unread
        Whether those count that nobody has marked as read.
    after
        The last one of the part before; ``(0.0, "")`` for the first.
    """
    rows = run(
        db,
        """
        SELECT d.delivered_at, d.study_instance_uid FROM deliveries AS d
        JOIN tasks AS t ON t.study_instance_uid = d.study_instance_uid
        WHERE d.destination = :destination AND d.state = 'delivered' AND d.delivered_at < :before
          AND (d.delivered_at, d.study_instance_uid) > (:at, :uid)
          AND t.status = 'done' AND t.last_instance_at < :before AND (:unread = 1 OR t.read_at IS NOT NULL)
          AND NOT EXISTS (SELECT 1 FROM deliveries AS o WHERE o.study_instance_uid = d.study_instance_uid
                          AND o.state <> 'delivered')
        ORDER BY d.delivered_at, d.study_instance_uid LIMIT :most
        """,
        destination=destination,
        before=before,
        unread=int(unread),
        at=after[0],
        uid=after[1],
        most=most,
    )
    return [(float(row.delivered_at), row.study_instance_uid) for row in rows]

"""Studies that were read elsewhere, before anybody used this list: marked as read together, and taken back together.

The rule: each study has a mark of its own, as if somebody had marked it alone; all marks of one act bear one moment, by
which they are found again. What somebody else has in hand is left out, and so is what changed since when an act is
taken back. A critical or urgent study that the AI has changed since they were counted is left out, and one whose
priority rises afterwards is unread again, as any other.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from sqlalchemy import Connection

from orthanc_plugin.ledger.mark_history import take_back
from orthanc_plugin.ledger.marks import Seen, in_bulk, mark_read
from orthanc_plugin.ledger.notes import get_fact, set_fact
from orthanc_plugin.ledger.statements import run

_ACTS = "read_elsewhere"  # the fact that holds the latest
_MOST_ACTS = 10
_UNREAD = """
    read_at IS NULL AND status <> 'removed' AND received_at < :before
    AND (claimed_by IN ('', :user) OR claimed_until <= :now) AND (priority_rank >= 2 OR written_at <= :counted_at)
"""


@dataclass(frozen=True)
class Act:
    """Studies that somebody marked as read elsewhere at once; times are seconds since 1970.

    Parameters
    ----------
    made_at
        Of all its marks.
    before
        Studies that were received before this.
    number, taken_back
        How many were marked, and how many of these are not any more.
    """

    made_at: float
    made_by: str
    before: float
    number: int = 0
    taken_back: int = 0


def unread_before(db: Connection, before: float, user: str, *, now: float) -> dict[str, int]:
    """How many studies would be marked, by priority, the most pressing first."""
    rows = run(
        db,
        f"SELECT priority, count(*) AS studies FROM tasks WHERE {_UNREAD} GROUP BY priority, priority_rank"  # noqa: S608
        " ORDER BY priority_rank",
        before=before,
        user=user,
        now=now,
        counted_at=now,
    )
    return {row.priority: row.studies for row in rows}


def mark_elsewhere(db: Connection, act: Act, *, now: float, most: int) -> int:
    """Mark the next studies of an act; how many, 0 when none is left."""
    rows = run(
        db,
        f"SELECT study_instance_uid, answer_version, priority FROM tasks WHERE {_UNREAD} "  # noqa: S608
        "ORDER BY received_at, study_instance_uid LIMIT :most",
        before=act.before,
        user=act.made_by,
        now=now,
        counted_at=act.made_at,
        most=most,
    )
    seen = {row.study_instance_uid: Seen(row.answer_version, row.priority) for row in rows}
    came = in_bulk(seen, lambda uid: mark_read(db, uid, act.made_by, now=act.made_at, seen=seen[uid], elsewhere=True))
    _note(db, act, number=len(came.done))
    return len(came.done)


def take_back_act(db: Connection, act: Act, user: str, *, now: float, after: str, most: int) -> str:
    """Take back the next marks of an act; the last study that was looked at, empty when none is left.

    Parameters
    ----------
    after
        What the call before gave.
    """
    rows = run(
        db,
        """
        SELECT * FROM reading_marks AS m
        WHERE made_by = :by AND made_at = :at AND kind = 'read' AND study_instance_uid > :after
            AND NOT EXISTS (SELECT 1 FROM reading_marks AS u
                            WHERE u.study_instance_uid = m.study_instance_uid AND u.undoes = m.number)
        ORDER BY study_instance_uid LIMIT :most
        """,
        by=act.made_by,
        at=act.made_at,
        after=after,
        most=most,
    ).all()
    marks = {row.study_instance_uid: row for row in rows}
    came = in_bulk(marks, lambda uid: take_back(db, marks[uid], user, now=now, claim_seconds=0.0))
    _note(db, act, taken_back=len(came.done))
    return max(marks, default="")


def acts(db: Connection) -> list[Act]:
    """The latest acts, the latest first."""
    return [Act(**kept) for kept in json.loads(get_fact(db, _ACTS) or "[]")]


def _note(db: Connection, act: Act, *, number: int = 0, taken_back: int = 0) -> None:
    known = {(kept.made_at, kept.made_by): kept for kept in acts(db)}
    key = act.made_at, act.made_by
    kept = known.pop(key, act)
    counted = replace(kept, number=kept.number + number, taken_back=kept.taken_back + taken_back)
    latest = sorted([counted, *known.values()], key=lambda one: -one.made_at) if counted.number else [*known.values()]
    set_fact(db, _ACTS, json.dumps([asdict(one) for one in latest[:_MOST_ACTS]]))

"""What is asked of the tasks: one study, counts, and what reconciliation compares. Nothing here writes.

The rule: no question grows slower with the number of studies, except the count of them (one index, no row is read).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, RowMapping, bindparam, text

from orthanc_plugin.ledger.statements import SHIFT_SECONDS, is_damaged, result_of, run
from orthanc_plugin.ledger.task_states import Standing, TaskStatus, Urgency

_UIDS_AT_ONCE = 500  # in one question; SQLite takes 32766 parameters


def of_study(db: Connection, study_instance_uid: str) -> list[dict[str, Any]]:
    """The task of one study, its result parsed; an empty list when there is none."""
    rows = db.execute(text("SELECT * FROM tasks WHERE study_instance_uid = :uid"), {"uid": study_instance_uid})
    return [_with_result(row) for row in rows.mappings()]


def count_by_status(db: Connection) -> dict[str, int]:
    """Number of studies in each state; every state is there."""
    rows = db.execute(text("SELECT status, count(*) AS studies FROM tasks GROUP BY status"))
    return {**{status.value: 0 for status in TaskStatus}, **{row.status: row.studies for row in rows}}


def count_quarantined(db: Connection) -> int:
    """Number of studies that were given up; other studies are not counted for it."""
    return int(db.execute(text("SELECT count(*) FROM tasks WHERE status = 'quarantined'")).scalar_one())


def oldest_waiting(db: Connection, now: float) -> float | None:
    """For how many seconds the live study that is due longest has been due; None when none is."""
    due = db.execute(text("SELECT min(not_before) FROM tasks WHERE status = 'queued' AND urgency < 2")).scalar()
    return None if due is None or due > now else now - due


def count_due(db: Connection, *, now: float, most: int) -> int:
    """Tasks that could be claimed now, counted up to a number; a run through the archive could fill any number."""
    rows = run(
        db,
        """
        SELECT (SELECT count(*) FROM (SELECT 1 AS one FROM tasks WHERE urgency < 2 AND due_order <= :now
                                      AND not_before <= :now LIMIT :most) AS live)
             + (SELECT count(*) FROM (SELECT 1 AS one FROM tasks WHERE urgency = 2 AND due_order <= :now + :shift
                                      LIMIT :most) AS background)
             + (SELECT count(*) FROM (SELECT 1 AS one FROM tasks WHERE urgency = 3 AND due_order <= :now
                                      LIMIT :most) AS archive)
             + (SELECT CASE WHEN count(*) > 0 THEN :most ELSE 0 END FROM archive_runs WHERE state = 'running')
        """,
        now=now,
        most=most,
        shift=SHIFT_SECONDS[Urgency.BACKGROUND],
    )
    return min(int(rows.scalar_one()), most)


def standing(db: Connection, uids: Sequence[str]) -> dict[str, Standing]:
    """Where each of these studies stands; those that the ledger does not know are left out."""
    question = text(
        """
        SELECT study_instance_uid, status, content, generation, answered_generation FROM tasks
        WHERE study_instance_uid IN :uids
        """
    ).bindparams(bindparam("uids", expanding=True))
    found: dict[str, Standing] = {}
    for start in range(0, len(uids), _UIDS_AT_ONCE):
        rows = db.execute(question, {"uids": list(uids[start : start + _UIDS_AT_ONCE])})
        found.update(_standing(row) for row in rows)
    return found


@dataclass(frozen=True)
class Passed:
    """A study on the way through all of them; `is_damaged`: its answer cannot be read."""

    study_instance_uid: str
    standing: Standing
    is_damaged: bool


def priorities(db: Connection, uids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``priority``, ``status`` and ``is_read`` of these studies; those that the ledger does not show are left out."""
    question = text(
        """
        SELECT study_instance_uid, priority, status, read_at FROM tasks
        WHERE study_instance_uid IN :uids AND status <> 'removed'
        """
    ).bindparams(bindparam("uids", expanding=True))
    rows = db.execute(question, {"uids": list(uids)}) if uids else ()
    return {
        row.study_instance_uid: {"priority": row.priority, "status": row.status, "is_read": row.read_at is not None}
        for row in rows
    }


def after(db: Connection, study_instance_uid: str, limit: int) -> list[Passed]:
    """The next `limit` studies in the ledger's order of UIDs, which walks through all of them; "" starts it."""
    rows = db.execute(
        text(
            """
            SELECT study_instance_uid, status, content, generation, answered_generation, result FROM tasks
            WHERE study_instance_uid > :uid ORDER BY study_instance_uid LIMIT :limit
            """
        ),
        {"uid": study_instance_uid, "limit": limit},
    )
    return [Passed(*_standing(row), is_damaged(row.result)) for row in rows]


@dataclass(frozen=True)
class Alarm:
    """The critical studies that nobody has read.

    Parameters
    ----------
    number
        Of them.
    latest
        Study Instance UIDs of those that came last, the latest first.
    """

    number: int
    latest: tuple[str, ...]


def unread_critical(db: Connection, most: int) -> Alarm:
    """How many critical studies are unread, and which `most` came last; of one index, and no row is read."""
    which = "FROM tasks WHERE priority_rank = 0 AND read_at IS NULL AND status <> 'removed'"
    number = db.execute(text(f"SELECT count(*) {which}")).scalar_one()
    latest = db.execute(
        text(f"SELECT study_instance_uid {which} ORDER BY received_at DESC, study_instance_uid DESC LIMIT :most"),
        {"most": most},
    )
    return Alarm(number, tuple(latest.scalars()))


def _standing(row: Row[Any]) -> tuple[str, Standing]:
    return row.study_instance_uid, Standing(
        TaskStatus(row.status), row.content, row.generation, row.answered_generation
    )


def _with_result(row: RowMapping) -> dict[str, Any]:
    return {**row, "result": result_of(row["result"])}

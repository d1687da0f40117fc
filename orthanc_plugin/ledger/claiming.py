"""Which task a worker takes next.

The rule: live tasks go in the order of `due_order`, which is when a task is due, shifted by its urgency. A background
task is taken when no live one is due; one that has waited for 15 minutes goes first, but at most once a minute, so that
neither starves. What a run through the archive wants is taken when nothing else is due, however long it has waited. The
queue is read from its head: the number of studies does not matter.

A clock may jump back. A task that was written later than now, or whose lease no clock can have given, is due at once.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from orthanc_plugin.ledger import counters, counting
from orthanc_plugin.ledger.notes import get_fact, set_fact
from orthanc_plugin.ledger.statements import SHIFT_SECONDS, result_of, run
from orthanc_plugin.ledger.task_states import InferenceTask, Urgency

BACKGROUND_TURN_SECONDS = 60.0  # between two background tasks that go before live ones
CLOCK_SLACK_SECONDS = 60.0  # by which the clocks of two machines may differ
_TURN = "background_claimed_at"  # the fact that holds when a background task last went before live ones


def claim(
    db: Connection, worker_id: str, *, now: float, lease_seconds: float, abandoned_limit: int, archive: bool = True
) -> InferenceTask | None:
    """Take the task whose turn it is; None when nothing is due.

    A task whose worker fell silent is queued again where it stood, for that is hardly ever its own doing; if it happens
    again, behind those that wait. The one under which `abandoned_limit` workers fell silent is quarantined instead of
    being tried for ever.

    Parameters
    ----------
    archive
        Whether it may be one of a run through the archive.
    """
    lost = _take_back(db, now=now, lease_seconds=lease_seconds, abandoned_limit=abandoned_limit)
    _date_anew(db, now=now)
    task = _claim_next(db, worker_id, now=now, lease_seconds=lease_seconds, archive=archive)
    counters.add(db, counting.of_lost_leases(lost))
    return task


def _claim_next(
    db: Connection, worker_id: str, *, now: float, lease_seconds: float, archive: bool
) -> InferenceTask | None:
    turn = get_fact(db, _TURN)
    if turn is None or not now - BACKGROUND_TURN_SECONDS < float(turn) <= now:
        task = _claim_first(db, _OVERDUE_BACKGROUND, worker_id, now=now, lease_seconds=lease_seconds)
        if task is not None:
            set_fact(db, _TURN, repr(float(now)))
            return task
    for choice in (_LIVE, _BACKGROUND, *([_ARCHIVE] if archive else [])):
        task = _claim_first(db, choice, worker_id, now=now, lease_seconds=lease_seconds)
        if task is not None:
            return task
    return None


def end_leases(db: Connection, worker_id: str) -> int:
    """End the leases of a worker that is known to be dead, so that nobody waits for them; how many there were."""
    return run(
        db,
        "UPDATE tasks SET lease_until = 0 WHERE status = 'running' AND holder = :worker_id",
        worker_id=worker_id,
    ).rowcount


def end_pauses(db: Connection, reasons: Iterable[str], *, now: float) -> int:
    """Make due what waits after a failure with one of these reasons; how many there were.

    Parameters
    ----------
    now
        Seconds since 1970.
    """
    sql = """
        UPDATE tasks SET not_before = :now, due_order = :now + {shift}, written_at = :now
        WHERE status = 'queued' AND reason = :reason AND not_before > :now
    """
    return sum(run(db, sql, reason=reason, now=now).rowcount for reason in reasons)


def _take_back(db: Connection, *, now: float, lease_seconds: float, abandoned_limit: int) -> list[str]:
    """Queue what workers fell silent on; the states in which it is left."""
    # a lease further away than any clock near ours can have given was given before the clock jumped back
    states = run(
        db,
        """
        UPDATE tasks SET
            status = CASE WHEN abandoned + 1 >= :limit THEN 'quarantined' ELSE 'queued' END,
            abandoned = abandoned + 1,
            not_before = CASE WHEN abandoned = 0 AND not_before < :now THEN not_before ELSE :now END,
            due_order = CASE WHEN abandoned + 1 >= :limit THEN NULL
                             WHEN abandoned = 0 AND not_before < :now THEN not_before + {shift}
                             ELSE :now + {shift} END,
            lease_until = NULL,
            reason = CASE WHEN abandoned + 1 >= :limit THEN 'worker_died' ELSE reason END,
            message = CASE WHEN abandoned + 1 >= :limit
                           THEN 'the worker died on this study at every attempt; see its log' ELSE message END,
            completed_at = CASE WHEN abandoned + 1 >= :limit THEN :now ELSE completed_at END,
            written_at = :now
        WHERE study_instance_uid IN (  -- two ranges of an index, however few tasks run among those that wait
            SELECT study_instance_uid FROM tasks WHERE status = 'running' AND lease_until < :now
            UNION ALL
            SELECT study_instance_uid FROM tasks WHERE status = 'running' AND lease_until > :impossible
        ) AND status = 'running' AND (lease_until < :now OR lease_until > :impossible)
        RETURNING status
        """,
        now=now,
        limit=abandoned_limit,
        impossible=now + 2 * lease_seconds,
    )
    return list(states.scalars())


def _date_anew(db: Connection, *, now: float) -> None:
    # written by a clock that has jumped back since: when they were due means nothing any more, so it is now
    run(
        db,
        """
        UPDATE tasks SET not_before = :now, due_order = :now + {shift}, written_at = :now
        WHERE due_order IS NOT NULL AND written_at > :impossible
        """,
        now=now,
        impossible=now + CLOCK_SLACK_SECONDS,
    )


# What is due is a range of due_order: of live tasks only a STAT one can stand in it before its time (a retry).
_LIVE = """
    SELECT study_instance_uid FROM tasks
    WHERE urgency < 2 AND due_order <= :now AND not_before <= :now
    ORDER BY due_order LIMIT 1 {skip_locked}
"""
_BACKGROUND = """
    SELECT study_instance_uid FROM tasks
    WHERE urgency = 2 AND due_order <= :now + :shift
    ORDER BY due_order LIMIT 1 {skip_locked}
"""
_OVERDUE_BACKGROUND = """
    SELECT study_instance_uid FROM tasks
    WHERE urgency = 2 AND due_order <= :now
    ORDER BY due_order LIMIT 1 {skip_locked}
"""
_ARCHIVE = """
    SELECT study_instance_uid FROM tasks
    WHERE urgency = 3 AND due_order <= :now
    ORDER BY due_order LIMIT 1 {skip_locked}
"""


def _claim_first(
    db: Connection, choice: str, worker_id: str, *, now: float, lease_seconds: float
) -> InferenceTask | None:
    row = run(
        db,
        """
        UPDATE tasks SET status = 'running', fence = fence + 1, claimed_generation = generation,
                         lease_until = :lease_until, holder = :worker_id, due_order = NULL, written_at = :now
        WHERE study_instance_uid = ({choice}) AND status IN ('queued', 'answered')
        RETURNING study_instance_uid, fence, generation, answered_generation, attempts, failures, first_failed_at,
                  result, received_at, last_instance_at, urgency
        """.replace("{choice}", choice),
        now=now,
        shift=SHIFT_SECONDS[Urgency.BACKGROUND],
        lease_until=now + lease_seconds,
        worker_id=worker_id,
    ).one_or_none()
    if row is None:
        return None
    return InferenceTask(
        study_instance_uid=row.study_instance_uid,
        fence=row.fence,
        generation=row.generation,
        attempts=row.attempts,
        failures=row.failures,
        first_failed_at=row.first_failed_at,
        result=result_of(row.result),
        conclude=row.answered_generation == row.generation,
        received_at=row.received_at,
        last_instance_at=row.last_instance_at,
        urgency=Urgency(row.urgency),
    )

"""Runs through the archive: studies of before that are read again, one at a time, when nothing else is due.

The rule: a run is a place in the archive, by date of study, and not a heap of tasks: the next study is queued when a
worker has nothing else to do, in the transaction in which it is claimed. So a run can be stopped and goes on where it
was, whatever dies, and the queue of live studies never sees it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.statements import result_of, run
from orthanc_plugin.ledger.task_states import TaskStatus, Urgency

FIRST_DATE, LAST_DATE = "00010101", "99991231"
_LOOKED_AT_ONCE = 200  # studies; others write to the ledger too
_RUNNING, _STOPPED, _DONE = "running", "stopped", "done"


class RunUnderWay(Exception):
    """Another run goes on; the message says which."""


@dataclass(frozen=True)
class Wanted:
    """What a run is to read again.

    Parameters
    ----------
    first_date, last_date
        Study Dates, as DICOM writes them; a study without one is not among them.
    model
        ``NAME@VERSION``: studies of which an image was read without it; empty: all.
    most
        Studies; None: all.
    """

    first_date: str = FIRST_DATE
    last_date: str = LAST_DATE
    model: str = ""
    most: int | None = None


@dataclass(frozen=True)
class Run:
    """How far a run is.

    Parameters
    ----------
    total
        Studies of its dates when it began.
    passed, taken
        Studies that it came to; and those of them that it had read again.
    waiting, failed
        Of these, what is being read or tried again; and what is in quarantine, of all runs.
    """

    number: int
    wanted: Wanted
    state: str
    total: int
    passed: int
    taken: int
    waiting: int
    failed: int
    started_at: float
    changed_at: float

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.state == _DONE and not self.waiting


def start(db: Connection, wanted: Wanted, *, now: float) -> Run:
    """Begin a run, or go on with the last one where it wanted the same and was not done.

    Raises
    ------
    RunUnderWay
        When another one goes on.
    """
    last = latest(db)
    if last is not None and last.state != _DONE:
        if last.wanted == wanted:
            _change(db, last.number, last.state, _RUNNING, now)
        elif last.state == _RUNNING:
            raise RunUnderWay(f"run {last.number} is under way: ./hilum reprocess --status, --stop")
        else:
            last = None
    if last is None or last.state == _DONE:
        run(
            db,
            """
            INSERT INTO archive_runs (number, first_date, last_date, model, most, state, total, started_at, changed_at)
            SELECT coalesce(max(number), 0) + 1, :first, :last, :model, CAST(:most AS BIGINT), 'running', :total, :now,
                   :now
            FROM archive_runs
            """,
            first=wanted.first_date,
            last=wanted.last_date,
            model=wanted.model,
            most=wanted.most,
            total=_count(db, wanted),
            now=now,
        )
    begun = latest(db)
    if begun is None:
        raise RuntimeError("the run that was begun is not there")
    return begun


def stop(db: Connection, *, now: float) -> bool:
    """Have the run that goes on pause; what is being read ends as ever. False when there was none."""
    last = latest(db)
    return last is not None and _change(db, last.number, _RUNNING, _STOPPED, now)


def latest(db: Connection) -> Run | None:
    """The last run that was begun; None when there never was one."""
    row = run(db, "SELECT * FROM archive_runs ORDER BY number DESC LIMIT 1").one_or_none()
    if row is None:
        return None
    found = run(
        db,
        """
        SELECT status, count(*) AS studies FROM tasks
        WHERE status IN ('queued', 'running', 'answered', 'quarantined') AND urgency = 3 GROUP BY status
        """,
    )
    by_status = {each.status: int(each.studies) for each in found}
    failed = by_status.pop(TaskStatus.QUARANTINED.value, 0)
    wanted = Wanted(row.first_date, row.last_date, row.model, row.most)
    figures: dict[str, Any] = {name: getattr(row, name) for name in ("total", "passed", "taken")}
    return Run(
        row.number, wanted, row.state, **figures, waiting=sum(by_status.values()), failed=failed,
        started_at=row.started_at, changed_at=row.changed_at,
    )  # fmt: skip


def would_read(db: Connection, wanted: Wanted) -> tuple[int, int]:
    """How many studies a run of now would read again, and how many have no date, so that none comes to them."""
    number, place = 0, ("", "", "")
    while rows := _after(db, wanted, place, 1000):
        number += sum(_is_wanted(row, wanted, float("inf")) for row in rows)
        place = rows[-1].study_date, rows[-1].study_time, rows[-1].study_instance_uid
    undated = run(db, "SELECT count(*) FROM tasks WHERE study_date = '' AND status <> 'removed'").scalar_one()
    return (number if wanted.most is None else min(number, wanted.most)), int(undated)


def queue_next(db: Connection, *, now: float) -> bool:
    """Queue the next study of the run that goes on; False when there is none, or none was found among some.

    It is called in the transaction that claims it, by a worker that has nothing else to do.
    """
    row = run(
        db, "SELECT * FROM archive_runs WHERE state = 'running' ORDER BY number DESC LIMIT 1 {locked}"
    ).one_or_none()
    if row is None:
        return False
    wanted = Wanted(row.first_date, row.last_date, row.model, row.most)
    place = row.study_date, row.study_time, row.study_instance_uid
    full = row.most is not None and row.taken >= row.most
    studies = [] if full else _after(db, wanted, place, _LOOKED_AT_ONCE)
    passed, taken = 0, False
    for study in studies:
        place, passed = (study.study_date, study.study_time, study.study_instance_uid), passed + 1
        if _is_wanted(study, wanted, row.started_at):
            taken = tasks.request_again(db, study.study_instance_uid, now=now, urgency=Urgency.ARCHIVE)
            break
    run(
        db,
        """
        UPDATE archive_runs SET study_date = :date, study_time = :time, study_instance_uid = :uid,
            passed = passed + :passed, taken = taken + :taken, changed_at = :now, state = :state
        WHERE number = :number AND state = 'running'
        """,
        number=row.number,
        date=place[0],
        time=place[1],
        uid=place[2],
        passed=passed,
        taken=int(taken),
        state=_RUNNING if taken or len(studies) == _LOOKED_AT_ONCE else _DONE,
        now=now,
    )
    return taken


def _after(db: Connection, wanted: Wanted, place: tuple[str, str, str], most: int) -> list[Any]:
    """The studies of these dates that come after a place, in the order of their dates."""
    rows = run(
        db,
        """
        SELECT study_instance_uid, study_date, study_time, status, completed_at, result FROM tasks
        WHERE status <> 'removed' AND study_date >= :first AND study_date <= :last
          AND (study_date, study_time, study_instance_uid) > (:date, :time, :uid)
        ORDER BY study_date, study_time, study_instance_uid LIMIT :most
        """,
        first=wanted.first_date,
        last=wanted.last_date,
        date=place[0],
        time=place[1],
        uid=place[2],
        most=most,
    )
    return list(rows)


def _is_wanted(study: Any, wanted: Wanted, since: float) -> bool:
    """Whether a study is to be read again: what waits is read anyhow, and so was what was answered since."""
    if study.status not in (TaskStatus.DONE, TaskStatus.NOT_PROCESSED):
        return False
    if wanted.model:
        name, _, version = wanted.model.partition("@")
        images = result_of(study.result).get("images", ())
        return any(image.get("status") == "done" and image.get("models", {}).get(name) != version for image in images)
    return bool((study.completed_at or 0.0) < since)


def _count(db: Connection, wanted: Wanted) -> int:
    found = run(
        db,
        "SELECT count(*) FROM tasks WHERE status <> 'removed' AND study_date >= :first AND study_date <= :last",
        first=wanted.first_date,
        last=wanted.last_date,
    )
    return int(found.scalar_one())


def _change(db: Connection, number: int, before: str, after: str, now: float) -> bool:
    changed = run(
        db,
        "UPDATE archive_runs SET state = :after, changed_at = :now WHERE number = :number AND state = :before",
        number=number,
        before=before,
        after=after,
        now=now,
    )
    return changed.rowcount == 1

"""What people have marked, and how somebody's last act is taken back.

The rule: a mark that was taken back is still told, and counts no more. Taking one back is itself a mark, and changes
the study only if that is still as the mark left it; what cannot be taken back is told, and hides no earlier act.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, text

from orthanc_plugin.ledger.lowering import AS_IT_WAS_READ
from orthanc_plugin.ledger.mark_refusals import NothingToUndo, UndoOutdated
from orthanc_plugin.ledger.marks import ELSEWHERE, Bulk, Mark, MarkKind, add_mark, count_mark, in_bulk, study_to_mark
from orthanc_plugin.ledger.statements import run

UNDO_SECONDS = 900.0  # what is older is not taken back by mistake
# reading ended the claim: it goes on, unless somebody else has the study now
_HELD_AGAIN = ":held = 1 AND (claimed_by = '' OR claimed_until <= :now)"
_UNDO_READ = f"""
    UPDATE tasks SET {AS_IT_WAS_READ},
                     claimed_by = CASE WHEN {_HELD_AGAIN} THEN :user ELSE claimed_by END,
                     claimed_until = CASE WHEN {_HELD_AGAIN} THEN :until ELSE claimed_until END,
                     read_at = NULL, read_by = :read_by, read_rank = :read_rank, read_version = :read_version,
                     read_as = :read_as, reopened_at = :reopened_at, marks = marks + 1
    WHERE study_instance_uid = :uid AND read_at = :made_at RETURNING marks
"""  # noqa: S608
# not where the priority has risen since it was read: that would hide it
_UNDO_UNREAD = """
    UPDATE tasks SET read_at = :read_at, read_by = :read_by, read_rank = :read_rank, read_version = :read_version,
                     read_as = :read_as, marks = marks + 1
    WHERE study_instance_uid = :uid AND status <> 'removed' AND read_at IS NULL AND reopened_at IS NULL
        AND (priority_rank >= 2 OR priority_rank >= :read_rank)
    RETURNING marks
"""
_UNDO_CLAIM = """
    UPDATE tasks SET claimed_by = '', marks = marks + 1
    WHERE study_instance_uid = :uid AND claimed_by = :user RETURNING marks
"""
_UNDO_RELEASE = """
    UPDATE tasks SET claimed_by = :claimed_by, claimed_until = :until, marks = marks + 1
    WHERE study_instance_uid = :uid AND status <> 'removed'
        AND (claimed_by IN ('', :claimed_by) OR claimed_until <= :now)
    RETURNING marks
"""
_UNDO_ASSIGN = """
    UPDATE tasks SET assigned_to = :assigned_to, marks = marks + 1
    WHERE study_instance_uid = :uid AND assigned_to = :note RETURNING marks
"""
_UNDOES = {
    MarkKind.READ: _UNDO_READ,
    MarkKind.UNREAD: _UNDO_UNREAD,
    MarkKind.CLAIM: _UNDO_CLAIM,
    MarkKind.RELEASE: _UNDO_RELEASE,
    MarkKind.ASSIGN: _UNDO_ASSIGN,
}
_PASSING = {MarkKind.CLAIM, MarkKind.RELEASE}  # they end by themselves, and by other marks


def undo(db: Connection, user: str, *, now: float, claim_seconds: float, study_instance_uid: str = "") -> Bulk:
    """Take back the last act of somebody that was not taken back yet; of one study, what the last act on it did there.

    An act may be on several studies: what has changed since on one of them is refused, and the others are taken back.
    What was refused is told once, and the next time the act before it is taken back; a claim that is over is passed.
    The order is that of the acts' numbers; the clock says only what is too old. What was marked as read elsewhere is
    taken back where it was done (``elsewhere``).

    Raises
    ------
    NothingToUndo
    """
    which = f"""
        made_by = :user AND act > 0 AND kind NOT IN ('undo', 'reopened')
        AND NOT (kind = 'read' AND note = '{ELSEWHERE}')
        AND (:uid = '' OR study_instance_uid = :uid)
        AND (CAST(:before AS INTEGER) IS NULL OR act < :before)
        AND NOT EXISTS (SELECT 1 FROM reading_marks AS u
                        WHERE u.study_instance_uid = m.study_instance_uid AND u.undoes = m.number)
    """  # noqa: S608
    before = None if study_instance_uid else _passed(db, user)
    asked = {"user": user, "uid": study_instance_uid, "before": before}
    refused: Bulk | None = None
    sql = f"SELECT act, made_at FROM reading_marks AS m WHERE {which} ORDER BY act DESC LIMIT 1"  # noqa: S608
    while (last := run(db, sql, **asked).one_or_none()) is not None and last.made_at >= now - UNDO_SECONDS:
        of_act = run(db, f"SELECT * FROM reading_marks AS m WHERE {which} AND act = :act", act=last.act, **asked)  # noqa: S608
        marks = {row.study_instance_uid: row for row in of_act}
        came = _take_back_all(db, marks, user, now=now, claim_seconds=claim_seconds)
        if came.refused and not study_instance_uid:
            run(db, "UPDATE mark_acts SET passed = :act WHERE person = :user", act=last.act, user=user)
        if came.done or not _PASSING.issuperset(MarkKind(row.kind) for row in marks.values()):
            return came
        refused, asked["before"] = refused or came, last.act
    if refused is not None:
        return refused
    if last is None:
        raise NothingToUndo(study_instance_uid, "there is no mark of yours to take back")
    told = f"your last mark is older than {UNDO_SECONDS / 60:.0f} minutes: change the study itself"
    raise NothingToUndo(study_instance_uid, told)


def _passed(db: Connection, user: str) -> int | None:
    """The last act that could not be taken back, of somebody who did nothing since; None: none."""
    passed: int | None = run(db, "SELECT passed FROM mark_acts WHERE person = :user", user=user).scalar()
    return passed


def _take_back_all(db: Connection, marks: dict[str, Row[Any]], user: str, *, now: float, claim_seconds: float) -> Bulk:
    return in_bulk(marks, lambda uid: take_back(db, marks[uid], user, now=now, claim_seconds=claim_seconds))


def take_back(db: Connection, last: Row[Any], user: str, *, now: float, claim_seconds: float) -> Mark:
    """Take back a mark, given as its row; `user` is who does so.

    Raises
    ------
    UndoOutdated, StudyUnknown
    """
    row = study_to_mark(db, last.study_instance_uid)
    kind = MarkKind(last.kind)
    if kind in _UNDOES:
        values = {"made_at": last.made_at, "note": last.note, "now": now, "until": now + claim_seconds}
        values |= {"held": 0, "read_as": "", "claimed_by": last.made_by}  # of marks that an earlier Hilum made
        values |= json.loads(last.before)
        number = run(db, _UNDOES[kind], uid=row.study_instance_uid, user=last.made_by, **values).scalar()
    else:
        number = count_mark(db, row.study_instance_uid)
    if number is None:
        raise UndoOutdated(row.study_instance_uid, "the study has changed since your mark: look at it again")
    return add_mark(db, row, number, MarkKind.UNDO, user, now=now, undoes=last.number)


def history(db: Connection, study_instance_uid: str) -> list[Mark]:
    """Every mark of a study, in the order in which they were made."""
    rows = run(
        db, "SELECT * FROM reading_marks WHERE study_instance_uid = :uid ORDER BY number", uid=study_instance_uid
    )
    return [_mark(row) for row in rows]


def judgements(db: Connection, uids: Sequence[str]) -> dict[str, list[Mark]]:
    """What people think of the AI's findings in these studies: of each person and finding what they said last."""
    found: dict[str, dict[tuple[str, str], Mark]] = {}
    for mark in _standing(db, uids, (MarkKind.AGREE, MarkKind.DISAGREE)):
        found.setdefault(mark.study_instance_uid, {})[mark.made_by, mark.finding] = mark
    return {uid: list(marks.values()) for uid, marks in found.items()}


def written_notes(db: Connection, uids: Sequence[str]) -> dict[str, list[Mark]]:
    """The notes that people left about these studies, the oldest first."""
    found: dict[str, list[Mark]] = {}
    for mark in _standing(db, uids, (MarkKind.NOTE,)):
        found.setdefault(mark.study_instance_uid, []).append(mark)
    return found


def _standing(db: Connection, uids: Sequence[str], kinds: Sequence[MarkKind]) -> list[Mark]:
    """Marks of these kinds that were not taken back."""
    if not uids:
        return []
    question = text(
        """
        SELECT * FROM reading_marks AS m
        WHERE study_instance_uid IN :uids AND kind IN :kinds
            AND NOT EXISTS (SELECT 1 FROM reading_marks AS u
                            WHERE u.study_instance_uid = m.study_instance_uid AND u.undoes = m.number)
        ORDER BY study_instance_uid, number
        """
    ).bindparams(bindparam("uids", expanding=True), bindparam("kinds", expanding=True))
    return [_mark(row) for row in db.execute(question, {"uids": list(uids), "kinds": [kind.value for kind in kinds]})]


def _mark(row: Row[Any]) -> Mark:
    return Mark(
        row.study_instance_uid,
        row.number,
        row.made_at,
        row.made_by,
        MarkKind(row.kind),
        row.finding,
        row.report,
        row.version,
        row.note,
        row.undoes,
    )

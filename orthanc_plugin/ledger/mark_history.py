"""What people have marked, and how the last mark is taken back.

The rule: a mark that was taken back is still told, and counts no more. Taking one back is itself a mark, and changes
the study only if that is still as the mark left it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, text

from orthanc_plugin.ledger.mark_refusals import NothingToUndo, UndoOutdated
from orthanc_plugin.ledger.marks import Mark, MarkKind, add_mark, count_mark, study_to_mark
from orthanc_plugin.ledger.statements import run

_UNDO_READ = """
    UPDATE tasks SET read_at = NULL, read_by = :read_by, read_rank = :read_rank, read_version = :read_version,
                     reopened_at = :reopened_at, marks = marks + 1
    WHERE study_instance_uid = :uid AND read_at = :made_at RETURNING marks
"""
# not where the priority has risen since it was read: that would hide it
_UNDO_UNREAD = """
    UPDATE tasks SET read_at = :read_at, read_by = :read_by, read_rank = :read_rank, read_version = :read_version,
                     marks = marks + 1
    WHERE study_instance_uid = :uid AND status <> 'removed' AND read_at IS NULL AND reopened_at IS NULL
        AND (priority_rank >= 2 OR priority_rank >= :read_rank)
    RETURNING marks
"""
_UNDO_CLAIM = """
    UPDATE tasks SET claimed_by = '', marks = marks + 1
    WHERE study_instance_uid = :uid AND claimed_by = :user RETURNING marks
"""
_UNDO_RELEASE = """
    UPDATE tasks SET claimed_by = :user, claimed_until = :until, marks = marks + 1
    WHERE study_instance_uid = :uid AND status <> 'removed' AND (claimed_by IN ('', :user) OR claimed_until <= :now)
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


def undo(db: Connection, user: str, *, now: float, claim_seconds: float, study_instance_uid: str = "") -> Mark:
    """Take back the last mark of somebody that was not taken back yet, of one study or of any.

    Raises
    ------
    NothingToUndo, UndoOutdated, StudyUnknown
    """
    last = run(
        db,
        """
        SELECT * FROM reading_marks AS m
        WHERE made_by = :user AND kind <> 'undo' AND (:uid = '' OR study_instance_uid = :uid)
            AND NOT EXISTS (SELECT 1 FROM reading_marks AS u
                            WHERE u.study_instance_uid = m.study_instance_uid AND u.undoes = m.number)
        ORDER BY made_at DESC, study_instance_uid DESC, number DESC LIMIT 1
        """,
        user=user,
        uid=study_instance_uid,
    ).one_or_none()
    if last is None:
        raise NothingToUndo(study_instance_uid, "there is no mark of yours to take back")
    return take_back(db, last, user, now=now, claim_seconds=claim_seconds)


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

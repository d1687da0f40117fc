"""What people do with a study on the worklist: who has it in hand, who has read it, and what they think of the AI.

The rule: a mark is only ever added, and numbered within its study; what it changes of the study is one conditional
UPDATE in the same transaction. So two readers cannot both claim, and a mark that is taken back stays in the record.
What is refused changes nothing, and says why (``mark_refusals``).

A claim ends by itself (`claim_minutes`) unless whoever holds it does something, or looks at the study
(``hosting.in_hand``). Times are seconds since 1970.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row

from orthanc_plugin.ledger.lowering import AS_IT_WAS_READ, in_words
from orthanc_plugin.ledger.mark_refusals import (
    AlreadyRead,
    AnswerChanged,
    ClaimedByOther,
    MarkRefused,
    NotClaimed,
    NotRead,
    StudyUnknown,
)
from orthanc_plugin.ledger.statements import run

ELSEWHERE = "elsewhere"  # in another system
NODE = "hilum"  # who makes the marks that nobody made


class MarkKind(StrEnum):
    """What a mark says; the values are kept in the ledger."""

    CLAIM = "claim"
    RELEASE = "release"
    READ = "read"
    UNREAD = "unread"
    REOPENED = "reopened"  # by the node: the priority rose after the study was read
    ASSIGN = "assign"
    AGREE = "agree"  # with the AI about one finding
    DISAGREE = "disagree"
    NOTE = "note"
    UNDO = "undo"


@dataclass(frozen=True)
class Mark:
    """One row of ``reading_marks``.

    Parameters
    ----------
    number
        Within the study, from 1.
    finding, report
        Of AGREE and DISAGREE: the finding's key, and the SOP Instance UID of the measurement report that was judged.
    version
        Of the answer that the study had then; 0: none yet.
    note
        Comment; of ASSIGN to whom, empty for nobody.
    undoes
        Of UNDO: the number of the mark that it takes back.
    """

    study_instance_uid: str
    number: int
    made_at: float
    made_by: str
    kind: MarkKind
    finding: str = ""
    report: str = ""
    version: int = 0
    note: str = field(default="", repr=False)
    undoes: int | None = None


@dataclass(frozen=True)
class Seen:
    """What somebody looked at: the version of the answer, 0 for none, and the priority, which may rise before it."""

    version: int = 0
    priority: str = "none"


def claim(db: Connection, study_instance_uid: str, user: str, *, now: float, seconds: float) -> Mark | None:
    """Take a study in hand, also one whose claim has run out; None when it was in these hands and only goes on.

    Raises
    ------
    StudyUnknown, ClaimedByOther
    """
    row = study_to_mark(db, study_instance_uid)
    held = row.claimed_by == user and row.claimed_until > now
    number = _change(
        db,
        """
        UPDATE tasks SET claimed_by = :user, claimed_until = :until, marks = marks + :new
        WHERE study_instance_uid = :uid AND status <> 'removed'
            AND (claimed_by IN ('', :user) OR claimed_until <= :now OR claimed_until > :impossible)
        RETURNING marks
        """,
        uid=study_instance_uid,
        user=user,
        now=now,
        until=now + seconds,
        impossible=now + 2 * seconds,  # given before the clock jumped back
        new=int(not held),
    )
    if number is None:
        raise ClaimedByOther(study_instance_uid, row.claimed_by, row.claimed_until)
    return None if held else add_mark(db, row, number, MarkKind.CLAIM, user, now=now)


def is_held(db: Connection, study_instance_uid: str, user: str, *, now: float) -> bool:
    """Whether somebody has a study in hand."""
    sql = "SELECT 1 FROM tasks WHERE study_instance_uid = :uid AND claimed_by = :user AND claimed_until > :now"
    return run(db, sql, uid=study_instance_uid, user=user, now=now).scalar() is not None


def keep_claim(db: Connection, study_instance_uid: str, user: str, *, now: float, seconds: float) -> bool:
    """Prolong somebody's claim of a study because they are at it; False where there is none to prolong."""
    changed = run(
        db,
        """
        UPDATE tasks SET claimed_until = :until
        WHERE study_instance_uid = :uid AND claimed_by = :user AND claimed_by <> ''
            AND claimed_until > :now AND claimed_until < :until
        """,
        uid=study_instance_uid,
        user=user,
        now=now,
        until=now + seconds,
    ).rowcount
    return changed == 1


def release(db: Connection, study_instance_uid: str, user: str, *, now: float, of_anybody: bool = False) -> Mark:
    """Give a study back that is in hand, or `of_anybody` take it out of somebody else's.

    Raises
    ------
    StudyUnknown, NotClaimed
    """
    row = study_to_mark(db, study_instance_uid)
    number = _change(
        db,
        """
        UPDATE tasks SET claimed_by = '', marks = marks + 1
        WHERE study_instance_uid = :uid AND claimed_by <> ''
            AND (claimed_by = :user OR (:anybody = 1 AND claimed_until > :now))
        RETURNING marks
        """,
        uid=study_instance_uid,
        user=user,
        anybody=int(of_anybody),
        now=now,
    )
    if number is None:
        whose = "in nobody's hands" if of_anybody else "not in your hands"
        raise NotClaimed(study_instance_uid, f"this study is {whose}: there is nothing to release")
    return add_mark(db, row, number, MarkKind.RELEASE, user, now=now, before={"claimed_by": row.claimed_by})


def mark_read(
    db: Connection,
    study_instance_uid: str,
    user: str,
    *,
    now: float,
    seen: Seen | None = None,
    elsewhere: bool = False,
) -> Mark:
    """Note that a study was read, and give it back.

    Parameters
    ----------
    seen
        What was looked at; None: whatever it is.
    elsewhere
        Whether not this person read it, but somebody in another system.

    Raises
    ------
    StudyUnknown, AlreadyRead, ClaimedByOther, AnswerChanged
    """
    row = study_to_mark(db, study_instance_uid)
    looked_at = seen or Seen(row.answer_version, row.priority)
    number = _change(
        db,
        """
        UPDATE tasks SET read_at = :now, read_by = :reader, read_rank = priority_rank, read_version = answer_version,
                         read_as = :read_as, reopened_at = NULL, claimed_by = '', marks = marks + 1
        WHERE study_instance_uid = :uid AND status <> 'removed' AND read_at IS NULL
            AND (claimed_by IN ('', :user) OR claimed_until <= :now)
            AND answer_version = :version AND priority = :priority
        RETURNING marks
        """,
        uid=study_instance_uid,
        user=user,
        reader=f"{user} ({ELSEWHERE})" if elsewhere else user,
        now=now,
        read_as=in_words(row),
        version=looked_at.version,
        priority=looked_at.priority,
    )
    if number is None:
        if row.read_at is not None:
            raise AlreadyRead(study_instance_uid, row.read_by, row.read_at)
        _require_not_with_another(row, user, now)
        raise answer_changed(study_instance_uid)
    before = {name: getattr(row, name) for name in ("read_by", "read_rank", "read_version", "read_as", "reopened_at")}
    before["held"] = int(row.claimed_by == user and row.claimed_until > now)
    note = ELSEWHERE if elsewhere else ""
    return add_mark(db, row, number, MarkKind.READ, user, now=now, note=note, before=before)


def mark_unread(db: Connection, study_instance_uid: str, user: str, *, now: float) -> Mark:
    """Have a study wait to be read again, where it was read: what the AI lowered since has its place again.

    Raises
    ------
    StudyUnknown, NotRead, ClaimedByOther
    """
    row = study_to_mark(db, study_instance_uid)
    number = _change(
        db,
        f"""
        UPDATE tasks SET {AS_IT_WAS_READ}, read_at = NULL, marks = marks + 1
        WHERE study_instance_uid = :uid AND read_at IS NOT NULL
            AND (claimed_by IN ('', :user) OR claimed_until <= :now)
        RETURNING marks
        """,  # noqa: S608
        uid=study_instance_uid,
        user=user,
        now=now,
    )
    if number is None:
        _require_not_with_another(row, user, now)
        raise NotRead(study_instance_uid, "nobody has read this study")
    before = {name: getattr(row, name) for name in ("read_at", "read_by", "read_rank", "read_version", "read_as")}
    return add_mark(db, row, number, MarkKind.UNREAD, user, now=now, before=before)


def assign(db: Connection, study_instance_uid: str, user: str, to: str, *, now: float) -> Mark:
    """Put a study on somebody's list, or with an empty name on nobody's.

    Raises
    ------
    StudyUnknown
    """
    row = study_to_mark(db, study_instance_uid)
    number = _change(
        db,
        "UPDATE tasks SET assigned_to = :to, marks = marks + 1 WHERE study_instance_uid = :uid RETURNING marks",
        uid=study_instance_uid,
        to=to,
    )
    return add_mark(db, row, number, MarkKind.ASSIGN, user, now=now, note=to, before={"assigned_to": row.assigned_to})


def reopen_raised(db: Connection, study_instance_uid: str, *, now: float) -> None:
    """Have a study wait again whose priority is higher than when it was read; that it was is told and recorded."""
    row = run(
        db,
        """
        UPDATE tasks SET read_at = NULL, reopened_at = :now, marks = marks + 1
        WHERE study_instance_uid = :uid AND read_at IS NOT NULL AND priority_rank < 2 AND priority_rank < read_rank
        RETURNING study_instance_uid, answer_version, marks
        """,
        uid=study_instance_uid,
        now=now,
    ).one_or_none()
    if row is not None:
        add_mark(db, row, row.marks, MarkKind.REOPENED, NODE, now=now)


@dataclass(frozen=True)
class Bulk:
    """What came of doing something with several studies."""

    done: tuple[Mark, ...]
    refused: tuple[MarkRefused, ...]


def in_bulk(uids: Iterable[str], do: Callable[[str], Mark | None]) -> Bulk:
    """Do something with each study, e.g. ``lambda uid: mark_read(db, uid, user, now=now)``; one refusal stops none."""
    done, refused = [], []
    for uid in sorted(set(uids)):  # always in this order: two who do it at once do not wait for each other in a ring
        try:
            mark = do(uid)
        except MarkRefused as refusal:
            refused.append(refusal)
        else:
            done += [mark] if mark is not None else []
    return Bulk(tuple(done), tuple(refused))


def begin_act(db: Connection, user: str) -> int:
    """Begin an act of somebody: the marks that they make until the next are taken back together; returns its number.

    Their other acts wait until this transaction has ended, so that no two have one number.
    """
    return int(
        run(
            db,
            """
            INSERT INTO mark_acts (person, latest) VALUES (:user, 1)
            ON CONFLICT (person) DO UPDATE SET latest = mark_acts.latest + 1, passed = NULL RETURNING latest
            """,
            user=user,
        ).scalar_one()
    )


def study_to_mark(db: Connection, uid: str) -> Row[Any]:
    """The study as it is, and as it stays until the transaction ends.

    Raises
    ------
    StudyUnknown
    """
    row = run(
        db,
        """
        SELECT study_instance_uid, result, answer_version, priority, priority_reason, first_answer, lowered_from,
               read_at, read_by, read_rank, read_version, read_as, reopened_at, claimed_by, claimed_until, assigned_to
        FROM tasks WHERE study_instance_uid = :uid AND status <> 'removed' {locked}
        """,
        uid=uid,
    ).one_or_none()
    if row is None:
        raise StudyUnknown(uid, "there is no such study on the worklist: it may have been deleted; look at the list")
    return row


def answer_changed(uid: str) -> AnswerChanged:
    """What was looked at is not the AI's current answer."""
    return AnswerChanged(uid, "the AI has answered anew since you looked: look at the study again")


def _require_not_with_another(row: Row[Any], user: str, now: float) -> None:
    if row.claimed_by not in ("", user) and row.claimed_until > now:
        raise ClaimedByOther(row.study_instance_uid, row.claimed_by, row.claimed_until)


def _change(db: Connection, sql: str, **values: Any) -> int | None:
    """The number of the mark that this change makes; None when it does not fit."""
    number: int | None = run(db, sql, **values).scalar()
    return number


def count_mark(db: Connection, uid: str) -> int | None:
    """The number of a mark that changes nothing else of the study."""
    return _change(db, "UPDATE tasks SET marks = marks + 1 WHERE study_instance_uid = :uid RETURNING marks", uid=uid)


def add_mark(
    db: Connection,
    row: Row[Any],
    number: int | None,
    kind: MarkKind,
    user: str,
    *,
    now: float,
    finding: str = "",
    report: str = "",
    note: str = "",
    before: dict[str, Any] | None = None,
    undoes: int | None = None,
) -> Mark:
    """Write a mark under the number that its change of the study gave."""
    if number is None:
        raise StudyUnknown(row.study_instance_uid, "the study is gone: look at the list again")
    mark = Mark(row.study_instance_uid, number, now, user, kind, finding, report, row.answer_version, note, undoes)
    run(
        db,
        """
        INSERT INTO reading_marks (study_instance_uid, number, made_at, made_by, kind, finding, report, version, note,
                                   before, undoes, act)
        VALUES (:study_instance_uid, :number, :made_at, :made_by, :kind, :finding, :report, :version, :note,
                :before, :undoes, coalesce((SELECT latest FROM mark_acts WHERE person = :made_by), 0))
        """,
        **{**vars(mark), "kind": kind.value},
        before=json.dumps(before or {}, separators=(",", ":")),
    )
    return mark

"""What people mark on the worklist: one wins, nothing is lost, and the last mark can be taken back."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from orthanc_plugin.ledger import judging, marks, tasks
from orthanc_plugin.ledger.database import Ledger, migrate, open_ledger
from orthanc_plugin.ledger.mark_history import history, judgements, undo
from orthanc_plugin.ledger.mark_refusals import (
    AlreadyRead,
    AnswerChanged,
    ClaimedByOther,
    MarkRefused,
    NotClaimed,
    NotEvaluated,
    NothingToUndo,
    NotRead,
    StudyUnknown,
    TextRefused,
    UndoOutdated,
)
from orthanc_plugin.ledger.marks import Mark, MarkKind, Seen
from orthanc_plugin.ledger.pages import page
from orthanc_plugin.ledger.tasks import Arrival, Outcome, TaskStatus
from orthanc_plugin.worklist.rows import to_json, worklist_row

UID = "1.2.3"
CLAIM = 900.0


def do(ledger: Ledger, function: Callable[..., Any], *values: Any, **named: Any) -> Any:
    """In a transaction of its own; what people do, as one act of whoever does it."""
    with ledger.write() as db:
        if function.__module__ in (marks.__name__, judging.__name__):
            marks.begin_act(db, values[1] if len(values) > 1 else values[0])
        return function(db, *values, **named)


def answer(ledger: Ledger, rank: int, *, now: float, uid: str = UID, version: int = 1, report: str = "2.25.1") -> None:
    """An image comes, and the AI answers."""
    image = {
        "sop_instance_uid": "1.9", "status": "done", "measurement_report": report,
        "findings": [{"key": "effusion", "state": "present", "probability": 0.8, "laterality": None, "regions": []}],
        "view": "PA", "models": {}, "cautions": [], "priority_reason": f"why {rank}",
    }  # fmt: skip
    image["priority"] = priority = ("critical", "urgent", "routine", "none")[rank]
    outcome = Outcome(TaskStatus.DONE, priority, rank, {"version": version, "images": [image]})
    do(ledger, tasks.enqueue, Arrival(uid, "Doe^Jane"), now=now)
    task = do(ledger, tasks.claim, "w", now=now, lease_seconds=60, abandoned_limit=3)
    do(ledger, tasks.answer, task, outcome, now=now, conclude_at=None)


def claim(ledger: Ledger, user: str, now: float, uid: str = UID) -> Mark | None:
    made: Mark | None = do(ledger, marks.claim, uid, user, now=now, seconds=CLAIM)
    return made


def row_of(ledger: Ledger, uid: str = UID, now: float = 0.0) -> dict[str, Any]:
    with ledger.read() as db:
        return next(row for row in page(db, now=now).rows if row["study_instance_uid"] == uid)


def kinds(ledger: Ledger, uid: str = UID) -> list[str]:
    with ledger.read() as db:
        return [mark.kind.value for mark in history(db, uid)]


def take_back(ledger: Ledger, user: str, now: float = 500.0, uid: str = "") -> Mark:
    came: marks.Bulk = do(ledger, undo, user, now=now, claim_seconds=CLAIM, study_instance_uid=uid)
    if came.refused:
        raise came.refused[0]
    return came.done[0]


# --- claims


def test_of_two_readers_one_has_the_study_and_the_other_learns_who(ledger: Ledger) -> None:
    answer(ledger, 2, now=1)
    assert claim(ledger, "ada", 10) is not None
    with pytest.raises(ClaimedByOther, match="ada") as refused:
        claim(ledger, "ben", 11)
    assert (refused.value.study_instance_uid, refused.value.by, refused.value.until) == (UID, "ada", 910)
    assert row_of(ledger, now=12)["claimed_by"] == "ada"
    assert claim(ledger, "ada", 100) is None, "who has it keeps it, without another mark"
    with pytest.raises(ClaimedByOther):
        claim(ledger, "ben", 950)
    assert kinds(ledger) == ["claim"]


def test_a_claim_ends_by_itself_unless_its_holder_is_active(ledger: Ledger) -> None:
    answer(ledger, 2, now=1)
    answer(ledger, 2, now=1, uid="1.2.4")
    claim(ledger, "ada", 10)
    claim(ledger, "ada", 10, "1.2.4")
    assert do(ledger, marks.keep_claim, UID, "ada", now=800, seconds=CLAIM)
    assert row_of(ledger, "1.2.4", now=911)["claimed_by"] == "", "the other one is not what ada is at"
    with pytest.raises(ClaimedByOther):
        claim(ledger, "ben", 1000)
    assert row_of(ledger, now=1701)["claimed_by"] == ""
    assert claim(ledger, "ben", 1701) is not None
    assert not do(ledger, marks.keep_claim, UID, "ada", now=1702, seconds=CLAIM), "what has run out does not come back"
    with pytest.raises(NotClaimed):
        do(ledger, marks.release, UID, "ada", now=1703)


def test_a_claim_that_no_clock_near_this_one_can_have_given_counts_as_past(ledger: Ledger) -> None:
    answer(ledger, 2, now=1)
    claim(ledger, "ada", 1e6)
    assert claim(ledger, "ben", 100) is not None


def test_a_released_study_can_be_claimed_by_another(ledger: Ledger) -> None:
    answer(ledger, 2, now=1)
    claim(ledger, "ada", 10)
    do(ledger, marks.release, UID, "ada", now=11)
    assert claim(ledger, "ben", 12) is not None
    assert kinds(ledger) == ["claim", "release", "claim"]


def test_an_admin_releases_a_study_from_any_hands_and_gives_it_back_by_undo(ledger: Ledger) -> None:
    answer(ledger, 0, now=1)
    with pytest.raises(NotClaimed, match="nobody's hands"):
        do(ledger, marks.release, UID, "eve", now=5, of_anybody=True)
    claim(ledger, "ada", 10)
    with pytest.raises(NotClaimed, match="not in your hands"):
        do(ledger, marks.release, UID, "ben", now=11)
    do(ledger, marks.release, UID, "eve", now=12, of_anybody=True)
    assert row_of(ledger, now=13)["claimed_by"] == ""
    take_back(ledger, "eve", now=14)
    assert row_of(ledger, now=15)["claimed_by"] == "ada"
    do(ledger, marks.release, UID, "eve", now=16, of_anybody=True)
    assert claim(ledger, "ben", 17) is not None


def contend(where: str, user: str, studies: int, start: Any, won: Any) -> None:
    ledger = open_ledger(where)
    start.wait()
    for number in range(studies):
        try:
            claim(ledger, user, 100.0, f"1.{number}")
            won.put((number, user))
        except ClaimedByOther:
            pass


def test_processes_that_claim_at_once_never_both_win(ledger: Ledger) -> None:
    studies, users = 25, ("ada", "ben", "cyd")
    for number in range(studies):
        do(ledger, tasks.enqueue, Arrival(f"1.{number}"), now=1)
    context = multiprocessing.get_context("spawn")
    start, won = context.Barrier(len(users)), context.Queue()
    where = ledger.url.render_as_string(hide_password=False)
    processes = [context.Process(target=contend, args=(where, user, studies, start, won)) for user in users]
    for process in processes:
        process.start()
    winners = [won.get(timeout=60) for _ in range(studies)]
    for process in processes:
        process.join(60)
    assert won.empty()
    assert sorted(number for number, _ in winners) == list(range(studies))
    with ledger.read() as db:
        held = {row["study_instance_uid"]: row["claimed_by"] for row in page(db, now=101.0).rows}
        assert held == {f"1.{number}": user for number, user in winners}
        assert all(len(history(db, uid)) == 1 for uid in held)


# --- read and unread


def test_a_study_is_read_once_and_leaves_the_hands_of_its_reader(ledger: Ledger) -> None:
    answer(ledger, 0, now=1)
    claim(ledger, "ada", 10)
    with pytest.raises(ClaimedByOther):
        do(ledger, marks.mark_read, UID, "ben", now=11)
    do(ledger, marks.mark_read, UID, "ada", now=12)
    row = row_of(ledger, now=13)
    assert (row["group"], row["read_by"], row["read_at"], row["claimed_by"], row["changed"]) == (
        "read", "ada", 12.0, "", False,
    )  # fmt: skip
    with pytest.raises(AlreadyRead, match="ada"):
        do(ledger, marks.mark_read, UID, "ben", now=14)
    do(ledger, marks.mark_unread, UID, "ben", now=15)
    assert row_of(ledger)["group"] == "critical"
    with pytest.raises(NotRead):
        do(ledger, marks.mark_unread, UID, "ben", now=16)
    assert kinds(ledger) == ["claim", "read", "unread"]


def test_who_looked_at_an_older_answer_has_not_read_the_newer_one(ledger: Ledger) -> None:
    answer(ledger, 2, now=1)
    seen = Seen(1, "routine")
    answer(ledger, 0, now=2, version=2)
    with pytest.raises(AnswerChanged):
        do(ledger, marks.mark_read, UID, "ada", now=3, seen=seen)
    do(ledger, marks.mark_read, UID, "ada", now=4, seen=Seen(2, "critical"))


@pytest.mark.parametrize(
    ("before", "after", "reopens"),
    [(2, 0, True), (1, 0, True), (3, 1, True), (3, 2, False), (1, 1, False), (0, 2, False), (2, 3, False)],
)
def test_a_study_whose_priority_rose_is_unread_again_and_what_changed_otherwise_is_flagged(
    ledger: Ledger, before: int, after: int, reopens: bool
) -> None:
    answer(ledger, before, now=1)
    do(ledger, marks.mark_read, UID, "ada", now=10)
    answer(ledger, after, now=20, version=2)
    row = row_of(ledger, now=21)
    if reopens:
        assert (row["read_at"], row["read_by"], row["reopened_at"]) == (None, "ada", 20.0)
        with ledger.read() as db:
            last = history(db, UID)[-1]
        assert (last.kind, last.made_by, last.version) == (MarkKind.REOPENED, marks.NODE, 2)
        do(ledger, marks.mark_read, UID, "ben", now=30)
        assert row_of(ledger, now=31)["reopened_at"] is None
    else:
        assert (row["read_at"], row["changed"], row["reopened_at"]) == (10.0, True, None)
        assert kinds(ledger) == ["read"]


def test_an_image_after_reading_is_told_before_it_is_answered(ledger: Ledger) -> None:
    answer(ledger, 2, now=1)
    do(ledger, marks.mark_read, UID, "ada", now=10)
    assert not row_of(ledger)["changed"]
    do(ledger, tasks.enqueue, Arrival(UID), now=20)
    assert row_of(ledger)["changed"]


def test_a_study_that_was_deleted_and_comes_back_is_nobodys_and_unread(ledger: Ledger) -> None:
    answer(ledger, 2, now=1)
    claim(ledger, "ada", 5)
    do(ledger, marks.assign, UID, "ada", "ben", now=5)
    do(ledger, marks.mark_read, UID, "ada", now=10)
    assert do(ledger, tasks.mark_removed, UID, seen=1, now=11)
    for act in (
        lambda: claim(ledger, "ada", 12),
        lambda: do(ledger, marks.mark_read, UID, "ada", now=12),
        lambda: do(ledger, judging.add_note, UID, "ada", "note", now=12),
        lambda: do(ledger, marks.assign, "9.9", "ada", "ben", now=12),
    ):
        with pytest.raises(StudyUnknown):
            act()
    answer(ledger, 2, now=20)
    row = row_of(ledger, now=21)
    assert (row["read_at"], row["claimed_by"], row["assigned_to"]) == (None, "", "")
    do(ledger, judging.add_note, UID, "ada", "again", now=22)
    with ledger.read() as db:
        assert [mark.number for mark in history(db, UID)] == [1, 2, 3, 4], "marks go on being counted"


# --- judgements and notes


def test_of_what_a_person_says_of_a_finding_the_latest_counts_and_all_is_kept(ledger: Ledger) -> None:
    answer(ledger, 1, now=1)
    do(ledger, judging.judge, UID, "ada", "effusion", agrees=True, now=2)
    do(ledger, judging.judge, UID, "ada", "effusion", agrees=False, now=3, comment="a skin fold", report="2.25.1")
    do(ledger, judging.judge, UID, "ben", "effusion", agrees=True, now=4)
    with ledger.read() as db:
        current = judgements(db, [UID, "9.9"])
    assert [(m.made_by, m.kind, m.note, m.report, m.version) for m in current[UID]] == [
        ("ada", MarkKind.DISAGREE, "a skin fold", "2.25.1", 1),
        ("ben", MarkKind.AGREE, "", "2.25.1", 1),
    ]
    assert kinds(ledger) == ["agree", "disagree", "agree"]


def test_what_the_answer_does_not_say_cannot_be_judged(ledger: Ledger) -> None:
    answer(ledger, 1, now=1)
    with pytest.raises(NotEvaluated):
        do(ledger, judging.judge, UID, "ada", "edema", agrees=True, now=2)
    for looked_at in ({"report": "2.25.9"}, {"seen_version": 2}, {"seen_version": 0, "report": "2.25.1"}):
        with pytest.raises(AnswerChanged):
            do(ledger, judging.judge, UID, "ada", "effusion", agrees=True, now=2, **looked_at)
    for note in ("", " \n", "x" * (judging.LONGEST_NOTE + 1)):
        with pytest.raises(TextRefused):
            do(ledger, judging.add_note, UID, "ada", note, now=2)
    with pytest.raises(TextRefused):
        do(ledger, judging.judge, UID, "ada", "effusion", agrees=True, now=2, comment="x" * (judging.LONGEST_NOTE + 1))
    assert kinds(ledger) == []


def test_hostile_text_is_kept_as_it_is(ledger: Ledger) -> None:
    answer(ledger, 1, now=1)
    do(ledger, judging.add_note, UID, "ada", "'; DROP TABLE tasks; -- <b>%_\\ é\0\ud800", now=2)
    with ledger.read() as db:
        assert history(db, UID)[0].note == "'; DROP TABLE tasks; -- <b>%_\\ é?"


# --- several at once


def test_what_cannot_be_done_with_one_study_is_done_with_the_others(ledger: Ledger) -> None:
    for uid in ("1.1", "1.2", "1.3"):
        answer(ledger, 2, now=1, uid=uid)
    claim(ledger, "ben", 5, "1.2")
    with ledger.write() as db:
        came = marks.in_bulk(["1.3", "1.2", "1.1", "9.9"], lambda uid: marks.mark_read(db, uid, "ada", now=10))
    assert [mark.study_instance_uid for mark in came.done] == ["1.1", "1.3"]
    assert [(type(r), r.study_instance_uid) for r in came.refused] == [(ClaimedByOther, "1.2"), (StudyUnknown, "9.9")]
    assert row_of(ledger, "1.3")["read_by"] == "ada"
    assert row_of(ledger, "1.2")["read_at"] is None


# --- taking back


def test_each_mark_can_be_taken_back_and_stays_in_the_record(ledger: Ledger) -> None:
    answer(ledger, 1, now=1)
    states = []

    def state() -> tuple[Any, ...]:
        row = row_of(ledger, now=50)
        names = ("read_at", "read_by", "read_rank", "read_version", "claimed_by", "assigned_to")
        with ledger.read() as db:
            return (*(row[name] for name in names), [m.number for m in judgements(db, [UID]).get(UID, [])])

    acts: list[Callable[[float], object]] = [
        lambda now: do(ledger, marks.assign, UID, "ada", "ben", now=now),
        lambda now: do(ledger, marks.assign, UID, "ada", "", now=now),
        lambda now: claim(ledger, "ada", now),
        lambda now: do(ledger, marks.release, UID, "ada", now=now),
        lambda now: do(ledger, judging.judge, UID, "ada", "effusion", agrees=True, now=now),
        lambda now: do(ledger, judging.judge, UID, "ada", "effusion", agrees=False, now=now),
        lambda now: do(ledger, marks.mark_read, UID, "ada", now=now),
        lambda now: do(ledger, marks.mark_unread, UID, "ada", now=now),
        lambda now: do(ledger, judging.add_note, UID, "ada", "hm", now=now),
    ]
    for number, act in enumerate(acts):
        states.append(state())
        act(10.0 + number)
    for before in reversed(states):
        take_back(ledger, "ada", now=40)
        assert state() == before
    with pytest.raises(NothingToUndo):
        take_back(ledger, "ada")
    with ledger.read() as db:
        made = history(db, UID)
    assert [mark.undoes for mark in made if mark.undoes] == list(range(len(acts), 0, -1))
    assert len(made) == 2 * len(acts)


def test_only_own_marks_are_taken_back_the_last_first_of_one_study_or_of_any(ledger: Ledger) -> None:
    for uid in ("1.1", "1.2"):
        answer(ledger, 1, now=1, uid=uid)
        do(ledger, judging.add_note, uid, "ada", "hm", now=20 - float(uid))  # the clock goes back
    with pytest.raises(NothingToUndo):
        take_back(ledger, "ben")
    assert take_back(ledger, "ada", uid="1.1").study_instance_uid == "1.1"
    assert take_back(ledger, "ada").study_instance_uid == "1.2"


def test_what_another_has_changed_since_is_not_taken_back(ledger: Ledger) -> None:
    answer(ledger, 1, now=1)
    do(ledger, marks.assign, UID, "ada", "ada", now=2)
    do(ledger, marks.assign, UID, "ben", "ben", now=3)
    with pytest.raises(UndoOutdated):
        take_back(ledger, "ada")
    assert row_of(ledger)["assigned_to"] == "ben"
    do(ledger, marks.mark_read, UID, "ada", now=4)
    do(ledger, marks.mark_unread, UID, "ben", now=5)
    with pytest.raises(UndoOutdated):
        take_back(ledger, "ada")
    do(ledger, marks.mark_read, UID, "cyd", now=6)
    with pytest.raises(UndoOutdated):
        take_back(ledger, "ben")


def test_taking_back_never_hides_that_the_priority_rose(ledger: Ledger) -> None:
    answer(ledger, 2, now=1)
    do(ledger, marks.mark_read, UID, "ada", now=2)
    do(ledger, marks.mark_unread, UID, "ada", now=3)
    answer(ledger, 0, now=4, version=2)
    with pytest.raises(UndoOutdated):
        take_back(ledger, "ada")
    assert row_of(ledger)["group"] == "critical"


def test_a_released_study_that_another_took_does_not_come_back(ledger: Ledger) -> None:
    answer(ledger, 2, now=1)
    claim(ledger, "ada", 2)
    do(ledger, marks.release, UID, "ada", now=3)
    claim(ledger, "ben", 4)
    with pytest.raises(UndoOutdated):
        take_back(ledger, "ada", now=5)
    assert row_of(ledger, now=6)["claimed_by"] == "ben"


def test_what_was_done_to_several_studies_at_once_is_taken_back_at_once(ledger: Ledger) -> None:
    for uid in ("1.1", "1.2", "1.3"):
        answer(ledger, 2, now=1, uid=uid)
    do(ledger, judging.add_note, "1.1", "ada", "first", now=1000.0)
    with ledger.write() as db:  # the clock was put back
        marks.begin_act(db, "ada")
        marks.in_bulk(["1.1", "1.2", "1.3"], lambda uid: marks.mark_read(db, uid, "ada", now=10))
    do(ledger, marks.mark_unread, "1.2", "ben", now=20)
    came = do(ledger, undo, "ada", now=30, claim_seconds=CLAIM)
    assert [mark.study_instance_uid for mark in came.done] == ["1.1", "1.3"]
    assert [(type(r), r.study_instance_uid) for r in came.refused] == [(UndoOutdated, "1.2")]
    assert row_of(ledger, "1.1")["read_at"] is row_of(ledger, "1.3")["read_at"] is None


def test_what_is_older_than_a_quarter_of_an_hour_is_not_taken_back(ledger: Ledger) -> None:
    answer(ledger, 2, now=1)
    do(ledger, marks.mark_read, UID, "ada", now=10)
    with pytest.raises(NothingToUndo, match="15 minutes"):
        take_back(ledger, "ada", now=911)
    assert take_back(ledger, "ada", now=910).study_instance_uid == UID


def test_undo_goes_as_deep_as_acts_go_and_gives_back_what_reading_took(ledger: Ledger) -> None:
    for number, uid in enumerate(("1.1", "1.2"), 1):
        answer(ledger, 2, now=1, uid=uid)
        claim(ledger, "ada", 10.0 * number, uid)
        do(ledger, marks.mark_read, uid, "ada", now=10.0 * number + 1)
    for uid in ("1.2", "1.1"):
        assert take_back(ledger, "ada", now=40).study_instance_uid == uid
        row = row_of(ledger, uid, now=41)
        assert (row["read_at"], row["claimed_by"], row["claimed_until"]) == (None, "ada", 940.0)
        assert take_back(ledger, "ada", now=42).study_instance_uid == uid
        assert row_of(ledger, uid, now=43)["claimed_by"] == ""
    with pytest.raises(NothingToUndo):
        take_back(ledger, "ada", now=44)


def test_undo_of_reading_takes_no_study_out_of_the_hands_of_another(ledger: Ledger) -> None:
    for uid in ("1.1", "1.2"):
        answer(ledger, 2, now=1, uid=uid)
    claim(ledger, "ada", 10, "1.1")
    do(ledger, marks.mark_read, "1.1", "ada", now=11)
    claim(ledger, "ben", 12, "1.1")
    do(ledger, marks.mark_read, "1.2", "ada", now=13)
    take_back(ledger, "ada", now=20)
    assert row_of(ledger, "1.2", now=21)["claimed_by"] == "", "ada had it not in hand"
    take_back(ledger, "ada", now=22)
    assert row_of(ledger, "1.1", now=23)["claimed_by"] == "ben"
    with pytest.raises(UndoOutdated):
        take_back(ledger, "ada", now=24)


def test_an_act_that_cannot_be_taken_back_is_told_once_and_hides_none_before_it(ledger: Ledger) -> None:
    for uid in ("1.1", "1.2"):
        answer(ledger, 2, now=1, uid=uid)
    do(ledger, judging.add_note, "1.2", "ada", "hm", now=2)
    do(ledger, marks.mark_read, "1.1", "ada", now=3)
    do(ledger, marks.mark_unread, "1.1", "ben", now=4)
    with pytest.raises(UndoOutdated):
        take_back(ledger, "ada", now=5)
    assert take_back(ledger, "ada", now=6).study_instance_uid == "1.2"
    do(ledger, judging.add_note, "1.2", "ada", "again", now=7)
    assert take_back(ledger, "ada", now=8).study_instance_uid == "1.2", "what was done since is the last act"
    with pytest.raises(UndoOutdated):
        take_back(ledger, "ada", uid="1.1", now=9)


def test_a_claim_that_is_over_is_passed_by_undo(ledger: Ledger) -> None:
    for uid in ("1.1", "1.2"):
        answer(ledger, 2, now=1, uid=uid)
    do(ledger, judging.add_note, "1.2", "ada", "hm", now=2)
    claim(ledger, "ada", 3, "1.1")
    do(ledger, marks.release, "1.1", "eve", now=4, of_anybody=True)
    claim(ledger, "ben", 5, "1.1")
    assert take_back(ledger, "ada", now=6).study_instance_uid == "1.2"
    assert row_of(ledger, "1.1", now=7)["claimed_by"] == "ben"


def test_what_was_read_elsewhere_is_not_the_last_act(ledger: Ledger) -> None:
    answer(ledger, 2, now=1)
    do(ledger, judging.add_note, UID, "ada", "hm", now=9)
    with ledger.write() as db:
        marks.mark_read(db, UID, "ada", now=10, elsewhere=True)
    assert take_back(ledger, "ada", now=11).undoes == 1


# --- a later, lower answer


@pytest.mark.parametrize(("before", "after"), [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)])
def test_a_lower_answer_never_lowers_a_study_that_nobody_has_read(ledger: Ledger, before: int, after: int) -> None:
    answer(ledger, before, now=1)
    name = row_of(ledger)["priority"]
    for version in (2, 3):
        answer(ledger, after, now=version, version=version)
        row = row_of(ledger, now=4)
        assert (row["priority"], row["priority_rank"], row["lowered_from"]) == (name, before, f"{name}, why {before}")
    do(ledger, marks.mark_read, UID, "ada", now=10)
    answer(ledger, after, now=11, version=4)
    row = row_of(ledger, now=12)
    assert (row["priority_rank"], row["lowered_from"], row["read_at"], row["changed"]) == (after, "", 10.0, True)


def test_an_answer_that_is_as_pressing_again_is_no_longer_told_as_lower(ledger: Ledger) -> None:
    for version, rank in enumerate((1, 2, 1, 0), 1):
        answer(ledger, rank, now=version, version=version)
        row = row_of(ledger)
        assert (row["priority_rank"], row["lowered_from"]) == (min(rank, 1), "urgent, why 1" if rank == 2 else "")
        shown = worklist_row(row)
        assert shown.why.endswith("earlier answer: urgent, why 1") is (rank == 2)
        assert to_json(shown)["lowered_from"] == ("urgent, why 1" if rank == 2 else None)


@pytest.mark.parametrize("by_undo", [True, False])
def test_a_study_that_is_unread_again_has_the_place_that_an_answer_took_since(ledger: Ledger, by_undo: bool) -> None:
    answer(ledger, 0, now=1)
    for version in (2, 3):
        do(ledger, marks.mark_read, UID, "ada", now=10)
        answer(ledger, 2, now=11, version=version)
        if by_undo:
            take_back(ledger, "ada", now=12)
        else:
            do(ledger, marks.mark_unread, UID, "ben", now=12)
        row = row_of(ledger, now=13)
        assert (row["group"], row["priority"], row["priority_rank"], row["lowered_from"]) == (
            "critical", "critical", 0, "critical, why 0",
        )  # fmt: skip


def test_a_study_that_is_unread_again_without_another_answer_stands_where_it_stood(ledger: Ledger) -> None:
    answer(ledger, 2, now=1)
    do(ledger, marks.mark_read, UID, "ada", now=10)
    do(ledger, marks.mark_unread, UID, "ada", now=11)
    row = row_of(ledger)
    assert (row["priority"], row["priority_rank"], row["lowered_from"]) == ("routine", 2, "")


# --- the record


def test_marks_and_what_they_made_of_a_study_survive_an_earlier_hilum(ledger: Ledger) -> None:
    answer(ledger, 1, now=1)
    do(ledger, marks.assign, UID, "ada", "ben", now=2)
    do(ledger, marks.mark_read, UID, "ada", now=3)
    before, made = row_of(ledger), kinds(ledger)
    for version in (3, 1):
        migrate(ledger, version)
        with ledger.write() as db:  # it goes on
            db.execute(text("UPDATE tasks SET message = 'seen'"))
        migrate(ledger)
        after = row_of(ledger)
        told = {"message", "priority_reason", "read_as", "search_words", "answer_version", "changed", "written_at"}
        told |= {"content", "present"}
        assert {k: v for k, v in after.items() if k not in told} == {
            k: v for k, v in before.items() if k not in told
        } | {"holder": after["holder"], "answered_generation": after["answered_generation"]}
        assert kinds(ledger) == made


def test_every_refusal_names_its_study_and_says_what_to_do() -> None:
    for kind in (StudyUnknown, NotClaimed, NotRead, AnswerChanged, TextRefused, NothingToUndo, UndoOutdated):
        refusal = kind(UID, "look again")
        assert isinstance(refusal, MarkRefused)
        assert (refusal.study_instance_uid, str(refusal)) == (UID, "look again")


def test_no_mark_prints_its_comment() -> None:
    assert "Doe" not in repr(Mark(UID, 1, time.time(), "ada", MarkKind.NOTE, note="Mrs Doe"))

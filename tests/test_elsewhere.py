"""Studies that were read in another system are marked together, with marks that can be taken back, on each database."""

from __future__ import annotations

import pytest

from orthanc_plugin.ledger import marks, tasks
from orthanc_plugin.ledger.database import Ledger
from orthanc_plugin.ledger.elsewhere import Act, acts, mark_elsewhere, take_back_act, unread_before
from orthanc_plugin.ledger.mark_history import history
from orthanc_plugin.ledger.tasks import Arrival, Outcome, TaskStatus

NOW = 1000.0
EVE = Act(NOW, "eve", 100.0)


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    """Up to 1.6 they came before second 100; 1.2 is critical, 1.3 read, 1.4 with ann, and 1.5 waits for the AI."""
    with ledger.write() as db:
        for number in (1, 2, 3, 4, 6, 9):
            tasks.enqueue(db, Arrival(f"1.{number}"), now=100.0 if number == 9 else 10.0 + number)
            claimed = tasks.claim(db, "w", now=200.0, lease_seconds=60, abandoned_limit=3)
            assert claimed is not None
            priority, rank = ("critical", 0) if number == 2 else ("routine", 2)
            tasks.answer(
                db, claimed, Outcome(TaskStatus.DONE, priority, rank, {"version": 1}), now=201.0, conclude_at=None
            )
        tasks.enqueue(db, Arrival("1.5"), now=15.0)
        marks.mark_read(db, "1.3", "ann", now=300.0)
        marks.claim(db, "1.4", "ann", now=NOW - 10, seconds=60)
    return ledger


def read(ledger: Ledger) -> dict[str, str]:
    with ledger.read() as db:
        found = [task for n in range(1, 10) for task in tasks.of_study(db, f"1.{n}")]
    return {task["study_instance_uid"]: task["read_by"] for task in found if task["read_at"] is not None}


def mark_all(ledger: Ledger, act: Act = EVE) -> list[int]:
    steps = []
    while not steps or steps[-1]:
        with ledger.write() as db:
            steps.append(mark_elsewhere(db, act, now=NOW, most=2))
    return steps


def test_the_number_that_is_shown_is_marked_in_steps_and_nothing_else(filled: Ledger) -> None:
    with filled.read() as db:
        assert unread_before(db, 100.0, "eve", now=NOW) == {"critical": 1, "routine": 2, "none": 1}
    assert mark_all(filled) == [2, 2, 0]
    elsewhere = "eve (elsewhere)"
    assert read(filled) == {"1.1": elsewhere, "1.2": elsewhere, "1.3": "ann", "1.5": elsewhere, "1.6": elsewhere}
    with filled.read() as db:
        assert unread_before(db, 100.0, "eve", now=NOW) == {}
        (mark,) = history(db, "1.1")
        assert (mark.kind, mark.made_by, mark.note, mark.made_at) == ("read", "eve", "elsewhere", NOW)
        (act,) = acts(db)
    assert (act.number, act.taken_back) == (4, 0)


def test_an_act_is_taken_back_but_for_what_changed_since(filled: Ledger) -> None:
    mark_all(filled)
    with filled.write() as db:
        marks.mark_unread(db, "1.1", "ann", now=NOW + 1)
        marks.mark_unread(db, "1.6", "eve", now=NOW + 2)
        marks.mark_read(db, "1.6", "ann", now=NOW + 3)
    places = [""]
    while len(places) == 1 or places[-1]:
        with filled.write() as db:
            places.append(take_back_act(db, acts(db)[0], "adam", now=NOW + 9, after=places[-1], most=1))
    assert read(filled) == {"1.3": "ann", "1.6": "ann"}
    with filled.read() as db:
        (act,) = acts(db)
        undone = history(db, "1.2")[-1]
    assert (act.number, act.taken_back) == (4, 2), "1.1 was unread and 1.6 read by ann when it was taken back"
    assert (undone.kind, undone.made_by) == ("undo", "adam")


def test_what_the_ai_calls_critical_later_is_unread_again(filled: Ledger) -> None:
    mark_all(filled)
    with filled.write() as db:
        claimed = tasks.claim(db, "w", now=NOW + 1, lease_seconds=60, abandoned_limit=3)
        assert claimed is not None
        assert claimed.study_instance_uid == "1.5"
        outcome = Outcome(TaskStatus.DONE, "critical", 0, {"version": 1})
        tasks.answer(db, claimed, outcome, now=NOW + 2, conclude_at=None)
    assert "1.5" not in read(filled)


def answer(ledger: Ledger, uid: str, *, now: float) -> None:
    """The AI calls a study critical."""
    with ledger.write() as db:
        tasks.request_again(db, uid, now=now)
        claimed = tasks.claim(db, "w", now=now, lease_seconds=60, abandoned_limit=3)
        while claimed is not None and claimed.study_instance_uid != uid:
            claimed = tasks.claim(db, "w", now=now, lease_seconds=60, abandoned_limit=3)
        assert claimed is not None
        outcome = Outcome(TaskStatus.DONE, "critical", 0, {"version": 2})
        tasks.answer(db, claimed, outcome, now=now, conclude_at=None)


def test_what_became_critical_since_it_was_counted_is_left_unread(filled: Ledger) -> None:
    with filled.write() as db:
        assert mark_elsewhere(db, EVE, now=NOW, most=1) == 1
    answer(filled, "1.6", now=NOW + 1)
    mark_all(filled)
    assert "1.6" not in read(filled)
    assert {"1.1", "1.2"} < read(filled).keys()
    with filled.read() as db:
        assert unread_before(db, 100.0, "eve", now=NOW + 9) == {"critical": 1}


def test_only_the_latest_acts_are_kept(ledger: Ledger) -> None:
    for number in range(12):
        with ledger.write() as db:
            tasks.enqueue(db, Arrival(f"2.{number}"), now=1.0 + number)
            assert mark_elsewhere(db, Act(NOW + number, "eve", 100.0), now=NOW, most=9) == 1
    with ledger.read() as db:
        assert [act.made_at for act in acts(db)] == [NOW + number for number in range(11, 1, -1)]

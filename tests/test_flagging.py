"""The first word on a study: raised before its results are stored, never lowered, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from orthanc_plugin.ledger import marks, tasks
from orthanc_plugin.ledger.database import Ledger, migrate, open_ledger
from orthanc_plugin.ledger.dump import dump, load
from orthanc_plugin.ledger.flagging import Flag, flag
from orthanc_plugin.ledger.mark_refusals import AnswerChanged
from orthanc_plugin.ledger.marks import Seen
from orthanc_plugin.ledger.pages import page
from orthanc_plugin.ledger.schema import SCHEMA_VERSION
from orthanc_plugin.ledger.tasks import Arrival, InferenceTask, Outcome, TaskStatus
from orthanc_plugin.ledger.views import unread_critical
from orthanc_plugin.worklist.rows import WorklistRow, worklist_row

CRITICAL, URGENT = Flag("critical", 0, "Pneumothorax 91 %, right"), Flag("urgent", 1, "Effusion 80 %")


def change(ledger: Ledger, function: Callable[..., Any], *values: Any, **named: Any) -> Any:
    with ledger.write() as db:
        return function(db, *values, **named)


@pytest.fixture
def claimed(ledger: Ledger) -> InferenceTask:
    change(ledger, tasks.enqueue, Arrival("1.2.3", patient_name="Phantom^One"), now=1.0)
    task: InferenceTask = change(ledger, tasks.claim, "w", now=2.0, lease_seconds=30.0, abandoned_limit=3)
    return task


def row(ledger: Ledger) -> dict[str, Any]:
    with ledger.read() as db:
        return dict(db.execute(text("SELECT * FROM tasks")).mappings().one())


def test_a_study_is_raised_and_not_lowered(ledger: Ledger, claimed: InferenceTask) -> None:
    assert change(ledger, flag, claimed, URGENT, now=3.0)
    assert change(ledger, flag, claimed, CRITICAL, now=3.1)
    assert not change(ledger, flag, claimed, URGENT, now=3.2)
    said = row(ledger)
    assert (said["status"], said["priority"], said["priority_rank"]) == ("running", "critical", 0)
    assert (said["priority_reason"], said["first_answer"]) == ("Pneumothorax 91 %, right", 1)


def again(ledger: Ledger, *, now: float) -> InferenceTask:
    """Another image comes, and a worker takes the study."""
    change(ledger, tasks.enqueue, Arrival("1.2.3"), now=now)
    task: InferenceTask = change(ledger, tasks.claim, "w", now=now, lease_seconds=30.0, abandoned_limit=3)
    return task


def answer(
    ledger: Ledger, task: InferenceTask, priority: str, why: str, *, now: float, version: int = 1, read: bool = True
) -> None:
    rank = ("critical", "urgent", "routine", "none").index(priority)
    status = TaskStatus.DONE if read else TaskStatus.NOT_PROCESSED
    outcome = Outcome(status, priority, rank, {"version": version, "images": []}, message=why)
    change(ledger, tasks.answer, task, outcome, now=now, conclude_at=None)


def shown(ledger: Ledger, now: float = 100.0) -> WorklistRow:
    with ledger.read() as db:
        return worklist_row(page(db, now=now).rows[0])


def test_a_lower_answer_does_not_lower_what_the_first_answer_raised_and_names_both(
    ledger: Ledger, claimed: InferenceTask
) -> None:
    change(ledger, flag, claimed, CRITICAL, now=3.0)
    answer(ledger, claimed, "urgent", "Effusion 80 %", now=4.0)
    said = shown(ledger)
    assert said.priority == "critical"
    assert said.why == "Effusion 80 %; earlier answer: critical, Pneumothorax 91 %, right (first answer)"


def test_a_study_of_which_nothing_can_be_read_in_the_end_says_why_it_stays_raised(
    ledger: Ledger, claimed: InferenceTask
) -> None:
    change(ledger, flag, claimed, URGENT, now=3.0)
    answer(ledger, claimed, "none", "the view is not frontal", now=4.0, read=False)
    said = shown(ledger)
    assert (said.priority, said.why) == ("urgent", "earlier answer: urgent, Effusion 80 % (first answer)")


def test_the_answer_that_was_announced_takes_the_place_of_the_first(ledger: Ledger, claimed: InferenceTask) -> None:
    change(ledger, flag, claimed, CRITICAL, now=3.0)
    answer(ledger, claimed, "critical", "Pneumothorax 95 %, right", now=4.0)
    assert (shown(ledger).why, shown(ledger).first_answer) == ("Pneumothorax 95 %, right", False)


def test_who_looked_before_the_first_answer_came_has_not_read_the_study(ledger: Ledger, claimed: InferenceTask) -> None:
    seen = Seen(shown(ledger).version, shown(ledger).priority)
    change(ledger, flag, claimed, CRITICAL, now=3.0)
    with pytest.raises(AnswerChanged):
        change(ledger, marks.mark_read, "1.2.3", "ada", now=4.0, seen=seen)
    answer(ledger, claimed, "routine", "Nothing", now=5.0)
    task = again(ledger, now=6.0)
    change(ledger, marks.mark_read, "1.2.3", "ada", now=7.0, seen=Seen(1, "critical"))
    change(ledger, marks.mark_unread, "1.2.3", "ada", now=8.0)
    answer(ledger, task, "critical", "Pneumothorax 95 %", now=9.0, version=2)
    assert row(ledger)["read_at"] is None


def test_with_an_earlier_answer_too(ledger: Ledger, claimed: InferenceTask) -> None:
    answer(ledger, claimed, "routine", "Nothing", now=3.0)
    seen = Seen(shown(ledger).version, shown(ledger).priority)
    change(ledger, flag, again(ledger, now=4.0), CRITICAL, now=5.0)
    with pytest.raises(AnswerChanged):
        change(ledger, marks.mark_read, "1.2.3", "ada", now=6.0, seen=seen)
    change(ledger, marks.mark_read, "1.2.3", "ada", now=7.0, seen=Seen(1, "critical"))


@pytest.mark.parametrize("stored", [True, False])
def test_a_study_that_was_read_waits_again_once_it_is_raised_whatever_comes_of_it(
    ledger: Ledger, claimed: InferenceTask, stored: bool
) -> None:
    answer(ledger, claimed, "routine", "Nothing", now=3.0)
    change(ledger, marks.mark_read, "1.2.3", "ada", now=4.0)
    task = again(ledger, now=5.0)
    change(ledger, flag, task, CRITICAL, now=6.0)
    assert (row(ledger)["read_at"], row(ledger)["reopened_at"]) == (None, 6.0)
    if stored:
        answer(ledger, task, "routine", "Nothing", now=7.0, version=2)
    else:
        failure = tasks.Failure("orthanc", "Orthanc does not answer")
        change(ledger, tasks.fail, task, failure, now=7.0, retry_at=None, counted=False)
    assert (shown(ledger).priority, shown(ledger).reading.group) == ("critical", "critical")
    assert "Pneumothorax 91 %, right (first answer)" in shown(ledger).why
    with ledger.read() as db:
        assert unread_critical(db, 9).number == 1


def test_why_is_said_in_every_status_and_apart_from_what_happened_to_the_task(
    ledger: Ledger, claimed: InferenceTask
) -> None:
    failure = tasks.Failure("orthanc", "Orthanc does not answer")
    first = "Pneumothorax 91 %, right (first answer)"

    def says(status: str, why: str, message: str | None) -> None:
        told = shown(ledger)
        assert (told.status, told.priority, told.why, told.message) == (status, "critical", why, message)

    change(ledger, flag, claimed, CRITICAL, now=3.0)
    says("running", first, None)
    change(ledger, tasks.fail, claimed, failure, now=4.0, retry_at=5.0, counted=False)
    says("queued", first, failure.message)
    task = change(ledger, tasks.claim, "w", now=6.0, lease_seconds=30.0, abandoned_limit=3)
    says("running", first, failure.message)
    change(ledger, tasks.fail, task, failure, now=7.0, retry_at=None, counted=False)
    says("quarantined", first, failure.message)
    change(ledger, tasks.retry, "1.2.3", now=8.0)
    task = change(ledger, tasks.claim, "w", now=9.0, lease_seconds=30.0, abandoned_limit=3)
    answer(ledger, task, "critical", "Pneumothorax 95 %", now=10.0)
    says("done", "Pneumothorax 95 %", "Pneumothorax 95 %")
    change(ledger, tasks.request_again, "1.2.3", now=11.0)
    says("queued", "Pneumothorax 95 %", "Pneumothorax 95 %")
    task = change(ledger, tasks.claim, "w", now=12.0, lease_seconds=30.0, abandoned_limit=3)
    says("running", "Pneumothorax 95 %", "Pneumothorax 95 %")
    change(ledger, tasks.fail, task, failure, now=13.0, retry_at=None, counted=True)
    says("quarantined", "Pneumothorax 95 %", failure.message)


def test_a_first_answer_and_its_reason_come_through_a_dump_and_an_older_schema(
    ledger: Ledger, claimed: InferenceTask, tmp_path: Path
) -> None:
    change(ledger, flag, claimed, CRITICAL, now=3.0)
    other = open_ledger(tmp_path / "other.sqlite")
    load(other, dump(ledger))
    assert shown(other).why == shown(ledger).why == "Pneumothorax 91 %, right (first answer)"
    migrate(ledger, 5)
    assert row(ledger)["message"] == "Pneumothorax 91 %, right"
    migrate(ledger)
    assert shown(ledger).why == "Pneumothorax 91 %, right (first answer)"
    answer(ledger, claimed, "critical", "Pneumothorax 95 %", now=4.0)
    for schema in (5, SCHEMA_VERSION):
        migrate(ledger, schema)
    change(ledger, tasks.request_again, "1.2.3", now=11.0)
    assert (shown(ledger).status, shown(ledger).why) == ("queued", "Pneumothorax 95 %")
    other.close()


def test_a_study_stays_raised_where_its_results_never_come(ledger: Ledger, claimed: InferenceTask) -> None:
    change(ledger, flag, claimed, CRITICAL, now=3.0)
    failure = tasks.Failure("reader_died", "the process died")
    change(ledger, tasks.fail, claimed, failure, now=4.0, retry_at=None, counted=True)
    assert (row(ledger)["status"], row(ledger)["priority"]) == ("quarantined", "critical")


def test_a_worker_that_lost_its_claim_raises_nothing(ledger: Ledger, claimed: InferenceTask) -> None:
    change(ledger, tasks.claim, "other", now=100.0, lease_seconds=30.0, abandoned_limit=3)
    assert not change(ledger, flag, claimed, CRITICAL, now=101.0)
    assert row(ledger)["priority"] == "none"

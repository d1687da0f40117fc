"""The first word on a study: raised before its results are stored, never lowered, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import Ledger
from orthanc_plugin.ledger.flagging import Flag, flag
from orthanc_plugin.ledger.tasks import Arrival, InferenceTask, Outcome, TaskStatus

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
    assert said["message"] == "Pneumothorax 91 %, right"


def test_what_is_stored_in_the_end_decides(ledger: Ledger, claimed: InferenceTask) -> None:
    change(ledger, flag, claimed, CRITICAL, now=3.0)
    outcome = Outcome(TaskStatus.DONE, "urgent", 1, {"images": []}, message="Effusion 80 %")
    change(ledger, tasks.answer, claimed, outcome, now=4.0, conclude_at=None)
    assert (row(ledger)["priority"], row(ledger)["message"]) == ("urgent", "Effusion 80 %")


def test_a_study_stays_raised_where_its_results_never_come(ledger: Ledger, claimed: InferenceTask) -> None:
    change(ledger, flag, claimed, CRITICAL, now=3.0)
    failure = tasks.Failure("reader_died", "the process died")
    change(ledger, tasks.fail, claimed, failure, now=4.0, retry_at=None, counted=True)
    assert (row(ledger)["status"], row(ledger)["priority"]) == ("quarantined", "critical")


def test_a_worker_that_lost_its_claim_raises_nothing(ledger: Ledger, claimed: InferenceTask) -> None:
    change(ledger, tasks.claim, "other", now=100.0, lease_seconds=30.0, abandoned_limit=3)
    assert not change(ledger, flag, claimed, CRITICAL, now=101.0)
    assert row(ledger)["priority"] == "none"

"""Runs through the archive: what is read again and what is not, where a run stands, and that it goes before nobody."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from postgres_server import PostgresServer
from test_tasks import LEASE, ask, change

from orthanc_plugin.ledger import reprocessing, tasks
from orthanc_plugin.ledger.database import Ledger, migrate, open_ledger
from orthanc_plugin.ledger.reprocessing import RunUnderWay, Wanted
from orthanc_plugin.ledger.schema import SCHEMA_VERSION
from orthanc_plugin.ledger.tasks import Arrival, Failure, InferenceTask, Outcome, TaskStatus, Urgency
from orthanc_plugin.ledger.views import count_due


def store(
    ledger: Ledger, uid: str, date: str = "20200101", *, now: float = 0.0, model: str = "lungs@1", read: bool = True
) -> None:
    """A study of the archive, as it was answered once."""
    change(ledger, tasks.enqueue, Arrival(uid, study_date=date, study_time="08"), now=now)
    task = claim(ledger, now)
    assert task is not None
    assert task.study_instance_uid == uid
    answer(ledger, task, now, model=model, read=read)


def answer(ledger: Ledger, task: InferenceTask, now: float, model: str = "lungs@2", *, read: bool = True) -> None:
    name, _, version = model.partition("@")
    image: dict[str, Any] = {"sop_instance_uid": "1", "status": "done", "models": {name: version}}
    if not read:
        image = {"sop_instance_uid": "1", "status": "not_processed", "reason": "view"}
    status = TaskStatus.DONE if read else TaskStatus.NOT_PROCESSED
    change(ledger, tasks.answer, task, Outcome(status, "none", 3, {"images": [image]}), now=now, conclude_at=None)


def claim(ledger: Ledger, now: float) -> InferenceTask | None:
    """As a worker claims (``working.worker``)."""
    limits: Any = {"now": now, "lease_seconds": LEASE, "abandoned_limit": 3}
    with ledger.write() as db:
        task = tasks.claim(db, "w", **limits)
        if task is None and reprocessing.queue_next(db, now=now):
            task = tasks.claim(db, "w", **limits)
    return task


def start(ledger: Ledger, now: float = 100.0, **wanted: Any) -> reprocessing.Run:
    begun: reprocessing.Run = change(ledger, reprocessing.start, Wanted(**wanted), now=now)
    return begun


def read_all(ledger: Ledger, now: float = 200.0) -> list[str]:
    """Let one worker read until nothing is left."""
    found = []
    while (task := claim(ledger, now)) is not None:
        found.append(task.study_instance_uid)
        answer(ledger, task, now)
    return found


def latest(ledger: Ledger) -> reprocessing.Run:
    last: reprocessing.Run | None = ask(ledger, reprocessing.latest)
    assert last is not None
    return last


def test_studies_of_these_dates_are_read_again_in_their_order_each_once(ledger: Ledger) -> None:
    for uid, date in (("1.3", "20200301"), ("1.1", "20200101"), ("1.4", "20210101"), ("1.2", "20200201"), ("1.9", "")):
        store(ledger, uid, date)
    start(ledger, first_date="20200101", last_date="20201231")
    assert read_all(ledger) == ["1.1", "1.2", "1.3"]
    run = latest(ledger)
    assert (run.state, run.total, run.passed, run.taken, run.waiting, run.failed) == ("done", 3, 3, 3, 0, 0)
    assert run.is_over
    assert read_all(ledger) == []


def test_a_live_study_that_comes_in_a_long_run_is_claimed_next(ledger: Ledger) -> None:
    for number in range(30):
        store(ledger, f"1.{number:02}")
    start(ledger)
    for number in range(20):
        task = claim(ledger, 200.0 + number)
        assert task is not None
        assert task.urgency is Urgency.ARCHIVE
        answer(ledger, task, 200.5 + number)
        if number % 5 == 0:
            uid = f"2.{number}"
            change(ledger, tasks.enqueue, Arrival(uid), now=200.6 + number)
            live = claim(ledger, 200.7 + number)
            assert live is not None
            assert (live.study_instance_uid, live.urgency) == (uid, Urgency.ROUTINE)
            answer(ledger, live, 200.8 + number)


def test_what_waits_to_be_tried_again_goes_before_nobody_either(ledger: Ledger) -> None:
    store(ledger, "1.1")
    start(ledger)
    task = claim(ledger, 200)
    change(ledger, tasks.fail, task, Failure("internal_error", "why"), now=200, retry_at=201, counted=True)
    change(ledger, tasks.enqueue, Arrival("2.1"), now=5000)
    change(ledger, tasks.enqueue, Arrival("2.2"), now=5000, urgency=Urgency.BACKGROUND)
    order = [claim(ledger, 5010) for _ in range(3)]
    assert [task.study_instance_uid for task in order if task] == ["2.1", "2.2", "1.1"]


def test_a_run_queues_nothing_before_a_worker_has_nothing_else_to_do(ledger: Ledger) -> None:
    for number in range(10):
        store(ledger, f"1.{number}")
    start(ledger)
    assert ask(ledger, tasks.count_by_status)["queued"] == 0
    assert claim(ledger, 200) is not None
    states = ask(ledger, tasks.count_by_status)
    assert (states["queued"], states["running"], states["done"]) == (0, 1, 9)
    assert ask(ledger, tasks.oldest_waiting, 1e6) is None


def test_a_run_goes_on_where_it_was_stopped(ledger: Ledger) -> None:
    for number in range(6):
        store(ledger, f"1.{number}")
    begun = start(ledger)
    task = claim(ledger, 200)
    assert task is not None
    assert change(ledger, reprocessing.stop, now=201.0)
    assert not change(ledger, reprocessing.stop, now=201.0)
    answer(ledger, task, 202)
    assert claim(ledger, 203) is None
    assert latest(ledger).state == "stopped"
    again = start(ledger, now=300.0)
    assert (again.number, again.state, again.passed, again.taken) == (begun.number, "running", 1, 1)
    assert read_all(ledger, 301) == [f"1.{number}" for number in range(1, 6)]


def test_a_second_call_goes_on_and_another_run_has_to_wait(ledger: Ledger) -> None:
    for number in range(3):
        store(ledger, f"1.{number}")
    begun = start(ledger)
    assert claim(ledger, 200) is not None
    assert start(ledger, now=250.0).number == begun.number
    with pytest.raises(RunUnderWay, match="--stop"):
        start(ledger, model="lungs@2")
    change(ledger, reprocessing.stop, now=300.0)
    other = start(ledger, now=301.0, model="lungs@2")
    assert (other.number, other.passed) == (begun.number + 1, 0)


def test_with_a_model_only_what_was_read_without_it_is_read_again(ledger: Ledger) -> None:
    store(ledger, "1.1", model="lungs@1")
    store(ledger, "1.2", model="lungs@2")
    store(ledger, "1.3", model="hearts@2")
    store(ledger, "1.4", read=False)
    assert ask(ledger, reprocessing.would_read, Wanted(model="lungs@2")) == (2, 0)
    start(ledger, model="lungs@2")
    assert read_all(ledger) == ["1.1", "1.3"]
    start(ledger, now=300.0, model="lungs@2")
    assert read_all(ledger) == [], "what was done is not done again"
    assert latest(ledger).taken == 0


def test_what_was_answered_since_the_run_began_is_passed_over(ledger: Ledger) -> None:
    for number in range(3):
        store(ledger, f"1.{number}")
    start(ledger, now=100.0)
    change(ledger, tasks.request_again, "1.1", now=110.0)
    task = claim(ledger, 111)
    assert task is not None
    assert task.study_instance_uid == "1.1"
    answer(ledger, task, 112)
    assert read_all(ledger) == ["1.0", "1.2"]


def test_a_limit_ends_a_run_and_the_next_one_goes_beyond(ledger: Ledger) -> None:
    for number in range(5):
        store(ledger, f"1.{number}")
    assert ask(ledger, reprocessing.would_read, Wanted(most=2)) == (2, 0)
    start(ledger, model="lungs@2", most=2)
    assert read_all(ledger) == ["1.0", "1.1"]
    assert latest(ledger).state == "done"
    start(ledger, now=300.0, model="lungs@2", most=2)
    assert read_all(ledger) == ["1.2", "1.3"]


def test_a_trial_changes_nothing_and_tells_what_has_no_date(ledger: Ledger) -> None:
    store(ledger, "1.1")
    store(ledger, "1.2", "")
    store(ledger, "1.3", "20300101")
    assert ask(ledger, reprocessing.would_read, Wanted(last_date="20251231")) == (1, 1)
    assert ask(ledger, reprocessing.latest) is None
    assert claim(ledger, 200) is None


def test_a_worker_that_dies_in_a_run_loses_no_study(ledger: Ledger) -> None:
    for number in range(3):
        store(ledger, f"1.{number}")
    start(ledger)
    assert claim(ledger, 200) is not None
    assert latest(ledger).waiting == 1
    assert sorted(read_all(ledger, 200 + LEASE + 1)) == ["1.0", "1.1", "1.2"]


def test_failures_of_a_run_are_told_and_end_in_quarantine(ledger: Ledger) -> None:
    store(ledger, "1.1")
    start(ledger)
    task = claim(ledger, 200)
    change(ledger, tasks.fail, task, Failure("internal_error", "why"), now=201, retry_at=None, counted=True)
    assert claim(ledger, 202) is None
    run = latest(ledger)
    assert (run.state, run.failed, run.waiting) == ("done", 1, 0)


def test_a_run_wants_as_many_readers_as_there_may_be(ledger: Ledger) -> None:
    store(ledger, "1.1")
    assert ask(ledger, count_due, now=100.0, most=4) == 0
    change(ledger, tasks.enqueue, Arrival("2.1"), now=100.0)
    change(ledger, tasks.enqueue, Arrival("2.2"), now=100.0, urgency=Urgency.BACKGROUND)
    assert ask(ledger, count_due, now=101.0, most=4) == 2
    assert ask(ledger, count_due, now=101.0, most=1) == 1
    start(ledger)
    assert ask(ledger, count_due, now=101.0, most=4) == 4


def test_an_earlier_hilum_finds_what_a_run_wanted_as_background_work(ledger: Ledger) -> None:
    store(ledger, "1.1")
    start(ledger)
    task = claim(ledger, 200)
    change(ledger, tasks.release, task, now=201.0)
    migrate(ledger, SCHEMA_VERSION - 1)
    assert ask(ledger, tasks.of_study, "1.1")[0]["urgency"] == 2
    migrate(ledger, SCHEMA_VERSION)
    assert latest(ledger).taken == 1, "the run is still known"
    found = claim(ledger, 300)
    assert found is not None
    assert found.study_instance_uid == "1.1"


def test_workers_that_claim_at_once_read_each_study_of_a_run_once(postgres: PostgresServer) -> None:
    ledger = open_ledger(postgres.new_database())
    migrate(ledger)
    for number in range(40):
        store(ledger, f"1.{number:02}")
    start(ledger)
    found: list[str] = []

    def work() -> None:
        idle = 0
        while idle < 20:
            task = claim(ledger, 200)
            if task is None:
                idle += 1
                continue
            found.append(task.study_instance_uid)
            answer(ledger, task, 200)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [f"1.{number:02}" for number in range(40)]
    assert latest(ledger).taken == 40
    ledger.close()

"""The tasks of the ledger: every change of state, on a real SQLite file and a real PostgreSQL."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from postgres_server import PostgresServer
from sqlalchemy import event, text

from orthanc_plugin.ledger import marks, tasks
from orthanc_plugin.ledger.claiming import BACKGROUND_TURN_SECONDS, CLOCK_SLACK_SECONDS
from orthanc_plugin.ledger.database import Ledger, LedgerUnavailable, migrate, open_ledger
from orthanc_plugin.ledger.filters import Filter
from orthanc_plugin.ledger.mark_history import undo
from orthanc_plugin.ledger.pages import SORTS, page
from orthanc_plugin.ledger.tasks import (
    TRANSITIONS,
    Arrival,
    ClaimLost,
    Failure,
    InferenceTask,
    Outcome,
    TaskStatus,
    Urgency,
)

DONE = Outcome(TaskStatus.DONE, "critical", 0, {"images": [{"sop_instance_uid": "1.2"}]}, message="why", content="c1")
STUDY = Arrival("1.2.3", patient_name="Phantom^One")
FAILURE = Failure("internal_error", "why", "study.py:10 process_study")
LEASE = 30.0


def change(ledger: Ledger, function: Callable[..., Any], *values: Any, **named: Any) -> Any:
    """Call a function of `tasks` in a transaction of its own."""
    with ledger.write() as db:
        return function(db, *values, **named)


def ask(ledger: Ledger, function: Callable[..., Any], *values: Any, **named: Any) -> Any:
    with ledger.read() as db:
        return function(db, *values, **named)


def enqueue(ledger: Ledger, now: float, uid: str = "1.2.3", urgency: Urgency = Urgency.ROUTINE) -> None:
    change(ledger, tasks.enqueue, Arrival(uid, patient_name="Phantom^One"), now=now, urgency=urgency)


def claim_any(ledger: Ledger, now: float, abandoned_limit: int = 3, *, archive: bool = True) -> InferenceTask | None:
    limits: Any = {"lease_seconds": LEASE, "abandoned_limit": abandoned_limit, "archive": archive}
    task: InferenceTask | None = change(ledger, tasks.claim, "w", now=now, **limits)
    return task


def claim(ledger: Ledger, now: float, abandoned_limit: int = 3) -> InferenceTask:
    task = claim_any(ledger, now, abandoned_limit)
    assert task is not None
    return task


def answer(ledger: Ledger, task: InferenceTask, now: float, conclude_at: float | None = None) -> None:
    change(ledger, tasks.answer, task, DONE, now=now, conclude_at=conclude_at)


def fail(ledger: Ledger, task: InferenceTask, now: float, retry_at: float | None, counted: bool = True) -> None:
    change(ledger, tasks.fail, task, FAILURE, now=now, retry_at=retry_at, counted=counted)


def row_of(ledger: Ledger, uid: str = "1.2.3") -> dict[str, Any]:
    (row,) = ask(ledger, tasks.of_study, uid)
    return dict(row)


def status_of(ledger: Ledger, uid: str = "1.2.3") -> str:
    return str(row_of(ledger, uid)["status"])


# --- one study


def test_a_new_study_is_due_at_once_and_claimed_once(ledger: Ledger) -> None:
    enqueue(ledger, 100)
    assert claim(ledger, 100).study_instance_uid == "1.2.3"
    assert claim_any(ledger, 101) is None


def test_a_completed_study_is_not_done_again(ledger: Ledger) -> None:
    enqueue(ledger, 100)
    answer(ledger, claim(ledger, 100), 101)
    row = row_of(ledger)
    assert (row["status"], row["content"], row["answered_generation"]) == ("done", "c1", 1)
    assert claim_any(ledger, 100_000) is None


def test_an_image_that_comes_while_the_study_is_read_queues_it_again_and_keeps_the_answer(ledger: Ledger) -> None:
    enqueue(ledger, 100)
    task = claim(ledger, 100)
    enqueue(ledger, 100.2)
    answer(ledger, task, 101, conclude_at=106)
    row = row_of(ledger)
    assert (row["status"], row["priority"], row["result"]) == ("queued", "critical", DONE.result)
    again = claim(ledger, 101)
    assert (again.result, again.conclude, again.generation) == (DONE.result, False, 2)


def test_what_the_latest_image_says_of_the_patient_counts(ledger: Ledger) -> None:
    enqueue(ledger, now=1)
    corrected = Arrival("1.2.3", patient_name="Phantom^Two", patient_id="2")
    change(ledger, tasks.enqueue, corrected, now=2)
    change(ledger, tasks.enqueue, Arrival("1.2.3", patient_id="2"), now=3)
    row = row_of(ledger)
    assert (row["patient_name"], row["patient_id"]) == ("Phantom^Two", "2")


def test_a_later_image_of_an_answered_study_is_due_at_once(ledger: Ledger) -> None:
    enqueue(ledger, 100)
    answer(ledger, claim(ledger, 100), 101)
    enqueue(ledger, 200)
    assert claim(ledger, 200).generation == 2


def test_an_answered_study_is_concluded_when_its_time_came(ledger: Ledger) -> None:
    enqueue(ledger, 100)
    answer(ledger, claim(ledger, 100), 101, conclude_at=106)
    assert status_of(ledger) == "answered"
    assert claim_any(ledger, 105.9) is None
    task = claim(ledger, 106)
    assert task.conclude
    answer(ledger, task, 107)
    assert status_of(ledger) == "done"


def test_an_image_before_the_conclusion_is_read_first(ledger: Ledger) -> None:
    enqueue(ledger, 100)
    answer(ledger, claim(ledger, 100), 101, conclude_at=106)
    enqueue(ledger, 103)
    assert not claim(ledger, 103).conclude


def test_a_failed_conclusion_is_only_concluded_again(ledger: Ledger) -> None:
    enqueue(ledger, 100)
    answer(ledger, claim(ledger, 100), 101, conclude_at=106)
    fail(ledger, claim(ledger, 106), 107, retry_at=108)
    assert claim(ledger, 108).conclude


def test_a_silent_worker_loses_its_claim_and_its_late_answer(ledger: Ledger) -> None:
    enqueue(ledger, 100)
    slow = claim(ledger, 100)
    fresh = claim(ledger, 131)
    assert fresh.attempts == 0
    for late in (
        lambda: answer(ledger, slow, 132),
        lambda: fail(ledger, slow, 132, retry_at=None),
        lambda: change(ledger, tasks.heartbeat, slow, now=132, lease_seconds=LEASE),
        lambda: change(ledger, tasks.release, slow, now=132),
    ):
        with pytest.raises(ClaimLost):
            late()
    answer(ledger, fresh, 133)
    assert status_of(ledger) == "done"


def test_a_heartbeat_keeps_the_claim(ledger: Ledger) -> None:
    enqueue(ledger, 100)
    task = claim(ledger, 100)
    change(ledger, tasks.heartbeat, task, now=125, lease_seconds=LEASE)
    assert claim_any(ledger, 150) is None


def test_a_failed_attempt_waits_and_the_last_one_is_quarantined(ledger: Ledger) -> None:
    enqueue(ledger, 100)
    fail(ledger, claim(ledger, 100), 101, retry_at=110)
    assert claim_any(ledger, 109) is None
    second = claim(ledger, 110)
    assert (second.attempts, second.failures, second.first_failed_at) == (1, 1, 101)
    fail(ledger, second, 111, retry_at=None)
    row = row_of(ledger)
    assert (row["status"], row["reason"], row["message"], row["trace"]) == (
        "quarantined",
        FAILURE.reason,
        FAILURE.message,
        FAILURE.trace,
    )
    assert claim_any(ledger, 100_000) is None


def test_what_the_study_cannot_help_is_no_attempt_but_makes_the_pause_longer(ledger: Ledger) -> None:
    enqueue(ledger, 100)
    for n in range(3):
        fail(ledger, claim(ledger, 100 + n), 100 + n, retry_at=101 + n, counted=False)
    task = claim(ledger, 200)
    assert (task.attempts, task.failures, task.first_failed_at) == (0, 3, 100)


def test_what_waits_for_the_end_of_an_outage_is_due_when_it_is_over_and_nothing_else(ledger: Ledger) -> None:
    for uid, reason in (("1.1", "storage_full"), ("1.2", "internal_error"), ("1.3", "orthanc_unavailable")):
        enqueue(ledger, 100, uid)
        change(ledger, tasks.fail, claim(ledger, 100), Failure(reason, "why"), now=100, retry_at=140, counted=False)
    assert claim_any(ledger, 120) is None
    assert change(ledger, tasks.end_pauses, ("storage_full", "orthanc_unavailable"), now=120) == 2
    assert {claim(ledger, 120).study_instance_uid for _ in range(2)} == {"1.1", "1.3"}
    assert claim_any(ledger, 139) is None
    assert claim(ledger, 140).study_instance_uid == "1.2"


def test_an_answer_ends_a_row_of_failures(ledger: Ledger) -> None:
    enqueue(ledger, 100)
    fail(ledger, claim(ledger, 100), 101, retry_at=102)
    answer(ledger, claim(ledger, 102), 103, conclude_at=104)
    task = claim(ledger, 104)
    assert (task.attempts, task.failures, task.first_failed_at) == (0, 0, None)
    assert row_of(ledger)["trace"] is None


def test_an_image_that_comes_during_the_last_attempt_is_still_looked_at(ledger: Ledger) -> None:
    enqueue(ledger, 100)
    task = claim(ledger, 100)
    enqueue(ledger, 100.2)
    fail(ledger, task, 101, retry_at=None)
    again = claim(ledger, 101)
    assert (again.generation, again.attempts, again.failures) == (2, 0, 0)


def test_a_study_under_which_every_worker_dies_is_quarantined(ledger: Ledger) -> None:
    enqueue(ledger, 0)
    for now in (0, 100, 200):
        claim(ledger, now)
    assert claim_any(ledger, 300) is None
    row = row_of(ledger)
    assert (row["status"], row["reason"], row["attempts"]) == ("quarantined", "worker_died", 0)


def test_a_study_under_which_a_worker_died_keeps_its_place_once(ledger: Ledger) -> None:
    enqueue(ledger, 0, "1.1")
    claim(ledger, 0)
    enqueue(ledger, 10, "1.2")
    assert claim(ledger, 100).study_instance_uid == "1.1"
    assert claim(ledger, 200).study_instance_uid == "1.2"
    assert claim(ledger, 200).study_instance_uid == "1.1"


def test_a_new_image_gives_a_quarantined_study_another_chance(ledger: Ledger) -> None:
    enqueue(ledger, 0)
    fail(ledger, claim(ledger, 0), 1, retry_at=None)
    enqueue(ledger, 10)
    assert claim(ledger, 10).attempts == 0


def test_a_person_has_one_or_all_quarantined_studies_tried_again(ledger: Ledger) -> None:
    for uid in ("1.1", "1.2", "1.3"):
        enqueue(ledger, 0, uid)
        fail(ledger, claim(ledger, 0), 1, retry_at=None)
    enqueue(ledger, 1, "1.4")
    assert change(ledger, tasks.retry, "1.2", now=2) == 1
    assert change(ledger, tasks.retry, "1.2", now=2) == 0
    assert change(ledger, tasks.retry, "1.4", now=2) == 0
    assert change(ledger, tasks.retry, None, now=2) == 2
    assert ask(ledger, tasks.count_by_status)["queued"] == 4
    assert claim(ledger, 3).failures == 0


def test_a_released_study_is_the_next_one_again_and_nothing_is_counted(ledger: Ledger) -> None:
    enqueue(ledger, 100, "1.1")
    enqueue(ledger, 101, "1.2")
    change(ledger, tasks.release, claim(ledger, 102), now=103)
    task = claim(ledger, 104)
    assert (task.study_instance_uid, task.attempts, task.failures) == ("1.1", 0, 0)


def test_a_study_is_read_once_more_on_request(ledger: Ledger) -> None:
    assert not change(ledger, tasks.request_again, "1.2.3", now=1)
    enqueue(ledger, 1)
    fail(ledger, claim(ledger, 1), 2, retry_at=3)
    answer(ledger, claim(ledger, 3), 4)
    assert change(ledger, tasks.request_again, "1.2.3", now=5)
    task = claim(ledger, 5)
    assert (task.generation, task.conclude) == (2, False)


def test_a_lower_request_does_not_hold_up_a_study_that_waits(ledger: Ledger) -> None:
    enqueue(ledger, 1)
    enqueue(ledger, 2, "1.9")
    change(ledger, tasks.request_again, "1.2.3", now=3, urgency=Urgency.BACKGROUND)
    task = claim(ledger, 4)
    assert (task.study_instance_uid, task.urgency) == ("1.2.3", Urgency.ROUTINE)


def test_a_stored_image_makes_a_background_task_live(ledger: Ledger) -> None:
    enqueue(ledger, 1, urgency=Urgency.BACKGROUND)
    enqueue(ledger, 2)
    assert claim(ledger, 2).urgency is Urgency.ROUTINE


def test_a_removed_study_is_forgotten_with_its_patient_and_comes_back_with_an_image(ledger: Ledger) -> None:
    enqueue(ledger, 1)
    answer(ledger, claim(ledger, 1), 2)
    assert change(ledger, tasks.mark_removed, "1.2.3", seen=1, now=3)
    assert not change(ledger, tasks.mark_removed, "1.2.3", seen=1, now=3)
    row = row_of(ledger)
    assert (row["status"], row["patient_name"], row["result"]) == ("removed", "", {})
    assert ask(ledger, page, now=3).rows == []
    assert claim_any(ledger, 10_000) is None
    enqueue(ledger, 10_001)
    assert row_of(ledger)["patient_name"] == "Phantom^One"
    assert claim(ledger, 10_001).generation == 2


def test_a_study_is_not_removed_when_an_image_came_since_it_was_looked_for_or_while_it_is_read(ledger: Ledger) -> None:
    enqueue(ledger, 1)
    seen = ask(ledger, tasks.standing, ["1.2.3"])["1.2.3"].generation
    enqueue(ledger, 2)
    assert not change(ledger, tasks.mark_removed, "1.2.3", seen=seen, now=3)
    claim(ledger, 3)
    assert not change(ledger, tasks.mark_removed, "1.2.3", seen=seen + 1, now=3)
    assert status_of(ledger) == "running"


def test_a_row_is_rebuilt_from_results_only_where_there_is_none(ledger: Ledger) -> None:
    assert change(ledger, tasks.adopt, STUDY, DONE, now=100, received_at=50)
    assert not change(ledger, tasks.adopt, STUDY, DONE, now=101)
    row = row_of(ledger)
    assert (row["status"], row["result"], row["content"], row["received_at"]) == ("done", DONE.result, "c1", 50)
    assert claim_any(ledger, 10_000) is None
    enqueue(ledger, 200)
    assert claim(ledger, 200).generation == 2


# --- which one next


def test_the_study_that_waits_longest_is_read_first(ledger: Ledger) -> None:
    for uid, now in (("1.1", 3.0), ("1.2", 1.0), ("1.3", 2.0)):
        enqueue(ledger, now, uid)
    assert [claim(ledger, 10).study_instance_uid for _ in range(3)] == ["1.2", "1.3", "1.1"]


def test_an_urgent_study_goes_before_those_that_wait_and_background_comes_last(ledger: Ledger) -> None:
    enqueue(ledger, 1, "1.1", Urgency.BACKGROUND)
    enqueue(ledger, 2, "1.2")
    enqueue(ledger, 600, "1.3", Urgency.STAT)
    assert [claim(ledger, 601).study_instance_uid for _ in range(3)] == ["1.3", "1.2", "1.1"]


def test_an_endless_stream_of_urgent_studies_does_not_starve_a_routine_one(ledger: Ledger) -> None:
    enqueue(ledger, 0, "1.1")
    for second in range(60, 2 * 3600, 60):  # one comes and one is read, each minute
        enqueue(ledger, second, f"2.{second}", Urgency.STAT)
        task = claim(ledger, second)
        if task.study_instance_uid == "1.1":
            assert second in (3600, 3660)  # an hour, and its turn
            return
        answer(ledger, task, second)
    raise AssertionError("never read")


def test_background_work_neither_delays_live_work_nor_starves(ledger: Ledger) -> None:
    waiting = [f"1.{n}" for n in range(4)]
    for uid in waiting:
        enqueue(ledger, 0, uid, Urgency.BACKGROUND)
    taken: dict[str, int] = {}
    step = 10  # seconds: one live study comes and one task is done; there is never a gap
    for now in range(0, 900 + 6 * 60, step):
        enqueue(ledger, now, f"2.{now}")
        task = claim(ledger, now)
        taken[task.study_instance_uid] = now
        answer(ledger, task, now)
    background = [taken[uid] for uid in waiting]
    assert background[0] == 900
    assert [b - a for a, b in pairwise(background)] == [BACKGROUND_TURN_SECONDS] * 3
    delays = [when - int(uid.split(".")[1]) for uid, when in taken.items() if uid.startswith("2.")]
    assert max(delays) <= len(waiting) * step


def test_what_a_run_through_the_archive_wants_comes_last_however_long_it_has_waited(ledger: Ledger) -> None:
    enqueue(ledger, 0, "1.1", Urgency.ARCHIVE)
    for second in range(10, 3600, 10):
        enqueue(ledger, second, f"2.{second}", Urgency.BACKGROUND if second % 20 else Urgency.ROUTINE)
        task = claim(ledger, second)
        assert task.study_instance_uid == f"2.{second}"
        answer(ledger, task, second)
    assert claim_any(ledger, 3600, archive=False) is None
    assert claim(ledger, 3600).urgency is Urgency.ARCHIVE


def test_an_image_that_comes_makes_a_study_of_the_archive_a_live_one(ledger: Ledger) -> None:
    enqueue(ledger, 0, "1.1", Urgency.ARCHIVE)
    enqueue(ledger, 5, "1.1")
    assert claim(ledger, 6).urgency is Urgency.ROUTINE


def test_background_work_fills_the_gaps_without_limit(ledger: Ledger) -> None:
    for n in range(5):
        enqueue(ledger, 0, f"1.{n}", Urgency.BACKGROUND)
    for _ in range(5):
        answer(ledger, claim(ledger, 1), 1)


def test_urgency_does_not_shorten_a_pause(ledger: Ledger) -> None:
    enqueue(ledger, 1, urgency=Urgency.STAT)
    fail(ledger, claim(ledger, 1), 2, retry_at=30)
    assert claim_any(ledger, 29) is None
    assert claim(ledger, 30).urgency is Urgency.STAT


# --- the clock


@pytest.mark.parametrize("hours", [1, 5, 24 * 365])
def test_a_clock_that_jumps_back_holds_nothing_up(ledger: Ledger, hours: int) -> None:
    now = 1e9
    enqueue(ledger, now, "1.1")  # waits
    enqueue(ledger, now - 3, "1.2")
    fail(ledger, claim(ledger, now), now, retry_at=now + 60)  # waits to be tried again
    enqueue(ledger, now - 2, "1.3")
    answer(ledger, claim(ledger, now), now, conclude_at=now + 5)  # waits to be concluded
    enqueue(ledger, now - 1, "1.4")
    claim(ledger, now)  # its worker dies
    enqueue(ledger, now, "1.5", Urgency.BACKGROUND)
    earlier = now - 3600 * hours
    claimed = {claim(ledger, earlier).study_instance_uid for _ in range(5)}
    assert claimed == {"1.1", "1.2", "1.3", "1.4", "1.5"}
    assert claim_any(ledger, earlier) is None


def test_a_worker_whose_clock_went_back_keeps_its_claim_by_its_next_heartbeat(ledger: Ledger) -> None:
    enqueue(ledger, 1e6)
    task = claim(ledger, 1e6)
    change(ledger, tasks.heartbeat, task, now=1e6 - 7200, lease_seconds=LEASE)
    assert claim_any(ledger, 1e6 - 7190) is None
    answer(ledger, task, 1e6 - 7180)


def test_a_machine_whose_clock_is_a_little_behind_takes_no_task_away(ledger: Ledger) -> None:
    enqueue(ledger, 100)
    claim(ledger, 120)
    assert claim_any(ledger, 120 - LEASE + 1) is None


# --- a random walk against a model


class Model:
    """What a task must look like, kept by the test."""

    def __init__(self) -> None:
        self.status = TaskStatus.QUEUED
        self.generation = 0
        self.claimed = 0
        self.answered = 0
        self.urgency = Urgency.ROUTINE
        self.not_before = 0.0
        self.written_at = 0.0
        self.lease_until = 0.0
        self.abandoned = 0
        self.holder: InferenceTask | None = None

    def is_due(self, now: float) -> bool:
        return self.waits and self.not_before <= now

    @property
    def waits(self) -> bool:
        return self.status in (TaskStatus.QUEUED, TaskStatus.ANSWERED)

    def lease_is_over(self, now: float) -> bool:
        over = self.lease_until < now or self.lease_until > now + 2 * LEASE
        return self.status is TaskStatus.RUNNING and over

    def ask_again(self, now: float, urgency: Urgency) -> None:
        waits = self.status in (TaskStatus.QUEUED, TaskStatus.RUNNING, TaskStatus.ANSWERED)
        self.urgency = min(self.urgency, urgency) if waits else urgency
        self.not_before = min(self.not_before, now) if self.status is TaskStatus.QUEUED else now
        self.status = TaskStatus.RUNNING if self.status is TaskStatus.RUNNING else TaskStatus.QUEUED
        self.generation, self.abandoned, self.written_at = self.generation + 1, 0, now


ABANDONED_LIMIT = 3
UIDS = [f"1.2.{n}" for n in range(5)]
URGENCIES = st.sampled_from(list(Urgency))


class Walk(RuleBasedStateMachine):
    """Several workers and a plugin do whatever they may, in any order, while the clock goes and jumps."""

    ledger: Ledger

    def __init__(self) -> None:
        super().__init__()
        with self.ledger.write() as db:
            for table in ("tasks", "workers", "facts"):
                db.exec_driver_sql(f"DELETE FROM {table}")  # noqa: S608
        self.now = 1_000_000.0
        self.models: dict[str, Model] = {}
        self.stale: list[InferenceTask] = []
        self.before: dict[str, str] = {}

    @rule(seconds=st.sampled_from([0.0, 0.5, 5.0, 31.0, 70.0, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.sampled_from([1.0, 20.0, 3600.0, 36_000.0]))
    def the_clock_jumps_back(self, seconds: float) -> None:
        self.now -= seconds

    @rule(uid=st.sampled_from(UIDS), urgency=URGENCIES)
    def an_image_is_stored(self, uid: str, urgency: Urgency) -> None:
        enqueue(self.ledger, self.now, uid, urgency)
        model = self.models.setdefault(uid, Model())
        if model.generation == 0:
            model.not_before, model.urgency = self.now, urgency
        model.ask_again(self.now, urgency)

    @rule(uid=st.sampled_from(UIDS), urgency=URGENCIES)
    def a_study_is_asked_for_again(self, uid: str, urgency: Urgency) -> None:
        known = change(self.ledger, tasks.request_again, uid, now=self.now, urgency=urgency)
        assert known == (uid in self.models)
        if known:
            self.models[uid].ask_again(self.now, urgency)

    @rule()
    def a_worker_claims(self) -> None:
        for model in self.models.values():
            if model.lease_is_over(self.now):
                assert model.holder is not None
                self.stale.append(model.holder)
                model.abandoned += 1
                died = model.abandoned >= ABANDONED_LIMIT
                model.status = TaskStatus.QUARANTINED if died else TaskStatus.QUEUED
                first = model.abandoned == 1
                model.not_before = min(model.not_before, self.now) if first else self.now
                model.holder, model.written_at = None, self.now
            if model.waits and model.written_at > self.now + CLOCK_SLACK_SECONDS:
                model.not_before = model.written_at = self.now
        due = {uid: model for uid, model in self.models.items() if model.is_due(self.now)}
        task = claim_any(self.ledger, self.now, ABANDONED_LIMIT)
        assert (task is None) == (not due), "a task is claimed exactly when one is due"
        if task is None:
            return
        model = due[task.study_instance_uid]
        live = {uid: m for uid, m in due.items() if m.urgency < Urgency.BACKGROUND}
        if model.urgency is Urgency.ARCHIVE:
            assert all(m.urgency is Urgency.ARCHIVE for m in due.values()), "a run went before other work"
        elif model.urgency is not Urgency.BACKGROUND:
            places = {uid: m.not_before - 3600 * (m.urgency is Urgency.STAT) for uid, m in live.items()}
            assert places[task.study_instance_uid] == min(places.values())
        elif live:
            assert model.not_before + 900 <= self.now, "background went before live work without having waited"
        assert model.holder is None
        assert task.conclude == (model.answered == model.generation)
        model.status, model.holder, model.claimed = TaskStatus.RUNNING, task, model.generation
        model.lease_until, model.written_at = self.now + LEASE, self.now

    def held(self) -> list[Model]:
        return [model for model in self.models.values() if model.holder is not None]

    @precondition(lambda self: self.held())
    @rule(data=st.data())
    def a_worker_shows_that_it_lives(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(self.held()))
        change(self.ledger, tasks.heartbeat, model.holder, now=self.now, lease_seconds=LEASE)
        model.lease_until, model.written_at = self.now + LEASE, self.now

    @precondition(lambda self: self.held())
    @rule(data=st.data(), pause=st.sampled_from([None, 0.0, 5.0]), refused=st.booleans())
    def a_worker_answers(self, data: st.DataObject, pause: float | None, refused: bool) -> None:
        model = data.draw(st.sampled_from(self.held()))
        status = TaskStatus.NOT_PROCESSED if refused else TaskStatus.DONE
        outcome = Outcome(status, "none", 3, {"images": []})
        at = None if pause is None else self.now + pause
        change(self.ledger, tasks.answer, model.holder, outcome, now=self.now, conclude_at=at)
        more = model.generation > model.claimed
        model.status = TaskStatus.QUEUED if more else status if at is None else TaskStatus.ANSWERED
        model.not_before = self.now if more or at is None else at
        model.answered, model.abandoned = model.claimed, 0
        self.let_go(model)

    @precondition(lambda self: self.held())
    @rule(data=st.data(), pause=st.sampled_from([None, 2.0, 60.0]), counted=st.booleans())
    def a_worker_fails(self, data: st.DataObject, pause: float | None, counted: bool) -> None:
        model = data.draw(st.sampled_from(self.held()))
        at = None if pause is None else self.now + pause
        assert model.holder is not None
        fail(self.ledger, model.holder, self.now, at, counted)
        final = at is None and model.generation == model.claimed
        model.status = TaskStatus.QUARANTINED if final else TaskStatus.QUEUED
        model.not_before = self.now if at is None else at
        self.let_go(model)

    @precondition(lambda self: self.held())
    @rule(data=st.data())
    def a_worker_stops_on_purpose(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(self.held()))
        change(self.ledger, tasks.release, model.holder, now=self.now)
        model.status = TaskStatus.QUEUED
        self.let_go(model)

    def let_go(self, model: Model) -> None:
        assert model.holder is not None
        self.stale.append(model.holder)
        model.holder, model.written_at = None, self.now

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), what=st.integers(0, 3))
    def a_worker_that_was_thought_dead_writes(self, data: st.DataObject, what: int) -> None:
        task = data.draw(st.sampled_from(self.stale))
        with pytest.raises(ClaimLost):
            (
                lambda: change(self.ledger, tasks.heartbeat, task, now=self.now, lease_seconds=LEASE),
                lambda: answer(self.ledger, task, self.now),
                lambda: fail(self.ledger, task, self.now, None),
                lambda: change(self.ledger, tasks.release, task, now=self.now),
            )[what]()

    @rule(uid=st.none() | st.sampled_from(UIDS))
    def a_person_retries(self, uid: str | None) -> None:
        chosen = [m for u, m in self.models.items() if m.status is TaskStatus.QUARANTINED and (uid is None or u == uid)]
        assert change(self.ledger, tasks.retry, uid, now=self.now) == len(chosen)
        for model in chosen:
            model.status, model.not_before, model.written_at = TaskStatus.QUEUED, self.now, self.now
            model.abandoned = 0

    @precondition(lambda self: self.models)
    @rule(data=st.data(), behind=st.sampled_from([0, 0, 1]))
    def a_study_is_no_longer_in_orthanc(self, data: st.DataObject, behind: int) -> None:
        uid = data.draw(st.sampled_from(sorted(self.models)))
        model = self.models[uid]
        fits = behind == 0 and model.status not in (TaskStatus.RUNNING, TaskStatus.REMOVED)
        seen = model.generation - behind
        assert change(self.ledger, tasks.mark_removed, uid, seen=seen, now=self.now) == fits
        if fits:
            model.status, model.written_at = TaskStatus.REMOVED, self.now

    @invariant()
    def the_ledger_is_as_it_must_be(self) -> None:
        with self.ledger.read() as db:
            rows = {r.study_instance_uid: r for r in db.execute(text("SELECT * FROM tasks"))}
        assert set(rows) == set(self.models), "no task is lost, none appears"
        for uid, row in rows.items():
            model = self.models[uid]
            assert row.status == model.status
            assert row.generation == model.generation
            assert row.urgency == model.urgency
            if model.waits:
                assert row.not_before == model.not_before
            assert (row.due_order is None) == (row.status not in ("queued", "answered"))
            assert (row.lease_until is None) == (row.status != "running")
            if model.holder is not None:
                assert row.fence == model.holder.fence
            was = self.before.get(uid)
            # a claim that takes a task back and gives it out, or quarantines it, is two steps in one transaction
            assert was in (None, row.status) or TaskStatus(row.status) in TRANSITIONS[TaskStatus(was)]
        self.before = {uid: row.status for uid, row in rows.items()}

    def teardown(self) -> None:
        """Whatever happened: once workers work, every task comes to an end."""
        self.now += 10 * LEASE
        ends = 0
        while (task := claim_any(self.ledger, self.now, abandoned_limit=1000)) is not None:
            answer(self.ledger, task, self.now)
            ends += 1
            assert ends <= len(self.models)
        self.now += 100_000
        while (task := claim_any(self.ledger, self.now, abandoned_limit=1000)) is not None:
            answer(self.ledger, task, self.now)
        counts = ask(self.ledger, tasks.count_by_status)
        assert counts["queued"] == counts["running"] == counts["answered"] == 0
        assert sum(counts.values()) == len(self.models)


def test_whatever_happens_in_whatever_order_no_task_is_lost_and_none_has_two_holders(ledger: Ledger) -> None:
    walk = type("WalkOnThisLedger", (Walk,), {"ledger": ledger})
    examples = int(os.environ.get("HILUM_WALKS", "25"))
    run_state_machine_as_test(
        walk,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize="HILUM_WALKS" not in os.environ,
            suppress_health_check=list(HealthCheck),
        ),
    )


# --- several at once


def test_threads_that_claim_at_once_never_get_the_same_claim(ledger: Ledger) -> None:
    studies = 60
    for n in range(studies):
        enqueue(ledger, n, f"1.{n}")
    claimed: list[InferenceTask] = []

    def work(_: int) -> None:
        while (task := claim_any(ledger, 1000)) is not None:
            claimed.append(task)
            answer(ledger, task, 1000)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert sorted(t.study_instance_uid for t in claimed) == sorted(f"1.{n}" for n in range(studies))
    assert {t.fence for t in claimed} == {1}


def test_a_claim_passes_over_a_row_that_another_transaction_has_in_hand(postgres: PostgresServer) -> None:
    ledger = open_ledger(postgres.new_database())
    migrate(ledger)
    enqueue(ledger, 1, "1.1")
    enqueue(ledger, 2, "1.2")
    with ledger.write() as db:
        first = tasks.claim(db, "w", now=3, lease_seconds=LEASE, abandoned_limit=3)
        second = claim_any(ledger, 3)
    assert first is not None
    assert second is not None
    assert (first.study_instance_uid, second.study_instance_uid) == ("1.1", "1.2")
    ledger.close()


def contend(where: str, seed: int) -> None:
    """Claim and answer until it is killed; each answer is added to those before, so that a doubled one shows."""
    ledger, chance = open_ledger(where), random.Random(seed)  # noqa: S311
    while True:
        try:
            task: InferenceTask | None = change(
                ledger, tasks.claim, "w", now=time.time(), lease_seconds=0.4, abandoned_limit=10_000
            )
            if task is None:
                time.sleep(0.01)
                continue
            time.sleep(chance.uniform(0, 0.02))
            answers = [*task.result.get("answers", []), [task.generation, task.fence]]
            outcome = Outcome(TaskStatus.DONE, "none", 3, {"answers": answers})
            at = None if task.conclude else time.time() + 0.05
            change(ledger, tasks.answer, task, outcome, now=time.time(), conclude_at=at)
        except (ClaimLost, LedgerUnavailable):
            continue


def test_processes_that_are_killed_at_random_lose_nothing_and_double_nothing(ledger: Ledger) -> None:
    where = ledger.url.render_as_string(hide_password=False)
    context, chance = multiprocessing.get_context("spawn"), random.Random(5)  # noqa: S311
    studies, stored = [f"1.{n}" for n in range(25)], dict.fromkeys([f"1.{n}" for n in range(25)], 0)

    def start() -> multiprocessing.process.BaseProcess:
        process = context.Process(target=contend, args=(where, chance.randrange(10**6)), daemon=True)
        process.start()
        return process

    workers = [start() for _ in range(3)]
    try:
        for _ in range(8):
            for uid in chance.choices(studies, k=10):
                enqueue(ledger, time.time(), uid)
                stored[uid] += 1
            time.sleep(chance.uniform(0.1, 0.4))
            victim = workers.pop(0)
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
            victim.join()
            workers.append(start())
        end = time.monotonic() + 30
        known = sum(count > 0 for count in stored.values())
        while ask(ledger, tasks.count_by_status)["done"] < known and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    assert ask(ledger, tasks.count_by_status)["done"] == known
    for uid, count in stored.items():
        if not count:
            continue
        row = row_of(ledger, uid)
        answers = row["result"]["answers"]
        assert row["generation"] == row["answered_generation"] == count
        fences = [fence for _, fence in answers]
        assert fences == sorted(set(fences)), "two answers were written under one claim"
        final = [generation for generation, _ in answers].count(count)
        assert final == 2, "the last image set is answered once and concluded once"


# --- with very many studies


SWEPT = 1e9  # when the sweep queued its studies


def fill(ledger: Ledger, studies: int) -> None:
    """A ledger that has seen years: two thirds are done, the sweep's third waits, a few are being read or concluded."""
    with ledger.write() as db:
        db.execute(
            text(
                """
                WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :studies)
                INSERT INTO tasks (study_instance_uid, status, generation, answered_generation, urgency, not_before,
                                   due_order, lease_until, received_at, last_instance_at, search_words)
                SELECT '1.2.' || i,
                       CASE WHEN i <= 3 THEN 'running' WHEN i <= 20 THEN 'answered' WHEN i % 3 = 0 THEN 'queued'
                            WHEN i % 1000 = 1 THEN 'quarantined' ELSE 'done' END,
                       1, 0, CASE WHEN i > 20 AND i % 3 = 0 THEN 2 ELSE 1 END, :swept,
                       CASE WHEN i <= 3 THEN NULL WHEN i <= 20 THEN :swept WHEN i % 3 = 0 THEN :swept + 900
                            ELSE NULL END,
                       CASE WHEN i <= 3 THEN :swept + 30 ELSE NULL END, i, i, ''
                FROM n
                """
            ),
            {"studies": studies, "swept": SWEPT},
        )
    with ledger.write() as db:
        db.exec_driver_sql("ANALYZE")


def everything_that_must_be_flat(ledger: Ledger) -> None:
    """What plugin, worker, worklist and sweep do again and again."""
    assert claim_any(ledger, SWEPT - 1) is None  # how a worker waits: very many are queued, and none is due
    with ledger.write() as db:
        tasks.enqueue(db, STUDY, now=SWEPT)
        # 17 to be concluded and the new one, then 12 of the sweep; later 3 of dead workers, and overdue ones
        for now in (SWEPT + 10,) * 30 + (SWEPT + 1000,) * 5:
            task = tasks.claim(db, "w", now=now, lease_seconds=LEASE, abandoned_limit=3)
            assert task is not None
            tasks.heartbeat(db, task, now=now, lease_seconds=LEASE)
            tasks.answer(db, task, DONE, now=now, conclude_at=None)
        tasks.request_again(db, "1.2.500", now=now)
        tasks.retry(db, "1.2.2", now=now)
        page(db, now=now)
        page(db, Filter(read=False, priority=("none",)), now=now, offset=950)
        page(db, now=now, before=page(db, now=now, offset=950).previous)
        page(db, Filter(status=("quarantined",)), now=now, sort="-received")
        for sort in (*SORTS, *(f"-{name}" for name in SORTS)):
            page(db, now=now, sort=sort, after=page(db, now=now, sort=sort).next)
        page(db, Filter(text="phantom", present=("edema",), mine=True, reason="age"), now=now, user="ada")
        marks.begin_act(db, "ada")
        marks.claim(db, "1.2.500", "ada", now=now, seconds=900)
        marks.keep_claim(db, "1.2.500", "ada", now=now + 1, seconds=900)
        marks.mark_read(db, "1.2.500", "ada", now=now)
        undo(db, "ada", now=now, claim_seconds=900)
        tasks.of_study(db, "1.2.500")
        tasks.standing(db, [f"1.2.{n}" for n in range(100, 150)])
        tasks.after(db, "1.2.1", 50)
        tasks.oldest_waiting(db, now)


def plans(ledger: Ledger, work: Callable[[], None]) -> dict[str, str]:
    """How the database means to do each statement on tasks that work asks for."""
    statements: dict[str, Any] = {}

    @event.listens_for(ledger.engine, "before_cursor_execute")
    def _note(_db: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if re.search(r"\btasks\b", statement) and "EXPLAIN" not in statement:
            statements[statement] = parameters

    work()
    explain = "EXPLAIN QUERY PLAN " if ledger.path is not None else "EXPLAIN "
    found = {}
    for statement, parameters in list(statements.items()):
        with ledger.read() as db:
            rows = db.exec_driver_sql(explain + statement, parameters).all()
        found[statement] = "\n".join(str(row[-1]) for row in rows)
    return found


def test_where_every_study_waits_none_is_looked_at_but_the_first(ledger: Ledger) -> None:
    with ledger.write() as db:
        for number in range(5000):
            tasks.enqueue(db, Arrival(f"1.2.{number}"), now=SWEPT)
    with ledger.write() as db:
        db.exec_driver_sql("ANALYZE")
    asked = plans(ledger, lambda: claim_any(ledger, SWEPT + 10))
    assert asked
    for statement, plan in asked.items():
        assert not re.search(r"SCAN tasks|Seq Scan on tasks", plan), f"{statement}\n{plan}"


def test_with_a_hundred_thousand_studies_every_step_uses_an_index(ledger: Ledger) -> None:
    fill(ledger, 100_000)

    def work() -> None:
        everything_that_must_be_flat(ledger)
        ask(ledger, tasks.count_by_status)

    used = set()
    for statement, plan in plans(ledger, work).items():
        used |= set(re.findall(r"tasks_\w+", plan))
        counts = "GROUP BY status" in statement
        if ledger.path is None:
            # PostgreSQL may count by reading the table: it does so once for all
            assert counts or "Seq Scan on tasks" not in plan, f"{statement}\n{plan}"
        else:
            assert not re.search(r"SCAN tasks(?! USING (COVERING )?INDEX)", plan), f"{statement}\n{plan}"
    assert {"tasks_live", "tasks_background", "tasks_status", "tasks_unread", "tasks_waiting", "tasks_found"} <= used


def test_the_work_of_a_step_does_not_grow_with_the_number_of_studies(tmp_path: Path) -> None:
    """SQLite counts the instructions of its virtual machine: no clock is asked."""
    steps = {}
    for studies in (30_000, 120_000):  # what is counted, and walked, ends before the first
        ledger = open_ledger(tmp_path / f"{studies}.sqlite")
        migrate(ledger)
        fill(ledger, studies)
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        with ledger.read() as db:
            db.connection.dbapi_connection.set_progress_handler(count, 100)  # type: ignore[union-attr]
        everything_that_must_be_flat(ledger)
        steps[studies] = counted
        ledger.close()
    assert 10 < steps[120_000] < 1.3 * steps[30_000], steps


# --- views


def test_the_oldest_live_study_that_waits_is_told(ledger: Ledger) -> None:
    assert ask(ledger, tasks.oldest_waiting, 100) is None
    enqueue(ledger, 1, "1.0", Urgency.BACKGROUND)
    enqueue(ledger, 90, "1.1")
    enqueue(ledger, 95, "1.2")
    assert ask(ledger, tasks.oldest_waiting, 100) == 10
    claim(ledger, 100)
    assert ask(ledger, tasks.oldest_waiting, 100) == 5


def test_a_sweep_meets_every_study_once(ledger: Ledger) -> None:
    uids = {f"1.{n}" for n in range(25)}
    for uid in uids:
        enqueue(ledger, 1, uid)
    seen: list[str] = []
    while page := ask(ledger, tasks.after, seen[-1] if seen else "", 10):
        seen += [passed.study_instance_uid for passed in page]
    assert len(seen) == 25
    assert set(seen) == uids
    standing = ask(ledger, tasks.standing, [*sorted(uids), *(f"9.{n}" for n in range(1200))])
    assert set(standing) == uids
    assert standing["1.3"] == tasks.Standing(TaskStatus.QUEUED, "", 1, 0)


def test_only_a_ready_worker_that_was_seen_lately_counts(ledger: Ledger) -> None:
    change(ledger, tasks.report_worker, "w", "starting", {}, now=100)
    assert ask(ledger, tasks.ready_models, now=101, silent_seconds=15) is None
    change(ledger, tasks.report_worker, "w", "ready", {"lung_fields": "1"}, now=102, problem="storage_full", busy=2)
    assert ask(ledger, tasks.ready_models, now=103, silent_seconds=15) == {"lung_fields": "1"}
    (worker,) = ask(ledger, tasks.workers_seen, now=103, silent_seconds=15)
    assert (worker["problem"], worker["busy"]) == ("storage_full", 2)
    assert ask(ledger, tasks.ready_models, now=200, silent_seconds=15) is None
    change(ledger, tasks.forget_workers)
    assert ask(ledger, tasks.ready_models, now=103, silent_seconds=15) is None


def test_a_fact_is_kept_until_it_is_noted_anew(ledger: Ledger) -> None:
    assert ask(ledger, tasks.get_fact, "last_change") is None
    change(ledger, tasks.set_fact, "last_change", "1")
    change(ledger, tasks.set_fact, "last_change", "2")
    assert ask(ledger, tasks.get_fact, "last_change") == "2"


def test_text_that_a_database_refuses_is_stored_without_what_it_refuses(ledger: Ledger) -> None:
    change(ledger, tasks.enqueue, Arrival("1.2.3", patient_name="A\0B\ud800C", study_description="Ü ☃"), now=1)
    row = row_of(ledger)
    assert (row["patient_name"], row["study_description"]) == ("AB?C", "Ü ☃")
    failure = Failure("internal_error", "a\0b", "c\0d")
    change(ledger, tasks.fail, claim(ledger, 1), failure, now=2, retry_at=None, counted=True)
    assert row_of(ledger)["message"] == "ab"


def test_nothing_prints_its_patient() -> None:
    arrival = Arrival("1.2.3", *(["Phantom"] * 8))
    outcome = Outcome(TaskStatus.DONE, "none", 3, {"images": ["Phantom"]})
    task = InferenceTask("1.2.3", 1, 1, 0, 0, None, {"images": ["Phantom"]}, False, 1, 1, Urgency.STAT)
    assert "Phantom" not in f"{arrival!r} {outcome!r} {task!r}"

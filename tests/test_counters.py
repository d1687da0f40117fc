"""What the ledger counts of flags, answers and failures, on a real SQLite file and a real PostgreSQL."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.counters import Count, add, counted
from orthanc_plugin.ledger.database import Ledger, migrate, open_ledger
from orthanc_plugin.ledger.dump import dump, load
from orthanc_plugin.ledger.flagging import Flag, flag
from orthanc_plugin.ledger.tasks import Arrival, Failure, InferenceTask, Outcome, TaskStatus

UID = "1.2.3"


def image(sop: str = "1.2.3.1", report: str = "2.25.1", **said: Any) -> dict[str, Any]:
    findings = [
        {"key": "pneumothorax", "state": "present", "probability": 0.91, "model": "chest_findings"},
        {"key": "hernia", "state": "not_evaluated", "probability": None, "model": None},
    ]
    return {
        "sop_instance_uid": sop, "status": "done", "reason": None, "measurement_report": report,
        "models": {"chest_findings": "2.0.0"}, "findings": findings, **said,
    }  # fmt: skip


def refused(sop: str = "1.2.3.9", reason: str = "view") -> dict[str, Any]:
    return {"sop_instance_uid": sop, "status": "not_processed", "reason": reason}


def outcome(*images: dict[str, Any], concluded: bool = False, status: TaskStatus = TaskStatus.DONE) -> Outcome:
    told = [i["sop_instance_uid"] for i in images] if concluded else []
    result = {"version": 1, "images": list(images), "concluded": told}
    reason = "view" if status is TaskStatus.NOT_PROCESSED else None
    return Outcome(status, "critical", 0, result, reason=reason, message="why")


def store(ledger: Ledger, now: float, uid: str = UID) -> None:
    with ledger.write() as db:
        tasks.enqueue(db, Arrival(uid), now=now)


def claim(ledger: Ledger, now: float, limit: int = 3) -> InferenceTask:
    with ledger.write() as db:
        task = tasks.claim(db, "w", now=now, lease_seconds=10.0, abandoned_limit=limit)
    assert task is not None
    return task


def answer(ledger: Ledger, given: Outcome, *, claimed: float, now: float, conclude_at: float | None = None) -> None:
    task = claim(ledger, claimed)
    with ledger.write() as db:
        tasks.answer(db, task, given, now=now, conclude_at=conclude_at)


def numbers(ledger: Ledger) -> dict[tuple[str, ...], tuple[int, float]]:
    with ledger.read() as db:
        return {(c.name, *c.labels): (c.number, round(c.total, 6)) for c in counted(db)}


FINDINGS = {
    ("finding", "chest_findings", "2.0.0", "pneumothorax", "present", "1.0"): (1, 0.91),
    ("finding", "", "", "hernia", "not_evaluated", ""): (1, 0.0),
}


def test_a_study_is_counted_when_it_is_flagged_answered_and_reported_each_once(ledger: Ledger) -> None:
    store(ledger, 100.0)
    task = claim(ledger, 100.1)
    with ledger.write() as db:
        assert flag(db, task, Flag("critical", 0, "why"), now=101.2)
        assert not flag(db, task, Flag("critical", 0, "why"), now=101.4), "it stands as high already"
        tasks.answer(db, task, outcome(image()), now=103.0, conclude_at=105.0)
    answer(ledger, outcome(image(), concluded=True), claimed=105.0, now=105.5)
    assert numbers(ledger) == {
        **FINDINGS,
        ("images_read",): (1, 0.0),
        ("latency", "flag", "2.0"): (1, 1.2),
        ("latency", "results", "5.0"): (1, 3.0),
        ("latency", "report", "10.0"): (1, 5.5),
        ("studies_reported", "critical"): (1, 0.0),
    }


def test_a_study_that_is_read_again_tells_no_latency_and_counts_only_what_another_model_said(ledger: Ledger) -> None:
    store(ledger, 100.0)
    answer(ledger, outcome(image()), claimed=100.0, now=101.0, conclude_at=101.0)
    answer(ledger, outcome(image(), concluded=True), claimed=101.0, now=101.0)
    before = numbers(ledger)
    for number, told in enumerate((image(), image(report="2.25.2", models={"chest_findings": "3.0.0"}))):
        with ledger.write() as db:
            assert tasks.request_again(db, UID, now=5000.0 + number)
        task = claim(ledger, 5000.0 + number)
        with ledger.write() as db:
            flag(db, task, Flag("critical", 0, "why"), now=5000.0 + number)
            tasks.answer(db, task, outcome(told, concluded=True), now=5000.5 + number, conclude_at=None)
        if number == 0:
            assert numbers(ledger) == before
    newer = ("finding", "chest_findings", "3.0.0", "pneumothorax", "present", "1.0")
    assert numbers(ledger) == {
        **before,
        newer: (1, 0.91),
        ("finding", "", "", "hernia", "not_evaluated", ""): (2, 0.0),
        ("images_read",): (2, 0.0),
    }


def test_a_later_image_counts_from_when_it_came(ledger: Ledger) -> None:
    store(ledger, 100.0)
    answer(ledger, outcome(image(), concluded=True), claimed=100.0, now=101.0)
    store(ledger, 400.0)
    answer(ledger, outcome(image(), refused(), concluded=True), claimed=400.0, now=400.4)
    told = numbers(ledger)
    assert told["latency", "results", "0.5"] == (1, 0.4)
    assert told["images_refused", "view"] == (1, 0.0)
    assert told["images_read",] == (1, 0.0)


def test_what_is_refused_is_counted_by_its_reason_once(ledger: Ledger) -> None:
    store(ledger, 100.0)
    given = outcome(refused("", "modality"), refused("", "modality"), refused(), status=TaskStatus.NOT_PROCESSED)
    for now in (100.0, 200.0):
        answer(ledger, given, claimed=now, now=now + 1.0)
        with ledger.write() as db:
            tasks.request_again(db, UID, now=now + 50.0)
    assert numbers(ledger) == {
        ("images_refused", "modality"): (2, 0.0),
        ("images_refused", "view"): (1, 0.0),
        ("studies_refused", "view"): (1, 0.0),
        ("latency", "refusal", "1.0"): (1, 1.0),
    }


def test_failures_are_counted_by_reason_and_by_what_followed(ledger: Ledger) -> None:
    store(ledger, 100.0)
    for retry_at in (101.0, None):
        task = claim(ledger, 101.0)
        with ledger.write() as db:
            tasks.fail(db, task, Failure("time_limit", "m"), now=101.0, retry_at=retry_at, counted=True)
    assert numbers(ledger) == {
        ("attempt_failed", "time_limit", "retried"): (1, 0.0),
        ("attempt_failed", "time_limit", "quarantined"): (1, 0.0),
    }


def test_workers_that_fall_silent_are_counted(ledger: Ledger) -> None:
    store(ledger, 100.0)
    claim(ledger, 100.0)
    claim(ledger, 111.0)
    with ledger.write() as db:
        assert tasks.claim(db, "w", now=122.0, lease_seconds=10.0, abandoned_limit=2) is None
    assert numbers(ledger) == {
        ("lease_lost",): (2, 0.0),
        ("attempt_failed", "worker_died", "quarantined"): (1, 0.0),
    }


def test_what_did_not_happen_is_not_counted(ledger: Ledger) -> None:
    store(ledger, 100.0)
    old = claim(ledger, 100.0)
    claim(ledger, 111.0)
    before = numbers(ledger)
    with pytest.raises(tasks.ClaimLost), ledger.write() as db:
        tasks.answer(db, old, outcome(image()), now=112.0, conclude_at=None)

    def count_and_lose() -> None:
        with ledger.write() as db:
            add(db, [Count("images_read")])
            tasks.release(db, old, now=112.0)

    with pytest.raises(tasks.ClaimLost):
        count_and_lose()
    assert numbers(ledger) == before


def test_workers_that_count_at_once_lose_nothing_and_do_not_block_each_other(ledger: Ledger) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(40):
                with ledger.write() as db:
                    order = [Count("a", ("x",)), Count("b", ("y",), total=0.5), Count("a", ("x",))]
                    add(db, order if number % 2 else list(reversed(order)))
        except BaseException as error:  # noqa: BLE001  (told below)
            errors.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert numbers(ledger) == {("a", "x"): (320, 0.0), ("b", "y"): (160, 80.0)}


def test_counts_outlive_a_way_back_to_an_earlier_hilum_and_a_dump(ledger: Ledger, tmp_path: Any) -> None:
    store(ledger, 100.0)
    answer(ledger, outcome(image(), concluded=True), claimed=100.0, now=101.0)
    before = numbers(ledger)
    assert before
    migrate(ledger, 6)
    migrate(ledger)
    assert numbers(ledger) == before
    other = open_ledger(tmp_path / "other.sqlite")
    load(other, dump(ledger))
    assert numbers(other) == before
    other.close()

"""What is owed to destinations: every change of state, on a real SQLite file and a real PostgreSQL."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from orthanc_plugin.integration import Destination
from orthanc_plugin.ledger import deliveries, tasks
from orthanc_plugin.ledger.counters import counted
from orthanc_plugin.ledger.database import Ledger, migrate
from orthanc_plugin.ledger.deliveries import Delivery, DeliveryLost
from orthanc_plugin.ledger.delivery_views import kept_elsewhere, standings, troubled, undelivered
from orthanc_plugin.ledger.tasks import Arrival, Outcome, TaskStatus

PACS = Destination("pacs", "dicom", "h", 104, "PACS")
RIS = Destination("ris", "hl7", "h", 2575, priorities=("critical",))
DONE = Outcome(TaskStatus.DONE, "urgent", 1, {"images": [{"sop_instance_uid": "1.2", "calling_ae_title": "ROOM1"}]})
NOT_READ = Outcome(TaskStatus.NOT_PROCESSED, "none", 3, {"images": []}, reason="view")


def owe(ledger: Ledger, *destinations: Destination, study: str = "1.2.3", outcome: Outcome = DONE, now: float) -> None:
    with ledger.write() as db:
        deliveries.owe(db, study, outcome, destinations or (PACS,), now=now)


def claim(ledger: Ledger, now: float, name: str = "pacs", worker: str = "w", seconds: float = 100.0) -> Delivery | None:
    with ledger.write() as db:
        return deliveries.claim(db, name, worker, now=now, seconds=seconds)


def claimed(ledger: Ledger, now: float, **how: Any) -> Delivery:
    delivery = claim(ledger, now, **how)
    assert delivery is not None
    return delivery


def strike_off(ledger: Ledger, delivery: Delivery, now: float, **taken: Any) -> None:
    with ledger.write() as db:
        deliveries.strike_off(db, delivery, taken, now=now)


def put_off(ledger: Ledger, delivery: Delivery, next_at: float | None, **how: Any) -> None:
    with ledger.write() as db:
        deliveries.put_off(db, delivery, {"objects": {"1": "c"}}, "away", next_at=next_at, **how)


def state(ledger: Ledger, name: str = "pacs") -> str:
    with ledger.read() as db:
        return str(db.execute(text("SELECT state FROM deliveries WHERE destination = :d"), {"d": name}).scalar_one())


def counts(ledger: Ledger) -> dict[tuple[str, ...], int]:
    with ledger.read() as db:
        return {count.labels: count.number for count in counted(db) if count.name == deliveries.DELIVERY}


def test_what_is_owed_is_claimed_once_and_struck_off(ledger: Ledger) -> None:
    owe(ledger, now=10.0)
    delivery = claimed(ledger, 11.0)
    assert (delivery.study_instance_uid, delivery.failures, delivery.taken) == ("1.2.3", 0, {})
    assert claim(ledger, 12.0) is None, "somebody has it"
    strike_off(ledger, delivery, 13.0, objects={"1": "c"})
    assert (state(ledger), claim(ledger, 1e9), counts(ledger)) == ("delivered", None, {("pacs", "delivered"): 1})


def test_what_is_answered_anew_meanwhile_is_owed_when_the_claim_ends(ledger: Ledger) -> None:
    owe(ledger, now=10.0)
    delivery = claimed(ledger, 11.0)
    owe(ledger, now=12.0)
    assert claim(ledger, 12.5) is None, "the claim stands"
    strike_off(ledger, delivery, 13.0, objects={"1": "c"})
    assert claimed(ledger, 13.0).taken == {"objects": {"1": "c"}}


def test_a_writer_that_falls_silent_loses_its_claim_and_cannot_write(ledger: Ledger) -> None:
    owe(ledger, now=10.0)
    dead = claimed(ledger, 10.0)
    assert claim(ledger, 109.0) is None
    alive = claimed(ledger, 111.0, worker="other")
    for change in (lambda: strike_off(ledger, dead, 112.0), lambda: put_off(ledger, dead, 120.0)):
        with pytest.raises(DeliveryLost):
            change()
    with pytest.raises(DeliveryLost), ledger.write() as db:
        deliveries.prolong(db, dead, now=112.0, seconds=100)
    strike_off(ledger, alive, 113.0)
    assert counts(ledger) == {("pacs", "delivered"): 1}


def test_a_writer_that_is_known_to_be_dead_is_not_waited_for(ledger: Ledger) -> None:
    owe(ledger, now=10.0)
    claimed(ledger, 10.0)
    with ledger.write() as db:
        assert deliveries.end_claims(db, "pacs", "another", now=11.0) == 0
        assert deliveries.end_claims(db, "ris", "w", now=11.0) == 0, "its way to another destination lives"
        assert deliveries.end_claims(db, "pacs", "w", now=11.0) == 1
    assert claim(ledger, 11.0) is not None


def test_a_failure_keeps_what_was_taken_and_a_refusal_waits_for_a_person(ledger: Ledger) -> None:
    owe(ledger, now=10.0)
    put_off(ledger, claimed(ledger, 10.0), 40.0)
    assert claim(ledger, 39.0) is None
    again = claimed(ledger, 40.0)
    assert (again.failures, again.taken, again.owed_since) == (1, {"objects": {"1": "c"}}, 10.0)
    put_off(ledger, again, None)
    assert (state(ledger), claim(ledger, 1e6)) == ("refused", None)
    assert counts(ledger) == {("pacs", "put_off"): 1, ("pacs", "refused"): 1}
    with ledger.write() as db:
        assert deliveries.retry(db, "ris", now=50.0) == 0
        assert deliveries.retry(db, None, now=50.0) == 1
    assert claimed(ledger, 50.0).failures == 0


def test_a_refusal_of_what_was_replaced_meanwhile_is_none(ledger: Ledger) -> None:
    owe(ledger, now=10.0)
    delivery = claimed(ledger, 10.0)
    owe(ledger, now=11.0)
    put_off(ledger, delivery, None)
    assert claim(ledger, 12.0) is not None


def test_waiting_for_a_confirmation_is_no_failure(ledger: Ledger) -> None:
    owe(ledger, now=10.0)
    put_off(ledger, claimed(ledger, 10.0), 15.0, counted=False)
    assert (claimed(ledger, 15.0).failures, counts(ledger)) == (0, {})


def test_only_whom_it_concerns_is_owed_it_but_who_was_told_is_told_of_a_correction(ledger: Ledger) -> None:
    elsewhere = replace(PACS, name="elsewhere", calling_ae_titles=("ROOM2",))
    here = replace(PACS, name="here", calling_ae_titles=("room1",))
    owe(ledger, RIS, elsewhere, here, now=10.0)
    with ledger.read() as db:
        assert [one.destination for one in standings(db)] == ["here"]
    owe(ledger, RIS, outcome=replace(DONE, priority="critical"), now=11.0)
    strike_off(ledger, claimed(ledger, 11.0, name="ris"), 12.0)
    owe(ledger, RIS, outcome=NOT_READ, now=13.0)
    assert claim(ledger, 13.0, name="ris") is not None, "what it was told does not hold any more"
    owe(ledger, PACS, study="9", outcome=NOT_READ, now=14.0)
    assert claim(ledger, 14.0) is None, "nothing was read"


def test_a_clock_that_was_put_back_holds_nothing_up(ledger: Ledger) -> None:
    owe(ledger, now=1_000_000.0)
    put_off(ledger, claimed(ledger, 1_000_000.0), 1_000_300.0)
    assert claim(ledger, 500.0) is not None


def test_many_writers_have_each_delivery_once(ledger: Ledger) -> None:
    with ledger.write() as db:
        for number in range(60):
            deliveries.owe(db, f"1.{number}", DONE, [PACS], now=10.0)

    def work(worker: int) -> list[str]:
        done = []
        while (delivery := claim(ledger, 11.0, worker=f"w{worker}")) is not None:
            strike_off(ledger, delivery, 12.0)
            done.append(delivery.study_instance_uid)
        return done

    with ThreadPoolExecutor(6) as pool:
        done = Counter(study for studies in pool.map(work, range(6)) for study in studies)
    assert len(done) == 60
    assert set(done.values()) == {1}
    assert counts(ledger) == {("pacs", "delivered"): 60}


def test_a_destination_that_is_down_is_spoken_of_and_others_are_not(ledger: Ledger) -> None:
    owe(ledger, PACS, replace(RIS, priorities=("urgent",)), now=10.0)
    put_off(ledger, claimed(ledger, 10.0), 40.0)
    with ledger.read() as db:
        assert undelivered(db, ["pacs", "ris"], before=5.0) == [], "not for so long"
        (one,) = undelivered(db, ["pacs", "ris"], before=20.0)
        assert (one.destination, one.waiting, one.refused, one.error) == ("pacs", 1, 0, "away")
        assert [row["study_instance_uid"] for row in troubled(db, 10)] == ["1.2.3"]
        stand = {one.destination: (one.owed, one.failing, one.refused) for one in standings(db)}
    assert stand == {"pacs": (1, 1, 0), "ris": (1, 0, 0)}


def test_when_it_answers_again_what_waits_is_due(ledger: Ledger) -> None:
    owe(ledger, now=10.0)
    put_off(ledger, claimed(ledger, 10.0), 400.0)
    with ledger.write() as db:
        assert deliveries.end_pauses(db, "pacs", now=20.0) == 1
    assert claim(ledger, 20.0) is not None


def test_only_studies_that_were_read_and_delivered_whole_may_be_deleted(ledger: Ledger) -> None:
    for uid in ("1", "2"):
        with ledger.write() as db:
            tasks.enqueue(db, Arrival(uid), now=10.0)
            task = tasks.claim(db, "w", now=11.0, lease_seconds=30, abandoned_limit=3)
            assert task is not None
            tasks.answer(db, task, DONE, now=12.0, conclude_at=None)
            deliveries.owe(db, uid, DONE, [PACS], now=12.0)

    def may_go(**how: Any) -> list[str]:
        with ledger.read() as db:
            how = {"before": 1000.0, "unread": True, "after": (0.0, ""), "most": 10, **how}
            return [uid for _, uid in kept_elsewhere(db, "pacs", **how)]

    assert may_go() == []
    strike_off(ledger, claimed(ledger, 13.0), 14.0)
    strike_off(ledger, claimed(ledger, 13.0), 14.0)
    assert (may_go(), may_go(before=5.0), may_go(unread=False)) == (["1", "2"], [], [])
    assert (may_go(most=1), may_go(after=(14.0, "1"))) == (["1"], ["2"])
    owe(ledger, RIS, study="2", outcome=replace(DONE, priority="critical"), now=15.0)
    assert may_go() == ["1"], "something of the other one is still owed"


def test_a_destination_that_is_set_later_is_given_what_was_answered_before(ledger: Ledger) -> None:
    for uid, at in (("1", 10.0), ("2", 100.0)):
        with ledger.write() as db:
            tasks.enqueue(db, Arrival(uid), now=at)
            task = tasks.claim(db, "w", now=at + 1, lease_seconds=30, abandoned_limit=3)
            assert task is not None
            tasks.answer(db, task, DONE, now=at + 2, conclude_at=None)
    with ledger.write() as db:
        assert deliveries.owe_since(db, RIS, since=0.0, now=200.0) == 0, "nothing of it concerns it"
        assert deliveries.owe_since(db, PACS, since=50.0, now=200.0) == 1
        assert deliveries.owe_since(db, PACS, since=0.0, now=200.0) == 1
        assert deliveries.owe_since(db, PACS, since=0.0, now=200.0) == 0
    strike_off(ledger, claimed(ledger, 200.0), 201.0)
    with ledger.write() as db:
        deliveries.forget_study(db, "1")
        deliveries.forget_study(db, "2")
    assert claim(ledger, 202.0) is not None, "what is owed stays owed"


def test_what_is_owed_waits_where_an_earlier_hilum_does_not_see_it(ledger: Ledger) -> None:
    owe(ledger, now=10.0)
    migrate(ledger, 7)
    migrate(ledger)
    assert claimed(ledger, 11.0).study_instance_uid == "1.2.3"


def test_what_pages_ask_is_found_by_an_index(ledger: Ledger) -> None:
    if ledger.path is None:
        pytest.skip("a small table is not worth an index to PostgreSQL")
    questions = (
        "SELECT owed_since, failures, error FROM deliveries WHERE destination = 'p' AND state = 'owed' "
        "ORDER BY owed_since LIMIT 1",
        "SELECT error FROM deliveries WHERE destination = 'p' AND state = 'refused' LIMIT 1",
        "SELECT delivered_at FROM deliveries WHERE destination = 'p' AND state = 'delivered' AND delivered_at < 9 "
        "AND (delivered_at, study_instance_uid) > (1, 'u') ORDER BY delivered_at, study_instance_uid LIMIT 1",
        "SELECT 1 FROM deliveries WHERE destination = 'p' AND state = 'owed' AND (due_at <= 1 OR due_at > 9) LIMIT 1",
    )
    with ledger.read() as db:
        for question in questions:
            plan = " ".join(str(row) for row in db.execute(text(f"EXPLAIN QUERY PLAN {question}")))
            assert "USING" in plan, plan
            assert "SCAN" not in plan, plan

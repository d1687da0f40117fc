"""The benchmark of the worklist asks what it says, and the simulation obeys queueing theory."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench import triage, worklist


def test_the_worklist_is_timed_while_studies_are_answered(capsys: pytest.CaptureFixture[str]) -> None:
    worklist.compare(300, postgresql=False, rounds=2, as_json=True)
    told = worklist.json.loads(capsys.readouterr().out)
    assert (told["studies"], told["database"]) == (300, "SQLite")
    timings = {t["name"]: t for t in told["timings"]}
    assert timings["first page"]["rows"] == timings["read"]["rows"] + timings["unread"]["rows"] == 50
    assert all(t["p50"] <= t["p95"] <= t["slowest"] for t in timings.values())
    assert timings["nobody"]["count"] == "0"


def test_one_who_waits_in_the_order_of_arrival_waits_as_the_formula_says() -> None:
    """Pollaczek-Khinchine for M/G/1: mean wait = rate * E[S^2] / (2 * (1 - load))."""
    room = triage.Room(arrivals_an_hour=(9.0, 9.0, 9.0), attention=(1.0, 1.0, 1.0), reading_minutes=5.0)
    means = []
    for seed in range(6):
        days = triage.days_of(room, 60, np.random.default_rng(seed))
        means.append(float(triage.waits(days, room, triage.ORDERS["in the order of arrival"]).mean()))
    rate, squared = 9 / 60, 25 * np.exp(room.reading_sigma**2)
    assert np.mean(means) == pytest.approx(rate * squared / (2 * (1 - rate * 5)), rel=0.08)


def test_whatever_the_order_the_same_work_is_waited_for_and_ours_keeps_its_limits() -> None:
    room = triage.Room(reading_minutes=5.2)
    days = triage.days_of(room, 12, np.random.default_rng(3))
    waited = {name: triage.waits(days, room, order) for name, order in triage.ORDERS.items()}
    first, alone, ours = waited.values()
    assert len(first) == len(alone) == len(ours) == len(days.came)
    critical = days.rank == 0
    assert ours[critical].mean() < first[critical].mean() / 2
    assert ours.max() < alone.max()
    assert (np.diff(days.came + 60 * first) > 0).all()

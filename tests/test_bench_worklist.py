"""The benchmark of the worklist asks what it says, and the simulation obeys queueing theory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from orthanc_plugin.ledger.reading_order import WaitingLimits
from tests.bench import triage, worklist


def test_the_worklist_is_timed_while_studies_are_answered_and_the_report_keeps_what_other_databases_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "worklist.md"
    report.write_text("# Old\n\n## SQLite 3.1\n\nbefore\n\n## PostgreSQL 15\n\nanother day\n", "utf-8")
    monkeypatch.setattr(worklist, "REPORT", report)
    worklist.compare(300, postgresql=False, rounds=2, json_file=tmp_path / "told.json", write=True)
    told = json.loads((tmp_path / "told.json").read_text("utf-8"))
    assert (told["studies"], told["database"].split()[0]) == (300, "SQLite")
    assert [t["name"].split(": ")[0] for t in told["writes"]] == ["written", "written"]
    written = report.read_text("utf-8")
    assert "another day" in written
    assert "before\n" not in written
    assert all(f"| {t['name']} | {t['p50']:.1f} |" in written for t in (*told["timings"], *told["writes"]))
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


def test_the_limit_is_the_longest_that_keeps_the_rule() -> None:
    first, alone = triage.Swept(0, 80, 80, 80, 300, 600), triage.Swept(np.inf, 18, 30, 97, 400, 800)
    good = triage.Swept(200, 19, 40, 93, 350, 700)
    late, costly, raised = (
        triage.Swept(500, 18, 31, 97, 390, 701),
        triage.Swept(300, 19, 43, 90, 330, 650),
        triage.Swept(400, 19.5, 40, 93, 350, 650),
    )
    shorter = triage.Swept(100, 19, 42, 90, 320, 650)
    assert triage.chosen_limit(first, alone, [shorter, good, late, costly, raised]) == 200
    assert triage.chosen_limit(first, alone, [late, costly, raised]) is None


def test_the_default_limit_is_the_one_that_the_report_chose() -> None:
    assert f"Chosen by the rule: {WaitingLimits().routine / 60:.0f} min." in triage.REPORT.read_text("utf-8")

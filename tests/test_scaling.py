"""The plan for many studies a day: its simulation agrees with theory, its counters count, its page has its tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from postgres_server import PostgresServer

from orthanc_plugin.ledger.tasks import Outcome, TaskStatus
from tests.bench import scaling, study_costs
from tests.bench.machine import Machine
from tests.bench.queueing import Day, Served, Work, busiest_hour, studies_a_second, workers_for
from tests.bench.scaling import Measured
from tests.bench.sheets import with_section
from tests.bench.study_costs import Statements, Sustained, Wire, of_disk, statements_of
from tests.bench.throughput import Drained

FLAT = Day(shares=(1.0,) * 24)
AT_ONCE = np.zeros(1)  # flagged as soon as a worker takes it


def test_the_busiest_hour_has_its_share_of_a_day() -> None:
    day = Day()
    assert sum(day.shares) == pytest.approx(100.0)
    rng = np.random.default_rng(0)
    came = np.concatenate([day.arrivals(1e5, rng) for _ in range(5)])
    counted = came[came >= day.peak * 3600]
    assert len(counted) / 5 == pytest.approx(1e5 * max(day.shares) / 100, rel=0.05)
    assert day.peak_rate * 3600 == pytest.approx(max(day.shares) / 100)


def test_one_worker_with_exponential_times_waits_as_theory_says() -> None:
    mean, load = 1.0, 0.8
    passes = np.random.default_rng(1).exponential(mean, 100_000)
    waited = busiest_hour(load * 86_400, 1, Served(passes, AT_ONCE), FLAT)
    # M/M/1: P(wait > t) = load * exp(-(1 - load) t / mean)
    assert waited.p95 == pytest.approx(np.log(load / 0.05) * mean / (1 - load), rel=0.25)
    assert waited.p50 == pytest.approx(np.log(load / 0.5) * mean / (1 - load), rel=0.25)
    assert waited.busy == pytest.approx(load, rel=0.05)


def test_an_archive_that_is_read_again_costs_a_live_study_one_pass_at_most() -> None:
    served = Served(np.array([2.0]), AT_ONCE)
    alone = busiest_hour(2_000, 4, served, FLAT)
    beside = busiest_hour(2_000, 4, served, FLAT, rereading=True)
    assert alone.p99 < 0.1
    assert 0.0 < beside.p50 <= beside.p99 <= 2.0
    assert beside.busy == pytest.approx(alone.busy, rel=0.1)


def test_the_fewest_workers_are_as_few_as_hold_the_limit() -> None:
    served = Served(np.array([0.9, 1.1]), np.array([0.5]))
    workers, waited = workers_for(200_000, served, Day(), 5.0)
    assert waited.p95 < 5.0
    assert workers > 1
    assert busiest_hour(200_000, workers - 1, served, Day()).p95 >= 5.0


def test_workers_share_cores_with_those_who_work_for_them() -> None:
    work = Work([0.2], computing=0.15, others=0.05)
    assert studies_a_second(work, 1, 2) == pytest.approx(5.0, rel=0.02)
    two, many = studies_a_second(work, 2, 2), studies_a_second(work, 8, 2)
    assert 5.0 < two <= 10.0
    assert many == pytest.approx(2 / 0.2, rel=0.05)
    assert studies_a_second(Work([0.2], 0.15, 0.05), 2, 1) == pytest.approx(1 / 0.2, rel=0.05)


def test_statements_are_counted_by_database_and_a_transaction_once() -> None:
    lines = [
        "ledger1|hilum|7| LOG:  statement: BEGIN",
        "ledger1|hilum|7| LOG:  execute <unnamed>: ",
        "\t        UPDATE tasks SET status = 'running'",
        "ledger1|hilum|8| LOG:  execute <unnamed>: SELECT 1",
        "ledger1|hilum|7| LOG:  execute <unnamed>: INSERT INTO counters VALUES ($1)",
        "ledger1|hilum|7| LOG:  statement: COMMIT",
        "ledger1|hilum|7| LOG:  statement: BEGIN",
        "ledger1|hilum|7| LOG:  execute <unnamed>: DELETE FROM tasks",
        "ledger1|hilum|7| LOG:  statement: ROLLBACK",
        "ledger1|bench|9| LOG:  statement: UPDATE tasks SET status = 'done'",
        "ledger2||5| LOG:  statement: INSERT INTO resources VALUES (1)",
    ]
    assert statements_of(lines, "ledger1") == (4.0, 3.0, 1.0)
    assert statements_of(lines, "ledger2") == (1.0, 1.0, 1.0)


def test_a_ledger_takes_studies_from_several_clients(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(study_costs, "_CLIENTS", (1, 2))
    found = study_costs.sustained(postgres, Outcome(TaskStatus.DONE, "routine", 2, {"images": []}), 0.5)
    assert [each.clients for each in found] == [1, 2]
    assert all(each.studies > 0 and each.processor > 0 for each in found)
    assert of_disk([1000.0, 10.0], tmp_path / "disk", 3) > 0


def measured() -> Measured:
    nodes = tuple(
        Drained(n, 10.0, 12.0 / n**0.5, (0.2 * n**0.5,) * 20, {
            "worker": 0.01, "reader": 0.14, "intake": 0.04, "fork_server": 0.0,
            "orthanc": 0.05, "database": 0.02, "bench": 0.0,
        }, 900.0)
        for n in (1, 2)
    )  # fmt: skip
    return Measured(
        Machine(2, "a processor", ("AVX2",), 16.0, {"Python": "3.11"}, 0.0), 60, (0.1,) * 5, nodes,
        Wire(15.0, 15e6, 1e6, {"image": 15e6, "SEG": 0.9e6, "SR of the image": 0.1e6}),
        {"ledger": Statements(30.0, 20.0, 6.0), "index": Statements(150.0, 40.0, 7.0)},
        (Sustained(1, 100.0, 0.003), Sustained(2, 130.0, 0.003)), 20.0,
    )  # fmt: skip


def test_the_tables_follow_from_what_was_measured(tmp_path: Path) -> None:
    found, day = measured(), Day()
    plans = [scaling.plan(size, found, day) for size in (1e3, 3e5)]
    planned, asked, first, costs, held = scaling.sheets(found, plans, day)
    assert [row[-1] for row in planned.rows] == ["not evaluated"] * 2
    assert int(planned.rows[1][2]) > int(planned.rows[0][2]) == 1
    assert asked.rows[0][-1] == "5.84"  # 1,000 a day of 16 MB for 365 days, in TB
    capacities = [float(row[2]) for row in first.rows]
    assert capacities == sorted(capacities)
    assert first.rows[0][0] in first.note
    least_shared = next(row for row in first.rows if row[1] == "all together")
    assert least_shared[0] in first.note
    assert float(least_shared[2]) == pytest.approx(3 * 130 / 13)
    assert ("requests of the worker to Orthanc", "15.0") in costs.rows
    assert held.rows[0][1:] == ("5.00", "5.00", "+0 %")
    scaling.draw(scaling.resources(found), day, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_times_of_the_plan_are_those_of_two_workers_with_their_gaps() -> None:
    served = measured().served()
    assert 2 / served.passes.mean() == pytest.approx(60 / (12.0 / 2**0.5))
    assert served.flags.mean() == pytest.approx(0.1 * 2**0.5)


def test_the_page_has_its_section_and_its_plot() -> None:
    page = scaling.PAGE.read_text("utf-8")
    assert "anew" in with_section(page, "scaling", "anew")
    assert f"]({scaling.PLOT})" in page
    assert scaling.PAGE.with_name(scaling.PLOT).is_file()


@pytest.mark.node
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("postgres")  # skips where there is none
def test_a_study_s_costs_are_measured_on_a_real_node(tmp_path: Path) -> None:
    found, plans = scaling.compare(
        3, rows=600, columns=500, bundles=("lung_fields",), sizes=(1e3,), json_file=tmp_path / "scaling.json"
    )
    assert found.wire.requests >= 10
    assert found.wire.files["image"] > 600 * 500 * 2
    assert {"SEG", "SR of the image"} <= set(found.wire.files)
    assert found.databases["ledger"].transactions >= 3, "it comes, is claimed, is answered"
    assert found.databases["index"].changes > 10
    assert all(node.processor["database"] > 0 for node in found.nodes)
    assert plans[0].workers == 1
    written = json.loads((tmp_path / "scaling.json").read_text())
    assert set(written) == {"measured", "day", "plans"}

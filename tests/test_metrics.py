"""What /hilum/metrics tells: names as documented, numbers as the ledger holds them, and no patient."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from orthanc_plugin.access.audit import Audit, Who
from orthanc_plugin.access.audit_sending import Standing
from orthanc_plugin.access.roles import Role
from orthanc_plugin.free_space import FreeSpace
from orthanc_plugin.hosting import health, metrics, routes
from orthanc_plugin.hosting.messages import Request, Response, Visitor
from orthanc_plugin.hosting.metric_table import METRICS, Kind, in_words
from orthanc_plugin.hosting.site import Site
from orthanc_plugin.integration import Destination
from orthanc_plugin.ledger import deliveries, tasks
from orthanc_plugin.ledger.counters import Count, add
from orthanc_plugin.ledger.database import Ledger, LedgerUnavailable, migrate, open_ledger
from orthanc_plugin.ledger.figures import last_answer
from orthanc_plugin.ledger.notes import LAST_BACKUP
from orthanc_plugin.ledger.ownership import LedgerOfAnotherArchive
from orthanc_plugin.ledger.tasks import Arrival, Failure, Outcome, TaskStatus
from orthanc_plugin.settings import REPOSITORY, load_settings

MARKER = "Zanzibar^Quetzal"
UID = "1.2.840.113619.77"


@pytest.fixture
def site(tmp_path: Path, ledger: Ledger) -> Iterator[Site]:
    settings = load_settings({"HILUM_HOME": str(tmp_path / "home")})
    settings.storage.mkdir(parents=True)
    settings.logs.mkdir()
    (settings.logs / "worker.log").write_text("x" * 1000)
    audit = Audit(settings.audit, longest=1_000_000)
    audit.start()
    nothing: Any = SimpleNamespace()
    yield Site(
        settings=settings, ledger=ledger, version="9.9", fetch_thumbnail=lambda _uid: None, intake=lambda: (None, 0),
        wake=lambda: None, free_space=FreeSpace([tmp_path], 7), clock=health.ClockWatch(),
        started_at=time.monotonic(), audit=audit, held=nothing, received=lambda: 12,
        collected=lambda: Standing(7, 20),
    )  # fmt: skip
    audit.stop()


def ask(site: Site, role: Role = Role.MONITOR) -> Response:
    return routes.respond(Request("/hilum/metrics", visitor=Visitor(role, Who("m", role, "127.0.0.1"))), site)


def samples(site: Site) -> dict[tuple[str, ...], float]:
    """Name and values of labels, in the order of the labels' names, to the number."""
    answer = ask(site)
    assert (answer.status, answer.mime) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = text_string_to_metric_families(answer.body.decode())
    return {(s.name, *(s.labels[k] for k in sorted(s.labels))): s.value for f in families for s in f.samples}


def live_a_little(ledger: Ledger, now: float) -> None:
    """One study answered, one refused, one quarantined and one that waits."""
    found = {"key": "pneumothorax", "state": "present", "probability": 0.91, "model": "chest_findings"}
    read = {
        "sop_instance_uid": f"{UID}.1", "status": "done", "reason": None, "measurement_report": f"{UID}.2",
        "models": {"chest_findings": "2.0.0"}, "findings": [found],
    }  # fmt: skip
    odd = {"sop_instance_uid": f"{UID}.3", "status": "not_processed", "reason": "view"}
    answers = [
        Outcome(TaskStatus.DONE, "critical", 0, {"images": [read], "concluded": [f"{UID}.1"]}, message=MARKER),
        Outcome(TaskStatus.NOT_PROCESSED, "none", 3, {"images": [odd]}, reason="view", message=MARKER),
        None,
    ]
    with ledger.write() as db:
        for number in range(4):
            patient = {"patient_name": MARKER, "patient_id": MARKER, "accession_number": MARKER}
            tasks.enqueue(db, Arrival(f"{UID}.{number}", **patient), now=now - 40.0 + number)
        for given in answers:
            task = tasks.claim(db, "w", now=now - 10.0, lease_seconds=30.0, abandoned_limit=3)
            assert task is not None
            if given is not None:
                tasks.answer(db, task, given, now=now - 10.0, conclude_at=None)
            else:
                tasks.fail(db, task, Failure("time_limit", MARKER), now=now, retry_at=None, counted=True)
        tasks.report_worker(db, "w", "ready", {"m": "1"}, now=now, busy=1)
        tasks.set_fact(db, LAST_BACKUP, "1700000000.0")
        pacs = Destination("pacs", "dicom", "h", 104, "PACS")
        for number in range(2):
            deliveries.owe(db, f"{UID}.{number}", answers[0], [pacs], now=now - 30.0)  # type: ignore[arg-type]
        for failed in (False, True):
            delivery = deliveries.claim(db, "pacs", "w", now=now - 20.0, seconds=60.0)
            assert delivery is not None
            if failed:
                deliveries.put_off(db, delivery, {}, "away", next_at=now + 60.0)
            else:
                deliveries.strike_off(db, delivery, {}, now=now - 20.0)


def test_the_numbers_are_those_of_the_ledger_and_of_the_process(site: Site, ledger: Ledger) -> None:
    now = time.time()
    live_a_little(ledger, now)
    found = samples(site)
    expected = {
        ("hilum_info", "9.9"): 1, ("hilum_ledger_up",): 1, ("hilum_instances_received_total",): 12,
        ("hilum_audit_owed_entries",): 7, ("hilum_audit_sent_total",): 20,
        ("hilum_studies", "queued"): 1, ("hilum_studies", "quarantined"): 1, ("hilum_studies", "running"): 0,
        ("hilum_workers", "ready"): 1, ("hilum_workers", "starting"): 0, ("hilum_busy_readers",): 1,
        ("hilum_unread_critical_studies",): 1, ("hilum_problem", "quarantined", "false"): 1,
        ("hilum_attempts_failed_total", "time_limit", "quarantined"): 1,
        ("hilum_deliveries_owed", "pacs"): 1, ("hilum_deliveries_failing", "pacs"): 1,
        ("hilum_deliveries_refused", "pacs"): 0, ("hilum_studies_purged_total",): 0,
        ("hilum_deliveries_total", "pacs", "delivered"): 1, ("hilum_deliveries_total", "pacs", "put_off"): 1,
        ("hilum_images_read_total",): 1, ("hilum_images_refused_total", "view"): 1,
        ("hilum_studies_refused_total", "view"): 1, ("hilum_studies_reported_total", "critical"): 1,
        ("hilum_findings_total", "chest_findings", "pneumothorax", "present", "2.0.0"): 1,
        ("hilum_finding_probability_bucket", "chest_findings", "pneumothorax", "0.9", "2.0.0"): 0,
        ("hilum_finding_probability_bucket", "chest_findings", "pneumothorax", "1.0", "2.0.0"): 1,
        ("hilum_finding_probability_bucket", "chest_findings", "pneumothorax", "+Inf", "2.0.0"): 1,
        ("hilum_finding_probability_sum", "chest_findings", "pneumothorax", "2.0.0"): 0.91,
        ("hilum_latency_seconds_count", "report"): 1, ("hilum_latency_seconds_sum", "report"): 30,
        ("hilum_latency_seconds_bucket", "20.0", "report"): 0, ("hilum_latency_seconds_bucket", "+Inf", "report"): 1,
        ("hilum_latency_seconds_count", "refusal"): 1, ("hilum_log_bytes",): 1000,
        ("hilum_disk_reserve_bytes",): 7 * 2**20, ("hilum_last_backup_timestamp_seconds",): 1_700_000_000,
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == pytest.approx(expected, abs=0.1)
    assert found["hilum_oldest_waiting_seconds",] == pytest.approx(37.0, abs=5.0)
    assert found["hilum_ledger_bytes",] > 50_000
    assert 0 < found["hilum_disk_free_bytes", "storage"] <= found["hilum_disk_size_bytes", "storage"]
    assert abs(found["hilum_start_time_seconds",] - now) < 60


def test_no_patient_and_no_study_is_in_it(site: Site, ledger: Ledger) -> None:
    live_a_little(ledger, time.time())
    told = ask(site).body.decode()
    assert "hilum_findings_total" in told
    for word in (MARKER, *MARKER.split("^"), UID, "1.2.840"):
        assert word not in told
    labels = {label for metric in METRICS for label in metric.labels}
    assert labels == {"version", "code", "stops", "folder", "status", "state", "stage", "reason", "priority", "then",
                      "bundle", "finding", "destination", "outcome"}  # fmt: skip


def test_every_metric_is_documented_and_every_documented_one_is_there(site: Site, ledger: Ledger) -> None:
    live_a_little(ledger, time.time())
    with ledger.write() as db:
        tasks.set_fact(db, "last_reconciliation", "1700000000.0")
    families = {f.name: f for f in text_string_to_metric_families(ask(site).body.decode())}
    expected = {m.name.removesuffix("_total") if m.kind is Kind.COUNTER else m.name: m for m in METRICS}
    assert set(families) == set(expected)
    for name, metric in expected.items():
        assert families[name].type == metric.kind
        for sample in families[name].samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)
        assert families[name].samples, f"{name} has no number here"
    document = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
    shown = [line for line in document.splitlines() if re.match(r"\| `hilum_", line)]
    assert shown == list(in_words()), "\n".join(["docs/operations.md wants:", *in_words()])


def test_two_nodes_of_one_process_share_no_number(site: Site, ledger: Ledger, tmp_path: Path) -> None:
    before = {family.name for family in REGISTRY.collect()}
    live_a_little(ledger, time.time())
    assert samples(site)["hilum_images_read_total",] == 1
    empty = open_ledger(tmp_path / "other.sqlite")
    migrate(empty)
    other = replace(site, ledger=empty, received=lambda: 0)
    assert samples(other)["hilum_images_read_total",] == 0
    assert samples(other)["hilum_instances_received_total",] == 0
    assert {family.name for family in REGISTRY.collect()} == before
    empty.close()


def test_without_the_ledger_the_process_tells_what_it_knows(site: Site, tmp_path: Path) -> None:
    gone = replace(site, ledger=open_ledger(tmp_path / "nowhere" / "ledger.sqlite"))
    found = samples(replace(gone, intake=lambda: (LedgerUnavailable("away"), 3)))
    assert (found["hilum_ledger_up",], found["hilum_unrecorded_studies",]) == (0, 3)
    assert any(name[:1] == ("hilum_problem",) and name[-1] == "true" for name in found)
    assert not any(name[0].startswith("hilum_studies") for name in found)


def test_nothing_of_another_archives_ledger_is_told(site: Site, ledger: Ledger) -> None:
    live_a_little(ledger, time.time())
    found = samples(replace(site, intake=lambda: (LedgerOfAnotherArchive("another's"), 0)))
    assert found["hilum_ledger_up",] == 0
    assert not any(name[0].startswith(("hilum_images_", "hilum_findings")) for name in found)


@pytest.mark.parametrize("role", [Role.RADIOLOGIST, Role.TECHNOLOGIST, Role.WORKER])
def test_only_who_watches_the_node_is_told(site: Site, role: Role) -> None:
    assert ask(site, role).status == 403
    assert ask(site, Role.ADMIN).status == 200


def test_no_question_walks_through_all_studies(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """EXPLAIN of every statement: each names an index that fits it, and none scans the tasks."""
    now = time.time()
    with ledger.write() as db:
        for number in range(3000):
            db.execute(
                text(
                    "INSERT INTO tasks (study_instance_uid, status, generation, not_before, received_at, "
                    "last_instance_at, completed_at) VALUES (:uid, 'done', 1, 0, :at, :at, :at)"
                ),
                {"uid": f"1.{number}", "at": now - number},
            )
    with ledger.engine.connect() as db:
        db.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(
            "ANALYZE" if ledger.path is not None else "VACUUM ANALYZE"
        )
    asked: list[tuple[str, Any]] = []
    with ledger.read() as db:
        real = type(db).execute

        def noted(self: Any, statement: Any, values: Any = None, **named: Any) -> Any:
            asked.append((str(statement), values))
            return real(self, statement, values, **named)

        monkeypatch.setattr(type(db), "execute", noted)
        metrics._of_ledger(db, now)
        last_answer(db)
        monkeypatch.undo()
        explain = "EXPLAIN QUERY PLAN" if ledger.path is not None else "EXPLAIN"
        plans = [
            "\n".join(str(tuple(row)) for row in db.execute(text(f"{explain} {sql}"), values))
            for sql, values in asked
            if " tasks" in sql and "pg_class" not in sql
        ]
    assert len(plans) == 5
    for plan in plans:
        assert re.search(r"USING (COVERING )?INDEX tasks_|using tasks_", plan), plan
        assert "Seq Scan" not in plan, plan
        assert not re.search(r"SCAN tasks'?\)?$|SCAN tasks(?! USING)", plan, re.MULTILINE), plan


def test_each_bound_of_a_bucket_is_kept_and_summed_up(site: Site, ledger: Ledger) -> None:
    with ledger.write() as db:
        # "3.0" is no bound of this Hilum: an earlier or a later one may have had it
        add(db, [Count("latency", ("flag", bound), 2, 1.0) for bound in ("0.5", "3.0", "+Inf")])
    found = samples(site)
    told = [found["hilum_latency_seconds_bucket", b, "flag"] for b in ("0.5", "1.0", "2.0", "5.0", "3600.0", "+Inf")]
    assert told == [2, 2, 2, 4, 4, 6]
    assert (found["hilum_latency_seconds_count", "flag"], found["hilum_latency_seconds_sum", "flag"]) == (6, 3)

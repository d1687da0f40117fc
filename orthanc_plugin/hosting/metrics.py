"""``/hilum/metrics``: how the node is and what it did, in the text format of Prometheus.

The rule: it names no patient and no study; every number is one that the ledger or this process holds, and none takes a
walk through all studies. Nothing is kept between two answers: families are made anew each time.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import CollectorRegistry
from sqlalchemy import Connection

from orthanc_plugin.hosting import metric_table
from orthanc_plugin.hosting.health import WORKER_SILENT_SECONDS
from orthanc_plugin.hosting.messages import NOT_STORED, Response
from orthanc_plugin.hosting.metric_table import METRICS, Kind
from orthanc_plugin.hosting.site import Site
from orthanc_plugin.ledger import counting, deliveries, views
from orthanc_plugin.ledger.counters import Count, counted
from orthanc_plugin.ledger.delivery_views import standings
from orthanc_plugin.ledger.figures import count_unfinished, ledger_bytes
from orthanc_plugin.ledger.notes import LAST_BACKUP, LAST_RECONCILIATION, get_fact, workers_seen
from orthanc_plugin.refused_calls import read_refused_calls

_MEBIBYTE = 2**20
Labels = tuple[str, ...]
Numbers = Mapping[Labels, float]


def respond(site: Site, db: Connection | None, status: Mapping[str, Any], now: float) -> Response:
    """Answer ``/hilum/metrics``.

    Parameters
    ----------
    db
        None when the ledger cannot be asked: then only what this process holds is told.
    status
        What ``GET /hilum/api/status`` tells, by which what is wrong is known.
    """
    began = time.perf_counter()
    told: dict[str, Numbers] = {**_of_process(site, status, now), "hilum_ledger_up": {(): float(db is not None)}}
    counts: list[Count] = []
    if db is not None:
        counts = [*_NOTHING_YET, *counted(db)]
        told |= _of_ledger(db, now) | _of_deliveries(site, db, now)
    told["hilum_scrape_seconds"] = {(): time.perf_counter() - began}
    registry = CollectorRegistry()
    registry.register(_Families(told, counts))
    return Response(200, CONTENT_TYPE_PLAIN_0_0_4, generate_latest(registry), dict(NOT_STORED))


class _Families:
    """What `CollectorRegistry` asks for the families of one answer."""

    def __init__(self, told: Mapping[str, Numbers], counts: Sequence[Count]) -> None:
        self._told, self._counts = told, counts

    def collect(self) -> Iterator[Metric]:
        """Each metric of the table, with its numbers."""
        counters = _counters(self._counts)
        for metric in METRICS:
            if metric.kind is Kind.HISTOGRAM:
                yield _histogram(metric, self._counts)
            else:
                yield _plain(metric, {**self._told.get(metric.name, {}), **counters.get(metric.name, {})})


def _plain(metric: metric_table.Metric, numbers: Numbers) -> Metric:
    made = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family: Metric = made(metric.name, metric.what, labels=metric.labels)
    for labels, number in sorted(numbers.items()):
        family.add_metric(labels, number)  # type: ignore[attr-defined]
    return family


def _counters(counts: Sequence[Count]) -> dict[str, dict[Labels, float]]:
    """What the ledger counted, under the names of metrics."""
    found: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
    for count in counts:
        if count.name == counting.FINDING:
            found["hilum_findings_total"][count.labels[:4]] += count.number
        elif name := _COUNTERS.get(count.name):
            found[name][count.labels] += count.number
    return found


# What has no label is told from the beginning, so that its first time is seen as a rise.
_NOTHING_YET = tuple(
    Count(name, number=0)
    for name in (
        counting.IMAGES_READ,
        counting.LEASE_LOST,
        counting.WORKER_STARTED,
        counting.CLUSTER_LOST,
        deliveries.PURGED,
    )
)
_COUNTERS = {
    counting.IMAGES_READ: "hilum_images_read_total",
    counting.IMAGES_REFUSED: "hilum_images_refused_total",
    counting.STUDIES_REFUSED: "hilum_studies_refused_total",
    counting.STUDIES_REPORTED: "hilum_studies_reported_total",
    counting.ATTEMPT_FAILED: "hilum_attempts_failed_total",
    counting.LEASE_LOST: "hilum_leases_lost_total",
    counting.WORKER_STARTED: "hilum_worker_starts_total",
    deliveries.DELIVERY: "hilum_deliveries_total",
    deliveries.PURGED: "hilum_studies_purged_total",
    counting.CLUSTER_LOST: "hilum_ray_losses_total",
}


def _histogram(metric: metric_table.Metric, counts: Sequence[Count]) -> HistogramMetricFamily:
    """Of what was counted by upper bounds, which Prometheus wants to be summed up."""
    latency = metric.name == "hilum_latency_seconds"
    name, bounds = (counting.LATENCY, counting.SECONDS) if latency else (counting.FINDING, counting.PROBABILITIES)
    series: dict[Labels, list[tuple[float, Count]]] = defaultdict(list)
    for count in counts:
        if count.name == name and count.labels[-1] != counting.UNSAID:
            series[count.labels[: len(metric.labels)]].append((float(count.labels[-1]), count))
    family = HistogramMetricFamily(metric.name, metric.what, labels=metric.labels)
    for labels, measured in sorted(series.items()):
        buckets = [(repr(b), float(sum(c.number for bound, c in measured if bound <= b))) for b in bounds]
        buckets.append((counting.BEYOND, float(sum(c.number for _, c in measured))))
        family.add_metric(labels, buckets, sum_value=sum(c.total for _, c in measured))
    return family


def _of_process(site: Site, status: Mapping[str, Any], now: float) -> dict[str, Numbers]:
    settings, collected = site.settings, site.collected()
    told: dict[str, Numbers] = {
        "hilum_info": {(site.version,): 1.0},
        "hilum_start_time_seconds": {(): now - (time.monotonic() - site.started_at)},
        "hilum_problem": {(p["code"], str(p["stops"]).lower()): 1.0 for p in status["problems"]},
        "hilum_instances_received_total": {(): float(site.received())},
        "hilum_instances_refused_total": {(): float(site.free_space.refused)},
        "hilum_associations_refused_total": {
            (reason,): float(number) for reason, number in read_refused_calls(settings.refused_calls).items()
        },
        "hilum_unrecorded_studies": {(): float(site.intake()[1])},
        "hilum_unwritten_audit_entries": {(): float((site.audit.problem or ("", 0))[1])},
        "hilum_audit_owed_entries": {(): float(collected.owed)},
        "hilum_audit_sent_total": {(): float(collected.sent)},
        "hilum_disk_reserve_bytes": {(): float(site.free_space.reserve_mb * _MEBIBYTE)},
        "hilum_log_bytes": {(): float(_bytes_of(settings.logs))},
    }
    free: dict[Labels, float] = {}
    size: dict[Labels, float] = {}
    for name, folder in (("storage", settings.storage), ("home", settings.home)):
        try:
            found = os.statvfs(folder)
        except OSError:
            continue
        free[name,] = float(found.f_bavail * found.f_frsize)
        size[name,] = float(found.f_blocks * found.f_frsize)
    return {**told, "hilum_disk_free_bytes": free, "hilum_disk_size_bytes": size}


def _of_ledger(db: Connection, now: float) -> dict[str, Numbers]:
    workers = workers_seen(db, now=now, silent_seconds=WORKER_SILENT_SECONDS)
    states = dict.fromkeys(("ready", "starting"), 0) | {
        state: sum(w["state"] == state for w in workers) for state in {w["state"] for w in workers}
    }
    times: dict[str, Numbers] = {
        name: {(): float(fact)}
        for name, fact in (
            ("hilum_last_backup_timestamp_seconds", get_fact(db, LAST_BACKUP)),
            ("hilum_last_comparison_timestamp_seconds", get_fact(db, LAST_RECONCILIATION)),
        )
        if fact
    }
    return {
        **times,
        "hilum_studies": {(name,): float(number) for name, number in count_unfinished(db).items()},
        "hilum_oldest_waiting_seconds": {(): views.oldest_waiting(db, now) or 0.0},
        "hilum_unread_critical_studies": {(): float(views.unread_critical(db, 0).number)},
        "hilum_workers": {(state,): float(number) for state, number in states.items()},
        "hilum_busy_readers": {(): float(sum(w["busy"] for w in workers))},
        "hilum_ledger_bytes": {(): float(ledger_bytes(db))},
    }


def _of_deliveries(site: Site, db: Connection, now: float) -> dict[str, Numbers]:
    """Of each destination that is set, and of each that something is still owed to."""
    stand = {(one.destination,): one for one in standings(db)}
    named = {(one.name,) for one in site.settings.owed_to} | set(stand)
    oldest = {key: one.oldest for key, one in stand.items() if one.oldest is not None}
    return {
        "hilum_deliveries_owed": {key: float(stand[key].owed) if key in stand else 0.0 for key in named},
        "hilum_deliveries_failing": {key: float(stand[key].failing) if key in stand else 0.0 for key in named},
        "hilum_deliveries_refused": {key: float(stand[key].refused) if key in stand else 0.0 for key in named},
        "hilum_delivery_oldest_seconds": {key: max(0.0, now - oldest[key]) if key in oldest else 0.0 for key in named},
    }


def _bytes_of(folder: Path) -> int:
    """Of the files in a folder."""
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False))
    except OSError:  # one was rotated away meanwhile
        return 0

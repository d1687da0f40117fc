"""Every metric of ``/hilum/metrics``: its name with its unit, its labels and what it says.

The rule: what does not stand here is not told, and what stands here is. docs/operations.md shows this table, and a
test holds it to that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The types of Prometheus that occur here."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Source(StrEnum):
    """Who holds a number: what the ledger does not tell is missing while it is away."""

    LEDGER = "ledger"
    PROCESS = "process"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Parameters
    ----------
    name
        In full; of a counter with ``_total``.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    source: Source
    what: str


_GAUGE, _COUNTER, _HISTOGRAM = Kind.GAUGE, Kind.COUNTER, Kind.HISTOGRAM
_LEDGER, _PROCESS = Source.LEDGER, Source.PROCESS

METRICS = (
    Metric("hilum_info", _GAUGE, ("version",), _PROCESS, "1; the version of Hilum"),
    Metric("hilum_start_time_seconds", _GAUGE, (), _PROCESS, "when the plugin started, seconds since 1970"),
    Metric("hilum_ledger_up", _GAUGE, (), _PROCESS, "1 while the ledger answers and is this archive's, else 0"),
    Metric("hilum_problem", _GAUGE, ("code", "stops"), _PROCESS, "1 for each problem that the status names"),
    Metric("hilum_instances_received_total", _COUNTER, (), _PROCESS, "images stored since the plugin started"),
    Metric("hilum_instances_refused_total", _COUNTER, (), _PROCESS, "uploads refused for want of disk space"),
    Metric(
        "hilum_associations_refused_total", _COUNTER, ("reason",), _PROCESS,
        "DICOM associations that Orthanc refused: unknown_ae, called_ae, tls, other",
    ),
    Metric("hilum_unrecorded_studies", _GAUGE, (), _PROCESS, "studies that wait in memory for the ledger"),
    Metric("hilum_unwritten_audit_entries", _GAUGE, (), _PROCESS, "entries that wait in memory for the audit log"),
    Metric("hilum_audit_owed_entries", _GAUGE, (), _PROCESS, "entries that the audit log's collector has not taken"),
    Metric("hilum_audit_sent_total", _COUNTER, (), _PROCESS, "entries that it took since the plugin started"),
    Metric("hilum_disk_free_bytes", _GAUGE, ("folder",), _PROCESS, "free for the images (storage) and the node (home)"),
    Metric("hilum_disk_size_bytes", _GAUGE, ("folder",), _PROCESS, "size of the file systems that they lie on"),
    Metric("hilum_disk_reserve_bytes", _GAUGE, (), _PROCESS, "free space below which new images are refused"),
    Metric("hilum_log_bytes", _GAUGE, (), _PROCESS, "all log files together"),
    Metric("hilum_studies", _GAUGE, ("status",), _LEDGER, "studies queued, running, answered or quarantined now"),
    Metric("hilum_oldest_waiting_seconds", _GAUGE, (), _LEDGER, "how long the oldest study has been due; 0: none is"),
    Metric("hilum_unread_critical_studies", _GAUGE, (), _LEDGER, "critical studies that nobody has read"),
    Metric("hilum_workers", _GAUGE, ("state",), _LEDGER, "workers heard of within 15 s: ready, or starting"),
    Metric("hilum_busy_readers", _GAUGE, (), _LEDGER, "studies that workers have in hand now"),
    Metric("hilum_worker_starts_total", _COUNTER, (), _LEDGER, "starts of a worker; beyond the node's own: restarts"),
    Metric("hilum_ray_losses_total", _COUNTER, (), _LEDGER, "times that a worker's Ray cluster went away"),
    Metric("hilum_leases_lost_total", _COUNTER, (), _LEDGER, "studies on which a worker fell silent"),
    Metric(
        "hilum_latency_seconds", _HISTOGRAM, ("stage",), _LEDGER,
        "from a study's last image to its flag (raised in the worklist), results, report or refusal",
    ),
    Metric("hilum_images_read_total", _COUNTER, (), _LEDGER, "images with results, each once for each result"),
    Metric("hilum_images_refused_total", _COUNTER, ("reason",), _LEDGER, "images (or series of another kind) not read"),
    Metric("hilum_studies_refused_total", _COUNTER, ("reason",), _LEDGER, "studies of which no image was read"),
    Metric("hilum_studies_reported_total", _COUNTER, ("priority",), _LEDGER, "studies with a report of their own"),
    Metric(
        "hilum_attempts_failed_total", _COUNTER, ("reason", "then"), _LEDGER,
        "attempts to read that failed, and were retried or quarantined",
    ),
    Metric(
        "hilum_findings_total", _COUNTER, ("bundle", "version", "finding", "state"), _LEDGER,
        "what the models said of an image: present, undetermined, absent, not_evaluated",
    ),
    Metric(
        "hilum_finding_probability", _HISTOGRAM, ("bundle", "version", "finding"), _LEDGER,
        "probabilities that they gave, 0 to 1",
    ),
    Metric("hilum_deliveries_owed", _GAUGE, ("destination",), _LEDGER, "studies that a destination is to be given"),
    Metric("hilum_deliveries_failing", _GAUGE, ("destination",), _LEDGER, "of these, the ones that were tried in vain"),
    Metric("hilum_deliveries_refused", _GAUGE, ("destination",), _LEDGER, "studies that a destination will not have"),
    Metric("hilum_delivery_oldest_seconds", _GAUGE, ("destination",), _LEDGER, "how long the oldest has been owed"),
    Metric(
        "hilum_deliveries_total", _COUNTER, ("destination", "outcome"), _LEDGER,
        "tries to deliver: delivered, put_off (tried again), refused",
    ),
    Metric("hilum_studies_purged_total", _COUNTER, (), _LEDGER, "studies deleted by the rule of retention"),
    Metric("hilum_ledger_bytes", _GAUGE, (), _LEDGER, "size of the ledger: its files, or its tables in PostgreSQL"),
    Metric("hilum_last_backup_timestamp_seconds", _GAUGE, (), _LEDGER, "when ./hilum backup ended last"),
    Metric(
        "hilum_last_comparison_timestamp_seconds", _GAUGE, (), _LEDGER, "when Orthanc and ledger were compared last"
    ),
    Metric("hilum_scrape_seconds", _GAUGE, (), _PROCESS, "how long it took to gather all this"),
)  # fmt: skip


def in_words() -> Iterator[str]:
    """The rows of a table in Markdown, one for each metric."""
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.source} | {metric.what} |"

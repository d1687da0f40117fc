"""What is counted of a study that was flagged, answered or failed: pure functions from what became of it to counts.

The rule: a result is counted once. The pass that makes the study's own report, a reading that changes nothing, and a
study that is read again on request add nothing to latencies and outputs that were counted when its images came.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orthanc_plugin.ledger.counters import Count
from orthanc_plugin.ledger.task_states import InferenceTask, Outcome, TaskStatus

# Names of counts, with what their labels are
LATENCY = "latency"  # stage, upper bound
IMAGES_READ = "images_read"
IMAGES_REFUSED = "images_refused"  # reason
STUDIES_REFUSED = "studies_refused"  # reason
STUDIES_REPORTED = "studies_reported"  # priority
FINDING = "finding"  # bundle, version, finding, state, upper bound of the probability
ATTEMPT_FAILED = "attempt_failed"  # reason, what followed
LEASE_LOST = "lease_lost"
WORKER_STARTED = "worker_started"
CLUSTER_LOST = "cluster_lost"

# Upper bounds of what is measured.
SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
PROBABILITIES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
BEYOND, UNSAID = "+Inf", ""

Fate = tuple[str, str, str]


def of_flag(last_instance_at: float, completed_at: float | None, *, now: float) -> list[Count]:
    """A study was raised before its results were stored."""
    if completed_at is not None and completed_at >= last_instance_at:
        return []  # it is read again, and its last image came long ago
    return [_latency("flag", now - last_instance_at)]


def of_answer(task: InferenceTask, outcome: Outcome, *, now: float, concludes: bool) -> list[Count]:
    """A study was answered.

    Parameters
    ----------
    concludes
        Whether the study's own report is made, or there is none to make.
    """
    before, images = _images(task.result), _images(outcome.result)
    new = Counter(map(_fate, images)) - Counter(map(_fate, before))
    seconds = now - task.last_instance_at
    has_come = bool(_uids(images) - _uids(before))
    counts = list(_of_images(images, new))
    if outcome.status is TaskStatus.NOT_PROCESSED:
        if has_come:
            counts += [Count(STUDIES_REFUSED, (outcome.reason or "",)), _latency("refusal", seconds)]
    elif has_come:
        counts.append(_latency("results", seconds))
    if concludes and outcome.status is TaskStatus.DONE and _is_news(task.result, outcome.result):
        counts += [Count(STUDIES_REPORTED, (outcome.priority,)), _latency("report", seconds)]
    return counts


def of_failure(reason: str, status: str) -> list[Count]:
    """An attempt failed, and left the task in this state."""
    given_up = status == TaskStatus.QUARANTINED
    return [Count(ATTEMPT_FAILED, (reason, "quarantined" if given_up else "retried"))]


def of_lost_leases(states: Iterable[str]) -> list[Count]:
    """Workers fell silent on tasks, and left them in these states."""
    found = list(states)
    given_up = sum(state == TaskStatus.QUARANTINED for state in found)
    return [
        *([Count(LEASE_LOST, number=len(found))] if found else []),
        *([Count(ATTEMPT_FAILED, ("worker_died", "quarantined"), given_up)] if given_up else []),
    ]


def _latency(stage: str, seconds: float) -> Count:
    seconds = max(0.0, seconds)  # the clock may have been put back
    return Count(LATENCY, (stage, _bound(seconds, SECONDS)), total=seconds)


def _bound(value: float, bounds: tuple[float, ...]) -> str:
    place = bisect_left(bounds, value)
    return repr(bounds[place]) if place < len(bounds) else BEYOND


def _images(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [image for image in result.get("images", ()) if isinstance(image, dict)]


def _uids(images: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(str(image.get("sop_instance_uid", "")) for image in images)


def _fate(image: Mapping[str, Any]) -> Fate:
    """What became of an image; its measurement report has another UID when another model, or version, said it."""
    told = image.get("reason") or image.get("measurement_report") or ""
    return str(image.get("sop_instance_uid", "")), str(image.get("status", "")), str(told)


def _is_news(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether this report tells of an image of which none told before."""
    return bool(set(after.get("concluded", ())) - set(before.get("concluded", ())))


def _of_images(images: Iterable[Mapping[str, Any]], new: Mapping[Fate, int]) -> Iterator[Count]:
    left = dict(new)
    for image in images:
        if left.get(_fate(image), 0) == 0:
            continue
        left[_fate(image)] -= 1
        if image.get("status") != TaskStatus.DONE:
            yield Count(IMAGES_REFUSED, (str(image.get("reason") or ""),))
            continue
        yield Count(IMAGES_READ)
        versions = image.get("models", {})
        for finding in image.get("findings", ()):
            bundle, probability = str(finding.get("model") or ""), finding["probability"]
            version = str(versions.get(bundle, ""))
            bound = UNSAID if probability is None else _bound(probability, PROBABILITIES)
            labels = bundle, version, str(finding["key"]), str(finding["state"]), bound
            yield Count(FINDING, labels, total=probability or 0.0)

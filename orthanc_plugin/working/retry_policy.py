"""What follows from a failed attempt: when the study is tried again, and when it is left to a person.

The rule: an outage, which the study cannot help, costs it nothing but time; only its own failures are counted.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from orthanc_plugin.ledger.tasks import Failure, InferenceTask
from orthanc_plugin.settings import Settings

# Reasons that are not the study's: it is tried until the deadline.
OUTAGES = frozenset({"orthanc_unavailable", "storage_full", "intake_unavailable"})
LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True)
class NextTry:
    """What the ledger is told.

    Parameters
    ----------
    at
        Seconds since 1970; None: never, the study goes into quarantine.
    counted
        Whether the failure is one of the study's own.
    """

    failure: Failure
    at: float | None
    counted: bool


def next_try(task: InferenceTask, failure: Failure, settings: Settings, *, now: float) -> NextTry:
    """Decide what follows from the failure of a claimed task.

    Parameters
    ----------
    now
        Seconds since 1970.
    """
    failures = task.failures + 1
    if failure.reason not in OUTAGES:
        again = task.attempts + 1 < settings.attempts
        return NextTry(failure, now + pause_seconds(failures, 1.0) if again else None, counted=True)
    began = now if task.first_failed_at is None else task.first_failed_at
    if now - began > settings.deadline_hours * 3600.0:
        message = f"{failure.message}; given up after {settings.deadline_hours:g} hours"
        return NextTry(replace(failure, reason="deadline", message=message), None, counted=False)
    return NextTry(failure, now + pause_seconds(failures, 2.0), counted=False)


def pause_seconds(failures: int, first: float, longest: float = LONGEST_PAUSE_SECONDS) -> float:
    """How long to wait after so many failures in a row (from 1): twice as long each time, and never two alike."""
    return min(first * 2.0 ** min(failures - 1, 16), longest / 1.2) * random.uniform(0.8, 1.2)  # noqa: S311

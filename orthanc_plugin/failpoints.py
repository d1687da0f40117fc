"""Places at which a process can be made to die, so that every way of dying is tried: used by ``tests/faults`` alone.

The rule: without the environment variable ``HILUM_FAILPOINTS`` nothing here does anything. It names places with the
probability of dying there each time one is reached: ``report_stored:0.3,claimed:0.05``.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal

POINTS = (
    "instance_stored", "enqueued",  # in Orthanc's process
    "claimed", "task_sent", "outcome_received", "answering", "answered", "failing", "released",  # in the worker
    "fetched", "read", "segmentation_stored", "report_stored", "text_stored", "outcome_sent",  # in a reading process
)  # fmt: skip
# in the worker too, where results are given to others
DELIVERY_POINTS = (
    "delivery_claimed", "object_taken", "commitment_asked", "delivery_taken", "delivery_struck_off",
    "purge_committed", "purged",
)  # fmt: skip


class FailpointUnknown(ValueError):
    """The environment names a place that does not exist, or no probability."""


def parse(text: str) -> dict[str, float]:
    """Place to probability.

    Raises
    ------
    FailpointUnknown
    """
    chances = {}
    for item in filter(None, text.replace(" ", "").split(",")):
        name, _, chance = item.partition(":")
        try:
            chances[name] = float(chance)
        except ValueError:
            raise FailpointUnknown(f"{item!r}: write a place and a probability, as in claimed:0.1") from None
        if name not in POINTS + DELIVERY_POINTS:
            raise FailpointUnknown(f"{name!r} is no place to fail at; there are {', '.join(POINTS + DELIVERY_POINTS)}")
    return chances


_CHANCES = parse(os.environ.get("HILUM_FAILPOINTS", ""))


def reach(name: str) -> None:
    """Say that execution has come to this place; here this process may end by SIGKILL."""
    if _CHANCES and random.random() < _CHANCES.get(name, 0.0):  # noqa: S311
        with contextlib.suppress(OSError):
            os.write(2, f"failpoint {name}\n".encode())  # so that whoever asked for it can count
        os.kill(os.getpid(), signal.SIGKILL)

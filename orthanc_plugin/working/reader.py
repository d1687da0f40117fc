"""What a seat of a worker knows of whatever reads for it, a process of this machine or an actor of a cluster; and the
lines in which a worker and its processes speak.

The rule: one JSON object a line, so that no garbage from a broken process is more than a wrong line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

from orthanc_plugin.ledger.flagging import Flag
from orthanc_plugin.ledger.tasks import Failure, InferenceTask, Outcome, TaskStatus, Urgency
from orthanc_plugin.settings import REPOSITORY

_FRAMES = 12  # of a trace: more say no more


class NotReady(Exception):
    """What reads does not come as far as taking a task; the message says why."""


class ModelsUnusable(NotReady):
    """What reads says itself that it cannot, and why."""


class Abandoned(Exception):
    """The answer is not wanted any more, or will not come by no fault of the study: the task is given back."""


class Reader(Protocol):
    """Something that has the models in memory and reads one study after the other. A context manager."""

    def __enter__(self) -> Self:
        """Itself."""

    def __exit__(self, *_: object) -> None:
        """Let go of it."""

    @property
    def versions(self) -> dict[str, str]:
        """Of its models: name to version."""

    @property
    def pid(self) -> int:
        """Of the process on this machine."""

    def lives(self) -> bool:
        """Whether it can be given a task."""

    def is_released(self) -> bool:
        """Whether it is not needed for now, or away: no fault of its own, another is waited for."""

    def read(
        self, task: InferenceTask, seconds: float, unwanted: Callable[[], bool], flagged: Callable[[Flag], None]
    ) -> Outcome | Failure:
        """Have one study read.

        Parameters
        ----------
        seconds
            How long this may take.
        unwanted
            Asked now and then: whether to stop waiting for it.
        flagged
            Told what the models say of an image, before its results are stored.

        Raises
        ------
        NotReady
            When the task was never begun: no fault of the study.
        Abandoned
        """


class Readers(Protocol):
    """Where a seat gets one reader after the other from. A context manager."""

    def __enter__(self) -> Self:
        """Itself."""

    def __exit__(self, *_: object) -> None:
        """End what was started."""

    def open(self, chosen: bytes, unwanted: Callable[[], bool]) -> Reader:
        """The next one; returns when its models are loaded.

        Parameters
        ----------
        chosen
            What the site has chosen of the models.

        Raises
        ------
        NotReady
        Abandoned
        """


def line_of(value: Mapping[str, Any]) -> bytes:
    """A message of either side."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def task_of(fields: Mapping[str, Any]) -> InferenceTask:
    """A task from its JSON types."""
    return InferenceTask(**{**fields, "urgency": Urgency(fields["urgency"])})


def answer_of(message: Mapping[str, Any]) -> Outcome | Failure | Flag:
    """What a message says of a task; ValueError, TypeError or KeyError when it is no answer."""
    if "failure" in message:
        return Failure(**{name: str(value) for name, value in message["failure"].items()})
    if "flag" in message:
        return Flag(**message["flag"])
    fields = message["outcome"]
    return Outcome(**{**fields, "status": TaskStatus(fields["status"])})


def short_trace(frames: Sequence[str]) -> str:
    """The innermost frames of a trace, for people."""
    return "\n".join(frames[-_FRAMES:]).replace(f"{REPOSITORY}/", "")

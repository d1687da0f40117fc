"""What a task is: its states, what comes in, and what a worker gives back. Values only, no I/O.

The rule: whatever may name a patient is left out of the printed form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any


class TaskStatus(StrEnum):
    """Where a study stands; the values are those of the worklist's interface."""

    QUEUED = "queued"
    RUNNING = "running"
    ANSWERED = "answered"  # every image that has come; the study's own report waits for the study to be complete
    DONE = "done"
    NOT_PROCESSED = "not_processed"  # no image of the study may be read: see its reason
    QUARANTINED = "quarantined"  # every attempt failed: see its reason; a person may have it tried again
    REMOVED = "removed"  # its images are no longer in Orthanc; the worklist does not show it


_LONGEST_VALUE = 256  # characters: a PN has three groups of 64; databases refuse to index much longer ones
_AT_REST = {TaskStatus.QUEUED, TaskStatus.REMOVED}
# From one transaction to the next; `claim` may lead a RUNNING task, whose lease ran out, back to RUNNING in one.
TRANSITIONS: dict[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.QUEUED: frozenset({TaskStatus.RUNNING, TaskStatus.REMOVED}),
    TaskStatus.RUNNING: frozenset(set(TaskStatus) - {TaskStatus.REMOVED}),
    TaskStatus.ANSWERED: frozenset({TaskStatus.RUNNING, *_AT_REST}),
    TaskStatus.DONE: frozenset(_AT_REST),
    TaskStatus.NOT_PROCESSED: frozenset(_AT_REST),
    TaskStatus.QUARANTINED: frozenset(_AT_REST),
    TaskStatus.REMOVED: frozenset({TaskStatus.QUEUED}),
}


class Urgency(IntEnum):
    """What goes first; the number is what the ledger holds."""

    STAT = 0  # before whatever has waited less than an hour longer
    ROUTINE = 1
    BACKGROUND = 2  # when nothing else is due, or after 15 minutes one a minute
    ARCHIVE = 3  # when nothing else at all is due: what a run through the archive reads again


class ClaimLost(Exception):
    """The task was taken over by another worker, or removed, since it was claimed: drop the work."""


@dataclass(frozen=True)
class Arrival:
    """What the plugin knows of a stored instance: enough for a row of the worklist."""

    study_instance_uid: str
    patient_name: str = field(default="", repr=False)
    patient_id: str = field(default="", repr=False)
    patient_birth_date: str = field(default="", repr=False)
    patient_sex: str = field(default="", repr=False)
    accession_number: str = field(default="", repr=False)
    study_date: str = field(default="", repr=False)
    study_time: str = field(default="", repr=False)
    study_description: str = field(default="", repr=False)
    referring_physician: str = field(default="", repr=False)
    patient_age: str = field(default="", repr=False)

    @classmethod
    def from_tags(cls, tags: Mapping[str, Any]) -> Arrival:
        """From the attributes of an image by their keywords, as Orthanc gives them.

        What is no text counts as empty, and of one that is longer than any valid value the beginning.
        """
        return cls(
            study_instance_uid=text_of(tags, "StudyInstanceUID"),
            patient_name=text_of(tags, "PatientName"),
            patient_id=text_of(tags, "PatientID"),
            patient_birth_date=text_of(tags, "PatientBirthDate"),
            patient_sex=text_of(tags, "PatientSex"),
            accession_number=text_of(tags, "AccessionNumber"),
            study_date=text_of(tags, "StudyDate"),
            study_time=text_of(tags, "StudyTime"),
            study_description=text_of(tags, "StudyDescription"),
            referring_physician=text_of(tags, "ReferringPhysicianName"),
            patient_age=text_of(tags, "PatientAge"),
        )


def text_of(tags: Mapping[str, Any], keyword: str) -> str:
    """The text of an attribute without the spaces around it; empty where it has none."""
    value = tags.get(keyword)
    return value.strip()[:_LONGEST_VALUE] if isinstance(value, str) else ""


@dataclass(frozen=True)
class InferenceTask:
    """A study that this worker has claimed until its lease ends.

    Parameters
    ----------
    attempts
        Failures of its own since its last image.
    failures
        Failures in a row, whosever they were: the exponent of the back-off.
    first_failed_at
        When they began; None when there was none.
    result
        The answer so far.
    conclude
        The stored answer has seen every image; only the study's own report is due.
    """

    study_instance_uid: str
    fence: int
    generation: int
    attempts: int
    failures: int
    first_failed_at: float | None
    result: dict[str, Any] = field(repr=False)
    conclude: bool
    received_at: float
    last_instance_at: float
    urgency: Urgency


@dataclass(frozen=True)
class Outcome:
    """What became of a claimed task.

    Parameters
    ----------
    status
        DONE or NOT_PROCESSED.
    result
        JSON: ``{"images": [...]}``.
    message
        Why it has its priority, or of NOT_PROCESSED why there is no answer; without patient data.
    content
        Digest of what Orthanc held of the study, by which reconciliation knows that nothing has changed since.
    conclude_at
        When the study's own report is due; None when it is made, or there is none to make.
    """

    status: TaskStatus
    priority: str
    priority_rank: int
    result: dict[str, Any] = field(repr=False)
    reason: str | None = None
    message: str | None = None
    content: str = ""
    conclude_at: float | None = None


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed.

    Parameters
    ----------
    reason
        Code.
    message
        For people, without patient data.
    trace
        Where: lines of ``file:line function``, never values.
    """

    reason: str
    message: str
    trace: str = ""


@dataclass(frozen=True)
class Standing:
    """What reconciliation compares with Orthanc."""

    status: TaskStatus
    content: str
    generation: int
    answered_generation: int

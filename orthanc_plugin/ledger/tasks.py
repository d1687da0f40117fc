"""The tasks of the ledger: one for each study, and what became of it.

The rule: every change of state is one conditional UPDATE, so that two workers, or a worker that was thought dead, can
never both write. The images and results themselves live in Orthanc; a lost ledger is rebuilt from there.

::

    stored image: any --> QUEUED       (RUNNING stays, and is queued again when it is answered)

    QUEUED ----claim---> RUNNING --answer--> ANSWERED | DONE | NOT_PROCESSED
       ^                  | |  ^                |
       |--release---------' |  '--claim---------'      each image is answered; the study's own report is due
       |--fail, lease ran out
       |                    '--fail, no attempt left--> QUARANTINED
       '--retry------------------------------------------'

    no longer in Orthanc: any but RUNNING --> REMOVED
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection

from orthanc_plugin.ledger import counters, counting
from orthanc_plugin.ledger.claiming import claim, end_leases, end_pauses
from orthanc_plugin.ledger.derived import counts_of, find_by_words, version_of, words_of, write_findings, write_words
from orthanc_plugin.ledger.lowering import priority_kept
from orthanc_plugin.ledger.marks import reopen_raised
from orthanc_plugin.ledger.notes import (
    belong_to,
    forget_workers,
    get_fact,
    ready_models,
    report_worker,
    set_fact,
    workers_seen,
)
from orthanc_plugin.ledger.statements import SHIFT_SECONDS, run
from orthanc_plugin.ledger.task_states import (
    TRANSITIONS,
    Arrival,
    ClaimLost,
    Failure,
    InferenceTask,
    Outcome,
    Standing,
    TaskStatus,
    Urgency,
)
from orthanc_plugin.ledger.views import after, count_by_status, of_study, oldest_waiting, standing

__all__ = [
    "TRANSITIONS",
    "Arrival",
    "ClaimLost",
    "Failure",
    "InferenceTask",
    "Outcome",
    "Standing",
    "TaskStatus",
    "Urgency",
    "adopt",
    "after",
    "answer",
    "belong_to",
    "claim",
    "count_by_status",
    "end_leases",
    "end_pauses",
    "enqueue",
    "fail",
    "forget_workers",
    "get_fact",
    "heartbeat",
    "mark_removed",
    "of_study",
    "oldest_waiting",
    "ready_models",
    "release",
    "report_worker",
    "request_again",
    "retry",
    "set_fact",
    "standing",
    "workers_seen",
]


# What an image, or whoever asks for another reading, does to a task that is there; one statement with the image itself,
# for a C-STORE waits.
_AGAIN = """
            status = CASE WHEN tasks.status = 'running' THEN 'running' ELSE 'queued' END,
            generation = tasks.generation + 1,
            urgency = CASE WHEN tasks.status IN ('queued', 'running', 'answered') AND tasks.urgency < :urgency
                           THEN tasks.urgency ELSE :urgency END,
            not_before = CASE WHEN tasks.status = 'queued' AND tasks.not_before < :now THEN tasks.not_before
                              ELSE :now END,
            due_order = CASE WHEN tasks.status = 'running' THEN NULL ELSE
                            CASE WHEN tasks.status = 'queued' AND tasks.not_before < :now THEN tasks.not_before
                                 ELSE :now END
                            + CASE WHEN tasks.status IN ('queued', 'answered') AND tasks.urgency < :urgency
                                   THEN {shift} ELSE :shift END END,
            attempts = 0, failures = 0, abandoned = 0, first_failed_at = NULL, written_at = :now
"""


def enqueue(db: Connection, arrival: Arrival, *, now: float, urgency: Urgency = Urgency.ROUTINE) -> None:
    """Record a stored instance: its study is due at once, and what it says of the patient counts from now on."""
    words = words_of(arrival.patient_name, arrival.patient_id, arrival.accession_number)
    row = run(
        db,
        """
        INSERT INTO tasks (study_instance_uid, status, generation, urgency, not_before, due_order, written_at,
                           received_at, last_instance_at,
                           patient_name, patient_id, patient_birth_date, patient_sex, accession_number,
                           study_date, study_time, study_description, referring_physician, patient_age, search_words)
        VALUES (:study_instance_uid, 'queued', 1, :urgency, :now, :due, :now, :now, :now,
                :patient_name, :patient_id, :patient_birth_date, :patient_sex, :accession_number,
                :study_date, :study_time, :study_description, :referring_physician, :patient_age, :words)
        ON CONFLICT (study_instance_uid) DO UPDATE SET
            last_instance_at = excluded.last_instance_at,
            patient_name = coalesce(nullif(excluded.patient_name, ''), tasks.patient_name),
            patient_id = coalesce(nullif(excluded.patient_id, ''), tasks.patient_id),
            patient_birth_date = coalesce(nullif(excluded.patient_birth_date, ''), tasks.patient_birth_date),
            patient_sex = coalesce(nullif(excluded.patient_sex, ''), tasks.patient_sex),
            accession_number = coalesce(nullif(excluded.accession_number, ''), tasks.accession_number),
            study_date = coalesce(nullif(excluded.study_date, ''), tasks.study_date),
            study_time = coalesce(nullif(excluded.study_time, ''), tasks.study_time),
            study_description = coalesce(nullif(excluded.study_description, ''), tasks.study_description),
            referring_physician = coalesce(nullif(excluded.referring_physician, ''), tasks.referring_physician),
            patient_age = coalesce(nullif(excluded.patient_age, ''), tasks.patient_age),
        {again}
        RETURNING generation, search_words, patient_name, patient_id, accession_number
        """.replace("{again}", _AGAIN),
        **vars(arrival),  # asdict would copy each value, while a C-STORE waits
        words=words,
        now=now,
        urgency=int(urgency),
        shift=SHIFT_SECONDS[urgency],
        due=now + SHIFT_SECONDS[urgency],
    ).one()
    find_by_words(db, arrival.study_instance_uid, row)


def request_again(db: Connection, study_instance_uid: str, *, now: float, urgency: Urgency = Urgency.ROUTINE) -> bool:
    """Have a known study read once more, as if an image had come; False when the ledger does not know it.

    A task that waits keeps its place in the queue and the more pressing of both urgencies; what failed before is
    forgotten.
    """
    changed = run(
        db,
        "UPDATE tasks SET {again} WHERE study_instance_uid = :uid".replace("{again}", _AGAIN),
        uid=study_instance_uid,
        now=now,
        urgency=int(urgency),
        shift=SHIFT_SECONDS[urgency],
    ).rowcount
    return changed == 1


def adopt(db: Connection, arrival: Arrival, outcome: Outcome, *, now: float, received_at: float | None = None) -> bool:
    """Make the row of an answered study from its results in Orthanc; False when the ledger knows the study already.

    Parameters
    ----------
    received_at
        When its last image came, seconds since 1970; `now` when that is not known.
    """
    changed = run(
        db,
        """
        INSERT INTO tasks (study_instance_uid, status, generation, claimed_generation, answered_generation,
                           not_before, written_at, received_at, last_instance_at, completed_at,
                           priority, priority_rank, priority_reason, reason, message, result, content, answer_version,
                           present, undetermined, patient_name, patient_id, patient_birth_date, patient_sex,
                           accession_number, study_date, study_time, study_description, referring_physician,
                           patient_age, search_words)
        VALUES (:study_instance_uid, :status, 1, 1, 1, :now, :now, :received_at, :received_at, :now,
                :priority, :priority_rank, :priority_reason, :reason, :message, :result, :content, :answer_version,
                :present, :undetermined, :patient_name, :patient_id, :patient_birth_date, :patient_sex,
                :accession_number, :study_date, :study_time, :study_description, :referring_physician,
                :patient_age, :words)
        ON CONFLICT (study_instance_uid) DO NOTHING
        """,
        **asdict(arrival),
        **_answer(outcome),
        words=(words := words_of(arrival.patient_name, arrival.patient_id, arrival.accession_number)),
        now=now,
        received_at=now if received_at is None else received_at,
    ).rowcount
    if changed:
        write_words(db, arrival.study_instance_uid, words, before="")
        write_findings(db, arrival.study_instance_uid, outcome.result)
    return changed == 1


def heartbeat(db: Connection, task: InferenceTask, *, now: float, lease_seconds: float) -> None:
    """Prolong the lease of a claimed task.

    Raises
    ------
    ClaimLost
    """
    _change_claimed(
        db,
        task,
        """
        UPDATE tasks SET lease_until = :lease_until, written_at = :now
        WHERE study_instance_uid = :uid AND fence = :fence AND status = 'running'
        """,
        lease_until=now + lease_seconds,
        now=now,
    )


def answer(db: Connection, task: InferenceTask, outcome: Outcome, *, now: float, conclude_at: float | None) -> None:
    """Record the answer; a study to which images came meanwhile is queued again and keeps this answer till then.

    A study that somebody has read counts as unread again when its priority is higher now than it was then; one that
    nobody has read keeps a more pressing one (``lowering``).

    Parameters
    ----------
    conclude_at
        When the study's own report is due, if no image comes; None: it is there, or there is none to make.

    Raises
    ------
    ClaimLost
    """
    _change_claimed(
        db,
        task,
        """
        UPDATE tasks SET
            status = CASE WHEN generation > claimed_generation THEN 'queued'
                          WHEN :concludes = 1 THEN 'answered' ELSE :status END,
            not_before = CASE WHEN generation > claimed_generation THEN :now ELSE :conclude_at END,
            due_order = CASE WHEN generation > claimed_generation THEN :now + {shift}
                             WHEN :concludes = 1 THEN :conclude_at + {shift} ELSE NULL END,
            answered_generation = claimed_generation,
            priority = :priority, priority_rank = :priority_rank, priority_reason = :priority_reason, first_answer = 0,
            lowered_from = :lowered_from, reason = :reason, message = :message, result = :result, content = :content,
            answer_version = :answer_version, present = :present, undetermined = :undetermined, completed_at = :now,
            written_at = :now, lease_until = NULL, attempts = 0, failures = 0, abandoned = 0, first_failed_at = NULL,
            trace = NULL
        WHERE study_instance_uid = :uid AND fence = :fence AND status = 'running'
        """,
        **(_answer(outcome) | priority_kept(db, task.study_instance_uid, outcome)),
        now=now,
        concludes=int(conclude_at is not None),
        conclude_at=now if conclude_at is None else conclude_at,
    )
    write_findings(db, task.study_instance_uid, outcome.result)
    reopen_raised(db, task.study_instance_uid, now=now)
    counters.add(db, counting.of_answer(task, outcome, now=now, concludes=conclude_at is None))


def fail(
    db: Connection, task: InferenceTask, failure: Failure, *, now: float, retry_at: float | None, counted: bool
) -> None:
    """Record a failed attempt: queued again, or QUARANTINED when no retry is named and no image came meanwhile.

    Parameters
    ----------
    retry_at
        When it is tried again; None: never, unless an image or a person asks for it.
    counted
        Whether it is the study's own failure, and no outage of what the study cannot help.

    Raises
    ------
    ClaimLost
    """
    status = _change_claimed(
        db,
        task,
        """
        UPDATE tasks SET
            status = CASE WHEN :final = 1 AND generation = claimed_generation THEN 'quarantined' ELSE 'queued' END,
            not_before = :retry_at,
            due_order = CASE WHEN :final = 1 AND generation = claimed_generation THEN NULL
                             ELSE :retry_at + {shift} END,
            attempts = CASE WHEN generation > claimed_generation THEN 0 ELSE attempts + :counted END,
            failures = CASE WHEN :final = 1 AND generation > claimed_generation THEN 0 ELSE failures + 1 END,
            first_failed_at = CASE WHEN :final = 1 AND generation > claimed_generation THEN NULL
                                   ELSE coalesce(first_failed_at, :now) END,
            reason = :reason, message = :message, trace = :trace, lease_until = NULL, written_at = :now,
            completed_at = CASE WHEN :final = 1 AND generation = claimed_generation THEN :now ELSE completed_at END
        WHERE study_instance_uid = :uid AND fence = :fence AND status = 'running'
        """,
        **asdict(failure),
        now=now,
        final=int(retry_at is None),
        retry_at=now if retry_at is None else retry_at,
        counted=int(counted),
    )
    counters.add(db, counting.of_failure(failure.reason, status))


def release(db: Connection, task: InferenceTask, *, now: float) -> None:
    """Give a claimed task back unread, to where it stood in the queue: the worker stops on purpose.

    Raises
    ------
    ClaimLost
    """
    _change_claimed(
        db,
        task,
        """
        UPDATE tasks SET status = 'queued', due_order = not_before + {shift}, lease_until = NULL, written_at = :now
        WHERE study_instance_uid = :uid AND fence = :fence AND status = 'running'
        """,
        now=now,
    )


def retry(db: Connection, study_instance_uid: str | None, *, now: float) -> int:
    """Have a quarantined study, or with None every one, tried again from the first attempt; how many there were."""
    return run(
        db,
        """
        UPDATE tasks SET status = 'queued', not_before = :now, due_order = :now + {shift}, written_at = :now,
                         attempts = 0, failures = 0, abandoned = 0, first_failed_at = NULL
        WHERE status = 'quarantined' AND study_instance_uid = coalesce(CAST(:uid AS TEXT), study_instance_uid)
        """,
        uid=study_instance_uid,
        now=now,
    ).rowcount


def mark_removed(db: Connection, study_instance_uid: str, *, seen: int, now: float) -> bool:
    """Note that Orthanc holds no image of a study any more, and forget its patient and its answer.

    Parameters
    ----------
    seen
        The `generation` of the study's `Standing` from before Orthanc was asked.

    Returns
    -------
    bool
        False when an image has come since, a worker is at it, or it was noted before.
    """
    # read before it is forgotten: the index of words leads from a word to its studies, not back
    words = run(db, "SELECT search_words FROM tasks WHERE study_instance_uid = :uid {locked}", uid=study_instance_uid)
    before = words.scalar() or ""
    changed = run(
        db,
        """
        UPDATE tasks SET status = 'removed', due_order = NULL, written_at = :now, completed_at = :now,
                         result = '{}', content = '', priority = 'none', priority_rank = 3,
                         reason = NULL, message = NULL, trace = NULL,
                         patient_name = '', patient_id = '', patient_birth_date = '', patient_sex = '',
                         accession_number = '', study_date = '', study_time = '', study_description = '',
                         referring_physician = '', patient_age = '', search_words = '', answer_version = 0,
                         read_at = NULL, read_by = '', reopened_at = NULL, claimed_by = '', assigned_to = '',
                         lowered_from = '', priority_reason = '', first_answer = 0, read_as = '', present = 0,
                         undetermined = 0
        WHERE study_instance_uid = :uid AND generation = :seen AND status NOT IN ('running', 'removed')
        """,
        uid=study_instance_uid,
        seen=seen,
        now=now,
    ).rowcount
    if changed:
        write_words(db, study_instance_uid, "", before=before)
        write_findings(db, study_instance_uid, {})
    return changed == 1


def _answer(outcome: Outcome) -> dict[str, Any]:
    """The parameters of an outcome."""
    return {
        "status": outcome.status.value,
        "priority": outcome.priority,
        "priority_rank": outcome.priority_rank,
        "priority_reason": outcome.message or "" if outcome.status is TaskStatus.DONE else "",
        "reason": outcome.reason,
        "message": outcome.message,
        "result": json.dumps(outcome.result, separators=(",", ":")),
        "answer_version": version_of(outcome.result),
        **counts_of(outcome.result),
        "content": outcome.content,
    }


def _change_claimed(db: Connection, task: InferenceTask, sql: str, **values: Any) -> str:
    """Change the task while the claim holds; returns the state that it has now."""
    found = run(db, f"{sql} RETURNING status", uid=task.study_instance_uid, fence=task.fence, **values).scalar()
    if found is None:
        raise ClaimLost(f"study {task.study_instance_uid}: the claim (fence {task.fence}) no longer holds")
    return str(found)

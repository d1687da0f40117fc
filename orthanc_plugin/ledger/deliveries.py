"""What is owed to whom: one row for each study and destination, and what of it was taken.

The rule: it is owed in the very transaction that answers the study, and struck off only after it was taken, so that
nothing is lost whatever dies; what was taken and not confirmed goes out once more, with the same identifiers. Whoever
claims a row has it until `due_at`, prolongs that while it works, and writes only while its fence stands: so one writer
at a time is responsible, and a destination that is down has its rows wait without anybody else's.

::

    answer: any --> OWED     (a claim stands, and the row is owed again when it ends)

    OWED --claim, taken--> DELIVERED
      ^        |-- put off, or its writer fell silent --> OWED, due later
      |        '-- refused --> REFUSED
      '--retry-------------------'
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection

from orthanc_plugin.integration import Destination
from orthanc_plugin.ledger import counters
from orthanc_plugin.ledger.counters import Count
from orthanc_plugin.ledger.notes import set_fact
from orthanc_plugin.ledger.statements import result_of, run
from orthanc_plugin.ledger.task_states import Outcome, TaskStatus

DELIVERY = "delivery"  # the count: destination, outcome
PURGED = "studies_purged"  # the count of ``delivery.purging``
TAKEN = "delivered"  # an outcome
RETRIED = "deliveries_retried"  # the fact: when somebody asked for it last
_IMPOSSIBLE_SECONDS = 7200.0  # no pause is as long: a later time was written before the clock was put back


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    OWED = "owed"
    DELIVERED = "delivered"
    REFUSED = "refused"  # its receiver will not have it: a person may have it tried again


@dataclass(frozen=True)
class Delivery:
    """A delivery that this process has claimed.

    Parameters
    ----------
    taken
        What the receiver has taken so far: JSON that its protocol understands.
    """

    destination: str
    study_instance_uid: str
    fence: int
    failures: int
    owed_since: float
    taken: dict[str, Any] = field(repr=False)


class DeliveryLost(Exception):
    """Somebody else has claimed the delivery meanwhile: drop the work."""


def owe(db: Connection, study: str, outcome: Outcome, destinations: Iterable[Destination], *, now: float) -> None:
    """Owe an answer to whom it concerns; what somebody was given before is owed to them whatever it says now."""
    for one in destinations:
        if not _concerns(one, outcome):
            run(db, _OWED_AGAIN, study=study, destination=one.name, now=now)
            continue
        run(
            db,
            """
            INSERT INTO deliveries (destination, study_instance_uid, state, owed, owed_since, due_at)
            VALUES (:destination, :study, 'owed', 1, :now, :now)
            ON CONFLICT (destination, study_instance_uid) DO UPDATE SET {again}
            """.replace("{again}", _AGAIN),
            destination=one.name,
            study=study,
            now=now,
        )


# a claim keeps its time: it is due when that ends
_AGAIN = """
    owed_since = CASE WHEN deliveries.state = 'owed' THEN deliveries.owed_since ELSE :now END,
    due_at = CASE WHEN deliveries.state = 'owed' THEN deliveries.due_at ELSE :now END,
    failures = CASE WHEN deliveries.state = 'owed' THEN deliveries.failures ELSE 0 END,
    owed = deliveries.owed + 1, state = 'owed'
"""
_OWED_AGAIN = "UPDATE deliveries SET {again} WHERE destination = :destination AND study_instance_uid = :study".replace(
    "{again}", _AGAIN
)


def _concerns(destination: Destination, outcome: Outcome) -> bool:
    if destination.protocol in ("dicom", "stow", "hl7") and outcome.status is not TaskStatus.DONE:
        return False  # nothing was read
    if outcome.priority not in destination.priorities:
        return False
    wanted = {title.casefold() for title in destination.calling_ae_titles}
    images = outcome.result.get("images", ())
    return not wanted or any(str(image.get("calling_ae_title", "")).casefold() in wanted for image in images)


def claim(db: Connection, destination: str, worker_id: str, *, now: float, seconds: float) -> Delivery | None:
    """Take the delivery to a destination whose turn it is, for so many seconds; None when nothing is due."""
    row = run(
        db,
        """
        UPDATE deliveries SET fence = fence + 1, claimed = owed, holder = :worker_id, due_at = :until
        WHERE destination = :destination AND state = 'owed' AND study_instance_uid = (
            SELECT study_instance_uid FROM deliveries
            WHERE destination = :destination AND state = 'owed' AND (due_at <= :now OR due_at > :impossible)
            ORDER BY due_at LIMIT 1 {skip_locked})
        RETURNING study_instance_uid, fence, failures, owed_since, taken
        """,
        destination=destination,
        worker_id=worker_id,
        now=now,
        until=now + seconds,
        impossible=now + _IMPOSSIBLE_SECONDS,
    ).one_or_none()
    if row is None:
        return None
    return Delivery(
        destination, row.study_instance_uid, row.fence, row.failures, row.owed_since, dict(json.loads(row.taken))
    )


def is_due(db: Connection, destination: str, *, now: float) -> bool:
    """Whether there is anything to `claim`."""
    row = run(
        db,
        "SELECT 1 FROM deliveries WHERE destination = :destination AND state = 'owed' "
        "AND (due_at <= :now OR due_at > :impossible) LIMIT 1",
        destination=destination,
        now=now,
        impossible=now + _IMPOSSIBLE_SECONDS,
    )
    return row.first() is not None


def end_pauses(db: Connection, destination: str, *, now: float) -> int:
    """Have due what waits for a destination that answers again; how many there were."""
    return run(
        db,
        "UPDATE deliveries SET due_at = :now WHERE destination = :destination AND state = 'owed' AND holder = '' "
        "AND due_at > :now AND failures > 0",
        destination=destination,
        now=now,
    ).rowcount


def end_claims(db: Connection, destination: str, worker_id: str, *, now: float) -> int:
    """Have due what a writer that is known to be dead had claimed; how many there were."""
    return run(
        db,
        "UPDATE deliveries SET due_at = :now, holder = '' "
        "WHERE destination = :destination AND state = 'owed' AND holder = :worker_id",
        destination=destination,
        worker_id=worker_id,
        now=now,
    ).rowcount


def prolong(db: Connection, delivery: Delivery, *, now: float, seconds: float) -> None:
    """Keep a claim.

    Raises
    ------
    DeliveryLost
    """
    _change(db, delivery, "due_at = :until", until=now + seconds)


def strike_off(db: Connection, delivery: Delivery, taken: Mapping[str, Any], *, now: float) -> None:
    """It was taken; what was answered anew meanwhile is owed.

    Raises
    ------
    DeliveryLost
    """
    _change(
        db,
        delivery,
        """
        state = CASE WHEN owed > claimed THEN 'owed' ELSE 'delivered' END,
        due_at = CASE WHEN owed > claimed THEN :now ELSE NULL END,
        owed_since = CASE WHEN owed > claimed THEN :now ELSE owed_since END,
        taken = :taken, holder = '', failures = 0, error = '', delivered_at = :now
        """,
        now=now,
        taken=json.dumps(taken, separators=(",", ":")),
    )
    counters.add(db, [Count(DELIVERY, (delivery.destination, TAKEN), total=max(0.0, now - delivery.owed_since))])


def put_off(
    db: Connection,
    delivery: Delivery,
    taken: Mapping[str, Any],
    error: str,
    *,
    next_at: float | None,
    counted: bool = True,
) -> None:
    """It was not taken, or not all of it: try again then, or never (None) unless somebody asks or answers anew.

    Parameters
    ----------
    error
        Why, without patient data; empty where it only waits.
    counted
        Whether it is a failure, and no waiting.

    Raises
    ------
    DeliveryLost
    """
    _change(
        db,
        delivery,
        """
        state = CASE WHEN :final = 1 AND owed = claimed THEN 'refused' ELSE 'owed' END,
        due_at = CASE WHEN :final = 0 THEN :next_at WHEN owed = claimed THEN NULL ELSE :next_at END,
        taken = :taken, holder = '', failures = failures + :counted, error = :error
        """,
        final=int(next_at is None),
        next_at=0.0 if next_at is None else next_at,
        taken=json.dumps(taken, separators=(",", ":")),
        error=error,
        counted=int(counted),
    )
    if counted:
        outcome = "refused" if next_at is None else "put_off"
        counters.add(db, [Count(DELIVERY, (delivery.destination, outcome))])


def retry(db: Connection, destination: str | None, *, now: float) -> int:
    """Have what was refused, and what waits, by one destination or all (None) tried now; how many there are."""
    set_fact(db, RETRIED, repr(now))
    return run(
        db,
        """
        UPDATE deliveries SET owed_since = CASE WHEN state = 'owed' THEN owed_since ELSE :now END,
                              state = 'owed', due_at = :now, failures = 0
        WHERE state IN ('owed', 'refused') AND holder = ''
          AND destination = coalesce(CAST(:destination AS TEXT), destination)
        """,
        destination=destination,
        now=now,
    ).rowcount


def forget(db: Connection, destination: str) -> int:
    """Give up what is owed to a destination, and what it refused; how many there were."""
    return run(
        db,
        "DELETE FROM deliveries WHERE destination = :destination AND state IN ('owed', 'refused')",
        destination=destination,
    ).rowcount


def forget_study(db: Connection, study: str) -> None:
    """Forget what was delivered of a study that was deleted here; what is owed of it stays owed."""
    run(db, "DELETE FROM deliveries WHERE study_instance_uid = :study AND state = 'delivered'", study=study)


def owe_since(db: Connection, destination: Destination, *, since: float, now: float) -> int:
    """Owe a destination what was answered before it was set, of studies since a time; how many that were."""
    rows = run(
        db,
        """
        SELECT study_instance_uid, priority, result FROM tasks AS t
        WHERE status = 'done' AND received_at >= :since AND NOT EXISTS (
            SELECT 1 FROM deliveries AS d
            WHERE d.destination = :destination AND d.study_instance_uid = t.study_instance_uid)
        """,
        since=since,
        destination=destination.name,
    ).all()
    number = 0
    for row in rows:
        outcome = Outcome(TaskStatus.DONE, row.priority, 0, result_of(row.result))
        if _concerns(destination, outcome):
            owe(db, row.study_instance_uid, outcome, [destination], now=now)
            number += 1
    return number


def _change(db: Connection, delivery: Delivery, what: str, **values: Any) -> None:
    changed = run(
        db,
        "UPDATE deliveries SET {what} WHERE destination = :destination AND study_instance_uid = :study "
        "AND fence = :fence AND state = 'owed'".replace("{what}", what),
        destination=delivery.destination,
        study=delivery.study_instance_uid,
        fence=delivery.fence,
        **values,
    ).rowcount
    if changed != 1:
        raise DeliveryLost(f"study {delivery.study_instance_uid} to {delivery.destination}: the claim no longer holds")

"""What the ledger notes besides its tasks: facts about the archive, and the workers that were seen."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, text

from orthanc_plugin.ledger.database import LedgerUnusable

# Names of facts
ARCHIVE = "archive"  # the archive whose images the tasks are about
PLACE = "reconciliation"  # how far each walk has come; a restored archive starts anew
LAST_RECONCILIATION = "last_reconciliation"  # when, in seconds since 1970
ALL_COMPARED = "all_compared"  # when every study of Orthanc had been looked at; none before that
FILES_KNOWN = "files_known"  # until when Orthanc's index knows every file of its storage area, in seconds since 1970
LAST_BACKUP = "last_backup"  # when, in seconds since 1970
ORPHANS = "orphans"  # JSON list of studies with results of ours and no image


def get_fact(db: Connection, name: str) -> str | None:
    """The value noted under a name; None when there is none."""
    value: str | None = db.execute(text("SELECT value FROM facts WHERE name = :name"), {"name": name}).scalar()
    return value


def set_fact(db: Connection, name: str, value: str) -> None:
    """Note a value under a name, in place of the one before."""
    db.execute(
        text(
            """
            INSERT INTO facts (name, value) VALUES (:name, :value)
            ON CONFLICT (name) DO UPDATE SET value = excluded.value
            """
        ),
        {"name": name, "value": value},
    )


def belong_to(db: Connection, archive: str) -> None:
    """Bind a new ledger to its archive, once; check a known one.

    Raises
    ------
    LedgerUnusable
        When the ledger belongs to another archive.
    """
    db.execute(
        text("INSERT INTO facts (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING"),
        {"name": ARCHIVE, "value": archive},
    )
    if get_fact(db, ARCHIVE) != archive:
        raise LedgerUnusable("this ledger belongs to another archive: give each Orthanc a ledger_url of its own")


def report_worker(
    db: Connection,
    worker_id: str,
    state: str,
    models: dict[str, str],
    *,
    now: float,
    problem: str = "",
    busy: int = 0,
) -> None:
    """Note that a worker lives.

    Parameters
    ----------
    state
        ``starting`` or ``ready``.
    models
        Those that it runs: name to version.
    problem
        Code of what keeps it from working; empty when it is well.
    busy
        Number of tasks in hand.
    """
    db.execute(
        text(
            """
            INSERT INTO workers (worker_id, state, models, seen_at, problem, busy)
            VALUES (:worker_id, :state, :models, :now, :problem, :busy)
            ON CONFLICT (worker_id) DO UPDATE SET
                state = excluded.state, models = excluded.models, seen_at = excluded.seen_at,
                problem = excluded.problem, busy = excluded.busy
            """
        ),
        {
            "worker_id": worker_id,
            "state": state,
            "models": json.dumps(models),
            "now": now,
            "problem": problem,
            "busy": busy,
        },
    )


def forget_workers(db: Connection) -> None:
    """Start with no worker known: those that live report again within a second."""
    db.execute(text("DELETE FROM workers"))


def ready_models(db: Connection, *, now: float, silent_seconds: float) -> dict[str, str] | None:
    """The models (name to version) of a worker that is ready and was seen lately; None when there is no such worker."""
    models = db.execute(
        text(
            "SELECT models FROM workers WHERE state = 'ready' AND seen_at BETWEEN :since AND :until"
            " ORDER BY seen_at DESC LIMIT 1"
        ),
        {"since": now - silent_seconds, "until": now + silent_seconds},
    ).scalar()
    return None if models is None else dict(json.loads(models))


def workers_seen(db: Connection, *, now: float, silent_seconds: float) -> list[dict[str, Any]]:
    """The workers that were seen lately: ``worker_id``, ``state``, ``problem``, ``busy`` and ``seen_at``."""
    rows = db.execute(
        text(
            "SELECT worker_id, state, problem, busy, seen_at FROM workers"
            " WHERE seen_at BETWEEN :since AND :until ORDER BY worker_id"
        ),
        {"since": now - silent_seconds, "until": now + silent_seconds},  # later: written before the clock was put back
    )
    return [dict(row) for row in rows.mappings()]

"""What the ledger holds: its schema, its archive, the workers, the last study."""

from __future__ import annotations

import time
from collections.abc import Iterator

from sqlalchemy import Connection, text

from orthanc_plugin.commands import node
from orthanc_plugin.commands.checks.check import Check, unknown, warning, well, wrong
from orthanc_plugin.ledger import views
from orthanc_plugin.ledger.database import Ledger, LedgerError, open_ledger, schema_of
from orthanc_plugin.ledger.figures import count_unfinished, last_answer, ledger_bytes
from orthanc_plugin.ledger.notes import ARCHIVE, LAST_BACKUP, get_fact, workers_seen
from orthanc_plugin.ledger.schema import SCHEMA_VERSION
from orthanc_plugin.settings import Settings

_SILENT_SECONDS = 15.0
_WAITING_SECONDS = 600.0
_DAY = 86_400.0
_CLOCKS_SECONDS = 5.0  # by which database and machine may differ


def check_records(settings: Settings) -> Iterator[Check]:
    """Everything that is asked of the ledger; nothing in it is changed."""
    ledger = open_ledger(settings.ledger_address)
    try:
        yield from _of_ledger(settings, ledger)
    except LedgerError as error:
        yield wrong("ledger", f"{error}", "see the disk or the database server that it lies on")
    finally:
        ledger.close()


def _of_ledger(settings: Settings, ledger: Ledger) -> Iterator[Check]:
    if ledger.path is not None and not ledger.path.exists():
        if settings.storage.exists():
            yield warning("ledger", "there is none", "./hilum up makes it from the results that Orthanc holds")
        else:
            yield well("ledger", "there is none yet; it is made at the first start")
        return
    began = time.perf_counter()
    found = schema_of(ledger)
    if found > SCHEMA_VERSION:
        yield wrong("ledger", f"{ledger.name} has schema {found}, this Hilum knows {SCHEMA_VERSION}", "update Hilum")
        return
    if found < SCHEMA_VERSION:
        yield warning(
            "ledger", f"{ledger.name} has schema {found}, this Hilum wants {SCHEMA_VERSION}", "./hilum up changes it"
        )
        return
    with ledger.read() as db:
        size = ledger_bytes(db) / 1e6
        took = (time.perf_counter() - began) * 1000
        yield well("ledger", f"{ledger.name}, schema {found}, {size:.1f} MB, answered in {took:.0f} ms")
        yield _archive(settings, db)
        if ledger.path is None:
            yield _clocks(db)
        yield from _workers(settings, db)
        yield from _studies(db)
        yield _backup(db)


def _archive(settings: Settings, db: Connection) -> Check:
    owner = get_fact(db, ARCHIVE)
    ours = settings.archive_id_file.read_text("utf-8").strip() if settings.archive_id_file.exists() else None
    if owner is not None and ours is not None and owner != ours:
        return wrong("archive", "the ledger is that of another archive", "give each node a ledger_url of its own")
    return well("archive", "the ledger is this archive's" if owner else "the ledger is nobody's yet")


def _clocks(db: Connection) -> Check:
    apart = float(db.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()) - time.time()
    if abs(apart) > _CLOCKS_SECONDS:
        return warning("database_clock", f"it is {apart:+.0f} s away from this machine's", "run a time service on both")
    return well("database_clock", f"it agrees with this machine's ({apart:+.1f} s)")


def _workers(settings: Settings, db: Connection) -> Iterator[Check]:
    seen = workers_seen(db, now=time.time(), silent_seconds=_SILENT_SECONDS)
    troubled = [worker for worker in seen if worker["problem"]]
    ready = sum(worker["state"] == "ready" for worker in seen)
    busy = sum(worker["busy"] for worker in seen)
    if node.running_pid(settings) is None:
        yield unknown("worker", f"the node does not run; {len(seen)} were heard of within {_SILENT_SECONDS:.0f} s")
    elif troubled:
        yield wrong("worker", f"it reports {troubled[0]['problem']}", "see worker.log; ./hilum status says more")
    elif seen:
        yield well("worker", f"{ready} ready, {len(seen) - ready} starting, {busy} studies in hand")
    else:
        yield wrong(
            "worker",
            f"none was heard of for {_SILENT_SECONDS:.0f} s",
            "it is started again by itself; if this stays, see worker.log",
        )


def _studies(db: Connection) -> Iterator[Check]:
    latest = last_answer(db)
    yield well("last_study", f"answered {_ago(latest)}" if latest else "none was answered yet")
    waiting, oldest = count_unfinished(db), views.oldest_waiting(db, time.time())
    told = f"{waiting['queued']} wait, {waiting['running']} in hand"
    if oldest is not None and oldest > _WAITING_SECONDS:
        yield warning(
            "queue",
            f"{told}, the oldest for {oldest / 60:.0f} min",
            "see the worker; if it is well, the setting workers",
        )
    else:
        yield well("queue", told)
    if number := waiting["quarantined"]:
        yield warning(
            "quarantine", f"{number} studies could not be read", "the admin page tells why; ./hilum retry --all"
        )


def _backup(db: Connection) -> Check:
    told = get_fact(db, LAST_BACKUP)
    if told is None:
        return warning("backup", "there was none yet", "./hilum backup DIR, on another disk, each night")
    age = time.time() - float(told)
    if age > 7 * _DAY:
        return warning(
            "backup", f"the last one ended {_ago(float(told))}", "./hilum backup DIR, on another disk, each night"
        )
    return well("backup", f"the last one ended {_ago(float(told))}")


def _ago(at: float) -> str:
    seconds = max(0.0, time.time() - at)
    for unit, length in (("days", _DAY), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds > 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} seconds ago"

"""What the ledger's questions and changes cost with a longer queue and with more studies; SQLite, on this disk.

The rule: ledgers are filled by statements of their own; everything that is timed goes through the product's functions,
each in a transaction of its own, as plugin and worker have them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from sqlalchemy import Connection, text

from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import Ledger, migrate, open_ledger
from orthanc_plugin.ledger.pages import page
from orthanc_plugin.ledger.statements import SHIFT_SECONDS
from orthanc_plugin.ledger.tasks import Arrival, InferenceTask, Outcome, TaskStatus, Urgency
from tests.bench import worklist

_MORE = 10  # times as many rounds as on a node
_BATCH = 10_000
_LEASE_SECONDS = 30.0
_ANSWER = {
    "version": 1,
    "images": [{"findings": [
        {"key": "lung_opacity", "state": "present", "probability": 0.8},
        {"key": "effusion", "state": "undetermined", "probability": 0.3},
    ]}],
}  # fmt: skip
_OUTCOME = Outcome(TaskStatus.DONE, "urgent", 1, _ANSWER)


def with_queue(sizes: Sequence[float], rounds: int, folder: Path) -> dict[str, list[list[float]]]:
    """Claim, and give back, the first of so many studies that wait."""
    costs: dict[str, list[list[float]]] = defaultdict(list)
    with _ledger(folder / "queue.sqlite") as ledger:
        waiting = 0
        for size in map(int, track(sizes, "queue", console=Console(stderr=True), transient=True)):
            _enqueue(ledger, waiting, size)
            waiting = size
            taken: dict[str, list[float]] = defaultdict(list)
            for _ in range(_MORE * rounds):
                task = _timed(taken["claim, ms"], ledger, _claim)
                _timed(taken["release, ms"], ledger, _giving_back(task))
            for cost, values in taken.items():
                costs[cost].append(values)
    return dict(costs)


def with_archive(sizes: Sequence[float], rounds: int, folder: Path) -> dict[str, list[list[float]]]:
    """A study comes, is claimed and answered, and the first page is asked for, among so many studies."""
    costs: dict[str, list[list[float]]] = defaultdict(list)
    for size in map(int, sizes):
        with _ledger(folder / f"archive {size}.sqlite") as ledger:
            worklist.fill(ledger, size, Console(stderr=True))
            taken: dict[str, list[float]] = defaultdict(list)
            for number in range(_MORE * rounds):
                arrival = Arrival(f"2.25.{number + 1}", f"Bench^{number}", f"BENCH-{number}", study_date="20260102")
                _timed(taken["enqueue, ms"], ledger, _coming(arrival))
                task = _timed(taken["claim, ms"], ledger, _claim)
                _timed(taken["complete, ms"], ledger, _answering(task))
                started = time.perf_counter()
                with ledger.read() as db:
                    page(db, now=time.time())
                taken["rows of the first page, ms"].append(1000 * (time.perf_counter() - started))
            for cost, values in taken.items():
                costs[cost].append(values)
    return dict(costs)


def _claim(db: Connection) -> InferenceTask:
    task = tasks.claim(db, "bench", now=time.time(), lease_seconds=_LEASE_SECONDS, abandoned_limit=20)
    if task is None:
        raise SystemExit("a study waits and cannot be claimed: mend the ledger first")
    return task


def _coming(arrival: Arrival) -> Callable[[Connection], None]:
    return lambda db: tasks.enqueue(db, arrival, now=time.time())


def _giving_back(task: InferenceTask) -> Callable[[Connection], None]:
    return lambda db: tasks.release(db, task, now=time.time())


def _answering(task: InferenceTask) -> Callable[[Connection], None]:
    return lambda db: tasks.answer(db, task, _OUTCOME, now=time.time(), conclude_at=None)


def _timed(taken: list[float], ledger: Ledger, change: Callable[[Connection], Any]) -> Any:
    """Milliseconds of a change, until it is on the disk."""
    started = time.perf_counter()
    with ledger.write() as db:
        result = change(db)
    taken.append(1000 * (time.perf_counter() - started))
    return result


def _enqueue(ledger: Ledger, first: int, until: int) -> None:
    """Have so many studies wait, each due since long ago."""
    sql = text(
        """
        INSERT INTO tasks (study_instance_uid, status, generation, not_before, due_order, received_at, last_instance_at)
        VALUES (:uid, 'queued', 1, :at, :due, :at, :at)
        """
    )
    shift, then = SHIFT_SECONDS[Urgency.ROUTINE], time.time() - 86_400
    for start in range(first, until, _BATCH):
        at = ((f"2.25.{number}", then + number / 1000) for number in range(start, min(start + _BATCH, until)))
        with ledger.write() as db:
            db.execute(sql, [{"uid": uid, "at": moment, "due": moment + shift} for uid, moment in at])
    with ledger.write() as db:
        db.exec_driver_sql("ANALYZE")


@contextmanager
def _ledger(file: Path) -> Iterator[Ledger]:
    ledger = open_ledger(file)
    migrate(ledger)
    try:
        yield ledger
    finally:
        ledger.close()

"""Times the pages of a worklist of a million studies, while studies are answered beside it.

The rule: the ledger is made by statements of its own, for a million transactions would take hours; everything that is
timed, and everything that happens beside it, goes through the product's functions. A page is the question to the ledger
and its rows for people, as the route makes them. Beside the time by the clock stands that of the processor, which other
programs on the machine do not lengthen; of SQLite it is all the work, of PostgreSQL only that of its client. What the
node writes meanwhile is timed as well.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import Ledger, migrate, open_ledger
from orthanc_plugin.ledger.filters import PRIORITIES, Filter
from orthanc_plugin.ledger.pages import SORTS, page
from orthanc_plugin.ledger.tasks import Arrival, Outcome, TaskStatus, Urgency
from orthanc_plugin.settings import REPOSITORY
from orthanc_plugin.worklist import rows
from tests.bench import worklist_report
from tests.bench.hospital import FAMILIES, GIVEN, RANKS, answer_of, date_of, family, fill, name_of
from tests.postgres_server import postgres_server

STUDIES = 1_000_000
AIM_MS = 50.0  # at the 95th percentile
REPORT = REPOSITORY / "docs" / "worklist.md"
_ROUNDS = 100
_MOST_TIMED = 100_000  # studies that are answered meanwhile
_A_SECOND = 10.0  # studies that come, are claimed and answered


@dataclass(frozen=True)
class Timing:
    """One question, asked many times; milliseconds."""

    name: str
    p50: float
    p95: float
    p99: float
    slowest: float
    processor_p95: float
    rows: int
    count: str


@dataclass(frozen=True)
class Run:
    """All questions to one ledger.

    Parameters
    ----------
    database
        With its version.
    answered_per_second
        Studies, beside the questions.
    load
        What else the machine did before: its load average of the last minute.
    """

    database: str
    studies: int
    answered_per_second: float
    load: float
    timings: list[Timing]
    writes: list[Timing]

    @property
    def late(self) -> list[str]:
        """The questions that miss the aim."""
        return [t.name for t in self.timings if t.p95 > AIM_MS]


def compare(
    studies: int, *, postgresql: bool, rounds: int = _ROUNDS, json_file: Path | None = None, write: bool = False
) -> int:
    """Make a ledger, time every question, and print; with `write` keep the table in ``docs``; 1 when one is late."""
    console = Console(stderr=True)
    folder = Path(tempfile.mkdtemp(prefix="hilum-worklist-"))
    try:
        with _empty_ledger(folder, postgresql) as ledger:
            fill(ledger, studies, console)
            done = ask(ledger, studies, rounds, console)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    title = f"{done.database}, {studies:,} studies, {done.answered_per_second:.1f} answered a second beside it"
    Console().print(_table([*done.timings, *done.writes], title))
    if json_file is not None:
        json_file.write_text(json.dumps({**asdict(done), "late": done.late}, indent=1) + "\n", "utf-8")
    if write:
        worklist_report.keep(REPORT, done)
    return 1 if done.late else 0


def ask(ledger: Ledger, studies: int, rounds: int, console: Console) -> Run:
    """Time every question to a ledger that `fill` made."""
    load = os.getloadavg()[0]
    with _answering(ledger) as (answered, written):
        timings = [_time(ledger, name, asked, rounds) for name, asked in _told(_questions(studies), console)]
        done, writes = answered(), written()
    version = "select version()" if ledger.path is None else "select 'SQLite ' || sqlite_version()"
    with ledger.read() as db:
        database = " ".join(str(db.exec_driver_sql(version).scalar_one()).split()[:2])
    return Run(database, studies, done, load, timings, writes)


def _questions(studies: int) -> dict[str, dict[str, Any]]:
    """What is asked, as arguments of `page`."""
    today, earlier = date_of(time.time()), date_of(time.time() - 7 * 86_400)
    filters = {
        "first page": Filter(),
        "unread critical": Filter(read=False, priority=("critical",)),
        "unread": Filter(read=False),
        "read": Filter(read=True),
        "urgent and critical": Filter(priority=("critical", "urgent")),
        "done": Filter(status=("done",)),
        "failed": Filter(status=("quarantined",)),
        "not processed: view": Filter(status=("not_processed",), reason="view"),
        "pneumothorax present": Filter(present=("pneumothorax",)),
        "lung opacity present, unread": Filter(present=("lung_opacity",), read=False),
        "edema undetermined": Filter(undetermined=("edema",)),
        "two findings": Filter(present=("effusion", "lung_opacity")),
        "three findings": Filter(present=("effusion", "lung_opacity", "edema")),
        "three letters, a finding": Filter(text="m d p", present=("pneumothorax",)),
        "hernia present": Filter(present=("hernia",)),
        "my list": Filter(mine=True),
        "assigned to somebody": Filter(assigned_to="reader1"),
        "in somebody's hands": Filter(claimed_by="reader2"),
        "this week": Filter(study_from=earlier, study_until=today),
        "this week, done, urgent, unread": Filter(
            study_from=earlier, study_until=today, status=("done",), priority=("urgent",), read=False
        ),
        "rare name": Filter(text=family(FAMILIES - 7)),
        "common name": Filter(text=family(0)),
        "two words": Filter(text=f"{family(0)} {GIVEN[3]}"),
        "one letter": Filter(text=family(0)[0]),
        "patient ID": Filter(text="P0001234"),
        "accession number": Filter(text="ACC9876"),
        "nobody": Filter(text="zzzzzz"),
        "common name, unread, lung opacity": Filter(text=family(0), read=False, present=("lung_opacity",)),
        "one letter, critical, read": Filter(text="m", priority=("critical",), read=True),
    }
    two_years_ago = (date_of(time.time() - 740 * 86_400), date_of(time.time() - 730 * 86_400))
    long_ago = Filter(text=family(0), study_from=two_years_ago[0], study_until=two_years_ago[1])
    return {
        **{name: {"wanted": wanted} for name, wanted in filters.items()},
        "page 20": {"offset": 950},
        **{f"sorted by {sort}": {"sort": sort} for sort in (*SORTS, *(f"-{name}" for name in SORTS))},
        "common name, sorted by date": {"wanted": filters["common name"], "sort": "-study_date"},
        "pneumothorax, sorted by patient": {"wanted": filters["pneumothorax present"], "sort": "patient"},
        "pneumothorax, most findings first": {"wanted": filters["pneumothorax present"], "sort": "-findings"},
        "unread, most findings first": {"wanted": filters["unread"], "sort": "-findings"},
        "a common name of two years ago": {"wanted": long_ago},
        "not processed, latest first": {"wanted": Filter(status=("not_processed",)), "sort": "-received"},
    }


def _time(ledger: Ledger, name: str, asked: dict[str, Any], rounds: int) -> Timing:
    taken, worked, found, count = [], [], 0, ""
    for _ in range(rounds):
        started, worked_before = time.perf_counter(), time.process_time()
        with ledger.read() as db:
            got = page(db, now=time.time(), user="reader1", **asked)
        shown = [rows.to_json(rows.worklist_row(task)) for task in got.rows]
        taken.append(1000 * (time.perf_counter() - started))
        worked.append(1000 * (time.process_time() - worked_before))
        found, count = len(shown), f"{got.count}{'' if got.complete else ', ended'}"
    return _timing(name, taken, worked, found, count)


def _timing(name: str, taken: Sequence[float], worked: Sequence[float], rows: int = 0, count: str = "") -> Timing:
    p50, p95, p99 = np.percentile(taken, (50, 95, 99))
    return Timing(name, float(p50), float(p95), float(p99), max(taken), float(np.percentile(worked, 95)), rows, count)


def _told(questions: dict[str, dict[str, Any]], console: Console) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from track(list(questions.items()), description="asking", console=console, transient=True)


@contextmanager
def _empty_ledger(folder: Path, postgresql: bool) -> Iterator[Ledger]:
    if postgresql:
        with postgres_server() as server:
            ledger = open_ledger(server.new_database())
            try:
                migrate(ledger)
                yield ledger
            finally:
                ledger.close()
        return
    ledger = open_ledger(folder / "ledger.sqlite")
    migrate(ledger)
    yield ledger
    ledger.close()


@contextmanager
def _answering(ledger: Ledger) -> Iterator[tuple[Callable[[], float], Callable[[], list[Timing]]]]:
    """Let studies come, be claimed and be answered by another process; gives how many a second there were, and how
    long it took to write that.
    """
    context = multiprocessing.get_context("spawn")
    done, spent = context.Value("q", 0), context.Array("d", 4 * _MOST_TIMED, lock=False)
    where = ledger.url.render_as_string(hide_password=False)
    worker = context.Process(target=_answer, args=(where, done, spent), daemon=True)
    worker.start()
    while done.value == 0 and worker.is_alive():  # it takes a while to begin
        time.sleep(0.01)
    started, before = time.monotonic(), done.value

    def writes() -> list[Timing]:
        columns = np.array(spent[: 4 * min(done.value, _MOST_TIMED)]).reshape(-1, 4).T.tolist()
        names = ("written: the first image of a study", "written: claimed and answered")
        return [_timing(name, columns[2 * n], columns[2 * n + 1]) for n, name in enumerate(names) if columns[0]]

    try:
        yield lambda: (done.value - before) / (time.monotonic() - started), writes
    finally:
        worker.kill()
        worker.join()


def _answer(where: str, done: Any, spent: Any) -> None:
    """What plugin and worker do with their ledger for `_A_SECOND` studies a second, by the real functions."""
    ledger, chance, started = open_ledger(where), random.Random(2), time.monotonic()  # noqa: S311
    while True:
        time.sleep(max(0.0, started + done.value / _A_SECOND - time.monotonic()))
        uid = f"1.2.826.0.1.3680043.8.498.{10**12 + done.value}"
        rank = chance.choices(range(4), RANKS)[0]
        outcome = Outcome(TaskStatus.DONE, PRIORITIES[rank], rank, answer_of(uid, rank, chance))
        arrival = Arrival(uid, name_of(chance), f"P{done.value:07d}", study_date=date_of(time.time()))
        clocks = [_clocks()]
        with ledger.write() as db:
            tasks.enqueue(db, arrival, now=time.time(), urgency=Urgency.STAT)
        clocks.append(_clocks())
        with ledger.write() as db:
            task = tasks.claim(db, "bench", now=time.time(), lease_seconds=30, abandoned_limit=20)
        if task is not None:
            with ledger.write() as db:
                tasks.answer(db, task, outcome, now=time.time(), conclude_at=None)
        clocks.append(_clocks())
        if done.value < _MOST_TIMED:
            spans = [b - a for one, two in pairwise(clocks) for a, b in zip(one, two, strict=True)]
            spent[4 * done.value : 4 * done.value + 4] = spans
        done.value += 1


def _clocks() -> tuple[float, float]:
    """Milliseconds by the clock and of the processor."""
    return 1000 * time.perf_counter(), 1000 * time.process_time()


def _table(timings: list[Timing], title: str) -> Table:
    table = Table(title=title, caption=f"aim: {AIM_MS:.0f} ms at the 95th percentile; beyond it: *")
    for heading in ("", "p50 ms", "p95 ms", "p99 ms", "slowest ms", "processor p95 ms", "rows", "count"):
        table.add_column(heading, justify="right" if heading else "left")
    for t in timings:
        late = "*" if t.p95 > AIM_MS else ""
        numbers = (f"{value:.1f}" for value in (t.p99, t.slowest, t.processor_p95))
        table.add_row(t.name, f"{t.p50:.1f}", f"{t.p95:.1f}{late}", *numbers, str(t.rows), t.count)
    return table

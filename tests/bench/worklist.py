"""Times the pages of a worklist of a million studies, while studies are answered beside it.

The rule: the ledger is made by statements of its own, for a million transactions would take hours; everything that is
timed, and everything that happens beside it, goes through the product's functions. A page is the question to the ledger
and its rows for people, as the route makes them. Beside the time by the clock stands that of the processor, which other
programs on the machine do not lengthen; of SQLite it is all the work, of PostgreSQL only that of its client.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sqlalchemy import Connection, text

from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import Ledger, migrate, open_ledger
from orthanc_plugin.ledger.derived import words_of
from orthanc_plugin.ledger.filters import PRIORITIES, Filter
from orthanc_plugin.ledger.pages import SORTS, page
from orthanc_plugin.ledger.tasks import Arrival, Outcome, TaskStatus, Urgency
from orthanc_plugin.worklist import rows
from tests.postgres_server import postgres_server

STUDIES = 1_000_000
AIM_MS = 50.0  # at the 95th percentile
_ROUNDS = 100
_A_SECOND = 10.0  # studies that come, are claimed and answered
_BATCH = 10_000
_SPAN_DAYS = 3 * 365
_UNREAD = 20_000  # the latest
_RANKS = (0.02, 0.18, 0.7, 0.1)  # share of each priority
_FINDINGS = ("pneumothorax", "effusion", "lung_opacity", "consolidation", "edema", "mass", "nodule", "cardiomegaly",
             "atelectasis", "fracture", "infiltration", "emphysema", "fibrosis", "hernia")  # fmt: skip
_FAMILIES = 20_000  # names, as common as their rank allows: the first has 1 in 100 studies


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


def compare(studies: int, *, postgresql: bool, rounds: int = _ROUNDS, as_json: bool = False) -> int:
    """Make a ledger, time every question, and print; 1 when a first page misses its aim."""
    console = Console(stderr=True)
    folder = Path(tempfile.mkdtemp(prefix="hilum-worklist-"))
    try:
        with _empty_ledger(folder, postgresql) as ledger:
            started = time.monotonic()
            fill(ledger, studies, console)
            made = time.monotonic() - started
            with _answering(ledger) as answered:
                timings = [_time(ledger, name, ask, rounds) for name, ask in _told(_questions(studies), console)]
                done = answered()
        database = "PostgreSQL" if postgresql else "SQLite"
        late = [t.name for t in timings if t.p95 > AIM_MS and t.name not in _BEYOND]
        if as_json:
            told = {"database": database, "studies": studies, "answered_per_second": done, "late": late}
            print(json.dumps({**told, "timings": [asdict(t) for t in timings]}))  # noqa: T201
        else:
            title = f"{database}, {studies:,} studies (made in {made:.0f} s), {done:.1f} answered a second beside it"
            Console().print(_table(timings, title))
        return 1 if late else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# Conditions that many studies meet each, and few together: no index leads to them, and the aim does not hold for them.
_BEYOND = ("two findings", "one letter, critical, read", "a common name of two years ago")


def _questions(studies: int) -> dict[str, dict[str, Any]]:
    """What is asked, as arguments of `page`."""
    today, earlier = _date(time.time()), _date(time.time() - 7 * 86_400)
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
        "hernia present": Filter(present=("hernia",)),
        "my list": Filter(mine=True),
        "assigned to somebody": Filter(assigned_to="reader1"),
        "in somebody's hands": Filter(claimed_by="reader2"),
        "this week": Filter(study_from=earlier, study_until=today),
        "this week, done, urgent, unread": Filter(
            study_from=earlier, study_until=today, status=("done",), priority=("urgent",), read=False
        ),
        "rare name": Filter(text=_family(_FAMILIES - 7)),
        "common name": Filter(text=_family(0)),
        "two words": Filter(text=f"{_family(0)} {_GIVEN[3]}"),
        "one letter": Filter(text=_family(0)[0]),
        "patient ID": Filter(text="P0001234"),
        "accession number": Filter(text="ACC9876"),
        "nobody": Filter(text="zzzzzz"),
        "common name, unread, lung opacity": Filter(text=_family(0), read=False, present=("lung_opacity",)),
        "one letter, critical, read": Filter(text="m", priority=("critical",), read=True),
    }
    two_years_ago = (_date(time.time() - 740 * 86_400), _date(time.time() - 730 * 86_400))
    beyond = Filter(text=_family(0), study_from=two_years_ago[0], study_until=two_years_ago[1])
    return {
        **{name: {"wanted": wanted} for name, wanted in filters.items()},
        "page 20": {"offset": 950},
        **{f"sorted by {sort}": {"sort": sort} for sort in (*SORTS, *(f"-{name}" for name in SORTS))},
        "common name, sorted by date": {"wanted": filters["common name"], "sort": "-study_date"},
        "pneumothorax, sorted by patient": {"wanted": filters["pneumothorax present"], "sort": "patient"},
        _BEYOND[-1]: {"wanted": beyond},
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
        found, count = len(shown), str(got.count)
    p50, p95, p99 = np.percentile(taken, (50, 95, 99))
    processor = float(np.percentile(worked, 95))
    return Timing(name, float(p50), float(p95), float(p99), max(taken), processor, found, count)


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
def _answering(ledger: Ledger) -> Iterator[Callable[[], float]]:
    """Let studies come, be claimed and be answered by another process; gives how many a second there were."""
    context = multiprocessing.get_context("spawn")
    done = context.Value("q", 0)
    where = ledger.url.render_as_string(hide_password=False)
    worker = context.Process(target=_answer, args=(where, done), daemon=True)
    worker.start()
    started = time.monotonic()
    try:
        yield lambda: float(done.value) / (time.monotonic() - started)
    finally:
        worker.kill()
        worker.join()


def _answer(where: str, done: Any) -> None:
    """What plugin and worker do with their ledger for `_A_SECOND` studies a second, by the real functions."""
    ledger, chance, started = open_ledger(where), random.Random(2), time.monotonic()  # noqa: S311
    while True:
        time.sleep(max(0.0, started + done.value / _A_SECOND - time.monotonic()))
        uid = f"1.2.826.0.1.3680043.8.498.{10**12 + done.value}"
        rank = chance.choices(range(4), _RANKS)[0]
        outcome = Outcome(TaskStatus.DONE, PRIORITIES[rank], rank, _result(uid, rank, chance))
        arrival = Arrival(uid, _name(chance), f"P{done.value:07d}", study_date=_date(time.time()))
        with ledger.write() as db:
            tasks.enqueue(db, arrival, now=time.time(), urgency=Urgency.STAT)
        with ledger.write() as db:
            task = tasks.claim(db, "bench", now=time.time(), lease_seconds=30, abandoned_limit=20)
        if task is not None:
            with ledger.write() as db:
                tasks.answer(db, task, outcome, now=time.time(), conclude_at=None)
        done.value += 1


# --- what the ledger holds


def fill(ledger: Ledger, studies: int, console: Console) -> None:
    """Put so many studies into an empty ledger: three years of a hospital, of which the latest are unread."""
    made = _studies(studies, random.Random(1))  # noqa: S311
    batches = range(0, studies, _BATCH)
    with ledger.write() as db:
        indexes = _indexes(db)  # made once all is there: ten times as fast
        for name in indexes:
            db.exec_driver_sql(f"DROP INDEX {name}")
        for table, columns in _SORTED.items():
            db.exec_driver_sql(f"CREATE TABLE staged_{table} AS SELECT {columns} FROM {table} WHERE 1 = 0")  # noqa: S608
    for _ in track(batches, description="making the ledger", console=console, transient=True):
        some = list(islice(made, _BATCH))
        words = [
            {**{name: row[name] for name in ("study_instance_uid", "search_words")}, "term": term}
            for row, _ in some
            for term in row["search_words"].split()
        ]
        with ledger.write() as db:
            for table, given in (
                ("tasks", [row for row, _ in some]),
                ("staged_search_terms", words),
                ("staged_study_findings", [found for _, each in some for found in each]),
            ):
                names = list(given[0])
                sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(f':{n}' for n in names)})"  # noqa: S608
                db.execute(text(sql), given)
    with ledger.write() as db:
        db.exec_driver_sql("SET LOCAL statement_timeout = 0" if ledger.path is None else "PRAGMA cache_size = -262144")
        for table, columns in _SORTED.items():
            sql = f"INSERT INTO {table} ({columns}) SELECT {columns} FROM staged_{table} ORDER BY 1, 2, 3"  # noqa: S608
            db.exec_driver_sql(sql)
            db.exec_driver_sql(f"DROP TABLE staged_{table}")
        for statement in indexes.values():
            db.exec_driver_sql(statement)
        db.exec_driver_sql("ANALYZE")


# What is derived from tasks, in the order of its keys: into a table in their order rows go fast only so.
_SORTED = {
    "search_terms": "term, study_instance_uid, search_words",
    "study_findings": "key, state, study_instance_uid, probability",
}


def _indexes(db: Connection) -> dict[str, str]:
    """How each index is made, but for those of keys."""
    sql = (
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        if db.dialect.name == "sqlite"
        else "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND indexname NOT LIKE '%pkey'"
    )
    return {name: made for name, made in db.execute(text(sql))}


def _studies(number: int, chance: random.Random) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    now = time.time()
    span = _SPAN_DAYS * 86_400
    for n in range(number):
        uid = f"1.2.826.0.1.3680043.8.498.{10**11 + chance.randrange(9 * 10**10)}.{n}"
        at = now - span * (number - n) / number if n < number - _UNREAD else now - 3 * 86_400 * (number - n) / _UNREAD
        rank = chance.choices(range(4), _RANKS)[0]
        fate = chance.random()
        status = "quarantined" if fate < 0.001 else "not_processed" if fate < 0.03 else "done"
        result = _result(uid, rank, chance) if status == "done" else {}
        name, patient, accession = _name(chance), f"P{n // 3:07d}", f"ACC{n:07d}"
        is_read = n < number - _UNREAD
        priority = rank if status == "done" else 3
        row = {
            "study_instance_uid": uid,
            "status": status,
            "generation": 1,
            "answered_generation": 1,
            "answer_version": 1,
            "not_before": at,
            "received_at": at,
            "last_instance_at": at,
            "completed_at": at + 5,
            "priority": PRIORITIES[priority],
            "priority_rank": priority,
            "reason": None if status == "done" else chance.choice(("view", "modality", "age", "quality")),
            "message": "Lung opacity 87 %, left",
            "result": json.dumps(result, separators=(",", ":")),
            "patient_name": name,
            "patient_id": patient,
            "patient_birth_date": "19600101",
            "patient_sex": "F",
            "accession_number": accession,
            "study_date": _date(at),
            "study_time": "101010",
            "study_description": "Chest PA",
            "search_words": words_of(name, patient, accession),
            "read_at": at + chance.expovariate(1 / 7200) if is_read else None,
            "read_by": f"reader{n % 10}" if is_read else "",
            "read_rank": priority,
            "read_version": 1,
            "assigned_to": f"reader{n % 10}" if n % 997 == 0 else "",
            "claimed_by": f"reader{n % 10}" if not is_read and n % 500 < 10 else "",
            "claimed_until": now + 36_000,
        }
        found = [
            {"study_instance_uid": uid, "key": f["key"], "state": f["state"], "probability": f["probability"]}
            for image in result.get("images", ())
            for f in image["findings"]
            if f["state"] in ("present", "undetermined")
        ]
        yield row, found


def _result(uid: str, rank: int, chance: random.Random) -> dict[str, Any]:
    """An answer as the node keeps it, of one image, about 2 kB."""
    findings = []
    for place, key in enumerate(_FINDINGS):
        likely = 0.25 / (1 + place) if rank < 2 else 0.02 / (1 + place)
        says = chance.random()
        state = "present" if says < likely else "undetermined" if says < 2.5 * likely else "absent"
        findings.append({"key": key, "state": state, "probability": round(says, 4), "laterality": None, "regions": []})
    image = {
        "sop_instance_uid": f"{uid}.1", "status": "done", "view": "PA", "reason": None, "priority": PRIORITIES[rank],
        "models": {"lung_fields": "1.0.0", "chest_findings": "2.0.0"}, "cautions": [], "findings": findings,
        "evidence": [{"source": "ViewPosition", "says": "PA"}], "measurement_report": f"{uid}.2", "thumbnail": True,
        "segmentation": f"{uid}.3", "instance": "a" * 44, "received": "20260101T000000",
    }  # fmt: skip
    return {"version": 1, "images": [image], "history": [], "preliminary_report": f"{uid}.4", "concluded": [f"{uid}.1"]}


_SYLLABLES = ("ma", "ro", "ki", "le", "sta", "ber", "no", "vi", "ta", "du", "gre", "lo", "pe", "sa", "fi", "hu")
_GIVEN = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hans", "Ida", "Jonas", "Klara", "Leo")
_COMMON = np.cumsum(1 / (np.arange(_FAMILIES) + 10.0))


def _family(number: int) -> str:
    """A made-up family name; each number has another."""
    n, name = number, ""
    for _ in range(4):
        n, digit = divmod(n, len(_SYLLABLES))
        name += _SYLLABLES[digit]
    return name.capitalize()


def _name(chance: random.Random) -> str:
    family = int(np.searchsorted(_COMMON, chance.random() * _COMMON[-1]))
    return f"{_family(family)}^{chance.choice(_GIVEN)}"


def _date(at: float) -> str:
    return time.strftime("%Y%m%d", time.gmtime(at))


def _table(timings: list[Timing], title: str) -> Table:
    table = Table(title=title, caption=f"aim: {AIM_MS:.0f} ms at the 95th percentile; beyond it: *")
    for heading in ("", "p50 ms", "p95 ms", "p99 ms", "slowest ms", "processor p95 ms", "rows", "count"):
        table.add_column(heading, justify="right" if heading else "left")
    for t in timings:
        late = "*" if t.p95 > AIM_MS else ""
        numbers = (f"{value:.1f}" for value in (t.p99, t.slowest, t.processor_p95))
        table.add_row(t.name, f"{t.p50:.1f}", f"{t.p95:.1f}{late}", *numbers, str(t.rows), t.count)
    return table

"""Sends thousands of small studies and watches whether memory grows and whether the ledger becomes slow.

The rule: slopes are fitted to the run after its first tenth and given with their 95 % interval; a process that was
replaced is counted, for its memory began anew. SIGINT or SIGTERM ends the run early; what was read by then counts.
"""

from __future__ import annotations

import json
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from scipy import stats
from sqlalchemy import Connection

from orthanc_plugin.commands import node
from orthanc_plugin.commands.modality import caller_of
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import Ledger, open_ledger
from orthanc_plugin.ledger.pages import page
from orthanc_plugin.ledger.views import count_by_status, oldest_waiting
from orthanc_plugin.settings import Settings
from tests.faults import victims
from tests.faults.modality import Modality
from tests.running_node import start_node

_BACKLOG = 8
_SAMPLES = 200
_BLOCKS = 20  # of samples; their means depend less on one another than the samples do
_TELL = 20  # samples between two lines in a file, where a bar is not seen
_TIMES = 5  # that a question is asked for each sample
_UNDER_WAY = ("queued", "running", "answered")


@dataclass(frozen=True)
class Slope:
    """A straight line through a quantity: per 1000 studies, with its 95 % interval, and its first and last values."""

    name: str
    per_thousand: float
    low: float
    high: float
    first: float
    last: float


@dataclass
class _Course:
    """What was seen: the number of studies that were finished, and the quantity then."""

    studies: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, studies: int, value: float) -> None:
        self.studies.append(studies)
        self.values.append(value)


class _RolledBack(Exception):
    """Undoes a transaction that was only timed."""


def compare(studies: int, *, json_file: Path | None = None) -> list[Slope]:
    """Send so many studies, wait until all are read, and print what grew."""
    enough = threading.Event()
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda *_: enough.set())
    with tempfile.TemporaryDirectory(prefix="hilum-soak-") as folder:
        settings, _process = start_node(Path(folder) / "home", bundles="lung_fields", quiet_seconds="0.5")
        ledger = open_ledger(settings.ledger_address)
        try:
            courses, replaced, studies, seconds = _watch(studies, settings, ledger, enough)
        finally:
            ledger.close()
            node.stop(settings)
    slopes = [slope for name, course in courses.items() if (slope := fit(name, course.studies, course.values))]
    Console().print(_table(slopes, studies, seconds, replaced))
    if json_file is not None:
        told = {"studies": studies, "seconds": seconds, "replaced": replaced, "slopes": [asdict(one) for one in slopes]}
        json_file.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    return slopes


def fit(name: str, studies: list[int], values: list[float]) -> Slope | None:
    """The slope of `values` over `studies` after the first tenth; None when there are too few of them."""
    start = len(values) // 10
    x, y = np.array(studies[start:], float), np.array(values[start:], float)
    if len(x) < 4:
        return None
    blocks = min(_BLOCKS, len(x))
    mean_x = np.array([part.mean() for part in np.array_split(x, blocks)])
    mean_y = np.array([part.mean() for part in np.array_split(y, blocks)])
    line = stats.linregress(mean_x, mean_y)
    margin = float(np.nan_to_num(stats.t.ppf(0.975, blocks - 2) * line.stderr))  # nan where nothing changes
    slope = float(line.slope)
    return Slope(name, 1000 * slope, 1000 * (slope - margin), 1000 * (slope + margin), mean_y[0], mean_y[-1])


def _watch(
    studies: int, settings: Settings, ledger: Ledger, enough: threading.Event
) -> tuple[dict[str, _Course], int, int, float]:
    """What was seen, how many processes were replaced, how many studies were read, and in how many seconds."""
    wanted = 0
    modality = Modality("soak", settings.dicom_port, settings.ae_title, lambda: wanted > 0, caller_of(settings))
    courses: dict[str, _Course] = {}
    seen: dict[str, set[int]] = {role: set() for role in victims.ROLES}
    replaced = 0
    credentials = load_credentials(settings.credentials)
    columns = (TextColumn("studies"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    started = time.monotonic()
    with (
        node.http(settings, credentials) as client,
        Progress(*columns, console=console, transient=True) as progress,
    ):
        bar = progress.add_task("", total=studies)
        modality.start()
        due = 0
        while True:
            with ledger.read() as db:
                counts = count_by_status(db)
            under_way = sum(counts[status] for status in _UNDER_WAY)
            finished = sum(counts.values()) - under_way
            sent = len(modality.studies())
            studies = sent if enough.is_set() else studies
            wanted = min(_BACKLOG - under_way, studies - sent)
            progress.update(bar, completed=finished)
            if finished >= due:
                due += max(1, studies // _SAMPLES)
                pids = victims.processes(settings.home)
                for role in victims.ROLES:
                    memory = sum(map(victims.resident_mb, pids[role]))
                    courses.setdefault(f"memory of {role}, MB", _Course()).add(finished, memory)
                    replaced += len(set(pids[role]) - seen[role]) if seen[role] else 0
                    seen[role].update(pids[role])
                for name, seconds in _questions(ledger, settings, client).items():
                    courses.setdefault(f"{name}, ms", _Course()).add(finished, 1000 * seconds)
                if not console.is_terminal and len(courses["worklist page, ms"].values) % _TELL == 1:
                    told = {role: f"{sum(map(victims.resident_mb, pids[role])):.0f} MB" for role in victims.ROLES}
                    console.print(f"{finished} of {studies} studies", told)
            if finished >= studies and not under_way:
                break
            time.sleep(0.1)
        modality.finish(60)
    return courses, replaced, studies, time.monotonic() - started


def _questions(ledger: Ledger, settings: Settings, client: httpx.Client) -> dict[str, float]:
    """Median seconds of what the node asks its ledger all the time."""

    def reading(question: Callable[[Connection], object]) -> Callable[[], None]:
        def ask() -> None:
            with ledger.read() as db:
                question(db)

        return ask

    def claim() -> None:
        try:
            with ledger.write() as db:
                now, lease = time.time(), settings.lease_seconds
                tasks.claim(db, "w", now=now, lease_seconds=lease, abandoned_limit=20)
                raise _RolledBack
        except _RolledBack:
            pass

    asked = {
        "ledger: claim": claim,
        "ledger: count by status": reading(count_by_status),
        "ledger: oldest waiting": reading(lambda db: oldest_waiting(db, time.time())),
        "ledger: the worklist's rows": reading(lambda db: page(db, now=time.time())),
        "worklist page": lambda: client.get("/hilum/").raise_for_status(),
    }
    return {name: _median_seconds(question) for name, question in asked.items()}


def _median_seconds(question: Callable[[], object]) -> float:
    taken = []
    for _ in range(_TIMES):
        started = time.perf_counter()
        question()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _table(slopes: list[Slope], studies: int, seconds: float, replaced: int) -> Table:
    table = Table(title=f"{studies} studies in {seconds / 60:.0f} min, {replaced} processes replaced on the way")
    for heading in ("", "first", "last", "for each 1000 studies", "95 % interval"):
        table.add_column(heading, justify="right" if heading else "left")
    for slope in slopes:
        table.add_row(
            slope.name,
            f"{slope.first:.2f}",
            f"{slope.last:.2f}",
            f"{slope.per_thousand:+.3f}",
            f"{slope.low:+.3f} to {slope.high:+.3f}",
        )
    return table

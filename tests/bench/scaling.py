"""From one machine to a million studies a day: how many workers, what databases, network and disks bear.

The rule: a figure was measured in this run on the machine that is named (``study_costs``, ``throughput``), or follows
from those by a simulation (``queueing``) that is held against measurements, or is an assumption and is called one.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from orthanc_plugin.commands import node
from orthanc_plugin.settings import REPOSITORY
from tests.bench.baseline import BUNDLES
from tests.bench.latency import QUIET_SECONDS, one_alone
from tests.bench.machine import CORES, Machine, describe, keep_to_cores
from tests.bench.queueing import Day, Served, Waited, Work, busiest_hour, studies_a_second, workers_for
from tests.bench.sheets import Sheet, Spread, tell
from tests.bench.sources import COLUMNS, ROWS, Pictures
from tests.bench.study_costs import Statements, Sustained, Wire, of_databases, of_disk, on_the_wire, sustained
from tests.bench.throughput import WORKERS, Drained, drain
from tests.bench.watching import Watch, seconds_of
from tests.postgres_server import postgres_server
from tests.running_node import start_node

PAGE = REPOSITORY / "docs" / "scaling.md"
PLOT = "scaling.png"
STUDIES_A_DAY = (1e3, 1e4, 1e5, 1e6)
FLAG_SECONDS = 5.0  # within which 95 of 100 studies of the busiest hour are to be flagged
_LOAD = 0.7  # share of the time for which workers may be busy in the busiest hour, where there is to be room
_LINK = 125e6  # bytes a second in each direction: one gigabit Ethernet link; assumed
_GENTLE = 8  # statements and requests are counted on so many studies
_FEWEST = 3  # of them
_COMMITS = 3  # transactions of a study in `sustained`: it comes, is claimed, and answered
_FOREGROUND = ("worker", "reader", "intake", "fork_server")
_OTHERS = ("orthanc", "database", "bench")


@dataclass(frozen=True)
class Measured:
    """What a study costs, by measurement.

    Parameters
    ----------
    studies
        That waited in each queue.
    flags
        Seconds from the last C-STORE response of a lone study to its flag.
    nodes
        How the queue was drained by one worker and by two, with ledger and index in PostgreSQL.
    databases
        Of ``ledger`` and ``index``.
    ledger
        What one ledger sustains.
    disk
        Studies a second whose files the disk takes.
    """

    machine: Machine
    studies: int
    flags: tuple[float, ...]
    nodes: tuple[Drained, ...]
    wire: Wire
    databases: dict[str, Statements]
    ledger: tuple[Sustained, ...]
    disk: float

    def rate(self, node: Drained) -> float:
        """Studies a second."""
        return self.studies / node.drained

    def served(self) -> Served:
        """Times of a worker that shares two cores with another and with Orthanc and PostgreSQL, gaps included."""
        last = self.nodes[-1]
        passes = last.passes
        gaps = last.workers / self.rate(last) / float(np.mean(passes))
        alone = float(np.mean(self.nodes[0].passes))
        return Served(gaps * np.array(passes), np.array(self.flags) * float(np.mean(passes)) / alone)


@dataclass(frozen=True)
class Resource:
    """Something that studies use up.

    Parameters
    ----------
    capacity
        Studies a second that one of it bears.
    shared
        Whether all machines have one of it together.
    """

    name: str
    capacity: float
    shared: bool


@dataclass(frozen=True)
class Plan:
    """So many studies a day in their busiest hour.

    Parameters
    ----------
    rate
        Studies a second, at most.
    workers, waited
        The fewest that hold the limit, and what they do; `rereading` the same while an archive is read again.
    roomy
        Workers that are busy for `_LOAD` of the time.
    """

    studies: float
    rate: float
    workers: int
    waited: Waited
    rereading: Waited
    roomy: int


def compare(
    studies: int = 60,
    *,
    json_file: Path | None = None,
    write: bool = False,
    rows: int = ROWS,
    columns: int = COLUMNS,
    bundles: Sequence[str] = BUNDLES,
    sizes: Sequence[float] = STUDIES_A_DAY,
) -> tuple[Measured, list[Plan]]:
    """Measure, simulate and print; `studies` wait in each queue."""
    keep_to_cores()
    measured, day = measure(studies, Pictures.of_size(rows, columns), bundles), Day()
    plans = [plan(size, measured, day) for size in sizes]
    if write:
        draw(resources(measured), day, PAGE.with_name(PLOT))
    tell("scaling", sheets(measured, plans, day), measured.machine, write=write, picture=PLOT, page=PAGE)
    if json_file is not None:
        told = {"measured": asdict(measured), "day": asdict(day), "plans": [asdict(each) for each in plans]}
        json_file.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    return measured, plans


def measure(studies: int, pictures: Pictures, bundles: Sequence[str]) -> Measured:
    """Count and time what a study costs, on real nodes with a real PostgreSQL."""
    machine, counted = describe(), max(_FEWEST, min(_GENTLE, studies))
    with (
        tempfile.TemporaryDirectory(prefix="hilum-scaling-") as name,
        postgres_server(durable=True) as server,
    ):
        folder = Path(name)
        wire, outcome = on_the_wire(pictures, counted, folder, bundles)
        flags = _flags(pictures, max(_FEWEST, studies // 2), folder / "alone", bundles, server.new_database())
        nodes = tuple(
            drain(
                studies,
                pictures,
                folder / f"node {number}",
                bundles,
                number,
                database=server.pid,
                ledger_url=server.new_database(),
                index_url=server.new_database(),
            )
            for number in WORKERS
        )
        databases = of_databases(pictures, counted, folder / "counted", server, bundles)
        ledger = sustained(server, outcome, max(1.0, min(8.0, studies / 8)))
        disk = of_disk(list(wire.files.values()), folder / "disk", counted)
    return Measured(machine, studies, tuple(flags), nodes, wire, databases, tuple(ledger), disk)


def _flags(pictures: Pictures, studies: int, home: Path, bundles: Sequence[str], ledger_url: str) -> list[float]:
    """Seconds until lone studies are flagged."""
    settings, _process = start_node(
        home, bundles=",".join(bundles), quiet_seconds=str(QUIET_SECONDS), ledger_url=ledger_url, study_seconds="600"
    )
    try:
        with Watch(settings) as watch:
            for number in range(studies + 2):
                one_alone(pictures.study("alone", number), settings, watch)
        return seconds_of(watch.courses, "flagged")[2:]
    finally:
        node.stop(settings)


def plan(size: float, measured: Measured, day: Day) -> Plan:
    """Workers for so many studies a day."""
    served, rate = measured.served(), size * day.peak_rate
    workers, waited = workers_for(size, served, day, FLAG_SECONDS)
    roomy = max(workers, math.ceil(rate * float(served.passes.mean()) / _LOAD))
    return Plan(size, rate, workers, waited, busiest_hour(size, workers, served, day, rereading=True), roomy)


def resources(measured: Measured) -> list[Resource]:
    """What studies use up, and how many a second one of each bears."""
    wire, last = measured.wire, measured.nodes[-1]
    commits = max(measured.ledger, key=lambda each: each.studies)
    transactions = sum(each.transactions for each in measured.databases.values())
    return [
        Resource(f"{CORES} cores that read, with Orthanc and PostgreSQL on them", measured.rate(last), False),
        Resource(f"Orthanc with {CORES} cores to itself", CORES / last.processor["orthanc"], False),
        Resource(f"PostgreSQL: processor, {CORES} cores", CORES / last.processor["database"], True),
        Resource("PostgreSQL: transactions of ledger and index", _COMMITS * commits.studies / transactions, True),
        Resource("PostgreSQL: the ledger's own writers", commits.studies, True),
        Resource("disk as here, files synced one after the other", measured.disk, False),
        Resource("link of 1 Gbit/s, to the archive", _LINK / (wire.files["image"] + wire.sent), False),
        Resource("link of 1 Gbit/s, from it to workers", _LINK / wire.fetched, False),
    ]


def sheets(measured: Measured, plans: Sequence[Plan], day: Day) -> list[Sheet]:
    """The tables of the page."""
    return [_planned(plans), _asked(measured, plans), _first(measured, plans, day), _costs(measured), _held(measured)]


def _planned(plans: Sequence[Plan]) -> Sheet:
    heads = (
        "studies a day", "a second at most", "workers, the fewest", "flag, p50", "p95", "p99", "busy",
        "p95 beside rereading", f"workers, busy {100 * _LOAD:.0f} %", "GPUs",
    )  # fmt: skip
    rows = tuple(
        (
            f"{each.studies:,.0f}",
            _short(each.rate),
            str(each.workers),
            *(f"{seconds:.2f}" for seconds in (each.waited.p50, each.waited.p95, each.waited.p99)),
            f"{100 * each.waited.busy:.0f} %",
            f"{each.rereading.p95:.2f}",
            str(each.roomy),
            "not evaluated",
        )
        for each in plans
    )
    note = (
        f"Simulated, of the busiest hour: the fewest workers that flag 95 of 100 studies within {FLAG_SECONDS:g} s of "
        "the last C-STORE response. A worker stands for one core of the machine above, with its share of Orthanc and "
        "PostgreSQL. *Beside rereading*: whenever no live study is due, each of as many workers takes one of an "
        "archive that is read again. The fewest leave no room for one that dies: those that are busy for "
        f"{100 * _LOAD:.0f} % make up for an hour's standstill in {_LOAD / (1 - _LOAD):.1f} h. No GPU was at hand: "
        "what one would do is not evaluated."
    )
    return Sheet("How many workers", heads, rows, note)


def _asked(measured: Measured, plans: Sequence[Plan]) -> Sheet:
    wire, kept = measured.wire, sum(measured.wire.files.values())
    statements = sum(each.asked for each in measured.databases.values())
    transactions = {name: each.transactions for name, each in measured.databases.items()}
    rows = tuple(
        (
            f"{each.studies:,.0f}",
            *(_short(each.rate * per) for per in (
                transactions["ledger"], transactions["index"], statements, wire.requests,
                (wire.files["image"] + wire.sent) / 1e6, wire.fetched / 1e6,
            )),
            _short(each.studies * 365 * kept / 1e12),
        )
        for each in plans
    )  # fmt: skip
    heads = (
        "studies a day", "writes of the ledger", "writes of the index", "statements of both", "requests to Orthanc",
        "MB to the archive", "MB from it to workers", "TB a year",
    )  # fmt: skip
    note = (
        "A second, in the busiest hour. A write is a transaction that changes something. Bytes are those of files and "
        "of HTTP bodies; readers who look at images, and destinations that results go to, come on top. A year holds "
        f"365 such days; images of {wire.files['image'] / 1e6:.0f} MB are stored as they come, here uncompressed."
    )
    return Sheet("What they ask of databases, network and disks", heads, rows, note)


def _first(measured: Measured, plans: Sequence[Plan], day: Day) -> Sheet:
    found = sorted(resources(measured), key=lambda each: each.capacity)
    rows = tuple(
        (
            each.name,
            "all together" if each.shared else "as many as wanted",
            f"{each.capacity:.1f}",
            f"{_round(each.capacity / day.peak_rate):,.0f}",
            *(f"{_short(100 * planned.rate / each.capacity)} %" for planned in plans),
        )
        for each in found
    )
    heads = ("one of", "how many", "studies a second", "a day", *(f"at {each.studies:,.0f}" for each in plans))
    shared = next(each for each in found if each.shared)
    note = (
        f"**First: {found[0].name}**, of which there may be more. Of what all have together: {shared.name}, at "
        f"{_round(shared.capacity / day.peak_rate):,.0f} studies a day. Percent are the busiest hour's share of what "
        "one bears."
    )
    return Sheet("What is used up first", heads, rows, note)


def _costs(measured: Measured) -> Sheet:
    wire, last = measured.wire, measured.nodes[-1]
    rows = [(f"processor, {who}, ms", f"{1000 * last.processor[who]:.0f}") for who in (*_FOREGROUND, *_OTHERS)]
    rows += [(f"file: {kind}, kB", f"{size / 1e3:,.0f}") for kind, size in wire.files.items()]
    rows += [("requests of the worker to Orthanc", f"{wire.requests:.1f}")]
    rows += [("from Orthanc to the worker, kB", f"{wire.fetched / 1e3:,.0f}")]
    rows += [("from the worker to Orthanc, kB", f"{wire.sent / 1e3:,.0f}")]
    for name, each in measured.databases.items():
        rows += [
            (f"{name}: statements", f"{each.asked:.1f}"),
            (f"{name}: that change something", f"{each.changes:.1f}"),
        ]
        rows += [(f"{name}: transactions that change something", f"{each.transactions:.1f}")]
    for each in measured.ledger:
        told = f"ledger alone, {each.clients} clients: studies a second"
        rows += [(told, f"{each.studies:.0f}"), (f"{told}, ms of the server", f"{1000 * each.processor:.1f}")]
    rows += [("disk, files synced: studies a second", f"{measured.disk:.1f}")]
    note = (
        f"Means. Processor time with {last.workers} workers. Statements are counted in the log of PostgreSQL, without "
        "what a node without work asks; a commit waits for the disk. The clients of the ledger alone take the same "
        f"{CORES} cores, so that a server of its own bears more."
    )
    return Sheet("What a study costs", ("what", "how much"), tuple(rows), note)


def _held(measured: Measured) -> Sheet:
    first, rows = measured.nodes[0], []
    for told, costs, workers in (
        ("1 worker", first, first),
        ("2 workers, from what one worker costs", first, measured.nodes[-1]),
        ("2 workers, with the processor time that two take", measured.nodes[-1], measured.nodes[-1]),
    ):
        work = Work(
            first.passes,
            sum(costs.processor[who] for who in _FOREGROUND),
            sum(costs.processor[who] for who in _OTHERS),
        )
        said, was = studies_a_second(work, workers.workers, CORES), measured.rate(workers)
        rows.append((told, f"{said:.2f}", f"{was:.2f}", f"{round(100 * (said / was - 1)):+d} %"))
    spread = Spread.of(measured.nodes[-1].passes)
    note = (
        f"Studies a second on {CORES} cores, of {measured.studies} that waited. The simulation knows nothing but "
        "processor time: that two processes keep each other from memory, caches and the disk is not in it. So the plan "
        f"does not start from one worker: it takes the passes of two as they were measured ({spread.p50:.2f} s, p95 "
        f"{spread.p95:.2f} s), with the gaps between them."
    )
    return Sheet(
        "The simulation held against the machine", ("what", "simulated", "measured", "off by"), tuple(rows), note
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _round(value: float) -> float:
    """To two digits: more would pretend."""
    return float(f"{value:.1e}")


def draw(found: Sequence[Resource], day: Day, path: Path) -> None:
    """The busiest hour's share of what one of each resource bears, against studies a day."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sizes = np.logspace(3, 6, 61)
    chart, axis = plt.subplots(figsize=(9, 6.5), layout="constrained")
    for each in sorted(found, key=lambda each: each.capacity):
        style = "-" if each.shared else "--"
        axis.loglog(sizes, sizes * day.peak_rate / each.capacity, style, label=each.name)
    axis.axhline(1, color="black", linewidth=1)
    axis.annotate("one of it is used up", (sizes[0], 1.1))
    axis.set_xlabel("studies a day")
    axis.set_ylabel("share of one, in the busiest hour")
    axis.set_title("What is used up first (solid: what all machines have together)")
    axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    chart.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(chart)

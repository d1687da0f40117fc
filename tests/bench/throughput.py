"""How fast a queue is drained: studies that wait in a real node, and as many files before the plain way.

The rule: all studies are in Orthanc before the first is read, so that nothing but reading is timed; the node counts as
done when each study has its report as well, which the plain way does not make.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, track

from orthanc_plugin.commands import node
from orthanc_plugin.commands.modality import caller_of, send
from orthanc_plugin.settings import Settings
from tests.bench.bare_orthanc import bare_orthanc
from tests.bench.baseline import BUNDLES, cold_plain_way, warm_plain_way, write_study
from tests.bench.ingest import let_work
from tests.bench.latency import QUIET_SECONDS
from tests.bench.machine import CORES, Machine, describe, keep_to_cores
from tests.bench.sheets import SPREAD, Sheet, Spread, tell
from tests.bench.sources import COLUMNS, ROWS, Pictures
from tests.bench.starting import WORKER, memory_of
from tests.bench.watching import Watch, seconds_of
from tests.faults import victims
from tests.running_node import start_node

WORKERS = (1, 2)  # studies that the node reads at the same time; 1 by default
_STEP_SECONDS = 0.2  # between two looks: watching costs the cores that are measured
AIM = 5.0  # times the studies a second of the plain way as one warm process
_WARMING = 2
_PLAIN = 50  # the most that the plain way reads: each takes as long as the one before
_COLD = 5
_TOGETHER = 20  # studies sent over one association
_PATIENCE = 60.0  # s a study, before it is given up


@dataclass(frozen=True)
class Drained:
    """How a node drained its queue.

    Parameters
    ----------
    workers
        Studies that it read at the same time.
    answered, drained
        Seconds until every study had SR and SEG, and until every one had its report.
    passes
        Seconds of each pass over a study, as the worker's log tells them; a study that waited has one.
    processor
        Seconds of processor time for each study, by kind of process; ``bench`` is who watches.
    memory
        MB of all processes of the worker at the end, what they share counted once.
    """

    workers: int
    answered: float
    drained: float
    passes: tuple[float, ...]
    processor: dict[str, float]
    memory: float


@dataclass(frozen=True)
class Drain:
    """What was measured.

    Parameters
    ----------
    warm, cold
        Seconds of a study, of the plain way.
    plain_processor
        Seconds of processor time for each study, of its warm process and of Orthanc.
    """

    machine: Machine
    studies: int
    nodes: tuple[Drained, ...]
    warm: Spread
    cold: Spread
    plain_processor: dict[str, float]

    def ratio(self, node: Drained) -> float:
        """Studies a second over those of the plain way as one warm process."""
        return self.warm.mean * self.studies / node.drained


def compare(
    studies: int = 500,
    *,
    json_file: Path | None = None,
    write: bool = False,
    rows: int = ROWS,
    columns: int = COLUMNS,
    bundles: Sequence[str] = BUNDLES,
) -> Drain:
    """Measure and print."""
    keep_to_cores()
    machine, pictures = describe(), Pictures.of_size(rows, columns)
    with tempfile.TemporaryDirectory(prefix="hilum-throughput-") as name:
        folder = Path(name)
        nodes = tuple(drain(studies, pictures, folder / f"node {n}", bundles, n) for n in WORKERS)
        warm, cold, processor = _plain(studies, pictures, folder, bundles)
    found = Drain(machine, studies, nodes, Spread.of(warm), Spread.of(cold), processor)
    tell("throughput", sheets(found), machine, write=write)
    if json_file is not None:
        json_file.write_text(
            json.dumps({**asdict(found), "ratios": [found.ratio(n) for n in found.nodes]}, indent=1) + "\n", "utf-8"
        )
    return found


def drain(
    studies: int,
    pictures: Pictures,
    home: Path,
    bundles: Sequence[str],
    workers: int,
    *,
    database: int | None = None,
    **addresses: str,
) -> Drained:
    """Let a node read a queue.

    Parameters
    ----------
    database
        Process id of a PostgreSQL server that the node uses: its time is told as that of ``database``.
    addresses
        Further settings of the site: where ledger and index are.
    """
    site = {"bundles": ",".join(bundles), "quiet_seconds": str(QUIET_SECONDS), "study_seconds": "3600", **addresses}
    with ExitStack() as stack:
        settings, _process = start_node(home, workers=str(workers), **site)
        stack.callback(node.stop, settings)
        stack.callback(let_work, home, True)
        with Watch(settings) as warming:
            _send(pictures, "warming", _WARMING * workers, settings, warming)
            warming.wait(_PATIENCE * _WARMING)
        known = len(_passes(settings))
        let_work(home, False)  # held, it takes the first study and keeps it
        progress = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
        with Watch(settings, step=_STEP_SECONDS) as watch:
            _send(pictures, "queue", studies, settings, watch)
            bar = progress.add_task("drain", total=studies)
            used, started = _processor(home, database), time.time()
            let_work(home, True)
            for left in range(studies - 1, -1, -1):
                if not watch.wait(_PATIENCE * studies, left):
                    raise SystemExit(f"{left + 1} studies are left: see {settings.logs / 'worker.log'}")
                progress.update(bar, completed=studies - left)
            drained = time.time() - started
            processor = {role: (seconds - used[role]) / studies for role, seconds in _processor(home, database).items()}
            memory = sum(memory_of(pids).share for role, pids in victims.processes(home).items() if role in WORKER)
        taken = zip(watch.courses, seconds_of(watch.courses, "objects"), strict=True)
        answered = max(course.answered_at + seconds for course, seconds in taken)
        passes = tuple(_passes(settings)[known + workers :])  # the first were held as the queue came
        return Drained(workers, answered - started, drained, passes, processor, memory)


def _processor(home: Path, database: int | None) -> dict[str, float]:
    """Seconds of processor time that the processes of a node have used, by their kind, and this one."""
    found = {role: sum(map(_processor_of, pids)) for role, pids in victims.processes(home).items()}
    return {**found, **({} if database is None else {"database": of_family(database)}), "bench": time.process_time()}


def _processor_of(pid: int, *, ended: bool = False) -> float:
    """Fields 14 and 15 of proc(5), stat; and with `ended` 16 and 17, of children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if ended else 13])) / os.sysconf("SC_CLK_TCK")


def of_family(pid: int) -> float:
    """Seconds of processor time of a process and its children, also of those that have ended."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    used = _processor_of(pid, ended=True)
    for child in children:
        with contextlib.suppress(OSError):  # it ended just now
            used += _processor_of(int(child))
    return used


def _send(pictures: Pictures, run: str, studies: int, settings: Settings, watch: Watch) -> None:
    associations = range(0, studies, _TOGETHER)
    for first in track(associations, run, console=Console(stderr=True), transient=True):
        some = [pictures.study(run, number) for number in range(first, min(first + _TOGETHER, studies))]
        for outcome in send(some, "127.0.0.1", settings.dicom_port, settings.ae_title, caller_of(settings)):
            if not outcome.accepted:
                raise SystemExit(f"an image was not taken: {outcome.error}")
            watch.follow(outcome.study_instance_uid, outcome.answered_at)


def _passes(settings: Settings) -> list[float]:
    """Seconds of each pass over a study so far."""
    told = (settings.logs / "worker.log").read_text("utf-8").splitlines()
    lines = (json.loads(line) for line in told if line.startswith("{"))
    return [float(line["seconds"]) for line in lines if line.get("event") == "study processed"]


def _plain(
    studies: int, pictures: Pictures, folder: Path, bundles: Sequence[str]
) -> tuple[list[float], list[float], dict[str, float]]:
    """Seconds of each study, in one warm process and in processes of their own; processor time of the warm one."""
    warm: list[float] = []
    cold: list[float] = []
    number = min(studies, _PLAIN)
    with bare_orthanc(folder / "bare") as orthanc:
        with warm_plain_way(orthanc, bundles) as plain:
            numbers = range(number + _WARMING)
            pids = {"plain way": plain.pid, "orthanc": victims.processes(folder / "bare")["orthanc"][0]}
            used = {who: _processor_of(pid) for who, pid in pids.items()}
            for n in track(numbers, "plain way", console=Console(stderr=True), transient=True):
                file = write_study(pictures.study("plain", n), folder)
                seconds, _ = plain.read(file)
                file.unlink()
                warm += [seconds] if n >= _WARMING else []
            processor = {who: (_processor_of(pid) - used[who]) / len(numbers) for who, pid in pids.items()}
        for n in range(min(number, _COLD)):
            file = write_study(pictures.study("cold", n), folder)
            cold.append(cold_plain_way(file, orthanc, bundles))
            file.unlink()
    return warm, cold, processor


def sheets(drain: Drain) -> list[Sheet]:
    """The tables of a measurement."""
    plain = 1 / drain.warm.mean
    rates = [("plain way, warm", plain, ""), ("plain way, a process for each study", 1 / drain.cold.mean, "")]
    for each in drain.nodes:
        rates.append((f"{_told(each)}: SR and SEG", drain.studies / each.answered, ""))
        rates.append((f"{_told(each)}: all, with reports", drain.studies / each.drained, f"{each.memory:.0f}"))
    best = max(map(drain.ratio, drain.nodes))
    note = (
        f"Aim: {AIM:g} times the plain way, warm; {best:.2f}: {'held' if best >= AIM else 'missed'}. {drain.studies} "
        "studies waited. Memory: that of all processes of the worker, what they share counted once."
    )
    speed = Sheet(
        "How fast a queue is drained",
        ("what", "studies a second", "ratio to the plain way, warm", "memory, MB"),
        tuple((name, f"{rate:.2f}", f"{rate / plain:.2f}", memory) for name, rate, memory in rates),
        note,
    )
    times = [
        *((f"{_told(each)}: one pass over a study", *Spread.of(each.passes).cells()) for each in drain.nodes),
        ("plain way, warm: a study", *drain.warm.cells()),
        ("plain way, a process for each study", *drain.cold.cells()),
    ]
    costs = [*((_told(each), each.processor) for each in drain.nodes), ("plain way, warm", drain.plain_processor)]
    roles = ("orthanc", "worker", "reader", "intake", "plain way", "bench")
    rows = tuple(
        (
            name,
            *(f"{1000 * cost[role]:.0f}" if role in cost else "" for role in roles),
            f"{1000 * (whole := sum(cost.values())):.0f}",
            f"{CORES / whole:.1f}",
        )
        for name, cost in costs
    )
    heads = ("processor ms a study", *roles, "all", f"studies a second at most, {CORES} cores")
    return [speed, Sheet("Seconds", ("what", *SPREAD), tuple(times)), Sheet("What bounds it", heads, rows)]


def _told(node: Drained) -> str:
    return f"node, workers = {node.workers}"

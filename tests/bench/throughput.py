"""How fast a queue is drained: studies that wait in a real node, and as many files before the plain way.

The rule: all studies are in Orthanc before the first is read, so that nothing but reading is timed; the node counts as
done when each study has its report as well, which the plain way does not make.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, track

from orthanc_plugin.commands import node
from orthanc_plugin.commands.modality import send
from orthanc_plugin.settings import Settings
from tests.bench.bare_orthanc import bare_orthanc
from tests.bench.baseline import BUNDLES, cold_plain_way, warm_plain_way, write_study
from tests.bench.ingest import let_work
from tests.bench.latency import QUIET_SECONDS
from tests.bench.machine import Machine, describe, keep_to_cores
from tests.bench.sheets import SPREAD, Sheet, Spread, tell
from tests.bench.sources import COLUMNS, ROWS, Pictures
from tests.bench.watching import Watch, seconds_of
from tests.running_node import start_node

AIM = 5.0  # times the studies a second of the plain way as one warm process
_WARMING = 2
_PLAIN = 50  # the most that the plain way reads: each takes as long as the one before
_COLD = 5
_TOGETHER = 20  # studies sent over one association
_PATIENCE = 60.0  # s a study, before it is given up


@dataclass(frozen=True)
class Drain:
    """What was measured.

    Parameters
    ----------
    answered, drained
        Seconds until every study had SR and SEG, and until every one had its report.
    passes
        Seconds of one pass over a study, of which each has two, as the worker's log tells them.
    warm, cold
        Seconds of a study, of the plain way.
    """

    machine: Machine
    studies: int
    answered: float
    drained: float
    passes: Spread
    warm: Spread
    cold: Spread

    @property
    def ratio(self) -> float:
        """Studies a second over those of the plain way as one warm process."""
        return self.warm.mean * self.studies / self.drained


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
        answered, drained, passes = _drain(studies, pictures, folder / "node", bundles)
        warm, cold = _plain(studies, pictures, folder, bundles)
    drain = Drain(machine, studies, answered, drained, Spread.of(passes), Spread.of(warm), Spread.of(cold))
    tell("throughput", sheets(drain), machine, write=write)
    if json_file is not None:
        json_file.write_text(json.dumps({**asdict(drain), "ratio": drain.ratio}, indent=1) + "\n", "utf-8")
    return drain


def _drain(studies: int, pictures: Pictures, home: Path, bundles: Sequence[str]) -> tuple[float, float, list[float]]:
    """Seconds until all are answered, and until all have their report; and those of each pass."""
    site = {"bundles": ",".join(bundles), "quiet_seconds": str(QUIET_SECONDS), "study_seconds": "3600"}
    with ExitStack() as stack:
        settings, _process = start_node(home, **site)
        stack.callback(node.stop, settings)
        stack.callback(let_work, home, True)
        with Watch(settings) as warming:
            _send(pictures, "warming", _WARMING, settings, warming)
            warming.wait(_PATIENCE * _WARMING)
        known = len(_passes(settings))
        let_work(home, False)  # held, it takes the first study and keeps it
        progress = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
        with Watch(settings) as watch:
            _send(pictures, "queue", studies, settings, watch)
            bar = progress.add_task("drain", total=studies)
            started = time.time()
            let_work(home, True)
            for left in range(studies - 1, -1, -1):
                if not watch.wait(_PATIENCE * studies, left):
                    raise SystemExit(f"{left + 1} studies are left: see {settings.logs / 'worker.log'}")
                progress.update(bar, completed=studies - left)
            drained = time.time() - started
        taken = zip(watch.courses, seconds_of(watch.courses, "objects"), strict=True)
        answered = max(course.answered_at + seconds for course, seconds in taken)
        return answered - started, drained, _passes(settings)[known:]


def _send(pictures: Pictures, run: str, studies: int, settings: Settings, watch: Watch) -> None:
    associations = range(0, studies, _TOGETHER)
    for first in track(associations, run, console=Console(stderr=True), transient=True):
        some = [pictures.study(run, number) for number in range(first, min(first + _TOGETHER, studies))]
        for outcome in send(some, "127.0.0.1", settings.dicom_port, settings.ae_title):
            if not outcome.accepted:
                raise SystemExit(f"an image was not taken: {outcome.error}")
            watch.follow(outcome.study_instance_uid, outcome.answered_at)


def _passes(settings: Settings) -> list[float]:
    """Seconds of each pass over a study so far."""
    told = (settings.logs / "worker.log").read_text("utf-8").splitlines()
    lines = (json.loads(line) for line in told if line.startswith("{"))
    return [float(line["seconds"]) for line in lines if line.get("event") == "study processed"]


def _plain(studies: int, pictures: Pictures, folder: Path, bundles: Sequence[str]) -> tuple[list[float], list[float]]:
    """Seconds of each study, in one warm process and in processes of their own."""
    warm: list[float] = []
    cold: list[float] = []
    number = min(studies, _PLAIN)
    with bare_orthanc(folder / "bare") as orthanc:
        with warm_plain_way(orthanc, bundles) as plain:
            numbers = range(number + _WARMING)
            for n in track(numbers, "plain way", console=Console(stderr=True), transient=True):
                file = write_study(pictures.study("plain", n), folder)
                seconds, _ = plain.read(file)
                file.unlink()
                warm += [seconds] if n >= _WARMING else []
        for n in range(min(number, _COLD)):
            file = write_study(pictures.study("cold", n), folder)
            cold.append(cold_plain_way(file, orthanc, bundles))
            file.unlink()
    return warm, cold


def sheets(drain: Drain) -> list[Sheet]:
    """The tables of a measurement."""
    plain, cold = 1 / drain.warm.mean, 1 / drain.cold.mean
    rates = [
        ("node: SR and SEG", drain.studies / drain.answered),
        ("node: all, with reports", drain.studies / drain.drained),
        ("plain way, warm", plain),
        ("plain way, a process for each study", cold),
    ]
    held = "held" if drain.ratio >= AIM else "missed"
    note = f"Aim: {AIM:g} times the plain way, warm; {drain.ratio:.2f}: {held}. {drain.studies} studies waited."
    speed = Sheet(
        "How fast a queue is drained",
        ("what", "studies a second", "ratio to the plain way, warm"),
        tuple((name, f"{rate:.2f}", f"{rate / plain:.2f}") for name, rate in rates),
        note,
    )
    times = [
        ("node: one pass over a study, of two", *drain.passes.cells()),
        ("plain way, warm: a study", *drain.warm.cells()),
        ("plain way, a process for each study", *drain.cold.cells()),
    ]
    return [speed, Sheet("Seconds", ("what", *SPREAD), tuple(times))]

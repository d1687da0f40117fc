"""Studies a second by one reader and by two: actors on a Ray cluster of this machine, beside processes of its own.

The rule: all readers are warm and all studies in Orthanc before the clock starts; they are queued at once, as `./hilum
reread` does, so that nothing but reading is timed. What is the same as before is not stored again.
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
from rich.progress import Progress

from orthanc_plugin.commands import node
from orthanc_plugin.commands.modality import send
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import Ledger, open_ledger
from orthanc_plugin.settings import Settings
from tests.bench.baseline import BUNDLES
from tests.bench.machine import Machine, describe, keep_to_cores
from tests.bench.sheets import Sheet, tell
from tests.bench.sources import COLUMNS, ROWS, Pictures
from tests.bench.watching import Watch
from tests.ray_cluster import ray_cluster
from tests.running_node import start_node

_READERS = (1, 2)
_PATIENCE = 60.0  # s a study, before it is given up
_TOGETHER = 20  # studies sent over one association
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Drained:
    """How a queue was drained: what reads, how many of them, and in how many seconds."""

    executor: str
    readers: int
    seconds: float


@dataclass(frozen=True)
class Scaling:
    """What was measured."""

    machine: Machine
    studies: int
    drained: tuple[Drained, ...]

    def rate(self, each: Drained) -> float:
        """Studies a second."""
        return self.studies / each.seconds


def compare(
    studies: int = 200,
    *,
    json_file: Path | None = None,
    write: bool = False,
    rows: int = ROWS,
    columns: int = COLUMNS,
    bundles: Sequence[str] = BUNDLES,
) -> Scaling:
    """Measure and print."""
    keep_to_cores()
    machine, pictures = describe(), Pictures.of_size(rows, columns)
    drained = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hilum-ray-")))
        progress = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
        bar = progress.add_task("drain", total=2 * len(_READERS))
        usual = {"bundles": ",".join(bundles), "quiet_seconds": "0.1", "study_seconds": "3600"}
        for readers in _READERS:
            seconds = _drain(folder / f"processes {readers}", pictures, studies, {**usual, "workers": str(readers)})
            drained.append(Drained("processes", readers, seconds))
            progress.advance(bar)
        for readers in _READERS:
            limits = {f"ray_actors_{name}": str(readers) for name in ("least", "most")}
            with ray_cluster(nodes=readers) as cluster:
                site = {**usual, **limits, "executor": "ray", "ray_address": cluster.address}
                drained.append(Drained("ray", readers, _drain(folder / f"ray {readers}", pictures, studies, site)))
            progress.advance(bar)
    scaling = Scaling(machine, studies, tuple(drained))
    tell("ray", [sheet(scaling)], machine, write=write)
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(scaling), indent=1) + "\n", "utf-8")
    return scaling


def _drain(home: Path, pictures: Pictures, studies: int, site: dict[str, str]) -> float:
    """Seconds in which a node of these settings drains a queue."""
    settings, _process = start_node(home, reconcile_seconds="86400", **site)
    try:
        fill(pictures, home.name, studies, settings)
        ledger = open_ledger(settings.ledger_address)
        try:
            return _read_all_again(ledger, studies)
        finally:
            ledger.close()
    finally:
        node.stop(settings)


def fill(pictures: Pictures, run: str, studies: int, settings: Settings) -> None:
    """Send studies and wait until they are read."""
    with Watch(settings, step=0.2) as watch:
        for first in range(0, studies, _TOGETHER):
            some = [pictures.study(run, number) for number in range(first, min(first + _TOGETHER, studies))]
            for outcome in send(some, "127.0.0.1", settings.dicom_port, settings.ae_title):
                if not outcome.accepted:
                    raise SystemExit(f"an image was not taken: {outcome.error}")
                watch.follow(outcome.study_instance_uid, outcome.answered_at)
        if not watch.wait(_PATIENCE * studies):
            raise SystemExit(f"not all studies were read: see {settings.logs / 'worker.log'}")


def _read_all_again(ledger: Ledger, studies: int) -> float:
    """Queue every study, and the seconds until none waits."""
    with ledger.write() as db:
        for each in tasks.after(db, "", studies):
            tasks.request_again(db, each.study_instance_uid, now=time.time())
    started = time.monotonic()
    while time.monotonic() - started < _PATIENCE * studies:
        with ledger.read() as db:
            states = tasks.count_by_status(db)
        if states["done"] + states["not_processed"] + states["quarantined"] == studies:
            return time.monotonic() - started
        time.sleep(_LOOK_SECONDS)
    raise SystemExit("not all studies were read again")


def sheet(scaling: Scaling) -> Sheet:
    """The table of a measurement."""
    alone = {each.executor: scaling.rate(each) for each in scaling.drained if each.readers == 1}
    rows = tuple(
        (
            f"{each.executor}: {each.readers}",
            f"{scaling.rate(each):.2f}",
            f"{scaling.rate(each) / alone[each.executor]:.2f}",
        )
        for each in scaling.drained
    )
    note = f"{scaling.studies} studies waited; Orthanc, worker, cluster and watcher share the cores with the readers."
    return Sheet("Studies a second", ("what reads: how many", "studies a second", "of one reader"), rows, note)

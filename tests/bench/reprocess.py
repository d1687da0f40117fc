"""What a run through the archive costs live studies: the same studies, alone and while a run goes on.

The rule: live studies come one at a time, in turns with nothing; the run never ends before the last of them has its
report. With one reader a live study may find it busy with one study of the run; of two, one takes no part.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from orthanc_plugin.commands import node
from orthanc_plugin.ledger import reprocessing
from orthanc_plugin.ledger.database import open_ledger
from orthanc_plugin.ledger.reprocessing import Wanted
from orthanc_plugin.settings import Settings
from tests.bench.baseline import BUNDLES
from tests.bench.latency import MOMENTS, QUIET_SECONDS, one_alone
from tests.bench.machine import Machine, describe, keep_to_cores
from tests.bench.ray import fill
from tests.bench.sheets import SPREAD, Sheet, Spread, tell
from tests.bench.sources import COLUMNS, ROWS, Pictures
from tests.bench.watching import Watch, seconds_of
from tests.running_node import start_node

_READERS = (1, 2)
_ARCHIVE = 20  # studies, read again and again
_WARMING = 2
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Beside:
    """Latencies of live studies with so many readers, in seconds, without and with a run; what the run read meanwhile.

    Parameters
    ----------
    alone, beside
        Moment, as in `latency.MOMENTS`, to how long it took.
    read_again
        Studies of the archive a second.
    """

    readers: int
    alone: dict[str, Spread]
    beside: dict[str, Spread]
    read_again: float


@dataclass(frozen=True)
class Reprocessing:
    """What was measured."""

    machine: Machine
    studies: int
    measured: tuple[Beside, ...]


def compare(
    studies: int = 30,
    *,
    json_file: Path | None = None,
    write: bool = False,
    rows: int = ROWS,
    columns: int = COLUMNS,
    bundles: Sequence[str] = BUNDLES,
) -> Reprocessing:
    """Measure and print."""
    keep_to_cores()
    machine, pictures = describe(), Pictures.of_size(rows, columns)
    with tempfile.TemporaryDirectory(prefix="hilum-reprocess-") as folder:
        measured = tuple(_measure(Path(folder) / str(n), pictures, studies, n, bundles) for n in _READERS)
    found = Reprocessing(machine, studies, measured)
    tell("reprocess", [sheet(found)], machine, write=write)
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(found), indent=1) + "\n", "utf-8")
    return found


def _measure(home: Path, pictures: Pictures, studies: int, readers: int, bundles: Sequence[str]) -> Beside:
    settings, _process = start_node(
        home, bundles=",".join(bundles), quiet_seconds=str(QUIET_SECONDS), workers=str(readers)
    )
    try:
        fill(pictures, "archive", min(_ARCHIVE, 2 * studies), settings)
        alone = _live(pictures, "alone", studies, settings)
        with _endless_run(settings) as taken:
            before, started = taken(), time.monotonic()
            beside = _live(pictures, "beside", studies, settings)
            rate = (taken() - before) / (time.monotonic() - started)
        return Beside(readers, alone, beside, rate)
    finally:
        node.stop(settings)


def _live(pictures: Pictures, run: str, studies: int, settings: Settings) -> dict[str, Spread]:
    with Watch(settings) as watch:
        for number in range(studies + _WARMING):
            one_alone(pictures.study(run, number), settings, watch)
    counted = watch.courses[_WARMING:]
    return {moment: Spread.of(seconds_of(counted, moment)) for moment in MOMENTS}


@contextmanager
def _endless_run(settings: Settings) -> Iterator[object]:
    """A run over all studies of before, begun anew whenever it is done; gives what tells how many it has taken."""
    ledger, enough, taken = open_ledger(settings.ledger_address), threading.Event(), {}
    newest = time.strftime("%Y%m%d", time.localtime())

    def look() -> None:
        with ledger.write() as db:
            last = reprocessing.latest(db)
            if last is None or last.state == "done":
                last = reprocessing.start(db, Wanted(last_date=newest), now=time.time())
        taken[last.number] = last.taken

    def work() -> None:
        while not enough.wait(_LOOK_SECONDS):
            look()

    look()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield lambda: sum(taken.values())
    finally:
        enough.set()
        thread.join()
        with ledger.write() as db:
            reprocessing.stop(db, now=time.time())
        ledger.close()


def sheet(found: Reprocessing) -> Sheet:
    """The table of a measurement."""
    rows = [
        (f"{_readers(each)}, {what}: {told}", *spreads[moment].cells())
        for each in found.measured
        for moment, told in MOMENTS.items()
        for what, spreads in (("alone", each.alone), ("beside a run", each.beside))
    ]
    rates = "; ".join(f"with {_readers(each)} {each.read_again:.2f} a second" for each in found.measured)
    note = f"Seconds after the last C-STORE response of studies that come one by one. Read again meanwhile: {rates}."
    return Sheet("Live studies beside a run through the archive", ("moment", *SPREAD), tuple(rows), note)


def _readers(each: Beside) -> str:
    return f"{each.readers} {'reader' if each.readers == 1 else 'readers'}"

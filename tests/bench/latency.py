"""From the last C-STORE response to the flag, the objects and the report: alone, and at eight studies a second.

The rule: a real node with its default bundles on `CORES` cores, which sender, watcher and Orthanc share with it; the
plain way reads the same pictures in turns with it, from a file that is already there.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from pydicom import Dataset
from rich.console import Console
from rich.progress import Progress

from orthanc_plugin.commands import node
from orthanc_plugin.commands.modality import caller_of, send
from orthanc_plugin.settings import Settings
from tests.bench.bare_orthanc import bare_orthanc
from tests.bench.baseline import BUNDLES, cold_plain_way, warm_plain_way, write_study
from tests.bench.machine import Machine, describe, keep_to_cores
from tests.bench.sheets import SPREAD, Sheet, Spread, tell
from tests.bench.sources import COLUMNS, ROWS, Pictures
from tests.bench.watching import STEP_SECONDS, Watch, seconds_of
from tests.running_node import start_node

RATE = 8.0  # studies a second
QUIET_SECONDS = 0.5  # after which a study is complete here; 5 by default
MOMENTS = {"flagged": "row flagged", "objects": "SR and SEG stored", "report": "report of the study stored"}
P95_AIM = 1.2  # seconds until SR and SEG are stored
AIMS = {("alone", "flagged"): 0.4, ("alone", "objects"): 0.8}  # s, medians
_SENDERS = 4
_WARMING = 2  # studies that are not counted
_COLD = 5  # the most that are read by a process of their own
_IDLE_SECONDS = 0.5  # between two lone studies
_PATIENCE = 60.0  # s, for one study that is alone


@dataclass(frozen=True)
class Latency:
    """What was measured, in seconds.

    Parameters
    ----------
    alone, loaded
        Moment, as in `MOMENTS`, to how long it took.
    sent_per_second
        Studies that were acknowledged a second while `loaded` was measured; `RATE` was tried.
    warm, cold
        Of the plain way: until SR and SEG are stored.
    """

    machine: Machine
    rows: int
    columns: int
    alone: dict[str, Spread]
    loaded: dict[str, Spread]
    sent_per_second: float
    warm: Spread
    cold: Spread


def compare(
    studies: int = 50,
    seconds: float = 10.0,
    *,
    json_file: Path | None = None,
    write: bool = False,
    rows: int = ROWS,
    columns: int = COLUMNS,
    bundles: Sequence[str] = BUNDLES,
) -> Latency:
    """Measure and print.

    Parameters
    ----------
    studies
        That come alone.
    seconds
        For which `RATE` studies come a second.
    """
    keep_to_cores()
    machine, pictures = describe(), Pictures.of_size(rows, columns)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hilum-latency-")))
        progress = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
        orthanc = stack.enter_context(bare_orthanc(folder / "bare"))
        plain = stack.enter_context(warm_plain_way(orthanc, bundles))
        settings, _process = start_node(
            folder / "node", bundles=",".join(bundles), quiet_seconds=str(QUIET_SECONDS), study_seconds="600"
        )
        stack.callback(node.stop, settings)
        files = [write_study(pictures.study("plain", number), folder) for number in range(len(pictures.templates))]
        warm: list[float] = []
        cold: list[float] = []
        bar = progress.add_task("alone", total=studies + _WARMING)
        with Watch(settings) as alone:
            for number in range(studies + _WARMING):
                one_alone(pictures.study("alone", number), settings, alone)
                file = files[number % len(files)]
                taken, _ = plain.read(file)
                if number >= _WARMING:
                    warm.append(taken)
                    if len(cold) < min(_COLD, studies):
                        cold.append(cold_plain_way(file, orthanc, bundles))
                progress.advance(bar)
        progress.update(bar, description=f"{RATE:g} a second")
        with Watch(settings) as loaded:
            rate = _send_steadily([pictures.study("load", n) for n in range(round(RATE * seconds))], settings, loaded)
            loaded.wait(_PATIENCE + 10 * RATE * seconds)
    counted = alone.courses[_WARMING:]
    latency = Latency(
        machine,
        rows,
        columns,
        {moment: Spread.of(seconds_of(counted, moment)) for moment in MOMENTS},
        {moment: Spread.of(seconds_of(loaded.courses, moment)) for moment in MOMENTS},
        rate,
        Spread.of(warm),
        Spread.of(cold),
    )
    tell("latency", sheets(latency), machine, write=write)
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(latency), indent=1) + "\n", "utf-8")
    return latency


def one_alone(ds: Dataset, settings: Settings, watch: Watch) -> None:
    """Send a study while nothing else runs, and wait until it has its report."""
    time.sleep(_IDLE_SECONDS)
    _send(ds, settings, watch)
    if not watch.wait(_PATIENCE):
        raise SystemExit(f"a study was not read within {_PATIENCE:g} s: see {settings.logs / 'worker.log'}")


def _send(ds: Dataset, settings: Settings, watch: Watch) -> None:
    (outcome,) = send([ds], "127.0.0.1", settings.dicom_port, settings.ae_title, caller_of(settings))
    if not outcome.accepted:
        raise SystemExit(f"an image was not taken: {outcome.error}")
    watch.follow(outcome.study_instance_uid, outcome.answered_at)


def _send_steadily(studies: Sequence[Dataset], settings: Settings, watch: Watch) -> float:
    """Send a study each 1 / `RATE` seconds, whatever becomes of the others; how many a second were acknowledged."""
    started, lock = time.monotonic(), threading.Lock()

    def send_at(number: int) -> None:
        time.sleep(max(0.0, started + number / RATE - time.monotonic()))
        (outcome,) = send([studies[number]], "127.0.0.1", settings.dicom_port, settings.ae_title, caller_of(settings))
        if not outcome.accepted:
            raise SystemExit(f"an image was not taken: {outcome.error}")
        with lock:
            watch.follow(outcome.study_instance_uid, outcome.answered_at)

    with ThreadPoolExecutor(_SENDERS) as senders:
        list(senders.map(send_at, range(len(studies))))
    return len(studies) / (time.monotonic() - started)


def sheets(latency: Latency) -> list[Sheet]:
    """The tables of a measurement."""
    size = f"{latency.columns} x {latency.rows}"
    ratio = latency.warm.p50 / latency.alone["objects"].p50
    rows = [(f"alone: {what}", *latency.alone[m].cells(), _aim(latency.alone[m], m)) for m, what in MOMENTS.items()]
    rows += [(f"{RATE:g} a second: {what}", *latency.loaded[m].cells(), "") for m, what in MOMENTS.items()]
    rows += [
        ("plain way, warm: SR and SEG stored", *latency.warm.cells(), f"{ratio:.2f}"),
        (
            "plain way, a process for each study",
            *latency.cold.cells(),
            f"{latency.cold.p50 / latency.alone['objects'].p50:.2f}",
        ),
    ]
    note = (
        f"Seconds after the last C-STORE response, seen every {1000 * STEP_SECONDS:.0f} ms; of the plain way, after "
        "the file lies there (the last column: its median over ours, alone). A study's report waits "
        f"{QUIET_SECONDS:g} s for further images here, 5 s by default. They were to come {RATE:g} a "
        f"second, and {latency.sent_per_second:.1f} did; that is more than two cores read (see below), so most waited."
    )
    return [Sheet(f"One radiograph of {size} pixels", ("moment", *SPREAD, "aim, ratio"), tuple(rows), note)]


def _aim(spread: Spread, moment: str) -> str:
    aim = AIMS.get(("alone", moment))
    if aim is None:
        return ""
    told = f"aim {aim:g}: {'held' if spread.p50 <= aim else 'missed'}"
    if moment == "objects":
        told += f"; p95 {P95_AIM:g}: {'held' if spread.p95 <= P95_AIM else 'missed'}"
    return told

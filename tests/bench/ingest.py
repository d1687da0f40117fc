"""How fast images are taken by C-STORE over eight associations: Orthanc alone, with an empty script, and as the node.

The rule: all run at once on this machine and are sent the same files by dcmtk's storescu, in turns, in one run; a rate
is compared with Orthanc's own in the same round.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom import dcmwrite
from rich.console import Console
from rich.progress import track

from orthanc_plugin.commands import node
from orthanc_plugin.commands.modality import Exposure, radiograph
from orthanc_plugin.settings import Settings
from tests.bench.bare_orthanc import bare_orthanc
from tests.bench.folders import working_folder
from tests.bench.machine import describe, keep_to_cores
from tests.bench.sheets import Aim, Sheet, keep, tell
from tests.faults import victims
from tests.running_node import start_node

ASSOCIATIONS = 8
ALONE, EMPTY, HELD, WHOLE = "Orthanc alone", "with an empty Python script", "node, reading held", "node, reading"
AIM = Aim(95.0, "%", at_least=True)  # of Orthanc's own rate
_BUNDLE = "lung_fields"


@dataclass(frozen=True)
class Load:
    """What is sent in one round.

    Parameters
    ----------
    rows, columns
        Pixels of 16 bits.
    images
        For each association.
    """

    name: str
    rows: int
    columns: int
    images: int


LOADS = (Load("small, 128 x 128", 128, 128, 40), Load("full size, 2500 x 2048", 2500, 2048, 4))


@dataclass(frozen=True)
class Rate:
    """Images a second, and what share of Orthanc's own rate that is, round by round."""

    load: str
    variant: str
    images_per_second: tuple[float, ...]
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class _Server:
    port: int
    home: Path
    worker_may_run: bool


def compare(
    rounds: int, loads: tuple[Load, ...] = LOADS, *, json_file: Path | None = None, write: bool = False
) -> list[Rate]:
    """Time all variants in turns and print their rates."""
    if shutil.which("storescu") is None:
        raise SystemExit("storescu is missing: apt install dcmtk")
    keep_to_cores()
    machine = describe()
    with ExitStack() as stack:
        folder = stack.enter_context(working_folder("ingest"))
        running = stack.enter_context(_node(folder / "node"))
        servers = {
            ALONE: _server(stack.enter_context(bare_orthanc(folder / "alone"))),
            EMPTY: _server(stack.enter_context(bare_orthanc(folder / "empty", script=""))),
            HELD: running,
            WHOLE: replace(running, worker_may_run=True),
        }
        rates = [rate for load in loads for rate in _time(load, rounds, servers, folder / "images")]
    tell("ingest", [sheet(rates, rounds)], machine, write=write)
    keep({"machine": machine, "rates": rates}, json_file)
    return rates


def _time(load: Load, rounds: int, servers: dict[str, _Server], images: Path) -> list[Rate]:
    taken: dict[str, list[float]] = {name: [] for name in servers}
    names = list(servers)
    for turn in track(range(rounds + 1), description=load.name, console=Console(stderr=True), transient=True):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:  # nobody is always first
            folders = _write(load, f"{name}/{load.name}/{turn}", images)
            seconds = _send(folders, servers[name])
            shutil.rmtree(images)
            if turn:  # the first one warms up
                taken[name].append(load.images * ASSOCIATIONS / seconds)
    ratios = {name: tuple(r / alone for r, alone in zip(taken[name], taken[ALONE], strict=True)) for name in names}
    return [Rate(load.name, name, tuple(taken[name]), ratios[name]) for name in names]


def _write(load: Load, seed: str, images: Path) -> list[Path]:
    """A folder of files for each association: the same pixels, identifiers of their own, a study for each image."""
    pixels = np.random.default_rng(0).random((load.rows, load.columns))
    ds = radiograph(pixels, Exposure(bits_stored=12))
    folders = []
    for association in range(ASSOCIATIONS):
        folder = images / str(association)
        folder.mkdir(parents=True)
        folders.append(folder)
        for number in range(load.images):
            named = radiograph(np.zeros((1, 1)), Exposure(seed=f"{seed}/{association}/{number}"))
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                setattr(ds, keyword, named[keyword].value)
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            dcmwrite(folder / f"{number}.dcm", ds, enforce_file_format=True)
    return folders


def _send(folders: list[Path], server: _Server) -> float:
    """Seconds until all associations have sent their files."""
    let_work(server.home, server.worker_may_run)
    started = time.perf_counter()
    senders = [
        subprocess.Popen(
            ["storescu", "-aec", "HILUM", "+sd", "127.0.0.1", str(server.port), str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for folder in folders
    ]
    codes = [sender.wait() for sender in senders]
    seconds = time.perf_counter() - started
    let_work(server.home, False)
    if any(codes):
        raise SystemExit(f"storescu ended with {codes}: an image was not taken")
    return seconds


def let_work(home: Path, may_run: bool) -> None:
    """Hold the reading of a node while others are timed; a bare Orthanc has none.

    Never the worker: it might be held in the middle of a transaction, for which the plugin would then wait.
    """
    found = victims.processes(home)
    for role in ("reader", "intake"):
        for pid in found[role]:
            os.kill(pid, signal.SIGCONT if may_run else signal.SIGSTOP)


@contextmanager
def _node(home: Path) -> Iterator[_Server]:
    settings, _process = start_node(home, bundles=_BUNDLE, study_seconds="3600")  # a held study takes long
    try:
        let_work(home, False)
        yield _Server(settings.dicom_port, home, worker_may_run=False)
    finally:
        let_work(home, True)
        node.stop(settings)


def _server(settings: Settings) -> _Server:
    return _Server(settings.dicom_port, settings.home, worker_may_run=False)


def sheet(rates: list[Rate], rounds: int) -> Sheet:
    """The rates as a table."""
    rows = []
    for rate in rates:
        share = statistics.median(rate.ratios)
        aim = AIM.told(100 * share) if rate.variant in (HELD, WHOLE) else ""
        spread = f"{min(rate.ratios):.1%} to {max(rate.ratios):.1%}"
        each = f"{statistics.median(rate.images_per_second):.1f}"
        rows.append((f"{rate.load}: {rate.variant}", each, f"{share:.1%}", spread, aim))
    note = (
        f"{ASSOCIATIONS} associations, {rounds} rounds in turns; medians, and shares of Orthanc's own rate in the same "
        "round. Whoever sends works on the same cores; so does reading, where it is not held."
    )
    return Sheet(
        "C-STORE", ("images: what takes them", "images a second", "of Orthanc alone", "lowest to highest", "aim"),
        tuple(rows), note,
    )  # fmt: skip

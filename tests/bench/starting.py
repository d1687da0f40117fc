"""How long the node takes to start, and how much memory it holds: idle, and at most while studies are read.

The rule: what is timed is what a person types, ``./hilum up --detach``, from its first line to its return, which comes
when the node is ready. The plugin's memory is that of Orthanc with it less that of Orthanc without, both after the same
studies: the other one is sent them by C-STORE too, each file is fetched from it, and it is given what the node stored.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from pydicom import Dataset
from rich.console import Console
from rich.progress import track

from orthanc_plugin.archive.client import OrthancClient
from orthanc_plugin.commands import node
from orthanc_plugin.commands.modality import send
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.settings import REPOSITORY, Settings, load_settings
from tests.bench.bare_orthanc import bare_orthanc
from tests.bench.latency import one_alone
from tests.bench.machine import Machine, describe, keep_to_cores
from tests.bench.node_growth import peak_mb
from tests.bench.sheets import SPREAD, Sheet, Spread, tell
from tests.bench.sources import COLUMNS, ROWS, Pictures
from tests.bench.watching import Watch
from tests.faults import victims
from tests.running_node import free_port

UP_AIM, WORKER_AIM = 8.0, 5.0  # s
PLUGIN_AIM, WORKER_MEMORY_AIM = 60.0, 900.0  # MB
_TOLD = {
    "orthanc": "Orthanc with the plugin",
    "bare": "Orthanc without it",
    "worker": "worker",
    "fork_server": "fork server",
    "reader": "reading process",
    "intake": "intake process",
}
WORKER = ("worker", "fork_server", "reader", "intake")
_READ = 20  # studies, for memory
_PATIENCE = 120.0  # s


@dataclass(frozen=True)
class Memory:
    """MB of processes: resident, most of it so far, and their share of what several of them hold in common."""

    resident: float
    most: float
    share: float


@dataclass(frozen=True)
class Left:
    """What a node put into Orthanc for one study: files of results, and attachments by their paths."""

    results: tuple[bytes, ...]
    attachments: Mapping[str, bytes]


@dataclass(frozen=True)
class Starting:
    """What was measured.

    Parameters
    ----------
    up
        Seconds of ``./hilum up --detach`` where the node has run before; `first` of the very first.
    worker
        Seconds from the death of the worker to one that is ready.
    idle, busy
        Memory of each kind of process, and of ``bare``, Orthanc without the plugin: after the start, and after studies.
    """

    machine: Machine
    first: float
    up: Spread
    worker: Spread
    idle: dict[str, Memory]
    busy: dict[str, Memory]


def compare(rounds: int = 5, *, json_file: Path | None = None, write: bool = False) -> Starting:
    """Measure and print."""
    keep_to_cores()
    machine, pictures = describe(), Pictures.of_size(ROWS, COLUMNS)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hilum-starting-")))
        of_home = {"HILUM_HOME": str(folder / "home"), "HILUM_TRANSLATED": str(folder / "translated")}
        ports = {"HILUM_HTTP_PORT": str(free_port()), "HILUM_DICOM_PORT": str(free_port())}
        environment = {**os.environ, **ports, **of_home}
        settings = load_settings(environment)
        stack.callback(node.stop, settings)
        first, times = _up(environment), []
        for _ in track(range(rounds), "starts", console=Console(stderr=True), transient=True):
            node.stop(settings)
            times.append(_up(environment))
        idle = _memory(settings)
        deaths = [_replace_worker(settings) for _ in range(rounds)]
        with Watch(settings) as watch:
            for study in track(studies_of(pictures), "studies", _READ, console=Console(stderr=True), transient=True):
                one_alone(study, settings, watch)
        busy = _memory(settings)
        left = [left_by(settings, study) for study in studies_of(pictures)]
        node.stop(settings)
        without = without_plugin(pictures, left, folder / "bare")
    measured = Starting(
        machine, first, Spread.of(times), Spread.of(deaths), idle | {"bare": without[0]}, busy | {"bare": without[1]}
    )
    tell("starting", sheets(measured), machine, write=write)
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(measured), indent=1) + "\n", "utf-8")
    return measured


def _up(environment: Mapping[str, str]) -> float:
    """Seconds until the node is ready."""
    started = time.monotonic()
    command = [str(REPOSITORY / "hilum"), "up", "--detach"]
    subprocess.run(command, env=dict(environment), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def _replace_worker(settings: Settings) -> float:
    """Seconds from the death of a worker until the next one has models and waits for studies."""
    before = victims.processes(settings.home)
    started = time.monotonic()
    for pid in before["worker"]:
        os.kill(pid, signal.SIGKILL)
    while time.monotonic() - started < _PATIENCE:
        found = victims.processes(settings.home)
        is_new = not set(found["reader"]) & set(before["reader"])
        if is_new and found["reader"] and node.status(settings).state == "ready":
            return time.monotonic() - started
        time.sleep(0.05)
    raise SystemExit(f"no worker was ready: see {settings.logs / 'worker.log'}")


def _memory(settings: Settings) -> dict[str, Memory]:
    """Memory of each kind of process of a node."""
    found = victims.processes(settings.home)
    return {role: memory_of(pids) for role, pids in found.items()}


def studies_of(pictures: Pictures) -> Iterator[Dataset]:
    """Those that are read before memory is looked at; the same each time."""
    return (pictures.study("memory", number) for number in range(_READ))


def left_by(settings: Settings, study: Dataset) -> Left:
    """What a node put into its Orthanc for a study that it has read."""
    results, attachments = [], {}
    with _client(settings) as orthanc:
        for series in orthanc.series_of_study(str(study.StudyInstanceUID)):
            for instance in series.instances:
                if series.series_instance_uid != study.SeriesInstanceUID:
                    results.append(orthanc.file(instance))
                for name in orthanc.attachments(f"/instances/{instance}"):
                    if name.isdigit():  # the others are Orthanc's own
                        with orthanc.attachment(f"/instances/{instance}", name) as pieces:
                            attachments[f"/instances/{instance}/attachments/{name}"] = b"".join(pieces)
    return Left(tuple(results), attachments)


def without_plugin(pictures: Pictures, left: Sequence[Left], home: Path) -> tuple[Memory, Memory]:
    """Memory of Orthanc without the plugin, before and after it had as much to do with the same studies."""
    with bare_orthanc(home) as settings, _client(settings) as orthanc:
        pids = victims.processes(home)["orthanc"]
        before = memory_of(pids)
        for study, put in zip(studies_of(pictures), left, strict=True):
            (outcome,) = send([study], "127.0.0.1", settings.dicom_port, settings.ae_title)
            if not outcome.accepted:
                raise SystemExit(f"an image was not taken: {outcome.error}")
            for instance in orthanc.instances(str(study.SOPInstanceUID)):
                orthanc.fetch(instance)
            for file in put.results:
                orthanc.store(file)
            for path, content in put.attachments.items():
                orthanc.put(path, content)
        return before, memory_of(pids)


def _client(settings: Settings) -> OrthancClient:
    accounts = load_credentials(settings.credentials)
    return OrthancClient(settings.http_url, accounts.worker_user, accounts.worker_password)


def memory_of(pids: list[int]) -> Memory:
    """The memory of some processes."""
    return Memory(*(sum(values) for values in zip(*map(_one, pids), strict=True))) if pids else Memory(0.0, 0.0, 0.0)


def _one(pid: int) -> tuple[float, float, float]:
    """Resident memory, the most of it, and the share (proc(5), smaps_rollup), in MB."""
    told = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8").splitlines()[1:])
    resident, share = (float(told[name].split()[0]) * 1024 / 1e6 for name in ("Rss", "Pss"))
    return resident, peak_mb(pid), share


def sheets(measured: Starting) -> list[Sheet]:
    """The tables of a measurement."""

    def held(value: float, aim: float, unit: str) -> str:
        return f"aim {aim:g} {unit}: {'held' if value <= aim else 'missed'}"

    times = (
        (
            "./hilum up, the very first time: networks are translated and timed",
            "1",
            *[f"{measured.first:.1f}"] * 3,
            "",
            "",
        ),
        ("./hilum up", *measured.up.cells(1), held(measured.up.p50, UP_AIM, "s")),
        (
            "a worker after the death of the one before",
            *measured.worker.cells(1),
            held(measured.worker.p50, WORKER_AIM, "s"),
        ),
    )
    idle, busy = measured.idle, measured.busy
    plugin = {key: at["orthanc"].resident - at["bare"].resident for key, at in (("idle", idle), ("busy", busy))}
    worker = sum(busy[role].share for role in WORKER)
    rows = [
        (what, *(f"{value:.0f}" for value in (idle[role].resident, *asdict(busy[role]).values())), "")
        for role, what in _TOLD.items()
    ]
    aims = held(plugin["busy"], PLUGIN_AIM, "MB"), held(worker, WORKER_MEMORY_AIM, "MB")
    rows += [
        ("the plugin", f"{plugin['idle']:.0f}", f"{plugin['busy']:.0f}", "", "", aims[0]),
        ("all of the worker", "", "", "", f"{worker:.0f}", aims[1]),
    ]
    note = (
        f"Resident, 10^6 bytes: idle, after {_READ} studies of {ROWS} x {COLUMNS} pixels, the most by then. The share "
        "counts what processes hold in common once: a reading process has the libraries of its fork server."
    )
    return [
        Sheet("Seconds until it is ready", ("start", *SPREAD, "aim"), times),
        Sheet("Memory", ("process", "idle", "after studies", "the most", "share", "aim"), tuple(rows), note),
    ]

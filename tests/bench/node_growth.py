"""Latency and memory of a real node, with larger images and with more bundles."""

from __future__ import annotations

import contextlib
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import track

from models.activation import Activation, Choice
from models.registry import Registry
from orthanc_plugin.commands import node
from orthanc_plugin.settings import REPOSITORY, Settings, load_settings
from tests.bench.baseline import BUNDLES
from tests.bench.latency import MOMENTS, QUIET_SECONDS, one_alone
from tests.bench.sheets import MB
from tests.bench.sources import COLUMNS, ROWS, Pictures
from tests.bench.watching import Watch, seconds_of
from tests.faults import victims
from tests.running_node import start_node

_TIMED = ("flagged", "objects")
_ROLES = ("worker", "fork_server", "reader", "intake", "orthanc")
# In this order, as far as so many are asked for; then those of `_AGAIN` under other names.
_ALL = ("lung_fields", *(name for name in BUNDLES if name != "lung_fields"), "pneumothorax")
_AGAIN = ("chest_findings", "pneumothorax")
_SUFFIX = "_again"


def with_pixels(sizes: Sequence[float], rounds: int, folder: Path) -> dict[str, list[list[float]]]:
    """Square images of so many Mpixel, one after the other; the memory is the most that each size took."""
    costs: dict[str, list[list[float]]] = defaultdict(list)
    with _node(folder / "home") as settings:
        measure(settings, Pictures.of_size(512, 512, kinds=1), 2)  # warms up
        for size in track(sizes, "image size", console=Console(stderr=True), transient=True):
            side = round(1000 * size**0.5)
            for cost, values in measure(settings, Pictures.of_size(side, side, kinds=1), rounds).items():
                costs[cost].append(values)
    return dict(costs)


def with_bundles(sizes: Sequence[float], rounds: int, folder: Path) -> dict[str, list[list[float]]]:
    """A node for each number of bundles: those that ship, then copies of two of them."""
    costs: dict[str, list[list[float]]] = defaultdict(list)
    pictures = Pictures.of_size(ROWS, COLUMNS)
    for size in track(sizes, "bundles", console=Console(stderr=True), transient=True):
        with _node(folder / f"home {size:g}", bundles(round(size))) as settings:
            measure(settings, pictures, 2)  # warms up
            for cost, values in measure(settings, pictures, rounds).items():
                costs[cost].append(values)
    return dict(costs)


def bundles(number: int) -> tuple[str, ...]:
    """The names of so many."""
    return (*_ALL, *(f"{name}{_SUFFIX}" for name in _AGAIN))[:number]


def measure(settings: Settings, pictures: Pictures, rounds: int) -> dict[str, list[float]]:
    """Seconds to each moment of lone studies, and the most memory that each kind of process took meanwhile."""
    found = victims.processes(settings.home)
    for pid in (pid for role in _ROLES for pid in found[role]):
        _forget_peak(pid)
    run = uuid.uuid4().hex[:8]
    with Watch(settings) as watch:
        for number in range(rounds):
            one_alone(pictures.study(run, number), settings, watch)
    costs = {f"{MOMENTS[moment]}, s": seconds_of(watch.courses, moment) for moment in _TIMED}
    found = victims.processes(settings.home)
    for role in _ROLES:
        costs[f"{role.replace('_', ' ')}, MB"] = [sum(map(peak_mb, found[role]))]
    return costs


@contextmanager
def _node(home: Path, chosen: Sequence[str] = BUNDLES) -> Iterator[Settings]:
    """A node with these bundles; those of `_AGAIN` are the site's own."""
    shipped = [name for name in chosen if not name.endswith(_SUFFIX)]
    own, choice = load_settings({"HILUM_HOME": str(home)}), Choice()
    registry = Registry(REPOSITORY / "models", own.own_models)
    for name in (name for name in chosen if name.endswith(_SUFFIX)):
        choice = choice.activate(registry.add(REPOSITORY / "models" / name.removesuffix(_SUFFIX), name), shipped)
    Activation(own.active_models).choose(choice)
    site = {"bundles": ",".join(shipped), "quiet_seconds": str(QUIET_SECONDS)}
    node.stop(start_node(home, **site)[0])  # a first start translates networks, with torch in memory
    settings, _process = start_node(home, **site)
    try:
        yield settings
    finally:
        node.stop(settings)


def peak_mb(pid: int) -> float:
    """MB of memory that a process held at most since `_forget_peak` (proc(5), status); 0 when it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024 / MB
    return 0.0


def _forget_peak(pid: int) -> None:
    """Begin anew to note the most memory of a process (proc(5), clear_refs)."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5", "utf-8")

"""How long the default networks take for a picture by each runtime, on one thread and two, and for several at once.

The rule: all runtimes are asked in turns about the same picture, so that whatever else the machine does meets all of
them; and each says the same as torch, or it has no figure.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track

from models.bundle import Bundle, load_bundle
from models.probe import probe
from models.runtime import Engine, Running, Runtime, engine_of, groups_of
from orthanc_plugin.settings import REPOSITORY
from tests.bench import batches
from tests.bench.baseline import BUNDLES
from tests.bench.folders import working_folder
from tests.bench.machine import Machine, describe, keep_to_cores
from tests.bench.sheets import Aim, Sheet, Spread, keep, tell

THREADS = (1, 2)
AIM = Aim(4.0, "times as fast as torch", at_least=True)  # eagerly in float32
ASKED = (Runtime.TORCH, Runtime.OPENVINO, Runtime.OPENVINO_BF16, Runtime.OPENVINO_INT8, Runtime.AUTO)
_TITLES = {
    Runtime.TORCH: "torch, eager, float32",
    Runtime.OPENVINO: "OpenVINO, float32",
    Runtime.OPENVINO_BF16: "OpenVINO, bfloat16",
    Runtime.OPENVINO_INT8: "OpenVINO, int8",
    Runtime.AUTO: "`auto`",
}
_WARMING = 3


@dataclass(frozen=True)
class Timed:
    """One group of networks by one runtime on so many threads.

    Parameters
    ----------
    asked, runs
        The runtime that was asked for, and the one that answered.
    seconds
        Of one picture.
    """

    names: tuple[str, ...]
    threads: int
    asked: Runtime
    runs: Runtime
    seconds: Spread


@dataclass(frozen=True)
class Runtimes:
    """What was measured.

    Parameters
    ----------
    delay
        Seconds by which a lone study is answered later where studies are gathered than where they are not.
    """

    machine: Machine
    timed: tuple[Timed, ...]
    batches: tuple[batches.Batch, ...] = ()
    delay: Spread | None = None

    def sum(self, threads: int, asked: Runtime) -> float | None:
        """Seconds of all networks for one picture, the medians added; None where one has no figure."""
        found = [one for one in self.timed if (one.threads, one.asked) == (threads, asked)]
        if not found or not all(_answers(one) for one in found):
            return None
        return sum(one.seconds.p50 for one in found)


def compare(
    rounds: int = 40, *, json_file: Path | None = None, write: bool = False, bundles: Sequence[str] = BUNDLES
) -> Runtimes:
    """Measure and print.

    Parameters
    ----------
    rounds
        How often each is asked.
    """
    keep_to_cores()
    machine, loaded = describe(), [load_bundle(REPOSITORY / "models" / name) for name in bundles]
    with_network = [bundle for bundle in loaded if bundle.build is not None]
    groups = [[with_network[number] for number in group] for group in groups_of(with_network)]
    with working_folder("runtimes") as kept:
        timed = [one for group in track(groups, "networks") for one in _time(group, rounds, kept)]
    together = [one for group in track(groups, "batches") for one in batches.time_batches(group, max(3, rounds // 4))]
    found = Runtimes(machine, tuple(timed), tuple(together), batches.time_delay())
    tell("runtimes", sheets(found), machine, write=write)
    keep(found, json_file)
    return found


def _time(group: Sequence[Bundle], rounds: int, kept: Path) -> list[Timed]:
    """All runtimes of one group in turns."""
    engines: dict[tuple[int, Runtime], Engine] = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        for asked in ASKED:
            engines[threads, asked] = engine_of(group, Running(asked, threads, kept / str(threads)))
    picture, seconds = probe(group[0]), {key: [] for key in engines}
    for number in range(_WARMING + rounds):
        for (threads, asked), engine in engines.items():
            torch.set_num_threads(threads)
            started = time.perf_counter()
            engine.run(picture)
            if number >= _WARMING:
                seconds[threads, asked].append(time.perf_counter() - started)
    return [
        Timed(engine.names, threads, asked, engine.runtime, Spread.of(seconds[threads, asked]))
        for (threads, asked), engine in engines.items()
    ]


def sheets(found: Runtimes) -> list[Sheet]:
    """A table for each number of threads, and one for batches."""
    groups = list(dict.fromkeys(one.names for one in found.timed))
    told = []
    for threads in THREADS:
        by = {(one.names, one.asked): one for one in found.timed if one.threads == threads}
        rows = [(" + ".join(names), *(_cell(by[names, asked]) for asked in ASKED)) for names in groups]
        sums = [found.sum(threads, asked) for asked in ASKED]
        rows.append(("**all**", *("-" if one is None else f"{1000 * one:.1f}" for one in sums)))
        base = sums[0] or float("nan")
        rows.append(("times as fast as torch", *("-" if one is None else f"{base / one:.1f}" for one in sums)))
        auto = found.sum(threads, Runtime.AUTO)
        ratio = base / auto if auto else 0.0
        note = f"Milliseconds of one picture, medians. `auto`, {AIM.told(ratio)} ({ratio:.2f})."
        title = f"Networks of the default bundles on {threads} {'thread' if threads == 1 else 'threads'}"
        told.append(Sheet(title, ("network", *(_TITLES[asked] for asked in ASKED)), tuple(rows), note))
    return [*told, batches.sheet(found.batches, found.delay)] if found.batches and found.delay else told


def _answers(one: Timed) -> bool:
    return one.asked is Runtime.AUTO or one.runs is one.asked


def _cell(one: Timed) -> str:
    if not _answers(one):
        return "-"
    chosen = f" ({one.runs})" if one.asked is Runtime.AUTO else ""
    return f"{1000 * one.seconds.p50:.1f}{chosen}"

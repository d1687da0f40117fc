"""Where the time of one study goes: the product's own ``process_study``, with collaborators that tell what they took.

The rule: nothing of the product is replaced; archive, intake and networks are those of a reading process, and note when
they begin and end. What is none of theirs is *interpret and encode*. The plain way reads the same files in turns.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydicom import Dataset
from rich.console import Console
from rich.progress import track

from dicom_sr.report.wording import load_wording
from models import networks  # noqa: F401  (bundles name what is in it)
from models.bundle import load_bundle
from models.forward import FloatArray, Forward
from models.inference import Models
from models.intake import Intake
from models.selection import Policy
from orthanc_plugin.archive.client import OrthancClient, StoredInstance
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.ledger.tasks import InferenceTask, Urgency
from orthanc_plugin.reading.active_models import load_active
from orthanc_plugin.reading.intake_process import IntakeProcess
from orthanc_plugin.reading.study import Reader, process_study
from orthanc_plugin.settings import REPOSITORY, Settings
from tests.bench.bare_orthanc import bare_orthanc
from tests.bench.baseline import warm_plain_way, write_study
from tests.bench.folders import working_folder
from tests.bench.limits import Limits, limits_of
from tests.bench.machine import Machine, describe, keep_to_cores
from tests.bench.plain_results import to_bytes
from tests.bench.sampling import sampled
from tests.bench.sheets import Sheet, Spread, keep, tell
from tests.bench.sources import COLUMNS, ROWS, Pictures

T = TypeVar("T")
WHOLE, REST = "whole", "interpret and encode"
FETCH, ASK, DECODE, INFER, STORE, CONCLUDE = "fetch", "ask Orthanc", "decode", "inference", "store", "report"
ORDER = (FETCH, DECODE, INFER, REST, STORE, ASK, WHOLE, CONCLUDE)
_WARMING = 3
_PROFILED = 10  # studies
_TOLD = {
    FETCH: "fetch: the file from Orthanc, over loopback",
    DECODE: "decode: another process, with the way there and back",
    INFER: "inference: all networks",
    REST: "interpret and encode: findings, outlines, SR, SEG, pictures",
    STORE: "store: SR, SEG and pictures into Orthanc, as far as it is waited for",
    ASK: "ask Orthanc: what the study holds",
    WHOLE: "whole: from the claim to the answer",
    CONCLUDE: "report: the pass that follows when the study is complete",
}
_BESIDE = {DECODE: ("decode", "prepare"), INFER: ("inference",), REST: ("interpret", "encode"), STORE: ("store",)}


class Clock:
    """Adds up how long the stages of a study took; a stage within a stage counts as the outer one.

    What another thread does is no stage; waiting for it is.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside, self._thread = False, threading.get_ident()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What the block takes belongs to this stage."""
        if self._inside or threading.get_ident() != self._thread:
            yield
            return
        started, self._inside = time.perf_counter(), True
        try:
            yield
        finally:
            self._inside = False
            self.seconds[name] += time.perf_counter() - started

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return timed


class _TimedOrthanc(OrthancClient):
    """A connection that tells how long it took."""

    def __init__(self, clock: Clock, settings: Settings) -> None:
        accounts = load_credentials(settings.credentials)
        super().__init__(settings.http_url, accounts.worker_user, accounts.worker_password)
        self._clock = clock

    def fetch(self, orthanc_id: str) -> StoredInstance:
        with self._clock.stage(FETCH):
            return super().fetch(orthanc_id)

    def beside(self, work: Callable[[], T]) -> Callable[[], T]:
        waiting: Callable[[], T] = self._clock.around(STORE, super().beside(work))
        return waiting

    def store(self, file: bytes) -> str:
        with self._clock.stage(STORE):
            return super().store(file)

    def attach(self, instances: Sequence[str], number: int, content: bytes) -> None:
        with self._clock.stage(STORE):
            super().attach(instances, number, content)

    def _request(self, *args: Any, **kwargs: Any) -> Any:
        with self._clock.stage(ASK):
            return super()._request(*args, **kwargs)


class _TimedIntake(IntakeProcess):
    """An intake that tells how long it took, with the way to its process and back."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__(seconds)
        self._clock = clock

    def take_in(self, content: bytes, policy: Policy) -> Intake:
        with self._clock.stage(DECODE):
            return super().take_in(content, policy)


def timed_models(models: Models, clock: Clock) -> Models:
    """Models whose networks tell how long they took."""

    def timed(forward: Forward) -> Forward:
        def ask(picture: FloatArray) -> dict[str, FloatArray]:
            with clock.stage(INFER):
                return forward(picture)

        return ask

    gate = None if models.gate is None else (models.gate[0], timed(models.gate[1]))
    return replace(models, forwards=tuple(timed(forward) for forward in models.forwards), gate=gate)


@dataclass(frozen=True)
class Stages:
    """Seconds of each stage, of the node and of the plain way, and what a profile of the node's process says."""

    machine: Machine
    runtime: str
    ours: dict[str, Spread]
    plain: dict[str, Spread]
    limits: Limits
    image_bytes: int
    profile: str


def compare(
    studies: int = 30,
    *,
    json_file: Path | None = None,
    write: bool = False,
    rows: int = ROWS,
    columns: int = COLUMNS,
    bundles: Sequence[str] = (),
) -> Stages:
    """Measure and print."""
    keep_to_cores()
    machine, pictures = describe(), Pictures.of_size(rows, columns)
    with ExitStack() as stack:
        folder = stack.enter_context(working_folder("stages"))
        settings = stack.enter_context(bare_orthanc(folder / "orthanc"))
        settings = replace(settings, bundles=tuple(bundles) or settings.bundles)
        plain = stack.enter_context(warm_plain_way(settings, settings.bundles))
        clock = Clock()
        orthanc = stack.enter_context(_TimedOrthanc(clock, settings))
        intake = stack.enter_context(_TimedIntake(clock, settings.intake_seconds))
        models = load_active(settings)
        models.warm_up()
        wording = load_wording(settings.report_language, settings.site_wording)
        reader = Reader(settings, orthanc, timed_models(models, clock), intake, wording)
        ours: dict[str, list[float]] = defaultdict(list)
        beside: dict[str, list[float]] = defaultdict(list)
        numbers = range(studies + _WARMING)
        for number in track(numbers, "studies", console=Console(stderr=True), transient=True):
            ds = pictures.study("stages", number)
            file = write_study(ds, folder)
            taken = read_once(ds, reader, clock)
            whole, stages = plain.read(file)
            file.unlink()
            if number >= _WARMING:
                for name, seconds in taken.items():
                    ours[name].append(seconds)
                for name, parts in _BESIDE.items():
                    beside[name].append(sum(stages[part] for part in parts))
                beside[WHOLE].append(whole)
        profile = _profiled([pictures.study("profile", n) for n in range(min(studies, _PROFILED))], reader)
    measured = Stages(
        machine,
        settings.runtime,
        {name: Spread.of(ours[name]) for name in ORDER},
        {name: Spread.of(values) for name, values in beside.items()},
        limits_of([load_bundle(REPOSITORY / "models" / name) for name in settings.bundles]),
        2 * rows * columns,
        profile,
    )
    tell("stages", sheets(measured), machine, write=write, text=profile)
    keep(measured, json_file)
    return measured


def read_once(ds: Dataset, reader: Reader, clock: Clock) -> dict[str, float]:
    """Store a study and read it as a reading process does; returns stage to seconds, `CONCLUDE` for its second pass."""
    reader.orthanc.store(to_bytes(ds))
    task = _task(ds)
    clock.seconds.clear()
    started = time.perf_counter()
    outcome = process_study(task, reader)
    whole = time.perf_counter() - started
    taken = {name: clock.seconds[name] for name in (FETCH, ASK, DECODE, INFER, STORE)}
    started = time.perf_counter()
    process_study(replace(task, conclude=True, result=outcome.result), reader)
    return {**taken, REST: whole - sum(taken.values()), WHOLE: whole, CONCLUDE: time.perf_counter() - started}


def _task(ds: Dataset) -> InferenceTask:
    """As if the study had just been claimed."""
    now = time.time()
    return InferenceTask(str(ds.StudyInstanceUID), 1, 1, 0, 0, None, {}, False, now, now, Urgency.ROUTINE)


def _profiled(studies: Sequence[Dataset], reader: Reader) -> str:
    """In which functions of the reading process its processor time goes; that of intake and Orthanc is theirs."""
    for ds in studies:
        reader.orthanc.store(to_bytes(ds))
    with sampled() as samples:
        for ds in studies:
            process_study(_task(ds), reader)
    return samples.table(len(studies))


def sheets(measured: Stages) -> list[Sheet]:
    """The table of a measurement."""
    rows = []
    for name in ORDER:
        ours, plain = measured.ours[name], measured.plain.get(name)
        beside = ("", "") if plain is None else (_ms(plain.p50), f"{plain.p50 / ours.p50:.1f}" if ours.p50 else "")
        rows.append((_TOLD[name], *(_ms(value) for value in (ours.p50, ours.p95, ours.lowest, ours.highest)), *beside))
    note = (
        f"Milliseconds, {measured.ours[WHOLE].number} studies, in turns with the plain way, whose stages are those "
        "that do the same; it makes less of a study. The ratio is its median over ours."
    )
    headings = ("stage", "p50", "p95", "lowest", "highest", "plain way, p50", "ratio")
    return [
        Sheet(f"Where the time of a study goes (runtime: {measured.runtime})", headings, tuple(rows), note),
        _bounds(measured),
    ]


def _bounds(measured: Stages) -> Sheet:
    limits, found = measured.limits, measured.ours
    copy, gflop, took = limits.copy_seconds(measured.image_bytes), f"{limits.shared / 1e9:.1f}", _ms(found[INFER].p50)
    rows = (
        *((f"inference, GFLOP, in {p}", gflop, f"{1000 * limits.inference_seconds(p):.1f}", took)
          for p in limits.operations_per_second),
        ("the pixels copied once, MB", f"{measured.image_bytes / 1e6:.1f}", f"{1000 * copy:.1f}", ""),
        ("the file fetched, MB", f"{measured.image_bytes / 1e6:.1f}", f"{1000 * copy:.1f}", _ms(found[FETCH].p50)),
    )  # fmt: skip
    peaks = ", ".join(f"{each / 1e9:.0f} GFLOP/s of {p}" for p, each in limits.operations_per_second.items())
    note = (
        f"One thread reaches {peaks} in a matrix product, with integers of 8 bits at best twice the latter, and copies "
        f"{limits.bytes_per_second / 1e9:.1f} GB/s. Networks that begin alike are run as one; each by itself, they "
        f"would want {limits.operations / 1e9:.1f} GFLOP."
    )
    return Sheet("What the machine allows", ("what", "how much", "ms at best", "ms measured"), rows, note)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f}"

"""How long the intake of one large radiograph takes, step by step, against the plain way with pydicom.

The rule: all steps are timed on the same bytes, in turns and in one run; the ratios are what counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import JPEG2000Lossless
from rich.console import Console
from rich.progress import track

from models.decoding import decode
from models.intake import parse, take_in
from models.rendering import DECODING_THREADS, network_input, render
from models.selection import Policy, select
from orthanc_plugin.commands import modality
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.reading.intake_process import IntakeProcess
from tests.bench import decoders
from tests.bench.decoders import noisy_radiograph
from tests.bench.machine import describe
from tests.bench.sheets import SPREAD, Sheet, Spread, keep, tell

BASELINE = "plain way: dcmread, pixel_array, VOI LUT in double precision"
WHOLE = "select + decode + render (take_in)"
ISOLATED = "the same in its own process"
POLICY = Policy()


@dataclass(frozen=True)
class Step:
    """One step with its times, in seconds; `ratio` is its median over the baseline's."""

    name: str
    seconds: Spread
    ratio: float


def compare(rounds: int = 5, *, json_file: Path | None = None, write: bool = False) -> list[Step]:
    """Time the intake of a 2500 x 3000 radiograph of 16 bits, and each decoder of each transfer syntax; prints tables.

    Returns
    -------
    list
        The steps of an uncompressed one, then those in JPEG 2000.
    """
    machine, picture = describe(), noisy_radiograph()
    steps: list[Step] = []
    sheets: list[Sheet] = []
    for syntax in (None, JPEG2000Lossless):
        ds = modality.radiograph(picture, Exposure(bits_stored=16, seed="intake benchmark"))
        if syntax is not None:
            modality.encode_as(ds, syntax)
        buffer = BytesIO()
        dcmwrite(buffer, ds, enforce_file_format=True)
        name = "JPEG 2000 lossless" if syntax else "uncompressed"
        found = _time(buffer.getvalue(), rounds, name)
        sheets.append(sheet(found, f"Intake of 2500 x 3000 pixels, 16 bits, {name}"))
        steps += found
    timings = decoders.compare(rounds, picture)
    tell("intake", [*sheets, decoders.sheet(timings)], machine, write=write)
    keep({"machine": machine, "steps": steps, "decoders": timings}, json_file)
    return steps


def _time(content: bytes, rounds: int, what: str) -> list[Step]:
    source = parse(content)
    hanging = select(source, POLICY).hanging
    image = render(source, hanging)
    with IntakeProcess(60.0) as process:
        todo: dict[str, Callable[[], Any]] = {
            BASELINE: lambda: _plain(content),
            "parse": lambda: parse(content),
            "select": lambda: select(source, POLICY),
            "decode": lambda: decode(source, threads=DECODING_THREADS),
            "decode + render": lambda: render(source, hanging),
            "picture for a network of 320 pixels": lambda: network_input(image, 320),
            WHOLE: lambda: take_in(content, POLICY),
            ISOLATED: lambda: process.take_in(content, POLICY),
        }
        seconds: dict[str, list[float]] = {name: [] for name in todo}
        for turn in track(range(rounds + 1), description=what, console=Console(stderr=True), transient=True):
            for name, work in todo.items():
                started = time.perf_counter()
                work()
                if turn:  # the first one warms up
                    seconds[name].append(time.perf_counter() - started)
    base = statistics.median(seconds[BASELINE])
    return [Step(name, Spread.of(taken), statistics.median(taken) / base) for name, taken in seconds.items()]


def _plain(content: bytes) -> Any:
    """What a program does that follows pydicom's tutorial."""
    ds: Dataset = dcmread(BytesIO(content))
    values = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds, index=0).astype(np.float64)
    return (values - values.min()) / (values.max() - values.min())


def sheet(steps: list[Step], title: str) -> Sheet:
    """Steps as a table, in milliseconds."""
    rows = tuple((step.name, *step.seconds.times(1000.0).cells(0), f"{step.ratio:.2f}") for step in steps)
    return Sheet(title, ("step", *SPREAD, "ratio"), rows, f"Milliseconds; the ratio is to the {BASELINE}.")

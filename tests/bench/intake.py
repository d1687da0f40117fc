"""How long the intake of one large radiograph takes, step by step, against the plain way with pydicom.

The rule: all steps are timed on the same bytes, in turns and in one run; the ratios are what counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import JPEG2000Lossless
from rich.console import Console
from rich.progress import track
from rich.table import Table

from models.decoding import decode
from models.intake import parse, take_in
from models.rendering import DECODING_THREADS, network_input, render
from models.selection import Policy, select
from orthanc_plugin.commands import modality
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.reading.intake_process import IntakeProcess
from tests.bench.decoders import noisy_radiograph

BASELINE = "plain way: dcmread, pixel_array, VOI LUT in double precision"
WHOLE = "select + decode + render (take_in)"
ISOLATED = "the same in its own process"
POLICY = Policy()


@dataclass(frozen=True)
class Step:
    """One step with its times, in seconds; `ratio` is its median over the baseline's."""

    name: str
    minimum: float
    median: float
    maximum: float
    ratio: float


def compare(rounds: int = 5) -> list[Step]:
    """Time the intake of a 2500 x 3000 radiograph of 16 bits, uncompressed and in JPEG 2000; prints two tables."""
    picture, console = noisy_radiograph(), Console()
    steps: list[Step] = []
    for syntax in (None, JPEG2000Lossless):
        ds = modality.radiograph(picture, Exposure(bits_stored=16, seed="intake benchmark"))
        if syntax is not None:
            modality.encode_as(ds, syntax)
        buffer = BytesIO()
        dcmwrite(buffer, ds, enforce_file_format=True)
        name = "JPEG 2000 lossless" if syntax else "uncompressed"
        found = _time(buffer.getvalue(), rounds, name)
        console.print(_table(found, f"Intake of 2500 x 3000 pixels, 16 bits, {name} ({BASELINE} = 1)"))
        steps += found
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
    return [
        Step(name, min(taken), statistics.median(taken), max(taken), statistics.median(taken) / base)
        for name, taken in seconds.items()
    ]


def _plain(content: bytes) -> Any:
    """What a program does that follows pydicom's tutorial."""
    ds: Dataset = dcmread(BytesIO(content))
    values = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds, index=0).astype(np.float64)
    return (values - values.min()) / (values.max() - values.min())


def _table(steps: list[Step], title: str) -> Table:
    table = Table(title=title)
    for heading in ("step", "min", "median", "max", "ratio"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for step in steps:
        style = "bold" if step.name in (WHOLE, ISOLATED) else ""
        figures = (f"{value:.3f}" for value in (step.minimum, step.median, step.maximum))
        table.add_row(step.name, *figures, f"{step.ratio:.2f}", style=style)
    return table

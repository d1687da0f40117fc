"""Which decoder is fastest for each transfer syntax, on a large radiograph.

The rule: every candidate decodes the same bytes, in turns and in one run, and one that does not give the same values as
the baseline is shown as failed, not as fast.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from models.decoding import decode
from models.phantom import chest
from orthanc_plugin.commands import modality
from orthanc_plugin.commands.modality import Exposure

Pixels = npt.NDArray[Any]

ROWS, COLUMNS = 3000, 2500  # a 43 x 36 cm detector at 0.14 mm
BASELINE = "pydicom's order"
OURS = "models.decoding"
# 16 bits where the syntax can hold them: JPEG has 8 (Baseline) or 12 (Extended).
_BITS = {JPEGBaseline8Bit: 8, JPEGExtended12Bit: 12}
_SYNTAXES = (
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2K,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
)
# Two decoders may round the inverse DCT or wavelet of a lossy syntax differently (ITU-T T.83, T.803).
_ROUNDING = {JPEGBaseline8Bit: 2, JPEGExtended12Bit: 2, JPEG2000: 2, HTJ2K: 2}


@dataclass(frozen=True)
class DecoderTiming:
    """How long one decoder took for one transfer syntax.

    Parameters
    ----------
    ratio
        Median over the median of the baseline; below 1 is faster. None when either has no time.
    error
        Why there are no times: the decoder's exception, or wrong values.
    """

    syntax: str
    decoder: str
    threads: int
    rounds: int
    minimum: float | None
    median: float | None
    maximum: float | None
    ratio: float | None
    error: str = ""


@dataclass(frozen=True)
class _Candidate:
    name: str
    decode: Callable[[], Pixels]
    threads: int = 1


def compare(rounds: int = 5) -> list[DecoderTiming]:
    """Time every candidate for every compressed syntax on a noisy 2500 x 3000 phantom, showing progress and a table.

    Parameters
    ----------
    rounds
        How often each candidate decodes, after one time that is not counted. In each round all take their turn.
    """
    console = Console()
    for chatty in ("pydicom", "pylibjpeg"):  # a failure is a row of the table here
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    timings: list[DecoderTiming] = []
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("making the radiograph", total=len(_SYNTAXES))
        picture = noisy_radiograph()
        for syntax in _SYNTAXES:
            progress.update(bar, description=syntax.name)
            ds = _instance(picture, syntax)
            timings += _time(syntax, list(_candidates(ds, syntax)), rounds)
            progress.advance(bar)
    console.print(table(timings))
    return timings


def table(timings: list[DecoderTiming]) -> Table:
    """The timings for people, in seconds; the fastest of one thread in bold."""
    shown = Table(title=f"Decoding {COLUMNS} x {ROWS} pixels, seconds ({BASELINE} = 1)")
    for heading in ("transfer syntax", "decoder", "threads", "min", "median", "max", "ratio"):
        shown.add_column(heading, justify="left" if heading in ("transfer syntax", "decoder") else "right")
    for syntax in dict.fromkeys(t.syntax for t in timings):
        rows = [t for t in timings if t.syntax == syntax]
        fastest = min((t.median for t in rows if t.median is not None and t.threads == 1), default=None)
        for index, t in enumerate(rows):
            figures = [t.error, "", "", ""] if t.median is None else [_seconds(t.minimum), _seconds(t.median)]
            if t.median is not None:
                figures += [_seconds(t.maximum), "" if t.ratio is None else f"{t.ratio:.2f}"]
            style = "bold" if t.median == fastest and t.threads == 1 and fastest is not None else ""
            label = syntax if index == 0 else ""
            shown.add_row(label, t.decoder, str(t.threads), *figures, style=style, end_section=index == len(rows) - 1)
    return shown


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def noisy_radiograph() -> npt.NDArray[np.float64]:
    """A phantom with the grain of a detector: without it lossless codecs have too little to do."""
    clean = chest(1, rows=ROWS, columns=COLUMNS).pixels.astype(np.float64)
    return np.clip(0.02 + 0.95 * clean + np.random.default_rng(20).normal(0.0, 0.002, clean.shape), 0.0, 1.0)


def _instance(picture: npt.NDArray[np.float64], syntax: UID) -> Dataset:
    exposure = Exposure(bits_stored=_BITS.get(syntax, 16), seed="decoder benchmark")
    return modality.encode_as(modality.radiograph(picture, exposure), syntax)


def _candidates(ds: Dataset, syntax: UID) -> Iterator[_Candidate]:
    decoder = get_decoder(syntax)
    yield _Candidate(BASELINE, lambda: decoder.as_array(ds, index=0, raw=True)[0])
    for plugin in decoder.available_plugins:
        yield _Candidate(
            f"pydicom: {plugin}",
            lambda plugin=plugin: decoder.as_array(ds, index=0, raw=True, decoding_plugin=plugin)[0],  # type: ignore[misc]
        )
    data = get_frame(ds.PixelData, 0, number_of_frames=1)
    for name, function in _image_codecs(data, syntax, int(ds.BitsAllocated)):
        yield _Candidate(f"imagecodecs: {name}", function)
    yield _Candidate(OURS, lambda: decode(ds))
    if "2000" in syntax.name:
        yield _Candidate(OURS, lambda: decode(ds, threads=2), threads=2)


def _image_codecs(data: bytes, syntax: UID, bits_allocated: int) -> Iterator[tuple[str, Callable[[], Pixels]]]:
    if "2000" in syntax.name:
        yield "OpenJPEG", lambda: imagecodecs.jpeg2k_decode(data, numthreads=1)
    if syntax in (HTJ2KLossless, HTJ2K):
        yield "OpenJPH", lambda: imagecodecs.htj2k_decode(data)
    if syntax in (JPEGLSLossless, JPEGLSNearLossless):
        yield "CharLS", lambda: imagecodecs.jpegls_decode(data)
    if syntax in (JPEGLossless, JPEGLosslessSV1, JPEGBaseline8Bit, JPEGExtended12Bit):
        yield "libjpeg-turbo", lambda: imagecodecs.jpeg8_decode(data)
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        yield "jpegsof3", lambda: imagecodecs.jpegsof3_decode(data)
        yield "liblj92", lambda: imagecodecs.ljpeg_decode(data)
    if syntax == RLELossless:
        dtype = f"<u{bits_allocated // 8}"
        yield "DICOM RLE", lambda: np.frombuffer(imagecodecs.dicomrle_decode(data, dtype), dtype)


def _time(syntax: UID, candidates: list[_Candidate], rounds: int) -> list[DecoderTiming]:
    """Let all candidates take their turn `rounds` times; one that fails or differs from the first is left out."""
    errors: list[str] = []
    reference: Pixels | None = None
    for candidate in candidates:
        try:
            values = candidate.decode().reshape(ROWS, COLUMNS)
        except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
            errors.append(type(error).__name__)
            continue
        reference = values if reference is None else reference
        difference = int(np.abs(values.astype(np.int32) - reference).max())
        errors.append(f"differs by {difference}" if difference > _ROUNDING.get(syntax, 0) else "")
    seconds: list[list[float]] = [[] for _ in candidates]
    for _ in range(rounds):
        for candidate, failure, taken in zip(candidates, errors, seconds, strict=True):
            if not failure:
                started = time.perf_counter()
                candidate.decode()
                taken.append(time.perf_counter() - started)
    baseline = statistics.median(seconds[0]) if seconds[0] else None
    timings = []
    for candidate, failure, taken in zip(candidates, errors, seconds, strict=True):
        median = statistics.median(taken) if taken else None
        ratio = median / baseline if median is not None and baseline else None
        figures = (min(taken, default=None), median, max(taken, default=None), ratio)
        timings.append(DecoderTiming(syntax.name, candidate.name, candidate.threads, len(taken), *figures, failure))
    return timings

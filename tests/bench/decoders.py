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
from rich.progress import track

from models.decoding import decode
from models.phantom import chest
from orthanc_plugin.commands import modality
from orthanc_plugin.commands.modality import Exposure
from tests.bench.sheets import SPREAD, Sheet, Spread

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
    seconds
        None when there are none, see `error`.
    ratio
        Median over the median of the baseline; below 1 is faster. None when either has no time.
    error
        Why there are no times: the decoder's exception, or wrong values.
    """

    syntax: str
    decoder: str
    threads: int
    seconds: Spread | None
    ratio: float | None
    error: str = ""


@dataclass(frozen=True)
class _Candidate:
    name: str
    decode: Callable[[], Pixels]
    threads: int = 1


def compare(rounds: int, picture: npt.NDArray[np.float64]) -> list[DecoderTiming]:
    """Time every candidate for every compressed syntax on a radiograph.

    Parameters
    ----------
    rounds
        How often each candidate decodes, after one time that is not counted. In each round all take their turn.
    picture
        Of `ROWS` x `COLUMNS`, 0 to 1.
    """
    for chatty in ("pydicom", "pylibjpeg"):  # a failure is a row of the table here
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    timings: list[DecoderTiming] = []
    for syntax in track(_SYNTAXES, "decoders", console=Console(stderr=True), transient=True):
        ds = _instance(picture, syntax)
        timings += _time(syntax, list(_candidates(ds, syntax)), rounds)
    return timings


def sheet(timings: list[DecoderTiming]) -> Sheet:
    """The timings as a table, in milliseconds; the fastest of one thread is marked."""
    rows = []
    for syntax in dict.fromkeys(t.syntax for t in timings):
        of_it = [t for t in timings if t.syntax == syntax]
        alone = [t.seconds.p50 for t in of_it if t.seconds is not None and t.threads == 1]
        for t in of_it:
            fastest = t.seconds is not None and t.threads == 1 and t.seconds.p50 == min(alone)
            told = f"{syntax}: {t.decoder}" + f", {t.threads} threads" * (t.threads > 1) + ", the fastest" * fastest
            cells = (t.error, *[""] * (len(SPREAD) - 1)) if t.seconds is None else t.seconds.times(1000.0).cells(0)
            rows.append((told, *cells, "" if t.ratio is None else f"{t.ratio:.2f}"))
    title = f"Decoding {COLUMNS} x {ROWS} pixels"
    return Sheet(title, ("decoder", *SPREAD, "ratio"), tuple(rows), f"Milliseconds; the ratio is to {BASELINE}.")


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
        spread = Spread.of(taken) if taken else None
        ratio = spread.p50 / baseline if spread is not None and baseline else None
        timings.append(DecoderTiming(syntax.name, candidate.name, candidate.threads, spread, ratio, failure))
    return timings

"""How networks are run: by OpenVINO or on a GPU where that says the same sooner, else by torch on the processor.

The rule: torch in float32 is right. Another runtime is taken only when it said the same of a radiograph as the models
were loaded; which one was taken is kept, for a study that is read again is to be read in the same way.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.bundle import Bundle
from models.forward import FloatArray, Forward, torch_forward
from models.phantom import chest
from models.rendering import RenderedImage, network_input
from models.translation import openvino_forward

log = logging.getLogger("hilum.runtime")

_TIMED = 5  # inferences, after one that warms up


class Runtime(StrEnum):
    """What runs a network."""

    AUTO = "auto"  # the fastest of those that compute in single precision, or of a GPU
    TORCH = "torch"
    OPENVINO = "openvino"
    OPENVINO_BF16 = "openvino-bf16"
    CUDA = "cuda"


# Differences that count as the same, of a logit, of 99 in 100 values of a map (next to an edge, logits are steep). Half
# the precision is a choice of the site: it moves what lies next to a threshold to its other side.
_TOLERANCES = {Runtime.OPENVINO: 1e-3, Runtime.OPENVINO_BF16: 0.25, Runtime.CUDA: 0.25}
_COMPARED = 0.99


@dataclass(frozen=True)
class Running:
    """How networks are to be run.

    Parameters
    ----------
    threads
        Of one inference.
    kept
        Folder for translated networks and for what was chosen.
    """

    runtime: Runtime
    threads: int
    kept: Path


def forwards_of(bundles: Sequence[Bundle], running: Running | None, *, threads: int = 1) -> list[Forward]:
    """What to ask for the answer of each bundle, all of which have a network; without `running`, torch answers."""
    torch.set_num_threads(threads if running is None else running.threads)
    networks = [bundle.network for bundle in bundles if bundle.network is not None]
    if running is None or running.runtime is Runtime.TORCH:
        return [torch_forward(network) for network in networks]
    return [_chosen(network, bundle, running) for network, bundle in zip(networks, bundles, strict=True)]


def _chosen(network: nn.Module, bundle: Bundle, running: Running) -> Forward:
    """A network by the runtime chosen before, or by the fastest that says the same now."""
    picture, named = _probe(bundle), {"model": bundle.identity.name}
    kept = running.kept / f"{_key(bundle)}.xml"
    best, forward = Runtime.TORCH, torch_forward(network)
    said = forward(picture)
    seconds = {best: _seconds(forward, picture)}
    choice = kept.with_suffix(".runtime")
    for runtime in _candidates(running.runtime, choice):
        try:
            candidate = _made(runtime, network, picture, running.threads, kept)
            difference = _difference(said, candidate(picture))
        except Exception:  # whatever it is, torch answers
            log.warning("%s cannot run it", runtime, exc_info=True, extra=named)
            _discard(kept)
            continue
        if difference > _TOLERANCES[runtime]:
            log.warning("%s says something else, by %.3g", runtime, difference, extra=named)
            continue
        seconds[runtime] = _seconds(candidate, picture)
        if running.runtime is not Runtime.AUTO or seconds[runtime] < seconds[best]:
            best, forward = runtime, candidate
    if running.runtime is Runtime.AUTO:
        with contextlib.suppress(OSError):  # then it is chosen again at the next start
            kept.parent.mkdir(parents=True, exist_ok=True)
            choice.write_text(f"{best}\n", "utf-8")
    log.info("network runs", extra={**named, "runtime": str(best)})
    return forward


def _discard(kept: Path) -> None:
    """Take away what may be damaged."""
    with contextlib.suppress(OSError):
        kept.unlink(missing_ok=True)


def _candidates(wanted: Runtime, chosen: Path) -> tuple[Runtime, ...]:
    """What is to be tried beside torch."""
    if wanted is not Runtime.AUTO:
        return (wanted,)
    before = chosen.read_text("utf-8").strip() if chosen.exists() else ""
    if before in _TOLERANCES:
        return (Runtime(before),)
    return () if before == Runtime.TORCH else (Runtime.OPENVINO, *([Runtime.CUDA] if torch.cuda.is_available() else []))


def _made(runtime: Runtime, network: nn.Module, picture: FloatArray, threads: int, kept: Path) -> Forward:
    if runtime is Runtime.CUDA:
        return torch_forward(network.to("cuda", memory_format=torch.channels_last), "cuda")  # type: ignore[call-overload]
    precision = "bf16" if runtime is Runtime.OPENVINO_BF16 else "f32"
    return openvino_forward(network, picture, precision=precision, threads=threads, kept=kept)


def _difference(said: dict[str, FloatArray], answer: dict[str, FloatArray]) -> float:
    """How far two answers lie apart; infinitely, unless all values are numbers."""
    apart = max(float(np.quantile(np.abs(said[name] - answer[name]), _COMPARED)) for name in said)
    return apart if np.isfinite(apart) else np.inf


def _probe(bundle: Bundle) -> FloatArray:
    """A radiograph made in code, as a network of the bundle sees it: shape (1, channels, size, size)."""
    size, preprocessing = bundle.contract.input_size, bundle.contract.preprocessing
    image = RenderedImage(chest(1, rows=2 * size, columns=2 * size).pixels)
    if preprocessing is not None:
        crop: FloatArray = preprocessing.apply(image)[0][None]
        return crop
    stretch = bundle.contract.interpreter == "gate"
    picture, _ = network_input(image, size, stretch=stretch)
    return picture[None, None]


def _key(bundle: Bundle) -> str:
    """A name for files of this very network, translated by this very OpenVINO."""
    import openvino as ov

    parts = (bundle.identity.weights_digest, bundle.identity.config_digest, ov.__version__, torch.__version__)
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]


def _seconds(forward: Forward, picture: FloatArray) -> float:
    """Time of an inference when nothing came between: the shortest of some."""
    forward(picture)
    times = []
    for _ in range(_TIMED):
        started = time.perf_counter()
        forward(picture)
        times.append(time.perf_counter() - started)
    return min(times)

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
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.bundle import Bundle
from models.forward import FloatArray, Forward, torch_forward
from models.networks import Together, begin_alike
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


@dataclass
class Engine:
    """One network, or several that begin alike, and what they said last."""

    names: tuple[str, ...]
    runtime: Runtime
    run: Forward
    _asked: FloatArray | None = field(default=None, repr=False)
    _said: dict[str, FloatArray] = field(default_factory=dict, repr=False)

    def part(self, number: int) -> Forward:
        """One of its networks: asked about the same array as another was, it need not be run."""
        prefix = f"{number}." if len(self.names) > 1 else ""

        def forward(picture: FloatArray) -> dict[str, FloatArray]:
            if not prefix:
                return self.run(picture)
            if picture is not self._asked:
                self._asked, self._said = None, self.run(picture)
                self._asked = picture
            return {key.removeprefix(prefix): value for key, value in self._said.items() if key.startswith(prefix)}

        return forward


def forwards_of(bundles: Sequence[Bundle], running: Running | None, *, threads: int = 1) -> list[Forward]:
    """What to ask for the answer of each bundle, all of which have a network; without `running`, torch answers."""
    torch.set_num_threads(threads if running is None else running.threads)
    networks = [bundle.network for bundle in bundles if bundle.network is not None]
    if running is None or running.runtime is Runtime.TORCH:
        return [torch_forward(network) for network in networks]
    forwards: dict[int, Forward] = {}
    for group in _groups(bundles):
        engine = _engine([bundles[number] for number in group], running)
        log.info("networks run", extra={"model": "+".join(engine.names), "runtime": str(engine.runtime)})
        forwards |= {number: engine.part(place) for place, number in enumerate(group)}
    return [forwards[number] for number in range(len(bundles))]


def _groups(bundles: Sequence[Bundle]) -> list[list[int]]:
    """Which bundles are run together: numbers, each once."""
    groups: list[list[int]] = []
    for number, bundle in enumerate(bundles):
        for group in groups:
            if _can_share(bundles[group[0]], bundle):
                group.append(number)
                break
        else:
            groups.append([number])
    return groups


def _can_share(one: Bundle, other: Bundle) -> bool:
    if (
        one.contract.input_size != other.contract.input_size
        or one.contract.preprocessing
        or other.contract.preprocessing
    ):
        return False
    return one.network is not None and other.network is not None and begin_alike(one.network, other.network)


def _engine(bundles: Sequence[Bundle], running: Running) -> Engine:
    """The engine of one group: the runtime chosen before, or the fastest that says the same now."""
    networks = [bundle.network for bundle in bundles if bundle.network is not None]
    network = networks[0] if len(networks) == 1 else Together(networks).eval()
    names, picture = tuple(bundle.identity.name for bundle in bundles), _probe(bundles[0])
    kept = running.kept / f"{_key(bundles)}.xml"
    right = torch_forward(network)
    said, best = right(picture), Engine(names, Runtime.TORCH, right)
    seconds = {Runtime.TORCH: _seconds(right, picture)}
    chosen = kept.with_suffix(".runtime")
    for runtime in _candidates(running.runtime, chosen):
        try:
            forward = _made(runtime, network, picture, running.threads, kept)
            difference = _difference(said, forward(picture))
        except Exception:  # whatever it is, torch answers
            log.warning("%s cannot run it", runtime, exc_info=True, extra={"model": "+".join(names)})
            _discard(kept)
            continue
        if difference > _TOLERANCES[runtime]:
            log.warning("%s says something else, by %.3g", runtime, difference, extra={"model": "+".join(names)})
            continue
        seconds[runtime] = _seconds(forward, picture)
        if running.runtime is not Runtime.AUTO or seconds[runtime] < seconds[best.runtime]:
            best = Engine(names, runtime, forward)
    if running.runtime is Runtime.AUTO:
        with contextlib.suppress(OSError):  # then it is chosen again at the next start
            kept.parent.mkdir(parents=True, exist_ok=True)
            chosen.write_text(f"{best.runtime}\n", "utf-8")
    return best


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


def _key(bundles: Sequence[Bundle]) -> str:
    """A name for files of these very networks, translated by this very OpenVINO."""
    import openvino as ov

    parts = [part for b in bundles for part in (b.identity.weights_digest, b.identity.config_digest)]
    return hashlib.sha256("|".join([*parts, ov.__version__, torch.__version__]).encode()).hexdigest()[:32]


def _seconds(forward: Forward, picture: FloatArray) -> float:
    """Time of an inference when nothing came between: the shortest of some."""
    forward(picture)
    times = []
    for _ in range(_TIMED):
        started = time.perf_counter()
        forward(picture)
        times.append(time.perf_counter() - started)
    return min(times)

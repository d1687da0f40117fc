"""How networks are run: by OpenVINO or on a GPU where that says the same sooner, else by torch on the processor.

The rule: torch in float32 is right. Another runtime is taken only when it said the same of a radiograph as the models
were loaded, and one of a lower precision unasked only where the bundle's evidence says that nothing is lost; which one
was taken is kept, for a study that is read again is to be read in the same way. What torch says of it is kept as well
(``models.kept``): torch itself is imported where it answers, or where something is not known yet.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.batching import SIZES, Gathering, size_worth_it
from models.bundle import Bundle
from models.forward import FloatArray, Forward, Runner, torch_forward
from models.kept import answer_kept, groups_kept, keep_answer, keep_groups, key_of, write
from models.phantom import chest
from models.rendering import RenderedImage, network_input
from models.translation import openvino_forward, quantised_forward

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger("hilum.runtime")

_TIMED = 5  # inferences, after one that warms up


class Runtime(StrEnum):
    """What runs a network."""

    AUTO = "auto"  # the fastest of a GPU and of those that compute in a precision in which the evidence holds
    TORCH = "torch"
    OPENVINO = "openvino"
    OPENVINO_BF16 = "openvino-bf16"
    OPENVINO_INT8 = "openvino-int8"
    CUDA = "cuda"


# Differences that count as the same, of a logit, of 99 in 100 values of a map (next to an edge, logits are steep),
# where the bundle does not say what was measured. Half the precision is then a choice of the site: it moves what lies
# next to a threshold to its other side.
_TOLERANCES = {Runtime.OPENVINO: 1e-3, Runtime.OPENVINO_BF16: 0.25, Runtime.CUDA: 0.25}
_BY_TORCH = (Runtime.TORCH, Runtime.CUDA)
_LOWER = (Runtime.OPENVINO_BF16, Runtime.OPENVINO_INT8)
_COMPARED = 0.99
_PROBE = 192  # rows and columns of the radiograph that all are asked about; drawing a larger one takes seconds


@dataclass(frozen=True)
class Running:
    """How networks are to be run.

    Parameters
    ----------
    threads
        Of one inference.
    kept
        Folder for translated networks and for what was chosen.
    studies
        How many are read at the same time by threads that share the networks.
    """

    runtime: Runtime
    threads: int
    kept: Path
    studies: int = 1


@dataclass
class Engine:
    """One network, or several that begin alike, and what they said last to whom."""

    names: tuple[str, ...]
    runtime: Runtime
    run: Runner
    _last: threading.local = field(default_factory=threading.local, repr=False)  # each thread reads another study

    def part(self, number: int) -> Runner:
        """One of its networks: asked about the same array as another was, it need not be run."""
        prefix = f"{number}." if len(self.names) > 1 else ""

        def forward(picture: FloatArray) -> dict[str, FloatArray]:
            if not prefix:
                return self.run(picture)
            last = self._last
            if picture is not getattr(last, "asked", None):
                last.asked, last.said = None, self.run(picture)
                last.asked = picture
            return {key.removeprefix(prefix): value for key, value in last.said.items() if key.startswith(prefix)}

        return Runner(forward, self.run.precision)


def forwards_of(bundles: Sequence[Bundle], running: Running | None, *, threads: int = 1) -> list[Runner]:
    """What to ask for the answer of each bundle, all of which have a network; without `running`, torch answers."""
    if running is None or running.runtime is Runtime.TORCH:
        threads = threads if running is None else running.threads
        return [_by_torch([bundle], threads) for bundle in bundles]
    forwards: dict[int, Runner] = {}
    for group in groups_of(bundles, running.kept):
        members = [bundles[number] for number in group]
        engine = shared(engine_of(members, running), probe(members[0]), running.studies)
        told = {"runtime": str(engine.runtime), "precision": str(engine.run.precision)}
        log.info("networks run", extra={"model": "+".join(engine.names), **told})
        forwards |= {number: engine.part(place) for place, number in enumerate(group)}
    return [forwards[number] for number in range(len(bundles))]


def groups_of(bundles: Sequence[Bundle], kept: Path | None = None) -> list[list[int]]:
    """Which bundles are run together, for their networks begin alike: numbers, each once.

    Parameters
    ----------
    kept
        Folder where the answer is kept, so that the networks need not be built for it.
    """
    file = None if kept is None else kept / f"{key_of(bundles)}.groups"
    if file is not None and (known := groups_kept(file, len(bundles))) is not None:
        return known
    groups: list[list[int]] = []
    for number, bundle in enumerate(bundles):
        for group in groups:
            if _can_share(bundles[group[0]], bundle):
                group.append(number)
                break
        else:
            groups.append([number])
    if file is not None:
        keep_groups(file, groups)
    return groups


def _can_share(one: Bundle, other: Bundle) -> bool:
    from models.networks import begin_alike

    if (
        one.contract.input_size != other.contract.input_size
        or one.contract.preprocessing
        or other.contract.preprocessing
    ):
        return False
    return one.network is not None and other.network is not None and begin_alike(one.network, other.network)


def engine_of(bundles: Sequence[Bundle], running: Running) -> Engine:
    """The engine of bundles that are run together: the runtime chosen before, or the fastest that says the same now.

    Raises
    ------
    BundleInvalid
        When torch has to answer, and a network cannot be built.
    """
    names, picture = tuple(bundle.identity.name for bundle in bundles), probe(bundles[0])
    kept = running.kept / f"{key_of(bundles)}.xml"
    chosen, remembered = kept.with_suffix(".runtime"), kept.with_suffix(".npz")
    is_auto = running.runtime is Runtime.AUTO
    known = _chosen_before(chosen, bundles) if is_auto else running.runtime
    right = cache(lambda: _by_torch(bundles, running.threads))  # asked for where torch is needed
    if known is Runtime.TORCH:
        return Engine(names, known, right())
    if (said := answer_kept(remembered, picture)) is None:
        said = right()(picture)
        keep_answer(remembered, picture, said)
    best: Engine | None = None
    seconds = {Runtime.TORCH: seconds_of(right(), picture) if known is None else np.inf}  # nothing is left to choose
    for runtime in (known,) if is_auto and known is not None else tuple(_candidates(running.runtime, bundles)):
        try:
            forward = _made(runtime, bundles, picture, threads=running.threads, kept=kept)
            apart = _apart(runtime, bundles, said, forward(picture))
        except Exception:  # whatever it is, torch answers
            log.warning("%s cannot run it", runtime, exc_info=True, extra={"model": "+".join(names)})
            if runtime is not Runtime.OPENVINO_INT8 and Runtime.OPENVINO not in seconds:
                _discard(kept)
            continue
        if apart > 1.0:
            log.warning("%s says something else, by %.3g times what is allowed", runtime, apart,
                        extra={"model": "+".join(names)})  # fmt: skip
            continue
        seconds[runtime] = seconds_of(forward, picture) if known is None else 0.0
        if seconds[runtime] < seconds[best.runtime if best else Runtime.TORCH]:
            best = Engine(names, runtime, forward)
    best = best or Engine(names, Runtime.TORCH, right())
    if is_auto and best.runtime is not known:
        if known is None:
            write(chosen, f"{best.runtime}\n".encode())
        else:
            _discard(chosen)
    return best


def torch_answers(running: Running) -> bool:
    """Whether torch is going to answer for some network, as far as the setting and what is kept tell."""
    if running.runtime is not Runtime.AUTO:
        return running.runtime in _BY_TORCH
    return any(_read(choice) in _BY_TORCH for choice in running.kept.glob("*.runtime"))


def shared(engine: Engine, picture: FloatArray, studies: int) -> Engine:
    """The same for so many threads: on a GPU in batches of the size that a measurement of now says, else one by one.

    On a processor a batch saves nothing (docs/performance.md), so none is formed.
    """
    if studies > 1:
        most, many = 1, engine.run.ask_many
        if engine.runtime is Runtime.CUDA and many is not None:
            sizes = [size for size in SIZES if size <= studies]
            batches = {size: np.repeat(picture, size, axis=0) for size in sizes}
            most = size_worth_it({size: seconds_of(lambda some: many(some)[0], batches[size]) for size in sizes})
        log.info("studies share a network", extra={"model": "+".join(engine.names), "batch": most})
        engine.run = Runner(Gathering(engine.run, most), engine.run.precision)
    return engine


def network_of(bundles: Sequence[Bundle]) -> nn.Module:
    """The network of one group."""
    networks = [bundle.network for bundle in bundles if bundle.network is not None]
    if len(networks) == 1:
        return networks[0]
    from models.networks import Together

    return Together(networks).eval()


def _by_torch(bundles: Sequence[Bundle], threads: int) -> Runner:
    """What is right."""
    import torch

    torch.set_num_threads(threads)
    return torch_forward(network_of(bundles))


def _discard(file: Path) -> None:
    """Take away what may be damaged, or holds no longer."""
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)


def _candidates(wanted: Runtime, bundles: Sequence[Bundle]) -> Iterator[Runtime]:
    """What is to be tried beside torch, which alone knows whether there is a GPU: it is asked last."""
    if wanted is Runtime.OPENVINO_INT8 and _quantised(bundles) is None:
        names = "+".join(bundle.identity.name for bundle in bundles)
        log.warning("there is no network in integers: %s in its place", Runtime.OPENVINO, extra={"model": names})
        yield Runtime.OPENVINO
    elif wanted is Runtime.AUTO:
        yield Runtime.OPENVINO
        yield from (runtime for runtime in _LOWER if _accepted(bundles, runtime))
        import torch

        if torch.cuda.is_available():
            yield Runtime.CUDA
    elif wanted is not Runtime.TORCH:
        yield wanted


def _chosen_before(chosen: Path, bundles: Sequence[Bundle]) -> Runtime | None:
    """What was the fastest when these networks were first loaded here; None when that is not known."""
    if not (before := _read(chosen)):
        return None
    return next((one for one in chain([Runtime.TORCH], _candidates(Runtime.AUTO, bundles)) if one == before), None)


def _read(choice: Path) -> str:
    """What was chosen; empty where nothing was, or it cannot be read."""
    try:
        return choice.read_text("utf-8").strip()
    except (OSError, ValueError):
        return ""


def _accepted(bundles: Sequence[Bundle], runtime: Runtime) -> bool:
    """Whether the evidence of each lets it be taken unasked, and there is what it takes."""
    found = [bundle.precisions.by_runtime.get(runtime) for bundle in bundles]
    if not all(precision is not None and precision.accepted for precision in found):
        return False
    return runtime is not Runtime.OPENVINO_INT8 or _quantised(bundles) is not None


def _quantised(bundles: Sequence[Bundle]) -> tuple[bytes, bytes] | None:
    """The network in integers that was made of these very bundles, in this order."""
    parts = tuple(bundle.identity.weights_digest for bundle in bundles)
    found = (bundle.precisions.by_runtime.get(Runtime.OPENVINO_INT8) for bundle in bundles)
    return next((precision.quantised for precision in found if precision and precision.parts == parts), None)


def _made(runtime: Runtime, bundles: Sequence[Bundle], picture: FloatArray, *, threads: int, kept: Path) -> Runner:
    if runtime is Runtime.CUDA:
        import torch

        # a copy: on the processor the network is needed where the GPU says something else
        there = copy.deepcopy(network_of(bundles)).to("cuda", memory_format=torch.channels_last)  # type: ignore[call-overload]
        return torch_forward(there, "cuda")
    if runtime is Runtime.OPENVINO_INT8:
        files = _quantised(bundles)
        if files is None:
            raise ValueError("there is no network in integers")
        return quantised_forward(*files, threads=threads)
    precision = "bf16" if runtime is Runtime.OPENVINO_BF16 else "f32"
    return openvino_forward(lambda: network_of(bundles), picture, precision=precision, threads=threads, kept=kept)


def _apart(
    runtime: Runtime, bundles: Sequence[Bundle], said: dict[str, FloatArray], answer: dict[str, FloatArray]
) -> float:
    """How far answers about the probe lie apart, in units of what is allowed; of several networks the farthest."""
    found = []
    for number, bundle in enumerate(bundles):
        precision = bundle.precisions.by_runtime.get(runtime)
        allowed = _TOLERANCES[runtime] if precision is None else precision.tolerance
        mine = {name for name in said if len(bundles) == 1 or name.startswith(f"{number}.")}
        found.append(difference({name: said[name] for name in mine}, answer) / allowed)
    return max(found)


def difference(said: dict[str, FloatArray], answer: dict[str, FloatArray]) -> float:
    """How far two answers lie apart; infinitely, unless all values are numbers."""
    apart = max(float(np.quantile(np.abs(said[name] - answer[name]), _COMPARED)) for name in said)
    return apart if np.isfinite(apart) else np.inf


def probe(bundle: Bundle) -> FloatArray:
    """A radiograph made in code, as a network of the bundle sees it: shape (1, channels, size, size)."""
    size, preprocessing = bundle.contract.input_size, bundle.contract.preprocessing
    image = _radiograph()
    if preprocessing is not None:
        crop: FloatArray = preprocessing.apply(image)[0][None]
        return crop
    stretch = bundle.contract.interpreter == "gate"
    picture, _ = network_input(image, size, stretch=stretch)
    return picture[None, None]


@cache
def _radiograph() -> RenderedImage:
    return RenderedImage(chest(1, rows=_PROBE, columns=_PROBE).pixels)


def seconds_of(forward: Forward, picture: FloatArray) -> float:
    """Time of an inference when nothing came between: the shortest of some."""
    forward(picture)
    times = []
    for _ in range(_TIMED):
        started = time.perf_counter()
        forward(picture)
        times.append(time.perf_counter() - started)
    return min(times)

"""How networks are run: by OpenVINO or on a GPU where that says the same sooner, else by torch on the processor.

The rule: torch in float32 is right. Another runtime is taken only when it said the same of a radiograph as the models
were loaded, and one of a lower precision unasked only where the bundle's evidence says that nothing is lost; which one
was taken is kept, for a study that is read again is to be read in the same way. What torch says of it is kept as well
(``models.kept``): torch itself is imported where it answers, or where something is not known yet. What is kept and does
not agree is taken away, to be made anew at the next start.
"""

from __future__ import annotations

import copy
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from models.batching import SIZES, Gathering, size_worth_it
from models.bundle import Bundle
from models.forward import FloatArray, Runner, torch_forward
from models.kept import answer_kept, can_keep, discard, keep, keep_answer, key_of, machine_of, read
from models.probe import differences, probe
from models.translation import openvino_forward, quantised_forward

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger("hilum.runtime")

_Key = TypeVar("_Key")

_TIMED = 6  # inferences; the first one warms up
_FASTER = 0.9  # of another's time: what is usually slower has to be below it


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
_SAME = 1e-3
_TOLERANCES = {Runtime.OPENVINO_BF16: 0.25, Runtime.CUDA: 0.25}
_BY_TORCH = (Runtime.TORCH, Runtime.CUDA)
_LOWER = (Runtime.OPENVINO_INT8, Runtime.OPENVINO_BF16)
_TRANSLATED = (Runtime.OPENVINO, Runtime.OPENVINO_BF16)


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
    apart
        Calls what it is given in another process: there networks are made that are not kept yet, for torch, which that
        takes, would stay in memory. None: they are made here.
    """

    runtime: Runtime
    threads: int
    kept: Path
    studies: int = 1
    apart: Callable[[Callable[[], object]], None] | None = None


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
    if running.apart is not None and not _is_known(bundles, running) and can_keep(running.kept):
        running.apart(partial(forwards_of, bundles, replace(running, apart=None)))
    forwards: dict[int, Runner] = {}
    for group in groups_of(bundles, running.kept):
        members = [bundles[number] for number in group]
        engine = shared(engine_of(members, running), probe(members[0]), running.studies)
        told = {"runtime": str(engine.runtime), "precision": str(engine.run.precision)}
        log.info("networks run", extra={"model": "+".join(engine.names), **told})
        forwards |= {number: engine.part(place) for place, number in enumerate(group)}
    return [forwards[number] for number in range(len(bundles))]


def _is_known(bundles: Sequence[Bundle], running: Running) -> bool:
    """Whether all that torch is asked for at a first start is kept; where torch runs a network, that it does is all."""
    if (known := read(running.kept / f"{key_of(bundles)}.groups")) is None:
        return False
    for group in json.loads(known):
        members = [bundles[number] for number in group]
        choice = _choice(_choice_file(members, running)) if running.runtime is Runtime.AUTO else running.runtime
        if not choice or (choice not in _BY_TORCH and not (running.kept / f"{key_of(members)}.answer").is_file()):
            return False
    return True


def groups_of(bundles: Sequence[Bundle], kept: Path | None = None) -> list[list[int]]:
    """Which bundles are run together, for their networks begin alike: numbers, each once.

    Parameters
    ----------
    kept
        Folder where the answer is kept, so that the networks need not be built for it.
    """
    file = None if kept is None else kept / f"{key_of(bundles)}.groups"
    if file is not None and (known := read(file)) is not None:
        return list(json.loads(known))
    groups: list[list[int]] = []
    for number, bundle in enumerate(bundles):
        for group in groups:
            if _can_share(bundles[group[0]], bundle):
                group.append(number)
                break
        else:
            groups.append([number])
    if file is not None:
        keep(file, json.dumps(groups).encode())
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
    is_auto = running.runtime is Runtime.AUTO
    network, remembered = (running.kept / f"{key_of(bundles)}.{what}" for what in ("network", "answer"))
    chosen = _choice_file(bundles, running)
    known = _chosen_before(chosen, bundles) if is_auto else running.runtime
    right = cache(lambda: _by_torch(bundles, running.threads))  # asked for where torch is needed
    if known is Runtime.TORCH:
        return Engine(names, known, right())
    said = answer_kept(remembered, picture)
    is_new = said is None and read(network) is None
    if said is None:
        said = right()(picture)
        keep_answer(remembered, picture, said)
    agreeing: dict[Runtime, Runner] = {}
    broken = False
    for runtime in tuple(_candidates(known or Runtime.AUTO, bundles)):
        forward = None
        try:
            forward = _agreeing(runtime, bundles, said, picture, threads=running.threads, kept=network)
        except Exception:  # whatever it is, torch answers
            broken = True
            log.warning("%s cannot run it", runtime, exc_info=True, extra={"model": "+".join(names)})
        if forward is not None:
            agreeing[runtime] = forward
        elif runtime in _TRANSLATED:
            discard(network)
    if not agreeing:
        discard(remembered)
    if known is None and (agreeing or (is_new and not broken)):  # what is broken may be mended at the next start
        seconds = seconds_of({runtime: partial(forward, picture) for runtime, forward in agreeing.items()})
        best = fastest(seconds | seconds_of({Runtime.TORCH: partial(right(), picture)}))  # apart: its threads linger
        keep(chosen, best.encode())
    else:
        best = next(iter(agreeing), Runtime.TORCH)
        if is_auto and not agreeing:  # what was kept may be to blame: all of it is made anew at the next start
            discard(chosen)
    return Engine(names, best, agreeing.get(best) or right())


def fastest(seconds: Mapping[Runtime, float]) -> Runtime:
    """The first, unless a later one is clearly faster than those before it: noise does not decide."""
    best, *others = seconds
    for other in others:
        if seconds[other] < _FASTER * seconds[best]:
            best = other
    return best


def _agreeing(
    runtime: Runtime, bundles: Sequence[Bundle], said: dict[str, FloatArray], picture: FloatArray, *,
    threads: int, kept: Path,
) -> Runner | None:  # fmt: skip
    """What answers as torch said; None where it does not. It raises whatever the runtime does."""
    names = {"model": "+".join(bundle.identity.name for bundle in bundles)}
    forward = _made(runtime, bundles, picture, threads=threads, kept=kept)
    apart = _apart(runtime, bundles, said, forward(picture))
    if apart > 1.0:
        log.warning("%s says something else, by %.3g times what is allowed", runtime, apart, extra=names)
        return None
    return forward


def torch_answers(running: Running) -> bool:
    """Whether torch is going to answer for some network, as far as the setting and what is kept tell."""
    if running.runtime is not Runtime.AUTO:
        return running.runtime in _BY_TORCH
    return any(_choice(file) in _BY_TORCH for file in running.kept.glob(f"*.{machine_of(running.threads)}.runtime"))


def shared(engine: Engine, picture: FloatArray, studies: int) -> Engine:
    """The same for so many threads: on a GPU in batches of the size that a measurement of now says, else one by one.

    On a processor a picture is no cheaper in a batch, by torch dearer (`./hilum bench runtimes`), so none is formed.
    """
    if studies > 1:
        most, many = 1, engine.run.ask_many
        if engine.runtime is Runtime.CUDA and many is not None:
            asking = {size: partial(many, np.repeat(picture, size, axis=0)) for size in SIZES if size <= studies}
            most = size_worth_it(seconds_of(asking))
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


def _candidates(wanted: Runtime, bundles: Sequence[Bundle]) -> Iterator[Runtime]:
    """What is to be tried before torch: what is usually the fastest first.

    But torch alone knows whether there is a GPU: it is asked last.
    """
    if wanted is Runtime.OPENVINO_INT8 and _quantised(bundles) is None:
        names = "+".join(bundle.identity.name for bundle in bundles)
        log.warning("there is no network in integers: %s in its place", Runtime.OPENVINO, extra={"model": names})
        yield Runtime.OPENVINO
    elif wanted is Runtime.AUTO:
        yield from (runtime for runtime in _LOWER if _accepted(bundles, runtime))
        yield Runtime.OPENVINO
        import torch

        if torch.cuda.is_available():
            yield Runtime.CUDA
    elif wanted is not Runtime.TORCH:
        yield wanted


def _chosen_before(chosen: Path, bundles: Sequence[Bundle]) -> Runtime | None:
    """What was the fastest when these networks were first loaded here; None when that is not known."""
    if not (before := _choice(chosen)):
        return None
    return next((one for one in chain([Runtime.TORCH], _candidates(Runtime.AUTO, bundles)) if one == before), None)


def _choice_file(bundles: Sequence[Bundle], running: Running) -> Path:
    """Where it stands what is the fastest on this machine."""
    return running.kept / f"{key_of(bundles)}.{machine_of(running.threads)}.runtime"


def _choice(file: Path) -> str:
    return (read(file) or b"").decode()


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
    """How far answers about the probe lie apart, in units of what is allowed; of several outputs the farthest."""
    allowed: dict[str, float] = {}
    for number, bundle in enumerate(bundles):
        measured = bundle.precisions.by_runtime.get(runtime)
        prefix = f"{number}." if len(bundles) > 1 else ""
        allowed |= {f"{prefix}{name}": most for name, most in measured.tolerances.items()} if measured else {}
    least = _TOLERANCES.get(runtime, _SAME)
    return max(apart / allowed.get(name, least) for name, apart in differences(said, answer).items())


def seconds_of(asking: Mapping[_Key, Callable[[], object]]) -> dict[_Key, float]:
    """Time of each when nothing came between: the shortest of some, in turns, for what comes between meets all."""
    times: dict[_Key, list[float]] = {key: [] for key in asking}
    for _ in range(_TIMED):
        for key, ask in asking.items():
            started = time.perf_counter()
            ask()
            times[key].append(time.perf_counter() - started)
    return {key: min(taken) for key, taken in times.items()}

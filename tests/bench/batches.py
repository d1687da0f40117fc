"""What a picture costs when several are asked about at once, by each runtime: whether gathering studies is worth it.

The rule: every size of every runtime is asked in turns, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.batching import SIZES, Gathering
from models.bundle import Bundle
from models.findings import Precision
from models.forward import FloatArray, Runner, torch_forward
from models.probe import probe
from models.runtime import Runtime, network_of
from models.translation import compiled, translate
from tests.bench.sheets import Aim, Sheet, Spread

DELAY_AIM = Aim(5.0, "ms")
_WARMING = 2
_ALONE = 1000  # questions of a lone study
_OPENVINO = {Runtime.OPENVINO: "f32", Runtime.OPENVINO_BF16: "bf16"}


@dataclass(frozen=True)
class Batch:
    """One group of networks by one runtime, asked about so many pictures at once.

    Parameters
    ----------
    seconds
        Of one picture of the batch.
    """

    names: tuple[str, ...]
    runtime: Runtime
    size: int
    seconds: Spread


def time_batches(group: Sequence[Bundle], rounds: int) -> list[Batch]:
    """All sizes of all runtimes of one group in turns, on one thread; and on a GPU, where there is one."""
    torch.set_num_threads(1)
    names, first = tuple(bundle.identity.name for bundle in group), probe(group[0])
    asking = {
        (runtime, size): ask
        for size in SIZES
        for runtime, ask in _asking(group, np.repeat(first, size, axis=0)).items()
    }
    seconds: dict[tuple[Runtime, int], list[float]] = {key: [] for key in asking}
    for number in range(_WARMING + rounds):
        for key, ask in asking.items():
            started = time.perf_counter()
            ask()
            if number >= _WARMING:
                seconds[key].append((time.perf_counter() - started) / key[1])
    return [Batch(names, runtime, size, Spread.of(taken)) for (runtime, size), taken in seconds.items()]


def _asking(group: Sequence[Bundle], pictures: FloatArray) -> dict[Runtime, Callable[[], object]]:
    """How each runtime is asked about these pictures at once."""
    import openvino as ov

    network = network_of(group)
    found: dict[Runtime, Callable[[], object]] = {}
    eager = torch_forward(network).ask_many
    if eager is not None:
        found[Runtime.TORCH] = lambda: eager(pictures)
    core, model = ov.Core(), translate(network, pictures)
    for runtime, precision in _OPENVINO.items():
        request = compiled(core, model, precision, 1).create_infer_request()
        found[runtime] = lambda request=request: request.infer({0: pictures}, share_inputs=True)
    if torch.cuda.is_available():
        there = torch_forward(copy.deepcopy(network).to("cuda"), "cuda").ask_many
        if there is not None:
            found[Runtime.CUDA] = lambda: there(pictures)
    return found


def time_delay() -> Spread:
    """Seconds that a lone study waits for company: what gathering takes where the network takes no time."""
    gathering = Gathering(Runner(lambda asked: {"logits": asked}, Precision.FLOAT32), max(SIZES))
    picture, seconds = np.zeros((1, 1, 1, 1), np.float32), []
    for _ in range(_ALONE):
        started = time.perf_counter()
        gathering(picture)
        seconds.append(time.perf_counter() - started)
    return Spread.of(seconds)


def sheet(batches: Sequence[Batch], delay: Spread) -> Sheet:
    """A row for each group and runtime, a column for each size."""
    by = {(one.names, one.runtime, one.size): one.seconds.p50 for one in batches}
    rows = [
        (f"{' + '.join(names)}, {runtime}", *(f"{1000 * by[names, runtime, size]:.1f}" for size in SIZES))
        for names, runtime in dict.fromkeys((one.names, one.runtime) for one in batches)
    ]
    note = (
        "Milliseconds of one picture, medians, where so many are asked about at once; one thread. A processor gains "
        "nothing, so there studies that share a network are answered one by one; on a GPU in batches of a size that is "
        "measured as the models are loaded. A lone study waits for nobody: gathering delays it by "
        f"{1000 * delay.p50:.3f} ms (p99 {1000 * delay.p99:.3f}), {DELAY_AIM.told(1000 * delay.p99)}."
    )
    return Sheet("Several pictures at once", ("network, runtime", *map(str, SIZES)), tuple(rows), note)

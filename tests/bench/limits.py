"""What the machine could do at best: arithmetic over its peak, bytes over its bandwidth, beside what was measured.

The rule: peaks are measured here and now, by a matrix product and by copying memory on one thread, as the node runs a
network on one; nobody's data sheet is quoted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.bundle import Bundle
from models.networks import Together, begin_alike

_SIDE = 1536  # of the matrices
_BYTES = 64 * 2**20  # copied: more than any cache holds
_TIMES = 7


@dataclass(frozen=True)
class Limits:
    """What one study needs, and what one thread of this machine reaches.

    Parameters
    ----------
    operations, shared
        Floating-point operations of all networks for one image, each by itself; and where those that begin alike are
        run as one.
    operations_per_second
        Of a matrix product in float32.
    bytes_per_second
        Of memory copied from one place to another.
    """

    operations: float
    shared: float
    operations_per_second: float
    bytes_per_second: float

    def inference_seconds(self) -> float:
        """What the shared networks would take if all of it ran as fast as a matrix product."""
        return self.shared / self.operations_per_second

    def copy_seconds(self, size: float) -> float:
        """What copying so many bytes once takes."""
        return size / self.bytes_per_second


def limits_of(bundles: Sequence[Bundle]) -> Limits:
    """Count what the bundles need, and measure the machine."""
    asked = [bundle for bundle in bundles if bundle.network is not None]
    alone = sum(_operations([bundle]) for bundle in asked)
    groups: list[list[Bundle]] = []
    for bundle in asked:
        group = next((g for g in groups if _alike(g[0], bundle)), None)
        groups.append([bundle]) if group is None else group.append(bundle)
    return Limits(alone, sum(map(_operations, groups)), _peak(), _bandwidth())


def _alike(one: Bundle, other: Bundle) -> bool:
    if one.network is None or other.network is None:
        return False
    return one.contract.input_size == other.contract.input_size and begin_alike(one.network, other.network)


def _operations(bundles: Sequence[Bundle]) -> float:
    """Of one image; a multiplication and an addition are two."""
    networks = [bundle.network for bundle in bundles if bundle.network is not None]
    size = bundles[0].contract.input_size
    network = networks[0] if len(networks) == 1 else Together(networks).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, size, size))
    return float(counter.get_total_flops())


def _peak() -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        matrix = torch.ones(_SIDE, _SIDE)
        return 2.0 * _SIDE**3 / _fastest(lambda: torch.mm(matrix, matrix))
    finally:
        torch.set_num_threads(threads)


def _bandwidth() -> float:
    source, target = np.ones(_BYTES, np.uint8), np.zeros(_BYTES, np.uint8)
    return _BYTES / _fastest(lambda: np.copyto(target, source))


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of several times: nothing else got in its way."""
    work()
    taken = []
    for _ in range(_TIMES):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)

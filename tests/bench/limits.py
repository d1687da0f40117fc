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
from models.runtime import groups_of, network_of

_SIDE = 1536  # of the matrices
_BYTES = 64 * 2**20  # copied: more than any cache holds
_TIMES = 7
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}  # and what OpenVINO calls them


@dataclass(frozen=True)
class Limits:
    """What one study needs, and what one thread of this machine reaches.

    Parameters
    ----------
    operations, shared
        Floating-point operations of all networks for one image, each by itself; and where those that begin alike are
        run as one.
    operations_per_second
        Of a matrix product, by precision: ``float32``, ``bfloat16``. With integers of 8 bits a processor that has VNNI
        does at best twice what it does in bfloat16.
    bytes_per_second
        Of memory copied from one place to another.
    """

    operations: float
    shared: float
    operations_per_second: dict[str, float]
    bytes_per_second: float

    def inference_seconds(self, precision: str) -> float:
        """What the shared networks would take if all of it ran as fast as a matrix product."""
        return self.shared / self.operations_per_second[precision]

    def copy_seconds(self, size: float) -> float:
        """What copying so many bytes once takes."""
        return size / self.bytes_per_second


def limits_of(bundles: Sequence[Bundle]) -> Limits:
    """Count what the bundles need, and measure the machine."""
    asked = [bundle for bundle in bundles if bundle.build is not None]
    alone = sum(_operations([bundle]) for bundle in asked)
    shared = sum(_operations([asked[number] for number in group]) for group in groups_of(asked))
    return Limits(alone, shared, {name: _peak(hint) for name, hint in _PRECISIONS.items()}, _bandwidth())


def _operations(bundles: Sequence[Bundle]) -> float:
    """Of one image; a multiplication and an addition are two."""
    size, network = bundles[0].contract.input_size, network_of(bundles)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, size, size))
    return float(counter.get_total_flops())


def _peak(precision: str) -> float:
    """Operations a second of a matrix product by OpenVINO, on one thread."""
    import openvino as ov
    from openvino import opset13

    matrix = np.ones((_SIDE, _SIDE), np.float32)
    given = opset13.parameter(matrix.shape, np.float32)
    model = ov.Model([opset13.matmul(given, opset13.constant(matrix), False, False)], [given])
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    return 2.0 * _SIDE**3 / _fastest(lambda: request.infer({0: matrix}, share_inputs=True))


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

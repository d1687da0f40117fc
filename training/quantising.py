"""Networks in integers of 8 bits: calibrated on pictures, and written as OpenVINO's representation.

The rule: the last layer with weights, and what follows it, stay in single precision: a logit or a map is read as it is.
Where that is not enough the first layers do so as well, on which all others build.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from models.forward import FloatArray
from models.translation import translate, written
from training.export.program import require

NNCF = "3.4.0"  # the figures in the cards are of this version


def quantise(network: nn.Module, pictures: Sequence[FloatArray], *, first: int = 0) -> tuple[bytes, bytes]:
    """Description (XML) and weights of a network in integers.

    Weights by channel, what flows between the layers by tensor, asymmetric where it is; biases are corrected layer by
    layer (NNCF's accurate bias correction).

    Parameters
    ----------
    pictures
        Each of shape (1, channels, size, size): what calibrates the ranges.
    first
        How many of the first layers stay in single precision.

    Raises
    ------
    ExporterMissing
        When ``nncf`` is not installed.
    """
    require("nncf")
    import nncf

    nncf.set_log_level("ERROR")
    shape = list(pictures[0].shape)
    model = translate(network, pictures[0])
    model.reshape(shape)
    made = nncf.quantize(
        model,
        nncf.Dataset([np.ascontiguousarray(picture, np.float32) for picture in pictures]),
        subset_size=len(pictures),
        preset=nncf.QuantizationPreset.MIXED,
        fast_bias_correction=False,
        ignored_scope=nncf.IgnoredScope(names=[*_layers(model)[:first], *last_operations(model)], validate=False),
    )
    made.reshape(shape)  # the number of pictures became any
    return written(made)


def last_operations(model: Any) -> list[str]:
    """The operations of OpenVINO's model after which nothing comes that was learnt: names."""
    before: set[str] = set()  # those after which something does
    operations = list(model.get_ordered_ops())
    for operation in reversed(operations):
        users = (user.get_node() for output in operation.outputs() for user in output.get_target_inputs())
        if any(_learnt(user) or user.get_friendly_name() in before for user in users):
            before.add(operation.get_friendly_name())
    plain = {"Parameter", "Constant", "Convert", "Result"}
    named = [(operation.get_friendly_name(), operation.get_type_name()) for operation in operations]
    return [name for name, kind in named if name not in before and kind not in plain]


def _layers(model: Any) -> list[str]:
    """The layers with weights, in the order in which they are computed: names."""
    return [operation.get_friendly_name() for operation in model.get_ordered_ops() if _learnt(operation)]


def _learnt(operation: Any) -> bool:
    """Whether it has weights; a filter over a single map, as in ``models.networks.findings.shares``, has none."""
    kind = operation.get_type_name()
    if kind in ("GroupConvolution", "MatMul"):
        return True
    return kind == "Convolution" and bool(operation.input(1).get_partial_shape()[1].get_length() > 1)

"""What all runtimes are asked about when they are compared, and how far two answers to it lie apart."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np

from models.bundle import Bundle
from models.forward import FloatArray
from models.phantom import chest
from models.rendering import RenderedImage, network_input

_COMPARED = 0.99  # the share of a map's values that counts: next to an edge, logits are steep
_PROBE = 192  # rows and columns of the radiograph; drawing a larger one takes seconds


def differences(said: Mapping[str, FloatArray], answer: Mapping[str, FloatArray]) -> dict[str, float]:
    """How far two answers lie apart, for each output; infinitely, unless all values are numbers."""
    apart = {
        name: float(np.quantile(np.abs(said[name] - answer[name]), _COMPARED)) for name in said.keys() | answer.keys()
    }
    return {name: value if np.isfinite(value) else np.inf for name, value in apart.items()}


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

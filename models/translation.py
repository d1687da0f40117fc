"""Networks in OpenVINO's form: translated once, kept by digest, and run.

The rule: what is kept is a convenience. A file that is damaged or of another version is made anew, one that cannot be
written is done without, and nothing that comes from one is believed until it said the same as torch
(``models.runtime``).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.findings import Precision
from models.forward import FloatArray, Forward, Runner, named

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger("hilum.translation")

_GRANTED = {"f32": Precision.FLOAT32, "bf16": Precision.BFLOAT16}


def openvino_forward(
    network: Callable[[], nn.Module], picture: FloatArray, *, precision: str, threads: int, kept: Path | None
) -> Runner:
    """A network as OpenVINO runs it on the processor.

    Parameters
    ----------
    network
        Gives it; asked where there is no translation yet.
    picture
        Shape (1, channels, size, size): what it will be asked about is of this shape.
    precision
        ``f32`` or ``bf16``: of the computation. A processor that does not compute in bfloat16 answers in float32.
    kept
        File (.xml) of the translated network; it is written when it is not there and can be. None: nowhere.
    """
    import openvino as ov

    core = ov.Core()
    if kept is not None and kept.exists():
        model = core.read_model(kept)
    else:
        model = translate(network(), picture)
        if kept is not None:
            _keep(model, kept)
    made = compiled(core, model, precision, threads)
    granted = made.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return Runner(_asking(made), _GRANTED[granted])


def quantised_forward(description: bytes, weights: bytes, *, threads: int) -> Runner:
    """A network in integers as OpenVINO runs it; what of it is not in integers is computed in single precision.

    Parameters
    ----------
    description, weights
        OpenVINO's representation, as `models.precisions` keeps it.
    """
    import openvino as ov

    core = ov.Core()
    weighed = ov.Tensor(np.frombuffer(weights, np.uint8))
    made = compiled(core, core.read_model(description, weighed), "f32", threads)
    return Runner(_asking(made), Precision.INT8)


def compiled(core: Any, model: Any, precision: str, threads: int) -> Any:
    """A model, ready to be asked by one thread at a time."""
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    return core.compile_model(model, "CPU", settings)


def _asking(made: Any) -> Forward:
    request, names = made.create_infer_request(), [output.get_any_name() for output in made.outputs]

    def forward(asked: FloatArray) -> dict[str, FloatArray]:
        request.infer({0: asked}, share_inputs=True)
        # copied: the next picture is answered into the same memory
        return {name: np.array(request.get_output_tensor(i).data[0], np.float32) for i, name in enumerate(names)}

    return forward


def translate(network: nn.Module, picture: FloatArray) -> Any:
    """A network as OpenVINO's model, its outputs named."""
    import openvino as ov
    import torch

    class Flat(torch.nn.Module):
        """The network, with its outputs in a tuple, in the order of `names`."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            found = named(self.network(image))
            return tuple(found[name] for name in names)

    with torch.inference_mode():
        names = tuple(named(network(torch.from_numpy(picture))))
    program = torch.export.export(Flat(), (torch.from_numpy(picture),))
    model = ov.convert_model(program)
    for name, output in zip(names, model.outputs, strict=True):
        output.get_tensor().set_names({name})
    return model


def _keep(model: Any, kept: Path) -> None:
    """Write a model, both files or none; where that cannot be, it is translated anew each time."""
    import openvino as ov

    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as draft:
            ov.save_model(model, Path(draft) / kept.name, compress_to_fp16=False)
            # the weights first: where the description lies, both are whole
            for suffix in (".bin", ".xml"):
                (Path(draft) / kept.name).with_suffix(suffix).replace(kept.with_suffix(suffix))
    except OSError as error:
        log.warning("a translated network cannot be kept (%s): it is made at each start", error.strerror)

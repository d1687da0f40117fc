"""Networks in OpenVINO's form: translated once, kept by digest, and run.

The rule: what is kept is a convenience (``models.kept``), and nothing that comes from it is believed until it said the
same as torch (``models.runtime``).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.findings import Precision
from models.forward import FloatArray, Forward, Runner, named
from models.kept import keep_arrays, read_arrays

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
        File of the translated network; it is written when it is not there and can be. None: nowhere.
    """
    import openvino as ov

    core = ov.Core()
    if kept is not None and (files := read_arrays(kept)) is not None:
        model = _read(core, files["description"].tobytes(), files["weights"])
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
    made = compiled(core, _read(core, description, np.frombuffer(weights, np.uint8)), "f32", threads)
    return Runner(_asking(made), Precision.INT8)


def _read(core: Any, description: bytes, weights: npt.NDArray[np.uint8]) -> Any:
    """A model from memory."""
    import openvino as ov

    return core.read_model(description, ov.Tensor(weights))


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


def written(model: Any) -> tuple[bytes, bytes]:
    """Description (XML) and weights of a model, as `quantised_forward` takes them."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:  # it is written to files alone
        file = Path(folder) / "network.xml"
        ov.save_model(model, file, compress_to_fp16=False)
        return file.read_bytes(), file.with_suffix(".bin").read_bytes()


def _keep(model: Any, kept: Path) -> None:
    try:
        files = written(model)
    except (OSError, RuntimeError) as error:  # the latter is OpenVINO's
        log.warning("%s cannot be kept (%s): it is made at each start", kept.name, type(error).__name__)
        return
    arrays = (np.frombuffer(content, np.uint8) for content in files)
    keep_arrays(kept, dict(zip(("description", "weights"), arrays, strict=True)))

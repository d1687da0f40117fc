"""To OpenVINO's intermediate representation: two files, run by OpenVINO on processors and their graphics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from training.export.equality import Equality, ExportDiffers, FloatArray, Run, check
from training.export.program import require, trace

PACKAGES = ("openvino",)
# Weights of half precision have eleven bits; a logit is a sum of some thousand products of them.
HALF_TOLERANCE, SINGLE_TOLERANCE = 0.05, 0.001


def export(
    network: nn.Module, to: Path, inputs: FloatArray, *, half: bool = True, tolerance: float | None = None
) -> Equality:
    """Write ``to`` (.xml) and its weights beside it (.bin), and prove that they answer as torch does.

    Parameters
    ----------
    inputs
        Pictures to compare on, shape (n, channels, h, w), as by ``equality.samples``; the exported network takes
        pictures of this height and width, any number at a time.
    half
        Keep the weights in half precision. They are computed with in single precision.
    tolerance
        Greatest absolute difference that is allowed; by default `HALF_TOLERANCE` or `SINGLE_TOLERANCE`.

    Raises
    ------
    ExporterMissing
        When ``openvino`` is not installed.
    ExportDiffers
        When they do not; no file is left.
    """
    require(*PACKAGES)
    import openvino as ov

    graph, names = trace(network, inputs)
    model = ov.convert_model(graph)
    model.reshape([-1, *inputs.shape[1:]])
    model.inputs[0].get_tensor().set_names({"image"})
    for name, output in zip(names, model.outputs, strict=True):
        output.get_tensor().set_names({name})
    to.parent.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, to, compress_to_fp16=half)
    allowed = tolerance if tolerance is not None else HALF_TOLERANCE if half else SINGLE_TOLERANCE
    try:
        return check(network, run(to), inputs, allowed)
    except ExportDiffers:
        to.unlink()
        to.with_suffix(".bin").unlink()
        raise


def run(file: Path) -> Run:
    """Load a representation, or an ONNX file, to be run by OpenVINO on the processor in single precision."""
    import openvino as ov

    compiled = ov.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [output.get_any_name() for output in compiled.outputs]

    def forward(pictures: FloatArray) -> dict[str, FloatArray]:
        answers = compiled(pictures)
        return {name: np.asarray(answers[i], dtype=np.float32) for i, name in enumerate(names)}

    return forward

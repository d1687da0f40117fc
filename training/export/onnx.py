"""To ONNX: one file that most runtimes read. Wants the packages ``onnx`` and ``onnxscript``."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.export import openvino
from training.export.equality import Equality, ExportDiffers, FloatArray, Run, check
from training.export.program import require, trace

PACKAGES = ("onnx", "onnxscript")
TOLERANCE = 0.001
OPSET = 18  # what OpenVINO 2024 and ONNX Runtime 1.14 and later read


def export(network: nn.Module, to: Path, inputs: FloatArray, *, tolerance: float = TOLERANCE) -> Equality:
    """Write ``to`` (.onnx) and prove that it answers as torch does.

    It is run by ONNX Runtime where that is installed, by OpenVINO else.

    Parameters
    ----------
    inputs
        Pictures to compare on, shape (n, channels, h, w), as by ``equality.samples``; the exported network takes
        pictures of this height and width, any number at a time.

    Raises
    ------
    ExporterMissing
        When ``onnx`` or ``onnxscript`` is not installed.
    ExportDiffers
        When it does not; no file is left.
    """
    require(*PACKAGES)
    graph, names = trace(network, inputs)
    to.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        graph, (), to, input_names=["image"], output_names=list(names), opset_version=OPSET, external_data=False,
        verbose=False,
    )  # fmt: skip
    try:
        return check(network, run(to), inputs, tolerance)
    except ExportDiffers:
        to.unlink()
        raise


def run(file: Path) -> Run:
    """Load a file to be run on the processor by ONNX Runtime, or by OpenVINO where that is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return openvino.run(file)
    runtime: Any = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def forward(pictures: FloatArray) -> dict[str, FloatArray]:
        answers = session.run(names, {session.get_inputs()[0].name: pictures})
        return dict(zip(names, answers, strict=True))

    return forward

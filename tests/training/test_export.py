"""Exported networks answer as torch does, or are not exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import DenseNet121
from torch import nn

from models.networks import EncoderUNet, FindingsNet, HeatDetector, TransformerClassifier
from training.export import onnx, openvino
from training.export.equality import ExportDiffers, check, samples, torch_answer
from training.export.program import ExporterMissing

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "findings": (lambda: FindingsNet(3), 320),
    "transformer": (lambda: TransformerClassifier(2, "tiny"), 96),  # its positions are interpolated
    "unet": (lambda: EncoderUNet(1, "resnet34", (32, 16, 16, 8), deep_supervision=True, empty_head=True), 96),
    "detector": (lambda: HeatDetector(1, "squeezenet", 16), 96),
    "densenet": (lambda: DenseNet121(spatial_dims=2, in_channels=1, out_channels=2), 64),
}


def build(name: str) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    make, size = NETWORKS[name]
    return make().eval(), size


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


def needs_onnx() -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed: ONNX files are an option")


@pytest.mark.parametrize("name", NETWORKS)
def test_openvino_answers_as_torch_does(name: str, tmp_path: Path) -> None:
    network, size = build(name)
    inputs = samples(size)
    equality = openvino.export(network, tmp_path / "network.xml", inputs)
    assert equality.pictures == 5
    assert set(equality.differences) == set(torch_answer(network, inputs[:1]))
    answers = openvino.run(tmp_path / "network.xml")(inputs[:2])  # several at a time
    for output, values in torch_answer(network, inputs[:2]).items():
        np.testing.assert_allclose(answers[output], values, atol=openvino.HALF_TOLERANCE)


@pytest.mark.parametrize("name", ["findings", "transformer", "unet"])
def test_onnx_answers_as_torch_does(name: str, tmp_path: Path) -> None:
    needs_onnx()
    network, size = build(name)
    inputs = samples(size)
    equality = onnx.export(network, tmp_path / "network.onnx", inputs)
    assert equality.largest <= onnx.TOLERANCE
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]
    answers = openvino.run(tmp_path / "network.onnx")(inputs[:2])  # another runtime reads it alike
    for output, values in torch_answer(network, inputs[:2]).items():
        np.testing.assert_allclose(answers[output], values, atol=onnx.TOLERANCE)


def test_without_its_packages_an_export_says_which_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExporterMissing, match="onnx and onnxscript not installed"):
        onnx.export(small(), tmp_path / "network.onnx", samples(32))
    with pytest.raises(ExporterMissing, match="openvino not installed"):
        openvino.export(small(), tmp_path / "network.xml", samples(32))


def test_half_precision_halves_the_file_and_single_precision_is_closer(tmp_path: Path) -> None:
    network, inputs = small(), samples(32)
    half = openvino.export(network, tmp_path / "half.xml", inputs)
    single = openvino.export(network, tmp_path / "single.xml", inputs, half=False)
    assert single.largest < half.largest <= openvino.HALF_TOLERANCE
    assert (tmp_path / "half.bin").stat().st_size < (tmp_path / "single.bin").stat().st_size


def test_an_export_beyond_the_tolerance_fails_loudly_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(
        ExportDiffers, match=r"greatest difference to torch on 5 pictures: logits .* \(allowed: 1e-09\)"
    ):
        openvino.export(small(), tmp_path / "network.xml", samples(32), tolerance=1e-9)
    assert list(tmp_path.iterdir()) == []


def answering(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    network = small()
    return lambda pictures: change(torch_answer(network, pictures))


@pytest.mark.parametrize(
    "change",
    [
        lambda answer: {"logits": answer["logits"] + 0.02},
        lambda answer: {"logits": answer["logits"] * np.nan},
        lambda answer: {"logits": answer["logits"][:, :1]},
        lambda answer: {"scores": answer["logits"]},
        lambda answer: {},
    ],
    ids=["shifted", "no number", "fewer outputs", "another name", "nothing"],
)
def test_a_runtime_that_answers_otherwise_is_noticed(change: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ExportDiffers):
        check(small(), answering(change), samples(32), 0.01)


def test_pictures_to_compare_on_differ_and_span_the_gray_values() -> None:
    pictures = samples(64, 3, low=-1024, high=1024)
    assert pictures.shape == (5, 3, 64, 64)
    assert pictures.min() == -1024
    assert pictures.max() == 1024
    assert all(np.abs(pictures[i] - pictures[j]).mean() > 10 for i in range(5) for j in range(i))

"""Whatever runs the networks says what torch says; what does not, or cannot, is not used."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import runtime as runtimes
from models.bundle import Bundle, load_bundle
from models.findings import View
from models.forward import torch_forward
from models.inference import ImageIdentity, assemble
from models.kept import keep, key_of, read, read_arrays
from models.networks import Together, begin_alike
from models.phantom import Pathology, chest
from models.rendering import RenderedImage
from models.runtime import Running, Runtime, fastest, forwards_of
from models.translation import openvino_forward
from orthanc_plugin.logs import JsonLines

MODELS = Path(__file__).resolve().parent.parent / "models"
NAMES = ("pixel_gate", "lung_fields", "chest_findings", "lung_opacity")
IDENTITY = ImageIdentity("1.2", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3", View.PA)


@pytest.fixture(scope="module")
def bundles() -> list[Bundle]:
    return [load_bundle(MODELS / name) for name in NAMES]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("translated")


class Wrong(nn.Module):
    """Says something else every time."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))[:, None] + torch.rand(1)


def test_the_shipped_bundles_say_the_same_by_openvino(bundles: list[Bundle], kept: Path) -> None:
    by_torch = assemble(bundles, threads=1)
    by_openvino = assemble(bundles, threads=1, running=Running(Runtime.OPENVINO, 1, kept))
    for seed in range(3):
        shown = [Pathology("lung_opacity", right=True, size=0.9, height=0.7)] if seed else []
        image = RenderedImage(chest(seed, rows=900, columns=800, pathologies=shown).pixels)
        one, other = by_torch.look(image, children=False), by_openvino.look(image, children=False)
        assert one is not None
        assert other is not None
        assert (one.shows, one.accepted, one.score) == (
            other.shows,
            other.accepted,
            pytest.approx(other.score, abs=1e-4),
        )
        ours, theirs = by_torch.predict(image, IDENTITY), by_openvino.predict(image, IDENTITY)
        assert [(f.key, f.state) for f in ours.findings] == [(f.key, f.state) for f in theirs.findings]
        for mine, other in zip(ours.findings, theirs.findings, strict=True):
            assert (mine.probability is None) == (other.probability is None)
            assert mine.probability is None or mine.probability == pytest.approx(other.probability, abs=1e-4)
        for a, b in zip(ours.segments, theirs.segments, strict=True):
            assert np.mean(a.mask != b.mask) < 1e-4


def test_networks_that_begin_alike_are_run_as_one(bundles: list[Bundle], kept: Path) -> None:
    findings, opacity = bundles[2], bundles[3]
    assert findings.network is not None
    assert opacity.network is not None
    assert begin_alike(findings.network, opacity.network)
    together = Together([findings.network, opacity.network]).eval()
    picture = torch.rand(1, 1, 320, 320)
    with torch.inference_mode():
        said = together(picture)
        for number, network in enumerate((findings.network, opacity.network)):
            for name, value in network(picture).items():
                assert torch.equal(said[f"{number}.{name}"], value)
    asked = picture.numpy()
    forwards = forwards_of(bundles, Running(Runtime.OPENVINO, 1, kept))
    before, others = forwards[2](asked), forwards[3](asked)
    assert before["logits"].shape == (15,)
    assert others["logits"].shape == (1,)
    assert not np.array_equal(forwards[3](asked.copy() * 0.5)["logits"], others["logits"]), "another picture is run"
    assert np.array_equal(forwards[2](asked)["logits"], before["logits"])


def test_other_first_layers_are_not_shared(bundles: list[Bundle]) -> None:
    other = load_bundle(MODELS / "lung_opacity")
    assert other.network is not None
    with torch.no_grad():
        next(other.network.parameters()).add_(1e-3)
    assert not begin_alike(bundles[2].network, other.network)  # type: ignore[arg-type]
    assert not begin_alike(bundles[1].network, bundles[2].network)  # type: ignore[arg-type]


def test_a_translation_is_kept_and_made_anew_when_it_is_damaged(bundles: list[Bundle], tmp_path: Path) -> None:
    running, picture = Running(Runtime.OPENVINO, 1, tmp_path), np.random.default_rng(0).random((1, 1, 160, 160), "f4")
    (first,) = forwards_of(bundles[:1], running)
    (network,) = tmp_path.glob("*.network")
    content, written = network.read_bytes(), network.stat().st_mtime_ns
    (again,) = forwards_of(bundles[:1], running)
    assert network.stat().st_mtime_ns == written
    assert np.array_equal(first(picture)["logits"], again(picture)["logits"])
    with network.open("r+b") as file:  # the very same file
        file.seek(len(content) // 2)
        file.write(b"@" * 10_000)
    assert np.array_equal(first(picture)["logits"], again(picture)["logits"]), "who runs it has it in memory"
    (anew,) = forwards_of(bundles[:1], running)
    assert np.array_equal(anew(picture)["logits"], first(picture)["logits"])
    assert read_arrays(network) is not None
    assert len(network.read_bytes()) == len(content)


def test_where_nothing_can_be_written_a_network_is_translated_each_time(
    bundles: list[Bundle], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    picture, known = runtimes.probe(bundles[0]), bundles[0].precisions.by_runtime.values()
    widest = max([1e-3, *(precision.tolerances["logits"] for precision in known)])
    for runtime, within in ((Runtime.OPENVINO, 1e-3), (Runtime.AUTO, widest)):
        (forward,) = forwards_of(bundles[:1], Running(runtime, 1, tmp_path / "file"))
        assert bundles[0].network is not None
        said = torch_forward(bundles[0].network)(picture)["logits"]
        assert forward(picture)["logits"] == pytest.approx(said, abs=within)
    assert any("cannot be kept" in record.getMessage() for record in caplog.records)
    assert not any("cannot run it" in record.getMessage() for record in caplog.records)


def test_what_says_something_else_is_not_used(
    bundles: list[Bundle], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Wrong()
    made = openvino_forward(
        lambda: other, np.zeros((1, 1, 160, 160), np.float32), precision="f32", threads=1,
        kept=tmp_path / f"{key_of(bundles[:1])}.network",
    )  # fmt: skip
    assert made(np.zeros((1, 1, 160, 160), np.float32))["logits"].shape == (1,)
    (forward,) = forwards_of(bundles[:1], Running(Runtime.OPENVINO, 1, tmp_path))
    picture = np.random.default_rng(0).random((1, 1, 160, 160), "f4")
    assert bundles[0].network is not None
    assert np.array_equal(forward(picture)["logits"], torch_forward(bundles[0].network)(picture)["logits"])
    assert "openvino says something else" in caplog.text


def test_the_choice_of_auto_is_kept(bundles: list[Bundle], tmp_path: Path) -> None:
    """A study that is read again is read in the same way, however busy the machine was at the start."""
    auto = Running(Runtime.AUTO, 1, tmp_path)
    forwards_of(bundles[:1], auto)
    (choice,) = tmp_path.glob("*.runtime")
    keep(choice, b"torch")
    (forward,) = forwards_of(bundles[:1], auto)
    picture = np.random.default_rng(0).random((1, 1, 160, 160), "f4")
    assert bundles[0].network is not None
    assert np.array_equal(forward(picture)["logits"], torch_forward(bundles[0].network)(picture)["logits"])
    assert read(choice) == b"torch"
    other = [replace(bundles[0], identity=replace(bundles[0].identity, weights_digest="f" * 64))]
    forwards_of(other, auto)
    assert len(list(tmp_path.glob("*.runtime"))) == 2, "other weights are measured anew"


def test_noise_does_not_decide_what_is_the_fastest() -> None:
    usual = (Runtime.OPENVINO_INT8, Runtime.OPENVINO_BF16, Runtime.OPENVINO, Runtime.TORCH)
    for milliseconds, expected in (
        ((6.1, 5.8, 12.0, 48.0), Runtime.OPENVINO_INT8),
        ((6.1, 5.0, 4.8, 48.0), Runtime.OPENVINO_BF16),
        ((6.1, 6.0, 5.2, 48.0), Runtime.OPENVINO),
        ((6.1, 5.0, 4.8, 2.0), Runtime.TORCH),
    ):
        assert fastest(dict(zip(usual, milliseconds, strict=True))) is expected


def test_what_is_usually_faster_is_asked_first(bundles: list[Bundle]) -> None:
    first, second, third, *_ = runtimes._candidates(Runtime.AUTO, bundles[:1])
    assert (first, second, third) == (Runtime.OPENVINO_INT8, Runtime.OPENVINO_BF16, Runtime.OPENVINO)


def test_the_log_tells_runtime_precision_and_batch(
    bundles: list[Bundle], kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hilum")
    forwards_of(bundles[:1], Running(Runtime.OPENVINO_INT8, 1, kept, studies=2))
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "hilum.runtime"]
    told = {line["event"]: line for line in lines}
    assert told["networks run"].items() >= {"runtime": "openvino-int8", "precision": "int8"}.items()
    assert told["studies share a network"]["batch"] == 1


def test_what_is_timed_is_asked_in_turns() -> None:
    asked: list[int] = []
    seconds = runtimes.seconds_of({1: lambda: asked.append(1), 2: lambda: (asked.append(2), time.sleep(0.01))})
    assert asked == [1, 2] * runtimes._TIMED
    assert seconds[1] < 0.01 <= seconds[2]

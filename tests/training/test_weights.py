"""Files of weights: everything torch ever wrote is read, and nothing in them is run."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from training.importers.weights import Inert, WeightsRefused, load_into, read_weights, tensors


class Small(nn.Module):
    """A model of a class that the reader must not load."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.register_buffer("absent", None)
        self.labels = ["a", "b"]

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("the class was loaded")


class Runs:
    """Runs a command when it is unpickled as usual."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def same(given: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return list(given) == list(wanted) and all(torch.equal(given[k], wanted[k]) for k in wanted)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("several", [False, True], ids=["one device", "several devices"])
def test_the_weights_of_a_pickled_model_are_read_without_its_class(zipped: bool, several: bool, tmp_path: Path) -> None:
    model = Small()
    torch.save(nn.DataParallel(model) if several else model, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    content, digest = read_weights(tmp_path / "m.pt")
    assert isinstance(content, Inert)
    assert same(tensors(content), model.state_dict())
    assert len(digest) == 64


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_checkpoint_s_other_contents_do_not_matter(zipped: bool, tmp_path: Path) -> None:
    state = Small().state_dict()
    content = {"epoch": 3, "best": np.float64(0.8), "args": argparse.Namespace(lr=0.1), "state_dict": state}
    torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=zipped)
    read, _ = read_weights(tmp_path / "c.pt")
    assert same(tensors(read), state)
    assert read["epoch"] == 3


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_nothing_in_a_file_is_run(zipped: bool, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    content = {"state_dict": {"a": torch.ones(2)}, "extra": Runs(f"touch {marker}")}
    torch.save(content, tmp_path / "bad.pt", _use_new_zipfile_serialization=zipped)
    read, _ = read_weights(tmp_path / "bad.pt")
    assert not marker.exists()
    assert isinstance(read["extra"], Inert)
    assert tensors(read)["a"].tolist() == [1.0, 1.0]
    torch.load(tmp_path / "bad.pt", weights_only=False)
    assert marker.exists(), "the attack itself does not work"


def test_nor_is_a_bare_pickle_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Runs(f"touch {marker}"), protocol=2))
    with pytest.raises(WeightsRefused, match=r"bad\.pt holds no weights that torch saved"):
        read_weights(tmp_path / "bad.pt")
    assert not marker.exists()


def test_a_program_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:
        archive.writestr("program/constants.pkl", b"")
    with pytest.raises(WeightsRefused, match="TorchScript program"):
        read_weights(tmp_path / "program.pt")


def damaged() -> dict[str, bytes]:
    stream = io.BytesIO()
    torch.save({"a": torch.ones(1000)}, stream, _use_new_zipfile_serialization=False)
    zipped = io.BytesIO()
    torch.save({"a": torch.ones(1000)}, zipped)
    return {
        "empty": b"",
        "text": b"<html>not found</html>",
        "cut legacy": stream.getvalue()[:-100],
        "cut zip": zipped.getvalue()[:-100],
        "recursion": pickle.PROTO + struct.pack("B", 2) + b"]" * 5 + b"R.",
    }


@pytest.mark.parametrize("kind", list(damaged()))
def test_a_damaged_file_is_named_as_such(kind: str, tmp_path: Path) -> None:
    (tmp_path / "damaged.pt").write_bytes(damaged()[kind])
    with pytest.raises(WeightsRefused, match=r"damaged\.pt holds no weights that torch saved: .*; fetch it again"):
        read_weights(tmp_path / "damaged.pt")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsRefused, match="No such file"):
        read_weights(tmp_path / "absent.pt")


def test_a_model_without_end_is_refused() -> None:
    model = Inert()
    model.__setstate__({"_modules": {"again": model}})
    with pytest.raises(WeightsRefused, match="contain each other"):
        tensors(model)


def test_loading_is_strict_and_leaves_a_network_that_only_answers() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    state["0.bias"] = torch.ones(3).half()
    load_into(network, state, "x.pt")
    assert not network.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in network.parameters())
    assert network[0].bias.tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(WeightsRefused, match=r"x\.pt is not of the network .* Missing key.*0\.bias"):
        load_into(network, {k: v for k, v in state.items() if k != "0.bias"}, "x.pt")
    with pytest.raises(WeightsRefused, match="Unexpected key"):
        load_into(network, state | {"2.weight": torch.ones(1)}, "x.pt")


def test_a_file_without_tensors_gives_none(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    assert tensors(read_weights(tmp_path / "none.pt")[0]) == {}
    assert tensors([1, 2]) == {}

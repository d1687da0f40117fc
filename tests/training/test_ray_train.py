"""Training by the workers of Ray Train: as by one process, through a real Ray on this machine where it is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from samples import write_sample
from test_loop import run
from test_spread import Smooth, trained
from test_train_command import TOML
from toys import recipe, same

from models.bundle import load_bundle
from training import __main__ as command
from training import ray_train
from training.loop import TrainingStopped, fit
from training.ray_train import check_workers, run_workers
from training.run import Places
from training.spread import Spread

needs_ray = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("ray", "pyarrow")),
    reason="ray[train] is not installed: workers of Ray Train are an option",
)


@needs_ray
def test_two_workers_of_ray_end_with_the_weights_of_one_process(tmp_path: Path) -> None:
    def work(spread: Spread) -> None:
        found = trained(spread, run(tmp_path / "spread"), Smooth())
        torch.save(found, tmp_path / f"{spread.rank}.pt")

    run_workers(work, 2, gpu=False, folder=tmp_path / "ray")
    alone = Smooth()
    fit(alone, run(tmp_path / "alone"))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert same(first["state"], second["state"])
    for name, value in alone.module.state_dict().items():
        torch.testing.assert_close(first["state"][name], value, rtol=0, atol=1e-5)
    assert not (tmp_path / "ray").exists()


@needs_ray
@pytest.mark.parametrize(("error", "told"), [(TrainingStopped("too steep"), "^too steep$"), (OSError("gone"), "gone")])
def test_what_stops_the_workers_is_told(error: Exception, told: str, tmp_path: Path) -> None:
    def work(spread: Spread) -> None:
        raise error

    with pytest.raises(TrainingStopped, match=told):
        run_workers(work, 2, gpu=False, folder=tmp_path / "ray")


@needs_ray
def test_a_recipe_becomes_a_bundle_by_two_workers_and_is_judged_again_by_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, out, mine = write_sample("plain", tmp_path / "plain"), tmp_path / "mine", tmp_path / "mine.toml"
    mine.write_text(TOML.replace("batch = 3", "batch = 4"))
    asked = [str(a) for a in (mine, "--data", data, "--out", out, "--pictures", tmp_path / "pictures", "--threads", 1)]
    assert command.main([*asked, "--ray-workers", "2"]) == 0, capfd.readouterr().err
    told = json.loads((out / "configs" / "metadata.json").read_text())["hilum"]["provenance"]
    assert told["command"] == "./hilum train mine --epochs 2 --seed 7 --ray-workers 2"
    assert told["workers"] == 2
    lines = [json.loads(line) for line in (out / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    digest = load_bundle(out).identity.weights_digest
    assert command.main([*asked, "--resume"]) == 0
    assert load_bundle(out).identity.weights_digest == digest
    assert json.loads((out / "run" / "run.json").read_text())["workers"] == 2


@pytest.mark.parametrize(
    ("there", "workers", "pictures", "told"),
    [
        (False, 2, Path("pictures"), r"ray\[train\] is not installed: install it, or leave out --ray-workers"),
        (True, 4, Path("pictures"), "4 workers cannot share a batch of 6 alike"),
        (True, 2, None, "name a folder for them with --pictures"),
    ],
)
def test_what_workers_could_not_follow_is_told_before_anything_is_read(
    there: bool, workers: int, pictures: Path | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_train.importlib.util, "find_spec", lambda name: object() if there else None)
    places = Places(Path("nowhere"), Path("out"), pictures)
    with pytest.raises(TrainingStopped, match=told):
        check_workers(recipe("classification"), places, workers)


def test_a_default_bundle_has_no_workers(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["lung_fields", "--ray-workers", "2"]) == 1
    assert "is a default bundle" in capsys.readouterr().err

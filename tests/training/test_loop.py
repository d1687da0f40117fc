"""The training loop on a task without pictures: resuming, seeds, averages, stopping, logs."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import same

from training import loop
from training.loop import Run, TrainingStopped, fit
from training.recipe import SchedulePart
from training.sampling import IntArray

PLAN = SchedulePart(epochs=4, batch=8, rate=0.05, shape="one_cycle", warm_up=0.3, clip=1.0, average=0.9)


class Plane:
    """A network with dropout and batch normalisation learns which side of a plane a point lies on."""

    figures: Mapping[str, bool] = {"loss": False, "right": True}
    notes = ("a note",)

    def __init__(self, *, told: list[float] | None = None) -> None:
        torch.manual_seed(1)
        self.module: nn.Module = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1)
        )
        rng = np.random.default_rng(0)
        points = rng.normal(size=(48, 4)).astype(np.float32)
        self.points, self.sides = torch.from_numpy(points), torch.from_numpy((points.sum(1) > 0).astype(np.float32))
        self.told, self.done = told, list[float]()

    def order(self, epoch: int, rng: np.random.Generator) -> IntArray:
        return rng.permutation(32)

    def load(self, items: IntArray) -> tuple[Tensor, Tensor]:
        return self.points[items], self.sides[items]

    def losses(self, batch: tuple[Tensor, Tensor], device: torch.device) -> dict[str, Tensor]:
        noisy = batch[0] + 0.05 * torch.randn_like(batch[0])
        logits = self.module(noisy)[:, 0]
        return {"loss": nn.functional.binary_cross_entropy_with_logits(logits, batch[1])}

    def set_training(self) -> None:
        self.module.train()

    def after_step(self, done: float) -> None:
        self.done.append(done)

    def validate(self, device: torch.device) -> dict[str, float]:
        torch.rand(7)  # what is drawn here must not change the training
        logits = self.module(self.points[32:])[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, self.sides[32:]).item()
        right = ((logits > 0) == (self.sides[32:] > 0.5)).float().mean().item()
        return {"loss": self.told.pop(0) if self.told else loss, "right": right}


def run(folder: Path, **changes: Any) -> Run:
    plan = replace(PLAN, **{k: v for k, v in changes.items() if hasattr(PLAN, k)})
    rest = {k: v for k, v in changes.items() if not hasattr(PLAN, k)}
    return Run(**{"folder": folder, "schedule": plan, "seed": 5, "watch": "loss", "digest": "one", **rest})


@pytest.mark.parametrize("shape", ["one_cycle", "cosine", "plateau", "constant"])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path: Path, shape: str, optimiser: str) -> None:
    changes = {"shape": shape, "optimiser": optimiser}
    whole, first, second = Plane(), Plane(), Plane()
    uninterrupted = fit(whole, run(tmp_path / "whole", **changes))
    fit(first, run(tmp_path / "parts", **changes), until=2)
    resumed = fit(second, run(tmp_path / "parts", **changes), resume=True)
    assert resumed == uninterrupted
    assert same(whole.module.state_dict(), second.module.state_dict())
    last = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts")]
    assert same(last[0]["module"], last[1]["module"])
    assert same(last[0]["average"]["state"], last[1]["average"]["state"])
    assert torch.equal(last[0]["rng"], last[1]["rng"])


def test_one_seed_gives_one_network_and_another_seed_another(tmp_path: Path) -> None:
    tasks = [Plane() for _ in range(3)]
    for i, (task, seed) in enumerate(zip(tasks, (5, 5, 6), strict=True)):
        fit(task, run(tmp_path / str(i), seed=seed))
    states = [task.module.state_dict() for task in tasks]
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


def test_the_loss_falls_and_the_share_of_steps_rises_to_one(tmp_path: Path) -> None:
    task = Plane()
    outcome = fit(task, run(tmp_path, epochs=12))
    assert outcome.history[-1]["train_loss"] < 0.7 * outcome.history[0]["train_loss"]
    assert task.done == sorted(task.done)
    assert task.done[-1] == 1.0
    assert len(task.done) == 12 * 4


def test_a_run_of_another_recipe_or_seed_is_not_resumed(tmp_path: Path) -> None:
    fit(Plane(), run(tmp_path), until=1)
    with pytest.raises(TrainingStopped, match="another recipe"):
        fit(Plane(), run(tmp_path, digest="two"), resume=True)
    with pytest.raises(TrainingStopped, match="another recipe"):
        fit(Plane(), run(tmp_path, seed=6), resume=True)
    with pytest.raises(TrainingStopped, match="holds a run already"):
        fit(Plane(), run(tmp_path))


def test_an_interruption_within_an_epoch_costs_that_epoch_alone(tmp_path: Path) -> None:
    whole, broken, resumed = Plane(), Plane(), Plane()
    fit(whole, run(tmp_path / "whole"))
    steps = iter(range(100))

    def fail(done: float) -> None:
        if next(steps) == 9:
            raise KeyboardInterrupt

    broken.after_step = fail  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        fit(broken, run(tmp_path / "parts"))
    fit(resumed, run(tmp_path / "parts"), resume=True)
    assert same(whole.module.state_dict(), resumed.module.state_dict())
    lines = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [0, 1, 2, 3]


def test_a_run_stops_when_the_figure_no_longer_improves_and_keeps_the_best(tmp_path: Path) -> None:
    task = Plane(told=[0.9, 0.5, 0.7, 0.6, 0.1])
    outcome = fit(task, run(tmp_path, epochs=10, patience=2))
    assert [h["loss"] for h in outcome.history] == [0.9, 0.5, 0.7, 0.6]
    assert outcome.best == 1
    assert same(task.module.state_dict(), torch.load(tmp_path / "best.pt", weights_only=True))
    again = fit(Plane(), run(tmp_path, epochs=10, patience=2), resume=True)
    assert again == outcome


def test_a_figure_that_is_not_defined_is_never_the_best(tmp_path: Path) -> None:
    nan = float("nan")
    assert fit(Plane(told=[nan, 0.5, nan, 0.8]), run(tmp_path)).best == 1
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert line["loss"] is None


def test_the_averaged_weights_are_judged_and_kept_and_the_raw_ones_trained_on(tmp_path: Path) -> None:
    task = Plane(told=[4.0, 3.0, 2.0, 1.0])
    fit(task, run(tmp_path))
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert same(task.module.state_dict(), last["average"]["state"])
    assert not same(last["module"], last["average"]["state"])
    assert last["average"]["steps"] == 16


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    task = Plane()
    task.points[:] = float("nan")
    with pytest.raises(TrainingStopped, match="the loss became nan"):
        fit(task, run(tmp_path))


def test_a_figure_that_the_task_does_not_give_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match="'dice' but loss, right"):
        fit(Plane(), run(tmp_path, watch="dice"))


def test_the_folder_says_what_made_it(tmp_path: Path) -> None:
    fit(Plane(), run(tmp_path, facts={"recipe": {"name": "plane"}}))
    said = json.loads((tmp_path / "run.json").read_text())
    assert said == {"recipe": {"name": "plane"}, "seed": 5, "workers": 1, "notes": ["a note"]}


def test_steps_are_logged_and_tensorboard_gets_events_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    fit(Plane(), run(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == [2, 4, 6, 8, 10, 12, 14, 16]
    installed = importlib.util.find_spec("tensorboard") is not None
    assert bool(list(tmp_path.glob("events.*"))) == installed


def test_weights_decay_but_biases_and_norms_do_not() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    groups = loop._optimiser(module, replace(PLAN, weight_decay=0.1)).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.1), (3, 0.0)]


@pytest.mark.parametrize("shape", ["one_cycle", "cosine"])
@pytest.mark.parametrize("epochs", [1, 2, 3, 5])
def test_the_shortest_runs_have_a_schedule_too(tmp_path: Path, shape: str, epochs: int) -> None:
    outcome = fit(Plane(), run(tmp_path, shape=shape, epochs=epochs, batch=32))
    assert len(outcome.history) == epochs

"""Two processes that talk by gloo train as one does: weights, random numbers, figures, files, and what stops them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_loop import Plane, run
from torch import Tensor, distributed, multiprocessing, nn
from toys import same

from training.loop import Run, TrainingStopped, fit
from training.spread import Spread

PLAIN = [("one_cycle", "adamw"), ("plateau", "sgd")]


class Smooth(Plane):
    """A plane's sides by a network that draws nothing and normalises nothing."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    def losses(self, batch: tuple[Tensor, Tensor], device: torch.device) -> dict[str, Tensor]:
        return {"loss": nn.functional.binary_cross_entropy_with_logits(self.module(batch[0])[:, 0], batch[1])}


class Met(nn.Module):
    """Three numbers of which a loss may meet none, one or two; and a count that is never changed."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.one, self.none = (nn.Parameter(torch.ones(2)) for _ in range(3))
        self.fixed = nn.Buffer(torch.full((1,), 0.1))
        self.counted = nn.Buffer(torch.zeros(1))


def trained(spread: Spread, given: Run, task: Plane, **how: Any) -> dict[str, Any]:
    """What a worker comes to."""
    outcome = fit(task, replace(given, spread=spread), **how)
    return {"state": task.module.state_dict(), "history": outcome.history, "best": outcome.best}


def plain(spread: Spread, folder: Path) -> dict[str, Any]:
    found = {}
    for shape, optimiser in PLAIN:
        given = run(folder / shape, shape=shape, optimiser=optimiser, weight_decay=0.1)
        found[shape] = trained(spread, given, Smooth())
    return found


def chance(spread: Spread, folder: Path) -> dict[str, Any]:
    """Dropout, noise and batch normalisation; without a stop, and with one after two epochs."""
    whole = trained(spread, run(folder / "whole"), Plane())
    begun = trained(spread, run(folder / "parts"), Plane(), until=2)
    trained(spread, run(folder / "stopped"), Plane(), until=1)
    return {"whole": whole, "begun": begun, "parts": trained(spread, run(folder / "parts"), Plane(), resume=True)}


def early(spread: Spread, folder: Path) -> dict[str, Any]:
    task = Smooth(told=[0.9, 0.5, 0.7, 0.6, 0.1] if spread.first else [])
    return trained(spread, run(folder / "early", epochs=10, patience=2), task) | {"judged": 5 - len(task.told or ())}


def broken(spread: Spread, folder: Path) -> str:
    task = Smooth()
    if not spread.first:
        task.points[:] = float("nan")
    with pytest.raises(TrainingStopped) as stopped:
        fit(task, replace(run(folder / "broken"), spread=spread))
    return str(stopped.value)


def averaged(spread: Spread, folder: Path) -> dict[str, Any]:
    module = Met()
    loss = (1 + spread.rank) * module.both.sum()
    (loss if spread.first else loss + 3 * module.one.sum()).backward()
    spread.average_gradients(module)
    module.counted += spread.rank
    spread.average_statistics(module)
    return {
        "gradients": [None if p.grad is None else p.grad.tolist() for p in module.parameters()],
        "statistics": [module.fixed, module.counted],
        "share": spread.share(np.arange(6)).tolist(),
        "told": spread.told(lambda: {"auroc": float(spread.rank)}),
    }


SCENES: tuple[Callable[[Spread, Path], Any], ...] = (plain, chance, early, broken, averaged)


def worker(rank: int, folder: Path) -> None:
    """All scenes in one process: starting it is what takes long."""
    torch.set_num_threads(1)
    patience = timedelta(minutes=4)  # one that waits in vain says where, before the test's own time is over
    where = (folder / "store").as_uri()
    distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=2, timeout=patience)
    spread = Spread.joined(torch.device("cpu"))
    torch.save({scene.__name__: scene(spread, folder) for scene in SCENES}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("spread")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GLOO_SOCKET_IFNAME", "lo")
        multiprocessing.spawn(worker, (where,), nprocs=2)
    return where


@pytest.fixture(scope="module")
def both(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize(("shape", "optimiser"), PLAIN)
def test_two_workers_end_with_the_weights_of_one_that_sees_whole_batches(
    shape: str, optimiser: str, both: list[dict[str, Any]], tmp_path: Path
) -> None:
    alone = Smooth()
    start = {name: value.clone() for name, value in alone.module.state_dict().items()}
    outcome = fit(alone, run(tmp_path, shape=shape, optimiser=optimiser, weight_decay=0.1))
    first, second = (found["plain"][shape] for found in both)
    assert same(first["state"], second["state"])
    end = alone.module.state_dict()
    for name, value in end.items():
        torch.testing.assert_close(first["state"][name], value, rtol=0, atol=1e-5)
    assert max(float((end[name] - start[name]).abs().max()) for name in end) > 1e-2  # something was learnt
    assert first["history"] == second["history"]
    for mine, theirs in zip(outcome.history, first["history"], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)


def test_workers_draw_different_numbers_and_end_with_the_same_weights_and_statistics(
    both: list[dict[str, Any]], folder: Path
) -> None:
    first, second = (found["chance"]["begun"] for found in both)  # as they were trained: the best are loaded at the end
    assert same(first["state"], second["state"])
    last = torch.load(folder / "whole" / "last.pt", weights_only=True)
    assert last["rng"].shape[0] == 2
    assert not torch.equal(last["rng"][0], last["rng"][1])


def test_two_workers_that_were_stopped_go_on_to_the_bit(both: list[dict[str, Any]], folder: Path) -> None:
    for found in both:
        whole, parts = found["chance"]["whole"], found["chance"]["parts"]
        assert whole["history"] == parts["history"]
        assert same(whole["state"], parts["state"])
    last = [torch.load(folder / name / "last.pt", weights_only=True) for name in ("whole", "parts")]
    assert same(last[0]["module"], last[1]["module"])
    assert same(last[0]["average"]["state"], last[1]["average"]["state"])
    assert torch.equal(last[0]["rng"], last[1]["rng"])


def test_a_run_of_two_is_not_gone_on_with_by_one(folder: Path, both: list[dict[str, Any]]) -> None:
    with pytest.raises(TrainingStopped, match="a run of 2 workers: go on with as many"):
        fit(Plane(), run(folder / "stopped"), resume=True)


def test_a_finished_run_of_two_is_taken_up_by_one(folder: Path, both: list[dict[str, Any]]) -> None:
    task = Plane()
    before = (folder / "whole" / "log.jsonl").read_bytes()
    outcome = fit(task, run(folder / "whole"), resume=True)
    assert outcome.history == both[0]["chance"]["whole"]["history"]
    assert same(task.module.state_dict(), both[1]["chance"]["whole"]["state"])
    assert json.loads((folder / "whole" / "run.json").read_text())["workers"] == 2
    assert (folder / "whole" / "log.jsonl").read_bytes() == before


def test_only_the_first_judges_and_all_stop_early_together(both: list[dict[str, Any]], folder: Path) -> None:
    first, second = (found["early"] for found in both)
    assert [h["loss"] for h in second["history"]] == [0.9, 0.5, 0.7, 0.6]
    assert first["history"] == second["history"]
    assert (first["best"], second["best"]) == (1, 1)
    assert first["judged"] == 4
    assert same(second["state"], torch.load(folder / "early" / "best.pt", weights_only=True))


def test_each_epoch_is_logged_once(both: list[dict[str, Any]], folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "early" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [0, 1, 2, 3]


def test_a_loss_that_is_no_number_for_one_stops_both(both: list[dict[str, Any]]) -> None:
    assert [found["broken"].partition(":")[0] for found in both] == ["the loss became nan"] * 2


def test_gradients_and_statistics_are_averaged_and_what_nobody_met_has_none(both: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(both):
        given = found["averaged"]
        assert given["gradients"] == [[1.5, 1.5], [1.5, 1.5], None]
        assert torch.equal(given["statistics"][0], torch.full((1,), 0.1))
        assert given["statistics"][1].item() == 0.5
        assert given["share"] == [rank, rank + 2, rank + 4]
        assert given["told"] == {"auroc": 0.0}


def test_a_batch_that_cannot_be_shared_alike_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match="3 workers cannot share a batch of 8 alike"):
        fit(Plane(), replace(run(tmp_path), spread=Spread(0, 3)))


def test_the_first_worker_draws_what_one_alone_draws_and_no_two_draw_the_same() -> None:
    assert Spread().seed(7) == Spread(0, 4).seed(7) == 7
    assert len({Spread(rank, 4).seed(seed) for rank in range(4) for seed in (7, 8)}) == 8

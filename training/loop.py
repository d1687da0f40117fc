"""The one training loop: epochs, checkpoints, logs, for whatever task plugs in.

The rule: a run that was stopped goes on as if it had not been. On a CPU, with the same version of torch and the same
number of threads, its weights are the same to the bit as those of an uninterrupted run, and so are those of two runs
with one seed. On a GPU both hold but for the order in which its kernels add up.

What a run leaves in its folder::

    run.json        recipe, seed, digest of the data, revision, versions, notes for the card
    log.jsonl       one line each epoch and every `LOG_EVERY` steps
    events.*        the same for TensorBoard, if the package ``tensorboard`` is installed
    last.pt         checkpoint after the last whole epoch
    best.pt         weights of the epoch that was best on the validation patients: the moving average if there is one
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.averaging import MovingAverage
from training.recipe import SchedulePart
from training.run_log import FACTS, RunLog, write_json
from training.sampling import IntArray, batches, epoch_rng
from training.spread import Spread

LOG_EVERY = 50


class TrainingStopped(Exception):
    """A run that cannot begin or go on; the message says why and what to do."""


class Task(Protocol):
    """What a network is to learn.

    Parameters
    ----------
    module
        All that is trained or kept: its state is the checkpoint.
    figures
        What `validate` gives, to whether more is better.
    notes
        Sentences for the card.
    """

    module: nn.Module
    figures: Mapping[str, bool]
    notes: tuple[str, ...]

    def order(self, epoch: int, rng: np.random.Generator) -> IntArray:
        """The items of an epoch in the order in which they are seen."""

    def load(self, items: IntArray) -> Any:
        """Fetch a batch; runs beside the step before, and draws no random numbers."""

    def losses(self, batch: Any, device: torch.device) -> dict[str, Tensor]:
        """The loss, under ``loss``, and its parts; random numbers come from torch's own generator."""

    def set_training(self) -> None:
        """Bring `module` into training mode."""

    def after_step(self, done: float) -> None:
        """Called after each step with the share of all steps that is done."""

    def validate(self, device: torch.device) -> dict[str, float]:
        """Figures on the validation patients; NaN where one is not defined."""


@dataclass(frozen=True)
class Run:
    """What a run needs beside its task.

    Parameters
    ----------
    folder
        Where it leaves what it makes.
    watch
        Figure that decides on the best epoch.
    digest
        Of recipe and data: a checkpoint of another one is refused.
    facts
        For ``run.json``.
    spread
        Which of several workers this is; each calls `fit` with a task and a run that differ in nothing else.
    """

    folder: Path
    schedule: SchedulePart
    seed: int
    watch: str
    digest: str = ""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    facts: Mapping[str, Any] = field(default_factory=dict)
    spread: Spread = field(default_factory=Spread)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Parameters
    ----------
    history
        The figures of each epoch.
    best
        Number of the best epoch, from 0.
    """

    history: tuple[Mapping[str, float], ...]
    best: int


def fit(task: Task, run: Run, *, resume: bool = False, until: int | None = None) -> Outcome:
    """Train, and leave the best weights in the task's module.

    Parameters
    ----------
    resume
        Go on from the checkpoint of the run's folder, if there is one.
    until
        Stop after so many epochs as if interrupted.

    Raises
    ------
    TrainingStopped
        When the folder holds another run, the loss is no number, the task knows no such figure, or the workers cannot
        share a batch alike.
    """
    if run.watch not in task.figures:
        raise TrainingStopped(f"the task gives no figure {run.watch!r} but {', '.join(task.figures)}")
    trainer = _Trainer(task, run)
    begun = run.spread.told((run.folder / "last.pt").exists)
    if resume and begun:
        trainer.restore()
    elif begun:
        raise TrainingStopped(f"{run.folder} holds a run already: resume it, or name another folder")
    return trainer.train(until or run.schedule.epochs)


def check_shares(batch: int, workers: int) -> None:
    """Refuse a batch of which the workers' shares would differ in size.

    Raises
    ------
    TrainingStopped
    """
    if batch % workers:
        raise TrainingStopped(f"{workers} workers cannot share a batch of {batch} alike: take a number that divides it")


class _Trainer:
    def __init__(self, task: Task, run: Run) -> None:
        self.task, self.run, plan = task, run, run.schedule
        self.spread = run.spread
        self.workers = run.spread.workers  # that train, or have trained what was found in the folder
        parts = batches(task.order(0, epoch_rng(run.seed, 0)), plan.batch)
        check_shares(len(parts[0]), run.spread.workers)
        task.module.to(run.device)
        self.spread.agree(task.module)
        torch.manual_seed(self.spread.seed(run.seed))
        self.steps = len(parts)
        self.optimiser = _optimiser(task.module, plan)
        self.scheduler = _scheduler(self.optimiser, plan, self.steps)
        on_gpu = run.device.type == "cuda"
        self.half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(plan.precision) if on_gpu else None
        self.scaler = torch.amp.GradScaler(run.device.type, enabled=self.half is torch.float16)
        self.average = MovingAverage(task.module, plan.average) if plan.average else None
        self.history: list[dict[str, float]] = []

    def train(self, until: int) -> Outcome:
        if self.spread.first:
            self.run.folder.mkdir(parents=True, exist_ok=True)
            told = {"seed": self.run.seed, "workers": self.workers, "notes": self.task.notes}
            write_json(self.run.folder / FACTS, {**self.run.facts, **told})
        written = self.run.folder if self.spread.first else None
        with RunLog(written, len(self.history)) as log, ThreadPoolExecutor(1) as reader:
            while len(self.history) < until and not self._has_ended():
                started, epoch = time.monotonic(), len(self.history)
                trained = self._epoch(epoch, log, reader)
                figures = {**trained, **self._validate()}
                self.history.append(figures)
                self._save()
                log.write("epoch", epoch, (epoch + 1) * self.steps, figures, seconds=time.monotonic() - started)
                if self.spread.workers > 1 and self.spread.first:  # no bar comes through from another process
                    said = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
                    tqdm.write(f"epoch {epoch + 1} of {self.run.schedule.epochs}: {said}")
        best = self._best()
        if self._has_ended():
            self.task.module.load_state_dict(_load(self.run.folder / "best.pt", self.run.device))
            self.task.module.eval()
        return Outcome(tuple(self.history), best)

    def restore(self) -> None:
        """Take up the state of the last checkpoint."""
        saved = _load(self.run.folder / "last.pt", self.run.device)
        if saved["digest"] != self.run.digest or saved["seed"] != self.run.seed:
            raise TrainingStopped(
                f"{self.run.folder} holds a run of another recipe (its epochs count too), data set or seed: name "
                "another folder"
            )
        self.task.module.load_state_dict(saved["module"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.scaler.load_state_dict(saved["scaler"])
        if self.average is not None:
            self.average.restore(saved["average"])
        self.history = list(saved["history"])
        drawn = _of_each(saved["rng"])
        self.workers = len(drawn)
        if self.workers != self.spread.workers and not self._has_ended():
            raise TrainingStopped(f"{self.run.folder} holds a run of {self.workers} workers: go on with as many")
        mine = self.spread.rank % self.workers  # one that has ended is taken up by any number
        torch.set_rng_state(drawn[mine])
        if self.run.device.type == "cuda" and saved["gpu_rng"] is not None:
            torch.cuda.set_rng_state(_of_each(saved["gpu_rng"])[mine], self.run.device)

    def _epoch(self, epoch: int, log: RunLog, reader: ThreadPoolExecutor) -> dict[str, float]:
        plan, order = self.run.schedule, self.task.order(epoch, epoch_rng(self.run.seed, epoch))
        parts = batches(order, plan.batch)[: self.steps]
        self.task.set_training()
        sums: dict[str, float] = {}
        parts = [self.spread.share(part) for part in parts]
        waiting, title = reader.submit(self.task.load, parts[0]), f"epoch {epoch + 1} of {plan.epochs}"
        hidden = None if self.spread.first else True
        with tqdm(total=len(parts), desc=title, unit="step", disable=hidden) as progress:
            for step in range(len(parts)):
                batch = waiting.result()
                if step + 1 < len(parts):
                    waiting = reader.submit(self.task.load, parts[step + 1])
                losses = self._step(batch)
                self.task.after_step((epoch * self.steps + step + 1) / (plan.epochs * self.steps))
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + value
                if (step + 1) % LOG_EVERY == 0:
                    log.write("step", epoch, epoch * self.steps + step + 1, losses)
                progress.update()
                progress.set_postfix(loss=f"{losses['loss']:.3f}", refresh=False)
        return {f"train_{name}": value / len(parts) for name, value in sums.items()} | {
            "rate": float(self.optimiser.param_groups[0]["lr"])
        }

    def _step(self, batch: Any) -> dict[str, float]:
        plan, device = self.run.schedule, self.run.device
        with torch.autocast(device.type, self.half) if self.half else nullcontext():
            losses = self.task.losses(batch, device)
        told = self.spread.mean({name: float(value.detach()) for name, value in losses.items()})
        if not math.isfinite(told["loss"]):
            raise TrainingStopped(f"the loss became {told['loss']}: lower the rate, or clip the gradient")
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(losses["loss"]).backward()  # type: ignore[no-untyped-call]
        self.spread.average_gradients(self.task.module)
        if plan.clip:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.task.module.parameters(), plan.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.spread.average_statistics(self.task.module)
        if not isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step()
        if self.average is not None:
            self.average.update()
        return told

    def _validate(self) -> dict[str, float]:
        """Figures as the first worker finds them; the rate may fall by them."""
        figures = self.spread.told(self._judge)
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(figures["loss"])
        return figures

    def _judge(self) -> dict[str, float]:
        """Figures of the averaged weights if there are any; the best ones are kept."""
        module = self.task.module
        raw = {k: v.detach().clone() for k, v in module.state_dict().items()} if self.average else None
        if self.average is not None:
            module.load_state_dict(self.average.state)
        module.eval()
        # what is drawn in validation must not move the generator of the training
        with torch.random.fork_rng(devices=[self.run.device] if self.run.device.type == "cuda" else []):
            torch.manual_seed(self.run.seed)
            with (
                torch.no_grad(),
                torch.autocast(self.run.device.type, self.half) if self.half else nullcontext(),
            ):
                figures = self.task.validate(self.run.device)
        values = [h[self.run.watch] for h in self.history]
        if _best([*values, figures[self.run.watch]], more=self.task.figures[self.run.watch]) == len(values):
            _replace(self.run.folder / "best.pt", {k: v.cpu() for k, v in module.state_dict().items()})
        if raw is not None:
            module.load_state_dict(raw)
        return figures

    def _best(self) -> int:
        return _best([h[self.run.watch] for h in self.history], more=self.task.figures[self.run.watch])

    def _has_ended(self) -> bool:
        """Whether all epochs are done, or the last ones were in vain."""
        plan, done = self.run.schedule, len(self.history)
        return done >= plan.epochs or bool(plan.patience and done and done - 1 - self._best() >= plan.patience)

    def _save(self) -> None:
        on_gpu = self.run.device.type == "cuda"
        rng = self.spread.gathered(torch.get_rng_state())
        gpu_rng = self.spread.gathered(torch.cuda.get_rng_state(self.run.device)) if on_gpu else None
        if not self.spread.first:
            return
        state = {
            "digest": self.run.digest,
            "seed": self.run.seed,
            "module": self.task.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.saved(),
            "history": self.history,
            "rng": rng,
            "gpu_rng": gpu_rng,
        }
        _replace(self.run.folder / "last.pt", state)


def _best(values: list[float], *, more: bool) -> int:
    """The first of the best values; one that is not defined is never better."""
    worst = -math.inf
    keys = [worst if math.isnan(v) else (v if more else -v) for v in values]
    return keys.index(max(keys))


def _optimiser(module: nn.Module, plan: SchedulePart) -> torch.optim.Optimizer:
    """Weights decay; biases and the parameters of normalisations, which have one axis, do not."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if plan.optimiser == "sgd":
        return torch.optim.SGD(groups, plan.rate, momentum=0.9)
    return (torch.optim.AdamW if plan.optimiser == "adamw" else torch.optim.Adam)(groups, plan.rate)


def _scheduler(optimiser: torch.optim.Optimizer, plan: SchedulePart, steps: int) -> Any:
    total, kinds = plan.epochs * steps, torch.optim.lr_scheduler
    if plan.shape == "plateau":
        return kinds.ReduceLROnPlateau(optimiser, factor=0.1, patience=0)
    if plan.shape == "one_cycle":
        total = max(4, total)  # torch divides by nothing where the rise or the fall has but one step
        return kinds.OneCycleLR(optimiser, plan.rate, total_steps=total, pct_start=max(plan.warm_up, 2 / total))
    return kinds.LambdaLR(optimiser, _cosine(total, plan.warm_up) if plan.shape == "cosine" else _constant)


def _constant(step: int) -> float:
    return 1.0


def _cosine(total: int, warm_up: float) -> Callable[[int], float]:
    rising = max(1, round(warm_up * total)) if warm_up else 0

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, total - rising))))

    return factor


def _of_each(states: Tensor) -> list[Tensor]:
    """The states of workers' generators; of views torch 2.13 would read other memory, and crash."""
    return [state.clone() for state in states.cpu().reshape(-1, states.shape[-1])]


def _load(path: Path, device: torch.device) -> Any:
    return torch.load(path, map_location=device, weights_only=True)


def _replace(path: Path, state: Any) -> None:
    """Write whole or not at all."""
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)

"""The same training by several workers of Ray Train, on the GPUs of one machine or of many.

The rule: a worker does what a process that is alone does, ``training.run.train``, on its share of each batch; this
process renders before and judges after, as ever. Wants the package ``ray[train]``.

Without ``RAY_ADDRESS`` in the environment, a Ray of our own runs on this machine while the training does and listens on
loopback alone, for whoever reaches a Ray can run programs on it. (The port where torch's processes find each other is
open on every interface; nothing that is learnt from goes through it.) With it, the cluster there is used, whose
machines see code, data, pictures and the run's folder under the same names as this one. Ray reports its use to nobody.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from training.loop import TrainingStopped, check_shares
from training.recipe import Recipe
from training.run import Places, Trained, follow, make_ready, train
from training.spread import Spread

# Seconds for which workers wait for each other: the first one judges alone, and Ray itself notices one that died.
_PATIENCE = 24 * 3600
_OBJECTS = 128 * 2**20  # bytes for what Ray hands around; of ours that is a function


def check_workers(recipe: Recipe, places: Places, workers: int) -> None:
    """Refuse, before anything is read, what several workers could not follow.

    Raises
    ------
    TrainingStopped
    """
    if not all(importlib.util.find_spec(name) for name in ("ray", "pyarrow")):  # the latter comes with ray[train]
        raise TrainingStopped("the package ray[train] is not installed: install it, or leave out --ray-workers")
    check_shares(recipe.schedule.batch, workers)
    if recipe.teachers.count:
        raise TrainingStopped("[teachers] are trained by one process: leave out --ray-workers")
    if places.pictures is None:
        raise TrainingStopped("several workers share rendered pictures: name a folder for them with --pictures")


def train_spread(
    recipe: Recipe,
    places: Places,
    workers: int,
    *,
    seed: int = 7,
    resume: bool = False,
    device: str = "cpu",
    threads: int = 1,
) -> Trained:
    """Follow a recipe with several workers; otherwise as ``training.run.train``.

    Parameters
    ----------
    device
        ``cuda`` gives each worker a GPU.
    threads
        For rendering, and of all workers together on a CPU.

    Raises
    ------
    DataMissing, RecipeInvalid, TrainingStopped
    """
    check_workers(recipe, places, workers)
    # a worker starts in a folder of its own
    places = Places(**{name: path and path.absolute() for name, path in vars(places).items()})
    ready = make_ready(recipe, places, seed=seed, device=device, threads=threads)  # renders what is not rendered yet
    each = max(1, threads // workers)

    def work(spread: Spread) -> None:
        torch.set_num_threads(each)
        where = str(spread.device)
        train(recipe, places, seed=seed, resume=resume, device=where, threads=each, spread=spread)

    run_workers(work, workers, gpu=device == "cuda", folder=places.out / "ray")
    # the run is there: its best weights are loaded, and its folder says how it was made
    return follow(ready, resume=True)


def run_workers(work: Callable[[Spread], None], workers: int, *, gpu: bool, folder: Path) -> None:
    """Call a function in so many processes that talk to each other by NCCL (`gpu`) or gloo.

    Parameters
    ----------
    folder
        For Ray's own notes, which are removed.

    Raises
    ------
    TrainingStopped
        When `work` does, a process fails, or there are too few GPUs or cores.
    """
    with _ray(workers, gpu=gpu):
        from ray.train import RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer, get_device

        def one() -> str | None:
            try:
                work(Spread.joined(get_device()))
            except TrainingStopped as error:
                return str(error)  # all stop for the same reason
            return None

        trainer = TorchTrainer(
            one,
            torch_config=TorchConfig(timeout_s=_PATIENCE),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
            run_config=RunConfig(name="workers", storage_path=str(folder)),
        )
        interrupt = signal.getsignal(signal.SIGINT)
        try:
            told = trainer.fit().return_value
        except TrainingFailedError as error:
            last = str(error).strip().splitlines()[-1]
            raise TrainingStopped(f"a worker failed: {last}") from error
        except SystemExit as stopped:  # so Ray leaves after Ctrl-C, when it has stopped the workers
            raise KeyboardInterrupt from stopped
        finally:
            signal.signal(signal.SIGINT, interrupt)  # Ray would keep it
            shutil.rmtree(folder, ignore_errors=True)
    if told is not None:
        raise TrainingStopped(told)


@contextmanager
def _ray(workers: int, *, gpu: bool) -> Iterator[None]:
    """Ray, connected: to the cluster of ``RAY_ADDRESS``, or one that lives as long as the context."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # as Ray calls it: off means loopback, on any system
    import ray

    # workers import what this process can import
    found = {"PYTHONPATH": os.pathsep.join(str(Path(path).absolute()) for path in sys.path)}
    quiet = ray.LoggingConfig(log_level="ERROR")  # what a worker prints comes through all the same
    if address is None:
        cores = max(workers, os.cpu_count() or 1)
        ray.init(
            "local", num_cpus=cores, include_dashboard=False, object_store_memory=_OBJECTS, logging_config=quiet,
            runtime_env={"env_vars": {**found, "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}},
        )  # fmt: skip
    else:
        ray.init(address, logging_config=quiet, runtime_env={"env_vars": found})
    try:
        kind = "GPU" if gpu else "CPU"
        there = int(ray.cluster_resources().get(kind, 0))
        if there < workers:  # Ray would wait for more
            raise TrainingStopped(f"{workers} workers want a {kind} each, and Ray has {there}")
        yield
    finally:
        ray.shutdown()

"""Studies that ask a network at the same time: gathered only from what waits, and answered as one by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from models import batching
from models.batching import Gathering, size_worth_it
from models.bundle import load_bundle
from models.findings import Precision
from models.forward import FloatArray, Runner, torch_forward
from models.probe import probe
from models.runtime import Engine, Running, Runtime, engine_of, forwards_of, groups_of, shared
from orthanc_plugin.settings import REPOSITORY

Answer = dict[str, FloatArray]
made = batching._Asked


class Slow:
    """A network that is busy for as long as a test wants it to be, and notes what it is asked at once."""

    def __init__(self, broken: Callable[[list[int]], bool] = lambda _: False) -> None:
        self.batches: list[list[int]] = []
        self.busy, self.go_on, self._broken = threading.Event(), threading.Event(), broken

    def __call__(self, pictures: FloatArray) -> list[Answer]:
        numbers = [int(picture[0, 0, 0]) for picture in pictures]
        self.batches.append(numbers)
        self.busy.set()
        assert self.go_on.wait(10)
        if self._broken(numbers):
            raise RuntimeError(f"no memory for {numbers}")
        return [{"logits": np.float32([number])} for number in numbers]

    def runner(self) -> Runner:
        return Runner(lambda picture: self(picture)[0], Precision.FLOAT32, self)


def picture(number: int) -> FloatArray:
    return np.full((1, 1, 2, 2), number, np.float32)


def ask_while_busy(network: Slow, gathering: Gathering, numbers: Sequence[int]) -> list[Future[Answer]]:
    """Ask about 0, which keeps the network busy, then about `numbers`, one after the other; then let it go on."""
    pool = ThreadPoolExecutor(1 + len(numbers))
    futures = [pool.submit(gathering, picture(0))]
    assert network.busy.wait(10)
    for waiting, number in enumerate(numbers, start=1):
        futures.append(pool.submit(gathering, picture(number)))
        while len(gathering._waiting) < waiting:
            time.sleep(0.001)
    network.go_on.set()
    pool.shutdown(wait=True)
    return futures


def test_what_waits_while_the_network_is_busy_is_asked_at_once_and_each_gets_its_own_answer() -> None:
    network = Slow()
    futures = ask_while_busy(network, Gathering(network.runner(), 8), [5, 3, 9])
    assert network.batches == [[0], [5, 3, 9]]
    assert [float(future.result()["logits"][0]) for future in futures] == [0, 5, 3, 9]


def test_no_batch_is_larger_than_allowed_and_the_order_is_kept() -> None:
    network = Slow()
    futures = ask_while_busy(network, Gathering(network.runner(), 2), [1, 2, 3, 4, 5])
    assert network.batches == [[0], [1, 2], [3, 4], [5]]
    assert [float(future.result()["logits"][0]) for future in futures] == [0, 1, 2, 3, 4, 5]


class Interrupted(threading.Event):
    """Interrupts who waits for it: at once, or when it is their turn."""

    at_once = True

    def wait(self, timeout: float | None = None) -> bool:
        if not self.at_once:
            super().wait(timeout)
        raise KeyboardInterrupt


@pytest.mark.parametrize("at_once", [True, False], ids=["while waiting", "when it is their turn"])
def test_who_is_interrupted_keeps_nobody_waiting(at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Slow()
    gathering = Gathering(network.runner(), 1)
    monkeypatch.setattr(Interrupted, "at_once", at_once)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(gathering, picture(0))
        assert network.busy.wait(10)
        with monkeypatch.context() as patched:
            patched.setattr(batching, "_Asked", lambda asked: made(asked, turn=Interrupted()))
            gone = pool.submit(gathering, picture(1))
            while not (gone.done() or gathering._waiting):
                time.sleep(0.001)
        last = pool.submit(gathering, picture(2))
        network.go_on.set()
        assert [float(each.result(10)["logits"][0]) for each in (first, last)] == [0, 2]
        with pytest.raises(KeyboardInterrupt):
            gone.result(10)
        assert float(pool.submit(gathering, picture(3)).result(10)["logits"][0]) == 3


@pytest.mark.parametrize("several", [True, False], ids=["batches of one", "a network that takes one at a time"])
def test_one_by_one_nobody_asks_at_the_same_time(several: bool) -> None:
    network = Slow()
    run = network.runner()
    gathering = Gathering(run, 1) if several else Gathering(Runner(run.ask, run.precision), 8)
    futures = ask_while_busy(network, gathering, [1, 2, 3])
    assert network.batches == [[0], [1], [2], [3]]
    assert [float(future.result()["logits"][0]) for future in futures] == [0, 1, 2, 3]


def test_an_error_reaches_all_of_its_batch_and_nobody_else() -> None:
    network = Slow(broken=lambda numbers: 2 in numbers)
    futures = ask_while_busy(network, Gathering(network.runner(), 3), [1, 2, 3, 4])
    assert network.batches == [[0], [1, 2, 3], [4]]
    for future in futures[1:4]:
        with pytest.raises(RuntimeError, match=r"no memory for \[1, 2, 3\]"):
            future.result()
    assert [float(futures[place].result()["logits"][0]) for place in (0, 4)] == [0, 4]


def test_it_answers_after_an_error() -> None:
    network = Slow(broken=lambda numbers: numbers == [1])
    network.go_on.set()
    gathering = Gathering(network.runner(), 4)
    with pytest.raises(RuntimeError):
        gathering(picture(1))
    assert gathering(picture(2))["logits"] == [2]


def test_a_lone_study_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_by: list[int] = []

    def ask(asked: FloatArray) -> Answer:
        asked_by.append(threading.get_ident())
        return {"logits": asked[0, 0, 0]}

    def wait(event: threading.Event, timeout: float | None = None) -> bool:
        assert event.is_set(), "it would wait"
        return True

    gathering = Gathering(Runner(ask, Precision.FLOAT32), 8)
    monkeypatch.setattr(threading.Event, "wait", wait)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it would wait"))
    for number in range(3):
        assert gathering(picture(number))["logits"].tolist() == [number, number]
    assert asked_by == [threading.get_ident()] * 3, "whoever comes alone asks by itself"


def test_many_threads_get_their_own_answers() -> None:
    network = Slow()
    network.go_on.set()
    gathering = Gathering(network.runner(), 4)
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda number: float(gathering(picture(number))["logits"][0]), range(400)))
    assert said == list(range(400))
    assert sum(map(len, network.batches)) == 400
    assert max(map(len, network.batches)) <= 4


@pytest.mark.parametrize("name", ["lung_fields", "chest_findings"])
def test_a_batch_says_what_its_pictures_say_alone(name: str) -> None:
    bundle = load_bundle(REPOSITORY / "models" / name)
    assert bundle.network is not None
    run, first = torch_forward(bundle.network), probe(bundle)
    pictures = [np.roll(first, 7 * turn, axis=3) for turn in range(3)]
    assert run.ask_many is not None
    together = run.ask_many(np.concatenate(pictures))
    for asked, answer in zip(pictures, together, strict=True):
        alone = run(asked)
        assert alone.keys() == answer.keys()
        for key, values in alone.items():
            np.testing.assert_allclose(answer[key], values, atol=2e-3)


@pytest.mark.parametrize(
    ("seconds", "size"),
    [
        ({1: 1.0, 2: 2.1, 4: 4.5}, 1),  # a processor
        ({1: 1.0, 2: 1.1, 4: 1.3, 8: 2.0}, 8),  # a GPU
        ({1: 1.0, 2: 1.0, 4: 1.0, 8: 2.0}, 4),  # one that is full
        ({1: 1.0, 2: 1.96, 4: 3.9}, 1),  # hardly worth it
        ({1: 1.0}, 1),
    ],
)
def test_a_batch_is_as_large_as_is_worth_it(seconds: dict[int, float], size: int) -> None:
    assert size_worth_it(seconds) == size


def test_on_a_processor_studies_share_a_network_one_by_one(tmp_path: Path) -> None:
    bundle = load_bundle(REPOSITORY / "models" / "lung_fields")
    (alone,) = forwards_of([bundle], Running(Runtime.OPENVINO, 1, tmp_path))
    (together,) = forwards_of([bundle], Running(Runtime.OPENVINO, 1, tmp_path, studies=3))
    pictures = [np.roll(probe(bundle), 5 * turn, axis=2) for turn in range(6)]
    expected = [alone(asked) for asked in pictures]
    with ThreadPoolExecutor(3) as pool:
        said = list(pool.map(together, pictures))
    for mine, theirs in zip(said, expected, strict=True):
        np.testing.assert_array_equal(mine["logits"], theirs["logits"])


def test_networks_that_begin_alike_answer_each_thread_about_its_own_picture(tmp_path: Path) -> None:
    bundles = [load_bundle(REPOSITORY / "models" / name) for name in ("chest_findings", "lung_opacity")]
    assert groups_of(bundles) == [[0, 1]]
    first, second = forwards_of(bundles, Running(Runtime.OPENVINO, 1, tmp_path, studies=2))
    pictures = [np.roll(probe(bundles[0]), 9 * turn, axis=3) for turn in range(4)]
    expected = [(first(asked)["logits"], second(asked)["logits"]) for asked in pictures]

    def ask(number: int) -> bool:
        asked = pictures[number % 4]
        said = first(asked)["logits"], second(asked)["logits"]
        return all(np.array_equal(a, b) for a, b in zip(said, expected[number % 4], strict=True))

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(ask, range(12)))


def test_on_a_gpu_the_size_of_a_batch_is_measured() -> None:
    bundle = load_bundle(REPOSITORY / "models" / "lung_fields")
    sizes: list[int] = []

    def answers(pictures: FloatArray) -> list[Answer]:
        sizes.append(len(pictures))
        time.sleep(0.002)  # however many there are, as on a GPU with room
        return [{"logits": each} for each in pictures]

    engine = Engine(("a",), Runtime.CUDA, Runner(lambda asked: answers(asked)[0], Precision.BFLOAT16, answers))
    gathering = shared(engine, probe(bundle), 4).run.ask
    assert isinstance(gathering, Gathering)
    assert set(sizes) == {1, 2, 4}, "no more at once than there are studies"
    assert gathering._most == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_answers_in_batches_as_alone(tmp_path: Path) -> None:
    bundle = load_bundle(REPOSITORY / "models" / "chest_findings")
    run = engine_of([bundle], Running(Runtime.CUDA, 1, tmp_path)).run
    assert run.ask_many is not None
    pictures = [np.roll(probe(bundle), 7 * turn, axis=3) for turn in range(8)]
    for asked, answer in zip(pictures, run.ask_many(np.concatenate(pictures)), strict=True):
        np.testing.assert_allclose(answer["logits"], run(asked)["logits"], atol=0.25)

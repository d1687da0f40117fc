"""The worker's side of the process that speaks with Ray: what is asked, and what the end of it costs. Without Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from line_driver import COMMAND
from test_reading_process import gone, task, wanted

from orthanc_plugin.ledger.flagging import Flag
from orthanc_plugin.ledger.tasks import Failure, Outcome
from orthanc_plugin.working import ray_link
from orthanc_plugin.working.condition import Condition
from orthanc_plugin.working.demand import Limits
from orthanc_plugin.working.ray_link import AWAY, RayLink
from orthanc_plugin.working.reader import Abandoned


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAULTS", str(tmp_path))
    return tmp_path


class Linked:
    """A link, what it was told, and what the process heard."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.losses, self.waiting = folder, 0, 0
        self.condition = Condition(lambda: None)
        self.link = RayLink(Limits(1, 4, 1), self.condition, lambda most: min(self.waiting, most), self.lose, COMMAND)
        self.seats = self.link.seats()

    def lose(self) -> None:
        self.losses += 1

    def heard(self) -> list[dict[str, Any]]:
        file = self.folder / "heard"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def started(self) -> list[int]:
        file = self.folder / "started"
        return [int(line) for line in file.read_text().split()] if file.exists() else []


@pytest.fixture
def linked(folder: Path) -> Iterator[Linked]:
    made = Linked(folder)
    made.link.start()
    yield made
    made.link.stop()


def wait(question: Callable[[], Any], seconds: float = 10.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := question():
            return answer
        time.sleep(0.02)
    raise AssertionError("it never came")


def test_a_seat_is_open_while_there_is_a_place_for_it(linked: Linked) -> None:
    readers = [seat.open(b"", wanted) for seat in linked.seats[:2]]
    assert not any(reader.is_released() for reader in readers)
    assert readers[0].versions == {"lungs": "1.0"}
    began = time.monotonic()
    with pytest.raises(Abandoned):
        linked.seats[2].open(b"", lambda: time.monotonic() > began + 0.5)


def test_a_study_is_flagged_and_answered(linked: Linked) -> None:
    told: list[Flag] = []
    answer = linked.seats[0].open(b"", wanted).read(task("ok"), 5.0, wanted, told.append)
    assert isinstance(answer, Outcome)
    assert told == [Flag("critical", 0, "why")]
    (asked,) = [message for message in linked.heard() if "task" in message]
    assert (asked["key"], asked["task"]["fence"]) == ("ok/7", 7)


def test_what_was_not_read_is_given_back(linked: Linked) -> None:
    with pytest.raises(Abandoned):
        linked.seats[0].open(b"", wanted).read(task("back"), 5.0, wanted)


def test_what_is_no_answer_costs_an_attempt_and_its_actor(linked: Linked) -> None:
    answer = linked.seats[0].open(b"", wanted).read(task("garbage"), 5.0, wanted)
    assert isinstance(answer, Failure)
    assert answer.reason == "reader_died"
    wait(lambda: {"stop": "garbage/7"} in linked.heard())


def test_a_study_that_takes_too_long_ends_its_actor(linked: Linked) -> None:
    answer = linked.seats[0].open(b"", wanted).read(task("never"), 0.5, wanted)
    assert answer == Failure("time_limit", "the study took longer than 0.5 s")
    wait(lambda: {"stop": "never/7"} in linked.heard())


def test_a_claim_that_was_lost_ends_no_actor(linked: Linked) -> None:
    began = time.monotonic()
    with pytest.raises(Abandoned):
        linked.seats[0].open(b"", wanted).read(task("never"), 5.0, lambda: time.monotonic() > began + 0.3)
    assert not [message for message in linked.heard() if "stop" in message]


def test_a_process_that_dies_costs_no_study_an_attempt_and_is_started_again(linked: Linked) -> None:
    readers = [seat.open(b"", wanted) for seat in linked.seats[:2]]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(readers[0].read, task("never"), 20.0, wanted)
        wait(lambda: [message for message in linked.heard() if "task" in message])
        with pytest.raises(Abandoned):
            readers[1].read(task("die"), 20.0, wanted)
        with pytest.raises(Abandoned):
            waiting.result(5)
    assert readers[0].is_released()
    assert linked.condition.told()[2] == AWAY
    assert isinstance(linked.seats[0].open(b"", wanted).read(task("ok"), 5.0, wanted), Outcome)
    assert linked.condition.told()[2] == ""
    assert (linked.losses, len(linked.started())) == (1, 2)
    with pytest.raises(Abandoned):
        readers[0].read(task("ok"), 5.0, wanted)


def test_a_process_that_says_nothing_is_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_link, "_SILENT_SECONDS", 0.3)
    monkeypatch.setattr(ray_link, "_JOIN_SECONDS", 0.5)
    (folder / "silent").touch()
    linked = Linked(folder)
    linked.link.start()
    try:
        (first,) = wait(linked.started)
        assert gone(first, 10)
        assert linked.condition.told()[2] == AWAY
        (folder / "silent").unlink()
        assert not linked.seats[0].open(b"", wanted).is_released()
        assert linked.losses == 0, "it was never there"
    finally:
        linked.link.stop()


def test_a_cluster_that_stays_away_is_tried_again_after_pauses_that_grow(folder: Path) -> None:
    (folder / "away").touch()
    linked, began = Linked(folder), time.monotonic()
    linked.link.start()
    try:
        wait(lambda: len(linked.started()) == 3)
        assert time.monotonic() - began > 0.8 + 1.6, "a second, then two, give or take a fifth"
        assert linked.condition.told()[2] == AWAY
    finally:
        linked.link.stop()


def test_more_actors_are_wanted_as_studies_wait(linked: Linked) -> None:
    linked.seats[0].open(b"", wanted)
    wait(lambda: {"wanted": 1} in linked.heard())
    linked.waiting = 100
    wait(lambda: {"wanted": 4} in linked.heard())


def test_other_models_are_waited_for_and_what_is_said_of_those_before_is_passed_over(linked: Linked) -> None:
    assert linked.seats[0].open(b"first", wanted).versions == {"lungs": "1.0"}
    assert linked.seats[0].open(b"second", wanted).versions == {"lungs": "2.0"}
    assert linked.seats[1].open(b"second", wanted).versions == {"lungs": "2.0"}
    assert [message for message in linked.heard() if "renew" in message] == [{"renew": 1}]


def test_the_process_ends_with_the_worker(linked: Linked) -> None:
    linked.seats[0].open(b"", wanted)
    pid = linked.link.pid
    assert Path(f"/proc/{pid}").exists()
    linked.link.stop()
    assert gone(pid, 5)

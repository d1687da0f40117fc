"""The way of a stored image into the ledger, while the ledger is there and while it is not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orthanc_plugin.hosting.arrivals import Arrivals
from orthanc_plugin.ledger.database import Ledger, LedgerUnavailable, open_ledger
from orthanc_plugin.ledger.ownership import LedgerOfAnotherArchive, load_archive_id
from orthanc_plugin.ledger.pages import page
from orthanc_plugin.ledger.tasks import Arrival


def wait(question: Any) -> None:
    deadline = time.monotonic() + 15
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


def waiting(ledger: Ledger) -> list[str]:
    with ledger.read() as db:
        return sorted(row["study_instance_uid"] for row in page(db, now=0.0).rows if row["status"] == "queued")


def test_an_arrival_is_in_the_ledger_when_the_image_is_acknowledged(ledger: Ledger, tmp_path: Path) -> None:
    woken: list[bool] = []
    arrivals = Arrivals(ledger, tmp_path / "archive-id", lambda: woken.append(True))
    arrivals.start()
    arrivals.record(Arrival("1.2.3", patient_name="Doe^Jane"))
    assert (waiting(ledger), woken, arrivals.error) == (["1.2.3"], [True], None)
    arrivals.stop()


def test_a_ledger_that_is_away_costs_no_arrival_and_no_time(ledger: Ledger, tmp_path: Path) -> None:
    assert ledger.path is not None
    ledger.path.mkdir()
    arrivals = Arrivals(ledger, tmp_path / "archive-id", lambda: None)
    arrivals.start()
    began = time.monotonic()
    for n in range(50):
        arrivals.record(Arrival(f"1.2.{n % 10}"))
    assert time.monotonic() - began < 1
    assert arrivals.waiting == 10
    assert isinstance(arrivals.error, LedgerUnavailable)
    ledger.path.rmdir()
    wait(lambda: arrivals.waiting == 0)
    assert arrivals.error is None
    assert waiting(ledger) == [f"1.2.{n}" for n in range(10)]
    arrivals.stop()


def test_what_is_remembered_is_written_when_the_node_stops(ledger: Ledger, tmp_path: Path) -> None:
    assert ledger.path is not None
    ledger.path.mkdir()
    arrivals = Arrivals(ledger, tmp_path / "archive-id", lambda: None)
    arrivals.start()
    arrivals.record(Arrival("1.2.3"))
    ledger.path.rmdir()
    arrivals.stop()
    assert waiting(ledger) == ["1.2.3"]


def test_a_ledger_that_is_lost_while_the_node_runs_is_made_again(ledger: Ledger, tmp_path: Path) -> None:
    arrivals = Arrivals(ledger, tmp_path / "archive-id", lambda: None)
    arrivals.start()
    for file in tmp_path.glob("ledger.sqlite*"):
        file.unlink()
    arrivals.record(Arrival("1.2.3"))
    wait(lambda: arrivals.error is None)
    assert waiting(ledger) == ["1.2.3"]
    arrivals.stop()


def test_a_header_that_no_database_takes_does_not_cost_the_study(ledger: Ledger, tmp_path: Path) -> None:
    arrivals = Arrivals(ledger, tmp_path / "archive-id", lambda: None)
    arrivals.start()
    arrivals.record(Arrival("1.2.3", patient_name="half \ud800 a letter", patient_id="nul \0"))
    arrivals.record(Arrival("1.2.4"))
    assert (waiting(ledger), arrivals.error) == (["1.2.3", "1.2.4"], None)
    arrivals.stop()


def test_two_archives_on_one_ledger_are_told_apart_and_mended_by_hand(ledger: Ledger, tmp_path: Path) -> None:
    first = Arrivals(ledger, tmp_path / "first" / "archive-id", lambda: None)
    second = Arrivals(ledger, tmp_path / "second" / "archive-id", lambda: None)
    first.start()
    first.record(Arrival("1.2.3"))
    second.start()
    second.record(Arrival("1.2.4"))
    assert isinstance(second.error, LedgerOfAnotherArchive)
    name = load_archive_id(tmp_path / "first" / "archive-id")
    assert name in str(second.error)
    assert (waiting(ledger), second.waiting, first.error) == (["1.2.3"], 1, None)
    (tmp_path / "second" / "archive-id").write_text(name)
    wait(lambda: second.error is None and second.waiting == 0)
    assert waiting(ledger) == ["1.2.3", "1.2.4"]
    first.stop()
    second.stop()


def test_the_name_of_an_archive_is_made_once(tmp_path: Path) -> None:
    first = load_archive_id(tmp_path / "a" / "archive-id")
    assert first == load_archive_id(tmp_path / "a" / "archive-id")
    assert first != load_archive_id(tmp_path / "b" / "archive-id")
    assert len(first) == 32
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["archive-id"]

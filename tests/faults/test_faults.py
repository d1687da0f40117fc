"""Whatever dies, each acknowledged study has one current result or one visible, coded reason: short runs, seeded."""

from __future__ import annotations

import os
import signal
import time

import pytest

from orthanc_plugin.commands import node
from orthanc_plugin.failpoints import POINTS
from tests.faults.broken_node import BrokenNode, broken_node
from tests.faults.counting import Fate
from tests.faults.run import Plan, Run, run
from tests.faults.score import Score
from tests.postgres_server import binaries

pytestmark = pytest.mark.node

_SECONDS = 90.0  # in which one place is met; most of it is starting what died before
# Lives of Orthanc, each with the places at which something dies for certain. A worker fails a study when the reading
# process died of it; it gives one back (`released`) at an orderly end only.
_LIVES = (
    ("instance_stored",), ("enqueued",), ("claimed",), ("task_sent",), ("fetched", "failing"), ("read",),
    ("segmentation_stored",), ("report_stored",), ("text_stored",), ("outcome_sent", "answered"),
    ("outcome_received",), ("answering",), ("released",),
)  # fmt: skip


def promise_is_kept(score: Score) -> None:
    assert not score.broken(), score.to_json()
    assert score.never_acknowledged == 0
    assert score.count(Fate.ANSWERED) > 0
    assert score.count(Fate.QUARANTINED) == 0, "after a replay nothing stands in the way of an answer"


def end_while_a_study_is_read(broken: BrokenNode, one: Run) -> None:
    for pid in broken.pids()["reader"]:
        os.kill(pid, signal.SIGSTOP)  # its study takes longer than the worker waits
    one.go_on(broken.settings.lease_seconds + 2)
    assert one.has_work_in_hand()
    node.stop(broken.settings)


@pytest.mark.timeout(240)
def test_a_short_run_on_sqlite_loses_nothing_and_doubles_nothing() -> None:
    score = run(Plan(kills=6, seed=1, disk_mb=400, calm=0.5))
    assert score.all_kills >= 6
    promise_is_kept(score)


@pytest.mark.timeout(240)
@pytest.mark.skipif(binaries() is None, reason="no PostgreSQL server is installed")
def test_a_short_run_on_postgresql_loses_nothing_and_doubles_nothing() -> None:
    score = run(Plan(kills=6, seed=2, ledger="postgresql", calm=0.5))
    assert score.all_kills >= 6
    promise_is_kept(score)


@pytest.mark.timeout(600)
def test_dying_at_every_named_place_loses_nothing_and_doubles_nothing() -> None:
    places: tuple[str, ...] = ()
    with broken_node() as broken:
        one = Run(
            Plan(kills=0, seed=3), broken, lambda _score: None, lambda: ",".join(f"{place}:1" for place in places)
        )
        one.begin()
        for places in _LIVES:
            one.kill_orthanc()
            end = time.monotonic() + _SECONDS
            while any(one.score.failpoints[place] == 0 for place in places):
                assert time.monotonic() < end, f"{places}: {dict(one.score.failpoints)}; {broken.last_words()}"
                one.go_on(0.2)
                if "released" in places and broken.is_ready():
                    end_while_a_study_is_read(broken, one)
        one.settle_and_count()
    assert set(one.score.failpoints) == set(POINTS)
    promise_is_kept(one.score)

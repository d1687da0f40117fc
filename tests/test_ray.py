"""Actors on a real Ray cluster of several nodes: whatever dies there, each study ends in one state, read once.

The ledger is a real one; only the actor is `faulty_actor`, which fails as a study's name says.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from faulty_actor import COMMAND
from faulty_reader import SECRET
from ray_cluster import RayCluster, needs_ray, ray_cluster
from running_node import free_port
from test_reading_process import gone
from test_worker import Site, attempts

from orthanc_plugin.commands.checks.check import State
from orthanc_plugin.commands.checks.cluster import check_cluster
from orthanc_plugin.ledger.counters import counted
from orthanc_plugin.settings import load_settings
from orthanc_plugin.working import ray_link
from orthanc_plugin.working.worker import Worker

pytestmark = needs_ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as running:
        yield running


class RaySite(Site):
    """A site whose settings a process of a worker finds as well; the folder of faults is its home."""

    def __init__(self, home: Path, address: str, environment: pytest.MonkeyPatch, **settings: Any) -> None:
        home.mkdir()
        given = {"executor": "ray", "ray_address": address, "ray_actors_most": 2, "lease_seconds": 3.0, **settings}
        given = {"study_seconds": 20.0, "attempts": 3, "memory_mb": 4096, **given}
        (home / "hilum.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in given.items()))
        environment.setenv("HILUM_HOME", str(home))
        environment.delenv("HILUM_VIEWER", raising=False)
        super().__init__(home, **given)
        assert load_settings() == self.settings

    @contextmanager
    def at_work(self) -> Iterator[Worker]:
        running = Worker(self.settings, "here", COMMAND)
        running.start()
        try:
            yield running
        finally:
            running.stop()

    def begun(self) -> list[int]:
        """The actors that were begun."""
        file = self.settings.home / "begun"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def pid_of(self, study: str) -> int:
        """The actor that was given a study last."""
        home = self.settings.home
        return int(self.wait(lambda: (home / "attempts").exists() and attempts(home, study))[-1])

    def problem(self) -> str:
        return str(self.worker().get("problem", ""))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def site(home: Path, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> RaySite:
    return RaySite(home, cluster.address, monkeypatch)


def test_actors_read_come_as_studies_queue_and_never_more_than_allowed(site: RaySite) -> None:
    site.send("flagged.1")
    with site.at_work():
        row = site.wait_for("flagged.1")
        assert (row["status"], row["message"], row["failures"]) == ("done", "nothing found", 0)
        assert site.wait(lambda: (w := site.worker()).get("state") == "ready" and w)["models"] == '{"lungs": "1.0"}'
        assert len(site.begun()) == 1, "one is always there, and one was enough"
        studies = [f"slow.0.{place}" for place in range(70, 84)]
        site.send(*studies)
        for study in studies:
            assert site.wait_for(study, seconds=40)["status"] == "done"
        assert len(site.begun()) == 2, "more came as studies queued, but not more than ray_actors_most"
        assert {site.pid_of(study) for study in studies} == set(site.begun()), "both nodes were used"
        assert len({Path(f"/proc/{pid}/stat").read_text().split()[3] for pid in site.begun()}) == 2
        pids = site.begun()
    assert all(gone(pid, 10) for pid in pids), "they end with the worker"


def test_a_study_that_kills_its_actor_costs_an_attempt_each_time_and_the_others_are_read(site: RaySite) -> None:
    site.send("crash", "ok.1", "defect")
    with site.at_work():
        row = site.wait_for("crash", seconds=40)
        assert (row["status"], row["reason"], row["attempts"]) == ("quarantined", "reader_died", 3)
        assert site.wait_for("ok.1")["status"] == "done"
        row = site.wait_for("defect")
        assert (row["status"], row["reason"]) == ("quarantined", "internal_error")
        assert SECRET not in str(row)


def test_a_study_that_takes_too_long_costs_those_beside_it_nothing(
    home: Path, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = RaySite(home, cluster.address, monkeypatch, ray_studies=2, ray_actors_most=1, study_seconds=10.0, attempts=1)
    site.send("slow.0.1")
    with site.at_work():
        site.wait_for("slow.0.1")
        site.send("slow.600")
        site.pid_of("slow.600")
        time.sleep(6.0)
        site.send("slow.5.1")
        row = site.wait_for("slow.600", seconds=40)
        assert (row["status"], row["reason"]) == ("quarantined", "time_limit")
        row = site.wait_for("slow.5.1", seconds=40)
        assert len(attempts(home, "slow.5.1")) == 2
        assert (row["status"], row["failures"], row["attempts"]) == ("done", 0, 0)
        assert len(site.begun()) == 2


def test_an_actor_that_takes_too_much_memory_is_ended_and_says_so(
    home: Path, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = RaySite(home, cluster.address, monkeypatch, attempts=1, memory_mb=512)
    site.send("hog")
    with site.at_work():
        row = site.wait_for("hog", seconds=40)
    assert (row["status"], row["reason"]) == ("quarantined", "out_of_memory")


def test_models_that_cannot_be_loaded_are_named_and_tried_again(site: RaySite, home: Path) -> None:
    (home / "broken").touch()
    site.send("ok.1")
    with site.at_work():
        site.wait(lambda: site.problem() == "models_unusable")
        (home / "broken").unlink()
        assert site.wait_for("ok.1")["status"] == "done"
        site.wait(lambda: site.problem() == "")


def test_other_models_are_read_with_by_another_actor(site: RaySite, home: Path) -> None:
    site.send("ok.1")
    with site.at_work():
        site.wait_for("ok.1")
        first = site.pid_of("ok.1")
        site.settings.own_models.mkdir()
        site.settings.active_models.write_text("{}")
        time.sleep(1)  # a reader looks for it when it looks for work
        site.send("ok.2")
        assert site.wait_for("ok.2")["status"] == "done"
        assert site.pid_of("ok.2") != first
        assert gone(first, 10)


def test_a_process_that_hangs_is_ended_and_its_studies_are_read_without_a_failed_attempt(
    site: RaySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_link, "_SILENT_SECONDS", 2.0)
    site.send("slow.3")
    with site.at_work() as worker:
        site.pid_of("slow.3")
        assert worker._link is not None
        first = worker._link.pid
        os.kill(first, signal.SIGSTOP)
        row = site.wait_for("slow.3", seconds=40)
        assert (row["status"], row["failures"], row["attempts"], row["abandoned"]) == ("done", 0, 0, 0)
        assert worker._link.pid != first


def test_without_a_cluster_the_worker_says_so_and_leaves_the_studies_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = RaySite(home, f"127.0.0.1:{free_port()}", monkeypatch)
    site.send("ok.1")
    with site.at_work():
        site.wait(lambda: site.problem() == "ray_unavailable", 30)
        row = site.row("ok.1")
        assert (row["status"], row["failures"]) == ("queued", 0)
    packages, answer = check_cluster(site.settings)
    assert (packages.state, answer.state) == (State.WELL, State.WRONG)
    assert "does not answer" in answer.text


def test_a_node_that_dies_in_the_middle_of_a_study_costs_an_attempt_and_the_study_is_read_elsewhere(
    site: RaySite, cluster: RayCluster
) -> None:
    site.send("slow.4", "slow.3.9")
    with site.at_work():
        victim = site.pid_of("slow.4")
        site.pid_of("slow.3.9")
        cluster.kill_node_of(victim)
        site.wait(lambda: site.row("slow.4")["failures"] == 1, 30)
        assert (site.row("slow.4")["reason"], site.row("slow.4")["attempts"]) == ("reader_died", 1)
        row = site.wait_for("slow.4", seconds=40)
        assert row["status"] == "done"
        assert site.pid_of("slow.4") != victim
        other = site.wait_for("slow.3.9")
        assert (other["status"], other["failures"]) == ("done", 0)
        assert len(attempts(site.settings.home, "slow.3.9")) == 1
    cluster.add_node()


def test_a_head_that_is_killed_loses_nothing_and_reading_goes_on_when_it_is_back(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ray_cluster(nodes=1) as running:
        site = RaySite(home, running.address, monkeypatch, ray_actors_most=1)
        studies = ["slow.6", *(f"ok.{place}" for place in range(5))]
        site.send(*studies)
        with site.at_work():
            site.pid_of("slow.6")
            running.kill_head()
            site.wait(lambda: site.problem() == "ray_unavailable", 40)
            left = [site.row(study)["status"] for study in studies]
            assert set(left) <= {"queued", "done"}
            assert "queued" in left
            running.stop()
            running.start(1)
            for study in studies:
                row = site.wait_for(study, seconds=60)
                assert (row["status"], row["attempts"], row["abandoned"]) == ("done", 0, 0)
            site.wait(lambda: site.problem() == "")
            with site.ledger.read() as db:
                assert [count.number for count in counted(db) if count.name == "cluster_lost"] == [1]

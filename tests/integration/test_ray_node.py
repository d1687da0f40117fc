"""A real node whose studies are read by actors with the real models, on a real Ray cluster of two nodes."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from postgres_server import PostgresServer
from ray_cluster import RayCluster, needs_ray, parent, ray_cluster
from running_node import Node, start_node

from models.phantom import chest
from orthanc_plugin import cli
from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.checks.cluster import check_cluster
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.credentials import load_credentials

pytestmark = [pytest.mark.node, needs_ray]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as running:
        yield running


@contextmanager
def node_on(cluster: RayCluster, home: Path, **site: str) -> Iterator[Node]:
    limits = {"ray_actors_least": "2", "ray_actors_most": "2", "lease_seconds": "3"}
    settings, _process = start_node(
        home, executor="ray", ray_address=cluster.address, bundles="lung_fields", **limits, **site
    )
    try:
        with node.http(settings, credentials := load_credentials(settings.credentials)) as client:
            yield Node(settings, credentials, client)
    finally:
        node.stop(settings)


def send(running: Node, seed: int) -> str:
    image = modality.radiograph(chest(seed).pixels, Exposure(seed=uuid.uuid4().hex))
    image.StudyDate = "20240102"
    sent = modality.send([image], "127.0.0.1", running.settings.dicom_port, running.settings.ae_title)
    assert all(outcome.accepted for outcome in sent)
    return str(image.StudyInstanceUID)


def results(running: Node, study: str) -> tuple[int, int]:
    return len(running.measurement_reports(study)), len(running.series(study, "SEG"))


def actors(cluster: RayCluster) -> list[int]:
    """The processes of actors of this cluster."""
    ours = [each.raylet for each in cluster.nodes]
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or not (entry / "cmdline").read_bytes().startswith(b"ray::ReadingActor"):
                continue
            if parent(int(entry.name)) in ours:
                found.append(int(entry.name))
        except OSError:  # it has ended
            continue
    return found


def test_studies_are_read_by_actors_and_again_by_a_run_through_the_archive(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with node_on(cluster, tmp_path / "home") as running:
        studies = [send(running, seed) for seed in range(3)]
        for study in studies:
            assert running.wait_for(study)["status"] == "done"
            assert results(running, study) == (1, 1)
        orthanc = node.running_pid(running.settings)
        assert "raylet" not in Path(f"/proc/{orthanc}/maps").read_text(), "Ray is never in Orthanc's process"
        checks = {check.name: check for check in check_cluster(running.settings)}
        assert {name: check.state.value for name, check in checks.items()} == {"ray_packages": "well", "ray": "well"}

        def told() -> dict[str, Any]:
            capsys.readouterr()
            assert cli.main(["reprocess", "--status", "--json"]) == 0
            return dict(json.loads(capsys.readouterr().out))

        monkeypatch.setenv("HILUM_HOME", str(running.settings.home))
        assert cli.main(["reprocess", "--since", "2024-01-01", "--until", "2024-12-31"]) == 0
        run = running.wait(lambda: (said := told())["is_over"] and said, "the run to be over")
        assert (run["taken"], run["failed"]) == (3, 0)
        for study in studies:
            assert results(running, study) == (1, 1), "what says the same is not stored again"
            assert running.row(study) is not None


def test_a_machine_that_dies_loses_no_study_and_doubles_none_with_a_ledger_in_postgresql(
    cluster: RayCluster, tmp_path: Path, postgres: PostgresServer
) -> None:
    with node_on(cluster, tmp_path / "home", ledger_url=postgres.new_database()) as running:
        studies = [send(running, 0)]
        running.wait_for(studies[0])
        victim = actors(cluster)[0]
        with ThreadPoolExecutor() as pool:
            sending = [pool.submit(send, running, seed) for seed in range(1, 9)]
            time.sleep(0.3)  # wherever it is then
            os.kill(victim, signal.SIGSTOP)
            studies += [each.result() for each in sending]
        running.wait(
            lambda: [r["status"] for r in running.rows() if r["status"] not in ("done", "answered")] == ["running"],
            "one study to be left",
        )
        cluster.kill_node_of(victim)
        for study in studies:
            assert running.wait_for(study, 90)["status"] == "done"
            assert results(running, study) == (1, 1)
        assert len(running.rows()) == len(studies)
        assert running.credentials.worker_password not in (running.settings.logs / "worker.log").read_text()
    cluster.add_node()

"""Two Orthancs on one index and one ledger in PostgreSQL: a study may arrive at either, and either may die."""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from postgres_server import PostgresServer
from running_node import Node, start_node

from models.phantom import chest
from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.credentials import load_credentials

pytestmark = pytest.mark.node


@pytest.fixture
def two(tmp_path: Path, postgres: PostgresServer) -> Iterator[list[Node]]:
    """Two servers, each with a worker; what they share lies in the folder of images and in the database."""
    if not any(Path(f, "libOrthancPostgreSQLIndex.so").exists() for f in node._PLUGIN_FOLDERS):
        pytest.skip("orthanc-postgresql is not installed here")
    site = {"index_url": postgres.new_database(), "ledger_url": postgres.new_database(), "lease_seconds": "2"}
    images = tmp_path / "images"
    images.mkdir()
    with ExitStack() as stack:
        running: list[Node] = []
        for name in ("a", "b"):
            home = tmp_path / name
            home.mkdir()
            (home / "orthanc").symlink_to(images)
            for shared in ("credentials.json", "archive-id"):
                if running:
                    shutil.copy(tmp_path / "a" / shared, home)
            settings, _process = start_node(home, **site)
            stack.callback(node.stop, settings)
            credentials = load_credentials(settings.credentials)
            client = stack.enter_context(node.http(settings, credentials))
            running.append(Node(settings, credentials, client))
        yield running


def send(to: Node, seed: int) -> str:
    ds = modality.radiograph(chest(seed).pixels, Exposure(seed=uuid.uuid4().hex))
    (sent,) = modality.send([ds], "127.0.0.1", to.settings.dicom_port, to.settings.ae_title)
    assert sent.accepted
    return str(ds.StudyInstanceUID)


def results(at: Node, study: str) -> tuple[int, int, int]:
    return len(at.measurement_reports(study)), len(at.series(study, "SEG")), len(at.preliminary_reports(study))


def test_a_study_may_arrive_at_either_and_is_seen_at_both(two: list[Node]) -> None:
    a, b = two
    for to in two:
        study = send(to, 1)
        for at in two:
            assert at.wait_for(study, 90)["status"] == "done"
        assert results(a, study) == results(b, study) == (1, 1, 1)
    assert not list((a.settings.storage).glob("index*")), "no index lies beside the images"


def test_one_dies_and_the_other_reads_what_it_had_taken(two: list[Node]) -> None:
    a, b = two
    studies = [send(a, seed) for seed in range(1, 4)]
    pid = node.running_pid(a.settings)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    studies.append(send(b, 4))
    for study in studies:
        assert b.wait_for(study, 120)["status"] == "done"
        assert results(b, study) == (1, 1, 1)

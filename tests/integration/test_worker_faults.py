"""A worker that dies is replaced, and its study is answered once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from running_node import Node, start_node

from models.phantom import chest
from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.settings import REPOSITORY

pytestmark = pytest.mark.node


def worker_pids(parent: int) -> list[int]:
    """Children of the Orthanc process."""
    return [
        int(pid) for task in Path(f"/proc/{parent}/task").iterdir() for pid in (task / "children").read_text().split()
    ]


def test_a_killed_worker_is_replaced_and_loses_nothing(tmp_path: Path) -> None:
    settings, process = start_node(tmp_path / "home", lease_seconds="2")
    try:
        with node.http(settings, load_credentials(settings.credentials)) as client:
            running = Node(settings, load_credentials(settings.credentials), client)
            studies = [modality.radiograph(chest(seed).pixels, Exposure(seed=uuid.uuid4().hex)) for seed in range(1, 4)]
            assert all(o.accepted for o in modality.send(studies, "127.0.0.1", settings.dicom_port, settings.ae_title))
            (worker,) = worker_pids(process.pid)
            os.kill(worker, signal.SIGKILL)
            for ds in studies:
                uid = str(ds.StudyInstanceUID)
                assert running.wait_for(uid, 90)["status"] == "done"
                assert (len(running.measurement_reports(uid)), len(running.series(uid, "SEG"))) == (1, 1)
            assert worker_pids(process.pid) != [worker]
    finally:
        node.stop(settings)
    assert node.running_pid(settings) is None


def test_a_second_node_on_the_same_home_is_refused(hilum_node: Node) -> None:
    with pytest.raises(node.NodeFailed, match="runs already"):
        node.start(hilum_node.settings)


def test_a_worker_started_by_hand_does_the_work_too(tmp_path: Path) -> None:
    settings, process = start_node(tmp_path / "home", lease_seconds="2")
    own = None
    try:
        (supervised,) = worker_pids(process.pid)
        os.kill(supervised, signal.SIGSTOP)  # it holds nothing yet, and will answer nothing
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "HILUM_HOME": str(settings.home),
            "HILUM_HTTP_PORT": str(settings.http_port),
            "HILUM_DICOM_PORT": str(settings.dicom_port),
        }
        command = [sys.executable, "-m", "orthanc_plugin.working.worker_process"]
        own = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        with node.http(settings, load_credentials(settings.credentials)) as client:
            running = Node(settings, load_credentials(settings.credentials), client)
            ds = modality.radiograph(chest(1).pixels, Exposure(seed=uuid.uuid4().hex))
            assert all(o.accepted for o in modality.send([ds], "127.0.0.1", settings.dicom_port, settings.ae_title))
            assert running.wait_for(str(ds.StudyInstanceUID), 60)["status"] == "done"
        os.kill(supervised, signal.SIGCONT)
    finally:
        if own is not None:
            own.terminate()
            own.wait()
        node.stop(settings)

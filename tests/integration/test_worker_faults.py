"""A worker that dies is replaced, and its study is answered once."""

from __future__ import annotations

import os
import signal
import uuid
from pathlib import Path

import pytest
from running_node import Node, start_node

from models.phantom import chest
from orthanc_plugin import modality, node
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.modality import Exposure

pytestmark = pytest.mark.node


def worker_pids(parent: int) -> list[int]:
    """Children of the Orthanc process."""
    return [
        int(pid) for task in Path(f"/proc/{parent}/task").iterdir() for pid in (task / "children").read_text().split()
    ]


def test_a_killed_worker_is_replaced_and_loses_nothing(tmp_path: Path) -> None:
    settings, process = start_node(tmp_path / "home", HILUM_LEASE_SECONDS="2")
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
                assert (len(running.series(uid, "SR")), len(running.series(uid, "SEG"))) == (1, 1)
            assert worker_pids(process.pid) != [worker]
    finally:
        node.stop(settings)
    assert node.running_pid(settings) is None


def test_a_second_node_on_the_same_home_is_refused(hilum_node: Node) -> None:
    with pytest.raises(node.NodeFailed, match="runs already"):
        node.start(hilum_node.settings)

"""A real node for tests: Orthanc with the plugin and a worker, on free loopback ports, in a temporary folder."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from orthanc_plugin import node
from orthanc_plugin.credentials import Credentials
from orthanc_plugin.settings import REPOSITORY, Settings, load_settings

SHARED = REPOSITORY.parent / "shared" / "data"
ARTEFACTS = REPOSITORY / "tests" / "artefacts"


def free_port() -> int:
    """A TCP port of loopback that nothing uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Node:
    """A running node and how to talk to it."""

    settings: Settings
    credentials: Credentials
    http: httpx.Client

    def rows(self) -> list[dict[str, Any]]:
        answer = self.http.get("/hilum/api/worklist").raise_for_status()
        return list(answer.json()["rows"])

    def row(self, study_instance_uid: str) -> dict[str, Any] | None:
        return next((r for r in self.rows() if r["study_instance_uid"] == study_instance_uid), None)

    def wait_for(self, study_instance_uid: str, seconds: float = 60.0) -> dict[str, Any]:
        """The row of a study once it has an end state."""
        return self.wait(
            lambda: (r := self.row(study_instance_uid)) and r["status"] in ("done", "not_processed", "failed") and r,
            f"study {study_instance_uid} to end",
            seconds,
        )

    def wait(self, question: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if answer := question():
                return answer
            time.sleep(0.1)
        log = (self.settings.logs / "worker.log").read_text() if self.settings.logs.exists() else ""
        raise AssertionError(f"waited {seconds} s for {what}; the worker's log ends:\n{log[-3000:]}")

    def series(self, study_instance_uid: str, modality: str) -> list[dict[str, Any]]:
        """The series of one modality in a study, as QIDO-RS lists them."""
        answer = self.http.get(
            f"/dicom-web/studies/{study_instance_uid}/instances",
            params={"Modality": modality},
            headers={"Accept": "application/dicom+json"},
        )
        return list(answer.json()) if answer.status_code == 200 else []


def start_node(home: Path, **overrides: str) -> tuple[Settings, Any]:
    environment = {
        **os.environ,
        "HILUM_HOME": str(home),
        "HILUM_HTTP_PORT": str(free_port()),
        "HILUM_DICOM_PORT": str(free_port()),
        **overrides,
    }
    settings = load_settings(environment)
    process = node.start(settings)
    try:
        for _ in node.wait_until_ready(settings, process, seconds=120):
            pass
    except BaseException:
        node.stop(settings)
        raise
    return settings, process

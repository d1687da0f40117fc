"""A real node for tests: Orthanc with the plugin and a worker, on free loopback ports, in a temporary folder."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from pydicom import Dataset, dcmread
from pydicom.uid import BasicTextSRStorage, Comprehensive3DSRStorage

from orthanc_plugin.access import accounts
from orthanc_plugin.access.roles import Role
from orthanc_plugin.commands import node
from orthanc_plugin.commands.cluster import control as cluster
from orthanc_plugin.commands.cluster import ray_node
from orthanc_plugin.commands.cluster.plan import is_cluster
from orthanc_plugin.credentials import Credentials, load_credentials
from orthanc_plugin.ledger.shared_files import USERS, changing
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
            lambda: (
                (r := self.row(study_instance_uid)) and r["status"] in ("done", "not_processed", "quarantined") and r
            ),
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

    def measurement_reports(self, study_instance_uid: str) -> list[dict[str, Any]]:
        """The TID 1500 reports of a study, one for each image that was read."""
        return [
            i for i in self.series(study_instance_uid, "SR") if i["00080016"]["Value"] == [Comprehensive3DSRStorage]
        ]

    def preliminary_reports(self, study_instance_uid: str) -> list[dict[str, Any]]:
        """The text reports of a study; there is one for each version of its answer."""
        return [i for i in self.series(study_instance_uid, "SR") if i["00080016"]["Value"] == [BasicTextSRStorage]]

    def objects(self, study_instance_uid: str) -> list[Dataset]:
        """Everything that Orthanc holds of a study."""
        found = self.http.post("/tools/lookup", content=study_instance_uid).json()
        instances = [i for study in found for i in self.http.get(f"/studies/{study['ID']}/instances").json()]
        return [dcmread(BytesIO(self.http.get(f"/instances/{i['ID']}/file").content)) for i in instances]


def configured(home: Path, tables: str = "", **site: str) -> dict[str, str]:
    """The environment of a node whose ``hilum.toml`` holds these settings and tables, on ports that are free now.

    A study counts as complete half a second after its last image, unless `site` says otherwise.
    """
    home.mkdir(parents=True, exist_ok=True)
    site = {"quiet_seconds": "0.5", **site}
    (home / "hilum.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in site.items()) + tables)
    ports = {"HILUM_HTTP_PORT": str(free_port()), "HILUM_DICOM_PORT": str(free_port())}
    return {**os.environ, **ports, "HILUM_HOME": str(home)}


def start_node(home: Path, tables: str = "", **site: str) -> tuple[Settings, Any]:
    """Start a node with these settings and tables (`configured`), and wait until it is ready."""
    settings = load_settings(configured(home, tables, **site))
    process = node.start(settings)
    try:
        for _ in node.wait_until_ready(settings, process, seconds=120):
            pass
    except BaseException:
        node.stop(settings)
        raise
    return settings, process


def start_cluster(home: Path, **site: str) -> tuple[Settings, Any]:
    """Start a cluster with these settings, as ``./hilum up --cluster`` does, and wait until all of it is ready."""
    environment = configured(home, **site)
    process = cluster.start(load_settings(environment))
    settings = load_settings(environment)  # with the addresses of its databases
    try:
        for _ in cluster.wait_until_ready(settings, process, seconds=240):
            pass
    except BaseException:
        end_cluster(settings)
        raise
    return settings, process


def end_cluster(settings: Settings) -> None:
    """Stop a cluster, and leave nothing of it outside its home."""
    cluster.stop(settings)
    shutil.rmtree(ray_node.folder(settings), ignore_errors=True)


@contextmanager
def running_node(kind: str, home: Path, **site: str) -> Iterator[Node]:
    """A node for the time of a block.

    Parameters
    ----------
    kind
        ``default`` or ``cluster``.
    """
    settings, _process = (start_cluster if kind == "cluster" else start_node)(home, **site)
    credentials = load_credentials(settings.credentials)
    try:
        with node.http(settings, credentials) as client:
            yield Node(settings, credentials, client)
    finally:
        end_cluster(settings) if kind == "cluster" else node.stop(settings)


def restart(running: Node) -> None:
    """Stop a node and start it again, whatever its kind."""
    settings = running.settings
    own = cluster if is_cluster(settings) else node
    own.stop(settings)
    for _ in own.wait_until_ready(settings, own.start(settings), seconds=240):
        pass


def add_user(settings: Settings, name: str, role: Role, password: str) -> None:
    """Add somebody as ``./hilum users add`` does, at every server."""
    with changing(settings, USERS):
        accounts.add_user(settings.users, name, role, password, taken=frozenset())


def remove_user(settings: Settings, name: str) -> None:
    """Remove somebody as ``./hilum users remove`` does, at every server."""
    with changing(settings, USERS):
        accounts.remove_user(settings.users, name)

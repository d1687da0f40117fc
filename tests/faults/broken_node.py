"""A node of which everything can be made to fail: its processes, its network, its database, its disk.

The rule: the node is the real one, started as ``./hilum up`` starts it. Only Orthanc itself is told another HTTP port,
so that whoever talks to it does so through the `AnswerDropper`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

from orthanc_plugin.archive.client import OrthancClient
from orthanc_plugin.commands import node
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.ledger.database import Ledger, open_ledger
from orthanc_plugin.settings import Settings, load_settings
from tests.faults import victims
from tests.faults.answer_dropper import AnswerDropper
from tests.faults.small_disk import SmallDisk
from tests.postgres_server import PostgresServer, postgres_server
from tests.running_node import free_port

# The lightest bundle that stores a Segmentation too; the clocks are set for a run of minutes, not for a hospital.
SITE = {
    "bundles": "lung_fields",
    "quiet_seconds": "0.5",
    "lease_seconds": "5",
    "reconcile_seconds": "3",
    "reserve_mb": "20",
}


class BrokenNode:
    """A running node, until `end`.

    Parameters
    ----------
    settings
        What the worker is told: its HTTP port is the dropper's.
    server
        The PostgreSQL server of its ledger; None for SQLite.
    """

    def __init__(self, settings: Settings, server: PostgresServer | None, disk: SmallDisk) -> None:
        self.settings, self.server, self.disk = settings, server, disk
        self.direct = replace(settings, http_port=free_port())  # past the dropper
        self.dropper = AnswerDropper(settings.http_port, self.direct.http_port)
        self.ledger: Ledger = open_ledger(settings.ledger_address)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, failpoints: str = "") -> None:
        """Start Orthanc with its plugin; returns at once.

        Parameters
        ----------
        failpoints
            See ``orthanc_plugin.failpoints``.
        """
        configuration = {**node.orthanc_configuration(self.settings), "HttpPort": self.direct.http_port}
        self.dropper.close()  # the node wants to see its port free
        with (
            mock.patch.object(node, "orthanc_configuration", return_value=configuration),
            mock.patch.dict(os.environ, HILUM_FAILPOINTS=failpoints),
        ):
            self._process = node.start(self.settings)
        self.dropper.open()

    def is_ready(self) -> bool:
        """Whether a worker is ready."""
        return node.status(self.direct).state == "ready"

    def wait_until_ready(self, seconds: float) -> None:
        """Return when a worker is ready.

        Raises
        ------
        AssertionError
        """
        end = time.monotonic() + seconds
        while not self.is_ready():
            assert not self.has_ended(), f"Orthanc ended; {self.last_words()}"
            assert time.monotonic() < end, f"not ready after {seconds:.0f} s; {self.last_words()}"
            time.sleep(0.1)

    def has_ended(self) -> bool:
        """Whether Orthanc is not running."""
        return self._process is None or self._process.poll() is not None

    def kill_orthanc(self) -> None:
        """End Orthanc at once; what it had started goes on until it notices."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pids(self) -> dict[str, list[int]]:
        """See ``victims.processes``."""
        return victims.processes(self.settings.home)

    def orthanc(self) -> OrthancClient:
        """A connection past the dropper."""
        credentials = load_credentials(self.settings.credentials)
        return OrthancClient(self.direct.http_url, credentials.user, credentials.password)

    def hilum(self, *arguments: str) -> str:
        """Run a command of ``./hilum`` for this node; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "orthanc_plugin.cli", *arguments],
            env={**os.environ, "HILUM_HOME": str(self.settings.home)},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def last_words(self) -> str:
        """The ends of both logs."""
        ends = []
        for name in ("worker.log", "orthanc.log"):
            log = self.settings.logs / name
            ends.append(f"{name} ends:\n{log.read_text('utf-8', 'replace')[-2500:] if log.exists() else ''}")
        return "\n".join(ends)

    def end(self) -> None:
        """End every process of the node."""
        self.dropper.close()
        self.kill_orthanc()
        victims.kill_all(self.settings.home)
        self.ledger.close()


@contextmanager
def broken_node(ledger: str = "sqlite", *, disk_mb: int = 0, **site: str) -> Iterator[BrokenNode]:
    """A node in a temporary folder that was not started yet.

    Parameters
    ----------
    ledger
        ``sqlite`` or ``postgresql``.
    disk_mb
        Size of the file system of its folder; 0 for an ordinary folder.
    site
        Settings that differ from `SITE`.
    """
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="hilum-faults-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        disk = SmallDisk(home, disk_mb)
        stack.callback(disk.unmount)
        server = stack.enter_context(postgres_server()) if ledger == "postgresql" else None
        chosen = {**SITE, **site, **({"ledger_url": server.new_database()} if server else {})}
        (home / "hilum.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in chosen.items()), "utf-8")
        ports = {"HILUM_HTTP_PORT": str(free_port()), "HILUM_DICOM_PORT": str(free_port())}
        broken = BrokenNode(load_settings({**os.environ, **ports, "HILUM_HOME": str(home)}), server, disk)
        stack.callback(broken.end)
        yield broken

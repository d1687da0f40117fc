"""One run on a cluster of this machine: its members die while studies come by the entrance, then Orthanc is asked.

The rule: the seed decides what is sent and what is struck when; the run starts nothing again, for the cluster does.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orthanc_plugin.archive.client import OrthancClient
from orthanc_plugin.commands.cluster import control
from orthanc_plugin.commands.cluster.plan import folder_of
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.ledger.database import LedgerError, open_ledger
from orthanc_plugin.ledger.views import count_by_status
from orthanc_plugin.settings import Settings
from tests.faults import victims
from tests.faults.broken_node import SITE
from tests.faults.modality import Modality
from tests.faults.recovery import Recovery
from tests.faults.run import Plan
from tests.faults.score import Score
from tests.faults.settling import come_to_rest, count, finish_sending, under_way
from tests.running_node import end_cluster, start_cluster

_BACKLOG = 3  # studies that wait
_TICK_SECONDS = 0.05
_CALM_SECONDS = 60.0  # at most, for getting over a kill
_READY_SECONDS = 120.0  # until all members serve again, once nothing fails any more
# What is struck, and how often: members of the cluster, nodes of Ray among them, processes of its workers and actors,
# one connection's PostgreSQL.
_CHANCES = {"orthanc": 24, "worker": 14, "actor": 14, "ray_driver": 6, "intake": 6, "keeper": 8, "head": 4, "node": 8,
            "postgresql": 8, "backend": 8, "restart": 6, "entrance": 8}  # fmt: skip


def run(plan: Plan, tell: Callable[[Score], None] = lambda _score: None) -> Score:
    """Carry out a plan; Ctrl-C ends the faults early and counts all the same.

    Parameters
    ----------
    tell
        Called after each kill.
    """
    with running_cluster() as settings:
        one = ClusterRun(plan, settings, tell)
        started = time.monotonic()
        one.begin()
        try:
            one.strike_until_enough()
        except KeyboardInterrupt:
            one.score.broken_off = True
        one.settle_and_count()
        one.score.seconds = time.monotonic() - started
        return one.score


@contextmanager
def running_cluster(**site: str) -> Iterator[Settings]:
    """A cluster that is ready, in a temporary folder; nothing of it is left."""
    home = Path(tempfile.mkdtemp(prefix="hilum-faults-"))
    try:
        settings, _process = start_cluster(home, **{**SITE, **site})
        try:
            yield settings
        finally:
            end_cluster(settings)
            victims.kill_all(home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


class ClusterRun:
    """A run in its parts; `run` does them all."""

    def __init__(self, plan: Plan, settings: Settings, tell: Callable[[Score], None] = lambda _score: None) -> None:
        self._plan, self.settings, self._tell = plan, settings, tell
        self._rng = random.Random(plan.seed)  # noqa: S311
        self.score = Score("cluster", plan.seed, settings.lease_seconds)
        self._ledger = open_ledger(settings.ledger_address)
        self._recovery = Recovery(self._ledger)
        self._open_studies = 0
        self._modality = Modality(
            f"cluster/{plan.seed}", settings.dicom_port, settings.ae_title, lambda: self._open_studies < _BACKLOG
        )

    def begin(self) -> None:
        """Start to send."""
        self._modality.start()

    def strike_until_enough(self) -> None:
        """Kills of every kind, in an order that the seed decides."""
        while self.score.all_kills < self._plan.kills:
            self._pause()
            self.strike(self._rng.choices(list(_CHANCES), list(_CHANCES.values()))[0])
            self._tell(self.score)

    def strike(self, what: str) -> None:
        """End something of this kind at once."""
        pids = self._of_kind(what)
        if not pids:
            return
        pid = self._rng.choice(pids)
        self._recovery.strike(time.monotonic(), what)
        with suppress(ProcessLookupError):
            # an immediate restart: every connection is dropped, and nothing is written in order
            os.kill(pid, signal.SIGQUIT if what == "restart" else signal.SIGKILL)
            self.score.kills[what] += 1

    def hold_dead(self, name: str) -> None:
        """Kill an Orthanc that does not come back before `revive`: where its configuration belongs lies a folder."""
        configuration = folder_of(self.settings) / f"{name}.orthanc.json"
        configuration.unlink()
        configuration.mkdir()
        (pid,) = (member.pid for member in control.members(self.settings) if member.name == name)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        self.score.kills[name] += 1

    def revive(self, name: str) -> None:
        """Let an Orthanc come back."""
        (folder_of(self.settings) / f"{name}.orthanc.json").rmdir()

    def go_on(self, seconds: float) -> None:
        """Let things happen."""
        end = time.monotonic() + seconds
        while True:
            self._tick()
            if time.monotonic() >= end:
                return
            time.sleep(_TICK_SECONDS)

    def settle_and_count(self, *, all_serve: bool = True) -> None:
        """No fault any more; the rest of the score.

        Parameters
        ----------
        all_serve
            Whether every member is waited for; not where one was held dead.
        """
        end = time.monotonic() + _READY_SECONDS
        while all_serve and not all(member.serves for member in control.members(self.settings)):
            assert time.monotonic() < end, control.members(self.settings)
            self.go_on(0.2)
        finish_sending(self._modality, self._tick)
        self._settle()
        self.score.recovery_seconds = self._recovery.seconds
        credentials = load_credentials(self.settings.credentials)
        with OrthancClient(self.settings.http_url, credentials.user, credentials.password) as orthanc:
            count(self.score, self._modality, orthanc, self._ledger, self._replay)
        self._ledger.close()

    def _of_kind(self, what: str) -> list[int]:
        members = {member.name: member.pid for member in control.members(self.settings, ask=False)}
        named = {"orthanc": "orthanc-", "keeper": "worker-", "entrance": "entrance", "postgresql": "postgresql",
                 "restart": "postgresql", "backend": "postgresql", "head": "ray-1", "node": "ray-2"}  # fmt: skip
        if what not in named:
            return victims.processes(self.settings.home)[what]
        pids = [pid for name, pid in members.items() if name.startswith(named[what]) and pid is not None]
        return [backend for pid in pids for backend in _backends(pid)] if what == "backend" else pids

    def _pause(self) -> None:
        """Until the cluster has got over the last kill and is at work, or, for a kill in the middle, a short time."""
        if self._rng.random() < self._plan.calm:
            end = time.monotonic() + _CALM_SECONDS
            while time.monotonic() < end and not self._is_at_work():
                self.go_on(_TICK_SECONDS)
            self.go_on(self._rng.uniform(0.0, 0.5))
        else:
            self.go_on(self._rng.uniform(0.05, 1.5))

    def _is_at_work(self) -> bool:
        with suppress(LedgerError), self._ledger.read() as db:
            return self._recovery.is_over and count_by_status(db)["running"] > 0
        return False

    def _tick(self) -> None:
        self._recovery.look(time.monotonic())
        with suppress(LedgerError), self._ledger.read() as db:
            self._open_studies = under_way(count_by_status(db))

    def _settle(self) -> None:
        come_to_rest(self._ledger, self.settings.reconcile_seconds, self.go_on, lambda: False)

    def _replay(self) -> None:
        ports = {"HILUM_HTTP_PORT": str(self.settings.http_port), "HILUM_DICOM_PORT": str(self.settings.dicom_port)}
        command = [sys.executable, "-m", "orthanc_plugin.cli", "retry", "--all"]
        environment = {**os.environ, **ports, "HILUM_HOME": str(self.settings.home)}
        subprocess.run(command, env=environment, capture_output=True, check=True)
        self._settle()


def _backends(postmaster: int) -> list[int]:
    """The processes of PostgreSQL that serve a connection of ours."""
    found = []
    with suppress(OSError):
        for pid in Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split():
            with suppress(OSError):
                if b"postgres: hilum" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
    return found

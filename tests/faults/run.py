"""One run: studies are sent while things die, then all faults stop, and what is in Orthanc is counted.

The rule: the seed decides what is sent and what is struck when; nothing that a process says about itself is believed,
but for the coded reasons.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orthanc_plugin.commands import node
from orthanc_plugin.failpoints import POINTS
from orthanc_plugin.ledger.database import LedgerError
from orthanc_plugin.ledger.views import count_by_status
from tests.faults import victims
from tests.faults.broken_node import BrokenNode, broken_node
from tests.faults.modality import Modality
from tests.faults.recovery import Recovery
from tests.faults.score import Score
from tests.faults.settling import come_to_rest, count, finish_sending, under_way

_IN_ORTHANC = ("instance_stored", "enqueued")
_BACKLOG = 3  # studies that wait; a study in hand at a kill then has its turn again at once
_TICK_SECONDS = 0.05
_DROP_SECONDS = 8.0  # in which the worker asks Orthanc something, if it is at work
_CALM_SECONDS = 60.0  # at most, for getting over a kill


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Parameters
    ----------
    kills
        Processes to end, from outside and by fail-points.
    ledger
        ``sqlite`` or ``postgresql``; ``cluster`` is ``cluster_run``'s.
    disk_mb
        Size of the node's file system, if one can be mounted; 0: the disk is never full.
    calm
        Share of faults before which the node may get over the last one.
    """

    kills: int
    seed: int
    ledger: str = "sqlite"
    disk_mb: int = 0
    calm: float = 0.5


def run(plan: Plan, tell: Callable[[Score], None] = lambda _score: None) -> Score:
    """Carry out a plan; Ctrl-C ends the faults early and counts all the same.

    Parameters
    ----------
    tell
        Called after each kill.
    """
    with broken_node(plan.ledger, disk_mb=plan.disk_mb) as broken:
        one = Run(plan, broken, tell)
        started = time.monotonic()
        one.begin()
        try:
            one.strike_until_enough()
        except KeyboardInterrupt:
            one.score.broken_off = True
        one.settle_and_count()
        one.score.seconds = time.monotonic() - started
        return one.score


class Run:
    """A run in its parts, for a test that does them one by one; `run` does them all.

    Parameters
    ----------
    failpoints
        Those of the next life of Orthanc; None: some, by chance.
    """

    def __init__(
        self, plan: Plan, broken: BrokenNode, tell: Callable[[Score], None], failpoints: Callable[[], str] | None = None
    ) -> None:
        self._plan, self._node, self._tell = plan, broken, tell
        self._failpoints = failpoints or self._some_failpoints
        self._rng = random.Random(plan.seed)  # noqa: S311
        self.score = Score(plan.ledger, plan.seed, broken.settings.lease_seconds)
        self._recovery = Recovery(broken.ledger)
        self._log = FailpointLog(broken.settings.logs)
        self._open_studies = 0
        self._starting_since: float | None = None
        settings = broken.settings
        self._modality = Modality(
            f"faults/{plan.seed}", settings.dicom_port, settings.ae_title, lambda: self._open_studies < _BACKLOG
        )
        self._chances = {"worker": 22, "reader": 28, "fork_server": 5, "intake": 10, "orthanc": 12, "answers": 8}
        if broken.server is not None:
            self._chances["postgresql"] = 15
        if broken.disk.why_not:
            self.score.skipped.append(f"disk full: {broken.disk.why_not}")
        else:
            self._chances["disk"] = 6

    def begin(self) -> None:
        """Start the node without any fault, then the modality."""
        self._start_orthanc()
        self._node.wait_until_ready(120)
        self._modality.start()

    def strike_until_enough(self) -> None:
        """Faults of every kind, in an order that the seed decides."""
        while self.score.all_kills < self._plan.kills:
            self._pause()
            fault = self._rng.choices(list(self._chances), list(self._chances.values()))[0]
            {
                "orthanc": self.kill_orthanc,
                "postgresql": self._kill_postgresql,
                "answers": self._drop_answers,
                "disk": self._fill_disk,
            }.get(fault, lambda role=fault: self._kill(role))()
            self._tell(self.score)

    # --- faults ------------------------------------------------------------------------------------------------------
    def _kill(self, role: str) -> None:
        pids = self._node.pids()[role]
        if pids:
            self._recovery.strike(time.monotonic(), role)
            self.score.kills[role] += victims.kill(self._rng.choice(pids))

    def has_work_in_hand(self) -> bool:
        """Whether a worker is at a study."""
        with self._node.ledger.read() as db:
            return count_by_status(db)["running"] > 0

    def kill_orthanc(self) -> None:
        """It is started again by the next `go_on`."""
        self._recovery.strike(time.monotonic(), "orthanc", until_restart=True)
        self._node.kill_orthanc()
        self.score.kills["orthanc"] += 1

    def _kill_postgresql(self) -> None:
        assert self._node.server is not None
        self._recovery.strike(time.monotonic(), "postgresql", until_restart=True)
        self._node.server.kill()
        self.score.kills["postgresql"] += 1
        self.go_on(self._rng.uniform(0.1, 3.0))
        self._node.server.start()
        self._recovery.restarted(time.monotonic())

    def _drop_answers(self) -> None:
        before, end = self._node.dropper.dropped, time.monotonic() + _DROP_SECONDS
        self._node.dropper.dropping.set()
        while self._node.dropper.dropped == before and time.monotonic() < end:
            self.go_on(_TICK_SECONDS)
        self.go_on(self._rng.uniform(0.0, 3.0))
        self._node.dropper.dropping.clear()
        self._recovery.outage_over(time.monotonic())
        self.score.others["answers_dropped"] += self._node.dropper.dropped - before

    def _fill_disk(self) -> None:
        self._node.disk.fill(self._rng.choice((0, 0, 5 << 20)))
        self.go_on(self._rng.uniform(1.0, 5.0))
        self._node.disk.empty()
        self._recovery.outage_over(time.monotonic())
        self.score.others["disk_full"] += 1

    def _pause(self) -> None:
        """Until the node has got over the last kill and is at work, or, for a kill in the middle, for a short time."""
        if self._rng.random() < self._plan.calm:
            end = time.monotonic() + _CALM_SECONDS
            while time.monotonic() < end and not self._is_at_work():
                self.go_on(_TICK_SECONDS)
            self.go_on(self._rng.uniform(0.0, 0.5))
        else:
            self.go_on(self._rng.uniform(0.05, 1.5))

    def _is_at_work(self) -> bool:
        over = self._recovery.is_over and self._starting_since is None
        with suppress(LedgerError):
            return over and self.has_work_in_hand()
        return False

    # --- what goes on all the time -----------------------------------------------------------------------------------
    def go_on(self, seconds: float) -> None:
        """Let things happen; what the run itself keeps alive is started again."""
        end = time.monotonic() + seconds
        while True:
            self._tick()
            if time.monotonic() >= end:
                return
            time.sleep(_TICK_SECONDS)

    def _tick(self) -> None:
        now = time.monotonic()
        for name in self._log.new():
            self.score.failpoints[name] += 1
            self._recovery.strike(now, name, until_restart=name in _IN_ORTHANC)
        if self._node.has_ended():
            time.sleep(self._rng.uniform(0.1, 1.5))
            with suppress(OSError, node.NodeFailed):  # the disk is full now, or the port not yet free: once more
                self._start_orthanc(self._failpoints())
        self._recovery.look(time.monotonic())
        if self._starting_since is not None and self._node.is_ready():
            self.score.ready_seconds.append(time.monotonic() - self._starting_since)
            self._starting_since = None
        with suppress(LedgerError), self._node.ledger.read() as db:
            self._open_studies = under_way(count_by_status(db))

    def _start_orthanc(self, failpoints: str = "") -> None:
        self._node.start(failpoints)
        self._starting_since = time.monotonic()
        self._recovery.restarted(self._starting_since)

    def _some_failpoints(self) -> str:
        """Places for this life of Orthanc; seldom in itself, for each costs a start of everything."""
        chosen = {name: self._rng.uniform(0.03, 0.15) for name in self._rng.sample(POINTS, 5)}
        seldom = {name: chance / 3 if name in _IN_ORTHANC else chance for name, chance in chosen.items()}
        return ",".join(f"{name}:{chance:.3f}" for name, chance in seldom.items())

    # --- the end -----------------------------------------------------------------------------------------------------
    def settle_and_count(self) -> None:
        """No fault any more; the rest of the score."""
        self._failpoints = str
        self._end_faults()
        self.kill_orthanc()
        victims.kill_all(self._node.settings.home)
        self._start_orthanc()
        finish_sending(self._modality, self._tick)
        self._settle()
        self.score.recovery_seconds = self._recovery.seconds
        with self._node.orthanc() as orthanc:
            count(self.score, self._modality, orthanc, self._node.ledger, self._replay)

    def _replay(self) -> None:
        self._node.hilum("retry", "--all")
        self._settle()

    def _end_faults(self) -> None:
        """A run that was broken off may stand in the middle of one."""
        self._node.dropper.dropping.clear()
        self._node.disk.empty()
        if self._node.server is not None and not self._node.server.is_running:
            self._node.server.start()

    def _settle(self) -> None:
        seconds = self._node.settings.reconcile_seconds
        come_to_rest(self._node.ledger, seconds, self.go_on, lambda: self._starting_since is not None)


class FailpointLog:
    """Reads in the logs of a node which fail-points were hit."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._read: dict[str, int] = {}

    def new(self) -> Iterator[str]:
        """Those since the last call."""
        for name in ("worker.log", "orthanc.log"):
            file = self._logs / name
            if not file.exists():
                continue
            with file.open("rb") as log:
                log.seek(min(self._read.get(name, 0), file.stat().st_size))
                text = log.read()
                complete = text[: text.rfind(b"\n") + 1]
                self._read[name] = log.tell() - len(text) + len(complete)
            for line in complete.splitlines():
                if found := re.search(rb'(?:^|"event": ")failpoint (\w+)', line):  # Orthanc's output becomes JSON
                    yield found[1].decode("ascii")

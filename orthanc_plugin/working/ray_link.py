"""The worker's side of the process that speaks with a Ray cluster: seats are open as long as actors are ready for them.

The rule: Ray is never imported here. Whatever the cluster does to that process, its end included, costs no study more
than the attempt that an actor died of: what is in hand is given back to the ledger, the worker says that the cluster is
away, and starts the process again, after pauses that grow.

Lines (``reader``), where a key names a claim of a study::

    worker  --->  {"wanted": 2}            actors, as the queue grows and shrinks
                  {"task": {...}, "key": ...}
                  {"stop": key}            it takes too long: end the actor that is at it
                  {"renew": 1}             other models were chosen, for the first time in this connection
    process --->  {"places": 4, "versions": {...}, "renewed": 1}
                                           studies that the actors that are ready read at the same time
                  {"alive": true}          the cluster answers
                  {"problem": code} | {"unusable": message}
                  {"key": ..., "flag" | "outcome" | "failure": {...}}
                  {"key": ..., "back": true}           it was not read, by no fault of its own
"""

from __future__ import annotations

import json
import logging
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Self

from orthanc_plugin.child_process import end_child, start_child
from orthanc_plugin.ledger.flagging import Flag
from orthanc_plugin.ledger.tasks import Failure, InferenceTask, Outcome
from orthanc_plugin.working.condition import Condition
from orthanc_plugin.working.demand import Demand, Limits
from orthanc_plugin.working.reader import Abandoned, answer_of, line_of
from orthanc_plugin.working.retry_policy import pause_seconds

log = logging.getLogger("hilum.ray")

COMMAND = (sys.executable, "-W", "ignore", "-m", "orthanc_plugin.working.ray_driver")
AWAY = "ray_unavailable"
_PROBLEMS = (AWAY, "ray_no_room", "reader_dies", "models_unusable")
_JOIN_SECONDS = 120.0  # to join a cluster that is slow
_SILENT_SECONDS = 30.0  # of a process that hangs, or whose cluster does not answer
_LOOK_SECONDS = 1.0  # between two looks at the queue
_WATCH_SECONDS = 0.2
_CHUNK = 2**16

Message = Mapping[str, Any]


class RayLink:
    """The process, started again and again, and the studies that it has in hand.

    Parameters
    ----------
    waiting
        How many studies wait, up to a number.
    lost
        Called when the cluster went away.
    command
        Of the process.
    """

    def __init__(
        self,
        limits: Limits,
        condition: Condition,
        waiting: Callable[[int], int],
        lost: Callable[[], None],
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.limits, self._condition, self._command = limits, condition, command
        self._waiting, self._lost = waiting, lost
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._places, self._run = 0, 0  # the latter counts connections
        self._versions: dict[str, str] = {}
        self._chosen: bytes | None = None
        self._renewals = 0
        self._in_hand: dict[str, queue.SimpleQueue[Message | None]] = {}

    # -- what seats ask

    def seats(self) -> list[RaySeat]:
        """As many as there are studies at the same time when all actors are there."""
        return [RaySeat(self, number) for number in range(self.limits.seats)]

    def wait_for_place(self, number: int, chosen: bytes, unwanted: Callable[[], bool]) -> int:
        """Wait until so many and one more studies can be read at the same time; the number of the connection.

        Raises
        ------
        Abandoned
        """
        with self._changed:
            if self._chosen is not None and chosen != self._chosen:
                self._places, self._renewals = 0, self._renewals + 1  # what it says of those before is passed over
                self._send({"renew": self._renewals})
            self._chosen = chosen
            while number >= self._places:
                if unwanted():
                    raise Abandoned
                self._changed.wait(_WATCH_SECONDS)
            return self._run

    @property
    def places(self) -> int:
        """How many studies can be read at the same time now."""
        return self._places

    def is_open(self, number: int, run: int) -> bool:
        """Whether the same connection still has a place for this seat."""
        return run == self._run and number < self._places

    @property
    def versions(self) -> dict[str, str]:
        """Of the models that the actors have."""
        return dict(self._versions)

    @property
    def pid(self) -> int:
        """Of the process; 0 when there is none."""
        return self._process.pid if self._process is not None else 0

    def ask(self, key: str, task: InferenceTask, run: int) -> queue.SimpleQueue[Message | None]:
        """Have a task read; what comes of it comes into the queue, and None when the cluster went away."""
        with self._lock:
            answers: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
            self._in_hand[key] = answers
            if run != self._run or not self._send({"task": asdict(task), "key": key}):
                answers.put(None)
        return answers

    def forget(self, key: str, *, stop: bool) -> None:
        """Listen no more to what becomes of a task.

        Parameters
        ----------
        stop
            Whether to end the actor that is at it.
        """
        with self._lock:
            self._in_hand.pop(key, None)
            if stop:
                self._send({"stop": key})

    # -- the process

    def start(self) -> None:
        """Join the cluster, and stay with it."""
        for target, name in ((self._keep, "ray"), (self._watch_queue, "ray-queue")):
            threading.Thread(target=target, name=name, daemon=True).start()

    def stop(self) -> None:
        """Leave the cluster; its actors end."""
        self._stopping.set()
        process = self._process
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()

    def _keep(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            was_ready = False
            try:
                self._process, channel = start_child(self._command)
            except OSError as error:
                log.error("no process can be started for Ray: %s", error.strerror)
            else:
                with channel:
                    with self._lock:
                        self._channel, self._run, self._renewals = channel, self._run + 1, 0
                    was_ready = self._listen(channel)
                if not self._stopping.is_set():
                    self._condition.problem(AWAY)  # before anybody claims anew
                self._disconnect()
            if self._stopping.is_set():
                return
            failures = 1 if was_ready else failures + 1
            pause = pause_seconds(failures, 1.0)
            if was_ready:
                self._lost()
            self._condition.problem(AWAY)
            log.error("the Ray cluster is away: nothing is read", extra={"restart_in": round(pause, 1)})
            self._stopping.wait(pause)

    def _listen(self, channel: socket.socket) -> bool:
        """Take what the process says until it ends, or says nothing; whether there was an actor."""
        received, was_ready = bytearray(), False
        channel.settimeout(_SILENT_SECONDS)
        deadline = time.monotonic() + _JOIN_SECONDS
        while not self._stopping.is_set():
            try:
                more = channel.recv(_CHUNK)
            except TimeoutError:
                if was_ready or time.monotonic() > deadline:
                    break
                continue
            except OSError:
                break
            if not more:
                break
            received += more
            while b"\n" in received:
                line, _, received = received.partition(b"\n")
                was_ready |= self._take(bytes(line))
        return was_ready

    def _take(self, line: bytes) -> bool:
        """What one line says; True when it says that actors are ready."""
        try:
            message = json.loads(line)
        except ValueError:
            log.warning("the process that speaks with Ray said something that is no message")
            return False
        if "key" in message:
            with self._lock:
                answers = self._in_hand.get(message["key"])
            if answers is not None:
                answers.put(message)
        elif "places" in message:
            with self._changed:
                if message["renewed"] != self._renewals:
                    return False
                self._places, self._versions = int(message["places"]), dict(message["versions"])
                self._changed.notify_all()
            if self._places:
                self._condition.solved(*_PROBLEMS)
            return bool(self._places)
        elif "alive" in message:
            self._condition.solved(AWAY)
        elif "unusable" in message:
            log.error("nothing is read: %s", message["unusable"])
            self._condition.problem("models_unusable")
        elif "problem" in message:
            self._condition.problem(str(message["problem"]))
        return False

    def _disconnect(self) -> None:
        process, self._process = self._process, None
        with self._changed:
            self._channel, self._places = None, 0
            lost, self._in_hand = self._in_hand, {}
            self._changed.notify_all()
        for answers in lost.values():
            answers.put(None)
        if process is not None:
            end_child(process)

    def _send(self, message: Message) -> bool:
        """Tell the process something; False when it does not hear it. The caller has the lock."""
        try:
            if self._channel is None:
                return False
            self._channel.sendall(line_of(message))
        except OSError:
            return False
        return True

    def _watch_queue(self) -> None:
        demand, told = Demand(self.limits), (0, 0)
        while not self._stopping.wait(_LOOK_SECONDS):
            with suppress(Exception):  # the ledger is away: nothing can be claimed, so nothing more is wanted
                studies = len(self._in_hand) + self._waiting(self.limits.seats)
                wanted = self._run, demand.wanted(studies, now=time.monotonic())
                with self._lock:
                    if wanted != told and self._send({"wanted": wanted[1]}):
                        told = wanted


class RaySeat:
    """What one seat reads with: the `Readers` of the cluster, which are one and the same."""

    def __init__(self, link: RayLink, number: int) -> None:
        self._link, self._number = link, number

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def open(self, chosen: bytes, unwanted: Callable[[], bool]) -> RayReader:
        """Wait until the cluster has a place for this seat."""
        return RayReader(self._link, self._number, self._link.wait_for_place(self._number, chosen, unwanted))


class RayReader:
    """A place in the cluster: a `Reader` for as long as it is there."""

    def __init__(self, link: RayLink, number: int, run: int) -> None:
        self._link, self._number, self._run = link, number, run
        self.versions, self.pid = link.versions, link.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def lives(self) -> bool:
        """Always: what becomes of actors is told by what becomes of studies."""
        return True

    def is_released(self) -> bool:
        """Whether there is no actor for it any more."""
        return not self._link.is_open(self._number, self._run)

    def read(
        self,
        task: InferenceTask,
        seconds: float,
        unwanted: Callable[[], bool],
        flagged: Callable[[Flag], None] = lambda _: None,
    ) -> Outcome | Failure:
        """Have one study read by an actor.

        Raises
        ------
        Abandoned
            Also when the cluster goes away, or the actor was ended because of another study.
        """
        key, deadline = f"{task.study_instance_uid}/{task.fence}", time.monotonic() + seconds
        answers = self._link.ask(key, task, self._run)
        stop = False
        try:
            while True:
                if unwanted():
                    raise Abandoned
                if time.monotonic() > deadline:
                    stop = True
                    return Failure("time_limit", f"the study took longer than {seconds:g} s")
                try:
                    message = answers.get(timeout=_WATCH_SECONDS)
                except queue.Empty:
                    continue
                if message is None or "back" in message:
                    raise Abandoned
                answer = answer_of(message)
                if not isinstance(answer, Flag):
                    return answer
                flagged(answer)
        except (ValueError, TypeError, KeyError):
            stop = True
            return Failure("reader_died", "the actor answered with something that is no answer")
        finally:
            self._link.forget(key, stop=stop)

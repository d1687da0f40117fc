"""A process of ours at the other end of a socket: what dies over there costs what it was doing, and nothing here.

The rule: it never outlives the one that started it, leaves no image of its memory behind, and when the machine runs out
of memory it goes before the others do.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from orthanc_plugin.settings import REPOSITORY

_PR_SET_PDEATHSIG = 1  # prctl(2)
# Pictures come and go: given back to the kernel each time, half of a reading would be page faults (mallopt(3)).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_ARRAY, _KEPT_MEMORY = 32 * 2**20, 128 * 2**20  # bytes: the first is the most that glibc takes
_FIRST_TO_GO = "500"  # proc(5), oom_score_adj: 0 is an ordinary process, 1000 the first of all
_ENDING_SECONDS = 5.0  # from the end of its connection to the end of the process


class Child(Protocol):
    """A process as `subprocess.Popen` has it; the return code of one that was killed is minus the signal's number."""

    @property
    def pid(self) -> int:
        """The process id."""

    def poll(self) -> int | None:
        """The return code; None while it lives."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the return code; subprocess.TimeoutExpired when it lives on."""

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""


def start_child(
    command: Sequence[str], descriptors: Sequence[int] = ()
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a program that calls `settle` first; the kernel ends it when the thread that called this ends.

    Parameters
    ----------
    command
        Gets the number of its end of the connection as one more argument, then those of `descriptors`.

    Raises
    ------
    OSError
    """
    ours, theirs = socket.socketpair()
    with theirs:
        passed = theirs.fileno(), *descriptors
        try:
            process = subprocess.Popen(
                [*command, *map(str, passed)], cwd=REPOSITORY, pass_fds=passed, stdin=subprocess.DEVNULL
            )
        except OSError:
            ours.close()
            raise
    return process, ours


def how_it_ended(process: Child) -> int | None:
    """The return code of a process whose connection has ended: minus the signal's number, or None when it lives on."""
    try:
        return process.wait(_ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def end_child(process: Child) -> None:
    """End a process, in the middle of its work if need be."""
    process.send_signal(signal.SIGKILL)
    process.wait()


class Patience:
    """How long a process may take for something. What it waits for a processor is not its fault, and is not counted.

    Parameters
    ----------
    pid
        Of the process; that of those which it started itself counts as well.
    seconds
        Of its own; `STRETCH` times as many by the clock are the end in any case.
    """

    STRETCH = 10.0

    def __init__(self, pid: int, seconds: float) -> None:
        self._pid, self.seconds = pid, seconds
        self._started, self._queued = time.monotonic(), _queued_seconds(pid)

    @property
    def is_over(self) -> bool:
        """Whether it has taken too long."""
        elapsed = time.monotonic() - self._started
        if elapsed <= self.seconds:
            return False
        queued = _queued_seconds(self._pid) - self._queued
        return elapsed - queued > self.seconds or elapsed > self.seconds * self.STRETCH


def _queued_seconds(pid: int) -> float:
    """For how long a process and those that it started were ready to run and did not (/proc/<pid>/schedstat)."""
    total = 0.0
    with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended, or the kernel does not tell
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
        for each in (str(pid), *children):
            total += int(Path(f"/proc/{each}/schedstat").read_text("ascii").split()[1]) / 1e9
    return total


def settle(connection: int) -> None:
    """Make this process a child in the sense of this module.

    Parameters
    ----------
    connection
        Descriptor of its end.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_ARRAY)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_MEMORY)
    watch = select.poll()
    watch.register(connection, 0)
    if watch.poll(0):  # it was too late: who started this has gone already
        sys.exit()
    # who stops a whole group of processes means the one that started this; it decides what is finished
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit(resource.RLIMIT_CORE, 0)  # it would hold pixels and names
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO, "ascii")


def limit(kind: int, most: int) -> None:
    """Lower a limit of this process (``resource.RLIMIT_...``), unless it is lower already."""
    _, hard = resource.getrlimit(kind)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))

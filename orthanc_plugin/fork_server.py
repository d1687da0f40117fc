"""A process that imports what its children need once, and forks them: the start of a child costs no import.

The rule: as with any `child_process`, none outlives the one that started it. One child at a time::

    who starts  --->  one byte, with the descriptors of the child
    server      --->  pid, with a descriptor of the process (pidfd_open(2)); when the child has ended, its return code

The `multiprocessing` forkserver of Python does not fit: it leaves a folder behind whenever its owner is killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence

from orthanc_plugin.child_process import Child, end_child, how_it_ended, settle, start_child

log = logging.getLogger("hilum.fork")

_ASK_SECONDS = 0.2  # between two questions whether a child is still wanted
_TELL_SECONDS = 1.0  # from the end of a child to what its server says of it
_NUMBER = struct.Struct("=i")  # a pid or a return code


class ServerEnded(Exception):
    """A fork server ended before it forked the child that was wanted."""

    def __init__(self, process: Child) -> None:
        super().__init__("the fork server ended")
        self.process = process


class ForkServer:
    """Starts children that have imported everything already, one at a time. A context manager.

    It starts when the first child is wanted, and again when it was killed; its children end with it.

    Parameters
    ----------
    command
        A program that calls `settle`, imports what its children need, and then `fork_children`. It starts no thread.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._running: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Its process id; None when it does not run."""
        return self._running[0].pid if self._running is not None and self._running[0].poll() is None else None

    def fork(self, descriptors: Sequence[int], unwanted: Callable[[], bool]) -> Child | None:
        """Start a child that has these descriptors; the one before must have ended.

        Parameters
        ----------
        unwanted
            Asked now and then, for the server itself may be starting: whether to end it instead, and return None.

        Raises
        ------
        OSError
            No process can be started.
        ServerEnded
        """
        if self._running is None or self._running[0].poll() is not None:
            self.close()
            self._running = start_child(self._command)
        process, channel = self._running
        try:
            socket.send_fds(channel, [b"."], descriptors)
            while not select.select([channel], [], [], _ASK_SECONDS)[0]:
                if unwanted():
                    self.close()
                    return None
            number, received, _, _ = socket.recv_fds(channel, _NUMBER.size, 1)
        except OSError:
            number, received = b"", []
        if not received:
            # it has gone, and its code tells why; or its child cannot be held, for want of descriptors here
            if not number:
                how_it_ended(process)
            self.close()
            raise ServerEnded(process)
        return ForkedChild(_NUMBER.unpack(number)[0], received[0], channel, self.close)

    def close(self) -> None:
        """End the server, and with it its child."""
        if self._running is not None:
            process, channel = self._running
            self._running = None
            channel.close()
            end_child(process)


class ForkedChild:
    """A `Child` of a fork server.

    Parameters
    ----------
    descriptor
        Of the process (pidfd_open(2)): it cannot mean another one, and tells the end by itself.
    server
        The connection on which the server tells the return code.
    end_server
        For one that does not: what it says later would be taken for an answer to something else.
    """

    def __init__(self, pid: int, descriptor: int, server: socket.socket, end_server: Callable[[], None]) -> None:
        self.pid = pid
        self._descriptor, self._server, self._end_server = descriptor, server, end_server
        self._code: int | None = None

    def poll(self) -> int | None:
        """The return code; None while it lives."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0.0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the return code; subprocess.TimeoutExpired when it lives on.

        That of a child whose server does not tell it is taken for that of one that was killed.
        """
        if self._code is None:
            if not select.select([self._descriptor], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked child", timeout or 0.0)
            told = b""
            with contextlib.suppress(OSError, ValueError):  # ValueError: the server was closed
                if select.select([self._server], [], [], _TELL_SECONDS)[0]:
                    told = self._server.recv(_NUMBER.size)
            if told:
                self._code = int(_NUMBER.unpack(told)[0])
            else:
                self._end_server()
                self._code = -signal.SIGKILL
            os.close(self._descriptor)
        return self._code

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, sig)


def fork_children(connection: int) -> list[int]:
    """Be the fork server of this program; returns in each of its children, with the descriptors that were sent.

    Parameters
    ----------
    connection
        Descriptor of the server's end. The server itself ends when the other end is closed.
    """
    channel, server = socket.socket(fileno=connection), os.getpid()
    while True:
        try:
            asked, descriptors, _, _ = socket.recv_fds(channel, 1, 8)
            if not asked:
                sys.exit()
            child = os.fork()
            if child == 0:
                channel.close()
                settle(descriptors[0])
                if os.getppid() != server:  # it ended before this was its child in the kernel's eyes
                    sys.exit()
                return descriptors
            for descriptor in descriptors:
                os.close(descriptor)
            process = os.pidfd_open(child)
            socket.send_fds(channel, [_NUMBER.pack(child)], [process])
            os.close(process)
            _, status = os.waitpid(child, 0)
            channel.sendall(_NUMBER.pack(os.waitstatus_to_exitcode(status)))
        except ConnectionError:
            sys.exit()  # who started it has gone


def run_apart(connection: int, work: Callable[[], object]) -> None:
    """Run something in a fork of this process: what it imports and allocates goes with it, and so does what it raises.

    Parameters
    ----------
    connection
        Of this process, which has no thread yet, to the one that started it; with either the fork ends.
    """
    here = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            settle(connection)
            if os.getppid() == here:
                work()
        except Exception:
            log.debug("what is run apart failed", exc_info=True)
        finally:
            os._exit(0)
    os.waitpid(child, 0)

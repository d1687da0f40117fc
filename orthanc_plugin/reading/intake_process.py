"""Takes instances in in a process of its own, with limits of memory and time: a decoder that crashes, hangs or asks for
all memory costs that process and that image, never the worker.

The rule: whatever an image does over there, the answer here is an `Intake` or a coded refusal. What others do to the
process, who kill it or leave no memory for it, is never held against the image.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import resource
import signal
import subprocess
import sys
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from models.intake import Intake, NotTakenIn, take_in
from models.refusal import Refusal
from models.selection import Policy
from orthanc_plugin.child_process import Patience, end_child, how_it_ended, limit, settle, start_child
from orthanc_plugin.logs import where
from orthanc_plugin.settings import Settings

log = logging.getLogger("hilum.isolation")

# 64 million pixels need about 1.5 GB on their way from a codestream to gray values.
MEMORY_LIMIT = 3 * 2**30
_START_SECONDS = 60.0
_WATCH_SECONDS = 0.5  # between two looks whether it takes too long
# Bytes in the memory that both processes share, beyond which it is not kept for the next image: asking for it anew
# takes longer than writing it.
KEPT = 64 * 2**20
# A crash may have been an accident of the machine; the second one is the image's.
_TRIES = 2


def policy_of(settings: Settings) -> Policy:
    """What the site decided about intake."""
    return Policy(settings.minimum_age, read_children=settings.children == "caution")


class IsolationFailed(Exception):
    """The process does not even start, or was killed from outside: no fault of the image, which may be tried again."""


class IntakeProcess:
    """A process that takes instances in, one after the other; started when first needed. A context manager.

    It ends with the thread in which it was started (see ``child_process``).

    Parameters
    ----------
    seconds
        How long one instance may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._ready = False  # it has said so
        self._mailbox = _Mailbox.new()

    def __enter__(self) -> IntakeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take_in(self, content: bytes, policy: Policy) -> Intake:
        """As ``models.intake.take_in``.

        Raises
        ------
        NotTakenIn
            Also when the process crashed or took too long.
        IsolationFailed
        """
        why, failures, kills = "", 0, 0
        while failures < _TRIES:
            connection, worked, killed = self.start(), False, False
            try:
                used = self._processor_seconds()
                self._mailbox.put([content])
                connection.send((len(content), policy, self._seconds))
                if self._is_answered(connection):
                    answer = self._mailbox.take(connection)
                    if isinstance(answer, NotTakenIn):
                        raise answer
                    return _intake(answer)
                why = f"took longer than {self._seconds:.0f} s"
                worked = self._processor_seconds() - used > self._seconds / 2
            except (EOFError, OSError):
                why = "ended the process that did it"
                killed = self._process is not None and how_it_ended(self._process) == -signal.SIGKILL
            self.close()
            log.warning("an intake %s", why)
            if killed:
                kills += 1
                if kills == _TRIES:
                    raise IsolationFailed("the process that reads images was killed, by a person or for want of memory")
                continue
            failures += 1
            if worked:  # else the machine may have stood still, and not the image been too much
                break
        raise NotTakenIn(Refusal.UNREADABLE_PIXELS, f"reading the instance {why}")

    def _is_answered(self, connection: Connection) -> bool:
        """Wait for an answer; False when it takes too long."""
        patience = Patience(0 if self._process is None else self._process.pid, self._seconds)
        while not patience.is_over:
            if connection.poll(min(self._seconds, _WATCH_SECONDS)):
                return True
        return False

    def _processor_seconds(self) -> float:
        """Processor time that the process has used (proc(5): fields 14 and 15 of its stat file)."""
        if self._process is None:
            return 0.0
        fields = Path(f"/proc/{self._process.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def launch(self) -> None:
        """Start the process unless it runs, and do not wait for it: what goes wrong is told when it is needed."""
        if self._connection is not None and self._process is not None and self._process.poll() is None:
            return
        self.close()
        # pydicom's warnings repeat values of the header, which do not belong into a log
        command = [sys.executable, "-W", "ignore", "-m", "orthanc_plugin.reading.intake_process"]
        with contextlib.suppress(OSError):
            self._process, channel = start_child(command, [self._mailbox.descriptor])
            self._connection, self._ready = Connection(channel.detach()), False

    def start(self) -> Connection:
        """Start the process unless it runs, and wait until it takes instances.

        Raises
        ------
        IsolationFailed
        """
        self.launch()
        if self._connection is None:
            raise IsolationFailed("the process that reads images does not start: the system starts no further process")
        try:
            if not self._ready:
                self._ready = self._connection.poll(_START_SECONDS) and self._connection.recv() == "ready"
        except (EOFError, OSError):
            self._ready = False
        if not self._ready:
            self.close()
            raise IsolationFailed("the process that reads images does not start: its message is in the worker's log")
        return self._connection

    def close(self) -> None:
        """End the process, in the middle of an instance if need be; the next instance starts another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            end_child(self._process)
            self._process = None


class _Mailbox:
    """Memory without a name that both processes can reach, for what is too large for a socket.

    Only one side uses it at a time: the message that follows on the connection says that it is ready. It is gone with
    the last process that holds its descriptor, however that ends.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def new(cls) -> _Mailbox:
        mailbox = cls(os.memfd_create("hilum-intake"))
        weakref.finalize(mailbox, os.close, mailbox.descriptor)
        return mailbox

    def put(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write `parts` one after the other in place of what was there."""
        position = 0
        for part in parts:
            if os.pwrite(self.descriptor, part, position) != len(part):
                raise OSError("no room in memory for what is sent")
            position += len(part)

    def read(self, sizes: Sequence[int]) -> list[bytes]:
        """Read parts of these sizes, in bytes; the memory of more than `KEPT` is given back."""
        parts, position = [], 0
        for size in sizes:
            parts.append(os.pread(self.descriptor, size, position))
            if len(parts[-1]) != size:
                raise EOFError("less than was announced")
            position += size
        if position > KEPT:
            os.ftruncate(self.descriptor, 0)
        return parts

    def send(self, connection: Connection, answer: Any) -> None:
        """Pickle `answer`: its arrays into the memory, the rest through the connection."""
        arrays: list[pickle.PickleBuffer] = []
        message = pickle.dumps(answer, protocol=5, buffer_callback=arrays.append)
        parts = [array.raw() for array in arrays]
        self.put(parts)
        connection.send([len(part) for part in parts])
        connection.send_bytes(message)

    def take(self, connection: Connection) -> Any:
        """What `send` sent at the other end."""
        arrays = self.read(connection.recv())
        return pickle.loads(connection.recv_bytes(), buffers=arrays)  # noqa: S301  (from our own process)


def serve(connection: Connection, mailbox: _Mailbox) -> None:
    """Take in what comes until the other side closes; runs in the isolated process."""
    limit(resource.RLIMIT_AS, MEMORY_LIMIT)
    connection.send("ready")
    while True:
        try:
            size, policy, seconds = connection.recv()
        except (EOFError, ConnectionError):
            return
        # ends this process when one instance takes longer than anybody waits, even if nobody is left to wait for it
        signal.setitimer(signal.ITIMER_REAL, seconds * Patience.STRETCH + 1.0)
        (content,) = mailbox.read([size])
        answer: Intake | NotTakenIn
        try:
            answer = take_in(content, policy)
        except NotTakenIn as refusal:
            answer = refusal
        try:
            mailbox.send(connection, answer)
        except ConnectionError:
            return  # the worker has gone
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        del answer, content


def _intake(answer: Any) -> Intake:
    if not isinstance(answer, Intake):
        raise EOFError("not an intake")
    return answer


def _name_only(kind: type[BaseException], _error: BaseException, trace: TracebackType | None) -> None:
    """Say what was raised and where: an exception's own words may quote the header."""
    print(f"intake process: {kind.__name__} at {'; '.join(where(trace)[-3:])}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    settle(int(sys.argv[1]))
    sys.excepthook = _name_only
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    serve(Connection(int(sys.argv[1])), _Mailbox(int(sys.argv[2])))

"""The audit log, as it goes to the site's collector: what was not taken stays owed.

The rule: nobody waits for the collector. The log's own files are what is owed, and a file ``sent`` beside them names
the last entry that was taken, so that no memory is used however long it is away, and what one process did not send
the next one does. In order, and once: twice alone where the collector took a batch and nobody could note it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orthanc_plugin.access import syslog
from orthanc_plugin.access.audit_files import SENT, files_of, head_of, locked, write_whole
from orthanc_plugin.access.audit_messages import Sender, in_syslog
from orthanc_plugin.integration import Collector

_LOOK_SECONDS, _LONGEST_PAUSE_SECONDS = 2.0, 60.0
_BATCH = 200  # entries
log = logging.getLogger("hilum.audit")


@dataclass(frozen=True)
class Cursor:
    """Up to where entries were sent: the number of the last one, its file and where that goes on, in bytes."""

    number: int
    file: str
    offset: int


@dataclass(frozen=True)
class Standing:
    """How it stands with the collector.

    Parameters
    ----------
    owed
        Entries that it has not taken.
    sent
        Entries that it took since this process began.
    error
        Why it takes nothing; empty when it does.
    failing_seconds
        For how long.
    """

    owed: int = 0
    sent: int = 0
    error: str = ""
    failing_seconds: float = 0.0


def sender_of(collector: Collector | None) -> Sender:
    """What a collector knows this node by."""
    return Sender((collector and collector.source) or socket.gethostname(), collector.site if collector else "")


def owed(folder: Path) -> int | None:
    """How many entries wait to be sent; None where sending has not begun.

    Raises
    ------
    OSError
    """
    cursor, head = read_cursor(folder), head_of(folder)
    return None if cursor is None else max(0, (head.number if head else 0) - cursor.number)


def read_cursor(folder: Path) -> Cursor | None:
    """Up to where entries were sent; None where none was."""
    try:
        number, file, offset = (folder / SENT).read_text("ascii").split()
        return Cursor(int(number), file, int(offset))
    except (OSError, ValueError):
        return None


class AuditSending:
    """Sends what is in the log, in a thread of its own; without a collector it does nothing."""

    def __init__(
        self, folder: Path, collector: Collector | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._collector, self._clock = folder, collector, clock
        self._sender = sender_of(collector)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_sending, name="audit-sending", daemon=True)
        self._sent, self._error, self._failing_since = 0, "", 0.0

    def start(self) -> None:
        """Begin to send what is recorded from the first start on."""
        if self._collector is not None:
            self._thread.start()

    def stop(self, seconds: float = 3.0) -> None:
        """End; what is owed waits for the next start."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def standing(self) -> Standing:
        """How it stands."""
        if self._collector is None:
            return Standing()
        failing = self._clock() - self._failing_since if self._error else 0.0
        return Standing(owed(self._folder) or 0, self._sent, self._error, failing)

    def _keep_sending(self) -> None:
        failures = 0
        while not self._ended.is_set():
            try:
                more = self._send_some()
                if failures:
                    log.warning("the audit log's collector takes entries again")
                failures, self._error = 0, ""
            except Exception as error:  # noqa: BLE001  (whatever it is, the thread must live on)
                told = str(error) if isinstance(error, syslog.CollectorAway) else type(error).__name__
                if not failures:
                    self._failing_since = self._clock()
                if told != self._error:
                    log.warning("the audit log's collector takes nothing (%s); entries stay owed", told)
                failures, self._error, more = failures + 1, told, False
            if not more:
                self._ended.wait(min(_LOOK_SECONDS * 2 ** min(failures, 10), _LONGEST_PAUSE_SECONDS))

    def _send_some(self) -> bool:
        """Send the next entries; whether there may be more."""
        if self._collector is None:
            return False
        cursor = read_cursor(self._folder)
        if cursor is None:
            _note(self._folder, _end_of(self._folder))
            return False
        entries, reached = _next(self._folder, cursor)
        if reached == cursor:
            return False
        if entries:
            syslog.send(self._collector, [in_syslog(entry, self._sender, os.getpid()) for entry in entries])
        _note(self._folder, reached)
        self._sent += len(entries)
        return True


def _note(folder: Path, cursor: Cursor) -> None:
    write_whole(folder / SENT, f"{cursor.number} {cursor.file} {cursor.offset}\n")


def _end_of(folder: Path) -> Cursor:
    """Where the log ends now."""
    with locked(folder, shared=True):
        head, files = head_of(folder), files_of(folder)
        if head is None or not files:
            return Cursor(0, "000001.log", 0)
        return Cursor(head.number, files[-1].name, files[-1].stat().st_size)


def _next(folder: Path, cursor: Cursor) -> tuple[list[dict[str, Any]], Cursor]:
    """The entries after a place, as many as go at once, and the place that they lead to.

    What is no entry is passed over: that the log was tampered with is for ``./hilum audit verify`` to tell.
    """
    with locked(folder, shared=True):  # so that nobody takes away again what did not fit the disk
        files = files_of(folder)
        known = {file.name: file.stat().st_size for file in files}
        if known.get(cursor.file, -1) >= cursor.offset:
            files, offset, least = [file for file in files if file.name >= cursor.file], cursor.offset, 0
        else:  # it was removed, or is not what it was: from the oldest on, by number
            offset, least = 0, cursor.number + 1
        entries: list[dict[str, Any]] = []
        reached = cursor
        for file in files:
            with file.open("rb") as lines:
                lines.seek(offset)
                for line in lines:
                    if len(entries) == _BATCH:
                        return entries, reached
                    if not line.endswith(b"\n"):  # a machine that stopped did not finish it
                        break
                    offset += len(line)
                    entry = _entry(line)
                    if entry is not None and entry["n"] >= least:
                        entries.append(entry)
                    reached = Cursor(entry["n"] if entry else reached.number, file.name, offset)
            offset = 0
    return entries, reached


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("n"), int) else None

"""The audit log: who did what to which study, when, from where, and what came of it.

The rule: no name, ID or number of a patient, study UIDs only; a request never waits for it long, and what the disk
does not take is kept and tried again, while the node says so.

What is recorded: log-ins, wrong passwords and log-outs; each load of the worklist, which then refreshes itself for a
quarter of an hour under the same entry; each study that somebody opens (OHIF, DICOMweb, Orthanc's REST API), once in a
quarter of an hour for each person; each search; each change, and whatever was refused. Not recorded: thumbnails, the
single frames of a study that is open, and what the node's own worker does.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orthanc_plugin.access import audit_files

VIEW_SECONDS = 900.0  # for which one entry stands for what somebody goes on looking at
_MOST_WAITING = 100_000  # entries, 30 MB: hours of a full disk
_MOST_VIEWS = 20_000
_AGAIN_SECONDS = 1.0
_BATCH = 500
_UID = re.compile(r"[0-9.]{1,64}", re.ASCII)
log = logging.getLogger("hilum.audit")


@dataclass(frozen=True)
class Who:
    """Who did something, and from where.

    Parameters
    ----------
    name
        Of the account; empty when nobody is logged in.
    address
        IP address as Orthanc saw it, or the one that a proxy on this machine names.
    """

    name: str = ""
    role: str = ""
    address: str = ""


class Audit:
    """The audit log of this process; a thread of its own writes it.

    Parameters
    ----------
    folder
        Where its files are.
    longest
        Bytes of one file.
    clock
        Seconds since the epoch.
    """

    def __init__(self, folder: Path, *, longest: int, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._longest, self._clock = folder, longest, clock
        self._waiting: deque[dict[str, Any]] = deque()
        self._taken = self._written = 0
        self._lost = 0
        self._error: str | None = None
        self._changed = threading.Condition()
        self._ended = False
        self._views: OrderedDict[tuple[str, ...], float] = OrderedDict()
        self._thread = threading.Thread(target=self._write_all, name="audit", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self, seconds: float = 3.0) -> None:
        """Write what waits, and end."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def problem(self) -> tuple[str, int] | None:
        """Why the log cannot be written, and how many entries wait or are lost; None when all is well."""
        with self._changed:
            return None if self._error is None else (self._error, len(self._waiting) + self._lost)

    def record(
        self,
        action: str,
        who: Who,
        study_instance_uid: str = "",
        *,
        outcome: str = "done",
        detail: str = "",
        wait_seconds: float = 0.0,
    ) -> bool:
        """Record something that was done, or refused.

        Parameters
        ----------
        study_instance_uid
            Empty when it is about no study, or about several.
        detail
            A few words of ours: never what a person typed, and nothing of a patient.
        wait_seconds
            A change waits so long until the disk has it.

        Returns
        -------
        bool
            False when it was waited for and not written: the caller says so. It is kept and tried again.
        """
        entry = {
            "time": datetime.fromtimestamp(self._clock(), UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "who": who.name,
            "role": who.role,
            "address": who.address,
            "action": action,
            "study": study_instance_uid if _UID.fullmatch(study_instance_uid) else "",
            "outcome": outcome,
            "detail": detail,
        }
        with self._changed:
            if len(self._waiting) >= _MOST_WAITING:
                self._lost += 1
                return False
            self._waiting.append(entry)
            self._taken += 1
            mine = self._taken
            self._changed.notify_all()
            if wait_seconds:
                return self._changed.wait_for(lambda: self._written >= mine, wait_seconds)
        return True

    def record_view(
        self, action: str, who: Who, study_instance_uid: str = "", *, outcome: str = "done", detail: str = ""
    ) -> None:
        """Record that somebody looks at something, once in `VIEW_SECONDS`."""
        key, now = (action, who.name, who.address, study_instance_uid, outcome, detail), self._clock()
        with self._changed:
            if abs(now - self._views.get(key, -VIEW_SECONDS)) < VIEW_SECONDS:
                return
            self._views[key] = now
            self._views.move_to_end(key)
            while len(self._views) > _MOST_VIEWS:
                self._views.popitem(last=False)
        self.record(action, who, study_instance_uid, outcome=outcome, detail=detail)

    def forget_views(self, who: Who) -> None:
        """Whatever this person looks at from now on is recorded again: they logged in, or out, or loaded the page."""
        with self._changed:
            for key in [key for key in self._views if key[1] == who.name]:
                del self._views[key]

    def forget_view(self, action: str, who: Who) -> None:
        """The next view of this kind is recorded, although one was a moment ago."""
        with self._changed:
            self._views.pop((action, who.name, who.address, "", "done", ""), None)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                batch = [self._waiting[i] for i in range(min(_BATCH, len(self._waiting)))]
                lost = self._lost
            if not batch:
                return
            if lost:  # a gap says itself, before what came after it
                batch.append(_gap(self._clock(), lost))
            try:
                audit_files.append(self._folder, batch, longest=self._longest)
            except Exception as error:  # noqa: BLE001  (whatever it is, the thread must live on)
                log.warning("the audit log cannot be written (%s); it is tried again", type(error).__name__)
                with self._changed:
                    self._error = type(error).__name__ if not isinstance(error, OSError) else str(error.strerror)
                    if self._changed.wait_for(lambda: self._ended, _AGAIN_SECONDS):
                        return
                continue
            with self._changed:
                written = len(batch) - bool(lost)
                for _ in range(written):
                    self._waiting.popleft()
                self._written += written
                self._lost -= lost
                self._error = None
                self._changed.notify_all()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _gap(now: float, lost: int) -> dict[str, Any]:
    nobody = {"who": "", "role": "", "address": "", "action": "audit_gap", "study": ""}
    return {"time": _time(now), **nobody, "outcome": "lost", "detail": f"{lost} entries could not be kept"}

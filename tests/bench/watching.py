"""Watches a running node from outside: when a study's row is flagged, and when each of its results is in Orthanc.

The rule: a moment is when somebody who asks would see it. The ledger, from which every page is made, and Orthanc's feed
of changes are asked every `STEP_SECONDS`, by which a moment may be late; what an object is, is asked afterwards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydicom.uid import BasicTextSRStorage, Comprehensive3DSRStorage, SegmentationStorage

from orthanc_plugin.archive.client import OrthancClient
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.ledger.database import open_ledger
from orthanc_plugin.ledger.views import priorities
from orthanc_plugin.settings import Settings

STEP_SECONDS = 0.02
_ENDED = ("done", "not_processed", "quarantined")
_RESULTS: Mapping[str, str] = {Comprehensive3DSRStorage: "SR", SegmentationStorage: "SEG", BasicTextSRStorage: "report"}


@dataclass
class Course:
    """What was seen of one study: seconds since 1970, None where it was not seen.

    Parameters
    ----------
    answered_at
        When the response to its last C-STORE came.
    flagged_at
        When its row told a priority, provisional or final; at its end where the models that run tell none.
    stored_at
        When each kind of result was first in Orthanc: ``SR``, ``SEG``, ``report``.
    """

    answered_at: float
    flagged_at: float | None = None
    ended_at: float | None = None
    status: str = ""
    stored_at: dict[str, float] = field(default_factory=dict)

    def seconds(self, moment: str) -> float | None:
        """From the last response to ``flagged``, ``objects`` (SR and SEG) or ``report``; None when it did not come."""
        at = {"flagged": self.flagged_at, "report": self.stored_at.get("report")}.get(moment)
        if moment == "objects" and {"SR", "SEG"} <= set(self.stored_at):
            at = max(self.stored_at["SR"], self.stored_at["SEG"])
        return None if at is None else at - self.answered_at


class Watch:
    """A thread that watches a node, each `step` seconds. A context manager; ask for `courses` after it."""

    def __init__(self, settings: Settings, step: float = STEP_SECONDS) -> None:
        self._step = step
        accounts = load_credentials(settings.credentials)
        self._ledger = open_ledger(settings.ledger_address)
        self._orthanc = OrthancClient(settings.http_url, accounts.worker_user, accounts.worker_password)
        self._seen: list[tuple[str, float]] = []
        self._courses: dict[str, Course] = {}
        self._pending: set[str] = set()
        self._enough, self._changed = threading.Event(), threading.Condition()
        self._last = self._orthanc.last_change()
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()
        self._look()
        self._name()
        self._ledger.close()
        self._orthanc.__exit__()

    @property
    def courses(self) -> list[Course]:
        """What was seen, in the order of `follow`."""
        return list(self._courses.values())

    def follow(self, study_instance_uid: str, answered_at: float) -> None:
        """Watch a study whose last image was acknowledged."""
        self._courses[study_instance_uid] = Course(answered_at)
        with self._changed:
            self._pending.add(study_instance_uid)

    def wait(self, seconds: float, left: int = 0) -> bool:
        """Until no more than `left` studies have not ended; False when that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._pending) <= left, seconds)

    def _work(self) -> None:
        while not self._enough.is_set():
            started = time.monotonic()
            self._look()
            self._enough.wait(max(0.001, self._step - (time.monotonic() - started)))

    def _look(self) -> None:
        pending = list(self._pending)
        with self._ledger.read() as db:
            rows = priorities(db, pending)
        now = time.time()
        for uid, row in rows.items():
            course, course.status = self._courses[uid], row["status"]
            if course.flagged_at is None and (row["priority"] != "none" or row["status"] in _ENDED):
                course.flagged_at = now
            if row["status"] in _ENDED:
                course.ended_at = now
                with self._changed:
                    self._pending.discard(uid)
                    self._changed.notify_all()
        page = self._orthanc.changes(self._last)
        self._last, now = page.last, time.time()
        self._seen += [(stored.instance, now) for stored in page.stored]

    def _name(self) -> None:
        """Tell what was stored, and of which study: nobody waits for it any more."""
        for instance, at in self._seen:
            tags = self._orthanc.tags(instance)
            kind = _RESULTS.get(_uid(tags.get("SOPClassUID")))
            if kind and (course := self._courses.get(str(tags.get("StudyInstanceUID")))):
                course.stored_at.setdefault(kind, at)


def _uid(value: object) -> str:
    return str(value or "").rstrip("\0 ")


def seconds_of(courses: Sequence[Course], moment: str) -> list[float]:
    """Of all studies that came so far.

    Raises
    ------
    SystemExit
        When one of them did not: then there is something to mend, and nothing to time.
    """
    taken = [course.seconds(moment) for course in courses]
    if missing := sum(seconds is None for seconds in taken):
        states = sorted({course.status or "unknown" for course in courses})
        raise SystemExit(f"{missing} of {len(courses)} studies never came so far as: {moment} ({', '.join(states)})")
    return [seconds for seconds in taken if seconds is not None]

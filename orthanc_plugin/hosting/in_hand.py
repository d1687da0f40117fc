"""A study stays in the hands of whoever looks at it: what they ask for of it prolongs their claim.

The rule: no request waits for it. It is written by a thread of its own, once a minute for each person and study, and
only where they have the study in hand; what is lost here is only that a claim ends as it would have.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress

from orthanc_plugin.ledger import marks
from orthanc_plugin.ledger.database import Ledger

_ONCE_SECONDS = 60.0
_MOST_KNOWN = 2000  # persons with a study that they look at
_MOST_WAITING = 200
log = logging.getLogger("hilum.in_hand")


class InHand:
    """Prolongs claims.

    Parameters
    ----------
    seconds
        For which a claim goes on.
    """

    def __init__(self, ledger: Ledger, *, seconds: float) -> None:
        self._ledger, self._seconds = ledger, seconds
        self._seen: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._waiting: queue.Queue[tuple[str, str, float] | None] = queue.Queue(_MOST_WAITING)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._write_all, name="in-hand", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self, seconds: float = 3.0) -> None:
        """Write what waits, and end."""
        self._put(None)
        if self._thread.is_alive():
            self._thread.join(seconds)

    def looked_at(self, user: str, studies: Iterable[str], now: float) -> None:
        """Note that somebody asked for something of these studies."""
        for study in studies:
            if user and self._is_due((user, study), now):
                self._put((user, study, now))

    def _is_due(self, key: tuple[str, str], now: float) -> bool:
        with self._lock:
            if abs(now - self._seen.get(key, -_ONCE_SECONDS)) < _ONCE_SECONDS:
                return False
            self._seen[key] = now
            self._seen.move_to_end(key)
            while len(self._seen) > _MOST_KNOWN:
                self._seen.popitem(last=False)
            return True

    def _put(self, item: tuple[str, str, float] | None) -> None:
        with suppress(queue.Full):  # the ledger does not answer: more would not help
            self._waiting.put_nowait(item)

    def _write_all(self) -> None:
        while (item := self._waiting.get()) is not None:
            user, study, now = item
            try:
                with self._ledger.read() as db:
                    held = marks.is_held(db, study, user, now=now)
                if held:
                    with self._ledger.write() as db:
                        marks.keep_claim(db, study, user, now=now, seconds=self._seconds)
            except Exception as error:  # noqa: BLE001  (whatever it is, the thread must live on)
                log.warning("a claim could not be prolonged (%s)", type(error).__name__)

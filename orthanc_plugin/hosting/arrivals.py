"""What came by C-STORE or HTTP, put into the ledger, now or as soon as the ledger answers.

The rule: an image is taken whatever the ledger does. An arrival that cannot be written is remembered and written later;
what a death in between loses, reconciliation finds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from orthanc_plugin.failpoints import reach
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import Ledger, LedgerError, StatementRejected, migrate
from orthanc_plugin.ledger.ownership import require_archive
from orthanc_plugin.ledger.tasks import Arrival

log = logging.getLogger("hilum.arrivals")

_REMEMBERED_STUDIES = 20_000  # about 20 MB; those beyond are left to reconciliation
_AGAIN_SECONDS = 1.0
_LOOK_SECONDS = 10.0  # while all is well: is it still our ledger?


class Arrivals:
    """The way into the ledger; every method may be called from any thread, and none raises `LedgerError`.

    Parameters
    ----------
    archive_id_file
        See ``Settings.archive_id_file``.
    wake
        Called after a study was put into the ledger.
    """

    def __init__(self, ledger: Ledger, archive_id_file: Path, wake: Callable[[], None]) -> None:
        self._ledger, self._archive_id_file, self._wake = ledger, archive_id_file, wake
        self._error: LedgerError | None = None
        self._begun = False
        self._remembered: dict[str, Arrival] = {}
        self._received = 0
        self._lock = threading.Lock()
        # SQLite has one writer: here they queue, in SQLite they would sleep and try again
        self._turn = threading.Lock() if ledger.path is not None else nullcontext()
        self._trouble, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep_trying, name="arrivals", daemon=True)

    @property
    def error(self) -> LedgerError | None:
        """Why the ledger cannot be used now; None when it can."""
        return self._error

    @property
    def waiting(self) -> int:
        """Studies that are remembered here because the ledger did not take them."""
        return len(self._remembered)

    @property
    def received(self) -> int:
        """Images that were recorded here."""
        return self._received

    def start(self) -> None:
        """Prepare the ledger, and keep trying in the background where that fails."""
        self.settle()
        self._thread.start()

    def stop(self) -> None:
        """Write what is remembered, if the ledger takes it, and end."""
        self._stopping.set()
        self._trouble.set()
        if self._thread.is_alive():
            self._thread.join()

    def record(self, arrival: Arrival) -> None:
        """Put a study into the ledger because an image of it was stored."""
        with self._lock:
            self._received += 1
        # after a failure nobody waits for the ledger's time-out again: the background finds out when it is back
        if self._error is not None or not self._put(arrival):
            self._remember(arrival)

    def settle(self) -> None:
        """Use the ledger if it can be used, and put into it what is remembered."""
        try:
            migrate(self._ledger)
            require_archive(self._ledger, self._archive_id_file)
            if not self._begun:
                with self._ledger.write() as db:
                    tasks.forget_workers(db)
        except LedgerError as error:
            self._note(error)
            return
        if self._error is not None:
            log.warning("the ledger can be used again; studies to put into it: %d", len(self._remembered))
        self._begun, self._error = True, None
        for arrival in list(self._remembered.values()):
            if not self._put(arrival):
                return
            with self._lock:
                if self._remembered.get(arrival.study_instance_uid) is arrival:
                    del self._remembered[arrival.study_instance_uid]

    def _put(self, arrival: Arrival) -> bool:
        try:
            try:
                self._write(arrival)
            except (StatementRejected, ValueError):
                # a value that no database takes: the study counts, what the worklist says of it comes second
                log.warning("a header cannot be kept", extra={"study_instance_uid": arrival.study_instance_uid})
                self._write(Arrival(arrival.study_instance_uid))
        except (StatementRejected, ValueError):
            log.exception("left to reconciliation")
        except LedgerError as error:
            self._note(error)
            return False
        self._wake()
        return True

    def _write(self, arrival: Arrival) -> None:
        with self._turn, self._ledger.write() as db:
            tasks.enqueue(db, arrival, now=time.time())
        reach("enqueued")

    def _remember(self, arrival: Arrival) -> None:
        with self._lock:
            if len(self._remembered) < _REMEMBERED_STUDIES or arrival.study_instance_uid in self._remembered:
                self._remembered[arrival.study_instance_uid] = arrival
                return
        log.error("too many studies to remember, left to reconciliation",
                  extra={"study_instance_uid": arrival.study_instance_uid})  # fmt: skip

    def _note(self, error: LedgerError) -> None:
        if type(error) is not type(self._error):
            log.error("the ledger cannot be used: %s", error)
        self._error = error
        self._trouble.set()

    def _keep_trying(self) -> None:
        while not self._stopping.is_set():
            if self._error is None and not self._remembered:
                self._trouble.wait(_LOOK_SECONDS)
                self._trouble.clear()
            else:
                self._stopping.wait(_AGAIN_SECONDS)
            try:
                self.settle()
            except Exception:  # this thread is what makes an outage end
                log.exception("the ledger could not be looked at")

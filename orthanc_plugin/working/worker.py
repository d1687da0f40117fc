"""The worker: takes studies from the ledger, has processes read them that may die of them, and records what came out.

The rule: it may die at any line, and never gives up by itself. Nothing is recorded as done before Orthanc holds the
results, and doing the work again gives objects with the same identifiers. What is away, be it the ledger, Orthanc or
the models, is named and waited for.

Threads: one for each reading process, which claims a task when its process is ready for one; and one that prolongs the
leases of all tasks in hand and says that the worker lives; one that compares Orthanc with the ledger (``rounds``); and
one that tells people of critical results (``notifying``); those that deliver results (``delivery.keeping``); and one
that learns which models a site chose at another server (``shared_files``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection

from orthanc_plugin.delivery.keeping import keep_delivering
from orthanc_plugin.failpoints import reach
from orthanc_plugin.ledger import counters, reprocessing, tasks
from orthanc_plugin.ledger.counters import Count
from orthanc_plugin.ledger.counting import CLUSTER_LOST, WORKER_STARTED
from orthanc_plugin.ledger.database import LedgerUnavailable, LedgerUnusable, StatementRejected, migrate, open_ledger
from orthanc_plugin.ledger.flagging import Flag, flag
from orthanc_plugin.ledger.ownership import require_archive
from orthanc_plugin.ledger.shared_files import ACTIVE_MODELS, keep_in_step
from orthanc_plugin.ledger.tasks import ClaimLost, InferenceTask
from orthanc_plugin.ledger.views import count_due
from orthanc_plugin.settings import Settings
from orthanc_plugin.working.condition import Condition
from orthanc_plugin.working.demand import Limits
from orthanc_plugin.working.notifying import keep_telling
from orthanc_plugin.working.ray_link import COMMAND as RAY_COMMAND
from orthanc_plugin.working.ray_link import RayLink
from orthanc_plugin.working.reader import Readers
from orthanc_plugin.working.reading_process import COMMAND, ReadingProcesses
from orthanc_plugin.working.retry_policy import LONGEST_PAUSE_SECONDS, OUTAGES, pause_seconds
from orthanc_plugin.working.rounds import keep_reconciled
from orthanc_plugin.working.seat import InHand, Seat

log = logging.getLogger("hilum.worker")
T = TypeVar("T")

_BEAT_SECONDS = 5.0  # the worklist calls a worker silent after three of them
_FINISH_SECONDS = 8.0  # which a study in hand gets when the worker is to end; the supervisor kills after ten
_LEDGER_PAUSE_SECONDS = 3.0  # at most, between two looks for a ledger that is away
_ABANDONED_LIMIT = 20  # workers that may die on one study


class Worker:
    """All threads of one worker, and what they share.

    Parameters
    ----------
    worker_id
        Its name in the ledger. Whoever gives two workers one name, one after the other, vouches that the first is dead:
        the second takes its tasks at once.
    beat
        Called every few seconds, by which whoever started this knows that it does not hang.
    command
        Of the fork server of reading processes, or of the process that speaks with Ray; None: the usual one.
    """

    def __init__(
        self,
        settings: Settings,
        worker_id: str,
        command: Sequence[str] | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings, self.worker_id, self._tell_alive = settings, worker_id, beat
        self.rang, self.heard, self.stopping = threading.Event(), threading.Event(), threading.Event()
        self._ledger = open_ledger(settings.ledger_address)
        self._usable, self._told = threading.Event(), ""  # of the ledger: that it can be used, and why it cannot
        self._inherited = False  # whether the leases of a worker that had this name were ended
        self._finish_by, self._pauses_ended = float("inf"), float("-inf")
        self._in_hand: set[InHand] = set()
        self._lock, self._news = threading.Lock(), threading.Event()
        self.condition = Condition(self._news.set)
        self._threads = [threading.Thread(target=self._keep, name="ledger", daemon=True)]
        self._link = self._new_link(command or RAY_COMMAND) if settings.executor == "ray" else None
        readers: Sequence[Readers] = (
            [ReadingProcesses(settings.memory_mb, command or COMMAND) for _ in range(settings.workers)]
            if self._link is None
            else self._link.seats()
        )
        for number, each in enumerate(readers):
            seat = Seat(self, each, takes_archive=partial(self._takes_archive, number))
            self._threads.append(threading.Thread(target=seat.run, name=f"reader-{number + 1}", daemon=True))

    def _takes_archive(self, seat: int) -> bool:
        """Whether a seat does: the first of several is there for what comes. On Ray there are as many as actors."""
        return seat > 0 or (self.settings.workers if self._link is None else self._link.places) <= 1

    def start(self) -> None:
        """Start all threads."""
        for thread in self._threads:
            thread.start()
        if self._link is not None:
            self._link.start()
        rounds = (self.settings, self._ledger, self.rang.set, self.stopping)
        threading.Thread(target=keep_reconciled, args=rounds, name="rounds", daemon=True).start()
        chosen = (self.settings, self._ledger, (ACTIVE_MODELS,), self.stopping)
        threading.Thread(target=keep_in_step, args=chosen, name="shared files", daemon=True).start()
        telling = (self.settings, self._ledger, self.stopping)
        threading.Thread(target=keep_telling, args=telling, name="notices", daemon=True).start()
        keep_delivering(self.settings, self._ledger, self.worker_id, self.stopping)

    def stop(self) -> None:
        """Claim nothing more, let what is in hand finish for `_FINISH_SECONDS`, give the rest back, and return."""
        self._finish_by = time.monotonic() + _FINISH_SECONDS
        self.stopping.set()
        self.rang.set()
        self._news.set()
        for thread in self._threads:
            thread.join(max(0.0, self._finish_by + 1.5 - time.monotonic()))
        if self._link is not None:
            self._link.stop()

    @property
    def out_of_time(self) -> bool:
        """Whether the worker is to end, and what is in hand was given its time."""
        return self.stopping.is_set() and time.monotonic() > self._finish_by

    # -- what the readers say

    def chosen(self) -> bytes:
        """What the site has chosen of the models, to notice a change; empty when it has chosen nothing."""
        try:
            return self.settings.active_models.read_bytes()
        except OSError:
            return b""

    def look(self) -> None:
        """A reader is about to look for work: what rings from now on is news to it."""
        self.rang.clear()
        self.heard.set()

    # -- the ledger

    def claim(self, *, archive: bool) -> InHand | None:
        """Take the next task; None when nothing is due, or the ledger is away.

        Parameters
        ----------
        archive
            Whether it may be one of a run through the archive (``ledger.reprocessing``).
        """
        if not self._usable.is_set():
            return None
        try:
            task = self._write(lambda db: self._claim(db, archive=archive))
        except (LedgerUnavailable, LedgerUnusable) as error:
            self._ledger_failed(error)
            self._news.set()
            return None
        if task is None:
            return None
        held = InHand(task)
        with self._lock:
            self._in_hand.add(held)
        reach("claimed")
        self.rang.set()  # there may be more for the other readers
        return held

    def _claim(self, db: Connection, *, archive: bool) -> InferenceTask | None:
        now, lease = time.time(), self.settings.lease_seconds
        limits: Any = {"lease_seconds": lease, "abandoned_limit": _ABANDONED_LIMIT, "archive": archive}
        task = tasks.claim(db, self.worker_id, now=now, **limits)
        if task is None and archive and reprocessing.queue_next(db, now=now):
            task = tasks.claim(db, self.worker_id, now=now, **limits)
        return task

    def put_down(self, held: InHand) -> None:
        """Prolong the lease of a task no more."""
        with self._lock:
            self._in_hand.discard(held)
        if self.stopping.is_set():
            self._news.set()

    def record(self, held: InHand, change: Callable[[Connection], None]) -> bool:
        """Write what became of a task, however long the ledger is away; False when that came to nothing.

        Then another worker has the task; or this one was to end first, and the task is done again by the next.
        """
        tries = 0
        while True:
            try:
                self._write(change)
                return True
            except ClaimLost:
                held.lost.set()
                break
            except (LedgerUnavailable, LedgerUnusable) as error:
                self._ledger_failed(error)
                self._news.set()
                if self.out_of_time:
                    break
                tries += 1
                time.sleep(pause_seconds(tries, 0.2, _LEDGER_PAUSE_SECONDS))
        why = "claim lost, work dropped" if held.lost.is_set() else "the ledger is away, work left to the next worker"
        log.warning(why, extra=held.about)
        return False

    def flag(self, held: InHand, raised: Flag) -> None:
        """Raise a study before its results are stored, if the ledger can be written to now; its answer comes anyhow."""
        with suppress(LedgerUnavailable, LedgerUnusable, StatementRejected):
            self._write(lambda db: flag(db, held.task, raised, now=time.time()))

    def outage_over(self) -> None:
        """What waits because of an outage is due now; seldom, for some of it may fail by its own doing."""
        if (now := time.monotonic()) - self._pauses_ended > LONGEST_PAUSE_SECONDS:
            self._pauses_ended = now
            with suppress(LedgerUnavailable, LedgerUnusable):  # each comes when its own pause is over
                self._write(_end_pauses)
                self.rang.set()

    def _new_link(self, command: Sequence[str]) -> RayLink:
        settings = self.settings
        limits = Limits(settings.ray_actors_least, settings.ray_actors_most, settings.ray_studies)
        return RayLink(limits, self.condition, self._count_waiting, self._cluster_lost, command)

    def _count_waiting(self, most: int) -> int:
        """Tasks that are due, counted up to a number; LedgerUnavailable or LedgerUnusable when that is not known."""
        with self._ledger.read() as db:
            return count_due(db, now=time.time(), most=most)

    def _cluster_lost(self) -> None:
        with suppress(LedgerUnavailable, LedgerUnusable):
            self._write(lambda db: counters.add(db, [Count(CLUSTER_LOST)]))

    def _write(self, change: Callable[[Connection], T]) -> T:
        with self._ledger.write() as db:
            return change(db)

    def _ledger_failed(self, error: LedgerUnavailable | LedgerUnusable) -> None:
        self._usable.clear()
        if str(error) != self._told:
            log.error("nothing can be claimed or recorded: %s", error)
            self._told = str(error)

    def _keep(self) -> None:
        """Prepare the ledger whenever it can be used again, and from then on tell it every few seconds that we live."""
        failures = 0
        while not self.stopping.is_set() or self._in_hand:
            self._tell_alive()
            try:
                away = not self._usable.is_set()
                if away:
                    migrate(self._ledger)
                    require_archive(self._ledger, self.settings.archive_id_file)
                if not self._inherited:
                    self._write(lambda db: tasks.end_leases(db, self.worker_id))
                    self._write(_end_pauses)  # whoever starts a worker has mended something
                    self._write(lambda db: counters.add(db, [Count(WORKER_STARTED)]))
                    self._inherited = True
                self._beat()
                if away:  # only now: the leases of what is in hand may have run out meanwhile
                    if self._told:
                        log.warning("the ledger can be used again")
                    self._told = ""
                    self._usable.set()
                    self.rang.set()
                failures = 0
            except (LedgerUnavailable, LedgerUnusable) as error:
                self._ledger_failed(error)
                failures += 1
            except Exception:  # a defect here must not let every lease run out
                log.exception("a heartbeat failed")
                failures += 1
            beat = min(self.settings.lease_seconds / 4, _BEAT_SECONDS)
            self._news.wait(pause_seconds(failures, 0.2, _LEDGER_PAUSE_SECONDS) if failures else beat)
            self._news.clear()

    def _beat(self) -> None:
        with self._lock:
            held = list(self._in_hand)
        state, versions, problem = self.condition.told()
        self._write(
            lambda db: tasks.report_worker(
                db, self.worker_id, state, versions, now=time.time(), problem=problem, busy=len(held)
            )
        )
        for each in held:
            self._prolong(each)

    def _prolong(self, held: InHand) -> None:
        seconds = self.settings.lease_seconds
        try:
            self._write(lambda db: tasks.heartbeat(db, held.task, now=time.time(), lease_seconds=seconds))
        except ClaimLost:
            held.lost.set()  # or it was answered a moment ago


def _end_pauses(db: Connection) -> None:
    tasks.end_pauses(db, sorted(OUTAGES), now=time.time())

"""The worker: takes studies from the ledger, has processes read them that may die of them, and records what came out.

The rule: it may die at any line, and never gives up by itself. Nothing is recorded as done before Orthanc holds the
results, and doing the work again gives objects with the same identifiers. What is away, be it the ledger, Orthanc or
the models, is named and waited for.

Threads: one for each reading process, which claims a task when its process is ready for one; and one that prolongs the
leases of all tasks in hand and says that the worker lives; one that compares Orthanc with the ledger (``rounds``); and
one that tells people of critical results (``notifying``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import Connection

from orthanc_plugin.failpoints import reach
from orthanc_plugin.fork_server import ForkServer
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import LedgerUnavailable, LedgerUnusable, StatementRejected, migrate, open_ledger
from orthanc_plugin.ledger.ownership import require_archive
from orthanc_plugin.ledger.tasks import ClaimLost, Failure, InferenceTask, Outcome
from orthanc_plugin.settings import Settings
from orthanc_plugin.working.condition import Condition
from orthanc_plugin.working.notifying import keep_telling
from orthanc_plugin.working.reading_process import COMMAND, Abandoned, ModelsUnusable, NotReady, ReadingProcess
from orthanc_plugin.working.retry_policy import LONGEST_PAUSE_SECONDS, OUTAGES, next_try, pause_seconds
from orthanc_plugin.working.rounds import keep_reconciled

log = logging.getLogger("hilum.worker")
T = TypeVar("T")

_POLL_SECONDS = 0.5
_BEAT_SECONDS = 5.0  # the worklist calls a worker silent after three of them
_FINISH_SECONDS = 8.0  # which a study in hand gets when the worker is to end; the supervisor kills after ten
_LEDGER_PAUSE_SECONDS = 3.0  # at most, between two looks for a ledger that is away
_ORTHANC_PAUSE_SECONDS = 10.0  # at most, before another study is tried while Orthanc is away
_ABANDONED_LIMIT = 20  # workers that may die on one study

_OF_THE_NODE = frozenset({"orthanc_unavailable", "storage_full"})  # the next study would meet the same


@dataclass(frozen=True, eq=False)
class _InHand:
    """A task that a reading process is at; `lost` when the ledger gave it to another worker."""

    task: InferenceTask
    lost: threading.Event = field(default_factory=threading.Event)

    @property
    def about(self) -> dict[str, object]:
        """What the log says of it."""
        task = self.task
        return {"study_instance_uid": task.study_instance_uid, "fence": task.fence, "attempt": task.failures + 1}


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
        Of the fork server of reading processes, see ``reading_process``.
    """

    def __init__(
        self,
        settings: Settings,
        worker_id: str,
        command: Sequence[str] = COMMAND,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings, self.worker_id, self.command, self._tell_alive = settings, worker_id, command, beat
        self.rang, self.heard, self.stopping = threading.Event(), threading.Event(), threading.Event()
        self._ledger = open_ledger(settings.ledger_address)
        self._usable, self._told = threading.Event(), ""  # of the ledger: that it can be used, and why it cannot
        self._inherited = False  # whether the leases of a worker that had this name were ended
        self._finish_by, self._pauses_ended = float("inf"), float("-inf")
        self._in_hand: set[_InHand] = set()
        self._lock, self._news = threading.Lock(), threading.Event()
        self.condition = Condition(self._news.set)
        self._threads = [threading.Thread(target=self._keep, name="ledger", daemon=True)]
        for number in range(settings.workers):
            self._threads.append(threading.Thread(target=_Seat(self).run, name=f"reader-{number + 1}", daemon=True))

    def start(self) -> None:
        """Start all threads."""
        for thread in self._threads:
            thread.start()
        rounds = (self.settings, self._ledger, self.rang.set, self.stopping)
        threading.Thread(target=keep_reconciled, args=rounds, name="rounds", daemon=True).start()
        telling = (self.settings, self._ledger, self.stopping)
        threading.Thread(target=keep_telling, args=telling, name="notices", daemon=True).start()

    def stop(self) -> None:
        """Claim nothing more, let what is in hand finish for `_FINISH_SECONDS`, give the rest back, and return."""
        self._finish_by = time.monotonic() + _FINISH_SECONDS
        self.stopping.set()
        self.rang.set()
        self._news.set()
        for thread in self._threads:
            thread.join(max(0.0, self._finish_by + 1.5 - time.monotonic()))

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

    def claim(self) -> _InHand | None:
        """Take the next task; None when nothing is due, or the ledger is away."""
        settings = self.settings
        if not self._usable.is_set():
            return None
        try:
            task = self._write(
                lambda db: tasks.claim(
                    db,
                    self.worker_id,
                    now=time.time(),
                    lease_seconds=settings.lease_seconds,
                    abandoned_limit=_ABANDONED_LIMIT,
                )
            )
        except (LedgerUnavailable, LedgerUnusable) as error:
            self._ledger_failed(error)
            self._news.set()
            return None
        if task is None:
            return None
        held = _InHand(task)
        with self._lock:
            self._in_hand.add(held)
        reach("claimed")
        self.rang.set()  # there may be more for the other readers
        return held

    def put_down(self, held: _InHand) -> None:
        """Prolong the lease of a task no more."""
        with self._lock:
            self._in_hand.discard(held)
        if self.stopping.is_set():
            self._news.set()

    def record(self, held: _InHand, change: Callable[[Connection], None]) -> bool:
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

    def outage_over(self) -> None:
        """What waits because of an outage is due now; seldom, for some of it may fail by its own doing."""
        if (now := time.monotonic()) - self._pauses_ended > LONGEST_PAUSE_SECONDS:
            self._pauses_ended = now
            with suppress(LedgerUnavailable, LedgerUnusable):  # each comes when its own pause is over
                self._write(_end_pauses)
                self.rang.set()

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

    def _prolong(self, held: _InHand) -> None:
        seconds = self.settings.lease_seconds
        try:
            self._write(lambda db: tasks.heartbeat(db, held.task, now=time.time(), lease_seconds=seconds))
        except ClaimLost:
            held.lost.set()  # or it was answered a moment ago


def _end_pauses(db: Connection) -> None:
    tasks.end_pauses(db, sorted(OUTAGES), now=time.time())


class _Seat:
    """One reading process after the other, and the tasks that they are given."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self._settings = worker, worker.settings
        self._troubles = 0  # processes in a row that died before they had read anything
        self._outages = 0  # studies in a row that met one

    def run(self) -> None:
        """Work until the worker is to end."""
        with ForkServer(self._worker.command) as server:
            self._run(server)

    def _run(self, server: ForkServer) -> None:
        stopping = self._worker.stopping
        while not stopping.is_set():
            chosen = self._worker.chosen()  # before they are loaded, so that no change is missed
            try:
                with ReadingProcess(self._settings.memory_mb, stopping.is_set, server) as process:
                    self._worker.condition.ready(process.versions)
                    self._serve(process, chosen)
            except Abandoned:
                return
            except NotReady as error:
                log.error("nothing is read: %s", error)
                if isinstance(error, ModelsUnusable):
                    self._worker.condition.problem("models_unusable")
                elif self._troubles:  # one that was killed is no problem yet
                    self._worker.condition.problem("reader_dies")
                self._pause(chosen)
            except Exception:  # the worker goes on, whatever it meets
                log.exception("a reader failed")
                self._pause()

    def _serve(self, process: ReadingProcess, chosen: bytes) -> None:
        """Give tasks to a process for as long as it lives, and other models were not chosen."""
        worker = self._worker
        while not worker.stopping.is_set():
            if worker.chosen() != chosen:
                log.info("other models were chosen: the next study is read with them", extra={"pid": process.pid})
                return
            if not process.lives():
                log.warning("a reading process died while it had nothing to do", extra={"pid": process.pid})
                if self._troubles:
                    worker.condition.problem("reader_dies")
                self._pause()
                return
            worker.look()
            held = worker.claim()
            if held is None:
                if not worker.rang.wait(_POLL_SECONDS) and process.lives():
                    worker.condition.solved("reader_dies")
                continue
            try:
                self._attempt(held, process)
            finally:
                worker.put_down(held)
            if self._outages:
                worker.stopping.wait(pause_seconds(self._outages, 1.0, _ORTHANC_PAUSE_SECONDS))
            if not process.lives():
                return  # the next one is started at once

    def _attempt(self, held: _InHand, process: ReadingProcess) -> None:
        """Have one task read, and record what became of it."""
        worker, started = self._worker, time.monotonic()
        try:
            answer = process.read(
                held.task, self._settings.study_seconds, lambda: held.lost.is_set() or worker.out_of_time
            )
        except Abandoned:
            self._give_back(held)
            return
        except NotReady:
            self._give_back(held)
            raise
        self._troubles = 0
        worker.condition.solved("reader_dies")
        reach("outcome_received")
        if isinstance(answer, Outcome):
            self._answer(held, answer, time.monotonic() - started)
        elif worker.stopping.is_set() and answer.reason in OUTAGES:
            self._give_back(held)  # Orthanc is ending as well
        else:
            self._fail(held, answer, time.monotonic() - started)

    def _answer(self, held: _InHand, outcome: Outcome, seconds: float) -> None:
        def change(db: Connection) -> None:
            tasks.answer(db, held.task, outcome, now=time.time(), conclude_at=outcome.conclude_at)

        was_away, self._outages = self._outages > 1, 0  # one alone may be the study's own
        self._worker.condition.solved(*OUTAGES)
        reach("answering")
        try:
            recorded = self._worker.record(held, change)
            if was_away:
                self._worker.outage_over()
        except StatementRejected as error:  # a value that no ledger takes; it will not take it later either
            self._fail(held, Failure("internal_error", f"the answer cannot be recorded ({error})"), seconds)
            return
        if recorded:
            reach("answered")
            told = {"status": outcome.status.value, "reason": outcome.reason, "seconds": round(seconds, 3)}
            log.info("study processed", extra={**held.about, **told})

    def _fail(self, held: _InHand, failure: Failure, seconds: float) -> None:
        def change(db: Connection) -> None:
            now = time.time()
            then = next_try(held.task, failure, self._settings, now=now)
            tasks.fail(db, held.task, then.failure, now=now, retry_at=then.at, counted=then.counted)

        self._outages = self._outages + 1 if failure.reason in _OF_THE_NODE else 0
        if failure.reason in OUTAGES:
            self._worker.condition.problem(failure.reason)
        told = {"reason": failure.reason, "seconds": round(seconds, 3)}
        log.warning("attempt failed: %s", failure.message, extra={**held.about, **told})
        reach("failing")
        self._worker.record(held, change)

    def _give_back(self, held: _InHand) -> None:
        """Put a task back as if it had never been claimed, unless another worker has it."""
        if self._worker.record(held, lambda db: tasks.release(db, held.task, now=time.time())):
            reach("released")
            log.info("study given back", extra=held.about)

    def _pause(self, chosen: bytes | None = None) -> None:
        """Wait, the longer the more went wrong in a row; no longer when other models are chosen meanwhile."""
        self._troubles += 1
        end = time.monotonic() + pause_seconds(self._troubles, 1.0)
        while (left := end - time.monotonic()) > 0 and not self._worker.stopping.wait(min(left, _POLL_SECONDS)):
            if chosen is not None and self._worker.chosen() != chosen:
                return

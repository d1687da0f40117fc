"""A seat of a worker: one reader after the other, and the tasks that they are given.

The rule: whatever becomes of a reader, its task is answered, failed or given back; and the next reader is started.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from orthanc_plugin.failpoints import reach
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import StatementRejected
from orthanc_plugin.ledger.deliveries import owe
from orthanc_plugin.ledger.tasks import Failure, InferenceTask, Outcome
from orthanc_plugin.working.reader import Abandoned, ModelsUnusable, NotReady, Reader, Readers
from orthanc_plugin.working.retry_policy import OUTAGES, next_try, pause_seconds

if TYPE_CHECKING:
    from orthanc_plugin.working.worker import Worker

log = logging.getLogger("hilum.worker")

POLL_SECONDS = 0.5
_ORTHANC_PAUSE_SECONDS = 10.0  # at most, before another study is tried while Orthanc is away
_OF_THE_NODE = frozenset({"orthanc_unavailable", "storage_full"})  # the next study would meet the same


@dataclass(frozen=True, eq=False)
class InHand:
    """A task that a reading process is at; `lost` when the ledger gave it to another worker."""

    task: InferenceTask
    lost: threading.Event = field(default_factory=threading.Event)

    @property
    def about(self) -> dict[str, object]:
        """What the log says of it."""
        task = self.task
        return {"study_instance_uid": task.study_instance_uid, "fence": task.fence, "attempt": task.failures + 1}


class Seat:
    """One reader after the other, and the tasks that they are given.

    Parameters
    ----------
    takes_archive
        Asked before each study: whether it also reads what a run through the archive wants; one that does not is
        there for what comes.
    """

    def __init__(self, worker: Worker, readers: Readers, *, takes_archive: Callable[[], bool]) -> None:
        self._worker, self._settings = worker, worker.settings
        self._readers, self._takes_archive = readers, takes_archive
        self._troubles = 0  # processes in a row that died before they had read anything
        self._outages = 0  # studies in a row that met one

    def run(self) -> None:
        """Work until the worker is to end."""
        with self._readers as readers:
            self._run(readers)

    def _run(self, readers: Readers) -> None:
        stopping = self._worker.stopping
        while not stopping.is_set():
            chosen = self._worker.chosen()  # before they are loaded, so that no change is missed
            try:
                with readers.open(chosen, stopping.is_set) as process:
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

    def _serve(self, process: Reader, chosen: bytes) -> None:
        """Give tasks to a process for as long as it lives, and other models were not chosen."""
        worker = self._worker
        while not worker.stopping.is_set():
            if worker.chosen() != chosen:
                log.info("other models were chosen: the next study is read with them", extra={"pid": process.pid})
                return
            if process.is_released():
                return
            if not process.lives():
                log.warning("a reading process died while it had nothing to do", extra={"pid": process.pid})
                if self._troubles:
                    worker.condition.problem("reader_dies")
                self._pause()
                return
            worker.look()
            held = worker.claim(archive=self._takes_archive())
            if held is None:
                if not worker.rang.wait(POLL_SECONDS) and process.lives():
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

    def _attempt(self, held: InHand, process: Reader) -> None:
        """Have one task read, and record what became of it."""
        worker, started = self._worker, time.monotonic()
        try:
            answer = process.read(
                held.task,
                self._settings.study_seconds,
                lambda: held.lost.is_set() or worker.out_of_time,
                lambda raised: worker.flag(held, raised),
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

    def _answer(self, held: InHand, outcome: Outcome, seconds: float) -> None:
        def change(db: Connection) -> None:
            tasks.answer(db, held.task, outcome, now=time.time(), conclude_at=outcome.conclude_at)
            if outcome.conclude_at is None:
                owe(db, held.task.study_instance_uid, outcome, self._settings.owed_to, now=time.time())

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

    def _fail(self, held: InHand, failure: Failure, seconds: float) -> None:
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

    def _give_back(self, held: InHand) -> None:
        """Put a task back as if it had never been claimed, unless another worker has it."""
        if self._worker.record(held, lambda db: tasks.release(db, held.task, now=time.time())):
            reach("released")
            log.info("study given back", extra=held.about)

    def _pause(self, chosen: bytes | None = None) -> None:
        """Wait, the longer the more went wrong in a row; no longer when other models are chosen meanwhile."""
        self._troubles += 1
        end = time.monotonic() + pause_seconds(self._troubles, 1.0)
        while (left := end - time.monotonic()) > 0 and not self._worker.stopping.wait(min(left, POLL_SECONDS)):
            if chosen is not None and self._worker.chosen() != chosen:
                return

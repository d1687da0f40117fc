"""Delivers what is owed, beside the reading: one thread for each destination, and one that deletes what may go.

The rule: a destination that is away has only its own thread wait, the longer the longer it is away; reading waits for
none of them. Each delivery is claimed in the ledger, so that of several workers one is responsible for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from sqlalchemy import Connection

from orthanc_plugin.archive.client import OrthancClient, OrthancUnavailable
from orthanc_plugin.credentials import load_worker_account
from orthanc_plugin.failpoints import reach
from orthanc_plugin.integration import Destination
from orthanc_plugin.ledger import deliveries
from orthanc_plugin.ledger.database import Ledger, LedgerError
from orthanc_plugin.ledger.deliveries import Delivery, DeliveryLost
from orthanc_plugin.ledger.notes import get_fact
from orthanc_plugin.ledger.ownership import require_archive
from orthanc_plugin.ledger.views import of_study
from orthanc_plugin.settings import Settings

log = logging.getLogger("hilum.delivery")
_T = TypeVar("_T")

_CLAIM_SECONDS = 180.0  # longer than any wait for one answer
_IDLE_SECONDS = 1.0
_FIRST_SECONDS, _LONGEST_SECONDS = 2.0, 300.0  # pauses after a failure
_LEDGER_SECONDS = 3.0


def keep_delivering(settings: Settings, ledger: Ledger, worker_id: str, stop: threading.Event) -> None:
    """Start what delivers; it ends with the worker. Without a destination nothing is started."""
    for destination in settings.owed_to:
        way = Way(settings, ledger, worker_id, destination, stop)
        threading.Thread(target=way.run, name=f"to-{destination.name}", daemon=True).start()
    if settings.retention is not None:
        from orthanc_plugin.delivery.purging import keep_purging

        threading.Thread(target=keep_purging, args=(settings, ledger, stop), name="purging", daemon=True).start()


def pause_after(failures: int) -> float:
    """Seconds before the next try, after so many failures in a row (from 1): twice as long each time."""
    return float(min(_FIRST_SECONDS * 2.0 ** min(failures - 1, 16), _LONGEST_SECONDS))


@dataclass(frozen=True)
class Way:
    """The way to one destination."""

    settings: Settings
    ledger: Ledger
    worker_id: str
    destination: Destination
    stop: threading.Event

    def run(self) -> None:
        """Deliver until the worker ends."""
        away, told, inherited, name = 0, "", False, self.destination.name
        while not self.stop.is_set():
            pause = _IDLE_SECONDS
            try:
                if not inherited:  # of a worker that had this name
                    require_archive(self.ledger, self.settings.archive_id_file)
                    self._write(lambda db: deliveries.end_claims(db, name, self.worker_id, now=time.time()))
                    inherited = True
                delivery = self._claim()
                if delivery is None:
                    self.stop.wait(pause)
                    continue
                reached = self._deliver(delivery, away)
                if reached and away:
                    self._write(lambda db: deliveries.end_pauses(db, name, now=time.time()))
                away, told = 0 if reached else away + 1, ""
                if away:
                    self._wait(pause_after(away))
                continue
            except LedgerError as error:
                if str(error) != told:
                    log.warning("nothing is delivered: %s", error)
                told, pause = str(error), _LEDGER_SECONDS
            except Exception:  # whatever one study holds, the next may be delivered
                log.exception("a delivery failed", extra={"way": self.destination.name})
                pause = _LEDGER_SECONDS
            self.stop.wait(pause)

    def _wait(self, seconds: float) -> None:
        """Wait for a destination that is away, no longer when a person has it tried now."""
        end, asked = time.monotonic() + seconds, self._asked()
        while (left := end - time.monotonic()) > 0 and not self.stop.wait(min(left, _LEDGER_SECONDS)):
            if self._asked() != asked:
                return

    def _asked(self) -> str | None:
        with self.ledger.read() as db:
            return get_fact(db, deliveries.RETRIED)

    def _claim(self) -> Delivery | None:
        name = self.destination.name
        with self.ledger.read() as db:  # looked at without keeping others from writing
            if not deliveries.is_due(db, name, now=time.time()):
                return None
        return self._write(
            lambda db: deliveries.claim(db, name, self.worker_id, now=time.time(), seconds=_CLAIM_SECONDS)
        )

    def _deliver(self, delivery: Delivery, away: int) -> bool:
        """Try one delivery and write down what came of it; False when the destination cannot be reached."""
        # heavy: only who has a destination loads it
        from orthanc_plugin.delivery.failures import DeliveryFailed, ReceiverAway, Refused, Waiting

        about = {"study_instance_uid": delivery.study_instance_uid, "way": delivery.destination}
        reach("delivery_claimed")
        try:
            self._send(delivery)
            reach("delivery_taken")
        except DeliveryLost as error:
            log.warning("%s", error, extra=about)
            return True
        except Waiting as waiting:
            next_at = time.time() + waiting.seconds
            self._write(lambda db: deliveries.put_off(db, delivery, delivery.taken, "", next_at=next_at, counted=False))
            return True
        except (DeliveryFailed, OrthancUnavailable, httpx.HTTPStatusError) as error:
            final, why = isinstance(error, Refused), _in_words(error)
            pause = pause_after(max(delivery.failures, away) + 1)
            then = None if final else time.time() + pause
            self._write(lambda db: deliveries.put_off(db, delivery, delivery.taken, why, next_at=then))
            log.warning("not delivered: %s", why, extra=about)
            return not isinstance(error, ReceiverAway | OrthancUnavailable)
        except LedgerError:
            raise
        except Exception as error:  # a defect costs this delivery a pause, and is told
            then, why = time.time() + pause_after(delivery.failures + 1), f"it failed ({type(error).__name__})"
            self._write(lambda db: deliveries.put_off(db, delivery, delivery.taken, why, next_at=then))
            log.exception("not delivered", extra=about)
            return True
        self._write(lambda db: deliveries.strike_off(db, delivery, delivery.taken, now=time.time()))
        reach("delivery_struck_off")
        log.info("delivered", extra=about)
        return True

    def _send(self, delivery: Delivery) -> None:
        from orthanc_plugin.delivery import commitment, labels, observations, storing, stow
        from orthanc_plugin.delivery.outgoing import Parcel

        task = self._task(delivery.study_instance_uid)
        if task is None:  # its images were deleted: there is nothing to give
            return

        def keep() -> None:
            self._write(lambda db: deliveries.prolong(db, delivery, now=time.time(), seconds=_CLAIM_SECONDS))

        parcel = Parcel(delivery.study_instance_uid, self.destination, task, delivery.taken, keep)
        if self.destination.protocol == "hl7":
            observations.send(parcel)
            return
        own = load_worker_account(self.settings.credentials)
        with OrthancClient(self.settings.orthanc_address, own.user, own.password) as orthanc:
            if self.destination.protocol == "stow":
                stow.send(orthanc, parcel)
            elif self.destination.protocol == "dicom":
                storing.send(orthanc, parcel, self.settings.ae_title)
                if self.destination.commitment:
                    commitment.settle(orthanc, parcel)
            elif self.settings.labels is not None:
                labels.send(orthanc, parcel, self.settings.labels)

    def _task(self, study: str) -> dict[str, Any] | None:
        with self.ledger.read() as db:
            task = next(iter(of_study(db, study)), None)
        return None if task is None or task["status"] == "removed" else task

    def _write(self, change: Callable[[Connection], _T]) -> _T:
        with self.ledger.write() as db:
            return change(db)


def _in_words(error: Exception) -> str:
    """What the ledger keeps of a failure: our own words alone."""
    if isinstance(error, OrthancUnavailable):
        return "Orthanc, which holds it, does not answer"
    if isinstance(error, httpx.HTTPStatusError):
        return f"Orthanc, which holds it, answers HTTP {error.response.status_code}"
    return str(error)

"""Has Orthanc and the ledger compared again and again, beside the reading (``reconciliation``).

The rule: it goes on whatever happens, and takes Orthanc's time only in slices.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from orthanc_plugin.archive.client import OrthancClient, OrthancUnavailable
from orthanc_plugin.credentials import load_worker_account
from orthanc_plugin.ledger.database import Ledger, LedgerError
from orthanc_plugin.ledger.derived import derive_missing
from orthanc_plugin.ledger.ownership import require_archive
from orthanc_plugin.settings import Settings
from orthanc_plugin.trust import TlsUnusable, http_trust
from orthanc_plugin.working.lost_files import LostFiles
from orthanc_plugin.working.reconciliation import reconcile

log = logging.getLogger("hilum.rounds")

_AWAY_SECONDS = 5.0  # until the next try when Orthanc or the ledger is away
_SHORTEST_SECONDS = 0.5
_DERIVED_AT_ONCE = 200  # studies


def keep_reconciled(settings: Settings, ledger: Ledger, found_work: Callable[[], None], stop: threading.Event) -> None:
    """Compare every `reconcile_seconds`, and as long as there is more to look at half of the time.

    Parameters
    ----------
    found_work
        Called when something was put into the queue.
    """
    lost_files = LostFiles(settings.storage)
    while not stop.is_set():
        started, pause = time.monotonic(), settings.reconcile_seconds
        try:
            require_archive(ledger, settings.archive_id_file)
            _derive(ledger, stop)
            own = load_worker_account(settings.credentials)
            trust = http_trust(settings, settings.orthanc_address)
            with OrthancClient(settings.orthanc_address, own.user, own.password, trust=trust) as orthanc:
                report = reconcile(ledger, orthanc, now=time.time(), stop=stop)
                lost_files.take_back(ledger, orthanc, now=time.time(), elapsed=time.monotonic())
            if report.missed or report.changed or report.results_gone:
                found_work()
            if report.behind:
                pause = max(_SHORTEST_SECONDS, time.monotonic() - started)
        except (LedgerError, OrthancUnavailable, TlsUnusable) as error:
            log.warning("not compared: %s", error)
            pause = min(pause, _AWAY_SECONDS)
        except Exception:  # it must be tried again whatever one study holds
            log.exception("not compared")
        stop.wait(pause)


def _derive(ledger: Ledger, stop: threading.Event) -> None:
    """Make what an earlier Hilum did not have in the ledger, a little at a time: others write to it as well."""
    some = _DERIVED_AT_ONCE
    while some == _DERIVED_AT_ONCE and not stop.is_set():
        with ledger.write() as db:
            some = derive_missing(db, _DERIVED_AT_ONCE)
        stop.wait(_SHORTEST_SECONDS / 20 if some else 0)

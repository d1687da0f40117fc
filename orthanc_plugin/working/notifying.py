"""Tells people of results that press, beside the reading: looks for them, and sends what is due again and again.

The rule: it has a thread of its own, and waits for no lock that reading needs; whatever happens, reading goes on. A
study is told once for each priority that it reaches, unless somebody has read it first, and by one of several workers;
at least once, for a server may have taken what it did not confirm.
"""

from __future__ import annotations

import logging
import threading
import time

from orthanc_plugin.ledger.database import Ledger, LedgerError
from orthanc_plugin.ledger.outbox import Notice, Outbox
from orthanc_plugin.ledger.ownership import load_archive_id
from orthanc_plugin.ledger.patients import named
from orthanc_plugin.ledger.statements import run
from orthanc_plugin.ledger.views import of_study
from orthanc_plugin.settings import Settings
from orthanc_plugin.working.notice_settings import NoticeSettings, NoticesUnusable, load_notice_settings
from orthanc_plugin.working.notices import NotTaken, content_of, notice_id, send

log = logging.getLogger("hilum.notices")

_PAUSE_SECONDS = 3.0
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 5.0, 900.0
_GIVEN_UP_SECONDS = 24 * 3600.0  # after which a notice is no news any more
_MOST = 200  # pressing studies that are looked at


def keep_telling(settings: Settings, ledger: Ledger, stop: threading.Event) -> None:
    """Look for results that press and send what is due, until the worker ends."""
    told, outbox = "", Outbox(ledger, settings.outbox)
    while not stop.is_set():
        try:
            tell(settings, ledger, time.time(), outbox)
            told = ""
        except (NoticesUnusable, LedgerError) as error:
            if str(error) != told:
                log.error("nobody is told of critical results: %s", error)
            told = str(error)
        except Exception:  # whatever it is, reading goes on, and the next may be told
            log.exception("nobody was told")
        stop.wait(_PAUSE_SECONDS)


def tell(settings: Settings, ledger: Ledger, now: float, outbox: Outbox | None = None) -> None:
    """Note what presses and was not told yet, and send what is due.

    Parameters
    ----------
    outbox
        None: that of the ledger.

    Raises
    ------
    NoticesUnusable
    LedgerError
    """
    wanted = load_notice_settings(settings.notifications)
    if not wanted.ways:
        return
    outbox = outbox or Outbox(ledger, settings.outbox)
    archive, begun = load_archive_id(settings.archive_id_file), outbox.begun_at(now)
    with ledger.read() as db:
        rows = run(
            db,
            """
            SELECT study_instance_uid, priority FROM tasks
            WHERE read_at IS NULL AND status <> 'removed' AND priority_rank <= :rank AND completed_at >= :begun
              AND urgency <> 3 -- what a run through the archive read again is no news
            ORDER BY priority_rank, received_at DESC LIMIT :most
            """,
            rank=int(wanted.notify_urgent),
            begun=begun,
            most=_MOST,
        ).all()
    for row in rows:
        for way in wanted.ways:
            identifier = notice_id(archive, row.study_instance_uid, row.priority)
            outbox.note(identifier, way, row.study_instance_uid, row.priority, now)
    for notice in outbox.due(now):
        if outbox.take(notice, now):
            _send(notice, wanted, outbox, ledger, now)


def _send(notice: Notice, wanted: NoticeSettings, outbox: Outbox, ledger: Ledger, now: float) -> None:
    about = {"study_instance_uid": notice.study_instance_uid, "way": notice.way}
    with ledger.read() as db:
        task = next(iter(of_study(db, notice.study_instance_uid)), None)
    if task is None or task["status"] == "removed" or notice.way not in wanted.ways:
        outbox.put_off(notice, "the study, or this way of telling, is no more", None)
        return
    if task["read_at"] is not None:
        outbox.put_off(notice, "somebody has read it", None)
        return
    try:
        send(notice, content_of(notice, named(task), wanted), wanted, now)
    except NotTaken as error:
        pause = min(_FIRST_RETRY_SECONDS * 2.0 ** min(notice.failures, 20), _LONGEST_RETRY_SECONDS)
        is_old = now - notice.noted_at > _GIVEN_UP_SECONDS
        outbox.put_off(notice, str(error), None if is_old else now + pause)
        log.warning("a notice was not taken (%s)", error, extra=about)
    else:
        outbox.close(notice, now)
        log.info("told", extra=about)

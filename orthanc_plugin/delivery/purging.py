"""Deletes studies in our own Orthanc that are old enough and that a destination keeps: off unless the site has it so.

The rule: an object goes only after the destination has committed, just now, to every object that Orthanc holds of the
study, images included; exactly these objects go, so that an image which came meanwhile stays. What dies in between has
deleted nothing, or is gone on with at the next look.
"""

from __future__ import annotations

import json
import logging
import threading
import time

import httpx

from orthanc_plugin.archive.client import OrthancClient, OrthancUnavailable
from orthanc_plugin.archive.held_objects import objects_of_study
from orthanc_plugin.credentials import load_worker_account
from orthanc_plugin.delivery import commitment
from orthanc_plugin.delivery.failures import DeliveryFailed
from orthanc_plugin.failpoints import reach
from orthanc_plugin.integration import Destination
from orthanc_plugin.ledger import counters, deliveries
from orthanc_plugin.ledger.counters import Count
from orthanc_plugin.ledger.database import Ledger, LedgerError
from orthanc_plugin.ledger.delivery_views import kept_elsewhere
from orthanc_plugin.ledger.ownership import require_archive
from orthanc_plugin.settings import Settings

log = logging.getLogger("hilum.purging")

_PAUSE_SECONDS = 60.0
_ANSWER_SECONDS, _LOOK_SECONDS = 60.0, 0.5
_AT_ONCE = 100  # studies of one look
_DAY = 86_400.0
_BEGINNING = (0.0, "")


def keep_purging(settings: Settings, ledger: Ledger, stop: threading.Event) -> None:
    """Look for what may go, a part at a time, until the worker ends."""
    after = _BEGINNING
    while not stop.is_set():
        try:
            require_archive(ledger, settings.archive_id_file)
            after = purge(settings, ledger, time.time(), after, stop)
        except (LedgerError, OrthancUnavailable, DeliveryFailed) as error:
            log.warning("nothing is deleted: %s", error)
        except Exception:  # it must be tried again whatever one study holds
            log.exception("nothing is deleted")
        stop.wait(_PAUSE_SECONDS)


def purge(
    settings: Settings, ledger: Ledger, now: float, after: tuple[float, str], stop: threading.Event
) -> tuple[float, str]:
    """Delete what may go of the studies after a place; returns the place at which to go on.

    Raises
    ------
    LedgerError
    OrthancUnavailable
    DeliveryFailed
        When the destination cannot be asked.
    """
    rule = settings.retention
    destination = next((one for one in settings.destinations if rule and one.name == rule.committed_by), None)
    if rule is None or destination is None:
        return _BEGINNING
    with ledger.read() as db:
        before = now - rule.days * _DAY
        found = kept_elsewhere(db, destination.name, before=before, unread=rule.unread, after=after, most=_AT_ONCE)
    own = load_worker_account(settings.credentials)
    with OrthancClient(settings.orthanc_address, own.user, own.password) as orthanc:
        for place in found:
            if stop.is_set():
                break
            after, study = place, place[1]
            if _purge(orthanc, destination, study, stop):
                with ledger.write() as db:
                    deliveries.forget_study(db, study)
                    counters.add(db, [Count(deliveries.PURGED)])
                log.info("deleted, for it is kept elsewhere", extra={"study_instance_uid": study})
    return after if len(found) == _AT_ONCE else _BEGINNING


def _purge(orthanc: OrthancClient, destination: Destination, study: str, stop: threading.Event) -> bool:
    """Delete one study if the destination keeps all of it."""
    held = objects_of_study(orthanc, study)
    if not held:
        return False
    question = commitment.ask(orthanc, destination, {one.sop_instance_uid: one.sop_class_uid for one in held})
    answer, deadline = None, time.monotonic() + _ANSWER_SECONDS
    while answer is None and time.monotonic() < deadline and not stop.wait(_LOOK_SECONDS):
        try:
            answer = commitment.answer(orthanc, question)
        except LookupError:
            return False
    about = {"study_instance_uid": study, "way": destination.name}
    if answer is None or not answer.committed.issuperset(one.sop_instance_uid for one in held):
        log.warning("not deleted: the destination does not commit to all of it", extra=about)
        return False
    reach("purge_committed")
    try:
        orthanc.ask("POST", "/tools/bulk-delete", json.dumps({"Resources": [one.orthanc_id for one in held]}))
    except httpx.HTTPStatusError as error:
        log.warning("not deleted: HTTP %d", error.response.status_code, extra=about)
        return False
    reach("purged")
    return True

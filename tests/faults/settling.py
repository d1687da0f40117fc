"""The end of a run: nothing fails any more, everything comes to rest, and Orthanc is asked what each study became."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from orthanc_plugin.archive.client import OrthancClient
from orthanc_plugin.ledger.database import Ledger, LedgerError
from orthanc_plugin.ledger.views import count_by_status
from tests.faults.counting import Fate, look_at
from tests.faults.modality import Modality
from tests.faults.score import Score

_SEND_SECONDS = 120.0  # in which all that was begun is acknowledged, once nothing fails any more
_STILL_SECONDS = 90.0  # without any change, with work open: it is stuck


def finish_sending(modality: Modality, go_on: Callable[[], None]) -> None:
    """Wait until all that was begun is acknowledged; `go_on` is called again and again."""
    end = time.monotonic() + _SEND_SECONDS
    while not modality.finish(0.05) and time.monotonic() < end:
        go_on()  # what recovers meanwhile is seen when it does


def come_to_rest(
    ledger: Ledger, reconcile_seconds: float, go_on: Callable[[float], None], is_starting: Callable[[], bool]
) -> None:
    """Wait until nothing is under way, and has not been while Orthanc and the ledger were compared twice."""
    quiet = 2 * reconcile_seconds + 2
    counts: dict[str, int] = {}
    changed = time.monotonic()
    while True:
        go_on(0.2)
        with suppress(LedgerError), ledger.read() as db:
            found = count_by_status(db)
            if found != counts:
                counts, changed = found, time.monotonic()
        still = time.monotonic() - changed
        if (under_way(counts) == 0 and still > quiet and not is_starting()) or still > _STILL_SECONDS:
            return


def count(
    score: Score,
    modality: Modality,
    orthanc: OrthancClient,
    ledger: Ledger,
    replay: Callable[[], None],
) -> None:
    """Look at each study that was acknowledged, those in quarantine once more after a replay; the rest of the score.

    Parameters
    ----------
    replay
        Has everything in quarantine tried again, and waits until that is done.
    """
    score.not_acknowledged = modality.refusals
    sent = modality.studies()
    score.never_acknowledged = sum(len(one.left) for one in sent)
    score.images = sum(len(one.acknowledged) for one in sent)
    studies = {one.study.study_instance_uid: one.study for one in sent if not one.left}
    found = {uid: look_at(study, orthanc, ledger) for uid, study in studies.items()}
    quarantined = [one for one in found.values() if one.fate is Fate.QUARANTINED]
    score.quarantined_before_replay.update(one.why for one in quarantined)
    if quarantined:
        replay()
        for one in quarantined:
            uid = one.study_instance_uid
            found[uid] = look_at(studies[uid], orthanc, ledger)
    score.found = list(found.values())


def under_way(counts: dict[str, int]) -> int:
    """Studies that are not at their end."""
    return sum(counts.get(status, 0) for status in ("queued", "running", "answered"))

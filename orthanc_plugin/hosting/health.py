"""How the node is: what is wrong, in words and with what to do.

The rule: whatever keeps a study from being read is named here, by a code, and shown in ``status`` and on the worklist.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orthanc_plugin.access.audit_sending import Standing
from orthanc_plugin.ledger.database import LedgerError, LedgerUnusable
from orthanc_plugin.ledger.delivery_views import Undelivered
from orthanc_plugin.ledger.ownership import LedgerOfAnotherArchive
from orthanc_plugin.trust import EXPIRES_SOON_SECONDS

WORKER_SILENT_SECONDS = 15.0  # it reports every five
_START_SECONDS = 30.0  # in which a worker is expected to speak up for the first time
_WAITING_LIMIT_SECONDS = 600.0
UNDELIVERED_SECONDS = 120.0  # before a destination that is down is spoken of
_JUMP_SECONDS = 60.0  # more than any time service corrects at once without being asked
_JUMP_SHOWN_SECONDS = 3600.0


@dataclass(frozen=True)
class Problem:
    """Something that a person should know.

    Parameters
    ----------
    stops
        Whether images are refused or not read because of it.
    """

    code: str
    text: str
    what_to_do: str
    stops: bool

    def to_json(self) -> dict[str, Any]:
        """As the interface gives it."""
        return {"code": self.code, "text": self.text, "what_to_do": self.what_to_do, "stops": self.stops}


@dataclass(frozen=True)
class Vitals:
    """What is known of the node at one moment.

    Parameters
    ----------
    worker_seen
        Whether a worker, ready or not, reported within `WORKER_SILENT_SECONDS`.
    worker_problem
        Code that it reported; empty when it is well.
    running_seconds
        Since the plugin started.
    complete
        Whether every study of Orthanc has been compared with the ledger at least once.
    unrecorded
        Studies that wait in memory for the ledger.
    oldest_waiting_seconds
        None when no study waits.
    orphans
        Studies with results of ours and no image.
    clock_jump_seconds
        By which the clock jumped lately; 0 when it did not.
    read_only
        Whether the disk of the images, or of the node's own files, can only be read.
    audit_error
        Why the audit log cannot be written; empty when it can.
    audit_waiting
        Entries that wait for it in memory.
    collected
        How it stands with the audit log's collector.
    undelivered
        The destinations that did not take what they were given.
    entrance_error
        Why HTTPS is not offered; empty when it is, or is not wanted.
    certificate_seconds
        Until the node's certificate expires; None where there is none that is used.
    """

    ledger_error: LedgerError | None
    free_mb: int
    reserve_mb: int
    worker_seen: bool
    worker_problem: str
    running_seconds: float
    complete: bool = True
    unrecorded: int = 0
    quarantined: int = 0
    oldest_waiting_seconds: float | None = None
    orphans: int = 0
    clock_jump_seconds: float = 0.0
    read_only: bool = False
    audit_waiting: int = 0
    audit_error: str = ""
    collected: Standing | None = None
    undelivered: tuple[Undelivered, ...] = ()
    entrance_error: str = ""
    certificate_seconds: float | None = None


_WORKER_PROBLEMS = {
    "models_unusable": (
        "The models cannot be loaded, so nothing is read.",
        "./hilum models verify tells which and why, ./hilum models rollback goes back; see the setting bundles.",
    ),
    "reader_dies": (
        "The process that reads studies cannot be started, or dies before it is ready, so nothing is read.",
        "See worker.log for why; the machine may be out of memory (setting memory_mb), of processes or of open files.",
    ),
    "ray_unavailable": (
        "The Ray cluster does not answer, so nothing is read.",
        "Nothing, if its head is starting: it goes on by itself. Otherwise see the setting ray_address, worker.log, "
        "and ray status on the head.",
    ),
    "ray_no_room": (
        "The Ray cluster has no place for a reading actor, so nothing is read.",
        "ray status on its head tells what is free: see the settings ray_cpus and ray_gpus, or add a machine.",
    ),
    "orthanc_unavailable": (
        "The worker cannot reach Orthanc, so nothing is read.",
        "Nothing, if Orthanc is starting. Otherwise see orthanc.log, and worker.log for the address it tries.",
    ),
    "storage_full": (
        "Orthanc cannot write results, so no study is finished.",
        "Free disk space, or see why the disk cannot be written to. It goes on by itself.",
    ),
    "intake_unavailable": (
        "The processes that decode images cannot be started, so nothing is read.",
        "See worker.log; the machine may be out of memory or of processes.",
    ),
    "ledger_of_another_archive": (
        "The worker found a ledger of another archive, so nothing is read.",
        "Give this node a ledger_url of its own; see worker.log.",
    ),
}


def problems(vitals: Vitals) -> list[Problem]:
    """What is wrong, what stops work first."""
    found = [*_of_ledger(vitals), *_of_storage(vitals), *_of_worker(vitals), *_of_studies(vitals), *_of_tls(vitals)]
    if vitals.clock_jump_seconds:
        found.append(
            Problem(
                "clock_jumped",
                f"The clock of this machine jumped by {vitals.clock_jump_seconds:+.0f} s.",
                "Check its time service (NTP). Nothing is lost, but times shown from before may be wrong.",
                stops=False,
            )
        )
    if vitals.audit_error:
        found.append(
            Problem(
                "audit_unwritten",
                f"The audit log cannot be written ({vitals.audit_error}): {vitals.audit_waiting} entries wait for it.",
                "Free disk space, or see why it cannot be written to. If the node ends before that they are lost.",
                stops=False,
            )
        )
    found.extend(_of_collector(vitals.collected))
    found.extend(problem for one in vitals.undelivered for problem in _of_destination(one))
    return sorted(found, key=lambda problem: not problem.stops)


def state(found: Sequence[Problem], models: dict[str, str] | None) -> str:
    """``ready``, ``starting`` (images are taken, no worker is ready yet) or ``impaired`` (a problem stops work)."""
    if any(problem.stops for problem in found):
        return "impaired"
    return "starting" if models is None else "ready"


def _of_collector(it: Standing | None) -> Iterator[Problem]:
    if it is not None and it.failing_seconds > UNDELIVERED_SECONDS:
        text = f"The audit log's collector takes nothing: {it.error}. It is owed {it.owed} entries."
        advice = "Nothing if it is down: they are kept, and go out by themselves. ./hilum doctor tries it."
        yield Problem("audit_unsent", text, advice, stops=False)


def _of_destination(it: Undelivered) -> Iterator[Problem]:
    if it.waiting:
        yield Problem(
            f"undelivered_{it.destination}",
            f"{it.destination} has not taken {_studies(it.waiting)}: {it.error}.",
            "Nothing if it is down: they go out by themselves. ./hilum doctor tries whether it answers.",
            stops=False,
        )
    if it.refused:
        yield Problem(
            f"refused_{it.destination}",
            f"{it.destination} refused {_studies(it.refused)}" + (f": {it.error}." if not it.waiting else "."),
            f"Mend what it says, then ./hilum deliveries retry {it.destination}.",
            stops=False,
        )


def _studies(number: int) -> str:
    return f"{number} {'study' if number == 1 else 'studies'}"


def _of_ledger(vitals: Vitals) -> list[Problem]:
    error = vitals.ledger_error
    if error is None:
        return []
    kept = "Images are taken and will be read once this is mended."
    if vitals.unrecorded:
        kept += f" {vitals.unrecorded} {'studies wait' if vitals.unrecorded > 1 else 'study waits'} for it."
    if isinstance(error, LedgerOfAnotherArchive):
        return [Problem("ledger_of_another_archive", f"{_sentence(error)}", kept, stops=True)]
    if isinstance(error, LedgerUnusable):
        return [Problem("ledger_unusable", f"{_sentence(error)}", kept, stops=True)]
    advice = f"Look at the disk or the database server that it lies on. {kept}"
    return [Problem("ledger_unavailable", f"The ledger does not answer: {error}.", advice, stops=True)]


def _of_storage(vitals: Vitals) -> list[Problem]:
    free, reserve = vitals.free_mb, vitals.reserve_mb
    if vitals.read_only:
        return [
            Problem(
                "storage_read_only",
                "The disk can only be read: new images are refused, and no result can be kept.",
                "Look why (often it has errors) and mount it for writing again. It goes on by itself.",
                stops=True,
            )
        ]
    if free < reserve:
        return [
            Problem(
                "storage_full",
                f"Only {free} MB are free: new images are refused.",
                f"Free disk space. Images are taken again, by themselves, from {reserve} MB.",
                stops=True,
            )
        ]
    if free < 2 * reserve:
        return [
            Problem(
                "storage_low",
                f"Only {free} MB are free.",
                f"Free disk space: below {reserve} MB new images are refused, so that results can still be kept.",
                stops=False,
            )
        ]
    return []


def _of_worker(vitals: Vitals) -> list[Problem]:
    if vitals.ledger_error is not None:
        return []  # workers are known by the ledger
    code = vitals.worker_problem
    if vitals.worker_seen and code == "storage_full" and vitals.free_mb < vitals.reserve_mb:
        return []  # said already
    if vitals.worker_seen and code:
        text, advice = _WORKER_PROBLEMS.get(code, (f"The worker reports {code}.", "See worker.log."))
        return [Problem(code, text, advice, stops=True)]
    if not vitals.worker_seen and vitals.running_seconds > _START_SECONDS:
        advice = "Nothing at first, it is started again by itself. If this stays, see worker.log."
        return [Problem("worker_silent", "No worker is heard of, so nothing is read.", advice, stops=True)]
    return []


def _of_studies(vitals: Vitals) -> list[Problem]:
    found = []
    if (count := vitals.quarantined) > 0:
        one = count == 1
        found.append(
            Problem(
                "quarantined",
                f"{count} {'study' if one else 'studies'} could not be read.",
                f"See {'its row' if one else 'their rows'} for the reason; Try again there, or ./hilum retry --all.",
                stops=False,
            )
        )
    oldest = vitals.oldest_waiting_seconds
    if oldest is not None and oldest > _WAITING_LIMIT_SECONDS:
        found.append(
            Problem(
                "waiting_long",
                f"The oldest study has waited for {oldest / 60:.0f} min.",
                "If nothing else is wrong, more come than this node can read: see the setting workers.",
                stops=False,
            )
        )
    if not vitals.complete and vitals.worker_seen:
        found.append(
            Problem(
                "comparing",
                "The worklist is being made from what Orthanc holds, and is not complete yet.",
                "Nothing: studies appear here as they are found. Until then look in Orthanc for one that is missing.",
                stops=False,
            )
        )
    if vitals.orphans:
        found.append(
            Problem(
                "orphans",
                f"{vitals.orphans} {'study holds' if vitals.orphans == 1 else 'studies hold'} AI results and no image.",
                "Somebody deleted the images alone: delete these studies in Orthanc, or send their images again.",
                stops=False,
            )
        )
    return found


def _of_tls(vitals: Vitals) -> list[Problem]:
    found = []
    if vitals.entrance_error:
        text = f"HTTPS is not offered: {vitals.entrance_error}."
        found.append(Problem("https_down", text, "See orthanc.log; ./hilum doctor tells more.", stops=False))
    left = vitals.certificate_seconds
    if left is not None and left < EXPIRES_SOON_SECONDS:
        when = "has expired" if left <= 0 else f"expires in {left / 86_400:.0f} days"
        advice = "./hilum tls renew; for DICOM the node is started anew then. A site's own authority renews its own."
        found.append(Problem("certificate_expires", f"The node's certificate {when}.", advice, stops=False))
    return found


def _sentence(error: LedgerError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def _since_boot() -> float:
    # unlike the monotonic clock it goes on while the machine sleeps
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ClockWatch:
    """Notices that the clock of the machine was set: to be asked now and then.

    Parameters
    ----------
    wall, steady
        Clocks in seconds; the second one is never set.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = _since_boot) -> None:
        self._wall, self._steady = wall, steady
        self._offset = wall() - steady()
        self._jump, self._jumped_at = 0.0, 0.0

    def jump_seconds(self) -> float:
        """By how much it jumped within the last hour; 0 when it did not."""
        now, offset = self._steady(), self._wall() - self._steady()
        if abs(offset - self._offset) > _JUMP_SECONDS:
            self._jump, self._jumped_at = offset - self._offset, now
        self._offset = offset
        return self._jump if now - self._jumped_at < _JUMP_SHOWN_SECONDS else 0.0

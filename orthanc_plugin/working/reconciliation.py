"""Compares what Orthanc holds with what the ledger answered for, a slice at a time, and mends the difference.

The rule: Orthanc is right. An image that the ledger has not answered for is read; a study that is gone is forgotten;
results that somebody deleted come back, for a study without results and without a code would break the promise of the
node. Only deleting the images too, or a refusal, ends a result. Nothing is ever deleted in Orthanc.

Three walks, each going on where the call before it stopped: the feed of changes (new instances, within minutes), all
studies of Orthanc and all rows of the ledger (round and round; only they see deletions, which the feed does not tell).

A lost ledger is rebuilt from the answers that Orthanc keeps with the studies (``kept_answer``), without reading an
image again, wherever Orthanc holds what it held when the answer was given.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import httpx
from sqlalchemy import Connection

from dicom_sr.ownership import ACCOMPANYING_MODALITIES, MODEL_NAME
from orthanc_plugin.archive.client import OrthancClient, Series, received_of, seconds_of
from orthanc_plugin.archive.kept_answer import KeptAnswer, kept_answer
from orthanc_plugin.archive.study_content import content_digest, images_and_results, images_digest
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import Ledger, StatementRejected
from orthanc_plugin.ledger.notes import ALL_COMPARED, LAST_RECONCILIATION, ORPHANS, PLACE
from orthanc_plugin.ledger.statements import run
from orthanc_plugin.ledger.tasks import Arrival, Standing, TaskStatus, Urgency

log = logging.getLogger("hilum.reconciliation")

_SLICE_SECONDS = (1.0, 0.6, 0.4)  # of Orthanc's time in one call: feed, studies, rows
_PAGE = 1000
_ROWS = 200
_MOST_ORPHANS = 100  # that are listed
_MOST_DATES = 20  # images of a study that are asked when they came
_AT_REST = frozenset({TaskStatus.ANSWERED, TaskStatus.DONE, TaskStatus.NOT_PROCESSED})
_GONE = "results were deleted from Orthanc; they are made again"
_DAMAGED = "what the ledger knew of this study was damaged; it is read again"
_CHANGED = "what Orthanc holds of this study changed unnoticed; it is read again"


@dataclass(frozen=True)
class Report:
    """What one call looked at and found.

    Parameters
    ----------
    looked_at
        Studies and rows.
    missed
        Studies that the ledger did not know, or had given up as removed: put into the queue.
    rebuilt
        Rows made from the answer that Orthanc keeps; nothing is read for them.
    changed
        Answered studies to which images came, or from which some went, unnoticed, or whose row was damaged: queued
        again.
    results_gone
        Answered studies with fewer results than before: queued again.
    removed
        Rows whose images are no longer in Orthanc.
    orphans
        Studies with results and no image.
    behind
        There is more to look at than usual: call again soon, with a pause as long as the call.
    """

    looked_at: int = 0
    missed: int = 0
    rebuilt: int = 0
    changed: int = 0
    results_gone: int = 0
    removed: int = 0
    orphans: int = 0
    behind: bool = False


@dataclass(frozen=True)
class _Place:
    """How far each walk has come.

    Parameters
    ----------
    change
        In the feed.
    study
        Orthanc's name of the last study; empty at the start of a round.
    row
        UID of the last row; empty at the start of a round.
    orphans
        That this round has met.
    rounds
        Through all studies that were completed since the ledger was made.
    """

    change: int
    study: str = ""
    row: str = ""
    orphans: tuple[str, ...] = ()
    rounds: int = 0


def reconcile(ledger: Ledger, orthanc: OrthancClient, *, now: float, stop: threading.Event) -> Report:
    """Compare a slice; it takes Orthanc about two seconds at most, and ends early when `stop` is set.

    Parameters
    ----------
    now
        Seconds since 1970.

    Raises
    ------
    LedgerError
    OrthancUnavailable
        Either way the next call goes on; what was done is done again without harm.
    """
    return _Slice(ledger, orthanc, now, stop).run()


class _Slice:
    """One call of `reconcile`."""

    def __init__(self, ledger: Ledger, orthanc: OrthancClient, now: float, stop: threading.Event) -> None:
        self._ledger, self._orthanc, self._now, self._stop = ledger, orthanc, now, stop
        self._deadline = 0.0
        self._found: Counter[str] = Counter()

    def run(self) -> Report:
        place = self._begin()
        feed_seconds, studies_seconds, rows_seconds = _SLICE_SECONDS
        place, caught_up = self._follow_feed(place, feed_seconds)
        place = self._walk_studies(place, studies_seconds)
        place = self._walk_rows(place, rows_seconds)
        with self._ledger.write() as db:
            tasks.set_fact(db, LAST_RECONCILIATION, repr(float(self._now)))
        report = Report(**self._found, behind=not caught_up or place.rounds == 0)
        if set(self._found) - {"looked_at"}:
            counts = (f"{name} {count}" for name, count in sorted(self._found.items()))
            log.warning("Orthanc and the ledger differed: %s", ", ".join(counts))
        return report

    def _begin(self) -> _Place:
        with self._ledger.read() as db:
            noted = tasks.get_fact(db, PLACE)
        last = self._orthanc.last_change()
        if noted is None:  # a new ledger; whatever the feed told before is met by the walk through all studies
            return self._note(_Place(last))
        place = _place(json.loads(noted))
        if place.change > last:
            log.warning("Orthanc has another index than before; all studies are looked at again")
            return self._note(_Place(last))
        return place

    def _follow_feed(self, place: _Place, seconds: float) -> tuple[_Place, bool]:
        """Look at the studies of which something was stored lately; tells whether the end of the feed was reached."""
        self._deadline = time.monotonic() + seconds
        met: set[str] = set()
        while self._goes_on():
            page = self._orthanc.changes(place.change, limit=_PAGE)
            for stored in page.stored:
                if not self._goes_on():
                    return self._note(place), False
                if stored.instance not in met and (uid := self._orthanc.study_of(stored.instance)) is not None:
                    met.update(self._compare(uid, Urgency.ROUTINE))
                place = replace(place, change=stored.number)
            place = replace(place, change=max(place.change, page.last))
            if page.done:
                return self._note(place), True
        return self._note(place), False

    def _walk_studies(self, place: _Place, seconds: float) -> _Place:
        self._deadline = time.monotonic() + seconds
        for study in self._orthanc.study_ids():
            if study <= place.study:
                continue
            if not self._goes_on():
                return self._note(place)
            uid = self._orthanc.study_instance_uid(study)
            before = self._found["orphans"]
            if uid is not None:
                self._compare(uid, Urgency.BACKGROUND)
            if uid is not None and self._found["orphans"] > before and len(place.orphans) < _MOST_ORPHANS:
                place = replace(place, orphans=(*place.orphans, uid))
            place = replace(place, study=study)
        if not place.rounds:
            log.info("every study of Orthanc was looked at once")
        with self._ledger.write() as db:
            tasks.set_fact(db, ORPHANS, json.dumps(sorted(set(place.orphans))))
            tasks.set_fact(db, ALL_COMPARED, repr(float(self._now)))
        return self._note(replace(place, study="", orphans=(), rounds=place.rounds + 1))

    def _walk_rows(self, place: _Place, seconds: float) -> _Place:
        """Find the rows whose study is gone."""
        if not self._orthanc.study_ids():
            return place  # its folder may not be mounted; the worklist forgets nobody for that
        self._deadline = time.monotonic() + seconds
        while True:
            with self._ledger.read() as db:
                rows = tasks.after(db, place.row, _ROWS)
            for row in rows:
                if not self._goes_on():
                    return self._note(place)
                uid, standing = row.study_instance_uid, row.standing
                place = replace(place, row=uid)
                if standing.status in (TaskStatus.RUNNING, TaskStatus.REMOVED):
                    continue
                self._found["looked_at"] += 1
                if not self._orthanc.holds_study(uid):
                    self._remove(uid, standing)
                elif row.is_damaged and standing.status in _AT_REST:
                    self._write_anew(uid, standing)
            if len(rows) < _ROWS:
                return self._note(replace(place, row=""))

    def _compare(self, uid: str, urgency: Urgency) -> tuple[str, ...]:
        """Compare one study, and mend it; returns Orthanc's names of its instances, as far as they were seen.

        A study at which this fails, perhaps for a damaged file, is told in the log and looked at again in the next
        round: it keeps no other from its turn.
        """
        self._found["looked_at"] += 1
        try:
            return self._compare_now(uid, urgency)
        except (httpx.HTTPStatusError, StatementRejected, ValueError, LookupError):
            log.exception("a study cannot be compared", extra={"study_instance_uid": uid})
            return ()

    def _compare_now(self, uid: str, urgency: Urgency) -> tuple[str, ...]:
        before = self._standing(uid)  # first, so that an answer which comes meanwhile is not taken for outdated
        series = self._orthanc.series_of_study(uid)
        images, results = images_and_results(series)
        if not images and self._is_orphaned(series):
            if results:
                self._found["orphans"] += 1
                log.warning("results without an image", extra={"study_instance_uid": uid})
            if before is not None:
                self._remove(uid, before)
        elif before is None or before.status is TaskStatus.REMOVED:
            self._take_up(uid, series, before, urgency)
        elif before.status is TaskStatus.QUARANTINED:
            self._try_anew(uid, before, series)
        elif before.status in _AT_REST and before.content != (content := content_digest(series)):
            self._mend(self._arrival(uid, images) or Arrival(uid), before, content, urgency)
        return tuple(instance for one in series for instance in one.instances)

    def _is_orphaned(self, series: Sequence[Series]) -> bool:
        """Whether there is no image to read: a picture that bears our name may be another maker's."""
        pictures = [s for s in series if s.modality not in ACCOMPANYING_MODALITIES and s.instances]
        return all(self._orthanc.model_name(s.instances[0]) == MODEL_NAME for s in pictures)

    def _mend(self, arrival: Arrival, before: Standing, content: str, urgency: Urgency) -> None:
        """Have an answered study read again that is no longer what was answered."""
        uid = arrival.study_instance_uid
        with self._ledger.write() as db:
            if tasks.standing(db, [uid]).get(uid) != before:
                return
            if not before.content:  # answered by a version that kept no digest: from here on it is watched
                run(db, "UPDATE tasks SET content = :content WHERE study_instance_uid = :uid", uid=uid, content=content)
                return
            images, _, results = before.content.partition("/")
            images_now, _, results_now = content.partition("/")
            gone = images == images_now and _number(results_now) < _number(results)
            if images == images_now:
                tasks.request_again(db, uid, now=self._now, urgency=Urgency.BACKGROUND)
            else:  # it may be another patient's by now
                tasks.enqueue(db, arrival, now=self._now, urgency=urgency)
            run(
                db,
                "UPDATE tasks SET message = :message WHERE study_instance_uid = :uid AND status = 'queued'",
                uid=uid,
                message=_GONE if gone else _CHANGED,
            )
        self._found["results_gone" if gone else "changed"] += 1
        log.warning("results are gone" if gone else "a study changed unnoticed", extra={"study_instance_uid": uid})

    def _try_anew(self, uid: str, before: Standing, series: Sequence[Series]) -> None:
        """Have a quarantined study tried once more when an image came unnoticed, which may be its cure.

        When it is met here for the first time, that is told by the number of images that the plugin announced.
        """
        images, known = images_digest(series), before.content.partition("/")[0]
        if images == known:
            return
        announced = not known and len(images_and_results(series)[0]) <= before.generation
        with self._ledger.write() as db:
            if tasks.standing(db, [uid]).get(uid) == before:
                if not announced:
                    tasks.request_again(db, uid, now=self._now, urgency=Urgency.BACKGROUND)
                    self._found["changed"] += 1
                values = {"uid": uid, "content": f"{images}/"}
                run(db, "UPDATE tasks SET content = :content WHERE study_instance_uid = :uid", **values)

    def _take_up(self, uid: str, series: Sequence[Series], before: Standing | None, urgency: Urgency) -> None:
        """Give a study its row: the one that it had, where Orthanc keeps it, or one in the queue."""
        images = images_and_results(series)[0] or tuple(i for one in series for i in one.instances)
        arrival = self._arrival(uid, images)
        if arrival is None:
            return  # deleted while we looked
        kept = kept_answer(self._orthanc, uid) if before is None else None
        if kept is not None and kept.outcome.content == content_digest(series):
            self._rebuild(arrival, kept)
            return
        first, last = self._came(images)
        with self._ledger.write() as db:
            if tasks.standing(db, [uid]).get(uid) != before:
                return
            tasks.enqueue(db, arrival, now=self._now, urgency=urgency)
            _set_times(db, uid, first, last)
        self._found["missed"] += 1
        log.warning("a study was missed", extra={"study_instance_uid": uid})

    def _rebuild(self, arrival: Arrival, kept: KeptAnswer) -> None:
        with self._ledger.write() as db:
            if tasks.adopt(db, arrival, kept.outcome, now=self._now, received_at=kept.received_at):
                _set_times(db, arrival.study_instance_uid, kept.received_at, kept.last_instance_at)
                self._found["rebuilt"] += 1

    def _arrival(self, uid: str, images: Sequence[str]) -> Arrival | None:
        """What the worklist says of a study, from its first image; None when no image is there any more."""
        for image in images:
            try:
                tags = self._orthanc.tags(image)
            except httpx.HTTPStatusError:  # its file is damaged: reading it will give the reason
                return Arrival(uid)
            if tags:
                return replace(Arrival.from_tags(tags), study_instance_uid=uid)
        return None

    def _came(self, images: Sequence[str]) -> tuple[float, float]:
        """When the first and the last image came, in seconds since 1970."""
        came = [seconds_of(received_of(self._orthanc.metadata(image))) for image in images[:_MOST_DATES]]
        return min(came), max(came)

    def _remove(self, uid: str, standing: Standing) -> None:
        with self._ledger.write() as db:
            removed = tasks.mark_removed(db, uid, seen=standing.generation, now=self._now)
        self._found["removed"] += removed
        if removed:
            log.info("a study is no longer in Orthanc", extra={"study_instance_uid": uid})

    def _write_anew(self, uid: str, standing: Standing) -> None:
        """Have a study read again whose answer in the ledger cannot be read; its results are the same as before."""
        with self._ledger.write() as db:
            if tasks.standing(db, [uid]).get(uid) == standing:
                tasks.request_again(db, uid, now=self._now, urgency=Urgency.BACKGROUND)
                statement = "UPDATE tasks SET message = :message WHERE study_instance_uid = :uid"
                run(db, statement, uid=uid, message=_DAMAGED)
                self._found["changed"] += 1
        log.error("a row of the ledger was damaged", extra={"study_instance_uid": uid})

    def _standing(self, uid: str) -> Standing | None:
        with self._ledger.read() as db:
            return tasks.standing(db, [uid]).get(uid)

    def _goes_on(self) -> bool:
        return time.monotonic() < self._deadline and not self._stop.is_set()

    def _note(self, place: _Place) -> _Place:
        with self._ledger.write() as db:
            tasks.set_fact(db, PLACE, json.dumps(asdict(place)))
        return place


def _number(part: str) -> int:
    number = part.partition("-")[0]
    return int(number) if number.isdecimal() else 0


def _place(noted: dict[str, Any]) -> _Place:
    return _Place(**{**noted, "orphans": tuple(noted["orphans"])})


def _set_times(db: Connection, uid: str, first: float, last: float) -> None:
    run(
        db,
        "UPDATE tasks SET received_at = :first, last_instance_at = :last WHERE study_instance_uid = :uid",
        uid=uid,
        first=first,
        last=last,
    )

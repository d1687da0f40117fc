"""The reading actors that a worker keeps on a Ray cluster: as many as are wanted, warm, and each with its studies.

The rule: an actor that dies costs the studies that it was at an attempt each; one that is ended on purpose, because of
one study or for want of work, costs the others nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orthanc_plugin.ledger.tasks import Failure
from orthanc_plugin.settings import Settings
from orthanc_plugin.working.reading_actor import ReadingActor
from orthanc_plugin.working.retry_policy import pause_seconds

log = logging.getLogger("hilum.ray")

_NO_ROOM_SECONDS = 60.0  # without any actor that is ready, while some wait for a place or load their models
_PLACE_SECONDS = 30.0  # that a study waits for an actor, after the one that was there for it has died

Message = dict[str, Any]


class ReadBack(Exception):
    """A study was not read, by no fault of its own."""


@dataclass(eq=False)
class _Actor:
    """One actor, from when it was asked for.

    Parameters
    ----------
    beginning
        What becomes ready when its models are loaded.
    death
        What becomes ready when it dies.
    at
        Keys of the studies that it reads.
    versions
        Of its models; None until they are loaded.
    leaving
        It gets nothing more, and ends when it has done what it has.
    condemned
        Key of the study because of which it was ended.
    """

    handle: Any
    beginning: Any
    death: Any
    at: set[str] = field(default_factory=set)
    versions: dict[str, str] | None = None
    leaving: bool = False
    condemned: str = ""


class Actors:
    """All actors of one worker. Any thread may call any method.

    Parameters
    ----------
    ray
        The module, connected.
    kind
        What each is an object of.
    settings
        What each gets.
    """

    def __init__(self, ray: Any, kind: type[ReadingActor], settings: Settings) -> None:
        self._ray, self._settings = ray, settings
        self._lock = threading.Condition()  # notified when an actor is ready, or has less to do
        self._actors: list[_Actor] = []
        self._unbegun: set[str] = set()  # studies whose actor had died when they came to it
        self._wanted, self._renewals = settings.ray_actors_least, 0
        self._failures, self._not_before, self._none_since = 0, 0.0, time.monotonic()
        self._kind = ray.remote(kind).options(
            num_cpus=settings.ray_cpus,
            num_gpus=settings.ray_gpus,
            max_concurrency=settings.ray_studies + 2,  # one that waits for its death, and one to spare
            max_restarts=0,  # the next one is asked for here, when it is wanted
            scheduling_strategy="SPREAD",
        )

    def want(self, number: int) -> None:
        """So many from now on."""
        self._wanted = number

    def renew(self, number: int) -> None:
        """Have others in their place, with what is chosen now; for the so manieth time."""
        with self._lock:
            for actor in self._actors:
                actor.leaving = True
            self._renewals, self._not_before = number, 0.0

    def condemn(self, key: str) -> None:
        """End the actor that is at a study; the others that it was at are read again."""
        with self._lock:
            for actor in self._actors:
                if key in actor.at:
                    actor.condemned, actor.leaving = key, True
                    self._ray.kill(actor.handle)

    def read(self, key: str, task: Mapping[str, Any]) -> Iterator[Message]:
        """Have one study read: what comes of it.

        Raises
        ------
        ReadBack
        """
        actor, study, begun = self._free_actor(key), task["study_instance_uid"], False
        try:
            for reference in actor.handle.read.options(num_returns="streaming").remote(dict(task)):
                message = self._ray.get(reference)
                if "begun" in message:
                    begun = True
                    self._unbegun.discard(study)
                else:
                    yield message
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.WorkerCrashedError) as error:
            actor.leaving = True  # nothing more is given to it
            if actor.condemned and actor.condemned != key:
                raise ReadBack from error
            if not begun and study not in self._unbegun:  # another may have killed it; the second time it is this one
                self._unbegun.add(study)
                raise ReadBack from error
            told = "the actor that read it died, or its machine did"
            log.warning(told, extra={"study_instance_uid": study})
            self._ray.kill(actor.handle)  # one that cannot be reached any more may live all the same
            yield {"failure": asdict(Failure("reader_died", told))}
        finally:
            with self._lock:
                actor.at.discard(key)
                self._lock.notify_all()

    def tend(self) -> list[Message]:
        """Look after all of them: what the worker is to know.

        Raises
        ------
        Exception
            Of Ray, when the cluster does not answer.
        """
        self._ray.nodes()  # asks the head
        with self._lock:
            told = [message for actor in list(self._actors) if (message := self._look_after(actor)) is not None]
            self._adapt()
            ready = [actor for actor in self._actors if actor.versions is not None and not actor.leaving]
            if ready:
                self._none_since = time.monotonic()
            elif not told and time.monotonic() - self._none_since > _NO_ROOM_SECONDS:
                told.append({"problem": "ray_no_room"})
            versions, places = (ready[0].versions if ready else {}), len(ready) * self._settings.ray_studies
            return [*told, {"places": places, "versions": versions, "renewed": self._renewals}]

    def _look_after(self, actor: _Actor) -> Message | None:
        """Notice that one has loaded its models, cannot, or has died; what is wrong."""
        if actor.versions is None and self._is_there(actor.beginning):
            try:
                begun = self._ray.get(actor.beginning)
            except self._ray.exceptions.RayError as error:
                log.error("an actor died before it was ready (%s); see Ray's logs on its node", type(error).__name__)
                self._drop(actor)
                return {"problem": "reader_dies"}
            if "unusable" in begun:
                self._drop(actor)
                return dict(begun)
            actor.versions, self._failures = dict(begun["ready"]), 0
            self._lock.notify_all()
        elif actor.versions is not None and self._is_there(actor.death):
            self._actors.remove(actor)
        return None

    def _adapt(self) -> None:
        """Let go of those that nobody needs, and ask for those that are missing."""
        staying = [actor for actor in self._actors if not actor.leaving]
        # those that are not ready go first, then those with the least to do
        by_use = sorted(staying, key=lambda actor: (actor.versions is not None, len(actor.at)))
        for actor in by_use[: max(0, len(staying) - self._wanted)]:
            actor.leaving = True
        for actor in [actor for actor in self._actors if actor.leaving and not actor.at]:
            self._ray.kill(actor.handle)
            self._actors.remove(actor)
        missing = self._wanted - len(staying) if time.monotonic() >= self._not_before else 0
        for _ in range(missing):
            handle = self._kind.remote(self._settings)
            self._actors.append(_Actor(handle, handle.begin.remote(), handle.live.remote()))

    def _drop(self, actor: _Actor) -> None:
        """Do without one that did not come up; the next is asked for later."""
        self._ray.kill(actor.handle)
        self._actors.remove(actor)
        self._failures += 1
        self._not_before = time.monotonic() + pause_seconds(self._failures, 1.0)

    def _is_there(self, reference: Any) -> bool:
        return bool(self._ray.wait([reference], timeout=0)[0])

    def _free_actor(self, key: str) -> _Actor:
        """One with the least to do, which is at this study from now on."""
        end = time.monotonic() + _PLACE_SECONDS
        with self._lock:
            while (left := end - time.monotonic()) > 0:
                ready = [actor for actor in self._actors if actor.versions is not None and not actor.leaving]
                free = [actor for actor in ready if len(actor.at) < self._settings.ray_studies]
                if free:
                    chosen = min(free, key=lambda actor: len(actor.at))
                    chosen.at.add(key)
                    return chosen
                self._lock.wait(left)
        raise ReadBack

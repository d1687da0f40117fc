"""Sends studies as a modality does: each image until it is acknowledged, over one association or several.

The rule: an image counts as acknowledged only when a C-STORE response said so; whatever was not, is sent again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pydicom import Dataset

from orthanc_plugin.commands.modality import ANYBODY, Caller, send
from tests.faults.studies import Study, make_study

_PAUSE_SECONDS = 0.5  # before what was not acknowledged is sent again


@dataclass
class Sent:
    """A study on its way."""

    study: Study
    left: list[Dataset]
    due: float
    pause: float
    acknowledged: set[str] = field(default_factory=set)


class Modality:
    """A thread that sends studies while it is asked to, and what was not acknowledged until it is.

    Parameters
    ----------
    wanted
        Whether another study shall be sent now.
    """

    def __init__(
        self, run: str, port: int, ae_title: str, wanted: Callable[[], bool], caller: Caller = ANYBODY
    ) -> None:
        self._caller = caller
        self._run, self._port, self._ae_title, self._wanted = run, port, ae_title, wanted
        self._rng = random.Random(f"{run}/modality")  # noqa: S311
        self._all: list[Sent] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="modality", daemon=True)
        self.refusals = 0  # attempts to send an image that were not acknowledged

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def finish(self, seconds: float) -> bool:
        """Begin no study any more; whether everything that was begun is acknowledged within `seconds`."""
        self._stopping.set()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def studies(self) -> list[Sent]:
        """Every study of which something was sent."""
        return list(self._all)

    def _work(self) -> None:
        on_the_way: list[Sent] = []
        while on_the_way or not self._stopping.is_set():
            ready = [sent for sent in on_the_way if sent.due <= time.monotonic()]
            if ready:
                self._send(ready[0])
                on_the_way = [sent for sent in on_the_way if sent.left]
            elif len(on_the_way) < 4 and not self._stopping.is_set() and self._wanted():
                on_the_way.append(self._next())
            else:
                time.sleep(0.02)

    def _next(self) -> Sent:
        study = make_study(self._run, len(self._all))
        # now and then an image comes after the study was answered
        pause = self._rng.choice((0.0, 0.0, 0.0, 0.3, 1.5))
        sent = Sent(study, list(study.images), time.monotonic(), pause)
        self._all.append(sent)
        return sent

    def _send(self, sent: Sent) -> None:
        batch = sent.left if not sent.pause else sent.left[:1]
        accepted = {
            outcome.sop_instance_uid
            for outcome in send(batch, "127.0.0.1", self._port, self._ae_title, self._caller)
            if outcome.accepted
        }
        self.refusals += len(batch) - len(accepted)
        sent.acknowledged |= accepted
        sent.left = [ds for ds in sent.left if str(ds.SOPInstanceUID) not in accepted]
        sent.due = time.monotonic() + (sent.pause if accepted else _PAUSE_SECONDS)

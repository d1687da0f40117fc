"""What runs on a node of a Ray cluster: an actor that holds the models and reads some studies at the same time.

The rule: a study that raises is a coded `Failure`, as in a reading process; one that kills the actor costs each study
that it was at one attempt. Secrets never come by Ray: the account is read from a file of the actor's machine.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import queue
import resource
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from orthanc_plugin.child_process import limit
from orthanc_plugin.ledger.flagging import Flag
from orthanc_plugin.ledger.tasks import Failure
from orthanc_plugin.logs import start_logging
from orthanc_plugin.settings import Settings
from orthanc_plugin.working.reader import task_of
from orthanc_plugin.working.reading_loop import attempt

log = logging.getLogger("hilum.actor")

_WATCH_SECONDS = 0.2
_IDLE_SECONDS = 0.3  # without a study
_LAST_WORDS_SECONDS = 0.5  # for saying why it ends
_TOO_MUCH_MEMORY = 137  # exit code, as of a process that the kernel ends
_MEBIBYTE = 2**20

Message = dict[str, Any]


class Unusable(Exception):
    """Nothing can be read with what the site has; the message is for people."""


_Asked = tuple[Mapping[str, Any], "queue.SimpleQueue[Message]"]


class Equipped(Protocol):
    """What an actor reads with (``equipment``)."""

    @property
    def versions(self) -> dict[str, str]:
        """Of the models."""

    @property
    def expected(self) -> Mapping[type[Exception], tuple[str, str]]:
        """What a reading may raise."""

    def reading(self) -> AbstractContextManager[Any]:
        """What reads, for one thread."""

    def idle(self) -> bool:
        """Do something that can wait, if there is anything."""


class ReadingActor:
    """Made on a node by `ray_driver`; its methods are called by threads of Ray.

    Parameters
    ----------
    settings
        Of the worker, without what is secret.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asked: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        self._at: set[queue.SimpleQueue[Message]] = set()  # the answers of what is being read

    def load(self) -> Equipped:
        """Have everything in memory.

        Raises
        ------
        Unusable
        """
        from orthanc_plugin.working.equipment import UNUSABLE, Equipment

        try:
            return Equipment.load(self._settings, self._settings.ray_studies)
        except UNUSABLE as error:
            raise Unusable(str(error)) from error

    def begin(self) -> Message:
        """Load the models; ``{"ready": versions}`` or ``{"unusable": message}``."""
        limit(resource.RLIMIT_CORE, 0)  # it would hold pixels and names
        start_logging()
        started = time.monotonic()
        try:
            equipment = self.load()
        except Unusable as error:
            return {"unusable": str(error)}
        for number in range(self._settings.ray_studies):
            sit = threading.Thread(target=self._sit, args=[equipment, number], name=f"reader-{number + 1}", daemon=True)
            sit.start()
        threading.Thread(target=self._watch_memory, name="memory", daemon=True).start()
        gc.collect()
        gc.freeze()  # the models stay: Python need not walk through them in the middle of a patient
        log.info("models loaded", extra={"pid": os.getpid(), "seconds": round(time.monotonic() - started, 2)})
        return {"ready": equipment.versions}

    def read(self, fields: Mapping[str, Any]) -> Iterator[Message]:
        """Have one study read: that it is begun, then messages without a key (``ray_link``); the last answers it."""
        answers: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._asked.put((fields, answers))
        while True:
            message = answers.get()
            yield message
            if "flag" not in message and "begun" not in message:
                return

    def live(self) -> None:
        """Return never: whoever waits for this is told when the actor dies."""
        threading.Event().wait()

    def _sit(self, equipment: Equipped, number: int) -> None:
        """Read one study after the other. Each thread has an intake process, which ends with it."""
        with equipment.reading() as read:
            while True:
                try:  # the first one does what can wait
                    fields, answers = self._asked.get(timeout=None if number else _IDLE_SECONDS)
                except queue.Empty:
                    equipment.idle()
                    continue
                self._at.add(answers)
                answers.put({"begun": True})

                def tell(raised: Flag, answers: queue.SimpleQueue[Message] = answers) -> None:
                    answers.put({"flag": asdict(raised)})

                line = attempt(task_of(fields), read, equipment.expected, tell)
                self._at.discard(answers)
                answers.put(json.loads(line))

    def _watch_memory(self) -> None:
        """End this process when it has more than it may, after saying so of what it is at."""
        most = self._settings.memory_mb * _MEBIBYTE
        while _resident() <= most:
            time.sleep(_WATCH_SECONDS)
        failure = Failure("out_of_memory", f"the actor took more than {self._settings.memory_mb} MiB of memory")
        for answers in list(self._at):
            answers.put({"failure": asdict(failure)})
        log.error("%s", failure.message)
        time.sleep(_LAST_WORDS_SECONDS)
        os._exit(_TOO_MUCH_MEMORY)


def _resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")

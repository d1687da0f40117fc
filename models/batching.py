"""Gathers what several studies ask of one network at the same time into one batch.

The rule: nobody waits for company. Who comes while the network is idle is answered at once and alone; a batch is what
has come while it was busy. Nothing here sleeps, and there is no thread: who waits first asks for all who wait.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from models.forward import FloatArray, Runner

SIZES = (1, 2, 4, 8)  # pictures that are tried together
_WORTH = 0.95  # of a picture's time in a smaller batch: a larger one has to save more


@dataclass(eq=False)
class _Asked:
    """One picture, and what became of it."""

    picture: FloatArray
    turn: threading.Event = field(default_factory=threading.Event)  # it is answered, or it is the one to ask now
    answer: dict[str, FloatArray] | None = None
    error: BaseException | None = None


class Gathering:
    """A network that threads ask at the same time; a `Forward`.

    Parameters
    ----------
    run
        What answers. It is asked by one thread at a time.
    most
        Pictures in one batch; 1: one after the other, in the order in which they came.
    """

    def __init__(self, run: Runner, most: int) -> None:
        self._run, self._most = run, most
        self._lock = threading.Lock()
        self._asker: _Asked | None = None  # who asks now, or is the one to
        self._waiting: deque[_Asked] = deque()

    def __call__(self, picture: FloatArray) -> dict[str, FloatArray]:
        """The answer about one picture of shape (1, channels, size, size); an error reaches all of its batch."""
        mine = _Asked(picture)
        try:
            with self._lock:
                self._waiting.append(mine)
                if self._asker is None:
                    self._asker = mine
                    mine.turn.set()
            mine.turn.wait()
            if mine.answer is None and mine.error is None:
                self._ask_for_all()
        finally:  # whoever goes, interrupted or not, leaves nobody waiting
            self._leave(mine)
        if mine.error is not None:
            raise mine.error
        return mine.answer or {}

    def _ask_for_all(self) -> None:
        """Ask about what waits, the caller's own first."""
        batch: list[_Asked] = []
        try:
            with self._lock:
                batch += [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            for each, answer in zip(batch, self._answers(batch), strict=True):
                each.answer = answer
        except BaseException as error:  # noqa: BLE001  whatever it is, those who wait must hear of it
            for each in batch:
                each.error = error
        finally:
            for each in batch:
                each.turn.set()

    def _leave(self, mine: _Asked) -> None:
        """Wait no more; the next one asks now, where this one was to."""
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
            if self._asker is mine:
                self._asker = self._waiting[0] if self._waiting else None
                if self._asker is not None:
                    self._asker.turn.set()

    def _answers(self, batch: list[_Asked]) -> list[dict[str, FloatArray]]:
        if len(batch) == 1 or self._run.ask_many is None:
            return [self._run(each.picture) for each in batch]
        return self._run.ask_many(np.concatenate([each.picture for each in batch]))


def size_worth_it(seconds: Mapping[int, float]) -> int:
    """How many pictures to ask about at once.

    Parameters
    ----------
    seconds
        Size of a batch to how long all of it takes; the smallest size must be there.

    Returns
    -------
    int
        The smallest size beyond which a picture hardly gets any cheaper.
    """
    best = min(seconds)
    for size in sorted(seconds):
        if seconds[size] / size < _WORTH * seconds[best] / best:
            best = size
    return best

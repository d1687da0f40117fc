"""How many reading actors are wanted: a pure function of the queue, with patience before one is let go.

The rule: more at once when studies wait, fewer only when they were not needed for a while, for a new one loads models.
"""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE_SECONDS = 60.0  # for which an actor that nobody needs is kept


@dataclass(frozen=True)
class Limits:
    """What a site allows.

    Parameters
    ----------
    least, most
        Actors.
    studies
        That one actor reads at the same time.
    """

    least: int
    most: int
    studies: int

    @property
    def seats(self) -> int:
        """Studies that are read at the same time at the most."""
        return self.most * self.studies


class Demand:
    """How many actors are wanted, from one look at the queue to the next."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._wanted = limits, limits.least
        self._needed: list[tuple[float, int]] = []  # what was needed lately: when, and how many

    def wanted(self, studies: int, *, now: float) -> int:
        """Actors that are wanted.

        Parameters
        ----------
        studies
            That are being read, or wait.
        now
            Seconds, by a clock that never jumps.
        """
        need = min(max(-(-studies // self._limits.studies), self._limits.least), self._limits.most)
        lately = [(at, number) for at, number in self._needed if now - at < PATIENCE_SECONDS]
        # of those before, only what is more than a later one says anything
        self._needed = [*((at, number) for at, number in lately if number > need), (now, need)]
        return max(number for _, number in self._needed)

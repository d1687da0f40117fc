"""How many wrong passwords are taken: for one name, and for all names together.

The rule: what is used up comes back with time, so that nobody, and no hospital, is locked out for ever; and a name that
does not exist is treated as one that does.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from dataclasses import dataclass

_SLOTS = 4096  # names share them, so that invented names take no memory


@dataclass(frozen=True)
class Allowance:
    """So many failures at once, and then one more each so many seconds."""

    failures: int
    seconds: float


OF_A_NAME = Allowance(5, 30.0)
OF_ALL = Allowance(60, 2.0)


class Attempts:
    """Failures that are still allowed."""

    def __init__(self, of_a_name: Allowance = OF_A_NAME, of_all: Allowance = OF_ALL) -> None:
        self._limits = {"": of_all}
        self._of_a_name = of_a_name
        self._used: dict[str, tuple[float, float]] = {}  # how many, and when that was so
        self._key = secrets.token_bytes(16)
        self._lock = threading.Lock()

    def begin(self, name: str, now: float) -> float:
        """Count an attempt before it is checked; returns 0, or seconds to wait, when it is not to be checked at all."""
        with self._lock:
            keys = (self._slot(name), "")
            wait = max(self._wait(key, now) for key in keys)
            if not wait:
                for key in keys:
                    self._used[key] = (self._count(key, now) + 1, now)
            return wait

    def succeeded(self, name: str, now: float) -> None:
        """Give an attempt back, for the password was right."""
        with self._lock:
            for key in (self._slot(name), ""):
                self._used[key] = (max(0.0, self._count(key, now) - 1), now)

    def _slot(self, name: str) -> str:
        digest = hashlib.blake2b(name.strip().lower().encode("utf-8", "replace"), key=self._key, digest_size=4)
        return str(int.from_bytes(digest.digest()) % _SLOTS)

    def _limit(self, key: str) -> Allowance:
        return self._limits.get(key, self._of_a_name)

    def _count(self, key: str, now: float) -> float:
        used, since = self._used.get(key, (0.0, now))
        return max(0.0, used - max(0.0, now - since) / self._limit(key).seconds)

    def _wait(self, key: str, now: float) -> float:
        limit = self._limit(key)
        return max(0.0, (self._count(key, now) + 1 - limit.failures) * limit.seconds)

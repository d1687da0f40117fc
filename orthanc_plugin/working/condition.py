"""What a worker tells of itself: which models it has in memory, and what keeps it from its work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_PROBLEM_SECONDS = 200.0  # a problem that was not met for so long is no more; longer than any pause and a start


class Condition:
    """The condition of one worker, told by the threads of its readers and read by the one that keeps the ledger.

    Parameters
    ----------
    news
        Called when the ledger is to hear of a change at once.
    """

    def __init__(self, news: Callable[[], None]) -> None:
        self._news, self._lock = news, threading.Lock()
        self._versions: dict[str, str] | None = None
        self._problems: dict[str, float] = {}  # code, and when it was met last

    def ready(self, versions: dict[str, str]) -> None:
        """A reading process has these models in memory."""
        self._versions = versions
        self.solved("models_unusable")
        self._news()

    def problem(self, code: str) -> None:
        """Something keeps this worker from its work."""
        with self._lock:
            self._problems[code] = time.monotonic()
        self._news()

    def solved(self, *codes: str) -> None:
        """It does no more."""
        with self._lock:
            for code in codes:
                self._problems.pop(code, None)

    def told(self) -> tuple[str, dict[str, str], str]:
        """State (``starting`` or ``ready``), versions of the models, and the code of a problem or nothing."""
        oldest = time.monotonic() - _PROBLEM_SECONDS
        with self._lock:
            problem = next((code for code, met in self._problems.items() if met > oldest), "")
        return ("starting" if self._versions is None else "ready"), self._versions or {}, problem

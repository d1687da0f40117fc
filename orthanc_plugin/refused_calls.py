"""How many DICOM associations Orthanc refused, and why: it tells its log alone, so they are counted as that is written.

The rule: a number for each reason, and nothing of who called; it begins anew with Orthanc.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from pathlib import Path

# CommandDispatcher.cpp of Orthanc 1.10 to 1.12
_REASONS = (
    ("called_ae", re.compile(r"Rejected association, because of a bad called AET")),
    ("unknown_ae", re.compile(r"Rejected association for remote AET")),
    ("tls", re.compile(r"Receiving Association failed: .*TLS")),
    ("other", re.compile(r"Receiving Association failed: |Association Rejected")),
)
REASONS = tuple(reason for reason, _ in _REASONS)


def refusal_in(event: str) -> str | None:
    """Why a call was refused, if a line of Orthanc's log tells of one."""
    return next((reason for reason, words in _REASONS if words.search(event)), None)


class RefusedCalls:
    """Counts, in a file that another process reads."""

    def __init__(self, file: Path) -> None:
        self._file, self._counts = file, Counter(dict.fromkeys(REASONS, 0))
        self._keep()

    def look_at(self, event: str) -> None:
        """Count a refusal, if this line tells of one."""
        if (reason := refusal_in(event)) is not None:
            self._counts[reason] += 1
            self._keep()

    def _keep(self) -> None:
        draft = self._file.with_name(f"{self._file.name}.draft")
        with contextlib.suppress(OSError):  # a full disk must not end the log
            draft.write_text(json.dumps(self._counts))
            draft.rename(self._file)


def read_refused_calls(file: Path) -> dict[str, int]:
    """How many there were by reason."""
    try:
        found = json.loads(file.read_text())
        return {reason: int(found[reason]) for reason in REASONS}
    except (OSError, ValueError, KeyError, TypeError):
        return dict.fromkeys(REASONS, 0)

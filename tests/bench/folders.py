"""The folder in which a bench works, gone when the bench is, however that ends.

The rule: Ctrl-C and ``kill`` end a bench from within, so that whatever it started is stopped before its folder goes; a
second one must not keep it from that.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 10.0  # s, for what was stopped to let go of its files


@contextmanager
def working_folder(bench: str) -> Iterator[Path]:
    """An empty folder for the time of a block."""
    before = {ending: signal.signal(ending, _end) for ending in _ENDINGS}
    folder = Path(tempfile.mkdtemp(prefix=f"hilum-{bench}-"))
    try:
        yield folder
    finally:
        _ignore()
        _remove(folder)
        for ending, handler in before.items():
            signal.signal(ending, handler)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    _ignore()
    raise SystemExit(128 + number)  # as a shell tells it


def _ignore() -> None:
    for ending in _ENDINGS:
        signal.signal(ending, signal.SIG_IGN)


def _remove(folder: Path) -> None:
    """A process that is ending may still write into it."""
    until = time.monotonic() + _PATIENCE
    while folder.exists() and time.monotonic() < until:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05 if folder.exists() else 0.0)

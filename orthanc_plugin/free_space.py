"""Whether there is room for another image."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_MEBIBYTE = 1024 * 1024


class FreeSpace:
    """The room that is left for images; the system is asked once a second at most, whoever calls.

    Parameters
    ----------
    folders
        What is written to; the one with the least room counts. One that cannot be asked has none.
    reserve_mb
        MiB that are kept for results and the ledger.
    """

    def __init__(self, folders: Sequence[Path], reserve_mb: int) -> None:
        self._folders, self.reserve_mb = tuple(folders), reserve_mb
        self._asked_at, self._free_mb, self._read_only = float("-inf"), 0, False
        self.refused = 0  # images, so far

    def free_mb(self) -> int:
        """MiB that an ordinary user may still write: none where a folder can only be read."""
        self._ask()
        return self._free_mb

    def read_only(self) -> bool:
        """Whether a folder lies on a file system that can only be read, as one is mounted again after errors."""
        self._ask()
        return self._read_only

    def refuses(self) -> bool:
        """Whether another image would eat into the reserve."""
        refused = self.free_mb() < self.reserve_mb
        self.refused += refused
        return refused

    def _ask(self) -> None:
        now = time.monotonic()
        if now - self._asked_at >= 1.0:
            rooms = [_room(folder) for folder in self._folders]
            self._free_mb, self._read_only = min(free for free, _ in rooms), any(only for _, only in rooms)
            self._asked_at = now


def _room(folder: Path) -> tuple[int, bool]:
    """MiB that are free, and whether nothing can be written at all."""
    try:
        found = os.statvfs(folder)
        if found.f_flag & os.ST_RDONLY or not _takes_files(folder):
            return 0, True
    except OSError:
        return 0, False
    if found.f_blocks == 0:  # a file system in memory without a limit
        return sys.maxsize, False
    return found.f_bavail * found.f_frsize // _MEBIBYTE, False


def _takes_files(folder: Path) -> bool:
    """Whether a file can be made: after errors a file system may refuse that and not be called read-only.

    Raises
    ------
    OSError
        When there is no room for one.
    """
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY))  # it never has a name, so nothing is left behind
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        return error.errno not in (errno.EROFS, errno.EIO)
    return True

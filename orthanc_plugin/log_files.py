"""A log file that several processes write at once, and that is rotated under them.

The rule: no line is lost. All of them append to one file by their standard error, a line with one write(2). One process
renames it when it is full; whoever still writes to the old one finishes there, and goes on in the new one from its next
line.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from itertools import count
from pathlib import Path

_STDERR = 2
_ROTATED = re.compile(r"(?<=\.log)\.\d+( \(deleted\))?$")


def file_of_stderr() -> Path | None:
    """The log file that standard error goes to, under its name of today; None when that is a pipe or a terminal."""
    try:
        if not stat.S_ISREG(os.fstat(_STDERR).st_mode):
            return None
        return Path(_ROTATED.sub("", str(Path(f"/proc/self/fd/{_STDERR}").readlink())))
    except OSError:
        return None


def follow(file: Path) -> None:
    """Have standard error go to what bears this name now; where that cannot be, it stays where it is."""
    with contextlib.suppress(OSError):
        if _same(os.fstat(_STDERR), file):
            return
        now = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.dup2(now, _STDERR)  # at once: another thread writes to the one or to the other
        finally:
            os.close(now)


def rotate(file: Path, *, longest: int, files: int) -> bool:
    """Begin a new file where this one is full; the oldest make room. Whether that was so.

    Parameters
    ----------
    longest
        Bytes from which it is full.
    files
        How many are kept, with the new one, 2 or more: ``x.log``, ``x.log.1`` and so on, the older the higher.
    """
    with contextlib.suppress(OSError):
        if file.stat().st_size < longest:
            return False
        with _locked(file.parent):
            if file.stat().st_size < longest:
                return False  # another process was quicker
            for number in count(files):
                if not (beyond := _numbered(file, number)).exists():
                    break
                beyond.unlink()
            for number in reversed(range(files - 1)):
                if (old := _numbered(file, number)).exists():
                    old.rename(_numbered(file, number + 1))
            os.close(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
            return True
    return False


def _numbered(file: Path, number: int) -> Path:
    return file.with_name(f"{file.name}.{number}") if number else file


def _same(found: os.stat_result, file: Path) -> bool:
    named = file.stat()
    return (found.st_dev, found.st_ino) == (named.st_dev, named.st_ino)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)

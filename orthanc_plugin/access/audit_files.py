"""The files of the audit log: one JSON object a line, each holding the SHA-256 of the line before.

The rule: files are numbered and the chain goes from one to the next, so that a line, or a file, that was changed or
taken away is noticed. Whoever appends holds the lock of the folder and begins with the last line that is there:
several processes (the plugin, the command line) make one chain, and never write at the same time. ``head`` names the
last line, so that lines taken away at the end are noticed too. Against somebody who may write all of it, only a copy
elsewhere helps.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BEGINNING = "0" * 64
HEAD, _LOCK = "head", "lock"


@dataclass(frozen=True)
class Place:
    """Where the chain ends: the number and the SHA-256 of its last line."""

    number: int
    digest: str


@dataclass(frozen=True)
class Verdict:
    """Whether the log is whole.

    Parameters
    ----------
    faults
        What is wrong, in words; empty when nothing is.
    """

    lines: int
    end: Place
    faults: tuple[str, ...]


def files_of(folder: Path) -> list[Path]:
    """The files in order."""
    return sorted(path for path in folder.glob("*.log") if path.stem.isdecimal())


def append(folder: Path, entries: Sequence[dict[str, Any]], *, longest: int) -> Place:
    """Append entries, all or none of them, and wait until the disk has them.

    Parameters
    ----------
    longest
        Bytes of a file, beyond which the next one is begun.

    Raises
    ------
    OSError
    """
    with locked(folder):
        files = files_of(folder)
        file = files[-1] if files else folder / _name(1)
        end = _end(folder, files)
        if file.exists() and file.stat().st_size >= longest:
            file = folder / _name(int(file.stem) + 1)
        lines, number, digest = [], end.number, end.digest
        for entry in entries:
            number += 1
            line = json.dumps({"n": number, "previous": digest, **entry}, ensure_ascii=True).encode()
            digest = _digest(line)
            lines.append(line + b"\n")
        before = _write(file, b"".join(lines))
        end = Place(number, digest)
        try:
            _note_head(folder, end)
        except OSError:
            os.truncate(file, before)
            raise
        return end


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """Every line that can be read, the oldest first."""
    for file in files_of(folder):
        with file.open("rb") as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict):
                    yield entry


def verify(folder: Path) -> Verdict:
    """Follow the chain from the first line to the last.

    Raises
    ------
    OSError
    """
    faults: list[str] = []
    number, digest = 0, _BEGINNING
    files = files_of(folder)
    digests: dict[int, str] = {0: _BEGINNING}
    with locked(folder, shared=True):
        for place, file in enumerate(files, 1):
            if int(file.stem) != place:
                faults.append(f"file {_name(place)} is missing")
                break
            with file.open("rb") as lines:
                for at, line in enumerate(lines, 1):
                    where = f"{file.name}, line {at}"
                    number += 1
                    if not line.endswith(b"\n"):
                        faults.append(f"{where}: it was never finished (the machine stopped while it was written)")
                    faults.extend(f"{where}: {fault}" for fault in _faults(line, number, digest))
                    number = _number(line, number)
                    digest = digests[number] = _digest(line.rstrip(b"\n"))
        head = _head(folder)
    if head is None and files:
        faults.append("the file head is missing, which names the last line")
    elif head is not None and digests.get(head.number) != head.digest:
        faults.append(f"line {head.number}, the last one that was written, is not there, or not as it was written")
    return Verdict(len(digests) - 1, Place(number, digest), tuple(faults))


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of the folder, so that nobody appends meanwhile.

    Raises
    ------
    OSError
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _faults(line: bytes, number: int, previous: str) -> Iterator[str]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        yield "it is no JSON object"
    elif entry.get("n") != number:
        yield f"it has the number {entry.get('n')}, not {number}: lines are missing, or were added"
    elif entry.get("previous") != previous:
        yield "the line before it was changed, or is another one"


def _number(line: bytes, expected: int) -> int:
    """The number that a line gives itself, so that one missing line is told once."""
    try:
        number = json.loads(line)["n"]
    except (ValueError, KeyError, TypeError):
        return expected
    return number if isinstance(number, int) and number > 0 else expected


def _end(folder: Path, files: list[Path]) -> Place:
    """The last line; what a machine that stopped did not finish is cut off.

    Where ``head`` names a later line, or another one, something was taken away or changed: the chain goes on from what
    was there, so that it shows.
    """
    found, head = _last_line(files), _head(folder)
    return head if head is not None and head.number >= found.number else found


def _last_line(files: list[Path]) -> Place:
    for file in reversed(files):
        with file.open("r+b") as opened:
            content = _tail(opened)
            whole, _, rest = content.rpartition(b"\n")
            if rest:
                opened.seek(-len(rest), os.SEEK_END)
                opened.truncate()
            if whole or not rest:
                line = whole.rpartition(b"\n")[2]
                if line:
                    return Place(_number(line, 0), _digest(line))
    return Place(0, _BEGINNING)


def _tail(opened: Any) -> bytes:
    size = opened.seek(0, os.SEEK_END)
    opened.seek(max(0, size - (1 << 16)))  # longer than any line
    content: bytes = opened.read()
    return content


def _write(file: Path, content: bytes) -> int:
    """Append, and return how long the file was before."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        before = os.fstat(descriptor).st_size
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
        return before
    finally:
        os.close(descriptor)


def _note_head(folder: Path, end: Place) -> None:
    draft = folder / f".{HEAD}"
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{end.number} {end.digest}\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / HEAD)


def _head(folder: Path) -> Place | None:
    try:
        number, digest = (folder / HEAD).read_text("ascii").split()
        return Place(int(number), digest)
    except (OSError, ValueError):
        return None


def _name(number: int) -> str:
    return f"{number:06d}.log"


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()

"""The files of the audit log: one JSON object a line, each holding the SHA-256 of the line before.

The rule: files are numbered and the chain goes from one to the next, so that a line, or a file, that was changed or
taken away is noticed. Whoever appends holds the lock of the folder and begins with the last line that is there:
several processes (the plugin, the command line) make one chain, and never write at the same time. ``start`` holds what
the first line follows, another one in each installation; ``head`` names the last line, so that lines taken away at the
end are noticed too. The oldest files may go where a later line says so (``removal``): the chain is whole from the
oldest one that is left. Against somebody who may write all of it, only a copy elsewhere helps.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEGINNING = "0" * 64  # of a log that was begun without a start of its own
START, HEAD, SENT = "start", "head", "sent"
_LOCK = "lock"


@dataclass(frozen=True)
class Place:
    """Where the chain ends: the number and the SHA-256 of its last line."""

    number: int
    digest: str


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
        file = files[-1] if files else folder / name_of(1)
        if not files and head_of(folder) is None and start_of(folder) == BEGINNING:
            write_whole(folder / START, f"{secrets.token_hex(32)}\n")
        end = _end(folder, files)
        if file.exists() and file.stat().st_size >= longest:
            file = folder / name_of(int(file.stem) + 1)
        lines, number, digest = [], end.number, end.digest
        for entry in entries:
            number += 1
            line = json.dumps({"n": number, "previous": digest, **entry}, ensure_ascii=True).encode()
            digest = digest_of(line)
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


def number_of(line: bytes, expected: int) -> int:
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
    found, head = _last_line(files, start_of(folder)), head_of(folder)
    return head if head is not None and head.number >= found.number else found


def _last_line(files: list[Path], start: str) -> Place:
    for file in reversed(files):
        with file.open("r+b") as opened:
            content = tail_of(opened)
            whole, _, rest = content.rpartition(b"\n")
            if rest:
                opened.seek(-len(rest), os.SEEK_END)
                opened.truncate()
            if whole or not rest:
                line = whole.rpartition(b"\n")[2]
                if line:
                    return Place(number_of(line, 0), digest_of(line))
    return Place(0, start)


def tail_of(opened: Any) -> bytes:
    """The last bytes of an open file, among them its last line."""
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
    write_whole(folder / HEAD, f"{end.number} {end.digest}\n")


def write_whole(file: Path, content: str) -> None:
    """Replace a small file of the folder, and wait until the disk has it."""
    draft = file.with_name(f".{file.name}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    draft.replace(file)


def start_of(folder: Path) -> str:
    """What the first line follows."""
    try:
        return (folder / START).read_text("ascii").strip()
    except (OSError, ValueError):
        return BEGINNING


def head_of(folder: Path) -> Place | None:
    """The last line, as the file that names it says; None where there is none."""
    try:
        number, digest = (folder / HEAD).read_text("ascii").split()
        return Place(int(number), digest)
    except (OSError, ValueError):
        return None


def name_of(number: int) -> str:
    """Of a file."""
    return f"{number:06d}.log"


def digest_of(line: bytes) -> str:
    """Of a line without its end."""
    return hashlib.sha256(line).hexdigest()

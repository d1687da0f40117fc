"""Whether the audit log is whole: its chain, followed from the oldest line that is left to the last one.

The rule: what was altered, removed, inserted or cut off is a fault, with its place. Two things are none, and are told:
a last line that a dying machine did not finish, and the oldest files, where a later entry says that they were removed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orthanc_plugin.access.audit_files import (
    BEGINNING,
    Place,
    digest_of,
    files_of,
    head_of,
    locked,
    name_of,
    number_of,
    start_of,
    tail_of,
    write_whole,
)

REMOVED = "audit_removed"  # the action of an entry that tells of files that were removed
_REMOVED_TO = re.compile(r"to entry (\d+), SHA-256 ([0-9a-f]{64})")
_VERIFIED = "verified"


@dataclass(frozen=True)
class Verdict:
    """Whether the log is whole.

    Parameters
    ----------
    end
        The last line that was followed.
    faults
        What is wrong, in words; empty when nothing is.
    notes
        What is not as usual, and no fault: a line that a dying machine did not finish, files that were removed.
    """

    lines: int
    end: Place
    faults: tuple[str, ...]
    notes: tuple[str, ...] = ()


def removal(last: Place) -> str:
    """What the entry says that tells of the removal of all files up to this line."""
    return f"to entry {last.number}, SHA-256 {last.digest}"


def verify(folder: Path, *, newest: int = 0) -> Verdict:
    """Follow the chain from the first line to the last.

    Parameters
    ----------
    newest
        Follow so many of the newest files alone; 0: all.

    Raises
    ------
    OSError
    """
    with locked(folder, shared=True):
        found = files_of(folder)
        files, head = found[-newest:], head_of(folder)
        is_cut = bool(files) and files[0].name != name_of(1)
        begin = _before(files[0]) if is_cut else Place(0, start_of(folder))
        walk = _Walk(begin)
        for place, file in enumerate(files, int(files[0].stem) if files else 1):
            if int(file.stem) != place:
                walk.faults.append(f"file {name_of(place)} is missing")
                break
            walk.follow(file, is_last=file is files[-1])
    if is_cut and files == found and not walk.tells_of_removal():
        walk.faults.append(f"file {name_of(int(files[0].stem) - 1)} is missing, and no entry tells of its removal")
    elif is_cut and files == found:
        walk.notes.append(f"entries 1 to {begin.number} were removed, as a later entry says")
    if head is None and files:
        walk.faults.append("the file head is missing, which names the last line")
    elif head is not None and walk.digests.get(head.number) != head.digest:
        walk.faults.append(f"line {head.number}, the last one that was written, is not there, or not as it was written")
    return Verdict(len(walk.digests) - 1, walk.end, tuple(walk.faults), tuple(walk.notes))


class _Walk:
    """The chain as it is followed, line by line."""

    def __init__(self, begin: Place) -> None:
        self.end, self.digests = begin, {begin.number: begin.digest}
        self.faults: list[str] = []
        self.notes: list[str] = []
        self._removed: list[Place] = []

    def follow(self, file: Path, *, is_last: bool) -> None:
        with file.open("rb") as lines:
            for at, line in enumerate(lines, 1):
                where = f"{file.name}, line {at}"
                if not line.endswith(b"\n"):
                    unfinished = f"{where}: it was never finished (the machine stopped while it was written)"
                    (self.notes if is_last else self.faults).append(unfinished)
                    return
                expected = self.end.number + 1
                self.faults.extend(f"{where}: {fault}" for fault in _faults(line, expected, self.end.digest))
                self.end = Place(number_of(line, expected), digest_of(line.rstrip(b"\n")))
                self.digests[self.end.number] = self.end.digest
                if REMOVED.encode() in line and (told := _told_removal(line)):
                    self._removed.append(told)

    def tells_of_removal(self) -> bool:
        """Whether an entry names a line up to which files were removed, and that is the one before the first, or later:
        a removal that did not come to its end.
        """
        return any(self.digests.get(told.number) == told.digest for told in self._removed)


def files_before(folder: Path, time: str, until: str = "") -> list[Path]:
    """The oldest files of a whole log that hold nothing from a time on; never the newest one, nor any from `until` on.

    Raises
    ------
    OSError
    """
    found = []
    for file in files_of(folder)[:-1]:
        with file.open("rb") as opened:
            latest = json.loads(tail_of(opened).splitlines()[-1])["time"]
        if latest >= time or (until and file.name >= until):
            break
        found.append(file)
    return found


def last_of(file: Path) -> Place:
    """The last line of a file.

    Raises
    ------
    OSError
    """
    with file.open("rb") as opened:
        line = tail_of(opened).splitlines()[-1]
    return Place(number_of(line, 0), digest_of(line))


def note_verified(folder: Path, end: Place, now: float) -> None:
    """Note that the whole log was followed, and when.

    Raises
    ------
    OSError
    """
    write_whole(folder / _VERIFIED, f"{now:.0f} {end.number}\n")


def last_verified(folder: Path) -> float | None:
    """When the whole log was followed last, seconds since 1970; None when it never was."""
    try:
        return float((folder / _VERIFIED).read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


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


def _told_removal(line: bytes) -> Place | None:
    try:
        entry = json.loads(line)
        told = _REMOVED_TO.fullmatch(entry["detail"]) if entry["action"] == REMOVED else None
    except (ValueError, KeyError, TypeError):
        return None
    return Place(int(told[1]), told[2]) if told else None


def _before(file: Path) -> Place:
    """The line before the first one of a file, as that one names it; it is believed of no other."""
    with file.open("rb") as lines:
        line = lines.readline()
    try:
        return Place(number_of(line, 1) - 1, str(json.loads(line)["previous"]))
    except (ValueError, KeyError, TypeError):
        return Place(0, BEGINNING)

"""The latest of the audit log, for the pages: a few entries, whatever the log has become.

The rule: bounded by bytes, from the end; ``./hilum audit show`` reads all of it.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from orthanc_plugin.access.audit_files import files_of

_BYTES = 4_000_000  # of about 15,000 entries


def latest(folder: Path, *, most: int, study: str = "") -> list[dict[str, Any]]:
    """The latest entries, the earliest of them first; with `study` those about it."""
    needle, found = f'"study": "{study}"'.encode() if study else b"", []
    for line in reversed(_tail(folder)):
        if needle in line and (entry := _entry(line)) is not None:
            found.append(entry)
            if len(found) == most:
                break
    return found[::-1]


def last_log_ins(folder: Path) -> tuple[dict[str, float], float | None]:
    """When each account logged in last, in seconds since 1970, and since when the log was looked through for it; None:
    it was looked through from its beginning.
    """
    lines, found = _tail(folder), {}
    for line in lines:
        if b'"action": "log_in"' in line and (entry := _entry(line)) and entry.get("outcome") == "done":
            found[str(entry["who"])] = _seconds(entry)
    first = next((entry for entry in map(_entry, lines) if entry), None)
    size = sum(file.stat().st_size for file in files_of(folder))
    return found, _seconds(first) if first is not None and size > _BYTES else None


def _entry(line: bytes) -> dict[str, Any] | None:
    """An entry; None where the line holds none, such as a part of the first one."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _seconds(entry: dict[str, Any]) -> float:
    return datetime.fromisoformat(entry["time"]).timestamp()


def _tail(folder: Path) -> list[bytes]:
    """The last lines, of as many files as `_BYTES` reach back to."""
    left, content = _BYTES, b""
    for file in reversed(files_of(folder)):
        try:
            with file.open("rb") as opened:
                size = opened.seek(0, 2)
                opened.seek(max(0, size - left))
                content = opened.read(left) + content
        except OSError:
            break
        left -= min(size, left)
        if not left:
            break
    return content.splitlines()

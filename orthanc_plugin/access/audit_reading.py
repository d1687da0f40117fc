"""The latest of the audit log, for the pages: a few entries, whatever the log has become.

The rule: bounded by bytes, from the end; ``./hilum audit show`` reads all of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orthanc_plugin.access.audit_files import files_of

_BYTES = 4_000_000  # of about 15,000 entries


def latest(folder: Path, *, most: int, study: str = "") -> list[dict[str, Any]]:
    """The latest entries, the earliest of them first; with `study` those about it."""
    needle, found = f'"study": "{study}"'.encode() if study else b"", []
    for line in reversed(_tail(folder)):
        if needle in line:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                found.append(entry)
                if len(found) == most:
                    break
    return found[::-1]


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

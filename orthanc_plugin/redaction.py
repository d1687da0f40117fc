"""Stands between Orthanc's output and its log file: Orthanc names the patient when it refuses an instance.

The rule: what identifies a person never reaches the disk; UIDs stay, for they lead whoever may see the patient there.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path

_IDENTIFYING = re.compile(
    r"\b((?:Other)?Patient\w*|AccessionNumber|ReferringPhysicianName|StudyID|StudyDescription|SeriesDescription)"
    r"\s*[=:]\s*.*?(?=, \w+[=:]|$)"
)


def redact(line: str) -> str:
    """One line without the values of identifying attributes."""
    return _IDENTIFYING.sub(r"\1=(withheld)", line)


def copy_lines(lines: Iterable[str], log_file: Path) -> None:
    """Append every line to the log, redacted, as soon as it comes; a line that cannot be written is left out."""
    with log_file.open("ab", buffering=0) as log:
        for line in lines:
            # on a full disk the line is lost; if this process ended instead, Orthanc would end with it
            with contextlib.suppress(OSError):
                log.write(redact(line.rstrip("\n")).encode("utf-8", "replace") + b"\n")


if __name__ == "__main__":
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # a text stream here, whatever its type says
    copy_lines(sys.stdin, Path(sys.argv[1]))

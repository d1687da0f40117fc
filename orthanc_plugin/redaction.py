"""Stands between Orthanc's output and its log file: Orthanc names the patient when it refuses an instance.

The rule: what identifies a person never reaches the disk; UIDs stay, for they lead whoever may see the patient there.
Five files of 20 MB are kept, the oldest makes room.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterable
from logging.handlers import RotatingFileHandler
from pathlib import Path

_FILE_BYTES, _OLDER_FILES = 20_000_000, 4
_IDENTIFYING = re.compile(
    r"\b((?:Other)?Patient\w*|AccessionNumber|ReferringPhysicianName|StudyID|StudyDescription|SeriesDescription)"
    r"\s*[=:]\s*.*?(?=, \w+[=:]|$)"
)


def redact(line: str) -> str:
    """One line without the values of identifying attributes."""
    return _IDENTIFYING.sub(r"\1=(withheld)", line)


def copy_lines(lines: Iterable[str], log_file: Path) -> None:
    """Append every line to the log, redacted, as soon as it comes; a line that cannot be written is left out."""
    # on a full disk the line is lost; if this process ended instead, Orthanc would end with it
    logging.raiseExceptions = False
    log = RotatingFileHandler(log_file, maxBytes=_FILE_BYTES, backupCount=_OLDER_FILES, delay=True, errors="replace")
    for line in lines:
        log.handle(logging.makeLogRecord({"msg": redact(line.rstrip("\n"))}))
    with contextlib.suppress(OSError):  # what a full disk did not take is tried once more, and given up
        log.close()


if __name__ == "__main__":
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # a text stream here, whatever its type says
    copy_lines(sys.stdin, Path(sys.argv[1]))

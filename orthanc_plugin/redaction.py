"""Stands between Orthanc's output and its log file: Orthanc names the patient when it refuses an instance.

The rule: what identifies a person never reaches the disk; UIDs stay, for they lead whoever may see the patient there.
Each line becomes one JSON object, whoever wrote it: Orthanc, the plugin, which writes them already, or a library.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import time
from collections.abc import Iterable
from logging.handlers import RotatingFileHandler
from pathlib import Path

from orthanc_plugin.refused_calls import RefusedCalls

_IDENTIFYING = re.compile(
    r"\b((?:Other)?Patient\w*|AccessionNumber|ReferringPhysicianName|StudyID|StudyDescription|SeriesDescription)"
    r"\s*[=:]\s*.*?(?=, \w+[=:]|$)"
)
# what was asked for by DICOMweb and is not there: whatever somebody put into an address, unless it is a UID
_ASKED_FOR = re.compile(r"(\binexistent [\w -]+: )(?![0-9.]+$)(?!Accessing).+")
# Orthanc's Logging.cpp: level, date, time, since 1.12 the thread, file and line
_OF_ORTHANC = re.compile(r"([EWIT])\d{4} \d\d:\d\d:\d\d\.\d+ +(?:(\S.*?) +)?(\S+:\d+)\] (.*)")
_LEVELS = {"E": "error", "W": "warning", "I": "info", "T": "debug"}


def redact(line: str) -> str:
    """One line without the values of identifying attributes."""
    return _ASKED_FOR.sub(r"\1(withheld)", _IDENTIFYING.sub(r"\1=(withheld)", line))


def as_json(line: str, now: float) -> str:
    """One line of output as a JSON object of one line, redacted.

    Parameters
    ----------
    now
        When it was written, seconds since 1970: Orthanc tells no year and no time zone.
    """
    with contextlib.suppress(ValueError):
        told = json.loads(line)
        if isinstance(told, dict) and isinstance(told.get("event"), str):  # the plugin's own
            return json.dumps(told | {"event": redact(told["event"])})
    milliseconds = int(now * 1000)
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000)) + f".{milliseconds % 1000:03d}Z"
    parts = _OF_ORTHANC.fullmatch(line)
    if parts is None:
        return json.dumps({"time": at, "level": "info", "part": "output", "event": redact(line)})
    level, thread, source, event = parts.groups()
    told = {"time": at, "level": _LEVELS[level], "part": "orthanc", "event": redact(event), "source": source}
    return json.dumps(told | ({"thread": thread} if thread else {}))


def copy_lines(
    lines: Iterable[str], log_file: Path, *, longest: int, files: int, calls: RefusedCalls | None = None
) -> None:
    """Append every line to the log as soon as it comes; a line that cannot be written is left out.

    Parameters
    ----------
    longest
        Bytes of one file; then the next one is begun.
    files
        How many are kept, 2 or more; the oldest makes room.
    calls
        Counts the associations that Orthanc says it refused.
    """
    # on a full disk the line is lost; if this process ended instead, Orthanc would end with it
    logging.raiseExceptions = False
    log = RotatingFileHandler(log_file, maxBytes=longest, backupCount=files - 1, delay=True, errors="replace")
    for line in lines:
        if text := line.rstrip("\n"):
            log.handle(logging.makeLogRecord({"msg": as_json(text, time.time())}))
            if calls is not None:
                calls.look_at(text)
    with contextlib.suppress(OSError):  # what a full disk did not take is tried once more, and given up
        log.close()


if __name__ == "__main__":
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # a text stream here, whatever its type says
    _counting = RefusedCalls(Path(sys.argv[4]))
    copy_lines(sys.stdin, Path(sys.argv[1]), longest=int(sys.argv[2]), files=int(sys.argv[3]), calls=_counting)

"""Structured logs: one JSON object a line, with task and UIDs as fields and never a patient's data.

The rule: only the fields listed here are written, so that a careless `extra` cannot leak.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from types import TracebackType
from typing import TextIO

from orthanc_plugin.log_files import file_of_stderr, follow

FIELDS = (
    "study_instance_uid", "sop_instance_uid", "fence", "attempt", "status", "reason", "priority", "images", "seconds",
    "stage", "model", "runtime", "precision", "batch", "way", "worker", "pid", "code", "restart_in", "silent_seconds",
)  # fmt: skip


_QUOTING = frozenset({"pydicom", "highdicom", "pynetdicom", "py"})


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Write time, level, part of Hilum, message, the allowed fields, and for an error where it was raised."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "part": record.name,
            "event": record.getMessage(),
        }
        line.update({name: getattr(record, name) for name in FIELDS if hasattr(record, name)})
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["where"] = where(record.exc_info[2])
        return json.dumps(line)


def _quotes_no_header(record: logging.LogRecord) -> bool:
    """Libraries quote header values in what they warn of; a level would not do, for they set their own when loaded."""
    return record.name.split(".")[0] not in _QUOTING


def where(trace: TracebackType | None) -> list[str]:
    """File, line and function of each frame: an exception's own words may quote the data, so they stay out."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)]


class Lines(logging.StreamHandler[TextIO]):
    """Writes to standard error, and follows the log file that it goes to when that is rotated (``log_files``)."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._file = file_of_stderr()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        if self._file is not None:
            follow(self._file)
        super().emit(record)


def start_logging(level: int = logging.INFO) -> None:
    """Send this process's log to standard error as JSON lines; libraries only from warnings upwards."""
    handler = Lines()
    handler.setFormatter(JsonLines())
    handler.addFilter(_quotes_no_header)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("hilum").setLevel(level)
    logging.captureWarnings(True)

"""``./hilum audit``: whether the audit log is whole, and what it says."""

from __future__ import annotations

import argparse
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console

from orthanc_plugin.access import audit_files
from orthanc_plugin.commands.node import NodeFailed
from orthanc_plugin.settings import Settings

_AGO = re.compile(r"(\d{1,6})([mhd])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def audit(settings: Settings, options: argparse.Namespace, console: Console) -> int:
    """Run one of the commands; returns the exit code.

    Raises
    ------
    NodeFailed
        When the log cannot be read, or `since` is no time.
    """
    try:
        return _verify(settings, console) if options.do == "verify" else _show(settings, options, console)
    except OSError as error:
        raise NodeFailed(f"the audit log cannot be read: {error.strerror}: {error.filename}") from error


def _verify(settings: Settings, console: Console) -> int:
    found = audit_files.verify(settings.audit)
    for fault in found.faults:
        print(f"hilum: {settings.audit}: {fault}", file=sys.stderr)
    if found.faults:
        return 1
    console.print(f"{found.lines} entries, each as it was written.")
    # whoever may write the files could make them all anew: a note of this elsewhere would show it
    console.print(f"Entry {found.end.number} has the SHA-256 {found.end.digest}", soft_wrap=True)
    return 0


def _show(settings: Settings, options: argparse.Namespace, console: Console) -> int:
    since = _time(options.since) if options.since else ""
    for entry in audit_files.read(settings.audit):
        if (options.study and entry.get("study") != options.study) or (
            options.user and entry.get("who") != options.user
        ):
            continue
        if str(entry.get("time", "")) < since:
            continue
        if options.json:
            print(json.dumps(entry))
        else:
            console.print(_line(entry), markup=False, soft_wrap=True)
    return 0


def _line(entry: dict[str, Any]) -> str:
    words = [str(entry.get(name) or "-") for name in ("time", "who", "role", "address", "action", "study", "outcome")]
    return "  ".join([*words, str(entry.get("detail", ""))]).rstrip()


def _time(text: str) -> str:
    """A time as the log writes it: of ``2026-11-21``, ``2026-11-21T08:00``, or ``90m``, ``12h``, ``7d`` ago."""
    if ago := _AGO.fullmatch(text):
        at = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    else:
        try:
            at = datetime.fromisoformat(text)
        except ValueError as error:
            raise NodeFailed(f"--since {text!r}: give a date, a date and time, or 90m, 12h, 7d") from error
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

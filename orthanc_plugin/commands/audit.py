"""``./hilum audit``: whether the audit log is whole, what it says, and that its oldest files may go."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console

from orthanc_plugin.access import audit_chain, audit_files
from orthanc_plugin.access.audit_messages import message_of
from orthanc_plugin.access.audit_sending import read_cursor, sender_of
from orthanc_plugin.commands.node import NodeFailed
from orthanc_plugin.commands.recorded import record
from orthanc_plugin.settings import Settings

_AGO = re.compile(r"(\d{1,6})([mhd])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def audit(settings: Settings, options: argparse.Namespace, console: Console) -> int:
    """Run one of the commands; returns the exit code.

    Raises
    ------
    NodeFailed
        When the log cannot be read, or a time is none.
    """
    try:
        if options.do == "verify":
            return _verify(settings, console)
        if options.do == "remove":
            return _remove(settings, options, console)
        return (_export if options.do == "export" else _show)(settings, options, console)
    except OSError as error:
        raise NodeFailed(f"the audit log cannot be read: {error.strerror}: {error.filename}") from error


def _verify(settings: Settings, console: Console) -> int:
    found = audit_chain.verify(settings.audit)
    for fault in found.faults:
        print(f"hilum: {settings.audit}: {fault}", file=sys.stderr)
    for note in found.notes:
        console.print(note, soft_wrap=True)
    if found.faults:
        return 1
    with suppress(OSError):  # of somebody who may read it alone
        audit_chain.note_verified(settings.audit, found.end, time.time())
    console.print(f"{found.lines} entries, each as it was written.")
    # whoever may write the files could make them all anew: a note of this elsewhere would show it
    console.print(f"Entry {found.end.number} has the SHA-256 {found.end.digest}", soft_wrap=True)
    return 0


def _remove(settings: Settings, options: argparse.Namespace, console: Console) -> int:
    """Remove the oldest files; the entry that tells of it comes first, so that the chain is whole at any time."""
    if audit_chain.verify(settings.audit).faults:
        raise NodeFailed("the audit log is not whole, so nothing was removed: ./hilum audit verify")
    cursor = read_cursor(settings.audit)
    files = audit_chain.files_before(
        settings.audit, _time(options.before, "--before"), cursor.file if settings.collector and cursor else ""
    )
    if not files:
        console.print("No file holds earlier entries alone. Nothing was removed.")
        return 0
    last = audit_chain.last_of(files[-1])
    if not record(settings, audit_chain.REMOVED, detail=audit_chain.removal(last)):
        raise NodeFailed("the audit log cannot be written, so nothing was removed")
    for file in files:
        file.unlink()
    console.print(f"{len(files)} files with the entries up to {last.number} were removed.")
    return 0


def _chosen(settings: Settings, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    since = _time(options.since, "--since") if options.since else ""
    for entry in audit_files.read(settings.audit):
        is_of_user = not options.user or entry.get("who") == options.user
        is_of_study = not options.study or entry.get("study") == options.study
        if is_of_user and is_of_study and str(entry.get("time", "")) >= since:
            yield entry


def _export(settings: Settings, options: argparse.Namespace, _console: Console) -> int:
    sender = sender_of(settings.collector)
    for entry in _chosen(settings, options):
        print(message_of(entry, sender).decode())
    return 0


def _show(settings: Settings, options: argparse.Namespace, console: Console) -> int:
    for entry in _chosen(settings, options):
        if options.json:
            print(json.dumps(entry))
        else:
            console.print(_line(entry), markup=False, soft_wrap=True)
    return 0


def _line(entry: dict[str, Any]) -> str:
    words = [str(entry.get(name) or "-") for name in ("time", "who", "role", "address", "action", "study", "outcome")]
    return "  ".join([*words, str(entry.get("detail", ""))]).rstrip()


def _time(text: str, option: str) -> str:
    """A time as the log writes it: of ``2026-11-21``, ``2026-11-21T08:00``, or ``90m``, ``12h``, ``7d`` ago."""
    if ago := _AGO.fullmatch(text):
        at = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    else:
        try:
            at = datetime.fromisoformat(text)
        except ValueError as error:
            raise NodeFailed(f"{option} {text!r}: give a date, a date and time, or 90m, 12h, 7d") from error
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

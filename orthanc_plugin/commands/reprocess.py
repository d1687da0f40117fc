"""Has the archive read again, behind everything live: starts a run, tells how far it is, stops it.

The rule: the run is in the ledger and the workers do it; this command may be ended at any time, and changes no study.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from dataclasses import asdict
from datetime import date

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orthanc_plugin.commands.node import NodeFailed
from orthanc_plugin.ledger import reprocessing
from orthanc_plugin.ledger.database import Ledger, open_ledger
from orthanc_plugin.ledger.reprocessing import FIRST_DATE, LAST_DATE, Run, RunUnderWay, Wanted
from orthanc_plugin.settings import Settings

_LOOK_SECONDS = 1.0
_DATE = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)", re.ASCII)
_MODEL = re.compile(r"[^@\s]+@[^@\s]+")


def reprocess(settings: Settings, options: argparse.Namespace, console: Console) -> int:
    """Run the command; returns its exit code.

    Raises
    ------
    NodeFailed, LedgerError
    """
    ledger = open_ledger(settings.ledger_address)
    try:
        if options.stop:
            with ledger.write() as db:
                stopped = reprocessing.stop(db, now=time.time())
            console.print(
                "The run is stopped; the same command goes on with it." if stopped else "No run is under way."
            )
            return 0
        if options.status:
            return _status(_latest(ledger), console, as_json=options.json)
        wanted = wanted_of(settings, options)
        if options.dry_run:
            with ledger.read() as db:
                studies, undated = reprocessing.would_read(db, wanted)
            console.print(f"{studies} studies would be read again. {undated} have no Study Date and are left out.")
            return 0
        try:
            with ledger.write() as db:
                begun = reprocessing.start(db, wanted, now=time.time())
        except RunUnderWay as error:
            raise NodeFailed(str(error)) from error
        console.print(f"Run {begun.number}: {begun.total} studies of these dates. Whatever is live goes first.")
        return _follow(ledger, console) if console.is_terminal else 0
    finally:
        ledger.close()


def wanted_of(settings: Settings, options: argparse.Namespace) -> Wanted:
    """What was asked for.

    Raises
    ------
    NodeFailed
        When it cannot be.
    """
    if options.since is None:
        raise NodeFailed("give --since DATE, or --status, or --stop")
    first, last = _day(options.since, "--since"), _day(options.until, "--until")
    if (first or FIRST_DATE) > (last or LAST_DATE):
        raise NodeFailed("--until is before --since")
    if options.limit is not None and options.limit < 1:
        raise NodeFailed("--limit: give a number of studies")
    if options.model is not None:
        _require_active(settings, options.model)
    return Wanted(first or FIRST_DATE, last or LAST_DATE, options.model or "", options.limit)


def _day(text: str | None, option: str) -> str | None:
    """As DICOM writes it (PS3.5, DA)."""
    if text is None:
        return None
    found = _DATE.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        return date(*(int(part) for part in found.groups())).strftime("%Y%m%d")
    except ValueError:
        raise NodeFailed(f"{option} {text}: give a day, as 2026-01-31") from None


def _require_active(settings: Settings, model: str) -> None:
    from models.activation import Activation  # it brings torch along, which only this needs
    from models.bundle import BundleInvalid
    from orthanc_plugin.reading.active_models import registry_of

    if not _MODEL.fullmatch(model):
        raise NodeFailed(f"--model {model}: give NAME@VERSION (./hilum models list)")
    try:
        active = Activation(settings.active_models).choice.bundles(registry_of(settings), settings.bundles)
    except BundleInvalid as error:
        raise NodeFailed(str(error)) from error
    names = [f"{bundle.name}@{bundle.version}" for bundle in active]
    if model not in names:
        raise NodeFailed(f"{model} is not active, so nothing would be read with it; active are {', '.join(names)}")


def _latest(ledger: Ledger) -> Run | None:
    with ledger.read() as db:
        return reprocessing.latest(db)


def _status(run: Run | None, console: Console, *, as_json: bool) -> int:
    if as_json:
        console.print_json(json.dumps(None if run is None else {**asdict(run), "is_over": run.is_over}))
    elif run is None:
        console.print("There was no run yet.")
    else:
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started_at))
        console.print(f"Run       {run.number}, {run.state}, since {began}")
        console.print(f"Studies   {_words(run.wanted)}")
        console.print(f"Looked at {run.passed} of {run.total}")
        console.print(f"Read      {run.taken - run.waiting} again, {run.waiting} under way")
        if run.failed:
            console.print(f"Failed    {run.failed} in quarantine: ./hilum retry")
    return 0


def _words(wanted: Wanted) -> str:
    first = "" if wanted.first_date == FIRST_DATE else f" since {wanted.first_date}"
    last = "" if wanted.last_date == LAST_DATE else f" until {wanted.last_date}"
    model = f", read without {wanted.model}" if wanted.model else ""
    most = f", {wanted.most} at the most" if wanted.most is not None else ""
    return f"all{first}{last}{model}{most}"


def _follow(ledger: Ledger, console: Console) -> int:
    """Show how far the run is until it is over; Ctrl-C leaves it alone."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("read again")
            while (run := _latest(ledger)) is not None:
                total = max(run.total, run.passed)
                progress.update(bar, completed=run.passed - run.waiting, total=total)
                if run.is_over or run.state == "stopped":
                    break
                time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        console.print("The run goes on: ./hilum reprocess --status, --stop")
        return 0
    return _status(_latest(ledger), console, as_json=False)

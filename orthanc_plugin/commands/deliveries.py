"""``./hilum deliveries``: how the destinations stand; having them tried now, or given up."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from datetime import date, datetime

from rich.console import Console
from rich.table import Table

from orthanc_plugin.commands.node import NodeFailed
from orthanc_plugin.ledger import deliveries as owed
from orthanc_plugin.ledger.database import Ledger, open_ledger
from orthanc_plugin.ledger.delivery_views import standings
from orthanc_plugin.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    giving = parser.add_subparsers(required=True, metavar="COMMAND", dest="do")
    giving.add_parser("list", help="what is owed to whom").add_argument("--json", action="store_true")
    giving.add_parser("retry", help="try now, what was refused too").add_argument("name", nargs="?", metavar="NAME")
    giving.add_parser("forget", help="give up what is owed to one").add_argument("name", metavar="NAME")
    owing = giving.add_parser("owe", help="owe a destination what was answered before it was set")
    owing.add_argument("name", metavar="NAME")
    owing.add_argument("--since", required=True, type=date.fromisoformat, metavar="YYYY-MM-DD",
                       help="studies received since this day")  # fmt: skip


def deliveries(settings: Settings, options: argparse.Namespace, console: Console) -> int:
    """Tell how they stand, or do something about it.

    Raises
    ------
    NodeFailed
        When there is no such destination.
    LedgerError
    """
    ledger = open_ledger(settings.ledger_address)
    try:
        if options.do == "list":
            _list(settings, ledger, console, as_json=options.json)
            return 0
        known = {one.name for one in settings.owed_to} | _named(ledger)
        if options.name is not None and options.name not in known:
            told = ", ".join(sorted(known)) or "none"
            raise NodeFailed(f"there is no destination {options.name!r}; there are {told}")
        with ledger.write() as db:
            if options.do == "retry":
                number = owed.retry(db, options.name, now=time.time())
                console.print(f"{number} studies are tried now.")
            elif options.do == "owe":
                named = [one for one in settings.owed_to if one.name == options.name]
                since = datetime.combine(options.since, datetime.min.time()).timestamp()
                number = sum(owed.owe_since(db, one, since=since, now=time.time()) for one in named)
                console.print(f"{number} more studies are owed to {options.name}.")
            else:
                number = owed.forget(db, options.name)
                console.print(f"{number} studies are owed to {options.name} no more.")
        return 0
    finally:
        ledger.close()


def _named(ledger: Ledger) -> set[str]:
    with ledger.read() as db:
        return {one.destination for one in standings(db)}


def _list(settings: Settings, ledger: Ledger, console: Console, *, as_json: bool) -> None:
    with ledger.read() as db:
        stand = {one.destination: one for one in standings(db)}
    names = dict.fromkeys([*(one.name for one in settings.owed_to), *stand])
    if as_json:
        nothing = {"owed": 0, "failing": 0, "refused": 0, "oldest": None, "error": ""}
        told = [{"destination": name, **(asdict(stand[name]) if name in stand else nothing)} for name in names]
        console.print_json(json.dumps({"destinations": told}))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("destination", "owed", "failing", "refused", "why"):
        table.add_column(column)
    for name in names:
        one = stand.get(name)
        counts = (str(one.owed), str(one.failing), str(one.refused), one.error) if one else ("0", "0", "0", "")
        table.add_row(name, *counts)
    console.print(table if names else "No destination is set (docs/integration.md).")

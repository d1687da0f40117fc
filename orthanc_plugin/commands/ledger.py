"""``./hilum ledger``: which schema the ledger has, and the way to an earlier one for an earlier Hilum.

The rule: every row is kept in both directions, and nothing is changed while this node runs.
"""

from __future__ import annotations

import argparse

from rich.console import Console

from orthanc_plugin.commands import node
from orthanc_plugin.ledger.database import LedgerUnusable, migrate, open_ledger, schema_of
from orthanc_plugin.ledger.schema import SCHEMA_VERSION
from orthanc_plugin.settings import Settings


def ledger(settings: Settings, options: argparse.Namespace, console: Console) -> int:
    """Tell the schema, or change it.

    Raises
    ------
    NodeFailed
        When the node runs, or there is no such schema.
    LedgerError
    """
    found = open_ledger(settings.ledger_address)
    try:
        if found.path is not None and not found.path.exists():
            raise LedgerUnusable(f"there is no ledger at {found.path}; ./hilum up makes one")
        before = schema_of(found)
        if options.to is None:
            console.print(f"{found.name}: schema {before}; this Hilum uses {SCHEMA_VERSION}.", soft_wrap=True)
            return 0
        if not 1 <= options.to <= SCHEMA_VERSION:
            raise node.NodeFailed(f"--to {options.to}: this Hilum knows the schemas 1 to {SCHEMA_VERSION}")
        if node.running_pid(settings) is not None:
            raise node.NodeFailed("the node runs, and would lead the ledger forward again: ./hilum down first")
        migrate(found, options.to)
        console.print(f"{found.name}: schema {before} -> {options.to}, with all its rows.", soft_wrap=True)
        return 0
    finally:
        found.close()

"""``./hilum config``: what the site has set, and what is wrong with it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from orthanc_plugin.commands.survey import Survey, survey

_WIDE = 200  # columns, where nobody looks at them


def config(options: argparse.Namespace) -> int:
    """What is set, from where, and whether it can be used; exit code 1 when the node would not start with it."""
    found = survey(os.environ)
    if options.json:
        print(json.dumps(_described(found, shown=options.do == "show"), indent=1))
    elif options.do == "show":
        _show(found)
        _tell(found)
    else:
        _tell(found)
        if not found.mistakes:
            own = sum(setting.origin != "default" for setting in found.settings)
            print(
                f"{found.home / 'hilum.toml'}: all is well, {own} of {len(found.settings)} settings are the site's own."
            )
    return 0 if found.is_usable else 1


def _described(found: Survey, *, shown: bool) -> dict[str, object]:
    described: dict[str, object] = {
        "home": str(found.home),
        "usable": found.is_usable,
        "mistakes": [asdict(mistake) for mistake in found.mistakes],
    }
    return described | ({"settings": [asdict(setting) for setting in found.settings]} if shown else {})


def _show(found: Survey) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    table = Table(box=None, pad_edge=False)
    for column in ("setting", "value", "default", "from", "what"):
        table.add_column(column, overflow="fold")
    for setting in found.settings:
        is_own = setting.origin != "default"
        default = _in_words(setting.default) if is_own and setting.value != setting.default else ""
        table.add_row(setting.name, _in_words(setting.value), default, setting.origin, setting.what,
                      style="bold" if is_own else "")  # fmt: skip
    console.print(table)


def _tell(found: Survey) -> None:
    for mistake in found.mistakes:
        print(f"hilum: {mistake.where}: {mistake.text}", file=sys.stderr)


def _in_words(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(one["name"]) if isinstance(one, dict) else str(one) for one in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {given}" for name, given in value.items() if given != "")
    if value is None:
        return "none"
    return str(value) if value != "" else "(empty)"

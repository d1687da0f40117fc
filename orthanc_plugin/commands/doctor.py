"""``./hilum doctor``: looks at everything that keeps a node from its work, and says what to do.

The rule: it changes nothing, needs no running node, and ends with exit code 1 when something is wrong. A check that
fails itself is told as such, and the others are made.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict

from rich.console import Console

from orthanc_plugin.commands.checks.audit import check_audit
from orthanc_plugin.commands.checks.certificates import check_certificates
from orthanc_plugin.commands.checks.check import Check, State, unknown, warning, well, wrong
from orthanc_plugin.commands.checks.cluster import check_cluster
from orthanc_plugin.commands.checks.ground import check_ground
from orthanc_plugin.commands.checks.members import check_members
from orthanc_plugin.commands.checks.neighbours import check_neighbours
from orthanc_plugin.commands.checks.reading import check_reading
from orthanc_plugin.commands.checks.records import check_records
from orthanc_plugin.commands.checks.software import check_software, check_viewer
from orthanc_plugin.commands.checks.wires import check_wires
from orthanc_plugin.commands.survey import survey
from orthanc_plugin.settings import Settings, SettingsInvalid, load_settings

_COLOURS = {State.WELL: "green", State.UNKNOWN: "cyan", State.WARNING: "yellow", State.WRONG: "bold red"}
_WORST = list(State)
log = logging.getLogger("hilum.doctor")


def doctor(options: argparse.Namespace) -> int:
    """Look at everything; exit code 1 when something is wrong, 0 when all is well or there are warnings alone."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    console = Console(highlight=False, soft_wrap=True)
    found: list[Check] = []
    for check in examine():
        found.append(check)
        if not options.json:
            _print(check, console)
    worst = max((check.state for check in found), key=_WORST.index, default=State.WELL)
    if options.json:
        print(json.dumps({"state": worst, "checks": [asdict(check) for check in found]}, indent=1))
    else:
        counted = {state: sum(check.state is state for check in found) for state in State}
        print(", ".join(f"{number} {state}" for state, number in counted.items() if number) + ".")
    return 1 if worst is State.WRONG else 0


def examine() -> Iterator[Check]:
    """Every check, as it is made."""
    found = survey(os.environ)
    yield from _guarded("software", check_software)
    for mistake in found.mistakes:
        advice = "./hilum config show tells every setting"
        yield (wrong if mistake.stops else warning)("settings", f"{mistake.where}: {mistake.text}", advice)
    try:
        settings = load_settings()
    except SettingsInvalid:
        yield unknown("node", "what else there is cannot be looked at before the settings are mended")
        return
    if not found.mistakes:
        own = sum(setting.origin != "default" for setting in found.settings)
        yield well("settings", f"valid; {own} of {len(found.settings)} are the site's own")
    of_settings: tuple[tuple[str, Callable[[Settings], Iterator[Check]]], ...] = (
        ("viewer", lambda s: iter([check_viewer(s)])),
        ("machine", check_ground),
        ("node", check_wires),
        ("members", check_members),
        ("tls", check_certificates),
        ("ledger", check_records),
        ("audit", check_audit),
        ("models", check_reading),
        ("destinations", check_neighbours),
        ("ray", check_cluster),
    )
    for name, checks in of_settings:
        yield from _guarded(name, lambda checks=checks: checks(settings))  # type: ignore[misc]


def _guarded(name: str, checks: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from checks()
    except Exception as error:
        log.debug("a check failed", exc_info=True)
        yield wrong(name, f"this could not be looked at: {type(error).__name__}", f"{error}"[:300])


def _print(check: Check, console: Console) -> None:
    console.print(f"{check.state:8}", style=_COLOURS[check.state], end="")
    console.print(f"{check.name:16} {check.text}", markup=False)
    if check.what_to_do:
        console.print(f"{'':24} -> {check.what_to_do}", markup=False)
    sys.stdout.flush()

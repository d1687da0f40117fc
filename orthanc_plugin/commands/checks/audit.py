"""The audit log: whether its newest files are as written, when all of it was followed, and whether it is collected."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from orthanc_plugin.access import audit_chain, syslog
from orthanc_plugin.access.audit_files import files_of
from orthanc_plugin.access.audit_sending import owed
from orthanc_plugin.commands.checks.check import Check, warning, well, wrong
from orthanc_plugin.integration import Collector
from orthanc_plugin.settings import Settings

_NEWEST = 2  # files of `audit_mb`: seconds at most
_VERIFIED_SECONDS = 31 * 86_400.0


def check_audit(settings: Settings) -> Iterator[Check]:
    """The chain of the newest files, and the collector."""
    yield _chain(settings) if settings.audit.is_dir() else well("audit", "there is no log yet")
    if settings.collector is not None:
        yield _collector(settings, settings.collector)


def _chain(settings: Settings) -> Check:
    found = audit_chain.verify(settings.audit, newest=_NEWEST)
    if found.faults:
        return wrong("audit", f"it is not whole: {found.faults[0]}", "./hilum audit verify tells everything")
    told = f"the newest {found.lines} entries are as they were written"
    if len(files_of(settings.audit)) <= _NEWEST:
        return well("audit", f"{told}; there are no others")
    last = audit_chain.last_verified(settings.audit)
    when = "never" if last is None else f"last on {datetime.fromtimestamp(last, UTC):%Y-%m-%d}"
    if last is None or time.time() - last > _VERIFIED_SECONDS:
        return warning("audit", f"{told}; all of it was followed {when}", "./hilum audit verify, each month")
    return well("audit", f"{told}; all of it was followed {when}")


def _collector(settings: Settings, collector: Collector) -> Check:
    waiting = owed(settings.audit)
    told = "nothing was sent yet" if waiting is None else f"{waiting} entries are owed"
    try:
        syslog.knock(collector)
    except syslog.CollectorAway as error:
        return warning("collector", f"{error}; {told}", "nothing is lost: see its address, and its certificates")
    if collector.transport == "udp":
        return well("collector", f"{told}; by UDP nobody tells whether they arrive")
    return well("collector", f"{collector.host}:{collector.port} takes connections; {told}")

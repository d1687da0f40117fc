"""What the answers below ``/hilum`` are made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orthanc_plugin.access.accounts import Account, AccountsUnusable, read_users
from orthanc_plugin.access.audit import Audit
from orthanc_plugin.access.audit_sending import Standing
from orthanc_plugin.free_space import FreeSpace
from orthanc_plugin.hosting.health import ClockWatch
from orthanc_plugin.hosting.held import Held
from orthanc_plugin.ledger.database import Ledger, LedgerError
from orthanc_plugin.settings import Settings


@dataclass(frozen=True)
class Site:
    """What the answers are made from.

    Parameters
    ----------
    fetch_thumbnail
        Gives the JPEG that Orthanc keeps with the instance of a SOP Instance UID; None when there is none.
    intake
        Why the way into the ledger is blocked (None when it is not), and how many studies wait in memory.
    wake
        Tells the worker that there is work.
    started_at
        When the plugin started, by the monotonic clock.
    audit
        Where each page records who saw or changed what.
    held
        What Orthanc holds of a study: documents, pictures.
    received
        How many images came since the plugin started.
    entrance
        Why HTTPS is not offered; empty when it is, or is not wanted.
    collected
        How it stands with the audit log's collector.
    """

    settings: Settings
    ledger: Ledger
    version: str
    fetch_thumbnail: Callable[[str], bytes | None]
    intake: Callable[[], tuple[LedgerError | None, int]]
    wake: Callable[[], None]
    free_space: FreeSpace
    clock: ClockWatch
    started_at: float
    audit: Audit
    held: Held
    received: Callable[[], int] = lambda: 0
    entrance: Callable[[], str] = lambda: ""
    collected: Callable[[], Standing] = Standing

    def users(self) -> dict[str, Account]:
        """The people who may log in, by name; nobody where the list cannot be read."""
        try:
            return dict(read_users(self.settings.users))
        except AccountsUnusable:
            return {}

"""Measures how long a study that was in hand when something died waits until it goes on.

The rule: the clock is the harness's own; the ledger only says which study is in hand and by which claim.
"""

from __future__ import annotations

from sqlalchemy import bindparam, text

from orthanc_plugin.ledger.database import Ledger, LedgerError

_IN_HAND = text("SELECT study_instance_uid, fence FROM tasks WHERE status = 'running'")
_NOW = text("SELECT study_instance_uid, fence, status FROM tasks WHERE study_instance_uid IN :uids").bindparams(
    bindparam("uids", expanding=True)
)


class Recovery:
    """The studies that wait since a kill."""

    def __init__(self, ledger: Ledger) -> None:
        self.seconds: dict[str, list[float]] = {}  # for what was struck last
        self._ledger = ledger
        self._fences: dict[str, int] = {}
        self._struck = ""
        self._since: float | None = None  # None: what was killed has not been started again

    @property
    def is_over(self) -> bool:
        """Whether no study waits."""
        return not self._fences

    def strike(self, now: float, what: str, *, until_restart: bool = False) -> None:
        """Something dies now; what waits from an earlier kill waits from now on.

        Parameters
        ----------
        what
            A role, or a fail-point.
        until_restart
            The clock does not run before `restarted` is called.
        """
        try:
            with self._ledger.read() as db:
                for row in db.execute(_IN_HAND):
                    self._fences.setdefault(row.study_instance_uid, row.fence)
        except LedgerError:
            pass  # a second fault at the same time: those that waited before are still known
        self._since, self._struck = None if until_restart else now, what

    def restarted(self, now: float) -> None:
        """What was killed has been started again."""
        self._since = now

    def outage_over(self, now: float) -> None:
        """What was away is back; as long as it was, nothing could recover."""
        if self._since is not None:
            self._since = now

    def look(self, now: float) -> None:
        """Note which studies go on."""
        if self._since is None or not self._fences:
            return
        try:
            with self._ledger.read() as db:
                rows = list(db.execute(_NOW, {"uids": list(self._fences)}))
        except LedgerError:
            return
        for row in rows:
            waits = row.status in ("queued", "running") and row.fence == self._fences[row.study_instance_uid]
            if not waits:
                del self._fences[row.study_instance_uid]
                self.seconds.setdefault(self._struck, []).append(max(0.0, now - self._since))

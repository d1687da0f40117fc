"""The admin page as HTML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from orthanc_plugin.worklist.listing import Look
from orthanc_plugin.worklist.page import environment
from orthanc_plugin.worklist.rows import DISCLAIMER
from orthanc_plugin.worklist.study_view import moment

_CHART_HEIGHT = 60.0


class Hour(Protocol):
    """The studies of one hour, as ``ledger.figures`` counts them."""

    @property
    def begins(self) -> float:
        """Seconds since 1970."""

    @property
    def received(self) -> int:
        """Number of studies."""

    @property
    def answered(self) -> int:
        """Of them."""

    @property
    def seconds(self) -> float | None:
        """To the answer, mean."""


@dataclass(frozen=True)
class Model:
    """A recorded bundle; `state` is ``active``, ``shadow`` or empty."""

    name: str
    version: str
    state: str
    digest: str
    shipped: bool
    has_card: bool

    @property
    def card(self) -> str:
        """Where its card is."""
        return f"/hilum/admin/models/{self.name}/{self.version}/card.html"


@dataclass(frozen=True)
class User:
    """Somebody who may log in, and when they did last; None: not since `AdminPage.log_ins_since`."""

    name: str
    role: str
    logged_in_at: float | None


@dataclass(frozen=True)
class Neighbour:
    """Somebody who is given results; `protocol` is empty when the settings do not have it any more.

    Parameters
    ----------
    delivered
        Studies that it took so far.
    oldest
        Since when the oldest is owed; None when none is.
    """

    name: str
    protocol: str
    delivered: int
    owed: int
    refused: int
    oldest: float | None
    error: str


@dataclass(frozen=True)
class AdminPage:
    """Everything on the admin page.

    Parameters
    ----------
    status
        As ``GET /hilum/api/status`` gives it.
    refused
        Reason to number of studies.
    audit
        The latest entries, the latest first.
    untold
        Notices that were not taken (``ledger.outbox.Notice``).
    destinations
        Who is given results.
    undelivered
        Studies that were not taken, the longest owed first (``ledger.delivery_views.troubled``).
    elsewhere
        What can be marked as read elsewhere, and was (``hosting.elsewhere.Elsewhere``).
    """

    visitor: tuple[str, str]
    status: dict[str, Any]
    hours: tuple[Hour, ...]
    refused: dict[str, int]
    quarantined: tuple[dict[str, Any], ...]
    workers: tuple[dict[str, Any], ...]
    models: tuple[Model, ...]
    users: tuple[User, ...]
    log_ins_since: float | None
    last_backup: float | None
    audit: tuple[dict[str, Any], ...]
    untold: tuple[Any, ...]
    destinations: tuple[Neighbour, ...]
    undelivered: tuple[dict[str, Any], ...]
    elsewhere: Any
    reserve_mb: int


@dataclass(frozen=True)
class Bar:
    """One hour of the chart, in its coordinates."""

    x: float
    received: float
    answered: float
    words: str


def render_admin(page: AdminPage, look: Look) -> str:
    """The page."""
    most = max((hour.received for hour in page.hours), default=0)
    scale = _CHART_HEIGHT / max(most, 1)
    bars = [
        Bar(10.0 * n, scale * hour.received, scale * hour.answered, _words(hour)) for n, hour in enumerate(page.hours)
    ]
    template = environment().get_template("admin.html")
    return template.render(
        it=page,
        status=page.status,
        look=look,
        bars=bars,
        most=most,
        height=_CHART_HEIGHT,
        moment=moment,
        disclaimer=DISCLAIMER,
    )


def _words(hour: Hour) -> str:
    mean = "" if hour.seconds is None else f", {hour.seconds:.1f} s to the answer"
    return f"from {moment(hour.begins)[11:16]}: {hour.received} received, {hour.answered} answered{mean}"

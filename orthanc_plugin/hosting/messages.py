"""A request and an answer, without Orthanc."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from orthanc_plugin.access.audit import Who
from orthanc_plugin.access.roles import Action, Role, may

TEXT, HTML = "text/plain; charset=utf-8", "text/html; charset=utf-8"
NOT_STORED = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
PAGE_HEADERS = {
    **NOT_STORED,
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "SAMEORIGIN",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'self'",
}


@dataclass(frozen=True)
class Visitor:
    """Who asks; nobody, unless the guard says otherwise."""

    role: Role | None = None
    who: Who = field(default_factory=Who)

    def may(self, action: Action) -> bool:
        """Whether the role of this visitor allows it."""
        return may(self.role, action)


@dataclass(frozen=True)
class Request:
    """An HTTP request.

    Parameters
    ----------
    path
        Without the query, e.g. ``/hilum/api/worklist``.
    query
        Conditions of ``/hilum/api/images``; the study of a thumbnail.
    headers
        By names in lower case.
    address
        IP address of the other end, where it is known.
    """

    path: str
    method: str = "GET"
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    visitor: Visitor = Visitor()
    address: str = ""


@dataclass(frozen=True)
class Response:
    """An HTTP answer."""

    status: int
    mime: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def is_ours(headers: Mapping[str, str]) -> bool:
    """Whether a request that changes something comes from our own page, or from no page at all.

    A browser adds the user's cookie or password to what any other site sends here, but not without saying where it
    comes from, and it lets no other site add a header of its own (https://fetch.spec.whatwg.org, CORS-safelisted
    request-header). That a cookie is SameSite is not enough: other ports of this machine are the same site.
    """
    if "sec-fetch-site" in headers:
        return headers["sec-fetch-site"] == "same-origin"
    if "origin" in headers:
        return urlsplit(headers["origin"]).netloc == headers.get("host", "")
    return "x-requested-with" in headers


def is_browser(headers: Mapping[str, str]) -> bool:
    """Whether a person looks at the answer, who is shown a page to log in and not asked by the browser."""
    return "sec-fetch-mode" in headers or "cookie" in headers or "text/html" in headers.get("accept", "")

"""A request and an answer, without Orthanc."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

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

# PS3.5 9.1
UID = re.compile(r"(?=.{1,64}$)(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*", re.ASCII)
# A picture never changes under its report's UID, but its study may be deleted: a browser asks again after so long.
_PICTURE_SECONDS = 3600


# A form: 500 studies with what was seen of each are 80 kB and 1000 fields.
_FORM = "application/x-www-form-urlencoded"
_LONGEST_FORM, _MOST_FIELDS = 250_000, 2000


class FormRefused(Exception):
    """A form is too long, or has too many fields; with the status of the answer (RFC 9110)."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


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

    def form(self, *, blank: bool = False) -> dict[str, list[str]]:
        """The fields of the form in the body, without NUL, which no ledger keeps.

        Parameters
        ----------
        blank
            Whether a field with nothing in it is told.

        Raises
        ------
        FormRefused
        """
        if len(self.body) > _LONGEST_FORM:
            raise FormRefused(413, "This form is too long.")
        kind = self.headers.get("content-type", _FORM).partition(";")[0].strip().lower()
        if self.body and kind != _FORM:
            raise FormRefused(415, f"Fields are sent as a form ({_FORM}).")
        text = self.body.decode("utf-8", "replace")
        try:
            fields = parse_qs(text, keep_blank_values=blank, max_num_fields=_MOST_FIELDS)
        except ValueError:
            raise FormRefused(400, "This form has too many fields.") from None
        return {name: [value.replace("\0", "") for value in values] for name, values in fields.items()}

    def given(self) -> dict[str, str]:
        """What the address asks for, and what a form says over it: the last value of each that has one."""
        asked = dict(self.query)
        if self.method == "POST":
            asked |= {name: values[-1] for name, values in self.form().items()}
        return asked

    def has(self, tag: str) -> bool:
        """Whether the browser has what bears this entity tag (RFC 9110 13.1.2)."""
        held = self.headers.get("if-none-match", "").split(",")
        return tag in {value.strip().removeprefix("W/") for value in held}


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


def cookie_of(headers: Mapping[str, str], name: str) -> str:
    """What a cookie holds (RFC 6265 5.4), whatever else lies in the jar; empty where there is none."""
    pairs = (pair.strip().partition("=") for pair in headers.get("cookie", "").split(";"))
    return next((value for known, _, value in pairs if known == name and value), "")


def picture(request: Request, content: bytes, name: str) -> Response:
    """A PNG or JPEG that bears a name of its own, or 304 where the browser has it."""
    mime, tag = "image/png" if content.startswith(b"\x89PNG") else "image/jpeg", f'"{name}"'
    headers = {
        "Cache-Control": f"private, max-age={_PICTURE_SECONDS}",
        "ETag": tag,
        "Vary": "Cookie, Authorization",  # who logs in next at this screen asks again
        "X-Content-Type-Options": "nosniff",
    }
    return Response(304, mime, b"", headers) if request.has(tag) else Response(200, mime, content, headers)

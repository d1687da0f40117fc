"""Who is let in to what: the one decision behind every HTTP request to this node, ours and Orthanc's alike.

The rule: refused, unless a rule here allows it. Whatever fails on the way is refused as well.

Why the guard is alone. Orthanc's own check (``AuthenticationEnabled``) knows Basic authentication only and comes
before the plugin's filter (seen with 1.10.1 and 1.12.7): a request with a cookie and no password is answered 401 and
no plugin is asked. So it is off, and the filter is the only door. What speaks for that all the same: Orthanc asks the
filter about every request, whatever its method and route, after it has decoded and normalised the path; an exception
in the filter is answered 500, and Orthanc does not start when the plugin or its script cannot be loaded. The tests ask
for each of these, and ``./hilum up`` asks a node that has started whether it refuses a stranger. Only this machine can
connect in any case. WebDAV, which has a door of its own, is off.

The filter can answer yes or no, and no is a bare 403. A refusal in words (to the log-in page, 401 with a challenge) is
given by the routes below ``/hilum`` and ``/ohif``; so these are let through, and ask the guard themselves.

A program that logs in by Basic must send its password unasked to DICOMweb and to Orthanc, for there is no challenge.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import ip_address
from urllib.parse import urlsplit

from orthanc_plugin.access.accounts import Account
from orthanc_plugin.access.audit import Who
from orthanc_plugin.access.logins import Logins, Refused
from orthanc_plugin.access.roles import Action, Role, may
from orthanc_plugin.hosting.addresses import address_of
from orthanc_plugin.hosting.messages import Request, Visitor, cookie_of, is_ours
from orthanc_plugin.hosting.proxied import HEADERS, NO_PROXY, Proxied, Proxy, Unbelieved

_STUDIES = re.compile(r"/dicom-web/(studies|series|instances)(/.*)?", re.DOTALL)
_REFRESHED = "/hilum/rows"  # by the page itself: nobody need be there
# only leads to the worklist
_ROOT = "/"
_CHANGING = ("POST", "PUT", "DELETE")


class Refusal(StrEnum):
    """Why a request is refused."""

    LOG_IN = "log_in"
    WRONG_PASSWORD = "wrong_password"  # noqa: S105  (a code, no password)
    TOO_MANY = "too_many"
    FORBIDDEN = "forbidden"
    OTHER_SITE = "other_site"
    NOT_THE_PROXY = "not_the_proxy"


@dataclass(frozen=True)
class Visit:
    """What was decided about a request.

    Parameters
    ----------
    action
        What it is about; None for what is open to everybody.
    refusal
        None when it is allowed.
    known
        The account that a wrong password was given for, if there is one.
    wait_seconds
        Before a password is looked at again.
    """

    visitor: Visitor
    action: Action | None
    refusal: Refusal | None = None
    known: str = ""
    wait_seconds: float = 0.0


def action_of(method: str, path: str) -> Action | None:
    """What a request is about; None for what everybody may have."""
    first = path.split("/")[1] if path.startswith("/") else ""
    if path == _ROOT:
        return None
    if first == "hilum":  # who asks for what there is not is told so once they are logged in
        address = address_of(path)
        return address.action if address else Action.VIEW_WORKLIST
    if first == "ohif":
        return Action.VIEW_STUDY
    if _STUDIES.fullmatch(path) or path == "/wado":
        return Action.VIEW_STUDY if method == "GET" else Action.STORE
    return Action.ORTHANC


def answers_itself(path: str) -> bool:
    """Whether a path is one of ours, whose route refuses in words."""
    return path == "/" or path.split("/")[1:2] in (["hilum"], ["ohif"])


class Guard:
    """Decides about requests.

    Parameters
    ----------
    cookie
        Name of the session's cookie; nodes of one machine share a jar, so it has the port in it.
    proxy
        Who may say that somebody is logged in.
    """

    def __init__(
        self, logins: Logins, *, cookie: str, proxy: Proxy = NO_PROXY, clock: Callable[[], float] = time.time
    ) -> None:
        self._logins, self.cookie, self._proxy, self._clock = logins, cookie, proxy, clock
        self._decided: dict[int, tuple[tuple[str | None, ...], Visit]] = {}

    def decide(self, request: Request) -> Visit:
        """Who asks, and whether it is allowed; the route of a request that the filter judged is told the same."""
        asked = _credentials(request)
        before, visit = self._decided.pop(threading.get_ident(), ((), None))
        return visit if visit is not None and before == asked else self._decide(request)

    def decide_first(self, request: Request) -> Visit:
        """Decide for the filter, and keep it for the route, which Orthanc calls in the same thread."""
        self._decided.pop(threading.get_ident(), None)
        visit = self._decide(request)
        if answers_itself(request.path):
            self._decided[threading.get_ident()] = _credentials(request), visit
        return visit

    def token(self, headers: Mapping[str, str]) -> str | None:
        """What the session's cookie holds."""
        return cookie_of(headers, self.cookie) or None

    def _decide(self, request: Request) -> Visit:
        headers, action = request.headers, action_of(request.method, request.path)
        who = Who(address=_address(request))
        nobody = Visit(Visitor(who=who), action)
        proxied = self._by_proxy(headers)
        if isinstance(proxied, Unbelieved):
            return replace(nobody, refusal=Refusal.NOT_THE_PROXY)
        if proxied is not None:
            who = replace(who, name=proxied.name, role=str(proxied.role or ""))
            return self._allowed(request, Visit(Visitor(proxied.role, who), action))
        if "authorization" in headers:
            found = self._by_basic(headers["authorization"], who.address)
            if isinstance(found, Refused):
                why = Refusal.TOO_MANY if found.wait_seconds else Refusal.WRONG_PASSWORD
                return replace(nobody, refusal=why, known=found.known, wait_seconds=found.wait_seconds)
            account: Account | None = found
        else:
            token = self.token(headers)
            used = request.path != _REFRESHED
            account = self._logins.by_session(token, self._clock(), used=used) if token else None
        if account is not None:
            who = replace(who, name=account.name, role=str(account.role))
        return self._allowed(request, Visit(Visitor(account.role if account else None, who), action))

    def _allowed(self, request: Request, visit: Visit) -> Visit:
        """Whether this person may do it, from where it is asked."""
        if _is_from_elsewhere(request):
            return replace(visit, refusal=Refusal.OTHER_SITE)
        if visit.action is None:
            return visit
        if not visit.visitor.who.name:
            return replace(visit, refusal=Refusal.LOG_IN)
        return visit if may(visit.visitor.role, visit.action) else replace(visit, refusal=Refusal.FORBIDDEN)

    def _by_proxy(self, headers: Mapping[str, str]) -> Proxied | Unbelieved | None:
        found = self._proxy.who(headers)
        # the node's own two accounts are nobody else's
        is_taken = isinstance(found, Proxied) and self._logins.is_own(found.name)
        return Unbelieved.UNUSABLE if is_taken else found

    def _by_basic(self, header: str, address: str) -> Account | Refused:
        scheme, _, value = header.partition(" ")
        try:
            said = base64.b64decode(value.strip(), validate=True).decode("utf-8") if scheme.lower() == "basic" else ""
        except (binascii.Error, ValueError):
            said = ""
        name, colon, password = said.partition(":")
        if not colon:
            return Refused("")
        return self._logins.by_password(name, password, self._clock(), address=address)


def _credentials(request: Request) -> tuple[str | None, ...]:
    """All that a decision follows from."""
    given = ("authorization", "cookie", "origin", "host", "x-requested-with", "x-http-method-override")
    fetched = ("sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")
    return request.method, request.path, *(request.headers.get(name) for name in given + fetched + HEADERS)


def _is_from_elsewhere(request: Request) -> bool:
    """Whether another site's page makes the browser send this (Fetch Metadata, and before it Origin).

    Anybody may link to a page of ours. Nobody else may have it change anything, nor load a part of it into theirs.
    """
    headers = request.headers
    if "x-http-method-override" in headers:
        return True  # nothing here needs it, and it dresses up one method as another
    if request.method not in _CHANGING:
        if headers.get("sec-fetch-site", "none") in ("same-origin", "none"):
            return False
        return headers.get("sec-fetch-mode") != "navigate" or headers.get("sec-fetch-dest", "document") != "document"
    if "authorization" in headers and "sec-fetch-site" not in headers and "origin" not in headers:
        return False  # a program, which sends its password by itself
    return not is_ours(headers)


def _address(request: Request) -> str:
    """The other end; behind a proxy of this machine, the one that the proxy names."""
    named = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    try:
        if named and ip_address(request.address).is_loopback:
            return str(ip_address(named))
    except ValueError:
        pass
    return request.address


def is_encrypted(headers: Mapping[str, str]) -> bool:
    """Whether the browser's request came by TLS, to a proxy that says so; who lies harms their own cookie only."""
    proto = headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    return proto == "https" or urlsplit(headers.get("origin", "")).scheme == "https"


def is_worker(visit: Visit) -> bool:
    """Whether the node's own worker asks."""
    return visit.visitor.role is Role.WORKER

"""The log-in page, log-out, and what somebody is told who is not let in.

The rule: a wrong name and a wrong password are told apart by nobody; the way back leads to pages of this node only.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, quote, urlencode

from orthanc_plugin.access.audit import Audit, Who
from orthanc_plugin.access.logins import Logins, Refused
from orthanc_plugin.access.roles import Role
from orthanc_plugin.hosting.guard import Guard, Refusal, Visit, is_encrypted
from orthanc_plugin.hosting.messages import HTML, NOT_STORED, PAGE_HEADERS, TEXT, Request, Response, is_browser
from orthanc_plugin.hosting.proxied import USER
from orthanc_plugin.worklist.page import render_login

HOME, LOGIN, LOGOUT = "/hilum/", "/hilum/login", "/hilum/logout"
_TOO_MANY = 503  # Orthanc knows no 429
_LONGEST_FORM, _LONGEST_WAY = 8192, 2000  # bytes; characters
# a path of ours: nothing that a browser could take for another host, and no control character
_WAY = re.compile(r"/(hilum|ohif)(/[!-\[\]-~]*|\?[!-\[\]-~]*)?", re.ASCII)
_HEADERS = {
    **PAGE_HEADERS,
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
}
_SAID = {
    Refusal.FORBIDDEN: "Your role does not allow this.",
    Refusal.OTHER_SITE: "Another site asked for this, or a program without the header X-Requested-With.",
    Refusal.WRONG_PASSWORD: "The name or the password is wrong.",
    Refusal.LOG_IN: "Log in first.",
    Refusal.NOT_THE_PROXY: "What this request says of itself is not believed: its proxy does not know the secret.",
}


@dataclass(frozen=True)
class LoginPage:
    """The log-in page of a node."""

    logins: Logins
    guard: Guard
    audit: Audit
    clock: Callable[[], float] = time.time
    proxy_logout: str = ""

    def respond(self, request: Request) -> Response:
        """Answer ``/hilum/login`` and ``/hilum/logout``."""
        if request.path == LOGIN and request.method == "GET":
            way = way_back(request.query.get("next", ""))
            if request.visitor.role is not None:
                return _redirect(way)
            return _page(200, way, "You have logged out." if request.query.get("left") else "")
        if request.path == LOGIN:
            return self._log_in(request)
        return self._log_out(request) if request.method == "POST" else _redirect(HOME)

    def _log_in(self, request: Request) -> Response:
        if len(request.body) > _LONGEST_FORM:
            return _page(413, HOME, "This is too long.")
        fields = _fields(request.body)
        name, password = (fields.get(field, [""])[0] for field in ("name", "password"))
        way, now, address = way_back(fields.get("next", [""])[0]), self.clock(), request.visitor.who.address
        found = self.logins.by_password(name, password, now, address=address)
        if isinstance(found, Refused):
            who = Who(name=found.known, address=address)
            if found.wait_seconds:
                self.audit.record_view("log_in", who, outcome="refused", detail="too many wrong passwords")
                answer = _page(
                    _TOO_MANY, way, f"Too many wrong passwords. Try again in {_seconds(found.wait_seconds)} s."
                )
                return replace(answer, headers=answer.headers | {"Retry-After": _seconds(found.wait_seconds)})
            self.audit.record("log_in", who, outcome="refused", detail="wrong name or password")
            return _page(403, way, _SAID[Refusal.WRONG_PASSWORD])
        if found.role is Role.WORKER:  # a process has no use for a page
            return _page(403, way, _SAID[Refusal.WRONG_PASSWORD])
        if old := self.guard.token(request.headers):
            self.logins.end(old)
        token = self.logins.begin(found, now)
        who = Who(found.name, str(found.role), address)
        self.audit.forget_views(who)
        self.audit.record("log_in", who)
        return _redirect(way, self._cookie(request.headers, token))

    def _log_out(self, request: Request) -> Response:
        if token := self.guard.token(request.headers):
            self.logins.end(token)
        if request.visitor.role is not None:
            self.audit.forget_views(request.visitor.who)
            self.audit.record("log_out", request.visitor.who)
        # what the browser kept of patients goes as well
        gone = {"Clear-Site-Data": '"cache", "storage"'} | self._cookie(request.headers, "")
        # whom a proxy logs in would be back with the next request
        way = self.proxy_logout if USER in request.headers else ""
        return _redirect(way or f"{LOGIN}?left=yes", gone)

    def _cookie(self, headers: Mapping[str, str], token: str) -> dict[str, str]:
        # Lax: a link to a study, in a mail or another system, finds whoever is logged in
        value = f"{self.guard.cookie}={token}; Path=/; HttpOnly; SameSite=Lax"
        return {"Set-Cookie": value + ("" if token else "; Max-Age=0") + ("; Secure" if is_encrypted(headers) else "")}


def refuse(request: Request, visit: Visit) -> Response:
    """What somebody is told who is not let in."""
    if visit.refusal is Refusal.TOO_MANY:
        seconds = _seconds(visit.wait_seconds)
        said = f"Too many wrong passwords. Try again in {seconds} s."
        return _said(request, _TOO_MANY, said, {"Retry-After": seconds})
    if visit.refusal in (Refusal.FORBIDDEN, Refusal.OTHER_SITE, Refusal.NOT_THE_PROXY):
        return _said(request, 403, _SAID[visit.refusal])
    navigates = request.headers.get("sec-fetch-mode", "navigate") == "navigate"
    if request.method == "GET" and navigates and "text/html" in request.headers.get("accept", ""):
        query = f"?{urlencode(request.query)}" if request.query else ""
        way = way_back(quote(request.path, safe="/:@") + query)
        return _redirect(LOGIN if way.rstrip("/") == HOME.rstrip("/") else f"{LOGIN}?{urlencode({'next': way})}")
    # a browser that is challenged asks for a password in a window of its own, also below a page
    challenge = {} if is_browser(request.headers) else {"WWW-Authenticate": 'Basic realm="Hilum", charset="UTF-8"'}
    return _said(request, 401, _SAID[visit.refusal or Refusal.LOG_IN], challenge)


def way_back(wanted: str) -> str:
    """Where to go after the log-in: what was wanted if it is a page of this node, else the worklist."""
    path = wanted.partition("?")[0]
    if len(wanted) > _LONGEST_WAY or not _WAY.fullmatch(wanted) or path.startswith((LOGIN, LOGOUT)):
        return HOME
    return HOME if ".." in path.split("/") else wanted


def _fields(body: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
    except ValueError:
        return {}


def _page(status: int, way: str, said: str) -> Response:
    return Response(status, HTML, render_login(way, said).encode(), dict(_HEADERS))


def _said(request: Request, status: int, said: str, headers: Mapping[str, str] | None = None) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        return replace(_page(status, HOME, said), headers=_HEADERS | dict(headers or {}))
    return Response(status, TEXT, f"{said}\n".encode(), NOT_STORED | dict(headers or {}))


def _redirect(way: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(303, TEXT, b"", NOT_STORED | {"Location": way} | dict(headers or {}))


def _seconds(seconds: float) -> str:
    return str(max(1, math.ceil(seconds)))

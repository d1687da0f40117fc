"""Answers requests for the viewer's files: a pure function from a path and two headers to a response.

The rule: only what the manifest names can be reached, whatever the path says, and nothing here can raise because the
viewer is missing: Orthanc would not start without it. Files are read for each request (the page cache holds them), so
that Orthanc's memory does not carry 10 MB that nobody looks at. Standard library only.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

MANIFEST = "manifest.json"
STAMP = "complete"  # written last

_APP_CONFIG = Path(__file__).with_name("app-config")
_JAVASCRIPT = "text/javascript; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"
_FILE_NAME = re.compile(r"\.[A-Za-z0-9]{1,8}$")

# OHIF needs inline styles, two inline scripts of its index page, code made at run time (its arrays of SEG pixels, and
# WebAssembly), and workers and images made from blobs.
# Everything else is this origin's: the browser itself refuses any call to a third party.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "worker-src 'self' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' blob:",
        "connect-src 'self' blob: data:",
        "frame-src 'self' blob:",
        "object-src 'self' blob:",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "SAMEORIGIN",
    "Content-Security-Policy": _POLICY,
}
_REVALIDATE = "no-cache"
_FOR_EVER = "public, max-age=31536000, immutable"  # RFC 8246; a year in seconds


@dataclass(frozen=True)
class StoredFile:
    """One file of the viewer.

    Parameters
    ----------
    path
        As OHIF knows it, e.g. ``app.bundle.css``.
    stored
        Where it lies, relative to the prepared folder.
    encoding
        ``gzip`` or empty.
    size, stored_size
        In bytes, as OHIF knows it and as it lies on disk.
    sha256
        Of the content that OHIF knows, hexadecimal.
    """

    path: str
    stored: str
    encoding: str
    size: int
    stored_size: int
    sha256: str
    mime: str


@dataclass(frozen=True)
class Response:
    """An HTTP answer."""

    status: int
    mime: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class _Catalogue:
    assets: str
    files: dict[str, StoredFile]


@dataclass(frozen=True)
class Site:
    """The prepared viewer.

    Parameters
    ----------
    dest
        The folder that ``prepare`` made. It may be made or replaced while the node runs.
    app_config
        Folder of our configuration of OHIF: its ``*.js`` files, in the order of their names, are one script with one
        scope. They are read for each request: a change is one reload away.
    """

    dest: Path
    app_config: Path = _APP_CONFIG

    def respond(self, path: str, accept_encoding: str = "", if_none_match: str | None = None) -> Response:
        """Answer a GET below ``/ohif``.

        Parameters
        ----------
        path
            E.g. ``/ohif/viewer``; a query is ignored, since the page itself reads it.
        accept_encoding, if_none_match
            Values of these request headers.
        """
        try:
            catalogue = _catalogue(self.dest, (self.dest / STAMP).stat().st_mtime_ns)
        except (OSError, ValueError, KeyError, TypeError):
            body = b"The viewer is not installed on this node. Run ./hilum up, or see the README.\n"
            return Response(503, _TEXT, {**_SECURITY, "Cache-Control": "no-store", "Retry-After": "60"}, body)
        location = path.partition("?")[0]
        name = location.removeprefix("/ohif").lstrip("/")
        if name == "app-config.js":
            return self._configuration(if_none_match)
        for_ever = location.startswith(catalogue.assets)
        name = location.removeprefix(catalogue.assets) if for_ever else name
        file = catalogue.files.get(name)
        if file is None and not for_ever and _FILE_NAME.search(name) is None:
            file = catalogue.files["index.html"]  # a place inside OHIF, which its script finds from the address
        if file is None:
            body = b"The viewer has no such file. If it was just updated, reload the page.\n"
            return Response(404, _TEXT, {**_SECURITY, "Cache-Control": "no-store"}, body)
        return self._file(file, _FOR_EVER if for_ever else _REVALIDATE, accept_encoding, if_none_match)

    def _configuration(self, if_none_match: str | None) -> Response:
        parts = [file.read_bytes() for file in sorted(self.app_config.glob("*.js"))]
        content = b"(() => {\n'use strict';\n" + b"\n".join(parts) + b"})();\n"
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = {**_SECURITY, "Cache-Control": _REVALIDATE, "ETag": tag}
        if _matches(if_none_match, tag):
            return Response(304, _JAVASCRIPT, headers)
        return Response(200, _JAVASCRIPT, headers, content)

    def _file(self, file: StoredFile, caching: str, accept_encoding: str, if_none_match: str | None) -> Response:
        compressed = file.encoding == "gzip" and _accepts_gzip(accept_encoding)
        # Two codings of one file are two representations (RFC 9110 8.8.3): they must not share a strong tag.
        tag = f'"{file.sha256[:32]}{"-gz" if compressed else ""}"'
        headers = {**_SECURITY, "Cache-Control": caching, "ETag": tag}
        if file.encoding:
            headers["Vary"] = "Accept-Encoding"
        if _matches(if_none_match, tag):
            return Response(304, file.mime, headers)
        body = (self.dest / file.stored).read_bytes()
        if compressed:
            headers["Content-Encoding"] = "gzip"
        elif file.encoding:
            body = gzip.decompress(body)
        return Response(200, file.mime, headers, body)


def load_site(dest: Path) -> Site:
    """The viewer whose files lie in `dest`; where they are missing, each answer says so."""
    return Site(dest)


@lru_cache(maxsize=2)
def _catalogue(dest: Path, _made_at: int) -> _Catalogue:
    """The manifest of one preparation; `_made_at` tells it from the one before."""
    manifest = json.loads((dest / MANIFEST).read_text("utf-8"))
    return _Catalogue(manifest["assets"], {f["path"]: StoredFile(**f) for f in manifest["files"]})


def _accepts_gzip(accept_encoding: str) -> bool:
    for item in accept_encoding.lower().split(","):
        coding, _, weight = item.partition(";")
        if coding.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _matches(if_none_match: str | None, tag: str) -> bool:
    """Weak comparison (RFC 9110 13.1.2)."""
    if if_none_match is None:
        return False
    tags = {t.strip().removeprefix("W/") for t in if_none_match.split(",")}
    return tag in tags or "*" in tags

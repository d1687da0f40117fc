"""What every answer of ours tells a browser beside its content.

The rule: an answer may ask for more than this, never for less.
"""

from __future__ import annotations

from collections.abc import Mapping

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "SAMEORIGIN",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cache-Control": "no-store",
}
_BY_TLS = {"Strict-Transport-Security": "max-age=31536000"}  # a year, in seconds


def with_security(headers: Mapping[str, str], *, encrypted: bool) -> dict[str, str]:
    """The headers of an answer, with those that every answer has.

    Parameters
    ----------
    encrypted
        Whether the browser's request came by TLS.
    """
    return {**_ALWAYS, **(_BY_TLS if encrypted else {}), **headers}

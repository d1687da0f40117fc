"""The node's certificates in ``HILUM_HOME/tls``, and whom its own programs trust.

The rule: a program of this machine knows the node by its very certificate, whatever names and dates stand in it, so
that no date stops the reading; a program elsewhere asks of it what a browser does.
"""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from orthanc_plugin.settings import Settings

EXPIRES_SOON_SECONDS = 30 * 86_400.0
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL
_END = "-----END CERTIFICATE-----"


class TlsUnusable(Exception):
    """A certificate or key cannot be used; the message says which, why and what to do."""


@dataclass(frozen=True)
class TlsFiles:
    """Where certificates and keys lie, in PEM."""

    folder: Path

    @property
    def authority(self) -> Path:
        """The site's authority; the certificates of several may stand in it."""
        return self.folder / "ca.crt"

    @property
    def authority_key(self) -> Path:
        """Its key, which may lie elsewhere: only who issues certificates needs it."""
        return self.folder / "ca.key"

    @property
    def certificate(self) -> Path:
        """The node's own, with those between it and its authority behind it."""
        return self.folder / "server.crt"

    @property
    def key(self) -> Path:
        """The node's key."""
        return self.folder / "server.key"

    @property
    def own(self) -> Path:
        """What a worker elsewhere shows, with its key beside it, where the node asks for it."""
        return self.folder / "client.crt"

    @property
    def clients(self) -> Path:
        """Folder of what was issued to others."""
        return self.folder / "clients"


@dataclass(frozen=True)
class Certificate:
    """What stands in a certificate.

    Parameters
    ----------
    names
        Whose it is: Subject Alternative Names, or else the Common Name.
    begins, expires
        Seconds since 1970.
    """

    names: tuple[str, ...]
    issuer: str
    begins: float
    expires: float
    sha256: str

    @property
    def last_day(self) -> str:
        """When it ends, in UTC."""
        return datetime.fromtimestamp(self.expires, UTC).strftime("%Y-%m-%d")


def read_certificate(file: Path) -> Certificate:
    """What stands in the first certificate of a file.

    Raises
    ------
    TlsUnusable
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    try:
        found = x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError) as error:
        raise TlsUnusable(f"{file} holds no certificate ({type(error).__name__}): ./hilum tls init") from error
    names = [str(attribute.value) for attribute in found.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    with suppress(x509.ExtensionNotFound):
        others = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [str(name.value) for name in others]
    return Certificate(
        tuple(names),
        found.issuer.rfc4514_string(),
        found.not_valid_before_utc.timestamp(),
        found.not_valid_after_utc.timestamp(),
        found.fingerprint(hashes.SHA256()).hex(),
    )


def seconds_left(settings: Settings, now: float) -> float | None:
    """Until the node's certificate expires; None where it uses none, or none can be read."""
    if settings.https == settings.dicom_tls == "off":
        return None
    file = TlsFiles(settings.tls).certificate
    try:
        return _expiry(file, file.stat().st_mtime_ns) - now
    except (OSError, TlsUnusable):
        return None


@lru_cache(maxsize=4)
def _expiry(file: Path, _written_at: int) -> float:
    return read_certificate(file).expires


def require_certificates(settings: Settings) -> None:
    """Make sure that the node can speak TLS where the settings say so.

    Raises
    ------
    TlsUnusable
    """
    if settings.https == settings.dicom_tls == "off":
        return
    files = TlsFiles(settings.tls)
    wanted = [files.certificate, files.key]
    if "mutual" in (settings.https, settings.dicom_tls):
        wanted.append(files.authority)
    for file in wanted:
        if not file.is_file():
            raise TlsUnusable(f"{file} is missing, and TLS is on: ./hilum tls init, or put the site's own there")
    if files.key.stat().st_mode & 0o077:
        raise TlsUnusable(f"{files.key} can be read by others: have it renewed (./hilum tls renew), or chmod 600 it")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise TlsUnusable(f"{files.certificate} and {files.key} do not go together ({_reason(error)})") from error
    if len(wanted) > 2:
        read_certificate(files.authority)


def http_trust(settings: Settings, url: str) -> ssl.SSLContext | bool:
    """What a worker asks of who answers at `url`, as httpx takes it.

    Raises
    ------
    TlsUnusable
    """
    if not url.startswith("https:"):
        return True
    # those that the system trusts; OpenSSL itself reads SSL_CERT_FILE, where a site has an authority of its own
    context, files = ssl.create_default_context(), TlsFiles(settings.tls)
    try:
        if files.authority.is_file():
            context.load_verify_locations(files.authority)
        if files.own.is_file():
            context.load_cert_chain(files.own, files.own.with_suffix(".key"))
    except OSError as error:
        raise TlsUnusable(f"a file in {files.folder} cannot be used ({_reason(error)})") from error
    return context


def dicom_trust(settings: Settings) -> ssl.SSLContext | None:
    """What a program of ours asks of the node's DICOM port; None where that speaks no TLS.

    Raises
    ------
    TlsUnusable
    """
    if settings.dicom_tls == "off":
        return None
    return of_this_machine(settings, identify=settings.dicom_tls == "mutual")


def of_this_machine(settings: Settings, *, identify: bool) -> ssl.SSLContext:
    """Whoever holds the node's own certificate, and nobody else.

    Parameters
    ----------
    identify
        Whether the node's certificate is shown to them as well.

    Raises
    ------
    TlsUnusable
    """
    files = TlsFiles(settings.tls)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    try:
        first, _, _ = files.certificate.read_text("ascii").partition(_END)
        context.load_verify_locations(cadata=f"{first}{_END}\n")
        if identify:
            context.load_cert_chain(files.certificate, files.key)
    except (OSError, ValueError) as error:
        raise TlsUnusable(
            f"{files.certificate} or its key cannot be used ({_reason(error)}): ./hilum tls init"
        ) from error
    return context


def context_for(authority_file: str, certificate_file: str, key_file: str) -> ssl.SSLContext:
    """What a connection to a neighbour is made with; the host's name is checked.

    Parameters
    ----------
    authority_file
        Certificates by which the neighbour's is trusted; empty: those of this machine.
    certificate_file, key_file
        What we show of ourselves; empty: nothing.

    Raises
    ------
    TlsUnusable
        When a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=authority_file or None)
        if certificate_file:
            context.load_cert_chain(certificate_file, key_file)
    except (OSError, ssl.SSLError) as error:
        raise TlsUnusable(f"its certificates cannot be used ({type(error).__name__})") from error
    return context


def write_private(file: Path, content: bytes) -> None:
    """Replace a file as a whole; only its owner can read it."""
    draft = file.with_name(f"{file.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
        opened.write(content)
    draft.rename(file)


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__

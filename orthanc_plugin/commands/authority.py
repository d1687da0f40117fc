"""An authority of a site's own: the certificates that it issues to the node and to its neighbours.

The rule: keys are RSA of 3072 bits, which every modality with TLS understands; nothing issued outlives the authority,
and the authority issues no other one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS, SERVER_DAYS, CLIENT_DAYS = 3650, 397, 825  # browsers take no longer one of a server than 398
_KEY_BITS = 3072
# who stores images is called as well (C-MOVE, storage commitment), and shows the same certificate
_BOTH_SIDES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
_EARLIER = timedelta(hours=1)  # clocks of modalities differ
_HOST = re.compile(r"(?=.{1,253}$)(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LONGEST_NAME = 64  # characters of a Common Name (RFC 5280, ub-common-name)
_USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


class NameRefused(Exception):
    """A name that no certificate can be issued for; the message says why."""


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes


def make_authority(name: str, now: datetime) -> Issued:
    """An authority that signs itself."""
    key, subject = _new_key(), _named(name)
    made = _begun(subject, subject, key, now, now + timedelta(days=AUTHORITY_DAYS))
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    made = made.add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
    return _signed(made, key, key)


def issue_to_server(authority: Issued, names: Sequence[str], now: datetime) -> Issued:
    """A certificate for the node.

    Parameters
    ----------
    names
        Host names and IP addresses; the first is its Common Name.

    Raises
    ------
    NameRefused
    """
    others = x509.SubjectAlternativeName([_general(name) for name in dict.fromkeys(names)])
    return _issue(authority, names[0], now, SERVER_DAYS, names=others)


def issue_to_client(authority: Issued, name: str, now: datetime) -> Issued:
    """A certificate for a neighbour: a modality, a workstation, a worker.

    Raises
    ------
    NameRefused
    """
    if not 1 <= len(name) <= _LONGEST_NAME or not re.fullmatch(r"[\w.-]+", name, re.ASCII) or name.startswith("."):
        raise NameRefused(f"{name!r}: give 1 to {_LONGEST_NAME} letters, digits, dots and dashes")
    return _issue(authority, name, now, CLIENT_DAYS)


def _issue(
    authority: Issued,
    name: str,
    now: datetime,
    days: int,
    *,
    names: x509.SubjectAlternativeName | None = None,
) -> Issued:
    parent = x509.load_pem_x509_certificate(authority.certificate)
    signer = serialization.load_pem_private_key(authority.key, password=None)
    if not isinstance(signer, RSAPrivateKey) or signer.public_key() != parent.public_key():
        raise NameRefused("the authority's key is not the one of its certificate")
    key = _new_key()
    ends = min(now + timedelta(days=days), parent.not_valid_after_utc)
    made = _begun(_named(name), parent.subject, key, now, ends)
    made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    made = made.add_extension(_usage("digital_signature", "key_encipherment"), critical=True)
    made = made.add_extension(x509.ExtendedKeyUsage(_BOTH_SIDES), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    made = made.add_extension(issuer, critical=False)
    return _signed(made if names is None else made.add_extension(names, critical=False), key, signer)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: RSAPrivateKey, now: datetime, ends: datetime
) -> x509.CertificateBuilder:
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number())
    made = made.not_valid_before(now.astimezone(UTC) - _EARLIER).not_valid_after(ends.astimezone(UTC))
    return made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _signed(made: x509.CertificateBuilder, key: RSAPrivateKey, signer: RSAPrivateKey) -> Issued:
    certificate = made.sign(signer, hashes.SHA256())
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return Issued(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, *form),
    )


def _new_key() -> RSAPrivateKey:
    return generate_private_key(public_exponent=65537, key_size=_KEY_BITS)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_LONGEST_NAME])])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        pass
    if not _HOST.fullmatch(name.lower()):
        raise NameRefused(f"{name!r} is no host name and no IP address")
    return x509.DNSName(name.lower())


def _usage(*said: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in said for usage in _USAGES})

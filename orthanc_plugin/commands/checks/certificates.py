"""Who may connect, and by what: certificates, HTTPS, the DICOM port's neighbours, and who was refused."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator

from orthanc_plugin.commands import node
from orthanc_plugin.commands.checks.check import Check, warning, well, wrong
from orthanc_plugin.commands.tls import certificates
from orthanc_plugin.hosting.entrance import nginx
from orthanc_plugin.refused_calls import read_refused_calls
from orthanc_plugin.settings import Settings
from orthanc_plugin.trust import (
    EXPIRES_SOON_SECONDS,
    Certificate,
    TlsFiles,
    TlsUnusable,
    of_this_machine,
    read_certificate,
    require_certificates,
)

_SECONDS = 5.0
_DAY = 86_400


def check_certificates(settings: Settings) -> Iterator[Check]:
    """Everything about TLS and the neighbours by DICOM."""
    yield from _tls(settings)
    if settings.https != "off":
        yield _https(settings)
    yield _neighbours(settings)
    if node.running_pid(settings) is not None:
        yield from _refused(settings)


def _tls(settings: Settings) -> Iterator[Check]:
    if settings.https == settings.dicom_tls == "off":
        advice = "HTTP answers to this machine alone; DICOM is not encrypted, close its port by a firewall"
        yield well("tls", f"none is set: {advice}")
        return
    try:
        require_certificates(settings)
    except TlsUnusable as error:
        yield wrong("tls", str(error), "the node does not start before this is mended")
        return
    yield well("tls", f"https is {settings.https}, dicom_tls is {settings.dicom_tls}")
    files = TlsFiles(settings.tls)
    for what, file in certificates(files):
        if file.is_file():
            yield _expiry(what, file.name, read_certificate(file), time.time())
    if files.authority_key.is_file():
        advice = f"keep it elsewhere: only ./hilum tls renew and client need {files.authority_key}"
        yield warning("tls_authority", "the key of the site's authority lies on this machine", advice)


def _expiry(what: str, name: str, found: Certificate, now: float) -> Check:
    left = found.expires - now
    told = f"{name} of the {what} for {found.names[0] if found.names else 'nobody'}"
    advice = {"node": "./hilum tls renew", "client": f"./hilum tls client {name.removesuffix('.crt')}"}.get(
        what, "begin anew with another authority, and give its certificate to everybody"
    )
    if left <= 0:
        return wrong("certificate", f"{told} has expired on {found.last_day}", advice)
    if left < EXPIRES_SOON_SECONDS:
        return warning("certificate", f"{told} expires in {left / _DAY:.0f} days", advice)
    if found.begins > now:
        return wrong("certificate", f"{told} is not valid yet", "look at this machine's clock")
    return well("certificate", f"{told} is valid until {found.last_day}")


def _https(settings: Settings) -> Check:
    """Whether the node's own certificate answers at the port."""
    port = settings.https_port
    if nginx() is None:
        return wrong("https_port", "nginx is not installed, which offers HTTPS", "apt install nginx-light")
    if node.running_pid(settings) is None:
        try:
            node.require_free("https_port", port)
        except node.NodeFailed as error:
            return wrong("https_port", str(error), f"ss -ltnp 'sport = :{port}' tells who has it")
        return well("https_port", f"{port} is free")
    try:
        context = of_this_machine(settings, identify=settings.https == "mutual")
        with (
            socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as encrypted,
        ):
            return well("https_port", f"{port} answers by {encrypted.version()} with the node's certificate")
    except (OSError, ssl.SSLError, TlsUnusable) as error:
        advice = "see orthanc.log; after a change of certificates by hand: ./hilum down, ./hilum up"
        return wrong(
            "https_port", f"{port} does not answer with the node's certificate ({type(error).__name__})", advice
        )


def _neighbours(settings: Settings) -> Check:
    count = len(settings.modalities)
    if not count:
        advice = "name them in modalities, or close the port by a firewall"
        return well("modalities", f"none is named: whoever reaches the DICOM port may send images; {advice}")
    how = [
        "AE titles alone, which anybody may claim",
        "AE titles and addresses",
        "AE titles and certificates",
    ][2 if settings.dicom_tls == "mutual" else settings.check_modality_host]
    return well("modalities", f"{count} may speak DICOM with the node; they are known by their {how}")


def _refused(settings: Settings) -> Iterator[Check]:
    counts = read_refused_calls(settings.refused_calls)
    reasons = {
        "unknown_ae": "by AE titles that modalities does not name",
        "called_ae": f"that called another AE title than {settings.ae_title}",
        "tls": "for want of TLS, or of a certificate",
        "other": "for other reasons",
    }
    told = [f"{number} {reasons[reason]}" for reason, number in counts.items() if number]
    if told:
        advice = "orthanc.log names who; a modality of yours is not set up as the node expects"
        yield warning("refused_calls", f"since the start DICOM calls were refused: {', '.join(told)}", advice)

"""``./hilum tls``: an authority of the site's own, and what it issues to the node and its neighbours.

The rule: what is there is never replaced unasked, and every key is its owner's alone. Whoever has an authority already
puts ``server.crt``, ``server.key`` and ``ca.crt`` into the folder, and needs none of this but ``show``.
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from orthanc_plugin.commands.authority import Issued, NameRefused, issue_to_client, issue_to_server, make_authority
from orthanc_plugin.commands.node import NodeFailed, running_pid
from orthanc_plugin.settings import Settings
from orthanc_plugin.trust import (
    EXPIRES_SOON_SECONDS,
    Certificate,
    TlsFiles,
    TlsUnusable,
    read_certificate,
    write_private,
)

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def tls(settings: Settings, options: argparse.Namespace, console: Console) -> int:
    """Make, renew or tell certificates; exit code 1 when one of those told has expired.

    Raises
    ------
    NodeFailed
    """
    files = TlsFiles(settings.tls)
    try:
        if options.do == "init":
            _begin(files, options.names, settings, console)
        elif options.do == "renew":
            _renew(files, options.names, settings, console)
        elif options.do == "client":
            _issue(files, options.name, console)
        else:
            return _show(files, console, as_json=options.json)
    except (TlsUnusable, NameRefused, OSError) as error:
        raise NodeFailed(str(error)) from error
    return 0


def certificates(files: TlsFiles) -> Iterator[tuple[str, Path]]:
    """What each certificate is for, and where it lies."""
    yield "authority", files.authority
    yield "node", files.certificate
    for file in sorted(files.clients.glob("*.crt")):
        yield "client", file


def _begin(files: TlsFiles, names: list[str], settings: Settings, console: Console) -> None:
    for file in (files.authority, files.certificate, files.key):
        if file.exists():
            raise TlsUnusable(f"{file} is there already: ./hilum tls renew makes the node's certificate anew")
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    files.folder.mkdir(exist_ok=True, mode=0o700)
    names = names or _names_of_this_machine()
    now = datetime.now(UTC)
    authority = make_authority(f"Hilum authority of {names[0]}", now)
    server = issue_to_server(authority, [*names, *_THIS_MACHINE], now)  # a name that cannot be used leaves nothing
    _keep(files.authority, files.authority_key, authority)
    _keep(files.certificate, files.key, server)
    _tell(console, "node", files.certificate)
    console.print(
        f"\nGive {files.authority} to browsers, modalities and whoever else speaks to the node; it is no secret.\n"
        f"{files.authority_key} is: whoever has it can be anybody. Only ./hilum tls renew and client need it; it may\n"
        f'lie elsewhere meanwhile.\nThen set https = "on" and dicom_tls = "on" (or "mutual") in '
        f"{settings.home / 'hilum.toml'}, and start the node anew.",
        soft_wrap=True,
    )


def _renew(files: TlsFiles, names: list[str], settings: Settings, console: Console) -> None:
    names = names or list(read_certificate(files.certificate).names)
    server = issue_to_server(_authority(files), [*names, *_THIS_MACHINE], datetime.now(UTC))
    _keep(files.certificate, files.key, server)
    _tell(console, "node", files.certificate)
    if running_pid(settings) is not None:
        console.print("The node takes it up when it is started anew: ./hilum down, ./hilum up")


def _issue(files: TlsFiles, name: str, console: Console) -> None:
    issued = issue_to_client(_authority(files), name, datetime.now(UTC))
    files.clients.mkdir(exist_ok=True, mode=0o700)
    certificate = files.clients / f"{name}.crt"
    _keep(certificate, files.clients / f"{name}.key", issued)
    _tell(console, "client", certificate)
    console.print(f"Give it, its key beside it and {files.authority} to {name}.", soft_wrap=True)


def _show(files: TlsFiles, console: Console, *, as_json: bool) -> int:
    found = [(what, file, read_certificate(file)) for what, file in certificates(files) if file.is_file()]
    if as_json:
        told = [{"what": what, "file": str(file), **asdict(one), "state": _state(one)} for what, file, one in found]
        console.print_json(json.dumps(told))
    else:
        for what, file, _ in found:
            _tell(console, what, file)
        if not found:
            console.print(f"There is none in {files.folder}: ./hilum tls init NAMES...", soft_wrap=True)
    return 1 if any(_state(one) == "expired" for _, _, one in found) else 0


def _tell(console: Console, what: str, file: Path) -> None:
    found = read_certificate(file)
    style = {"valid": "", "expires soon": "yellow", "expired": "bold red"}[_state(found)]
    console.print(f"{what:10} {file}", soft_wrap=True)
    console.print(f"{'':10} for {', '.join(found.names)}", soft_wrap=True)
    console.print(f"{'':10} {_state(found)}, until {found.last_day}", style=style)
    console.print(f"{'':10} SHA-256 {found.sha256}", soft_wrap=True)


def _state(found: Certificate) -> str:
    left = found.expires - time.time()
    return "expired" if left <= 0 else "expires soon" if left < EXPIRES_SOON_SECONDS else "valid"


def _authority(files: TlsFiles) -> Issued:
    if not files.authority_key.is_file():
        raise TlsUnusable(f"{files.authority_key} is not here: put it there for as long as it is needed")
    if files.authority_key.stat().st_mode & 0o077:
        raise TlsUnusable(f"{files.authority_key} can be read by others: begin anew with another authority")
    return Issued(files.authority.read_bytes(), files.authority_key.read_bytes())


def _keep(certificate: Path, key: Path, issued: Issued) -> None:
    # the certificate last: whoever finds it finds its key
    write_private(key, issued.key)
    write_private(certificate, issued.certificate)


def _names_of_this_machine() -> list[str]:
    return list(dict.fromkeys(name.lower() for name in (socket.getfqdn(), socket.gethostname()) if name))

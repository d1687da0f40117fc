"""A node that is closed as far as it can be, and callers with certificates of every kind."""

from __future__ import annotations

import ssl
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import Verification
from rich.console import Console
from running_node import Node, free_port, running_node

from models.phantom import chest
from orthanc_plugin.commands import modality
from orthanc_plugin.commands.authority import Issued, issue_to_client, make_authority
from orthanc_plugin.commands.modality import Caller, Exposure
from orthanc_plugin.commands.tls import tls
from orthanc_plugin.settings import Settings
from orthanc_plugin.trust import TlsFiles

NAME = "pacs.example.org"
PROXY_SECRET = "0123456789abcdef0123456789abcdef"
NEIGHBOUR = "CR1"


@contextmanager
def fortress(home: Path, kind: str = "default", **site: str) -> Iterator[Node]:
    """A ready node (`running_node`) with HTTPS, DICOM by mutual TLS, one neighbour and a proxy that it believes."""
    home.mkdir(parents=True)
    command(home, "init", names=[NAME])
    command(home, "client", name=NEIGHBOUR)
    closed = {
        "https": "on",
        "https_port": str(free_port()),
        "dicom_tls": "mutual",
        "modalities": f"{NEIGHBOUR}@127.0.0.1:{free_port()}",
        "check_called_ae": "true",
        "check_modality_host": "false" if kind == "cluster" else "true",
        "proxy_secret": PROXY_SECRET,
        "proxy_groups": "readers=radiologist pacs-admins=admin",
        "proxy_logout": "/oauth2/sign_out",
    }
    with running_node(kind, home, **{**closed, **site}) as running:
        yield running


def command(home: Path, do: str, **options: object) -> int:
    """Run one of ``./hilum tls``."""
    return tls(Settings(home=home), Namespace(do=do, **{"json": False, **options}), Console(quiet=True))


@dataclass(frozen=True)
class Callers:
    """Who calls the DICOM port, and with what."""

    home: Path

    def neighbour(self, ae_title: str = NEIGHBOUR) -> Caller:
        """With the certificate that the site gave to its neighbour."""
        context = _anything()
        clients = TlsFiles(self.home / "tls").clients
        context.load_cert_chain(clients / f"{NEIGHBOUR}.crt", clients / f"{NEIGHBOUR}.key")
        return Caller(ae_title, context)

    def without_certificate(self) -> Caller:
        """By TLS, and nameless."""
        return Caller(NEIGHBOUR, _anything())

    def in_clear(self) -> Caller:
        """Without TLS."""
        return Caller(NEIGHBOUR)

    def of_another_authority(self, folder: Path) -> Caller:
        """With a certificate that somebody else issued for the same name."""
        now = datetime.now(UTC)
        return Caller(NEIGHBOUR, _showing(folder, issue_to_client(make_authority("Another", now), NEIGHBOUR, now)))

    def expired(self, folder: Path) -> Caller:
        """With a certificate of the site's authority that ended long ago."""
        files = TlsFiles(self.home / "tls")
        authority = Issued(files.authority.read_bytes(), files.authority_key.read_bytes())
        then = datetime(2020, 1, 1, tzinfo=UTC)
        return Caller(NEIGHBOUR, _showing(folder, issue_to_client(authority, NEIGHBOUR, then)))


def _anything() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _showing(folder: Path, issued: Issued) -> ssl.SSLContext:
    (folder / "shown.crt").write_bytes(issued.certificate)
    (folder / "shown.key").write_bytes(issued.key)
    context = _anything()
    context.load_cert_chain(folder / "shown.crt", folder / "shown.key")
    return context


def echo(node: Node, caller: Caller, called: str = "") -> bool:
    """Whether a C-ECHO is answered."""
    entity = caller.entity()
    entity.add_requested_context(Verification)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = 15
    association = associate(entity, node, caller, called)
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return bool(status) and status.Status == 0


def associate(entity: AE, node: Node, caller: Caller, called: str = "") -> object:
    """Call the node."""
    settings = node.settings
    return entity.associate(
        "127.0.0.1", settings.dicom_port, ae_title=called or settings.ae_title, tls_args=caller.tls_args
    )


def radiograph(seed: str = "", **exposure: object) -> Dataset:
    """A small picture that is taken for a radiograph."""
    made = Exposure(seed=seed or f"attack/{time.time_ns()}")
    return modality.radiograph(chest(3).pixels, replace(made, **exposure))  # type: ignore[arg-type]


def store(node: Node, caller: Caller, ds: Dataset) -> bool:
    """Whether an image is taken."""
    settings = node.settings
    (outcome,) = modality.send([ds], "127.0.0.1", settings.dicom_port, settings.ae_title, caller)
    return outcome.accepted


def https(node: Node, **options: object) -> httpx.Client:
    """A client on another machine, so to speak, which knows the site's authority."""
    context = ssl.create_default_context(cafile=TlsFiles(node.settings.tls).authority)
    url = f"https://localhost:{node.settings.https_port}"
    return httpx.Client(base_url=url, verify=context, trust_env=False, timeout=30, **options)  # type: ignore[arg-type]


def is_alive(node: Node, caller: Caller) -> bool:
    """Whether the node still answers by both protocols, in the process that was started, and its worker is there."""
    status = node.http.get("/hilum/api/status").json()
    return echo(node, caller) and status["state"] == "ready"

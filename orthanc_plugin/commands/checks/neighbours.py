"""Who is given results: whether each destination answers, and whether our own Orthanc has labels."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx

from orthanc_plugin.archive.client import OrthancClient, OrthancUnavailable
from orthanc_plugin.commands.checks.check import Check, unknown, warning, well
from orthanc_plugin.credentials import load_worker_account
from orthanc_plugin.delivery import labels, storing, stow
from orthanc_plugin.delivery.failures import DeliveryFailed, ReceiverAway
from orthanc_plugin.integration import Destination
from orthanc_plugin.settings import Settings

_SECONDS = 5.0
_WAITS = "nothing is lost: what is owed waits; see its address, and whether it knows our AE title"


def check_neighbours(settings: Settings) -> Iterator[Check]:
    """Every destination, by the least that it understands: C-ECHO, a question to DICOMweb, a TCP connection."""
    for destination in settings.destinations:
        name = f"destination_{destination.name}"
        try:
            yield well(name, _ask(destination, settings))
        except DeliveryFailed as error:
            yield warning(name, f"{error}", _WAITS)
    if settings.labels is not None:
        yield _labels(settings)


def _ask(destination: Destination, settings: Settings) -> str:
    """What it answered.

    Raises
    ------
    DeliveryFailed
    """
    if destination.protocol == "dicom":
        storing.echo(destination, settings.ae_title)
        return f"{destination.ae_title} at {destination.host}:{destination.port} answers C-ECHO"
    if destination.protocol == "stow":
        with stow.client_of(destination) as client:
            try:
                code = client.get("/studies", params={"limit": "1"}, timeout=_SECONDS).status_code
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                raise ReceiverAway(f"it cannot be reached ({type(error).__name__})") from None
        if code in (401, 403):
            raise ReceiverAway(f"it refuses the password or token (HTTP {code})")
        return f"it answers (HTTP {code})"
    try:  # a message without a study would be a message all the same
        socket.create_connection((destination.host, destination.port), _SECONDS).close()
    except OSError as error:
        raise ReceiverAway(f"it cannot be reached ({type(error).__name__})") from None
    return f"{destination.host}:{destination.port} takes connections; whether it speaks HL7 only a message tells"


def _labels(settings: Settings) -> Check:
    try:
        own = load_worker_account(settings.credentials)
        with OrthancClient(settings.orthanc_address, own.user, own.password) as orthanc:
            has = labels.has_labels(orthanc)
    except (OSError, OrthancUnavailable, httpx.HTTPStatusError):
        return unknown("labels", "Orthanc does not tell whether it has labels", "./hilum up --detach")
    if has:
        return well("labels", "this Orthanc has them")
    return warning("labels", "this Orthanc has none, so none are set", "Orthanc 1.12 or later has them")

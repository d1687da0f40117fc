"""What comes in from outside: the ports, the AE title, and what the running node says of itself."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
from pynetdicom.sop_class import Verification

from orthanc_plugin.commands import node
from orthanc_plugin.commands.checks.check import Check, State, unknown, warning, well, wrong
from orthanc_plugin.commands.modality import caller_of
from orthanc_plugin.settings import Settings

_SECONDS = 5.0


def check_wires(settings: Settings) -> Iterator[Check]:
    """Ports and AE title: of a running node that they answer, of another that they are free."""
    pid = node.running_pid(settings)
    if pid is None:
        yield warning("node", "it does not run", "./hilum up --detach")
        for name, port in (("http_port", settings.http_port), ("dicom_port", settings.dicom_port)):
            yield _free(name, port)
        return
    yield well("node", f"it runs, process {pid}")
    yield _http(settings)
    yield _dicom(settings)
    yield from _told(settings)


def _free(name: str, port: int) -> Check:
    try:
        node.require_free(name, port)
    except node.NodeFailed as error:
        return wrong(name, str(error), f"ss -ltnp 'sport = :{port}' tells who has it")
    return well(name, f"{port} is free")


def _http(settings: Settings) -> Check:
    try:
        answer = httpx.get(f"{settings.http_url}/instances", timeout=_SECONDS, trust_env=False)
    except httpx.TransportError as error:
        return wrong("http_port", f"{settings.http_port} does not answer ({type(error).__name__})", "see orthanc.log")
    if answer.status_code not in (401, 403):
        advice = "./hilum down at once, and ./hilum up: it is ended when it lets a stranger in"
        return wrong("http_port", f"{settings.http_port} lets strangers in (HTTP {answer.status_code})", advice)
    return well("http_port", f"{settings.http_port} answers, and refuses strangers")


def _dicom(settings: Settings) -> Check:
    """A C-ECHO (PS3.4 annex A) to the node's own AE title."""
    caller = caller_of(settings)
    entity = caller.entity()
    entity.add_requested_context(Verification)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = _SECONDS
    association = entity.associate(
        "127.0.0.1", settings.dicom_port, ae_title=settings.ae_title, tls_args=caller.tls_args
    )
    try:
        status = association.send_c_echo() if association.is_established else None
    finally:
        if association.is_established:
            association.release()
    if status is not None and status.get("Status") == 0x0000:
        return well("dicom_port", f"{settings.dicom_port} answers C-ECHO as {settings.ae_title}")
    return wrong(
        "dicom_port", f"{settings.dicom_port} does not answer C-ECHO as {settings.ae_title}", "see orthanc.log"
    )


def _told(settings: Settings) -> Iterator[Check]:
    """What the node itself says is wrong with it."""
    found = node.status(settings)
    if not found.details:
        yield unknown("status", "the node does not tell how it is", "wait until it has started; see orthanc.log")
        return
    for problem in found.problems:
        state = State.WRONG if problem["stops"] else State.WARNING
        yield Check(f"problem_{problem['code']}", state, problem["text"], problem["what_to_do"])
    if found.state == "ready":
        yield well("status", "ready")
    else:
        yield warning("status", found.state, "see the problems above; ./hilum status asks again")

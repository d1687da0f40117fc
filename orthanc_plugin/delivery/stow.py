"""STOW-RS to a DICOMweb server (PS3.18 10.5), one object a request.

The rule: the object goes out byte for byte as Orthanc holds it; passwords and tokens are read from their files at each
delivery, so that a new one counts at once.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import httpx

from orthanc_plugin.archive.client import OrthancClient
from orthanc_plugin.archive.held_objects import HeldObject
from orthanc_plugin.delivery.failures import ReceiverAway, Refused, TakenLater
from orthanc_plugin.delivery.outgoing import Parcel, outgoing
from orthanc_plugin.delivery.tls import context_of
from orthanc_plugin.integration import Destination

_TIMES = httpx.Timeout(60.0, connect=10.0)
_FAILED, _REASON = "00081198", "00081197"  # Failed SOP Sequence, Failure Reason
_REFUSED = (400, 409, 413, 415)
_WRONG_ADDRESS = (401, 403, 404, 405, 407)
_DUPLICATE, _OUT_OF_RESOURCES = 0x0111, 0xA7


def send(orthanc: OrthancClient, parcel: Parcel) -> None:
    """Send what the receiver has not taken yet.

    Raises
    ------
    DeliveryFailed
    OrthancUnavailable
    """
    objects = outgoing(orthanc, parcel)
    refusals: list[str] = []
    if not objects:
        return
    with client_of(parcel.destination) as client:
        for one in objects:
            if refusal := _store(client, one, orthanc.file(one.orthanc_id)):
                refusals.append(refusal)
                continue
            parcel.take(one)
    if refusals:
        raise Refused(f"{len(refusals)} of {len(objects)} objects: {', '.join(sorted(set(refusals)))}")


def client_of(destination: Destination) -> httpx.Client:
    """A client that is logged in there.

    Raises
    ------
    ReceiverAway
        When a file of it cannot be read.
    """
    headers, auth = {}, None
    try:
        if destination.token_file:
            headers["Authorization"] = f"Bearer {Path(destination.token_file).read_text('utf-8').strip()}"
        elif destination.password_file:
            auth = (destination.user, Path(destination.password_file).read_text("utf-8").strip())
    except (OSError, ValueError) as error:
        raise ReceiverAway(f"its password or token cannot be read ({type(error).__name__})") from error
    trusted = context_of(destination) if destination.url.startswith("https:") else True
    return httpx.Client(
        base_url=destination.url.rstrip("/"),
        headers=headers,
        auth=auth,
        timeout=_TIMES,
        trust_env=False,
        verify=trusted,
    )


def _store(client: httpx.Client, one: HeldObject, file: bytes) -> str:
    """Send one object; why it will never be taken, or nothing.

    Raises
    ------
    ReceiverAway, TakenLater
    """
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
    try:
        answer = client.post(
            "/studies",
            content=head + file + f"\r\n--{boundary}--\r\n".encode(),
            headers={"Content-Type": content_type, "Accept": "application/dicom+json"},
        )
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ReceiverAway(f"it cannot be reached ({type(error).__name__})") from None
    code, reason = answer.status_code, _failure(answer, one)
    if (code in (200, 201, 202) and reason is None) or reason == _DUPLICATE:
        return ""
    told = f"HTTP {code}" if reason is None else f"HTTP {code}, failure reason 0x{reason:04X}"
    if code in _WRONG_ADDRESS:
        raise ReceiverAway(told)
    if reason is not None and reason >> 8 == _OUT_OF_RESOURCES:
        raise TakenLater(told)
    if code in _REFUSED or reason is not None:
        return told
    raise ReceiverAway(told)


def _failure(answer: httpx.Response, one: HeldObject) -> int | None:
    """The Failure Reason of the object; None when it does not stand among those that failed."""
    try:
        told: Any = answer.json()
        told = told[0] if isinstance(told, list) else told
        for failed in told.get(_FAILED, {}).get("Value", ()):
            named = failed.get("00081155", {}).get("Value", [one.sop_instance_uid])
            if one.sop_instance_uid in named:
                return int(failed.get(_REASON, {}).get("Value", [0x0110])[0])
    except (ValueError, AttributeError, LookupError, TypeError, json.JSONDecodeError):
        return None
    return None

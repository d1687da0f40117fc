"""Storage commitment (PS3.4 annex J): a PACS says of each object whether it will keep it.

The rule: Orthanc asks, for the answer (N-EVENT-REPORT) comes to its own port; what Orthanc forgot, because it was
started again or because another Orthanc got the answer, is asked once more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from orthanc_plugin.archive.client import OrthancClient, OrthancFailed
from orthanc_plugin.delivery.failures import ReceiverAway, TakenLater, Waiting
from orthanc_plugin.delivery.outgoing import Parcel
from orthanc_plugin.failpoints import reach
from orthanc_plugin.integration import Destination

_LOOK_SECONDS = 5.0  # between two looks for an answer
_ANSWER_SECONDS = 600.0  # after which it is asked again


@dataclass(frozen=True)
class Answer:
    """What a PACS committed to, and what it did not: SOP Instance UIDs."""

    committed: frozenset[str]
    failed: frozenset[str]


def ask(orthanc: OrthancClient, destination: Destination, objects: Mapping[str, str]) -> str:
    """Ask for commitment to objects (SOP Instance UID to SOP Class UID); returns the number of the question.

    Raises
    ------
    ReceiverAway
    OrthancUnavailable
    """
    instances = [{"SOPClassUID": sop_class, "SOPInstanceUID": uid} for uid, sop_class in sorted(objects.items())]
    path = f"/modalities/{destination.name}/storage-commitment"
    try:
        told = orthanc.ask("POST", path, json.dumps({"DicomInstances": instances}))
    except OrthancFailed as error:
        raise ReceiverAway("it cannot be asked to commit") from error
    except httpx.HTTPStatusError as error:
        raise ReceiverAway(f"Orthanc does not ask it to commit (HTTP {error.response.status_code})") from error
    if told is None:
        raise ReceiverAway("Orthanc does not know it: start the node again, so that it is told of the destination")
    return str(told["ID"])


def answer(orthanc: OrthancClient, question: str) -> Answer | None:
    """What was answered; None while nothing was.

    Raises
    ------
    LookupError
        When Orthanc does not know the question.
    OrthancUnavailable
    """
    told = orthanc.ask("GET", f"/storage-commitment/{question}")
    if told is None:
        raise LookupError(question)
    if told["Status"] == "Pending":
        return None
    committed = frozenset(str(one["SOPInstanceUID"]) for one in told.get("Success", ()))
    return Answer(committed, frozenset(str(one["SOPInstanceUID"]) for one in told.get("Failures", ())))


def settle(orthanc: OrthancClient, parcel: Parcel) -> None:
    """Have the receiver commit to everything that it took.

    Raises
    ------
    Waiting
        While it has not answered.
    DeliveryFailed
        When it does not commit: what it lacks is sent again.
    OrthancUnavailable
    """
    taken: dict[str, str] = parcel.taken.get("objects", {})
    open_ones = {uid: sop for uid, sop in taken.items() if uid not in set(parcel.taken.get("committed", ()))}
    if not open_ones:
        parcel.taken.pop("question", None)
        return
    asked = parcel.taken.get("question")
    found = None
    if asked is not None:
        try:
            found = answer(orthanc, asked["id"])
        except LookupError:
            asked = None
    if found is None:
        if asked is None or time.time() - asked["at"] > _ANSWER_SECONDS:
            parcel.taken["question"] = {"id": ask(orthanc, parcel.destination, open_ones), "at": time.time()}
            reach("commitment_asked")
        raise Waiting(_LOOK_SECONDS)
    del parcel.taken["question"]
    committed = found.committed & set(open_ones)
    parcel.taken["committed"] = sorted({*parcel.taken.get("committed", ()), *committed})
    if lacking := set(open_ones) - committed:
        for uid in lacking:
            taken.pop(uid)
        raise TakenLater(f"it does not commit to {len(lacking)} of {len(open_ones)} objects")

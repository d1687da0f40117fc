"""C-STORE to a PACS (PS3.4 annex B), by pynetdicom.

The rule: the data set goes out byte for byte as Orthanc holds it, in its own transfer syntax; Orthanc's own C-STORE
encodes it anew, tells one failure for all objects, and knows modalities that it was configured for alone. Where the
receiver takes none but Implicit VR Little Endian, the one that everybody must (PS3.5 10.1), it is encoded in that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from orthanc_plugin.archive.client import OrthancClient
from orthanc_plugin.archive.held_objects import HeldObject
from orthanc_plugin.delivery.failures import ReceiverAway, Refused, TakenLater
from orthanc_plugin.delivery.outgoing import Parcel, outgoing
from orthanc_plugin.delivery.tls import context_of
from orthanc_plugin.integration import Destination

_CONNECT_SECONDS, _ANSWER_SECONDS = 10.0, 60.0
_MOST_CONTEXTS = 128  # PS3.8 9.3.2.2: odd numbers from 1 to 255
# PS3.4 table B.2-1, PS3.7 annex C
_DUPLICATE = 0x0111
_NEVER = (0x0117, 0x0122)  # invalid object instance, SOP class not supported
_DOES_NOT_MATCH, _CANNOT_UNDERSTAND = 0xA900, 0xC000


def send(orthanc: OrthancClient, parcel: Parcel, ae_title: str) -> None:
    """Send what the receiver has not taken yet.

    Raises
    ------
    DeliveryFailed
    OrthancUnavailable
    """
    objects = outgoing(orthanc, parcel)
    if not objects:
        return
    refusals: list[str] = []
    wanted = list(dict.fromkeys((one.sop_class_uid, one.transfer_syntax_uid) for one in objects))
    with associated(parcel.destination, ae_title, wanted) as association:
        for one in objects:
            if refusal := _store(association, one, orthanc.file(one.orthanc_id)):
                refusals.append(refusal)
                continue
            parcel.take(one)
    if refusals:
        raise Refused(f"{len(refusals)} of {len(objects)} objects: {', '.join(sorted(set(refusals)))}")


def echo(destination: Destination, ae_title: str) -> None:
    """C-ECHO (PS3.4 annex A).

    Raises
    ------
    ReceiverAway
    """
    with associated(destination, ae_title, [(Verification, ImplicitVRLittleEndian)]) as association:
        status = association.send_c_echo().get("Status")
        if status != 0x0000:
            raise ReceiverAway("it does not answer C-ECHO" if status is None else f"C-ECHO: status 0x{status:04X}")


@contextmanager
def associated(destination: Destination, ae_title: str, wanted: Sequence[tuple[str, str]]) -> Iterator[Association]:
    """An association for these SOP classes with their transfer syntaxes; its end is released, or aborted.

    Raises
    ------
    ReceiverAway
    """
    _config.STORE_SEND_CHUNKED_DATASET = True  # a file goes out as it is
    entity = AE(ae_title=ae_title)
    entity.connection_timeout = _CONNECT_SECONDS
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _ANSWER_SECONDS
    implicit = [(sop_class, ImplicitVRLittleEndian) for sop_class, _ in wanted]
    for sop_class, syntax in list(dict.fromkeys([*wanted, *implicit]))[:_MOST_CONTEXTS]:
        entity.add_requested_context(sop_class, syntax)
    tls = (context_of(destination), destination.host) if destination.tls else None
    association = entity.associate(destination.host, destination.port, ae_title=destination.ae_title, tls_args=tls)
    if not association.is_established:
        raise ReceiverAway(_why_not(association))
    done = False
    try:
        yield association
        done = True
    finally:
        if association.is_established:
            (association.release if done else association.abort)()


def _why_not(association: Association) -> str:
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = "" if answer is None else f" ({answer.reason_str})"
        return f"it rejects the association{reason}"
    if association.is_aborted:
        return "it cannot be reached, or ends the association at once"
    return "it does not answer"


def _store(association: Association, one: HeldObject, file: bytes) -> str:
    """Send one object; why it will never be taken, or nothing.

    Raises
    ------
    ReceiverAway, TakenLater
    """
    accepted = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
    if not association.is_established:
        raise ReceiverAway("it ended the association")
    if (one.sop_class_uid, one.transfer_syntax_uid) in accepted:
        with tempfile.NamedTemporaryFile(prefix="hilum-", suffix=".dcm") as kept:
            Path(kept.name).write_bytes(file)
            status = association.send_c_store(kept.name).get("Status")
    elif (one.sop_class_uid, ImplicitVRLittleEndian) in accepted:
        try:
            status = association.send_c_store(dcmread(BytesIO(file))).get("Status")
        except ValueError:  # compressed
            return "it does not take the transfer syntax"
    else:
        return "it does not take the SOP class"
    if status is None:
        raise ReceiverAway("it ended the association, or did not answer")
    if status == 0x0000 or status >> 12 == 0xB or status == _DUPLICATE:  # B000: taken, with a warning
        return ""
    told = f"status 0x{status:04X}"
    if status in _NEVER or status >> 8 == _DOES_NOT_MATCH >> 8 or status >> 12 == _CANNOT_UNDERSTAND >> 12:
        return told
    raise TakenLater(told)

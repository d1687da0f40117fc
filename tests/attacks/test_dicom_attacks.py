"""Attacks on the DICOM port of a real node that names its neighbours and asks for certificates."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fortress import Callers, associate, echo, fortress, is_alive, radiograph, store
from pynetdicom import AE
from pynetdicom.sop_class import (
    DigitalXRayImageStorageForPresentation,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)
from running_node import Node

from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.modality import Caller
from orthanc_plugin.refused_calls import read_refused_calls

pytestmark = pytest.mark.node


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with fortress(tmp_path_factory.mktemp("closed") / "home") as made:
        yield made


@pytest.fixture
def callers(closed: Node) -> Iterator[Callers]:
    """And afterwards the node is as it was."""
    pid, made = node.running_pid(closed.settings), Callers(closed.settings.home)
    yield made
    assert is_alive(closed, made.neighbour())
    assert node.running_pid(closed.settings) == pid, "Orthanc is the same process"


def refused(closed: Node, reason: str) -> int:
    return read_refused_calls(closed.settings.refused_calls)[reason]


def test_a_neighbour_with_its_certificate_stores_and_is_answered(closed: Node, callers: Callers) -> None:
    ds = radiograph()
    assert store(closed, callers.neighbour(), ds)
    assert closed.wait_for(str(ds.StudyInstanceUID))["status"] == "done"


def test_the_node_s_own_programs_reach_it(closed: Node, callers: Callers) -> None:
    assert store(closed, modality.caller_of(closed.settings), radiograph())


@pytest.mark.parametrize("ae_title", ["NOBODY", "HILUM", "HILUM_MODALITY", "CR", "CR11", "ANY-SCP"])
def test_an_unknown_ae_title_is_refused_and_counted(closed: Node, callers: Callers, ae_title: str) -> None:
    before = refused(closed, "unknown_ae")
    assert not echo(closed, callers.neighbour(ae_title))
    assert not store(closed, callers.neighbour(ae_title), radiograph())
    closed.wait(lambda: refused(closed, "unknown_ae") == before + 2, "both calls to be counted", 5)
    told = closed.http.get("/hilum/metrics").text
    assert f'hilum_associations_refused_total{{reason="unknown_ae"}} {before + 2}.0' in told


def test_who_calls_another_ae_title_is_refused_and_counted(closed: Node, callers: Callers) -> None:
    before = refused(closed, "called_ae")
    assert not echo(closed, callers.neighbour(), called="ORTHANC")
    closed.wait(lambda: refused(closed, "called_ae") == before + 1, "the call to be counted", 5)


@pytest.mark.parametrize("kind", ["in_clear", "without_certificate", "of_another_authority", "expired"])
def test_a_wrong_certificate_or_none_is_refused_and_counted(
    closed: Node, callers: Callers, kind: str, tmp_path: Path
) -> None:
    before = refused(closed, "tls")
    made: Callable[..., Caller] = getattr(callers, kind)
    caller = made(tmp_path) if kind in ("of_another_authority", "expired") else made()
    assert not echo(closed, caller)
    assert not store(closed, caller, radiograph())
    closed.wait(lambda: refused(closed, "tls") >= before + 2, "both calls to be counted", 5)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tls_before_1_2_is_refused(closed: Node, callers: Callers, version: ssl.TLSVersion) -> None:
    caller = callers.neighbour()
    assert caller.tls is not None
    caller.tls.minimum_version = caller.tls.maximum_version = version
    caller.tls.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", closed.settings.dicom_port), timeout=10) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"),
        caller.tls.wrap_socket(plain),
    ):
        pass


def test_a_neighbour_may_find_and_a_program_of_the_node_may_only_store(closed: Node, callers: Callers) -> None:
    question = radiograph()[0x0020000D:0x00200010]
    question.QueryRetrieveLevel = "STUDY"
    for caller, may in ((callers.neighbour(), True), (modality.caller_of(closed.settings), False)):
        entity = caller.entity()
        entity.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
        association = associate(entity, closed, caller)
        assert association.is_established  # type: ignore[attr-defined]
        answers = association.send_c_find(question, StudyRootQueryRetrieveInformationModelFind)  # type: ignore[attr-defined]
        statuses = [status.get("Status") for status, _ in answers]
        assert (statuses[-1:] == [0x0000]) is may, statuses
        association.release()  # type: ignore[attr-defined]


def test_nobody_has_images_moved_to_an_address_that_is_not_known(closed: Node, callers: Callers) -> None:
    caller, question = callers.neighbour(), radiograph()[0x0020000D:0x00200010]
    question.QueryRetrieveLevel = "STUDY"
    entity = caller.entity()
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelMove)
    association = associate(entity, closed, caller)
    answers = association.send_c_move(question, "EVIL", StudyRootQueryRetrieveInformationModelMove)  # type: ignore[attr-defined]
    assert all(status.get("Status") not in (0x0000, 0xFF00) for status, _ in answers)
    association.release()  # type: ignore[attr-defined]


def tls_connection(closed: Node, callers: Callers) -> ssl.SSLSocket:
    caller = callers.neighbour()
    assert caller.tls is not None
    plain = socket.create_connection(("127.0.0.1", closed.settings.dicom_port), timeout=40)
    return caller.tls.wrap_socket(plain)


OVERSIZE = struct.pack(">BBI", 1, 0, 0xFFFFFFF0)  # A-ASSOCIATE-RQ of 4 GB (PS3.8 9.3.2)


@pytest.mark.parametrize(
    "sent",
    [OVERSIZE + b"\0" * 100_000, struct.pack(">BBI", 4, 0, 0x7FFFFFFF) + b"\1" * 100_000, b"\xff" * 100_000,
     struct.pack(">BBI", 1, 0, 68) + b"\0" * 68, struct.pack(">BBI", 1, 0, 10), b"GET / HTTP/1.1\r\n\r\n"],
    ids=["oversize association", "data before association", "noise", "empty association", "short", "http"],
)  # fmt: skip
def test_a_pdu_that_is_oversize_or_none_ends_its_connection_alone(closed: Node, callers: Callers, sent: bytes) -> None:
    before = resident(closed)
    with tls_connection(closed, callers) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except (ConnectionError, ssl.SSLError, TimeoutError):
            pass
    assert echo(closed, callers.neighbour())
    assert resident(closed) - before < 100, "MiB"


def test_a_pdu_beyond_what_was_negotiated_ends_its_association_alone(closed: Node, callers: Callers) -> None:
    """Orthanc says that it takes 16,384 bytes in a PDU; this one claims two gigabytes."""
    caller, before = callers.neighbour(), resident(closed)
    entity = AE(ae_title=caller.ae_title)
    entity.add_requested_context(DigitalXRayImageStorageForPresentation)
    entity.network_timeout = 10
    association = associate(entity, closed, caller)
    assert association.is_established  # type: ignore[attr-defined]
    raw = association.dul.socket.socket  # type: ignore[attr-defined]
    raw.settimeout(10)
    try:
        raw.sendall(struct.pack(">BBI", 4, 0, 0x7FFFFFFE) + struct.pack(">IBB", 0x7FFFFFFA, 1, 3))
        for _ in range(200):
            raw.sendall(b"\0" * 1_000_000)
    except (OSError, ssl.SSLError):
        pass
    association.abort()  # type: ignore[attr-defined]
    assert echo(closed, callers.neighbour())
    assert resident(closed) - before < 100, "MiB"


def test_associations_that_do_nothing_hold_up_nobody(closed: Node, callers: Callers) -> None:
    """Each has one of Orthanc's 16 threads, which look after each other's once all of them are idle."""
    idle = []
    try:
        for _ in range(40):
            caller = callers.neighbour()
            entity = caller.entity()
            entity.add_requested_context(Verification)
            idle.append(associate(entity, closed, caller))
        assert all(association.is_established for association in idle)  # type: ignore[attr-defined]
        began = time.monotonic()
        assert echo(closed, callers.neighbour())
        assert time.monotonic() - began < 10
    finally:
        for association in idle:
            association.abort()  # type: ignore[attr-defined]


@pytest.mark.timeout(200)
def test_a_connection_that_says_nothing_holds_up_others_for_a_minute_at_most(closed: Node, callers: Callers) -> None:
    """Orthanc greets one caller after the other, and waits for their first word; no setting shortens it."""
    with socket.create_connection(("127.0.0.1", closed.settings.dicom_port)):
        time.sleep(0.5)
        began = time.monotonic()
        closed.wait(lambda: echo(closed, callers.neighbour()), "an answer", 120)
        assert time.monotonic() - began < 90
        assert closed.http.get("/hilum/api/status").json()["state"] == "ready", "HTTP and the worker go on"


def resident(closed: Node) -> float:
    """MiB of memory that Orthanc has in hand."""
    status = Path(f"/proc/{node.running_pid(closed.settings)}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024

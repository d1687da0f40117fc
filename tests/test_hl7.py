"""HL7 v2 messages: what a text may hold, what a receiver answers, and what a library's strict parser makes of them."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from receivers import closed_port, ris

from orthanc_plugin.delivery import hl7, observations
from orthanc_plugin.delivery.failures import DeliveryFailed, ReceiverAway, Refused, TakenLater
from orthanc_plugin.delivery.outgoing import Parcel
from orthanc_plugin.integration import Destination

FINDING = {"key": "pneumothorax", "state": "present", "probability": 0.913, "laterality": "right"}
ABSENT = {"key": "effusion", "state": "absent", "probability": 0.02, "laterality": None}
SILENT = {"key": "hernia", "state": "not_evaluated", "probability": None, "laterality": None}
TASK: dict[str, Any] = {
    "study_instance_uid": "1.2.3", "patient_name": "Müller^Jan^K.^Dr.^jun.=ignored", "patient_id": "P|1",
    "patient_birth_date": "19500102", "patient_sex": "M", "accession_number": "A&1", "study_date": "20260102",
    "study_time": "101112.5", "completed_at": 1_790_000_000.0, "priority": "critical",
    "priority_reason": "Pneumothorax 91 %, right", "reason": None,
    "result": {"images": [{"sop_instance_uid": "1.2.3.4", "findings": [FINDING, ABSENT, SILENT]}]},
}  # fmt: skip
RECEIVER = Destination("ris", "hl7", "127.0.0.1", 1, application="RIS", facility="WARD")
NASTY = "A|B^C&D~E\\F\rOBX|99|ST|x||injected\nend\x0b\x1c\x00"


def parcel(port: int, task: dict[str, Any] = TASK, taken: dict[str, Any] | None = None, **how: Any) -> Parcel:
    destination = replace(RECEIVER, port=port, **how)
    return Parcel("1.2.3", destination, task, {} if taken is None else taken, lambda: None)


def lines(message: str, name: str) -> list[list[str]]:
    return [line.split("|") for line in message.split("\r") if line.startswith(name)]


def unescaped(text: str) -> str:
    meant = {"F": "|", "S": "^", "T": "&", "R": "~", "E": "\\", ".br": "\n"}
    return re.sub(r"\\(F|S|T|R|E|\.br)\\", lambda found: meant[found[1]], text)


def test_no_text_ends_a_field_a_segment_or_a_message() -> None:
    escaped = hl7.text(NASTY)
    assert not set(escaped) & set("|^&~\r\n\x0b\x1c\x00")
    assert unescaped(escaped) == "A|B^C&D~E\\F\nOBX|99|ST|x||injected\nend"
    task = {**TASK, "patient_name": NASTY, "patient_id": NASTY, "accession_number": NASTY, "priority_reason": NASTY}
    message = observations.message(RECEIVER, task, "1", corrects=False).decode()
    segments = [line[:3] for line in message.split("\r") if line]
    assert segments[:4] == ["MSH", "PID", "PV1", "OBR"]
    assert set(segments[4:]) == {"OBX"}
    assert [line[1] for line in lines(message, "OBX")] == [str(n) for n in range(1, len(segments) - 3)]


def test_the_message_says_what_the_ledger_says_and_what_it_is_worth() -> None:
    message = observations.message(RECEIVER, TASK, "CONTROL", corrects=False).decode()
    (head,), (patient,), (order,) = lines(message, "MSH"), lines(message, "PID"), lines(message, "OBR")
    assert (head[2], head[4], head[5], head[8], head[9], head[11]) == (
        "HILUM", "RIS", "WARD", "ORU^R01^ORU_R01", "CONTROL", "2.5.1",
    )  # fmt: skip
    assert head[17] == "UNICODE UTF-8"
    assert (patient[3], patient[5], patient[7], patient[8]) == (
        "P\\F\\1", "Müller^Jan^K.^jun.^Dr.", "19500102", "M",
    )  # fmt: skip
    assert (order[3], order[4], order[7], order[18], order[25]) == (
        "A\\T\\1", "399208008^Plain chest X-ray^SCT", "20260102101112", "A\\T\\1", "P",
    )  # fmt: skip
    observed = lines(message, "OBX")
    assert {line[11] for line in observed} == {"P"}
    assert "not reviewed" in observed[0][5]
    assert "not a medical device" in observed[0][5]
    told = {(line[3].split("^")[1], line[4]): line for line in observed}
    assert told["Pneumothorax", "1.1"][5].startswith("52101004^Present^SCT")
    assert told["Pneumothorax", "1.1"][8] == "A"
    assert told["Certainty of Finding", "1.1"][5] == "91.30"
    assert told["Laterality", "1.1"][5] == "24028007^Right^SCT"
    assert told["Pleural effusion", "1.2"][5].startswith("272519000^Absent")
    assert len(told["Pleural effusion", "1.2"]) == 12
    assert told["Pleural effusion", "1.2"][8] == ""
    assert told[next(name for name in told if name[1] == "1.3")][5].startswith("NOTEVALUATED^Not evaluated")


def test_a_strict_parser_takes_it() -> None:
    for task in (TASK, {**TASK, "patient_name": NASTY, "result": {"images": []}, "priority_reason": ""}):
        message = observations.message(RECEIVER, task, "CONTROL", corrects=True).decode()
        parsed = parse_message(message, validation_level=VALIDATION_LEVEL.STRICT, find_groups=True)
        assert parsed.validate()
        assert parsed.msh.msh_10.value == "CONTROL"


@pytest.mark.parametrize(("name", "encoding"), [("UNICODE UTF-8", "utf-8"), ("8859/1", "latin-1"), ("ASCII", "ascii")])
def test_it_is_written_in_the_character_set_that_it_names(name: str, encoding: str) -> None:
    message = observations.message(replace(RECEIVER, character_set=name), {**TASK, "patient_name": "Ümit^日"}, "1",
                                   corrects=False).decode(encoding)  # fmt: skip
    (patient,) = lines(message, "PID")
    expected = {"utf-8": "Ümit^日", "latin-1": "Ümit^?", "ascii": "?mit^?"}[encoding]
    assert patient[5] == expected


def test_what_was_told_is_not_told_again_and_what_differs_corrects_it() -> None:
    with ris() as receiver:
        taken: dict[str, Any] = {}
        observations.send(parcel(receiver.port, taken=taken))
        observations.send(parcel(receiver.port, {**TASK, "completed_at": 1_790_000_999.0}, taken))
        assert len(receiver.messages) == 1
        other = {**TASK, "priority": "routine", "priority_reason": "Nothing called present"}
        observations.send(parcel(receiver.port, other, taken))
        assert [lines(message, "OBR")[0][25] for message in receiver.messages] == ["P", "C"]
        assert {line[11] for line in lines(receiver.messages[1], "OBX")} == {"C"}
        observations.send(parcel(receiver.port, TASK, taken))  # what it said first holds again
        numbers = [lines(message, "MSH")[0][9] for message in receiver.messages]
        assert (len(set(numbers)), {len(number) for number in numbers}) == (3, {20})


def test_each_try_has_the_same_number_so_that_it_can_be_told_from_another_message() -> None:
    with ris() as receiver:
        answers = iter([None, "AE", "AA"])
        receiver.answer = lambda _message: next(answers)
        it = parcel(receiver.port)
        for kind in (ReceiverAway, TakenLater):
            with pytest.raises(kind):
                observations.send(it)
        observations.send(it)
        assert len(receiver.messages) == 3
        assert len(set(receiver.messages)) == 1


@pytest.mark.parametrize(
    ("code", "kind"), [("AR", Refused), ("CR", Refused), ("CE", TakenLater), ("??", TakenLater), (None, ReceiverAway)]
)
def test_what_is_not_accepted_is_not_struck_off(code: str | None, kind: type[DeliveryFailed]) -> None:
    with ris() as receiver:
        receiver.answer = lambda _message: code
        it = parcel(receiver.port)
        with pytest.raises(kind) as failed:
            observations.send(it)
        assert (type(failed.value), it.taken) == (kind, {})


def serving(behave: Callable[[socket.socket], None]) -> int:
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, listening:
            behave(connection)

    threading.Thread(target=serve, daemon=True).start()
    return int(listening.getsockname()[1])


def test_a_receiver_that_answers_nonsense_slowly_or_never_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hl7, "_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(hl7, "_LONGEST_ANSWER", 1000)

    def other_number(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"\x0bMSH|^~\\&|R\rMSA|AA|SOMETHING ELSE\r\x1c\r")

    def endless(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"x" * 100_000)

    silent = lambda connection: connection.recv(1) and threading.Event().wait(2)  # noqa: E731
    for behave, kind in ((other_number, TakenLater), (endless, ReceiverAway), (silent, ReceiverAway)):
        with pytest.raises(kind) as failed:
            observations.send(parcel(serving(behave)))
        assert "Müller" not in str(failed.value)
    with pytest.raises(ReceiverAway):
        observations.send(parcel(closed_port()))


def test_a_study_of_several_patients_is_not_told_under_one_name() -> None:
    with pytest.raises(Refused, match="several patients"):
        observations.send(parcel(1, {**TASK, "reason": "several_patients"}))


def test_it_speaks_tls_and_to_nobody_whom_it_does_not_trust(tmp_path: Any) -> None:
    import ssl

    from notice_servers import made_certificate

    certificate = made_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def answer(plain: socket.socket) -> None:
        try:
            with context.wrap_socket(plain, server_side=True) as connection:
                content = connection.recv(65_536).decode()
                number = content.split("|")[9]
                connection.sendall(f"\x0bMSH|^~\\&|R\rMSA|AA|{number}\r\x1c\r".encode())
        except OSError:
            pass

    it = parcel(serving(answer), tls=True, host="localhost")
    with pytest.raises(ReceiverAway):
        observations.send(it)
    trusting = parcel(serving(answer), tls=True, host="localhost", authority_file=str(certificate))
    observations.send(trusting)
    assert trusting.taken["messages"] == 1

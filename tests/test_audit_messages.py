"""Entries of the audit log as audit messages of DICOM: the schema of PS3.15 A.5.1, its codes, what is never in one."""

from __future__ import annotations

import base64
import re
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from orthanc_plugin.access.audit_messages import Sender, in_syslog, message_of

SCHEMA = Path(__file__).parent / "audit_message.rng"
SENDER = Sender("hilum-1.hospital.example", "Radiology")
ENTRY: dict[str, Any] = {
    "n": 7, "previous": "0" * 64, "time": "2026-11-21T08:00:00.123Z", "who": "anna", "role": "radiologist",
    "address": "10.1.2.3", "action": "view_study", "study": "1.2.840.1", "outcome": "done", "detail": "",
}  # fmt: skip
# entry, EventID, EventTypeCode, action, outcome
MEANT = [
    ({"action": "log_in", "study": ""}, "110114", "110122", "E", "0"),
    ({"action": "log_out", "study": ""}, "110114", "110123", "E", "0"),
    ({"action": "log_in", "study": "", "outcome": "refused", "who": ""}, "110114", "110122", "E", "4"),
    ({}, "110103", "", "R", "0"),
    ({"outcome": "refused"}, "110113", "110132", "E", "4"),
    ({"action": "view_worklist", "study": ""}, "110112", "", "E", "0"),
    ({"action": "search", "study": ""}, "110112", "", "E", "0"),
    ({"action": "view_admin", "study": ""}, "110101", "", "R", "0"),
    ({"action": "mark", "detail": "read"}, "110111", "", "U", "0"),
    ({"action": "retry", "study": "", "outcome": "nothing to do", "detail": "all: 0"}, "110111", "", "U", "0"),
    ({"action": "store", "detail": "POST"}, "110104", "", "C", "0"),
    ({"action": "store", "detail": "DELETE"}, "110105", "", "D", "0"),
    ({"action": "orthanc", "detail": "DELETE studies"}, "110105", "", "D", "0"),
    ({"action": "orthanc", "detail": "POST tools/create-archive", "study": ""}, "110104", "", "R", "0"),
    ({"action": "orthanc", "detail": "POST tools/reset", "study": ""}, "110113", "110131", "E", "0"),
    ({"action": "orthanc", "detail": "POST instances", "study": ""}, "110104", "", "C", "0"),
    ({"action": "orthanc", "detail": "POST studies"}, "110103", "", "U", "0"),
    ({"action": "deidentify", "address": "command line"}, "110106", "", "R", "0"),
    ({"action": "users role", "study": "", "detail": "hans", "address": "command line"}, "110113", "110136", "E", "0"),
    ({"action": "users add", "study": "", "detail": "hans"}, "110113", "110137", "E", "0"),
    ({"action": "audit_gap", "study": "", "outcome": "lost", "who": "", "role": ""}, "110113", "110133", "E", "8"),
    ({"action": "filters", "study": "", "detail": "save"}, "filters", "", "E", "0"),
    ({"who": 'x"}<!--&\x00\ud800\n', "action": "<b>", "detail": "\u2028]]>", "address": "::1"}, "<b>", "", "E", "0"),
]  # fmt: skip


def parsed(document: bytes) -> ElementTree.Element:
    return ElementTree.fromstring(document)  # noqa: S314  (ours)


def valid(document: bytes, tmp_path: Path) -> bool:
    file = tmp_path / "message.xml"
    file.write_bytes(document)
    checked = subprocess.run(["xmllint", "--noout", "--relaxng", SCHEMA, file], capture_output=True, check=False)
    return checked.returncode == 0


@pytest.mark.parametrize(("entry", "event", "kind", "action", "outcome"), MEANT)
def test_an_entry_is_the_event_that_dicom_has_for_it(  # noqa: PLR0917
    tmp_path: Path, entry: dict[str, Any], event: str, kind: str, action: str, outcome: str
) -> None:
    document = message_of(ENTRY | entry, SENDER)
    assert valid(document, tmp_path)
    root = parsed(document)
    about = root.find("EventIdentification")
    assert about is not None
    codes = {child.tag: child.get("csd-code") for child in about}
    assert (codes["EventID"], codes.get("EventTypeCode", "")) == (event, kind)
    assert (about.get("EventActionCode"), about.get("EventOutcomeIndicator")) == (action, outcome)
    assert about.get("EventDateTime") == ENTRY["time"]
    assert [one.get("UserIsRequestor") for one in root.iter("ActiveParticipant")] == ["true", "false"]
    studies = [
        one.get("ParticipantObjectID")
        for one in root.iter("ParticipantObjectIdentification")
        if one.find("ParticipantObjectIDTypeCode[@csd-code='110180']") is not None
    ]
    assert studies == [study for study in [(ENTRY | entry)["study"]] if study]


def test_the_schema_refuses_what_is_none(tmp_path: Path) -> None:
    document = message_of(ENTRY, SENDER)
    assert valid(document, tmp_path)
    for wrong in (b'EventOutcomeIndicator="1"', b'EventOutcomeIndicator="0" Patient="x"'):
        assert not valid(document.replace(b'EventOutcomeIndicator="0"', wrong), tmp_path)
    assert not valid(re.sub(rb"<ActiveParticipant .*</ActiveParticipant>", b"", document), tmp_path)


def test_every_action_that_the_node_records_has_an_event() -> None:
    package = Path(__file__).parent.parent / "orthanc_plugin"
    written = "".join(path.read_text() for path in package.rglob("*.py"))
    recorded = set(re.findall(r'\brecord(?:_view)?\(\s*(?:settings, )?"(\w+)"', written))
    assert recorded >= {"log_in", "mark", "store", "search", "retry", "deidentify"}
    for action in recorded | {f"users {what}" for what in ("add", "role", "password", "remove")}:
        root = parsed(message_of(ENTRY | {"action": action}, SENDER))
        code = root.find("EventIdentification/EventID")
        assert code is not None
        assert (code.get("codeSystemName") == "DCM") == (action != "filters"), action


def test_who_it_was_where_and_as_what_stands_in_it() -> None:
    root = parsed(message_of(ENTRY, SENDER))
    person, node = root.findall("ActiveParticipant")
    assert (person.get("UserID"), person.get("NetworkAccessPointID"), person.get("NetworkAccessPointTypeCode")) == (
        "anna", "10.1.2.3", "2",
    )  # fmt: skip
    assert [code.get("csd-code") for code in person.iter("RoleIDCode")] == ["radiologist"]
    source = root.find("AuditSourceIdentification")
    assert source is not None
    assert source.attrib == {"AuditSourceID": SENDER.source, "AuditEnterpriseSiteID": "Radiology"}
    assert node.get("UserID") == SENDER.source
    local = parsed(message_of(ENTRY | {"address": "command line", "who": ""}, SENDER))
    assert "NetworkAccessPointID" not in local.findall("ActiveParticipant")[0].attrib
    assert local.findall("ActiveParticipant")[0].get("UserID") == "unknown"


def test_an_alert_says_what_was_refused() -> None:
    root = parsed(message_of(ENTRY | {"outcome": "refused", "detail": "role"}, SENDER))
    detail = root.find("ParticipantObjectIdentification/ParticipantObjectDetail[@type='Alert Description']")
    assert detail is not None
    assert base64.b64decode(detail.get("value", "")) == b"view_study: refused: role"


def test_no_patient_is_an_object_and_no_question_is_told() -> None:
    for entry in ({}, {"action": "search"}, {"action": "view_worklist"}):
        root = parsed(message_of(ENTRY | entry, SENDER))
        for one in root.iter("ParticipantObjectIdentification"):
            assert (one.get("ParticipantObjectTypeCode"), one.get("ParticipantObjectTypeCodeRole")) == ("2", "3")
        assert [one.text for one in root.iter("ParticipantObjectQuery")] in ([], [None])


def test_a_frame_of_syslog_has_what_rfc_5424_wants() -> None:
    framed = in_syslog(ENTRY, Sender("node of Zürich\n<1>", ""), 42)
    head, _, document = framed.partition(b"\xef\xbb\xbf")
    assert head == (b'<85>1 2026-11-21T08:00:00.123Z node_of_Z_rich_<1> hilum 42 DICOM+RFC3881 [meta sequenceId="7"] ')
    assert document == message_of(ENTRY, Sender("node of Zürich\n<1>", ""))
    assert in_syslog(ENTRY | {"outcome": "refused"}, SENDER, 1).startswith(b"<84>1 ")
    assert in_syslog(ENTRY | {"outcome": "lost"}, SENDER, 1).startswith(b"<83>1 ")

"""An entry of the audit log as an audit message of DICOM (PS3.15 A.5), in a frame of syslog (RFC 5424).

The rule: a message says what the entry says, in the codes of PS3.16 CID 400, 401 and 402, and in 99HILUM where those
have none. A patient is never an object of it, and the question of a query never stands in it: the log has neither.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

_DCM, _OURS = "DCM", "99HILUM"
_STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"  # PS3.4 C.6.2
_FACILITY, _NOTICE, _WARNING, _ERROR = 10, 5, 4, 3  # of RFC 5424: security/authorization; severities
_SUCCESS, _MINOR, _SERIOUS = "0", "4", "8"  # Event Outcome Indicator, PS3.15 A.5.1
_SYSTEM_OBJECT, _REPORT, _RESOURCE = "2", "3", "13"  # Participant Object Type Code, and its roles
_SEVERITIES = {_SUCCESS: _NOTICE, _MINOR: _WARNING, _SERIOUS: _ERROR}
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2
_NOT_IN_SYSLOG = re.compile(r"[^!-~]")


@dataclass(frozen=True)
class Sender:
    """Who sends: what a collector knows this node by.

    Parameters
    ----------
    source
        Audit Source ID; also the HOSTNAME of syslog.
    site
        Audit Enterprise Site ID; empty: none.
    """

    source: str
    site: str = ""


@dataclass(frozen=True)
class _Code:
    value: str
    meaning: str
    scheme: str = _DCM


_APPLICATION = _Code("110150", "Application")
_SOURCE, _DESTINATION = _Code("110153", "Source Role ID"), _Code("110152", "Destination Role ID")


@dataclass(frozen=True)
class _Event:
    """What an entry is to DICOM.

    Parameters
    ----------
    code, kind
        Event ID (CID 400) and Event Type Code (CID 401).
    action
        Event Action Code: C, R, U, D or E.
    asks, is_asked
        What whoever did it is to the event, and the node (CID 402).
    """

    code: _Code
    kind: _Code | None
    action: str
    asks: _Code | None = None
    is_asked: _Code = _APPLICATION


_INSTANCES_ACCESSED = _Code("110103", "DICOM Instances Accessed")
_AUTHENTICATION = _Code("110114", "User Authentication")
_TRANSFERRED = _Code("110104", "DICOM Instances Transferred")
_QUERY = _Code("110112", "Query")
_ALERT = _Code("110113", "Security Alert")
_LOG_USED = _Code("110101", "Audit Log Used")
_RECORD = _Code("110111", "Procedure Record")
_USER_CHANGED = _Code("110137", "User security Attributes Changed")
_RESTRICTED = _Event(_ALERT, _Code("110132", "Use of Restricted Function"), "E")
_DELETED = _Event(_Code("110105", "DICOM Study Deleted"), None, "D")
_STORED = _Event(_TRANSFERRED, None, "C", _SOURCE, _DESTINATION)
_GIVEN_AWAY = _Event(_TRANSFERRED, None, "R", _DESTINATION, _SOURCE)
_ASKED = _Event(_QUERY, None, "E", _SOURCE, _DESTINATION)
_SERVER_CHANGED = _Event(_ALERT, _Code("110131", "Software Configuration"), "E")
_EVENTS = {
    "log_in": _Event(_AUTHENTICATION, _Code("110122", "Login"), "E"),
    "log_out": _Event(_AUTHENTICATION, _Code("110123", "Logout"), "E"),
    "view_study": _Event(_INSTANCES_ACCESSED, None, "R"),
    "view_worklist": _ASKED,
    "search": _ASKED,
    "view_admin": _Event(_LOG_USED, None, "R"),  # the log is on that page
    "mark": _Event(_RECORD, None, "U"),
    "read_elsewhere": _Event(_RECORD, None, "U"),
    "retry": _Event(_RECORD, None, "U"),
    "reread": _Event(_RECORD, None, "U"),
    "store": _STORED,
    "deidentify": _Event(_Code("110106", "Export"), None, "R"),
    "orthanc": _Event(_INSTANCES_ACCESSED, None, "U"),
    "users add": _Event(_ALERT, _USER_CHANGED, "E"),
    "users password": _Event(_ALERT, _USER_CHANGED, "E"),
    "users remove": _Event(_ALERT, _USER_CHANGED, "E"),
    "users role": _Event(_ALERT, _Code("110136", "Security Roles Changed"), "E"),
    "audit_gap": _Event(_ALERT, _Code("110133", "Audit Recording Stopped"), "E"),
    "audit_removed": _Event(_ALERT, _Code("110135", "Object Security Attributes Changed"), "E"),
}
_OF_WHOLE_STUDIES = ("create-archive", "create-media", "create-media-extended", "bulk-content")  # Orthanc's tools


def message_of(entry: Mapping[str, Any], sender: Sender) -> bytes:
    """The audit message of an entry (PS3.15 A.5.1), as XML in UTF-8."""
    said = {name: _text(entry.get(name)) for name in ("time", "who", "role", "address", "action", "study", "detail")}
    event, outcome = _event(entry), _outcome(entry)
    root = Element("AuditMessage")
    about = SubElement(root, "EventIdentification", EventActionCode=event.action, EventDateTime=said["time"],
                       EventOutcomeIndicator=outcome)  # fmt: skip
    _add_code(about, "EventID", event.code)
    if event.kind is not None:
        _add_code(about, "EventTypeCode", event.kind)
    if words := _words(entry):
        SubElement(about, "EventOutcomeDescription").text = words
    person = SubElement(root, "ActiveParticipant", UserID=said["who"] or "unknown", UserIsRequestor="true")
    if event.asks is not None:
        _add_code(person, "RoleIDCode", event.asks)
    if said["role"]:
        _add_code(person, "RoleIDCode", _Code(said["role"], said["role"], _OURS))
    if _is_address(said["address"]):
        person.set("NetworkAccessPointID", said["address"])
        person.set("NetworkAccessPointTypeCode", "2")
    node = SubElement(root, "ActiveParticipant", UserID=_text(sender.source), UserIsRequestor="false")
    _add_code(node, "RoleIDCode", event.is_asked)
    source = SubElement(root, "AuditSourceIdentification", AuditSourceID=_text(sender.source))
    if sender.site:
        source.set("AuditEnterpriseSiteID", _text(sender.site))
    SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})  # application server process
    for made in _objects(event, said["study"], words, sender):
        root.append(made)
    document: bytes = tostring(root, "utf-8")
    return b'<?xml version="1.0" encoding="UTF-8"?>' + document


def in_syslog(entry: Mapping[str, Any], sender: Sender, process_id: int) -> bytes:
    """The message in a frame of RFC 5424; sequenceId is the number of the entry, the same however often it is sent."""
    priority = 8 * _FACILITY + _SEVERITIES[_outcome(entry)]
    host = _NOT_IN_SYSLOG.sub("_", sender.source)[:255] or "-"
    number = entry.get("n", 0)
    head = f"<{priority}>1 {_text(entry.get('time'))} {host} hilum {process_id} DICOM+RFC3881"
    framed = f'{head} [meta sequenceId="{number}"] '.encode("ascii", "replace")
    return framed + b"\xef\xbb\xbf" + message_of(entry, sender)


def _event(entry: Mapping[str, Any]) -> _Event:
    action, detail = str(entry.get("action")), str(entry.get("detail"))
    event = _EVENTS.get(action)
    if entry.get("outcome") == "refused" and (event is None or event.code != _AUTHENTICATION):
        return _RESTRICTED
    if action in ("store", "orthanc") and detail.startswith("DELETE"):
        return _DELETED
    if action == "orthanc" and detail.endswith(_OF_WHOLE_STUDIES):
        return _GIVEN_AWAY
    if action == "orthanc" and not entry.get("study"):
        return _STORED if detail == "POST instances" else _SERVER_CHANGED
    return event or _Event(_Code(_text(action), _text(action), _OURS), None, "E")


def _outcome(entry: Mapping[str, Any]) -> str:
    return {"refused": _MINOR, "lost": _SERIOUS}.get(str(entry.get("outcome")), _SUCCESS)


def _words(entry: Mapping[str, Any]) -> str:
    """Action, outcome and detail, as the log has them."""
    parts = (entry.get("action"), entry.get("outcome"), entry.get("detail"))
    return _text(": ".join(str(part) for part in parts if part))


def _objects(event: _Event, study: str, words: str, sender: Sender) -> Iterator[Element]:
    """What it was done to (PS3.15 A.5.3): a study, what was asked for, the audit log, or what an alert is about."""
    if event.code == _QUERY:
        made = _object(_STUDY_ROOT_FIND, _REPORT, _Code("110181", "SOP Class UID"))
        SubElement(made, "ParticipantObjectQuery").text = ""  # it may name a patient
        yield made
    elif event.code == _LOG_USED:
        made = _object("urn:hilum:audit", _RESOURCE, _Code("12", "URI", "RFC-3881"))
        SubElement(made, "ParticipantObjectName").text = "Security Audit Log"
        yield made
    elif event.code == _ALERT:
        made = _object(_text(sender.source), _RESOURCE, _Code("110182", "Node ID"))
        SubElement(made, "ParticipantObjectName").text = _text(sender.source)
        value = base64.b64encode(words.encode()).decode()
        SubElement(made, "ParticipantObjectDetail", type="Alert Description", value=value)
        yield made
    if study:
        made = _object(study, _REPORT, _Code("110180", "Study Instance UID"))
        SubElement(made, "ParticipantObjectName").text = "Study"  # never the patient's
        yield made


def _object(identifier: str, role: str, kind: _Code) -> Element:
    made = Element("ParticipantObjectIdentification", ParticipantObjectID=identifier,
                   ParticipantObjectTypeCode=_SYSTEM_OBJECT, ParticipantObjectTypeCodeRole=role)  # fmt: skip
    _add_code(made, "ParticipantObjectIDTypeCode", kind)
    return made


def _add_code(parent: Element, name: str, code: _Code) -> None:
    SubElement(parent, name, {"csd-code": code.value, "codeSystemName": code.scheme, "originalText": code.meaning})


def _text(value: object) -> str:
    """A text as XML may hold it."""
    return _NOT_IN_XML.sub("\ufffd", str(value or ""))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

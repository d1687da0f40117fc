"""What an HL7 receiver is told of a study: ORU^R01 with the codes of the DICOM reports.

The rule: the first message on a study is preliminary (P), what differs later corrects it (C), and nothing is ever
final, for no person has looked at it; the message says so. It is made from the ledger alone and is the same for every
try: the Message Control ID follows from what is said, so that a receiver can tell a message that came twice.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from pydicom.sr.coding import Code

from dicom_sr import codes
from models.findings import FindingState, Laterality, Priority
from orthanc_plugin.delivery import hl7
from orthanc_plugin.delivery.failures import Refused, TakenLater
from orthanc_plugin.delivery.outgoing import Parcel
from orthanc_plugin.integration import Destination
from orthanc_plugin.ledger.patients import has_several

NOTE = "AI result, not reviewed by a person. Research software, not a medical device. Not for diagnosis."
_VERSION, _LONGEST_ID = "2.5.1", 20
# coding schemes of DICOM (PS3.16 8) as HL7 table 0396 names them
_SYSTEMS = {"SCT": "SCT", "LN": "LN", "DCM": "DCM", "UCUM": "UCUM", "RADLEX": "RADLEX", "UMLS": "UML"}
_TAKEN, _LATER = ("AA", "CA"), ("AE", "CE")


def send(parcel: Parcel) -> None:
    """Tell what was not told yet.

    Raises
    ------
    DeliveryFailed
    """
    if has_several(parcel.task):
        raise Refused("images of several patients share its Study Instance UID: it is not told whose findings they are")
    said = digest(parcel.task)
    if parcel.taken.get("said") == said:
        return
    corrects = "said" in parcel.taken
    control_id = control_id_of(parcel.study_instance_uid, said, int(parcel.taken.get("messages", 0)))
    answer = hl7.exchange(parcel.destination, message(parcel.destination, parcel.task, control_id, corrects=corrects))
    told = hl7.acknowledgement(answer)
    if told.code in _LATER:
        raise TakenLater(f"acknowledged with {told.code}")
    if told.code not in _TAKEN:
        raise (
            Refused(f"acknowledged with {told.code}")
            if told.code in ("AR", "CR")
            else TakenLater("its answer is no acknowledgement")
        )
    if told.control_id != control_id:
        raise TakenLater("it acknowledged another message")
    parcel.taken.update(said=said, messages=int(parcel.taken.get("messages", 0)) + 1)


def control_id_of(study: str, said: str, number: int) -> str:
    """Message Control ID (MSH-10): 20 characters, the same for every try."""
    return hashlib.sha256(f"{study}/{said}/{number}".encode()).hexdigest()[:_LONGEST_ID].upper()


def digest(task: Mapping[str, Any]) -> str:
    """Of what the answer says, and of whom."""
    whose = [str(task[name]) for name in _WHOSE]
    return hashlib.sha256("\r".join([*whose, *_observations(task, "P")]).encode()).hexdigest()[:32]


_WHOSE = (
    "patient_name", "patient_id", "patient_birth_date", "patient_sex", "accession_number", "study_date", "study_time",
)  # fmt: skip


def message(destination: Destination, task: Mapping[str, Any], control_id: str, *, corrects: bool) -> bytes:
    """The message in its character set."""
    status, answered = "C" if corrects else "P", _moment(float(task["completed_at"] or 0.0))
    head = {
        3: "HILUM", 5: hl7.text(destination.application), 6: hl7.text(destination.facility), 7: answered,
        9: "ORU^R01^ORU_R01", 10: control_id, 11: destination.processing, 12: _VERSION,
        18: destination.character_set,
    }  # fmt: skip
    patient = {
        1: "1",
        3: hl7.components(task["patient_id"]),
        5: _name(task["patient_name"]),
        7: hl7.text(task["patient_birth_date"]),
        8: {"M": "M", "F": "F", "O": "O"}.get(task["patient_sex"], "U"),
    }
    order = {
        1: "1",
        3: hl7.components(task["accession_number"]),
        4: _coded(codes.PLAIN_CHEST_RADIOGRAPHY),
        7: hl7.text(f"{task['study_date']}{task['study_time']}".partition(".")[0]),
        18: hl7.text(task["accession_number"]),
        22: answered,
        24: "RAD",
        25: status,
    }
    lines = [hl7.segment("MSH", head), hl7.segment("PID", patient), hl7.segment("PV1", {1: "1", 2: "U"})]
    lines += [hl7.segment("OBR", order), *_observations(task, status)]
    return hl7.encode(lines, destination.character_set)


def _observations(task: Mapping[str, Any], status: str) -> Iterator[str]:
    """OBX: what it is worth, the study, its priority and why, then every finding of every image."""
    said: list[tuple[str, Code, str, str, dict[int, str]]] = [
        ("TX", codes.COMMENT, "", hl7.text(NOTE), {}),
        ("ST", _STUDY, "", hl7.text(task["study_instance_uid"]), {}),
        ("CWE", codes.PRIORITY, "", _coded(codes.PRIORITIES[Priority(task["priority"])]), {}),
    ]
    if task["priority_reason"]:
        said.append(("TX", codes.IMPRESSION, "", hl7.text(task["priority_reason"]), {}))
    read = [image for image in task["result"].get("images", ()) if image.get("findings")]
    for number, image in enumerate(read, 1):
        said.append(("ST", codes.SOURCE_IMAGE, str(number), hl7.text(image["sop_instance_uid"]), {}))
        for place, finding in enumerate(image["findings"], 1):
            said.extend(_finding(finding, f"{number}.{place}"))
    for number, (kind, concept, sub_id, value, more) in enumerate(said, 1):
        fields = {1: str(number), 2: kind, 3: _coded(concept), 4: sub_id, 5: value, 11: status}
        yield hl7.segment("OBX", {**fields, **more})


_STUDY = Code("110180", "DCM", "Study Instance UID")


def _finding(finding: Mapping[str, Any], sub_id: str) -> Iterator[tuple[str, Code, str, str, dict[int, str]]]:
    """The state of one finding, and its probability in percent."""
    try:
        concept = codes.finding_codes(finding["key"]).finding
    except KeyError:
        return
    state = FindingState(finding["state"])
    flag = {8: "A"} if state is FindingState.PRESENT else {}
    yield "CWE", concept, sub_id, _coded(codes.STATES[state]), flag
    if finding["laterality"]:
        yield "CWE", codes.LATERALITY, sub_id, _coded(codes.SIDES[Laterality(finding["laterality"])]), {}
    if finding["probability"] is not None:
        yield "NM", codes.CERTAINTY, sub_id, f"{100 * finding['probability']:.2f}", {6: _coded(codes.PERCENT)}


def _coded(concept: Code) -> str:
    scheme = _SYSTEMS.get(concept.scheme_designator, concept.scheme_designator)
    return hl7.components(concept.value, concept.meaning, scheme)


def _name(name: str) -> str:
    """XPN from PN (PS3.5 6.2.1): of its first group, with prefix and suffix in HL7's order."""
    family, given, middle, prefix, suffix = ([*name.partition("=")[0].split("^"), "", "", "", "", ""])[:5]
    return hl7.components(family, given, middle, suffix, prefix)


def _moment(at: float) -> str:
    """A time in UTC (HL7 DTM)."""
    return time.strftime("%Y%m%d%H%M%S+0000", time.gmtime(at))

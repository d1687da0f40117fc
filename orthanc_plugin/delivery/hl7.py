"""HL7 v2.5.1 messages: how text is escaped, segments are written, and an acknowledgement is read.

The rule: every text of a study goes through `text`, so that no name or description can end a field, a segment or a
message. Sending is small enough to be ours; the tests read what it writes with a library's parser.

Source: HL7 v2.5.1, 2.5 (message construction), 2.7 (escape sequences), 2.9.2 (acknowledgement), appendix C (MLLP).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from orthanc_plugin.delivery.failures import ReceiverAway
from orthanc_plugin.delivery.tls import context_of
from orthanc_plugin.integration import CHARACTER_SETS, Destination

_ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}
_SPECIAL = re.compile(r"[\\|^&~]")
_BREAKS, _CONTROLS = re.compile(r"\r\n|\r|\n"), re.compile(r"[\x00-\x1f\x7f]")
_BEGIN, _END = b"\x0b", b"\x1c\r"
_CONNECT_SECONDS, _ANSWER_SECONDS = 10.0, 60.0
_LONGEST_ANSWER = 1_000_000  # bytes

Field = str | Sequence[str]


def text(value: str, longest: int = 0) -> str:
    """A text as it may stand in a component; line breaks become ``\\.br\\``, other control characters are left out."""
    value = value[:longest] if longest else value
    escaped = _SPECIAL.sub(lambda found: _ESCAPES[found[0]], value)
    return _CONTROLS.sub("", _BREAKS.sub(r"\\.br\\", escaped))


def components(*values: str) -> str:
    """A field of several components, each escaped; empty ones at its end are left out."""
    return "^".join(map(text, values)).rstrip("^")


def segment(name: str, fields: dict[int, str]) -> str:
    """A segment from its fields by their numbers, escaped already; of MSH the first two are the separators."""
    last = max(fields, default=0)
    if name == "MSH":
        return "|".join(["MSH", "^~\\&", *(fields.get(number, "") for number in range(3, last + 1))])
    return "|".join([name, *(fields.get(number, "") for number in range(1, last + 1))])


def encode(segments: Sequence[str], character_set: str) -> bytes:
    """A message in its character set (HL7 table 0211); what that does not have becomes a question mark."""
    return "".join(f"{one}\r" for one in segments).encode(CHARACTER_SETS[character_set], "replace")


@dataclass(frozen=True)
class Acknowledgement:
    """What a receiver answered: its code (HL7 table 0008), and to which message."""

    code: str
    control_id: str


def acknowledgement(answer: bytes) -> Acknowledgement:
    """Read an answer; code and number are empty where it is none.

    Nothing else of it is looked at: a receiver may quote the patient in its reasons.
    """
    for one in re.split(r"[\r\n]+", answer.decode("latin-1")):
        if one.startswith("MSA") and len(one) > 4:
            fields = one.split(one[3])
            return Acknowledgement(fields[1].strip().upper(), fields[2].strip() if len(fields) > 2 else "")
    return Acknowledgement("", "")


def exchange(destination: Destination, message: bytes) -> bytes:
    """Send a message by MLLP, and wait for the answer.

    Raises
    ------
    ReceiverAway
    """
    try:
        with socket.create_connection((destination.host, destination.port), _CONNECT_SECONDS) as plain:
            plain.settimeout(_ANSWER_SECONDS)
            if not destination.tls:
                return _exchange(plain, message)
            with context_of(destination).wrap_socket(plain, server_hostname=destination.host) as encrypted:
                return _exchange(encrypted, message)
    except (OSError, ValueError) as error:
        raise ReceiverAway(f"it cannot be reached, or does not answer ({type(error).__name__})") from None


def _exchange(connection: socket.socket, message: bytes) -> bytes:
    connection.sendall(_BEGIN + message + _END)
    answer = b""
    while _END[:1] not in answer:
        piece = connection.recv(65_536)
        if not piece:
            raise ReceiverAway("it ended the connection without an answer")
        answer += piece
        if len(answer) > _LONGEST_ANSWER:
            raise ReceiverAway("its answer does not end")
    return answer.partition(_END[:1])[0].lstrip(_BEGIN)

"""What a site can set about its neighbours, as tables of ``hilum.toml``: destinations, routes, labels, retention,
collector.

The rule: off unless it is set; a key or value that cannot be used stops the start, and is named with its table. No
secret stands here: passwords, tokens and keys are named by their files. docs/integration.md shows every key with its
default, and a test holds it to that.

::

    TableInvalid    a table cannot be used; the message says what is allowed
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar
from urllib.parse import urlsplit

OBJECTS = (
    "measurement_report", "segmentation", "preliminary_report", "heat_map", "presentation_state", "key_objects",
)  # fmt: skip
IMAGES = "images"  # what the study was read from
PRIORITIES = ("critical", "urgent", "routine", "none")
PROTOCOLS = ("dicom", "stow", "hl7")
TRANSPORTS = ("tls", "tcp", "udp")
LABELS = "labels"  # the protocol, and the name, of what sets labels in our own Orthanc
CHARACTER_SETS = {"UNICODE UTF-8": "utf-8", "8859/1": "latin-1", "ASCII": "ascii"}  # HL7 table 0211
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_HOST = re.compile(r"[\w.-]{1,253}|[0-9a-fA-F:]{2,45}", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what Orthanc takes


class TableInvalid(Exception):
    """A table that cannot be used.

    Parameters
    ----------
    number
        Which of several tables of its name, from 0.
    key
        The key in it; empty when the table itself is at fault.
    """

    def __init__(self, message: str, number: int = 0, key: str = "") -> None:
        super().__init__(message)
        self.number, self.key = number, key


def _key(what: str, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"what": what}) if default is not MISSING else field(metadata={"what": what})


@dataclass(frozen=True)
class Destination:
    """Somebody who is given results."""

    name: str = _key("by which it is called in logs and metrics: a to z, 0 to 9, `-`, `_`")
    protocol: str = _key("`dicom` (C-STORE), `stow` (DICOMweb) or `hl7` (ORU^R01 by MLLP)")
    host: str = _key("`dicom`, `hl7`: where it listens", "")
    port: int = _key("`dicom`, `hl7`: TCP port", 0)
    ae_title: str = _key("`dicom`: its Application Entity Title; ours is the setting `ae_title`", "")
    url: str = _key("`stow`: what `/studies` is appended to", "")
    user: str = _key("`stow`: for HTTP Basic, with `password_file`", "")
    password_file: str = _key("`stow`: a file that holds the password", "")
    token_file: str = _key("`stow`: a file that holds a bearer token, instead", "")
    tls: bool = _key("`dicom`, `hl7`: whether to speak TLS", False)
    authority_file: str = _key("certificates by which its own is trusted; empty: those of this machine", "")
    certificate_file: str = _key("our certificate, where it asks for one (mutual TLS)", "")
    key_file: str = _key("the key of that certificate", "")
    objects: tuple[str, ...] = _key(
        "`dicom`, `stow`: what it is given; also `images`, from which they were read", OBJECTS
    )
    priorities: tuple[str, ...] = _key("studies of these AI priorities alone", PRIORITIES)
    calling_ae_titles: tuple[str, ...] = _key("studies with an image from one of these AE titles; empty: all", ())
    commitment: bool = _key("`dicom`: ask it to commit to what it took (storage commitment)", False)
    application: str = _key("`hl7`: Receiving Application (MSH-5)", "")
    facility: str = _key("`hl7`: Receiving Facility (MSH-6)", "")
    character_set: str = _key("`hl7`: `UNICODE UTF-8`, `8859/1` or `ASCII` (MSH-18)", "UNICODE UTF-8")
    processing: str = _key("`hl7`: Processing ID (MSH-11): `P`, `T` or `D`", "P")

    @property
    def sends_objects(self) -> bool:
        """Whether it is given DICOM objects."""
        return self.protocol in ("dicom", "stow")


@dataclass(frozen=True)
class Route:
    """A rule by which an image is read by some models, or by none; an empty condition holds for every image."""

    name: str = _key("by which results and worklist call the rule")
    bundles: tuple[str, ...] = _key("the bundles that run, of those that are active; `[]`: the image is not read")
    calling_ae_titles: tuple[str, ...] = _key("from where the image came (C-STORE)", ())
    study_description: tuple[str, ...] = _key("Study Description (0008,1030)", ())
    series_description: tuple[str, ...] = _key("Series Description (0008,103E)", ())
    body_part: tuple[str, ...] = _key("Body Part Examined (0018,0015)", ())
    station_name: tuple[str, ...] = _key("Station Name (0008,1010)", ())


@dataclass(frozen=True)
class Labels:
    """Which labels a study gets in Orthanc (1.12 and later); an empty one is not set."""

    critical: str = _key("its AI priority is critical", "ai-critical")
    urgent: str = _key("its AI priority is urgent", "ai-urgent")
    read: str = _key("an image of it has results", "ai-read")
    refused: str = _key("no image of it was read", "ai-refused")

    @property
    def all(self) -> tuple[str, ...]:
        """Every label that is ours to set and to take away."""
        return tuple(filter(None, (self.critical, self.urgent, self.read, self.refused)))


@dataclass(frozen=True)
class Retention:
    """Which studies are deleted in our own Orthanc: none without this table."""

    days: int = _key("so long after its last image a study may be deleted")
    committed_by: str = _key(
        "the destination that must commit to every object of the study, images included, at that time"
    )
    unread: bool = _key("whether studies are deleted that nobody has marked as read", False)


@dataclass(frozen=True)
class Collector:
    """Who is sent each entry of the audit log as an audit message of DICOM (PS3.15 A.5): nobody without this table."""

    host: str = _key("where it listens")
    port: int = _key("6514 is usual with TLS, 514 without", 6514)
    transport: str = _key("`tls` (RFC 5425), `tcp` or `udp`: syslog; the last two in clear", "tls")
    authority_file: str = _key("certificates by which its own is trusted; empty: those of this machine", "")
    certificate_file: str = _key("our certificate, where it asks for one (mutual TLS)", "")
    key_file: str = _key("the key of that certificate", "")
    close_notify: bool = _key("`tls`: believe that it took a batch only if it ends TLS in good order", True)
    source: str = _key("Audit Source ID, by which it knows this node; empty: the name of this machine", "")
    site: str = _key("Audit Enterprise Site ID", "")


_TABLES: dict[str, type[Any]] = {
    "destinations": Destination,
    "routes": Route,
    "labels": Labels,
    "retention": Retention,
    "collector": Collector,
}
TABLES = tuple(_TABLES)
_SEVERAL = ("destinations", "routes")
_T = TypeVar("_T")


def read_table(name: str, given: object) -> Any:
    """The value of one of `TABLES` as it is used: a tuple of several, or one, or None.

    Raises
    ------
    TableInvalid
    """
    kind = _TABLES[name]
    if name in _SEVERAL:
        if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
            raise TableInvalid(f"{name} is a list of tables: write [[{name}]] above each")
        made = tuple(_one(kind, one, number) for number, one in enumerate(given))
        _check_names(name, made)
        return made
    if not isinstance(given, Mapping):
        raise TableInvalid(f"{name} is a table: write [{name}] above it")
    return _one(kind, given, 0)


def check_together(destinations: tuple[Destination, ...], retention: Retention | None) -> None:
    """What one table says of another.

    Raises
    ------
    TableInvalid
    """
    if retention is not None:
        named = [one for one in destinations if one.name == retention.committed_by]
        if not named or not named[0].commitment:
            message = f"committed_by = {retention.committed_by!r}: name a destination that has commitment = true"
            raise TableInvalid(message, key="committed_by")


def line_of(text: str, table: str, number: int = 0, key: str = "") -> int | None:
    """The line of a TOML text at which a key of a table stands, or the table, counted from 1."""
    at, header = None, re.compile(rf"\s*\[\[?\s*{re.escape(table)}\s*\]\]?")
    met, inside = -1, False
    for place, line in enumerate(text.splitlines(), 1):
        if header.match(line):
            met, inside = met + 1, met + 1 == number
            at = place if inside else at
        elif re.match(r"\s*\[", line) and not re.match(r"\s*\[[^\]]*\]?\s*,?\s*$", line):
            inside = False
        elif inside and key and re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", line):
            return place
    return at


def in_words(table: str) -> Iterator[str]:
    """The rows of a table in Markdown, one for each key."""
    for one in fields(_TABLES[table]):
        yield f"| `{one.name}` | {_default(one)} | {one.metadata['what']} |"


def _default(one: Field[Any]) -> str:
    if one.default is MISSING:
        return "must be given"
    if isinstance(one.default, bool):
        return f"`{str(one.default).lower()}`"
    if isinstance(one.default, tuple):
        return "all of ours" if one.default == OBJECTS else "all" if one.default else "`[]`"
    return f"`{one.default}`" if one.default not in ("", 0) else ""


def _one(kind: type[_T], given: Mapping[str, Any], number: int) -> _T:
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise TableInvalid(f"unknown key {name!r}; known are {', '.join(known)}", number, name)
        values[name] = _value(known[name], value, number)
    for name, one in known.items():
        if one.default is MISSING and name not in values:
            raise TableInvalid(f"{name} is missing", number)
    made = kind(**values)
    for name, wrong in _WRONG[kind](made):
        given_as = "" if name == "url" else f" = {getattr(made, name)!r}"  # somebody may have put a password into it
        raise TableInvalid(f"{name}{given_as}: {wrong}", number, name)
    return made


def _value(one: Field[Any], value: object, number: int) -> Any:
    """A value of the kind that the key has."""
    wanted = str(one.type)
    if wanted.startswith("tuple"):
        if isinstance(value, list) and all(isinstance(each, str) and each.strip() for each in value):
            return tuple(each.strip() for each in value)
        raise TableInvalid(f"{one.name} = {value!r}: give a list of texts", number, one.name)
    if type(value).__name__ != wanted:
        kinds = {"str": "a text", "int": "a whole number", "bool": "true or false"}
        raise TableInvalid(f"{one.name} = {value!r}: give {kinds[wanted]}", number, one.name)
    return value.strip() if isinstance(value, str) else value


def _check_names(table: str, made: tuple[Any, ...]) -> None:
    for number, one in enumerate(made):
        if one.name in [earlier.name for earlier in made[:number]]:
            raise TableInvalid(f"name = {one.name!r}: there is one of this name already", number, "name")
        if table == "destinations" and one.name == LABELS:
            raise TableInvalid(f"name = {one.name!r}: this one is taken", number, "name")


def _wrong_destination(it: Destination) -> Iterator[tuple[str, str]]:
    if not _NAME.fullmatch(it.name):
        yield "name", "give 1 to 32 characters of a to z, 0 to 9, - and _"
    for name, allowed in _ALLOWED.items():
        if getattr(it, name) not in allowed:
            yield name, f"give one of {', '.join(allowed)}"
    for name, known in _LISTED.items():
        if unknown := sorted(set(getattr(it, name)) - set(known)):
            yield name, f"{unknown[0]!r} is none; known are {', '.join(known)}"
        if not getattr(it, name):
            yield name, "an empty list lets nothing through: leave it out for all"
    if it.commitment and it.protocol != "dicom":
        yield "commitment", "only a destination of the protocol dicom can commit"
    for name, other in (("user", "password_file"), ("certificate_file", "key_file")):
        if bool(getattr(it, name)) != bool(getattr(it, other)):
            yield name, f"{name} and {other} belong together"
    yield from _wrong_address(it)


_ALLOWED = {"protocol": PROTOCOLS, "character_set": tuple(CHARACTER_SETS), "processing": ("P", "T", "D")}
_LISTED = {"objects": (*OBJECTS, IMAGES), "priorities": PRIORITIES}


def _wrong_address(it: Destination) -> Iterator[tuple[str, str]]:
    if it.protocol == "stow":
        parts = urlsplit(it.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            yield "url", "give https://HOST/PATH, without a password in it"
        return
    if not _HOST.fullmatch(it.host):
        yield "host", "give the name or address of a host"
    if not 1 <= it.port <= 65535:
        yield "port", "give a number from 1 to 65535"
    if it.protocol == "dicom" and not _is_ae_title(it.ae_title):
        yield "ae_title", "give 1 to 16 ASCII characters without a backslash"


def _wrong_route(it: Route) -> Iterator[tuple[str, str]]:
    if not _NAME.fullmatch(it.name):
        yield "name", "give 1 to 32 characters of a to z, 0 to 9, - and _"


def _wrong_labels(it: Labels) -> Iterator[tuple[str, str]]:
    for one in fields(it):
        if (label := getattr(it, one.name)) and not _LABEL.fullmatch(label):
            yield one.name, "give 1 to 64 characters of a to z, 0 to 9, - and _, or nothing"


def _wrong_retention(it: Retention) -> Iterator[tuple[str, str]]:
    if not 1 <= it.days <= 36_500:
        yield "days", "give a number from 1 to 36500"


def _wrong_collector(it: Collector) -> Iterator[tuple[str, str]]:
    if not _HOST.fullmatch(it.host):
        yield "host", "give the name or address of a host"
    if not 1 <= it.port <= 65535:
        yield "port", "give a number from 1 to 65535"
    if it.transport not in TRANSPORTS:
        yield "transport", f"give one of {', '.join(TRANSPORTS)}"
    if bool(it.certificate_file) != bool(it.key_file):
        yield "certificate_file", "certificate_file and key_file belong together"
    if it.transport != "tls" and (it.authority_file or it.certificate_file):
        yield "transport", "certificates are for tls alone"


def _is_ae_title(text: str) -> bool:
    return 1 <= len(text) <= 16 and text.isascii() and text.isprintable() and "\\" not in text


_WRONG: dict[type[Any], Any] = {
    Destination: _wrong_destination,
    Route: _wrong_route,
    Labels: _wrong_labels,
    Retention: _wrong_retention,
    Collector: _wrong_collector,
}

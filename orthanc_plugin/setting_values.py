"""What the value of a setting may be: from what a file or the environment gives to what is used.

The rule: a value that cannot be used is refused with its name and what is allowed; what may be a secret is not
repeated.

::

    SettingsInvalid    a setting cannot be used
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from orthanc_plugin.integration import TABLES, TableInvalid, read_table


class SettingsInvalid(Exception):
    """A setting that cannot be used; the message names it, its value and what is allowed.

    Parameters
    ----------
    table, number, key
        Where a table is at fault: its name, which one of that name, from 0, and the key in it.
    """

    def __init__(self, message: str, table: str = "", number: int = 0, key: str = "") -> None:
        super().__init__(message)
        self.table, self.number, self.key = table, number, key


_BOUNDS: dict[str, tuple[float, float]] = {
    "http_port": (1, 65535),
    "dicom_port": (1, 65535),
    "https_port": (1, 65535),
    "threads": (0, 256),
    "minimum_age": (0, 120),
    "intake_seconds": (1, 600),
    "workers": (0, 64),
    "ray_cpus": (0.01, 256),
    "ray_gpus": (0, 16),
    "ray_studies": (1, 64),
    "ray_actors_least": (1, 1000),
    "ray_actors_most": (1, 1000),
    "study_seconds": (1, 3600),
    "memory_mb": (512, 1_000_000),
    "quiet_seconds": (0, 3600),
    "study_deadline_seconds": (1, 86_400),
    "reconcile_seconds": (1, 86_400),
    "lease_seconds": (2, 3600),
    "attempts": (1, 100),
    "deadline_hours": (0.01, 8760),
    "reserve_mb": (0, 10_000_000),
    "session_hours": (0.01, 168),
    "session_idle_minutes": (0.1, 10_080),
    "audit_mb": (1, 10_000),
    "log_mb": (1, 10_000),
    "log_files": (2, 1000),
    "waiting_limits_minutes": (0, 525_600),
    "claim_minutes": (0.1, 1440),
}
_CHOICES = {
    "https": ("off", "on", "mutual"),
    "dicom_tls": ("off", "on", "mutual"),
    "executor": ("processes", "ray"),
    "children": ("refuse", "caution"),
    "report_language": ("en", "de"),
    "runtime": ("auto", "torch", "openvino", "openvino-bf16", "openvino-int8", "cuda"),
}
_NAMES = {
    "outputs": ("preliminary_report", "heat_map", "presentation_state", "key_objects"),
    "expected_views": ("frontal", "lateral"),
}
_POSTGRESQL_URL = re.compile(r"postgresql(\+psycopg)?://[^\s]+", re.ASCII)
_MODALITY = re.compile(
    r"(?P<ae>[!-?A-\[\]-~][ -?A-\[\]-~]{0,15})@(?P<host>[\w.-]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})(?P<tls>/tls)?",
    re.ASCII,
)
_ROLES = ("technologist", "radiologist", "admin", "monitor")
_SECRET = re.compile(r"[\w+/=.-]{32,}", re.ASCII)
_PATH = re.compile(r"/(?!/)[\w/.-]*", re.ASCII)
_RAY_ADDRESS = re.compile(r"auto|[\w.-]+:\d+|\[[0-9a-fA-F:]+\]:\d+", re.ASCII)
_ORTHANC_URL = re.compile(r"https?://[\w.-]+(:\d+)?|https?://\[[0-9a-fA-F:]+\](:\d+)?", re.ASCII)


@dataclass(frozen=True)
class Modality:
    """A neighbour by DICOM: its AE title, and where the node finds it.

    Parameters
    ----------
    tls
        Whether the node calls it by TLS.
    """

    ae_title: str
    host: str
    port: int
    tls: bool


def parse_modality(text: str) -> Modality:
    """A neighbour as a site writes it: ``CR1@10.0.0.5:104``, or ``WS1@ws1.example:2762/tls``.

    Raises
    ------
    SettingsInvalid
    """
    parts = _MODALITY.fullmatch(text.strip())
    if parts is None or not 1 <= int(parts["port"]) <= 65535 or not parts["ae"].strip():
        raise SettingsInvalid(f"modalities: {text!r}: give AE@HOST:PORT, with /tls behind it where it is called by TLS")
    return Modality(parts["ae"].strip(), parts["host"].strip("[]"), int(parts["port"]), bool(parts["tls"]))


def parse_group(text: str) -> tuple[str, str]:
    """A group of a proxy, and the role that it has here.

    Raises
    ------
    SettingsInvalid
    """
    group, _, role = (part.strip() for part in text.rpartition("="))
    if not group or "," in group or role not in _ROLES:
        raise SettingsInvalid(f"proxy_groups: {text!r}: give GROUP=ROLE; roles are {', '.join(_ROLES)}")
    return group, role


def convert_value(name: str, value: object, default: object) -> Any:
    """The value of a setting as it is used.

    Parameters
    ----------
    default
        Its type is the setting's.

    Raises
    ------
    SettingsInvalid
    """
    if name in TABLES:
        return _table(name, value)
    if isinstance(default, Path | tuple):
        return Path(str(value)).expanduser().resolve() if isinstance(default, Path) else _several(name, value)
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise SettingsInvalid(f"{name} = {value!r}: give one of {', '.join(_CHOICES[name])}")
        return value
    if isinstance(default, bool):
        return _yes_or_no(name, value)
    if name in _TEXTS:
        return _TEXTS[name](value)
    return _number(name, value, type(default))


def _table(name: str, value: object) -> Any:
    try:
        return read_table(name, value)
    except TableInvalid as error:
        raise SettingsInvalid(f"{name}: {error}", name, error.number, error.key) from error


def _yes_or_no(name: str, value: object) -> bool:
    known: dict[object, bool] = {"true": True, "false": False}
    said = value if isinstance(value, bool) else known.get(value)
    if said is None:
        raise SettingsInvalid(f"{name} = {value!r}: give true or false")
    return said


def _several(name: str, value: object) -> tuple[Any, ...]:
    """The value of a setting that holds several."""
    if name == "waiting_limits_minutes":
        return _three_limits(name, value)
    names = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise SettingsInvalid(f"{name} = {value!r}: give a list of names")
    if name in _WRITTEN:
        return _entries(name, names)
    if name == "bundles" and not names:
        raise SettingsInvalid(f"{name} = {value!r}: give a list of bundle names")
    if name in _NAMES and (unknown := sorted(set(names) - set(_NAMES[name]))):
        raise SettingsInvalid(f"{name}: unknown name {unknown[0]!r}; known are {', '.join(_NAMES[name])}")
    return tuple(names)


def _entries(name: str, entries: list[str]) -> tuple[str, ...]:
    """Entries that have a form of their own, each with a name that no other has."""
    known = [_WRITTEN[name](entry) for entry in entries]
    if len(set(known)) < len(known):
        twice = next(entry for entry, one in zip(entries, known, strict=True) if known.count(one) > 1)
        raise SettingsInvalid(f"{name}: {twice!r} is named twice")
    return tuple(entry.strip() for entry in entries)


def _three_limits(name: str, value: object) -> tuple[float, ...]:
    given = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(given, list) or len(given) != 3:
        raise SettingsInvalid(f"{name} = {value!r}: give three numbers: critical, urgent, routine")
    limits = tuple(_number(name, one, float) for one in given)
    if list(limits) != sorted(limits):
        raise SettingsInvalid(f"{name} = {value!r}: what is more urgent cannot wait longer")
    return limits


def _postgresql_url(name: str, value: object) -> str:
    url = value.strip() if isinstance(value, str) else None
    if url is None or (url and not _POSTGRESQL_URL.fullmatch(url)):
        # the value may hold a password, so it is not repeated
        raise SettingsInvalid(f"{name}: give postgresql://USER:PASSWORD@HOST/DATABASE, or nothing for SQLite")
    return url


def _orthanc_url(value: object) -> str:
    url = value.strip().rstrip("/") if isinstance(value, str) else None
    if url is None or (url and not _ORTHANC_URL.fullmatch(url)):
        # somebody may have put a password into it, so it is not repeated
        raise SettingsInvalid("orthanc_url: give https://HOST or https://HOST:PORT, or nothing for this machine's")
    return url


def _ray_address(value: object) -> str:
    address = value.strip() if isinstance(value, str) else None
    if address is None or (address and not _RAY_ADDRESS.fullmatch(address)):
        raise SettingsInvalid(f"ray_address = {value!r}: give HOST:PORT of the head, or auto for this machine's node")
    return address


def _number(name: str, value: object, kind: type) -> Any:
    low, high = _BOUNDS[name]
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = kind(value)
    except ValueError as error:
        raise SettingsInvalid(f"{name} = {value!r}: give a number") from error
    if not low <= number <= high or (not isinstance(value, str) and number != value):
        raise SettingsInvalid(
            f"{name} = {value!r}: give {'a whole number' if kind is int else 'a number'} from {low:g} to {high:g}"
        )
    return number


def _ae_title(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value.strip()) <= 16 or "\\" in value or not value.isascii():
        raise SettingsInvalid(f"ae_title = {value!r}: give 1 to 16 ASCII characters without a backslash")
    return value.strip()


def _proxy_secret(value: object) -> str:
    secret = value.strip() if isinstance(value, str) else None
    if secret is None or (secret and not _SECRET.fullmatch(secret)):
        raise SettingsInvalid("proxy_secret: give 32 or more letters and digits, such as openssl rand -hex 32 makes")
    return secret


def _path(value: object) -> str:
    if not isinstance(value, str) or (value and not _PATH.fullmatch(value)):
        raise SettingsInvalid(f"proxy_logout = {value!r}: give a path of this site, such as /oauth2/sign_out")
    return value


_TEXTS: dict[str, Callable[[object], str]] = {
    "ae_title": _ae_title,
    "ledger_url": partial(_postgresql_url, "ledger_url"),
    "index_url": partial(_postgresql_url, "index_url"),
    "orthanc_url": _orthanc_url,
    "ray_address": _ray_address,
    "proxy_secret": _proxy_secret,
    "proxy_logout": _path,
}
_WRITTEN: dict[str, Callable[[str], str]] = {  # to what must differ from entry to entry
    "modalities": lambda entry: parse_modality(entry).ae_title.upper(),  # Orthanc compares them so
    "proxy_groups": lambda entry: parse_group(entry)[0],
}

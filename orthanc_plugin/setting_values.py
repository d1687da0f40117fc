"""The values that a setting may have: from what a file or the environment gives to what is used.

The rule: a bad value is named with what is allowed; one that may hold a password is not repeated.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


class SettingsInvalid(Exception):
    """A setting that cannot be used; the message names it, its value and what is allowed."""


_BOUNDS: dict[str, tuple[float, float]] = {
    "http_port": (1, 65535),
    "dicom_port": (1, 65535),
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
    "executor": ("processes", "ray"),
    "children": ("refuse", "caution"),
    "report_language": ("en", "de"),
    "runtime": ("auto", "torch", "openvino", "openvino-bf16", "openvino-int8", "cuda"),
}
_NAMES = {
    "outputs": ("preliminary_report", "heat_map", "presentation_state", "key_objects"),
    "expected_views": ("frontal", "lateral"),
}
_RAY_ADDRESS = re.compile(r"auto|[\w.-]+:\d+|\[[0-9a-fA-F:]+\]:\d+", re.ASCII)
_POSTGRESQL_URL = re.compile(r"postgresql(\+psycopg)?://[^\s]+", re.ASCII)
_ORTHANC_URL = re.compile(r"https?://[\w.-]+(:\d+)?|https?://\[[0-9a-fA-F:]+\](:\d+)?", re.ASCII)


def converted(name: str, value: object, default: object) -> Any:
    """The value of a setting as it is used, from what the file or the environment gives.

    Raises
    ------
    SettingsInvalid
        With the value and what is allowed.
    """
    if isinstance(default, Path):
        return Path(str(value)).expanduser().resolve()
    if isinstance(default, tuple):
        return _several(name, value)
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise SettingsInvalid(f"{name} = {value!r}: give one of {', '.join(_CHOICES[name])}")
        return value
    if isinstance(default, str):
        return _text(name, value)
    return _number(name, value, type(default))


def _text(name: str, value: object) -> str:
    """The value of a setting that is a text of its own kind."""
    if name == "orthanc_url":
        return _orthanc_url(value)
    if name == "ray_address":
        return _ray_address(value)
    if name.endswith("_url"):
        return _postgresql_url(name, value)
    if not isinstance(value, str) or not 1 <= len(value.strip()) <= 16 or "\\" in value or not value.isascii():
        raise SettingsInvalid(f"{name} = {value!r}: give 1 to 16 ASCII characters without a backslash")
    return value.strip()


def _several(name: str, value: object) -> tuple[Any, ...]:
    """The value of a setting that holds several."""
    if name == "waiting_limits_minutes":
        return _three_limits(name, value)
    names = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise SettingsInvalid(f"{name} = {value!r}: give a list of names")
    if name == "bundles" and not names:
        raise SettingsInvalid(f"{name} = {value!r}: give a list of bundle names")
    if name in _NAMES and (unknown := sorted(set(names) - set(_NAMES[name]))):
        raise SettingsInvalid(f"{name}: unknown name {unknown[0]!r}; known are {', '.join(_NAMES[name])}")
    return tuple(names)


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

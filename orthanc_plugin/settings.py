"""What a site can set: read once from ``hilum.toml`` and the environment, validated, then frozen.

The rule: a bad value stops the start and says which, so that it never meets a patient. The environment
(``HILUM_<NAME>``, or ``HILUM_<NAME>_FILE``: a file that holds the value, for what is secret) wins over ``hilum.toml``,
that over what a cluster of this machine has in ``cluster.toml``, and that over the defaults below.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent


class SettingsInvalid(Exception):
    """A setting that cannot be used; the message names it, its value and what is allowed."""


@dataclass(frozen=True)
class Settings:
    """Everything that a site can set.

    Parameters
    ----------
    home
        Folder of everything that the node writes: images, ledger, logs, passwords.
    http_port, dicom_port
        TCP ports of Orthanc; HTTP answers to this machine only.
    ae_title
        Application Entity Title of the node (PS3.5 AE: at most 16 characters).
    bundles
        The model bundles to run, in this order; folders below ``models/``.
    threads
        Threads that one inference may use; 0 means one for each processor core. One is the default because a
        second one that has to wait for a busy core makes an inference ten times slower, not faster.
    minimum_age
        Years; younger patients are refused, for the models were never validated on them.
    runtime
        What runs the networks (``models.runtime.Runtime``).
    children
        ``refuse``, or ``caution``: read younger patients all the same and say so.
    outputs
        What is stored beside the measurement report and the Segmentation: ``preliminary_report``, ``heat_map``
        (Secondary Capture of what was called present and localised), ``presentation_state`` and ``key_objects``, which
        OHIF does not show.
    report_language
        Of the preliminary report: ``en`` or ``de``. A file ``report.<language>.toml`` in `home` replaces sentences.
    intake_seconds
        How long decoding one image may take before it is given up.
    ledger_url
        Where tasks and reading marks are kept: empty for an SQLite file in `home`, or a PostgreSQL server as
        ``postgresql://user:password@host/database``.
    index_url
        Where Orthanc keeps its index: empty for an SQLite file beside the images, or a PostgreSQL server, which several
        Orthancs may share that see the same images.
    orthanc_url
        Where a worker finds Orthanc: empty for the one on this machine, or ``https://host`` of the proxy before it.
    workers
        Studies that are read at the same time, each in a process of its own with its own copy of the models. 0: Orthanc
        starts no worker; those that run elsewhere (``./hilum worker``) read.
    study_seconds
        How long one attempt to read a study may take before its process is ended.
    memory_mb
        MiB that a reading process may use.
    quiet_seconds
        A study is complete so long after its last image: its own objects follow then, those of an image at once.
    study_deadline_seconds
        A study counts as complete so long after its first image, even when images keep coming.
    expected_views
        ``frontal`` and ``lateral``: a study that has an image of each counts as complete at once. Empty: no such rule.
    reconcile_seconds
        How often Orthanc and the ledger are compared.
    lease_seconds
        How long a claimed task may stay silent before another worker may take it.
    attempts
        How often a study may fail by itself (a crash, a time limit) before it is put into quarantine.
    deadline_hours
        How long a study is tried again while what it needs (Orthanc, disk space) is away, before quarantine.
    reserve_mb
        MiB kept free for results and ledger: below it new images are refused as out of resources.
    session_hours
        How long after the log-in a session ends in any case.
    session_idle_minutes
        How long after they last did something somebody is logged out; a page that refreshes itself does not count.
    audit_mb
        MB of one file of the audit log; then the next one is begun, and none is ever removed.
    log_mb
        MB of one log file; then the next one is begun.
    log_files
        How many files of each log are kept; the oldest makes room.
    waiting_limits_minutes
        How long a critical, an urgent and any other study may wait for a person before it rises in the reading order.
    claim_minutes
        How long a study stays in the hands of somebody who does nothing.
    viewer
        Folder of the prepared OHIF files.
    translated
        Folder of networks in the form of the runtime that runs them; it may be emptied.
    """

    home: Path
    http_port: int = 8042
    dicom_port: int = 4242
    ae_title: str = "HILUM"
    bundles: tuple[str, ...] = ("pixel_gate", "lung_fields", "chest_findings", "lung_opacity", "covid_appearance")
    threads: int = 1
    runtime: str = "auto"
    minimum_age: int = 18
    children: str = "refuse"
    outputs: tuple[str, ...] = ("preliminary_report", "heat_map")
    report_language: str = "en"
    intake_seconds: float = 30.0
    ledger_url: str = field(default="", repr=False)  # it may hold a password
    index_url: str = field(default="", repr=False)  # it may hold a password
    orthanc_url: str = ""
    workers: int = 1
    study_seconds: float = 120.0
    memory_mb: int = 4096
    quiet_seconds: float = 5.0
    study_deadline_seconds: float = 600.0
    expected_views: tuple[str, ...] = ()
    reconcile_seconds: float = 120.0
    lease_seconds: float = 30.0
    attempts: int = 5
    deadline_hours: float = 24.0
    reserve_mb: int = 500
    session_hours: float = 12.0
    session_idle_minutes: float = 60.0
    audit_mb: int = 20
    log_mb: int = 20
    log_files: int = 5
    waiting_limits_minutes: tuple[float, float, float] = (15.0, 60.0, 240.0)
    claim_minutes: float = 15.0
    viewer: Path = REPOSITORY / ".cache" / "ohif"
    translated: Path = REPOSITORY / ".cache" / "translated"

    @property
    def ledger(self) -> Path:
        """The SQLite file of tasks and reading marks, where `ledger_url` names no server."""
        return self.home / "ledger.sqlite"

    @property
    def ledger_address(self) -> str:
        """The ledger's URL in SQLAlchemy's form, with its driver; it may hold a password."""
        if not self.ledger_url:
            return f"sqlite:///{self.ledger}"
        return "postgresql+psycopg://" + self.ledger_url.partition("://")[2]

    @property
    def index_address(self) -> str:
        """The URL of Orthanc's index in libpq's form; empty where it lies beside the images. It may hold a password."""
        return self.index_url and "postgresql://" + self.index_url.partition("://")[2]

    @property
    def archive_id_file(self) -> Path:
        """The file with the random name of this archive, made at the first start: a ledger belongs to one archive."""
        return self.home / "archive-id"

    @property
    def storage(self) -> Path:
        """Folder of Orthanc's images and index."""
        return self.home / "orthanc"

    @property
    def credentials(self) -> Path:
        """The file of user names and passwords, readable by its owner alone."""
        return self.home / "credentials.json"

    @property
    def users(self) -> Path:
        """The file of people's accounts: names, roles and hashes of passwords."""
        return self.home / "users.json"

    @property
    def sessions(self) -> Path:
        """The SQLite file of who is logged in."""
        return self.home / "sessions.sqlite"

    @property
    def audit(self) -> Path:
        """Folder of the audit log."""
        return self.home / "audit"

    @property
    def notifications(self) -> Path:
        """The file that says whom to tell of critical results (``working.notice_settings``); it may hold passwords."""
        return self.home / "notifications.toml"

    @property
    def outbox(self) -> Path:
        """The SQLite file of who was told of what."""
        return self.home / "outbox.sqlite"

    @property
    def cluster_file(self) -> Path:
        """The file that says that this node is a cluster of this machine, and of what (``commands.cluster``)."""
        return self.home / "cluster.toml"

    @property
    def logs(self) -> Path:
        """Folder of the log files."""
        return self.home / "log"

    @property
    def own_models(self) -> Path:
        """Folder of the site's own bundles, and of what is known of them (``models.registry``)."""
        return self.home / "models"

    @property
    def active_models(self) -> Path:
        """The file that says which versions are active, where that is not what Hilum ships (``models.activation``)."""
        return self.own_models / "active.json"

    @property
    def shadow_records(self) -> Path:
        """Folder of what bundles said in shadow."""
        return self.home / "shadow"

    @property
    def site_wording(self) -> Path | None:
        """The site's own sentences for the preliminary report; None when it has none."""
        file = self.home / f"report.{self.report_language}.toml"
        return file if file.exists() else None

    @property
    def http_url(self) -> str:
        """Where people and programs of this machine find the node."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def orthanc_address(self) -> str:
        """Where a worker finds Orthanc."""
        return self.orthanc_url or self.http_url


_BOUNDS: dict[str, tuple[float, float]] = {
    "http_port": (1, 65535),
    "dicom_port": (1, 65535),
    "threads": (0, 256),
    "minimum_age": (0, 120),
    "intake_seconds": (1, 600),
    "workers": (0, 64),
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
    "children": ("refuse", "caution"),
    "report_language": ("en", "de"),
    "runtime": ("auto", "torch", "openvino", "openvino-bf16", "openvino-int8", "cuda"),
}
_NAMES = {
    "outputs": ("preliminary_report", "heat_map", "presentation_state", "key_objects"),
    "expected_views": ("frontal", "lateral"),
}
_POSTGRESQL_URL = re.compile(r"postgresql(\+psycopg)?://[^\s]+", re.ASCII)
_ORTHANC_URL = re.compile(r"https?://[\w.-]+(:\d+)?|https?://\[[0-9a-fA-F:]+\](:\d+)?", re.ASCII)


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of this site.

    Raises
    ------
    SettingsInvalid
        When a value is unknown, of the wrong type or out of its range.
    """
    home = Path(environment.get("HILUM_HOME", "var")).expanduser().resolve()
    file = home / "hilum.toml"
    of_cluster = {name: value for name, value in _read(home / "cluster.toml").items() if name != "cluster"}
    given = of_cluster | _read(file)
    known = {f.name for f in fields(Settings)} - {"home"}
    if unknown := sorted(set(given) - known):
        raise SettingsInvalid(f"{file}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
    for name in known:
        if (text := _from_environment(name, environment)) is not None:
            given[name] = text
    return Settings(home=home, **{name: convert(name, value) for name, value in given.items()})


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8")) if file.exists() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"{file} is not valid TOML: {error}") from error


def _from_environment(name: str, environment: Mapping[str, str]) -> str | None:
    """A setting as the environment gives it, itself or by the name of a file."""
    variable = f"HILUM_{name.upper()}"
    if (file := environment.get(f"{variable}_FILE")) is None:
        return environment.get(variable)
    if variable in environment:
        raise SettingsInvalid(f"{variable} and {variable}_FILE are both set: give one of them")
    try:
        return Path(file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"{variable}_FILE: {file} cannot be read ({type(error).__name__})") from error


def convert(name: str, value: object) -> Any:
    """The value of a setting as it is used, from what the file or the environment gives.

    Raises
    ------
    SettingsInvalid
        With the value and what is allowed.
    """
    default = next(f.default for f in fields(Settings) if f.name == name)
    if isinstance(default, Path):
        return Path(str(value)).expanduser().resolve()
    if isinstance(default, tuple):
        return _several(name, value)
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise SettingsInvalid(f"{name} = {value!r}: give one of {', '.join(_CHOICES[name])}")
        return value
    if name.endswith("_url"):
        return _orthanc_url(value) if name == "orthanc_url" else _postgresql_url(name, value)
    if isinstance(default, str):
        if not isinstance(value, str) or not 1 <= len(value.strip()) <= 16 or "\\" in value or not value.isascii():
            raise SettingsInvalid(f"{name} = {value!r}: give 1 to 16 ASCII characters without a backslash")
        return value.strip()
    return _number(name, value, type(default))


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

"""What a site can set: read once from ``hilum.toml`` and the environment, validated, then frozen.

The rule: a bad value stops the start and says which, so that it never meets a patient. The environment
(``HILUM_<NAME>``, or ``HILUM_<NAME>_FILE``: a file that holds the value, for what is secret) wins over ``hilum.toml``,
that over the defaults below.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from orthanc_plugin.setting_values import SettingsInvalid, converted

__all__ = ["REPOSITORY", "Settings", "SettingsInvalid", "contradiction", "convert", "load_settings"]

REPOSITORY = Path(__file__).resolve().parent.parent


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
    executor
        What reads: ``processes`` of this machine, or actors on a ``ray`` cluster.
    ray_address
        The cluster: ``host:port`` of its head, or ``auto`` for the Ray node that runs on this machine. None is started.
    ray_cpus, ray_gpus
        Processor cores and GPUs that an actor reserves; parts of one are possible, so that actors share it.
    ray_actors_least, ray_actors_most
        Actors that hold the models: the least are always there, more come as studies queue, and go when none do.
    ray_studies
        Studies that one actor reads at the same time with one copy of the models.
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
    executor: str = "processes"
    ray_address: str = ""
    ray_cpus: float = 1.0
    ray_gpus: float = 0.0
    ray_actors_least: int = 1
    ray_actors_most: int = 4
    ray_studies: int = 1
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


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of this site.

    Raises
    ------
    SettingsInvalid
        When a value is unknown, of the wrong type or out of its range.
    """
    home = Path(environment.get("HILUM_HOME", "var")).expanduser().resolve()
    given: dict[str, Any] = {}
    file = home / "hilum.toml"
    if file.exists():
        try:
            given = tomllib.loads(file.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsInvalid(f"{file} is not valid TOML: {error}") from error
    known = {f.name for f in fields(Settings)} - {"home"}
    if unknown := sorted(set(given) - known):
        raise SettingsInvalid(f"{file}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
    for name in known:
        if (text := _from_environment(name, environment)) is not None:
            given[name] = text
    settings = Settings(home=home, **{name: convert(name, value) for name, value in given.items()})
    if mistake := contradiction(vars(settings)):
        raise SettingsInvalid(mistake)
    return settings


def contradiction(values: Mapping[str, Any]) -> str:
    """What is wrong with settings that are right each by itself; empty when nothing is."""
    if values["executor"] == "ray" and not values["ray_address"]:
        return (
            'executor = "ray": no cluster is started here. Start one (ray start --head; see docs/ray.md) and set '
            "ray_address to HOST:PORT of its head, or to auto on a machine that has joined it"
        )
    if values["ray_actors_least"] > values["ray_actors_most"]:
        return f"ray_actors_least = {values['ray_actors_least']}: ray_actors_most = {values['ray_actors_most']} is less"
    return ""


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
    return converted(name, value, next(f.default for f in fields(Settings) if f.name == name))

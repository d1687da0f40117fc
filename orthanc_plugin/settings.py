"""What a site can set: read once from ``hilum.toml`` and the environment, validated, then frozen.

The rule: a bad value stops the start and says which, so that it never meets a patient. The environment
(``HILUM_<NAME>``, or ``HILUM_<NAME>_FILE``: a file that holds the value, for what is secret) wins over ``hilum.toml``,
that over what a cluster of this machine has in ``cluster.toml``, and that over the defaults below.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from orthanc_plugin.integration import (
    LABELS,
    Collector,
    Destination,
    Labels,
    Retention,
    Route,
    TableInvalid,
    check_together,
    line_of,
)
from orthanc_plugin.places import Places
from orthanc_plugin.setting_values import SettingsInvalid, convert_value

__all__ = [
    "REPOSITORY",
    "Settings",
    "SettingsInvalid",
    "contradiction",
    "convert",
    "from_environment",
    "has_bundle",
    "load_settings",
    "wrong_tables",
]
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Settings(Places):
    """Everything that a site can set.

    Parameters
    ----------
    home
        Folder of everything that the node writes: images, ledger, logs, passwords.
    http_port, dicom_port
        TCP ports of Orthanc; HTTP answers to this machine only.
    https
        ``on``: nginx, started by the node, offers HTTP by TLS to other machines. ``mutual``: only to those that show a
        certificate of the site's authority (``HILUM_HOME/tls``).
    https_port
        Its TCP port.
    ae_title
        Application Entity Title of the node (PS3.5 AE: at most 16 characters).
    dicom_tls
        ``off``, ``on`` (the secure transport of PS3.15 B) or ``mutual`` (and only for those that show a certificate of
        the site's authority). Orthanc has one DICOM port: with TLS nobody reaches it without.
    modalities
        Who may speak DICOM with the node, as ``AE@HOST:PORT``; with ``/tls`` behind it where the node calls by TLS.
        Empty: whoever reaches the port may send images, and nobody may ask for any.
    check_called_ae
        Whether an association that calls another AE title than `ae_title` is refused.
    check_modality_host
        Whether one of `modalities` is refused when it comes from another address than its host's.
    proxy_secret
        What a proxy that logs people in shows in ``X-Hilum-Proxy-Secret``: 32 characters at least. Empty: none is
        believed.
    proxy_groups
        Which groups, as the proxy names them, have which role here: ``GROUP=ROLE``; the first that fits counts.
    proxy_logout
        The path at which that proxy logs somebody out, such as ``/oauth2/sign_out``.
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
        MB of one file of the audit log; then the next one is begun, and none is removed by itself.
    log_mb
        MB of one log file; then the next one is begun.
    log_files
        How many files of each log are kept; the oldest makes room.
    waiting_limits_minutes
        How long a critical, an urgent and any other study may wait for a person before it rises in the reading order.
    claim_minutes
        How long a study stays in the hands of somebody who does nothing.
    destinations
        Who is given results: PACS by C-STORE or STOW-RS, an HL7 v2 receiver. Tables, see ``docs/integration.md``.
    routes
        By which models an image is read, by its origin and header: the first rule that fits decides. Tables.
    labels
        Which labels a study gets in Orthanc. A table; without it none.
    retention
        Which studies are deleted in Orthanc once a destination has committed to them. A table; without it none.
    collector
        Who is sent the audit log, as audit messages of DICOM by syslog. A table; without it nobody.
    viewer
        Folder of the prepared OHIF files.
    translated
        Folder of networks in the form of the runtime that runs them; it may be emptied.
    """

    http_port: int = 8042
    dicom_port: int = 4242
    https: str = "off"
    https_port: int = 8443
    ae_title: str = "HILUM"
    dicom_tls: str = "off"
    modalities: tuple[str, ...] = ()
    check_called_ae: bool = False
    check_modality_host: bool = False
    proxy_secret: str = field(default="", repr=False)
    proxy_groups: tuple[str, ...] = ()
    proxy_logout: str = ""
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
    destinations: tuple[Destination, ...] = ()
    routes: tuple[Route, ...] = ()
    labels: Labels | None = None
    retention: Retention | None = None
    collector: Collector | None = None
    viewer: Path = REPOSITORY / ".cache" / "ohif"
    translated: Path = REPOSITORY / ".cache" / "translated"

    @property
    def owed_to(self) -> tuple[Destination, ...]:
        """All that results are owed to: the destinations, and our own Orthanc where it is to have labels."""
        return self.destinations if self.labels is None else (*self.destinations, Destination(LABELS, LABELS))

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
    file = home / "hilum.toml"
    written, given = _read(file)
    of_cluster = _read(Places(home).cluster_file)[1]
    given = {name: value for name, value in of_cluster.items() if name != "cluster"} | given
    known = {f.name for f in fields(Settings)} - {"home"}
    if unknown := sorted(set(given) - known):
        raise SettingsInvalid(f"{file}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
    for name in known:
        if (text := from_environment(name, environment)) is not None:
            given[name] = text
    try:
        values = {name: convert(name, value) for name, value in given.items()}
        for wrong in wrong_tables(home, values):
            raise wrong
        settings = Settings(home=home, **values)
        if mistake := contradiction(vars(settings)):
            raise SettingsInvalid(mistake)
    except SettingsInvalid as error:
        if error.table and (line := line_of(written, error.table, error.number, error.key)):
            raise SettingsInvalid(f"{file.name}, line {line}: {error}") from error
        raise
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


def _read(file: Path) -> tuple[str, dict[str, Any]]:
    """A file of settings, as it is written and what it says; nothing where there is none."""
    try:
        written = file.read_text("utf-8") if file.exists() else ""
        return written, tomllib.loads(written)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"{file} is not valid TOML: {error}") from error


def convert(name: str, value: object) -> Any:
    """The value of a setting as it is used, from what the file or the environment gives.

    Raises
    ------
    SettingsInvalid
        With the value and what is allowed.
    """
    return convert_value(name, value, next(f.default for f in fields(Settings) if f.name == name))


def wrong_tables(home: Path, values: Mapping[str, Any]) -> Iterator[SettingsInvalid]:
    """What is wrong with what tables say of each other and of bundles."""
    try:
        check_together(values.get("destinations", ()), values.get("retention"))
    except TableInvalid as error:
        yield SettingsInvalid(f"retention: {error}", "retention", error.number, error.key)
    for number, route in enumerate(values.get("routes", ())):
        for name in route.bundles:
            if not has_bundle(home, name):
                message = f"routes: bundles: there is no bundle {name!r} (./hilum models list)"
                yield SettingsInvalid(message, "routes", number, "bundles")


def has_bundle(home: Path, name: str) -> bool:
    """Whether a bundle of this name lies here, Hilum's or the site's own."""
    return (REPOSITORY / "models" / name / "configs").is_dir() or (home / "models" / name).is_dir()


def from_environment(name: str, environment: Mapping[str, str]) -> str | None:
    """A setting as the environment gives it, itself or by the name of a file; None when it does not.

    Raises
    ------
    SettingsInvalid
    """
    variable = f"HILUM_{name.upper()}"
    if (file := environment.get(f"{variable}_FILE")) is None:
        return environment.get(variable)
    if variable in environment:
        raise SettingsInvalid(f"{variable} and {variable}_FILE are both set: give one of them")
    try:
        return Path(file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"{variable}_FILE: {file} cannot be read ({type(error).__name__})") from error

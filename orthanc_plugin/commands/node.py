"""Starts, describes and stops the Orthanc process of this node.

The rule: everything is below ``HILUM_HOME``, and a process is only ever ended by the pid that we wrote down ourselves,
after checking that it still is our process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx

from dicom_sr.report.wording import WordingInvalid, load_wording
from orthanc_plugin.commands import orthanc_index
from orthanc_plugin.commands.doors import OPENSSL_CONF, dicom_door
from orthanc_plugin.credentials import Credentials, load_credentials
from orthanc_plugin.hosting.entrance import nginx
from orthanc_plugin.ledger.database import open_ledger
from orthanc_plugin.settings import REPOSITORY, Settings
from orthanc_plugin.trust import TlsUnusable, require_certificates

_PLUGIN_FOLDERS = (Path("/usr/share/orthanc/plugins"), Path("/usr/local/share/orthanc/plugins"))
# No GDCM plugin: a JPEG-LS frame request, or merely opening the viewer, ends the server.
PLUGINS = ("libOrthancPython.so", "libOrthancDicomWeb.so")
INDEX_PLUGIN = "libOrthancPostgreSQLIndex.so"
_INDEX_CONNECTIONS = 8  # of one Orthanc; requests beyond that wait for one
_CALM_SECONDS = 2.0  # between two questions to a node that answers
_LISTENS_SECONDS = 2.0
_STOP_SECONDS = 45.0  # more than the supervisor gives its worker


class NodeFailed(Exception):
    """The node did not start or is not there; the message says what to do."""


@dataclass(frozen=True)
class NodeStatus:
    """What `./hilum status` tells.

    Parameters
    ----------
    state
        ``ready``, ``starting`` (images are taken, no worker is ready yet), ``impaired`` (a problem stops work: see
        ``problems`` in the details) or ``stopped``.
    details
        The node's own account; empty when it does not answer.
    """

    state: str
    details: dict[str, Any]

    @property
    def problems(self) -> list[dict[str, Any]]:
        """What is wrong: see ``health.Problem``."""
        return list(self.details.get("problems", ()))


NOT_INSTALLED = "Orthanc is not installed; ./hilum installs it, or: apt install orthanc"
UNFINISHED = "restore-unfinished"  # a file in the home of a node that is being restored


def start(settings: Settings) -> subprocess.Popen[bytes]:
    """Write the configuration and start Orthanc with our plugin.

    Raises
    ------
    NodeFailed
        When a port is taken, the node runs already, Orthanc is not installed, or the site's sentences or certificates
        cannot be used.
    LedgerUnusable
        When `ledger_url` is no address. Whether a ledger is there is the plugin's concern: it takes images without.
    """
    make_ready(settings)
    if not settings.index_url:
        orthanc_index.describe(settings.storage)
    configuration = settings.home / "orthanc.json"
    write_private(configuration, json.dumps(orthanc_configuration(settings), indent=1))
    with redacted_log(settings, "orthanc.log") as log:
        try:
            process = subprocess.Popen(
                ["Orthanc", str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=orthanc_environment(settings),
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise NodeFailed(NOT_INSTALLED) from error
    note_process(settings.home / "node.json", process.pid)
    return process


def make_ready(settings: Settings) -> None:
    """Make sure that a node can be started here, and make its folders.

    Raises
    ------
    NodeFailed, LedgerUnusable
        As of `start`.
    """
    if (settings.home / UNFINISHED).exists():
        raise NodeFailed(
            f"{settings.home} holds a part of a backup, for its restore was broken off: run ./hilum restore again"
        )
    open_ledger(settings.ledger_address).close()
    try:
        load_wording(settings.report_language, settings.site_wording)
        require_certificates(settings)
    except (WordingInvalid, TlsUnusable) as error:
        raise NodeFailed(str(error)) from error
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (pid := running_pid(settings)) is not None:
        raise NodeFailed(f"the node runs already (process {pid}); see ./hilum status, or stop it with ./hilum down")
    ports = [("HILUM_HTTP_PORT", settings.http_port), ("HILUM_DICOM_PORT", settings.dicom_port)]
    if settings.https != "off":
        if nginx() is None:
            raise NodeFailed("https is on, and nginx is not installed, which offers it: apt install nginx-light")
        ports.append(("HILUM_HTTPS_PORT", settings.https_port))
    for name, port in ports:
        require_free(name, port)
    for private in (settings.logs, settings.storage):
        private.mkdir(exist_ok=True)
        private.chmod(0o700)  # a home that somebody made beforehand may be open to others


def wait_until_ready(settings: Settings, process: subprocess.Popen[bytes], *, seconds: float) -> Iterator[str]:
    """Yield the node's state until it is ready: about five times a second while it starts, and calmly once it answers.

    Whether it refuses a stranger is asked once, when it answers. A node whose workers run elsewhere waits for none.

    Raises
    ------
    NodeFailed
        When Orthanc ends, or no worker is ready within `seconds`.
    """
    deadline, is_guarded = time.monotonic() + seconds, False
    while time.monotonic() < deadline:
        if process.poll() is not None:
            (settings.home / "node.json").unlink(missing_ok=True)
            raise NodeFailed(f"Orthanc ended with code {process.returncode}: see {settings.logs / 'orthanc.log'}")
        found = status(settings)
        state = found.state
        yield state
        if found.details and not is_guarded:
            is_guarded = _refuses_strangers(settings)
        if is_guarded and (state == "ready" or not settings.workers):
            return
        time.sleep(_CALM_SECONDS if state == "impaired" else 0.2)
    wrong = "".join(f" {problem['text']} {problem['what_to_do']}" for problem in status(settings).problems)
    raise NodeFailed(f"no worker was ready after {seconds:.0f} s: see {settings.logs / 'worker.log'}.{wrong}")


def status(settings: Settings) -> NodeStatus:
    """Ask the node how it is."""
    if running_pid(settings) is None:
        return NodeStatus("stopped", {})
    credentials = load_credentials(settings.credentials)
    try:
        with http(settings, credentials) as client:
            answer = client.get("/hilum/api/status", timeout=5.0)
    except httpx.TransportError:
        return NodeStatus("starting", {})
    if answer.status_code != 200:
        return NodeStatus("starting", {})
    details = answer.json()
    return NodeStatus(details["state"], details)


def stop(settings: Settings) -> bool:
    """End the node and wait until it is gone; False when it was not running."""
    pid = running_pid(settings)
    if pid is None:
        (settings.home / "node.json").unlink(missing_ok=True)
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while running_pid(settings) is not None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    with suppress(OSError):  # on a disk that can only be read it stays, and names a process that is gone
        (settings.home / "node.json").unlink(missing_ok=True)
    return True


@contextmanager
def http(settings: Settings, credentials: Credentials) -> Iterator[httpx.Client]:
    """A client that is logged in to the node."""
    auth = (credentials.user, credentials.password)
    with httpx.Client(base_url=settings.http_url, auth=auth, timeout=30.0, trust_env=False) as client:
        yield client


def running_pid(settings: Settings) -> int | None:
    """The pid of our Orthanc, or of what keeps our cluster alive, if it runs."""
    return noted_process(settings.home / "node.json")


def note_process(file: Path, pid: int) -> None:
    """Write down which process this is, for `noted_process`."""
    write_private(file, json.dumps({"pid": pid, "started": _start_ticks(pid)}))


def noted_process(file: Path) -> int | None:
    """The pid that was written down if its process runs; a pid that another process was given since does not count."""
    try:
        identity = json.loads(file.read_text())
        pid = int(identity["pid"])
        return pid if _start_ticks(pid) == identity["started"] else None
    except (OSError, ValueError, KeyError):
        return None


def orthanc_configuration(settings: Settings) -> dict[str, Any]:
    """The configuration of Orthanc; what is not named here is Orthanc's default."""
    storage = settings.storage
    return {
        "Name": "Hilum",
        "StorageDirectory": str(storage),
        "IndexDirectory": str(storage),
        "SyncStorageArea": True,  # a file is on the disk before it is acknowledged
        "MaximumStorageCacheSize": 16,  # MB; the system keeps files in memory as well, and gives it back when asked
        "HttpPort": settings.http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,  # it knows no sessions: ``hosting.guard`` lets in, and tells why it is alone
        "WebDavEnabled": False,
        "HttpCompressionEnabled": False,  # the viewer's files are compressed already
        "HttpThreadsCount": 16,
        **dicom_door(settings),
        "UnknownSopClassAccepted": True,  # refusing is the plugin's task, with a reason
        "OverwriteInstances": False,
        "StableAge": 2,
        "SaveJobs": False,
        "Locale": "C",
        "Plugins": [str(plugin_file(name)) for name in (*PLUGINS, *([INDEX_PLUGIN] if settings.index_url else []))],
        "PythonScript": str(REPOSITORY / "orthanc_plugin" / "plugin.py"),
        "PythonVerbose": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True, "WadoRoot": "/wado", "Ssl": False},
        **(_postgresql_index(settings) if settings.index_url else {}),
    }


def _postgresql_index(settings: Settings) -> dict[str, Any]:
    """The part of a configuration that has Orthanc keep its index, and no image, in PostgreSQL."""
    return {
        "PostgreSQL": {
            "EnableIndex": True,
            "EnableStorage": False,
            "ConnectionUri": settings.index_address,
            "Lock": False,  # several Orthancs may share it
            "IndexConnectionsCount": _INDEX_CONNECTIONS,
        },
        "OrthancPeersInDatabase": True,  # where each would know others' addresses by itself
    }


def password_check(settings: Settings) -> dict[str, Any]:
    """The part of a configuration for an Orthanc without our plugin: it asks for a password itself."""
    credentials = load_credentials(settings.credentials)
    users = {
        credentials.user: credentials.password,
        credentials.worker_user: credentials.worker_password,
    }
    return {"AuthenticationEnabled": True, "RegisteredUsers": users}


def redacted_log(settings: Settings, name: str) -> IO[bytes]:
    """A pipe into a log file that withholds what identifies a patient; its process ends with Orthanc."""
    writer = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "orthanc_plugin.redaction",
            str(settings.logs / name),
            str(settings.log_mb * 1_000_000),
            str(settings.log_files),
            str(settings.refused_calls),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        start_new_session=True,
    )
    if writer.stdin is None:
        raise NodeFailed("the log cannot be written")
    return writer.stdin


def plugin_file(name: str) -> Path:
    """Where a plugin of Orthanc lies.

    Raises
    ------
    NodeFailed
    """
    for folder in _PLUGIN_FOLDERS:
        if (folder / name).exists():
            return folder / name
    package = "orthanc-postgresql" if name == INDEX_PLUGIN else "orthanc-python orthanc-dicomweb"
    raise NodeFailed(f"{name} is not installed: apt install {package}")


def orthanc_environment(settings: Settings) -> dict[str, str]:
    """Orthanc embeds Python: it is shown our packages and those of the environment that runs this command."""
    site_packages = Path(sys.prefix) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    own = {
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{site_packages}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HILUM_HOME": str(settings.home),
        "HILUM_HTTP_PORT": str(settings.http_port),
        "HILUM_DICOM_PORT": str(settings.dicom_port),
        "HILUM_PYTHON": sys.executable,
    }
    if settings.dicom_tls != "off" and "OPENSSL_CONF" not in os.environ:
        own["OPENSSL_CONF"] = str(OPENSSL_CONF)
    # what came by a file is given as it is, not twice
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith("PYTHON") and k.removesuffix("_FILE") not in own
    }
    return inherited | own


def _refuses_strangers(settings: Settings) -> bool:
    """Whether a stranger is refused, which only the plugin does; False when that could not be asked.

    Raises
    ------
    NodeFailed
        When one is let in.
    """
    for path in ("/instances", "/dicom-web/studies"):
        try:
            answer = httpx.get(f"{settings.http_url}{path}", timeout=5.0, trust_env=False)
        except httpx.TransportError:
            return False
        if answer.status_code not in (401, 403):
            raise NodeFailed(f"Orthanc answers {path} without a log-in (HTTP {answer.status_code}); it was not started")
    return True


def require_free(name: str, port: int) -> None:
    """Make sure that Orthanc can listen there.

    Raises
    ------
    NodeFailed
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104  (Orthanc listens there; this only asks whether it can)
        except OSError as error:
            raise NodeFailed(f"port {port} is in use (another Orthanc?): set {name} to a free port") from error


def listens(port: int) -> bool:
    """Whether somebody does so there, on this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), _LISTENS_SECONDS).close()
    except OSError:
        return False
    return True


def _start_ticks(pid: int) -> str:
    """When a process started, in clock ticks since boot (proc(5), field 22 of stat); tells re-used pids apart."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(pid)
    return fields[19]


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read; it appears whole or not at all."""
    draft = path.with_name(path.name + ".draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.rename(path)

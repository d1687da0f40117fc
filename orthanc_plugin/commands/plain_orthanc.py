"""Orthanc on the storage of a node that is stopped: no plugin, no worker, no DICOM port; for restoring an archive.

The rule: it answers to this machine only, with the node's passwords, and ends with the block that started it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from orthanc_plugin.archive.client import OrthancClient, OrthancUnavailable
from orthanc_plugin.commands.node import (
    INDEX_PLUGIN,
    NodeFailed,
    orthanc_configuration,
    password_check,
    plugin_file,
    running_pid,
)
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.settings import Settings

_START_SECONDS, _STOP_SECONDS = 60.0, 30.0
_ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")  # of util-linux; else it would serve on when this is killed
_LOG = "plain-orthanc.log"


@contextmanager
def plain_orthanc(settings: Settings) -> Iterator[OrthancClient]:
    """Run it for the time of a block.

    Raises
    ------
    NodeFailed
        When the node runs, or Orthanc does not start.
    """
    if (pid := running_pid(settings)) is not None:
        raise NodeFailed(f"the node runs (process {pid}): stop it with ./hilum down")
    _require_free(settings.http_port)
    for private in (settings.home, settings.logs, settings.storage):
        private.mkdir(parents=True, exist_ok=True, mode=0o700)
    configuration = settings.home / "plain-orthanc.json"
    # a backup may have come without certificates
    given = orthanc_configuration(replace(settings, dicom_tls="off", modalities=())) | password_check(settings)
    index = [str(plugin_file(INDEX_PLUGIN))] if settings.index_url else []
    given |= {"Plugins": index, "DicomServerEnabled": False}
    given.pop("PythonScript", None)
    descriptor = os.open(configuration, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(given, file)
    accounts = load_credentials(settings.credentials)
    log = settings.logs / _LOG
    try:
        process = _start(configuration, log)
        try:
            with OrthancClient(settings.http_url, accounts.worker_user, accounts.worker_password) as orthanc:
                _wait_for(orthanc, process, log)
                yield orthanc
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        configuration.unlink()


def _require_free(port: int) -> None:
    """Whoever answers at this port later must be the one that is started here."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise NodeFailed(f"port {port} is in use (another Orthanc?): set HILUM_HTTP_PORT to a free port") from error


def _start(configuration: Path, log: Path) -> subprocess.Popen[bytes]:
    if (orthanc := shutil.which("Orthanc")) is None:
        raise NodeFailed("Orthanc is not installed; ./hilum installs it, or: apt install orthanc")
    command = [*_ENDS_WITH_US, orthanc, str(configuration)]
    with log.open("ab") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def _wait_for(orthanc: OrthancClient, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NodeFailed(f"Orthanc ended with code {process.returncode}; is its port in use? See {log}")
        try:
            orthanc.last_change()
        except OrthancUnavailable:
            time.sleep(0.1)
        else:
            return
    raise NodeFailed(f"Orthanc did not answer within {_START_SECONDS:.0f} s: see {log}")

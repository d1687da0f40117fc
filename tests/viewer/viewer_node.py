"""Orthanc with DICOMweb and the viewer, and no worker: a test decides which results a study has."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from studies import Study, part10

from orthanc_plugin.commands import node
from orthanc_plugin.credentials import Credentials, load_credentials
from orthanc_plugin.settings import REPOSITORY, Settings, load_settings

_PLUGIN = """
import orthanc, pathlib
from orthanc_plugin.viewer.serving import load_site
SITE = load_site(pathlib.Path({viewer!r}))
def answer(output, uri, **request):
    headers = {{k.lower(): v for k, v in request.get("headers", {{}}).items()}}
    reply = SITE.respond(uri, headers.get("accept-encoding", ""), headers.get("if-none-match"))
    for name, value in reply.headers.items():
        output.SetHttpHeader(name, value)
    if reply.status == 200:
        output.AnswerBuffer(reply.body, reply.mime)
    elif not reply.body:
        output.SendHttpStatusCode(reply.status)
    else:
        output.SetHttpHeader("Content-Type", reply.mime)
        output.SendHttpStatus(reply.status, reply.body.decode("utf-8"), len(reply.body))
orthanc.RegisterRestCallback("/ohif(/.*)?", answer)
"""


@dataclass(frozen=True)
class ViewerNode:
    """Orthanc with DICOMweb and the viewer."""

    settings: Settings
    credentials: Credentials
    http: httpx.Client

    def store(self, study: Study) -> str:
        """Store a study's objects; returns its UID."""
        for ds in study.objects:
            self.http.post("/instances", content=part10(ds)).raise_for_status()
        return study.uid

    def forget(self, study: Study) -> None:
        """Delete a study, so that others may have its UIDs."""
        for found in self.http.post("/tools/lookup", content=study.uid).raise_for_status().json():
            self.http.delete(found["Path"]).raise_for_status()


@contextmanager
def start_viewer_node(home: Path, viewer: Path) -> Iterator[ViewerNode]:
    """The node, with the configuration that a real one has but for the plugin script."""
    ports = {"HILUM_HTTP_PORT": str(_free_port()), "HILUM_DICOM_PORT": str(_free_port())}
    settings = load_settings({**os.environ, **ports, "HILUM_HOME": str(home)})
    plugin = home / "viewer_plugin.py"
    plugin.write_text(_PLUGIN.format(viewer=str(viewer)))
    configuration = home / "orthanc.json"
    own = node.password_check(settings) | {"PythonScript": str(plugin)}
    configuration.write_text(json.dumps(node.orthanc_configuration(settings) | own))
    with (home / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(
            ["Orthanc", str(configuration)], stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": _python_path()}
        )
        credentials = load_credentials(settings.credentials)
        try:
            with node.http(settings, credentials) as client:
                _wait_for(client, process, home / "orthanc.log")
                yield ViewerNode(settings, credentials, client)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_for(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/dicom-web/studies").status_code == 200 and client.get("/ohif/").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"Orthanc did not start:\n{log.read_text()[-2000:]}")


def _python_path() -> str:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return os.pathsep.join([str(REPOSITORY), str(Path(sys.prefix) / "lib" / version / "site-packages")])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

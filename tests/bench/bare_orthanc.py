"""Orthanc as the node configures it, but without our plugin: what baselines are measured against."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orthanc_plugin.commands import node
from orthanc_plugin.settings import Settings, load_settings
from tests.running_node import free_port

_START_SECONDS = 30.0


@contextmanager
def bare_orthanc(home: Path, *, script: str | None = None) -> Iterator[Settings]:
    """Run it for the time of a block, with DICOMweb, and with another script of Python or without Python."""
    ports = {"HILUM_HTTP_PORT": str(free_port()), "HILUM_DICOM_PORT": str(free_port())}
    settings = load_settings({**os.environ, **ports, "HILUM_HOME": str(home)})
    settings.storage.mkdir(parents=True)
    file = home / "orthanc.json"
    file.write_text(json.dumps(_configuration(settings, script)), "utf-8")
    with (home / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(
            ["Orthanc", str(file)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "HILUM_HOME": str(home)},  # by which it is known as that of this home
        )
    try:
        _wait_for(settings.dicom_port)
        yield settings
    finally:
        process.terminate()
        process.wait()


def _configuration(settings: Settings, script: str | None) -> dict[str, Any]:
    configuration = node.orthanc_configuration(settings) | node.password_check(settings)
    if script is None:
        del configuration["PythonScript"], configuration["PythonVerbose"]
        configuration["Plugins"] = [p for p in configuration["Plugins"] if "Python" not in p]
    else:
        empty = settings.home / "empty.py"
        empty.write_text(script, "utf-8")
        configuration["PythonScript"] = str(empty)
    return configuration


def _wait_for(port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > end:
            raise SystemExit(f"nothing listens on port {port}")
        time.sleep(0.1)

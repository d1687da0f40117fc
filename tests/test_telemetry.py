"""Nothing that Hilum uses tells anybody of its use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orthanc_plugin.settings import REPOSITORY

PROGRAM = """
import os, socket, sys, time
from pathlib import Path

def refuse(host, *_args, **_named):
    with open(os.environ["ASKED"], "a") as asked:
        print(host, file=asked)
    raise OSError("nobody is asked")

socket.getaddrinfo = refuse  # in what is forked from here as well
from models.bundle import load_bundle
from models.runtime import Running, Runtime, engine_of
engine = engine_of([load_bundle(Path("models/pixel_gate"))], Running(Runtime.OPENVINO, 1, Path(sys.argv[1])))
assert engine.runtime is Runtime.OPENVINO
import training.export.openvino
time.sleep(1)  # a message would be sent by a process of its own
assert list(Path(sys.argv[1]).glob("*.network")), "a network was translated"
"""


def test_a_network_is_translated_and_run_without_a_word_to_anybody(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    home, asked = tmp_path / "home", tmp_path / "asked.txt"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "ASKED": str(asked), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path / "translated")]
    subprocess.run(command, env=environment, cwd=REPOSITORY, check=True)
    assert not asked.exists() or asked.read_text() == ""
    assert not (home / "intel").exists(), "an identifier of this user was kept"

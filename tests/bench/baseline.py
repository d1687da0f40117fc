"""Runs the plain way (``plain_way``) beside the node: as one warm process, and as one process for each study."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom import Dataset, dcmwrite

from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.settings import REPOSITORY, Settings

BUNDLES = Settings(home=Path()).bundles
_UNSET = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # torch takes all cores then, as it does unasked


class WarmPlainWay:
    """The plain way in a process that has loaded everything."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.threads = int(self._answer()["ready"])

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def read(self, file: Path) -> tuple[float, dict[str, float]]:
        """Seconds until the results of a file are stored, and those of each stage."""
        if self._process.stdin is None:
            raise SystemExit("the plain way takes nothing")
        started = time.perf_counter()
        print(file, file=self._process.stdin, flush=True)
        stages = self._answer()
        return time.perf_counter() - started, stages

    def _answer(self) -> dict[str, float]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit("the plain way died; its message stands above")
        return dict(json.loads(line))


@contextmanager
def warm_plain_way(orthanc: Settings, bundles: Sequence[str] = BUNDLES) -> Iterator[WarmPlainWay]:
    """Keep one for the time of a block; it stores into this Orthanc."""
    with _started(orthanc, bundles) as process:
        yield WarmPlainWay(process)


def cold_plain_way(file: Path, orthanc: Settings, bundles: Sequence[str] = BUNDLES) -> float:
    """Seconds that a process of its own takes for one file, from its start to its end."""
    started = time.perf_counter()
    with _started(orthanc, bundles) as process:
        process.communicate(f"{file}\n")
    if process.returncode:
        raise SystemExit("the plain way died; its message stands above")
    return time.perf_counter() - started


def write_study(ds: Dataset, folder: Path) -> Path:
    """A file as a DICOM receiver leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{ds.SOPInstanceUID}.dcm"
    dcmwrite(file, ds, enforce_file_format=True)
    return file


@contextmanager
def _started(orthanc: Settings, bundles: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    accounts = load_credentials(orthanc.credentials)
    environment = {name: value for name, value in os.environ.items() if name not in _UNSET}
    environment |= {"PLAIN_USER": accounts.user, "PLAIN_PASSWORD": accounts.password, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.plain_way"]
    where = [orthanc.http_url, str(REPOSITORY / "models"), ",".join(bundles)]
    process = subprocess.Popen(
        [*command, *where], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=REPOSITORY
    )
    try:
        yield process
    finally:
        if process.stdin and not process.stdin.closed:
            process.stdin.close()
        process.wait()

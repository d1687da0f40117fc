"""A worker that runs by itself, for a node that starts none: it has HTTP, the ledger, and files that it was given."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from postgres_server import PostgresServer
from running_node import Node, start_node
from tls_forwarder import tls_before

from models.phantom import chest
from orthanc_plugin.archive.client import OrthancClient, OrthancUnavailable
from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.settings import REPOSITORY, Settings
from orthanc_plugin.trust import TlsFiles, http_trust

pytestmark = pytest.mark.node


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[tuple[Node, str]]:
    """A node that starts no worker, and the address of its ledger."""
    ledger_url = postgres.new_database()
    settings, _process = start_node(
        tmp_path_factory.mktemp("apart") / "home", workers="0", ledger_url=ledger_url, lease_seconds="2"
    )
    credentials = load_credentials(settings.credentials)
    with node.http(settings, credentials) as client:
        try:
            yield Node(settings, credentials, client), ledger_url
        finally:
            node.stop(settings)


def home_of_a_worker(folder: Path, running: Node) -> Path:
    """What a worker is given: its own account, and the name of the archive."""
    folder.mkdir(mode=0o700)
    account = {"worker_user": running.credentials.worker_user, "worker_password": running.credentials.worker_password}
    (folder / "credentials.json").write_text(json.dumps(account))
    (folder / "credentials.json").chmod(0o600)
    shutil.copy(running.settings.archive_id_file, folder)
    return folder


def environment(home: Path, running: Node, ledger_url: str) -> dict[str, str]:
    (home / "ledger-url").write_text(ledger_url + "\n")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HILUM_")}
    return {
        **inherited,
        "PYTHONPATH": str(REPOSITORY),
        "HILUM_HOME": str(home),
        "HILUM_ORTHANC_URL": running.settings.http_url,
        "HILUM_LEDGER_URL_FILE": str(home / "ledger-url"),
        "HILUM_QUIET_SECONDS": "0.5",
        "HILUM_LEASE_SECONDS": "2",
    }


@contextmanager
def worker(given: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "orthanc_plugin.cli", "worker"]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=output, env=given)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def told(given: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Exit code and words of ``./hilum worker`` with these arguments."""
    command = [sys.executable, "-m", "orthanc_plugin.cli", "worker", *arguments]
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def children(pid: int) -> list[int]:
    return [int(p) for task in Path(f"/proc/{pid}/task").iterdir() for p in (task / "children").read_text().split()]


def send(running: Node, seed: int) -> str:
    ds = modality.radiograph(chest(seed).pixels, Exposure(seed=uuid.uuid4().hex))
    sent = modality.send([ds], "127.0.0.1", running.settings.dicom_port, running.settings.ae_title)
    assert all(outcome.accepted for outcome in sent)
    return str(ds.StudyInstanceUID)


def test_a_worker_apart_reads_for_a_node_that_starts_none(apart: tuple[Node, str], tmp_path: Path) -> None:
    running, ledger_url = apart
    orthanc = node.running_pid(running.settings)
    assert orthanc is not None
    assert children(orthanc) == []
    assert not (running.settings.logs / "worker.log").exists()
    given = environment(home_of_a_worker(tmp_path / "worker", running), running, ledger_url)
    waiting = send(running, 1)
    assert told(given, "--check") == (1, "No worker of this machine is heard of.\n")
    log = tmp_path / "worker.log"
    with worker(given, log) as process:
        row = running.wait_for(waiting, 90)
        assert row["status"] == "done", log.read_text()
        assert (len(running.measurement_reports(waiting)), len(running.series(waiting, "SEG"))) == (1, 1)
        code, words = told(given, "--check")
        assert (code, "ready" in words) == (0, True)
        (first,) = children(process.pid)
        os.kill(first, signal.SIGKILL)  # it is watched as the one beside the plugin is
        assert running.wait_for(send(running, 2), 90)["status"] == "done"
        assert children(process.pid) != [first]
        ends = process.pid
    assert not Path(f"/proc/{ends}").exists()
    assert process.returncode == 0, "it ends in order when it is told to"
    assert running.credentials.worker_password not in log.read_text()


def test_a_worker_apart_says_what_it_lacks_and_does_not_start(apart: tuple[Node, str], tmp_path: Path) -> None:
    running, ledger_url = apart
    home = home_of_a_worker(tmp_path / "worker", running)
    given = environment(home, running, ledger_url)
    code, words = told({**given, "HILUM_WORKERS": "0"})
    assert (code, "workers = 0" in words) == (1, True)
    (home / "credentials.json").chmod(0o644)
    code, words = told(given)
    assert (code, "read by others" in words) == (1, True)
    (home / "credentials.json").chmod(0o600)
    (home / "credentials.json").write_text('{"user": "hilum"}')
    code, words = told(given)
    assert (code, "worker_password" in words) == (1, True)
    (home / "credentials.json").unlink()
    code, words = told(given)
    assert (code, "copy worker_user" in words) == (1, True)
    assert not (home / "credentials.json").exists(), "one that it made up would be refused by Orthanc for ever"
    account = home_of_a_worker(tmp_path / "other", running) / "credentials.json"
    shutil.copy(account, home)
    (home / "archive-id").unlink()
    code, words = told(given)
    assert (code, "archive-id" in words) == (1, True)
    assert not (home / "archive-id").exists(), "one that it made up could take an empty ledger for its own"


def test_a_worker_apart_speaks_tls_to_whom_its_site_trusts_and_to_nobody_else(
    apart: tuple[Node, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, _ = apart
    shutil.copy(REPOSITORY / "docker/make-secrets", tmp_path)
    subprocess.run([tmp_path / "make-secrets"], check=True)
    account = running.credentials.worker_user, running.credentials.worker_password
    with tls_before(running.settings.http_port, tmp_path / "secrets") as port:
        apart_from_it = Settings(home=tmp_path / "home")

        def asked(host: str) -> int:
            url = f"https://{host}:{port}"
            with OrthancClient(url, *account, trust=http_trust(apart_from_it, url)) as orthanc:
                return orthanc.last_change()

        with pytest.raises(OrthancUnavailable):
            asked("localhost")
        with monkeypatch.context() as site:
            site.setenv("SSL_CERT_FILE", str(tmp_path / "secrets/ca.crt"))
            assert asked("localhost") >= 0
        TlsFiles(apart_from_it.tls).folder.mkdir(parents=True)
        shutil.copy(tmp_path / "secrets/ca.crt", TlsFiles(apart_from_it.tls).authority)
        assert asked("localhost") >= 0, "an authority that lies in its own folder"
        with pytest.raises(OrthancUnavailable):
            asked("127.0.0.2")

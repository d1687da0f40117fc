"""``./hilum up --cluster``: what it refuses, what it says when something does not start, and that it leaves nothing."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import uuid
from contextlib import suppress
from io import StringIO
from pathlib import Path

import httpx
import pytest
from fortress import Callers, echo, fortress, https
from postgres_server import missing_for_cluster
from pydicom import Dataset
from running_node import Node, add_user, configured, end_cluster, start_cluster

from models.phantom import chest
from orthanc_plugin import cli
from orthanc_plugin.access.roles import Role
from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.cluster import control, ray_node
from orthanc_plugin.commands.cluster.plan import load_plan
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.settings import Settings, load_settings
from tests.faults.victims import processes

pytestmark = [pytest.mark.node, pytest.mark.skipif(bool(missing_for_cluster()), reason="a cluster needs more packages")]


PASSWORD = "correct horse battery"


def of_home(home: Path) -> set[int]:
    """The processes whose environment names this home."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"HILUM_HOME={home}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
        except OSError:
            continue
    return found - {os.getpid()}


def wait_until_nothing_runs(home: Path, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while left := of_home(home):
        assert time.monotonic() < end, {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left}
        time.sleep(0.1)


def studies(number: int) -> list[Dataset]:
    return [modality.radiograph(chest(seed).pixels, Exposure(seed=uuid.uuid4().hex)) for seed in range(number)]


def read_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Have what is there read again, by workers of which each has one actor for all that it reads."""
    monkeypatch.setattr(sys, "stdin", StringIO())
    end = time.monotonic() + 60
    while "2 done" not in capsys.readouterr().out:
        assert time.monotonic() < end
        time.sleep(0.5)
        cli.main(["status"])
    assert cli.main(["reprocess", "--since", "2000-01-01"]) == 0
    while "Looked at 2 of 2" not in capsys.readouterr().out:
        assert time.monotonic() < end
        time.sleep(0.5)
        cli.main(["reprocess", "--status"])


def test_a_cluster_is_one_node_to_who_starts_asks_and_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    settings, _process = start_cluster(home, bundles="lung_fields")
    try:
        for name, value in {"HOME": home, "HTTP_PORT": settings.http_port, "DICOM_PORT": settings.dicom_port}.items():
            monkeypatch.setenv(f"HILUM_{name}", str(value))
        assert cli.main(["status"]) == 0
        said = capsys.readouterr().out
        for name in ("postgresql", "orthanc-1", "orthanc-2", "ray-1", "ray-2", "worker-1", "worker-2", "entrance"):
            assert f"Member     {name}: serves, process" in said
        reading = processes(home)
        assert len(reading["actor"]) == 2, "of each worker one, on the nodes of Ray"
        assert not reading["reader"]
        assert cli.main(["up", "--cluster", "--detach"]) == cli.main(["up", "--detach"]) == 1
        assert capsys.readouterr().err.count("runs already") == 2, "a cluster's home is a cluster's"
        assert cli.main(["config", "show"]) == 0
        plan = load_plan(settings)
        assert plan.password not in capsys.readouterr().out
        for http_port, _dicom_port in plan.orthancs:  # each has the same door as the entrance
            assert httpx.get(f"http://127.0.0.1:{http_port}/instances", trust_env=False).status_code == 403
        assert all(plan.password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in of_home(home))
        assert ray_node.folder(settings).stat().st_mode & 0o077 == 0, "Ray's sockets and logs are this user's alone"

        pictures = studies(2)
        silent = [socket.create_connection(("127.0.0.1", settings.dicom_port)) for _ in range(20)]
        begun = time.monotonic()
        sent = modality.send(pictures, "127.0.0.1", settings.dicom_port, settings.ae_title)
        assert all(outcome.accepted for outcome in sent)
        assert time.monotonic() - begun < 25, "of those who say nothing each two would have cost half a minute"
        assert [peer.recv(1) for peer in silent] == [b""] * 20, "and is shown the door"
        read_again(monkeypatch, capsys)

        (entrance,) = (member.pid for member in control.members(settings) if member.name == "entrance")
        assert entrance is not None
        os.kill(entrance, signal.SIGKILL)
        end = time.monotonic() + 30
        while not all(member.serves for member in control.members(settings)):
            assert time.monotonic() < end
            time.sleep(0.1)

        # what keeps them alive dies: none of them goes on by itself
        supervisor = node.running_pid(settings)
        assert supervisor is not None
        os.kill(supervisor, signal.SIGKILL)
        wait_until_nothing_runs(home)
        assert cli.main(["status"]) == 1
        assert "stopped" in capsys.readouterr().out
        assert cli.main(["up", "--detach"]) == 0, "and all of it starts again"
        assert cli.main(["down"]) == 0
        assert "has stopped" in capsys.readouterr().out
    finally:
        end_cluster(settings)
    wait_until_nothing_runs(home)


def logs_in(closed: Node) -> bool:
    """Whether somebody on another machine does."""
    with https(closed) as outside, suppress(httpx.TransportError):
        sent = {"name": "anna", "password": PASSWORD}
        answer = outside.post("/hilum/login", data=sent, headers={"Origin": str(outside.base_url).rstrip("/")})
        cookies = [cookie.secure for cookie in outside.cookies.jar]
        return answer.status_code == 303 and cookies == [True] and outside.get("/hilum/").status_code == 200
    return False


def test_other_machines_are_answered_by_tls_alone_whichever_orthanc_lives(tmp_path: Path) -> None:
    with fortress(tmp_path / "home", "cluster", bundles="lung_fields") as closed:
        settings, callers = closed.settings, Callers(tmp_path / "home")
        add_user(settings, "anna", Role.RADIOLOGIST, PASSWORD)
        for name in (None, "orthanc-1", "orthanc-2", "https"):
            if name is not None:
                (pid,) = (member.pid for member in control.members(settings) if member.name == name)
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
            closed.wait(lambda: logs_in(closed), f"a log-in by TLS after the death of {name}", 60)
            closed.wait(lambda: echo(closed, callers.neighbour()), f"an echo by TLS after the death of {name}", 60)
            assert not echo(closed, callers.without_certificate())
            assert not echo(closed, callers.in_clear())
            closed.wait(lambda: all(member.serves for member in control.members(settings)), "all members", 60)


def test_a_member_that_does_not_start_is_named_and_the_others_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    environment = configured(home, bundles="lung_fields")
    (home / "postgresql").mkdir(mode=0o700)  # which holds no database
    for name in ("HILUM_HOME", "HILUM_HTTP_PORT", "HILUM_DICOM_PORT"):
        monkeypatch.setenv(name, environment[name])
    assert cli.main(["up", "--cluster", "--workers", "1", "--ray", "0", "--detach"]) == 1
    said = capsys.readouterr().err
    assert "postgresql ends as often as it is started" in said
    assert "cluster-postgresql.log" in said
    wait_until_nothing_runs(home)


def test_a_home_of_one_orthanc_and_databases_elsewhere_are_refused(tmp_path: Path) -> None:
    single, elsewhere = tmp_path / "single", tmp_path / "elsewhere"
    alone = load_settings(configured(single))
    alone.ledger.touch()
    with pytest.raises(node.NodeFailed, match=r"restore DIR --cluster"):
        control.start(alone)
    with pytest.raises(node.NodeFailed, match="check_modality_host"):
        control.start(load_settings(configured(elsewhere, check_modality_host="true")))
    url = "postgresql://hilum@db.example.org/ledger"
    with pytest.raises(node.NodeFailed, match="databases of its own"):
        control.start(load_settings({**configured(elsewhere), "HILUM_LEDGER_URL": url}))
    assert not Settings(single).cluster_file.exists()
    assert not Settings(elsewhere).cluster_file.exists()

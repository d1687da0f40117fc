"""docs/hospital.md is walked as a new administrator does: its blocks of commands, in their order, on real nodes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from postgres_server import PostgresServer, missing_for_cluster
from running_node import Node, end_cluster, free_port

from models.phantom import chest
from orthanc_plugin import cli
from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.settings import REPOSITORY, Settings, load_settings

pytestmark = pytest.mark.node

PAGE = (REPOSITORY / "docs" / "hospital.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"```sh\n# test: (.+?)\n(.*?)```", PAGE, re.DOTALL))
_FOLDERS = ("/srv/", "/backup/", "/etc/hilum/")


class Walk:
    """One machine with the folders of the page below another root.

    Each home has ports of its own, for the machines of the page are one here.
    """

    def __init__(self, root: Path, checkout: Path) -> None:
        self._root, self._checkout = root, checkout
        self._ports: dict[str, dict[str, str]] = {}
        for folder in _FOLDERS:
            (root / folder.strip("/")).mkdir(parents=True)
        script = checkout / "hilum"
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m orthanc_plugin.cli "$@"\n')
        script.chmod(0o755)

    def path(self, of_page: str) -> Path:
        return self._root / of_page.lstrip("/")

    def settings(self, home: str) -> Settings:
        return load_settings(self._environment(home) | {"HILUM_HOME": str(self.path(home))})

    def run(self, name: str) -> str:
        """The commands of a block; what they printed."""
        text = BLOCKS[name]
        for folder in _FOLDERS:
            text = text.replace(folder, f"{self._root}{folder}")
        # where a block goes on to another home, so do the ports
        for home in dict.fromkeys(re.findall(r"HILUM_HOME=\S+/srv/([\w-]+)", text)):
            ports = " ".join(f"{key}={value}" for key, value in self._of(f"/srv/{home}").items())
            export = f"export HILUM_HOME={self.path(f'/srv/{home}')}"
            text = re.sub(rf"{re.escape(export)}(?![\w-])", f"{export} {ports}", text)
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True, check=False,
                              cwd=self._checkout, env=self._environment(""), timeout=500)  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def _of(self, home: str) -> dict[str, str]:
        made = {"HILUM_HTTP_PORT": str(free_port()), "HILUM_DICOM_PORT": str(free_port())}
        return self._ports.setdefault(home, made)

    def _environment(self, home: str) -> dict[str, str]:
        others = {name: value for name, value in os.environ.items() if name not in ("HILUM_HOME",)}
        site = {"HILUM_BUNDLES": "lung_fields", "HILUM_QUIET_SECONDS": "0.5", "PYTHONPATH": str(REPOSITORY)}
        return others | site | (self._of(home) if home else {})


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    (tmp_path / "checkout").mkdir()
    made = Walk(tmp_path, tmp_path / "checkout")
    yield made
    for home in made.path("/srv").iterdir():
        settings = made.settings(f"/srv/{home.name}")
        end_cluster(settings) if settings.cluster_file.exists() else node.stop(settings)


def send(settings: Settings) -> str:
    ds = modality.radiograph(chest(2).pixels, Exposure(seed=uuid.uuid4().hex))
    (sent,) = modality.send([ds], "127.0.0.1", settings.dicom_port, settings.ae_title)
    assert sent.accepted
    return str(ds.StudyInstanceUID)


def require_answer(settings: Settings, study: str) -> None:
    credentials = load_credentials(settings.credentials)
    with node.http(settings, credentials) as client:
        running = Node(settings, credentials, client)
        assert running.wait_for(study, 120)["status"] == "done"
        assert (len(running.measurement_reports(study)), len(running.series(study, "SEG"))) == (1, 1)


def log_in(settings: Settings, name: str, password: str) -> dict[str, str]:
    with httpx.Client(base_url=settings.http_url, trust_env=False) as client:
        answer = client.post("/hilum/login", data={"name": name, "password": password},
                             headers={"Origin": settings.http_url})  # fmt: skip
        assert answer.status_code == 303, answer.text
        return dict(client.cookies)


def opens(settings: Settings, cookies: dict[str, str]) -> bool:
    return httpx.get(f"{settings.http_url}/dicom-web/studies", cookies=cookies, trust_env=False).status_code == 200


@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(missing_for_cluster()), reason="a cluster needs more packages")
def test_the_page_leads_from_one_machine_to_two_orthancs_on_a_database_elsewhere(
    walk: Walk, postgres: PostgresServer
) -> None:
    walk.run("one machine")
    study = send(walk.settings("/srv/hilum"))
    require_answer(walk.settings("/srv/hilum"), study)

    said = walk.run("a cluster")
    assert "Member     orthanc-2: serves" in said
    cluster = walk.settings("/srv/hilum-cluster")
    require_answer(cluster, study)
    require_answer(cluster, send(cluster))

    said = walk.run("people")
    assert "anna" in said
    password = re.search(r"Password +(\S+)", said)
    assert password is not None
    assert opens(cluster, log_in(cluster, "anna", password[1]))
    assert '"state": "w' in walk.run("watching")
    walk.run("backup")
    end_cluster(cluster)

    for name in ("ledger", "index"):
        (walk.path("/etc/hilum") / f"{name}-url").write_text(postgres.new_database())
    walk.run("PostgreSQL elsewhere")
    first = walk.path("/srv/hilum-a")
    require_answer(walk.settings("/srv/hilum-a"), study)

    second = walk.path("/srv/hilum-b")
    second.mkdir()
    for shared in ("orthanc", "audit"):  # as a mount does
        (second / shared).symlink_to(first / shared)
    said = walk.run("a second Orthanc")
    assert "anna" in said, "the database told it of her"
    a, b = walk.settings("/srv/hilum-a"), walk.settings("/srv/hilum-b")
    late = send(b)
    for at in (a, b):
        require_answer(at, study)
        require_answer(at, late)
    cookies = log_in(a, "anna", password[1])
    assert opens(a, cookies)
    assert opens(b, cookies), "who logged in at one is known at the other"


def test_every_command_of_the_page_is_one() -> None:
    commands = re.findall(r"^\./hilum ([^\n#]+)", PAGE, re.MULTILINE)
    commands += re.findall(r"`\./hilum ((?!test)[^`]+)`", PAGE)
    assert len(commands) > 20
    parser = cli._parser()
    for command in commands:
        if command not in ("audit", "users", "models activate"):  # named as such
            parser.parse_args(shlex.split(command))

"""What stands in docker/: read by the linters of shell, Dockerfile and compose, and held to what is said of it.

No engine runs here: `tests/integration/test_debian13.py` runs the entry points, in a Debian 13.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import ssl
import stat
import subprocess
import sys
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from debian13 import DOCKER, instructions, last_stage
from test_architecture import INSIDE_ORTHANC, OURS, imports, module_name, reached_from, source_files

from orthanc_plugin.commands.locked_packages import lock_files, read_lock
from orthanc_plugin.credentials import load_worker_account
from orthanc_plugin.ledger.ownership import load_archive_id
from orthanc_plugin.settings import REPOSITORY, load_settings

IMAGES = ("server", "worker")
PROFILES = ("single", "cluster")
SCRIPTS = [REPOSITORY / "hilum", REPOSITORY / ".ci/run", *(DOCKER / n for n in ("enter", "healthy", "make-secrets"))]
# a package's name where what is imported is called otherwise
NAMES = {"PIL": "pillow", "argon2": "argon2-cffi", "jinja2": "Jinja2", "sqlalchemy": "SQLAlchemy"}
COMES_WITH = {"markupsafe": "Jinja2", "torch": ""}  # torch is installed before
OF_THE_SERVER = [
    *(f"orthanc_plugin.commands.{name}" for name in ("users", "audit", "backup")),
    *(f"orthanc_plugin.{name}" for name in ("cli", "redaction", "viewer.prepare")),
]


def tool(name: str) -> str:
    """A linter of the environment or of this machine."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed: ./hilum test installs what requirements.lock names")
    return found


def compose_binary() -> str:
    """Docker Compose: the script of its package would swallow the exit code."""
    spec = importlib.util.find_spec("compose")
    inside = Path(spec.origin or "").with_name("docker-compose") if spec else Path("/nonexistent")
    return str(inside) if inside.exists() else tool("docker-compose")


@cache
def services(profile: str, **environment: str) -> dict[str, Any]:
    """The services of a profile as Docker Compose understands them; it says what it does not."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("HILUM_")} | environment
    done = subprocess.run(
        [compose_binary(), "--profile", profile, "config", "--format", "json"],
        cwd=DOCKER, env=given, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return dict(json.loads(done.stdout))


def every_service() -> list[tuple[str, str]]:
    text = (DOCKER / "compose.yaml").read_text().partition("\nservices:\n")[2].partition("\nnetworks:\n")[0]
    names = re.findall(r"^  ([a-z-]+):", text, re.MULTILINE)
    single = names.index("postgres")
    return [("single", n) for n in names[:single]] + [("cluster", n) for n in names[single:]]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean_by_shellcheck(script: Path) -> None:
    done = subprocess.run([tool("shellcheck"), script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("image", IMAGES)
def test_dockerfiles_are_clean_by_hadolint(image: str) -> None:
    command = [tool("hadolint"), "--failure-threshold", "info", DOCKER / image / "Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_nobody_says_whether_it_is_well_and_holds_no_secret(image: str) -> None:
    given = instructions(image)
    bases = [rest.partition("=")[2] for word, rest in given if word == "ARG" and rest.startswith("BASE=")]
    assert all(re.fullmatch(r"[a-z]+:\d[\w.-]+", base) for base in bases), f"a tag of one version: {bases}"
    assert len(bases) == 1
    assert {rest.split()[0] for word, rest in given if word == "FROM"} <= {"${BASE}", "packages"}
    runs = dict(last_stage(image))
    assert runs["USER"].split(":")[0].isdigit()
    assert int(runs["USER"].split(":")[0]) > 1000
    assert "healthy" in runs["HEALTHCHECK"]
    for word, rest in given:
        assert not (word in ("ENV", "ARG") and re.search(r"password|secret|token|_URL=", rest, re.IGNORECASE)), rest


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_made_of_files_that_are_there_and_are_sent_to_the_engine(image: str) -> None:
    allowed = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for word, rest in instructions(image):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (REPOSITORY / source).exists(), source
                assert any(fnmatch(source, pattern) for pattern in allowed), f"{source} is not sent to the engine"


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_installs_what_it_imports_in_the_versions_that_are_tested(image: str) -> None:
    lines = (DOCKER / image / "requirements.txt").read_text().splitlines()
    names = {line.partition("[")[0].lower() for line in lines if not line.startswith("#")}
    tested = [package for file in lock_files() for package in read_lock(file)]
    locked = read_lock(DOCKER / image / "requirements.lock")
    assert names <= {package.name.lower() for package in locked}
    assert [package for package in locked if package not in tested] == []
    if image == "server":
        loaded = {name for module in (*INSIDE_ORTHANC, *OF_THE_SERVER) for name in reached_from(module, set())}
    else:
        read = [path for path in source_files() if module_name(path).startswith(("models", "dicom_sr"))]
        read += sorted((REPOSITORY / "orthanc_plugin").glob("*.py"))
        read += [path for part in ("archive", "ledger", "reading", "working")
                 for path in (REPOSITORY / "orthanc_plugin" / part).rglob("*.py")]  # fmt: skip
        read = [path for path in read if module_name(path) not in ("orthanc_plugin.plugin", "orthanc_plugin.cli")]
        loaded = {name for path in read for name in imports(path)}
    foreign = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {*OURS, "orthanc", ""}
    needed = {COMES_WITH.get(name, NAMES.get(name, name)).lower() for name in foreign} - {""}
    assert needed <= names, f"docker/{image}/requirements.txt lacks {sorted(needed - names)}"


@pytest.mark.parametrize("profile", PROFILES)
def test_compose_reads_each_profile_and_finds_nothing_to_say(profile: str) -> None:
    assert set(services(profile)["services"]) == {name for of, name in every_service() if of == profile}


@pytest.mark.parametrize(("profile", "name"), every_service())
def test_a_container_may_do_no_more_than_it_must(profile: str, name: str) -> None:
    service = services(profile)["services"][name]
    assert service["read_only"] is True
    assert (service["cap_drop"], service.get("cap_add", [])) == (["ALL"], [])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert (service.get("privileges"), service.get("privileged")) == (None, None)
    limit = service.get("mem_limit") or service["deploy"]["resources"]["limits"]["memory"]
    assert 0 < int(limit) <= 16 << 30
    assert int(service["pids_limit"]) <= 512
    image = service["image"]
    assert re.search(r":\d[\w.-]+$", image), f"{image}: a tag of one version"
    built = "build" in service or image.startswith("hilum-")
    assert built or "unprivileged" in image or int(service["user"].split(":")[0]) > 0, "it would run as root"
    health = service.get("healthcheck", {})
    assert built or health["test"], "it cannot be told whether it is well"
    assert all(volume["type"] == "volume" or volume["read_only"] for volume in service.get("volumes", []))


@pytest.mark.parametrize("profile", PROFILES)
def test_no_port_is_open_beyond_this_machine_unless_it_is_set(profile: str) -> None:
    def ports(**environment: str) -> set[tuple[str, str, int]]:
        found = services(profile, **environment)["services"].values()
        return {(p.get("host_ip", ""), p["published"], p["target"]) for s in found for p in s.get("ports", [])}

    assert ports() == {("127.0.0.1", "8443", 8443), ("127.0.0.1", "4242", 4242)}
    opened = ports(HILUM_HTTPS="0.0.0.0:443", HILUM_DICOM="10.1.2.3:104")
    assert opened == {("0.0.0.0", "443", 8443), ("10.1.2.3", "104", 4242)}  # noqa: S104


@pytest.mark.parametrize("profile", PROFILES)
def test_secrets_come_by_file_and_stand_in_no_environment(profile: str) -> None:
    given = services(profile)
    assert all(Path(secret["file"]).parent == DOCKER / "secrets" for secret in given["secrets"].values())
    for name, service in given["services"].items():
        for variable, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|URL|SECRET|KEY", variable) and not variable.endswith("_FILE"):
                assert re.fullmatch(r"https://[a-z-]+:\d+", value), f"{name}: {variable}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``make-secrets`` was run."""
    folder = tmp_path_factory.mktemp("docker")
    shutil.copy(DOCKER / "make-secrets", folder)
    subprocess.run([folder / "make-secrets", "pacs.example.org", "10.1.2.3"], check=True)
    return folder


def test_secrets_are_made_once_for_every_file_that_compose_names(made: Path) -> None:
    folder = made / "secrets"
    wanted = {Path(s["file"]).name for profile in PROFILES for s in services(profile)["secrets"].values()}
    assert wanted <= {file.name for file in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    subprocess.run([made / "make-secrets"], check=True)
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}
    home = {"HILUM_HOME": str(made), "HILUM_LEDGER_URL_FILE": str(folder / "ledger-url"),
            "HILUM_INDEX_URL_FILE": str(folder / "index-url")}  # fmt: skip
    settings = load_settings(home)
    assert settings.ledger_url != settings.index_url


def test_the_certificate_is_trusted_by_its_authority_for_the_names_it_was_made_for(made: Path) -> None:
    folder = made / "secrets"
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    for name in ("hilum", "entrance", "localhost", "127.0.0.1", "pacs.example.org", "10.1.2.3", "elsewhere.org"):
        trusting = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = trusting.wrap_bio(to_client, to_server, server_hostname=name)
        server = served.wrap_bio(to_server, to_client, server_side=True)
        met = True
        for _ in range(4):
            for side in (client, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                except ssl.SSLError:
                    met = False
        assert met == (name != "elsewhere.org"), name


def test_the_entry_point_puts_secrets_where_their_owner_alone_reads_them(made: Path, tmp_path: Path) -> None:
    secrets, home = tmp_path / "secrets", tmp_path / "home"
    home.mkdir()
    secrets.mkdir()
    shutil.copy(made / "secrets/worker-account.json", secrets / "credentials.json")
    shutil.copy(made / "secrets/archive-id", secrets)
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY),
                   "HILUM_HOME": str(home), "HILUM_SECRETS": str(secrets)}  # fmt: skip
    enter = [DOCKER / "enter", "--help"]
    done = subprocess.run(enter, env=environment, capture_output=True, text=True, check=True)
    assert "./hilum worker" in done.stdout
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in home.iterdir()} == {
        "credentials.json": 0o600,
        "archive-id": 0o600,
    }
    account = load_worker_account(home / "credentials.json")
    assert json.loads((made / "secrets/credentials.json").read_text())["worker_password"] == account.password
    assert load_archive_id(home / "archive-id") == (made / "secrets/archive-id").read_text().strip()

"""The services of docker/compose.yaml without an engine: processes in a Debian 13, in network namespaces of their own.

The rule: what runs, with which variables, volumes, secrets and networks, is what Docker Compose reads from the file.
What is not tested is the engine's: layers, limits, restarts, and the ports of this machine (tests speak to the pods).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from debian13 import DOCKER, Chroot, environment, last_stage
from postgres_server import binaries

USER = 10001  # of the images
_STOP_SECONDS = 60.0
_ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")
_STREAM = "load_module /usr/lib/nginx/modules/ngx_stream_module.so; "  # built into the image, a module of Debian's


def wait(question: Callable[[], bool], what: str, seconds: float = 300.0) -> None:
    """Ask again and again."""
    end = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.5)


@contextmanager
def networks(names: list[str]) -> Iterator[dict[str, str]]:
    """A network namespace for each name, all on one bridge; gives their addresses, and that of this machine as ""."""
    mark, subnet = secrets.token_hex(2), f"10.{100 + secrets.randbelow(100)}.{secrets.randbelow(250)}"
    bridge, addresses = f"hil{mark}", {"": f"{subnet}.1"}
    _ip("link", "add", bridge, "type", "bridge")
    try:
        _ip("addr", "add", f"{subnet}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number, name in enumerate(names, start=2):
            space, addresses[name] = f"{bridge}-{name}", f"{subnet}.{number}"
            _ip("netns", "add", space)
            _ip("link", "add", f"{bridge}v{number}", "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", f"{bridge}v{number}", "master", bridge, "up")
            _ip("-n", space, "addr", "add", f"{addresses[name]}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", space, "link", "set", device, "up")
        yield {name: address for name, address in addresses.items()} | {"bridge": bridge}
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", f"{bridge}-{name}"], check=False, capture_output=True)
        _ip("link", "del", bridge)


class Stack:
    """Services of one profile.

    Parameters
    ----------
    services
        As Docker Compose reads them.
    made
        The folder with ``secrets``.
    addresses
        What `networks` gave.
    """

    def __init__(
        self, chroot: Chroot, services: Mapping[str, Any], made: Path, addresses: Mapping[str, str], folder: Path
    ) -> None:
        self.chroot, self.services, self._made, self.addresses = chroot, services, made, addresses
        self.folder, self._running = folder, dict[str, subprocess.Popen[bytes]]()
        lines = [f"{address} {name}" for name, address in addresses.items() if name not in ("", "bridge")]
        (folder / "hosts").write_text("127.0.0.1 localhost\n" + "\n".join(lines) + "\n")

    def volume(self, name: str) -> Path:
        """A volume, which belongs to the images' user from the first."""
        folder = self.folder / f"volume-{name}"
        if not folder.exists():
            folder.mkdir(mode=0o700)
            os.chown(folder, USER, USER)
        return folder

    def start(self, name: str, **extra: str) -> None:
        """Start a service as it is in the file, with more variables where a test needs them."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*_ENDS_WITH_US, *self._command(name, self._given(name), extra)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def is_healthy(self, name: str) -> bool:
        """What the health check of the service or of its image says."""
        if self._running[name].poll() is not None:
            raise AssertionError(f"{name} ended:\n{(self.folder / f'{name}.log').read_text()[-3000:]}")
        image = self._image(name)
        test = self.services[name].get("healthcheck", {}).get("test")
        check = test[1:] if test else json.loads(dict(last_stage(image))["HEALTHCHECK"].partition("CMD ")[2])
        command = self._command(name, check, {})
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0

    def stop(self, *names: str) -> None:
        """End services as an engine does."""
        for name in names or tuple(reversed(self._running)):
            process = self._running.pop(name)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def logs(self) -> str:
        """What services said."""
        found = [*self.folder.glob("*.log"), *self.folder.glob("volume-*/log/*.log")]
        return "\n".join(f"== {file.name}\n{file.read_text()[-2000:]}" for file in found)

    def _image(self, name: str) -> str:
        image = str(self.services[name]["image"]).partition(":")[0]
        return image.removeprefix("hilum-") if image.startswith("hilum-") else ""

    def _given(self, name: str) -> list[str]:
        service, image = self.services[name], self._image(name)
        if not image:
            command = list(service["command"])
            return [*command[:-1], _STREAM + command[-1]] if "entrance.conf" in str(command) else command
        stage = dict(last_stage(image))
        return [*json.loads(stage["ENTRYPOINT"]), *(service.get("command") or json.loads(stage["CMD"]))]

    def _command(self, name: str, given: list[str], extra: Mapping[str, str]) -> list[str]:
        service, image = self.services[name], self._image(name)
        variables = (environment(image) if image else {"PATH": "/usr/sbin:/usr/bin:/bin"}) | dict(extra)
        variables |= {key: value for key, value in (service.get("environment") or {}).items() if value is not None}
        folders: dict[Path, str] = {self.folder / "hosts": "/etc/hosts"}
        writable = set()
        for each in service.get("volumes", []):
            source = Path(each["source"]) if each["type"] == "bind" else self.volume(each["source"])
            folders[source] = each["target"]
            writable |= set() if each.get("read_only") else {each["target"]}
        if image == "worker" and "/var/lib/hilum" not in writable:  # its VOLUME, which nobody else sees
            folders[self.volume(name)] = "/var/lib/hilum"
            writable.add("/var/lib/hilum")
        if image:
            folders |= {DOCKER / script: f"/usr/local/bin/{script}" for script in ("enter", "healthy")}
        if taken := self._secrets(name):
            folders[taken] = "/run/secrets"
        mode = str(service.get("network_mode", f"service:{name}"))
        return self.chroot.command(
            image, given, variables=variables, folders=folders, writable=writable, user=USER, name=name,
            tmpfs=[each.partition(":")[0] for each in service.get("tmpfs", [])],
            network=f"{self.addresses['bridge']}-{mode.removeprefix('service:')}",
        )  # fmt: skip

    def _secrets(self, name: str) -> Path | None:
        wanted = self.services[name].get("secrets", [])
        folder = self.folder / f"secrets-{name}"
        if wanted and not folder.exists():
            folder.mkdir()
            for each in wanted:
                source = {"worker-account": "worker-account.json"}.get(each["source"], each["source"])
                target = folder / (each.get("target") or each["source"]).rpartition("/")[2]
                shutil.copy(self._made / "secrets" / source, target)
        return folder if wanted else None


@contextmanager
def database(made: Path, address: str) -> Iterator[None]:
    """A PostgreSQL server with a password at an address, with what ``docker/postgres`` makes in it."""
    tools = binaries()
    assert tools is not None
    folder = Path(tempfile.mkdtemp(prefix="hilum-pg-"))
    shutil.chown(folder, "postgres", "postgres")
    password = folder / "password"
    shutil.copy(made / "secrets/postgres-password", password)
    shutil.chown(password, "postgres", "postgres")
    as_postgres: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": folder}
    initdb = [tools / "initdb", "-D", folder / "data", "-U", "hilum", f"--pwfile={password}", "-A", "scram-sha-256"]
    subprocess.run([*initdb, "--data-checksums", "--no-sync"], check=True, capture_output=True, **as_postgres)
    with (folder / "data/pg_hba.conf").open("a") as rules:
        rules.write("host all all 0.0.0.0/0 scram-sha-256\n")
    options = [f"listen_addresses={address}", f"unix_socket_directories={folder}", "fsync=off"]
    command = [tools / "postgres", "-D", folder / "data", *(word for option in options for word in ("-c", option))]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, **as_postgres)
    try:
        known = {"host": address, "user": "hilum", "password": password.read_text().strip(), "autocommit": True}
        wait(lambda: _answers(known), "PostgreSQL", 30.0)
        with psycopg.connect(dbname="postgres", **known) as db:  # type: ignore[arg-type, unused-ignore]
            db.execute("CREATE DATABASE ledger")
            for script in sorted((DOCKER / "postgres").glob("*.sql")):
                db.execute(script.read_text())  # type: ignore[call-overload, unused-ignore]
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(known: Mapping[str, Any]) -> bool:
    try:
        psycopg.connect(dbname="postgres", **known).close()
    except psycopg.OperationalError:
        return False
    return True


def _ip(*given: str) -> None:
    subprocess.run(["ip", *given], check=True, capture_output=True)

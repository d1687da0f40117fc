"""A real PostgreSQL server for tests: a cluster in a temporary folder, on a Unix socket, ended by its pid."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

_START_SECONDS = 30.0


def binaries() -> Path | None:
    """The folder of the newest PostgreSQL server that is installed; None when there is none."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/postgres"), *map(Path, filter(None, [shutil.which("postgres")]))]
    versions = sorted(found, key=lambda path: [int(n) for n in path.parts if n.isdigit()])
    return versions[-1].parent if versions else None


def missing_for_cluster() -> str:
    """What a cluster needs and is not here, a Debian package or Ray; empty when all are."""
    if importlib.util.find_spec("ray") is None:
        return "ray"
    if binaries() is None:
        return "postgresql"
    if not list(Path("/usr").glob("*/orthanc/plugins/libOrthancPostgreSQLIndex.so")) and not list(
        Path("/usr/local").glob("share/orthanc/plugins/libOrthancPostgreSQLIndex.so")
    ):
        return "orthanc-postgresql"
    return "" if shutil.which("haproxy") else "haproxy"


class PostgresServer:
    """One cluster; it may be stopped, killed and started again, and keeps its databases."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        """Make the cluster in an empty folder whose path is short: it holds the socket (107 bytes at most).

        Only a `durable` one waits for the disk with each commit: what measures wants that, tests are faster without.
        """
        found = binaries()
        if found is None:
            raise RuntimeError("no PostgreSQL server is installed (Debian: apt install postgresql)")
        self._binaries, self._folder, self._durable = found, folder, durable
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        # PostgreSQL refuses to run as root
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(folder, self._user, self._user)
        self._run("initdb", "-D", str(folder / "data"), "-U", "hilum", "-A", "trust", "-E", "UTF8", "--no-sync")

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        """What it tells about itself, and about statements where a database has them logged."""
        return self._folder / "server.log"

    @property
    def is_running(self) -> bool:
        """Whether it was started and not killed since."""
        return self._process is not None

    def url(self, database: str = "postgres") -> str:
        """The address of a database, as `ledger_url` takes it."""
        return f"postgresql+psycopg://hilum@/{database}?host={self._folder}"

    def new_database(self) -> str:
        """Make an empty database and return its address."""
        name = f"ledger{next(self._numbers)}"
        with psycopg.connect(host=str(self._folder), user="hilum", dbname="postgres", autocommit=True) as db:
            db.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload, unused-ignore]
        return self.url(name)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        fsync = f"fsync={'on' if self._durable else 'off'}"
        settings = ("listen_addresses=", f"unix_socket_directories={self._folder}", "max_connections=100", fsync)
        command = [str(self._binaries / "postgres"), "-D", str(self._folder / "data")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *(word for setting in settings for word in ("-c", setting))],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self._folder,
                start_new_session=True,
                **self._as_user(),
            )
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg.connect(host=str(self._folder), user="hilum", dbname="postgres").close()
            except psycopg.OperationalError:
                if time.monotonic() > end or self._process.poll() is not None:
                    text = self.log.read_text("utf-8")
                    raise RuntimeError(f"PostgreSQL did not start:\n{text[-2000:]}") from None
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """End the server now; clients lose their connections (a "fast" shutdown)."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill the server with all its processes, as a power cut would; `start` recovers it."""
        assert self._process is not None
        pid = self._process.pid
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
        for each in (pid, *children):  # each child is a group of its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self._process.wait()
        end = time.monotonic() + _START_SECONDS
        while any(map(_lives, children)) and time.monotonic() < end:
            time.sleep(0.01)  # as long as one lives it holds the shared memory, and no other server starts
        self._process = None

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def _run(self, tool: str, *arguments: str) -> None:
        command = [str(self._binaries / tool), *arguments]
        done = subprocess.run(command, check=False, capture_output=True, cwd=self._folder, **self._as_user())
        if done.returncode != 0:
            raise RuntimeError(f"{tool} failed: {done.stderr.decode(errors='replace')}")

    def _as_user(self) -> dict[str, Any]:
        return {"user": self._user, "group": self._user, "extra_groups": []} if self._user else {}


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[PostgresServer]:
    """A running server for the time of a block; its cluster is deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="hilum-pg-"))
    try:
        folder.chmod(0o755)
        server = PostgresServer(folder, durable=durable)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)

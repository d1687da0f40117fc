"""The PostgreSQL server of a cluster of this machine: made once, with two databases, ledger and index.

The rule: it answers to this machine alone, by TCP, to whoever has the password; what it logs quotes no row.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from orthanc_plugin.commands.cluster.plan import INDEX, LEDGER, Plan, folder_of
from orthanc_plugin.commands.node import NodeFailed
from orthanc_plugin.settings import Settings

_SECONDS = 3
# PostgreSQL runs as nobody who is root. In a user namespace root bears another number, and keeps its files.
_AS_ANOTHER = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a path in HILUM_HOME may be longer than a socket's may be
    "max_connections": "200",
    # no values of rows: they are of patients
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}


def make_database(settings: Settings, plan: Plan) -> None:
    """Make the server's folder with both databases, unless it is there.

    Raises
    ------
    NodeFailed
    """
    data = _data(settings)
    if data.exists():
        return
    draft = data.with_name(data.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)  # of a first start that was broken off
    with TemporaryDirectory(dir=folder_of(settings)) as folder:
        password = Path(folder) / "password"
        password.write_text(plan.password, "ascii")
        rights = ["-A", "scram-sha-256", "--pwfile", str(password)]
        _run([_tool("initdb"), "-D", str(draft), "-U", "hilum", "-E", "UTF8", "--locale=C.UTF-8", "-k", *rights])
    made = "".join(f"CREATE DATABASE {name}\n" for name in (LEDGER, INDEX))
    _run([_tool("postgres"), "--single", "-D", str(draft), "postgres"], made)
    draft.rename(data)


def server_command(settings: Settings, plan: Plan) -> list[str]:
    """What runs the server; it ends with whoever started it.

    Raises
    ------
    NodeFailed
    """
    options = {**_OPTIONS, "port": str(plan.database_port)}
    words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    ending = ["setpriv", "--pdeathsig", "INT"]  # at once, and in order
    return [*_another(), *ending, _tool("postgres"), "-D", str(_data(settings)), *words]


def answers(plan: Plan) -> bool:
    """Whether both databases can be used."""
    try:
        for name in (LEDGER, INDEX):
            psycopg.connect(plan.url(name), connect_timeout=_SECONDS).close()
    except psycopg.OperationalError:
        return False
    return True


def _data(settings: Settings) -> Path:
    return settings.home / "postgresql"


def _tool(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    tool = str(found[-1]) if found else shutil.which(name)
    if tool is None:
        raise NodeFailed(
            "PostgreSQL's server is not installed: ./hilum up --cluster installs it, or: apt install postgresql"
        )
    return tool


def _another() -> tuple[str, ...]:
    return _AS_ANOTHER if os.geteuid() == 0 else ()


def _run(command: list[str], given: str = "") -> None:
    done = subprocess.run([*_another(), *command], input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = (done.stderr or done.stdout).strip().splitlines()
        told = f"PostgreSQL's folder could not be made: {why[-1] if why else done.returncode}"
        if os.geteuid() == 0:
            told += "; it does not run as root: run Hilum as a user of its own"
        raise NodeFailed(told)

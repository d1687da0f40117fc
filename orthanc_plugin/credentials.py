"""Users and passwords of a node: random, made at the first start, kept in a file that only its owner can read.

A worker that runs elsewhere has a file with its own account alone.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from orthanc_plugin.made_once import make_once


@dataclass(frozen=True)
class Credentials:
    """The account for people and programs, and the one that the worker uses."""

    user: str
    password: str = field(repr=False)
    worker_user: str
    worker_password: str = field(repr=False)


@dataclass(frozen=True)
class WorkerAccount:
    """The account by which a worker speaks to Orthanc."""

    user: str
    password: str = field(repr=False)


def load_credentials(path: Path) -> Credentials:
    """Read the accounts, or make them if there are none yet.

    Raises
    ------
    OSError
        PermissionError when others than the owner can read the file.
    """
    made = Credentials("hilum", secrets.token_urlsafe(18), "hilum-worker", secrets.token_urlsafe(24))
    make_once(path, json.dumps(asdict(made), indent=1))
    return Credentials(**_read(path))


def load_worker_account(path: Path) -> WorkerAccount:
    """Read the worker's account, from the node's file or from one that holds nothing else.

    Raises
    ------
    OSError
        When there is none; PermissionError when others than the owner can read the file.
    """
    try:
        found = _read(path)
        return WorkerAccount(found["worker_user"], found["worker_password"])
    except (KeyError, ValueError):
        raise OSError(f"{path} holds no worker_user with a worker_password") from None


def _read(path: Path) -> dict[str, str]:
    if path.stat().st_mode & 0o077:
        raise PermissionError(f"{path} can be read by others: chmod 600 it, and change the passwords")
    return dict(json.loads(path.read_text("utf-8")))

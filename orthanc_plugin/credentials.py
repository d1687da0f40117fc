"""Users and passwords of a node: random, made at the first start, kept in a file that only its owner can read."""

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


def load_credentials(path: Path) -> Credentials:
    """Read the accounts, or make them if there are none yet.

    Raises
    ------
    OSError
        PermissionError when others than the owner can read the file.
    """
    made = Credentials("hilum", secrets.token_urlsafe(18), "hilum-worker", secrets.token_urlsafe(24))
    make_once(path, json.dumps(asdict(made), indent=1))
    if path.stat().st_mode & 0o077:
        raise PermissionError(f"{path} can be read by others: chmod 600 it, and change the passwords")
    return Credentials(**json.loads(path.read_text("utf-8")))

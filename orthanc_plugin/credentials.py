"""Users and passwords of a node: random, made at the first start, kept in a file that only its owner can read."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path


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
    PermissionError
        When others than the owner can read the file.
    """
    if not path.exists():
        made = Credentials("hilum", secrets.token_urlsafe(18), "hilum-worker", secrets.token_urlsafe(24))
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}.draft")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(made), file, indent=1)
        draft.rename(path)
    if path.stat().st_mode & 0o077:
        raise PermissionError(f"{path} can be read by others: chmod 600 it, and change the passwords")
    return Credentials(**json.loads(path.read_text("utf-8")))

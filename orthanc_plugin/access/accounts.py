"""The accounts of a node: its own two, and those of people in ``users.json``, which holds hashes only.

The rule: both files are read by their owner alone and replaced as a whole; a running node takes up a change with the
next request. A file that cannot be trusted (open to others, damaged) lets nobody of it in.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import NamedTemporaryFile

from orthanc_plugin.access.passwords import hash_password, is_password
from orthanc_plugin.access.roles import ROLES_OF_PEOPLE, Role
from orthanc_plugin.credentials import Credentials, load_credentials

_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}", re.ASCII)
_FORMAT = 1
log = logging.getLogger("hilum.accounts")


class AccountsUnusable(Exception):
    """The accounts cannot be read or changed; the message says why and what to do."""


@dataclass(frozen=True)
class Account:
    """Somebody who may log in.

    Parameters
    ----------
    hashed
        Of the password, by argon2id.
    stamp
        Random, and new with each password and role: a session belongs to one.
    """

    name: str
    role: Role
    hashed: str = field(repr=False)
    stamp: str = field(repr=False)

    def is_password(self, password: str) -> bool:
        """Whether it is this account's."""
        return is_password(self.hashed, password)


@dataclass(frozen=True)
class OwnAccount(Account):
    """An account of the node itself (``credentials.json``): a random password, too long to be guessed.

    `hashed` is its SHA-256, which costs a program nothing, request after request.
    """

    def is_password(self, password: str) -> bool:
        """Whether it is this account's."""
        return hmac.compare_digest(_digest(password), self.hashed)


def read_users(file: Path) -> dict[str, Account]:
    """The accounts of people by name; none where there is no file.

    Raises
    ------
    AccountsUnusable
    """
    try:
        text = file.read_text("utf-8")
        if file.stat().st_mode & 0o077:
            raise AccountsUnusable(f"{file} can be read by others: chmod 600 it, and change the passwords")
        content = json.loads(text)
        users = [Account(u["name"], Role(u["role"]), u["hashed"], u["stamp"]) for u in content["users"]]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AccountsUnusable(f"{file} cannot be read ({type(error).__name__}): restore or remove it") from error
    if any(user.role not in ROLES_OF_PEOPLE or not _NAME.fullmatch(user.name) for user in users):
        raise AccountsUnusable(f"{file} names a user or a role that there cannot be: restore or remove it")
    return {user.name: user for user in users}


def own_accounts(credentials: Credentials) -> dict[str, Account]:
    """The node's own accounts by name: the first admin, and the worker."""
    given = (
        (credentials.user, credentials.password, Role.ADMIN),
        (credentials.worker_user, credentials.worker_password, Role.WORKER),
    )
    return {
        name: OwnAccount(name, role, hashed := _digest(password), stamp=_digest(hashed))
        for name, password, role in given
    }


class Accounts:
    """Every account of a node, read again when a file changes."""

    def __init__(self, credentials: Path, users: Path) -> None:
        self._files = (credentials, users)
        self._seen: list[object] = [None, None]
        self._own: dict[str, Account] = {}
        self._people: dict[str, Account] = {}
        self._lock = threading.Lock()

    def find(self, name: str) -> Account | None:
        """The account of this name, as the files hold it now."""
        with self._lock:
            self._read_again()
            key = name.strip().lower()
            return self._own.get(key) or self._people.get(key)

    def _read_again(self) -> None:
        credentials, users = self._files
        if (state := _state(credentials)) != self._seen[0] and state is not None:
            try:
                self._own = own_accounts(load_credentials(credentials))
            except (OSError, ValueError, TypeError):
                self._own = {}
                log.exception("the node's own accounts cannot be used")
            self._seen[0] = state
        if (state := _state(users)) != self._seen[1]:
            try:
                self._people = read_users(users)
            except AccountsUnusable:
                self._people = {}
                log.exception("the accounts of people cannot be used; nobody of them can log in")
            self._seen[1] = state


def add_user(file: Path, name: str, role: Role, password: str, *, taken: frozenset[str]) -> None:
    """Add somebody.

    Parameters
    ----------
    taken
        Names of the node's own accounts.

    Raises
    ------
    AccountsUnusable, PasswordRefused
    """
    key = name.strip().lower()
    if not _NAME.fullmatch(key):
        raise AccountsUnusable("a name has 1 to 64 letters, digits or . _ @ -, and begins with a letter or a digit")

    def add(users: dict[str, Account]) -> None:
        if key in users or key in taken:
            raise AccountsUnusable(f"there is a user {key} already")
        users[key] = Account(key, role, hash_password(password), secrets.token_hex(16))

    _change(file, add)


def remove_user(file: Path, name: str) -> None:
    """Remove somebody, whose sessions end.

    Raises
    ------
    AccountsUnusable
    """
    _change(file, lambda users: users.pop(_known(users, name)))


def set_password(file: Path, name: str, password: str) -> None:
    """Give somebody another password; their sessions end.

    Raises
    ------
    AccountsUnusable, PasswordRefused
    """
    _renew(file, name, lambda user: replace(user, hashed=hash_password(password)))


def set_role(file: Path, name: str, role: Role) -> None:
    """Give somebody another role; their sessions end.

    Raises
    ------
    AccountsUnusable
    """
    _renew(file, name, lambda user: replace(user, role=role))


def renew_own_password(file: Path) -> str:
    """Give the node's first admin a new random password, in ``credentials.json``; returns it.

    Raises
    ------
    OSError
    """
    with _locked(file):
        renewed = replace(load_credentials(file), password=secrets.token_urlsafe(18))
        _replace(file, json.dumps(asdict(renewed), indent=1))
    return renewed.password


def _renew(file: Path, name: str, changed: Callable[[Account], Account]) -> None:
    def renew(users: dict[str, Account]) -> None:
        key = _known(users, name)
        users[key] = replace(changed(users[key]), stamp=secrets.token_hex(16))

    _change(file, renew)


def _known(users: dict[str, Account], name: str) -> str:
    key = name.strip().lower()
    if key not in users:
        raise AccountsUnusable(f"there is no user {key[:64]!r}; ./hilum users list tells who there is")
    return key


def _change(file: Path, change: Callable[[dict[str, Account]], object]) -> None:
    with _locked(file):
        users = read_users(file)
        change(users)
        _replace(file, json.dumps({"format": _FORMAT, "users": [asdict(user) for user in users.values()]}, indent=1))


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One change at a time, whoever makes it."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with file.with_name(f".{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _replace(file: Path, text: str) -> None:
    # mode 0600 is NamedTemporaryFile's
    with NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, prefix=f".{file.name}.", delete=False) as draft:
        try:
            draft.write(text)
            draft.flush()
            os.fsync(draft.fileno())
            Path(draft.name).replace(file)
        except BaseException:
            Path(draft.name).unlink(missing_ok=True)
            raise


def _state(file: Path) -> object:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size, found.st_mode


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

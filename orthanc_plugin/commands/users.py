"""``./hilum users``: who may log in, as what.

The rule: a password is asked for, read from standard input or made here; it never stands in a command line, where every
user of the machine could read it. Each change is in the audit log.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import pwd
import sys

from rich.console import Console
from rich.table import Table

from orthanc_plugin.access import accounts
from orthanc_plugin.access.accounts import AccountsUnusable
from orthanc_plugin.access.audit import Audit, Who
from orthanc_plugin.access.passwords import PasswordRefused, make_password
from orthanc_plugin.access.roles import Role
from orthanc_plugin.commands.node import NodeFailed
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.settings import Settings

_AUDIT_SECONDS = 5.0


def users(settings: Settings, options: argparse.Namespace, console: Console) -> int:
    """Run one of the commands; returns the exit code.

    Raises
    ------
    NodeFailed
        When it cannot be done; the message says why.
    """
    try:
        return _run(settings, options, console)
    except (AccountsUnusable, PasswordRefused) as error:
        raise NodeFailed(str(error)) from error
    except OSError as error:
        if isinstance(error, PermissionError) and error.errno is None:
            raise  # it has its own words
        raise NodeFailed(f"the accounts cannot be changed: {error.strerror}: {error.filename}") from error


def _run(settings: Settings, options: argparse.Namespace, console: Console) -> int:
    own = load_credentials(settings.credentials)
    if options.do == "list":
        _list(settings, own.user, console, as_json=options.json)
        return 0
    name, taken = options.name.strip().lower(), frozenset((own.user, own.worker_user))
    if options.do == "password" and name == own.user:
        # a command line and programs use it: it is always made, and never short
        accounts.renew_own_password(settings.credentials)
        console.print(f"{name} has a new password, in {settings.credentials}")
    elif options.do != "add" and name in taken:
        raise NodeFailed(f"{name} is the node's own account: its password can be renewed, and no more")
    elif options.do == "add":
        password = _new_password(options)
        accounts.add_user(settings.users, name, Role(options.role), password, taken=taken)
        _show_made(options, password, console)
        console.print(f"{name} can log in as {options.role}.")
    elif options.do == "remove":
        accounts.remove_user(settings.users, name)
        console.print(f"{name} is removed; their sessions have ended.")
    elif options.do == "password":
        password = _new_password(options)
        accounts.set_password(settings.users, name, password)
        _show_made(options, password, console)
        console.print(f"{name} has a new password; their sessions have ended.")
    else:
        accounts.set_role(settings.users, name, Role(options.role))
        console.print(f"{name} is {options.role} now; their sessions have ended.")
    record(settings, f"users {options.do}", name)
    return 0


def _list(settings: Settings, own: str, console: Console, *, as_json: bool) -> None:
    people = accounts.read_users(settings.users)
    rows = [(own, str(Role.ADMIN), f"password in {settings.credentials}")]
    rows += [(user.name, str(user.role), "") for user in sorted(people.values(), key=lambda user: user.name)]
    if as_json:
        print(json.dumps([{"name": name, "role": role} for name, role, _ in rows]))
        return
    table = Table("User", "Role", "", box=None)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _show_made(options: argparse.Namespace, password: str, console: Console) -> None:
    if options.generate:
        console.print(f"Password   {password}")


def _new_password(options: argparse.Namespace) -> str:
    if options.generate:
        return make_password()
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != password:
        raise NodeFailed("these were two different passwords; nothing was changed")
    return password


def record(settings: Settings, action: str, detail: str) -> bool:
    """Write into the audit log what whoever runs this command did; False when the disk did not take it."""
    audit = Audit(settings.audit, longest=settings.audit_mb * 1_000_000)
    audit.start()
    who = Who(_user_of_machine(), "", "command line")
    written = audit.record(action, who, detail=detail, wait_seconds=_AUDIT_SECONDS)
    audit.stop()
    if not written:
        print("hilum: this could not be written to the audit log", file=sys.stderr)
    return written


def _user_of_machine() -> str:
    try:
        return f"{pwd.getpwuid(os.getuid()).pw_name} of this machine"
    except KeyError:
        return f"user {os.getuid()} of this machine"

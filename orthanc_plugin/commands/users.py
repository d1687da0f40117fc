"""``./hilum users``: who may log in, as what.

The rule: a password is asked for, read from standard input or made here; it never stands in a command line, where every
user of the machine could read it. Each change is in the audit log.
"""

from __future__ import annotations

import argparse
import getpass
import json
import sys

from rich.console import Console
from rich.table import Table

from orthanc_plugin.access import accounts
from orthanc_plugin.access.accounts import AccountsUnusable
from orthanc_plugin.access.passwords import PasswordRefused, make_password
from orthanc_plugin.access.roles import Role
from orthanc_plugin.commands.node import NodeFailed
from orthanc_plugin.commands.recorded import record
from orthanc_plugin.credentials import Credentials, load_credentials
from orthanc_plugin.ledger.shared_files import USERS, changing
from orthanc_plugin.settings import Settings


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
    with changing(settings, USERS):
        return _change(settings, options, own, console)


def _change(settings: Settings, options: argparse.Namespace, own: Credentials, console: Console) -> int:
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
    if not record(settings, f"users {options.do}", detail=name):
        print("hilum: this is done, but could not be written to the audit log", file=sys.stderr)
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

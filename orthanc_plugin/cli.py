"""The command line behind ``./hilum``: what people type, and what they read.

The rule: a mistake ends with one sentence that says what to do, and a non-zero exit code; never with a stack trace.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from orthanc_plugin.access.roles import ROLES_OF_PEOPLE
from orthanc_plugin.commands import node
from orthanc_plugin.commands.deliveries import add_arguments as add_deliveries
from orthanc_plugin.commands.subcommands import add_audit_commands, add_model_commands, add_tls_commands
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.ledger import tasks
from orthanc_plugin.ledger.database import LedgerError, open_ledger
from orthanc_plugin.settings import Settings, SettingsInvalid, load_settings
from orthanc_plugin.trust import TlsUnusable

console = Console(highlight=False, stderr=False)
_START_SECONDS = 120.0
_IMPAIRED_SECONDS = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print((Path(__file__).parent / "usage.txt").read_text("utf-8"), end="")
        return 0
    options = _parser().parse_args(given)
    try:
        if options.command in (doctor, config):  # they tell what is wrong with the settings as well
            return int(options.command(options))
        command: Callable[[Settings, argparse.Namespace], int] = options.command
        return command(load_settings(), options)
    except (node.NodeFailed, SettingsInvalid, LedgerError, TlsUnusable, PermissionError) as error:
        print(f"hilum: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0


def up(settings: Settings, options: argparse.Namespace) -> int:
    """Start the node; in the foreground until Ctrl-C, or detached once it is ready."""
    process = node.start(settings)
    impaired_at: float | None = None
    try:
        with Console(stderr=True).status("Starting Orthanc ...") as spinner:
            for state in node.wait_until_ready(settings, process, seconds=_START_SECONDS):
                spinner.update("Loading the models ...")
                impaired_at = (impaired_at or time.monotonic()) if state == "impaired" else None
                if impaired_at and time.monotonic() - impaired_at > _IMPAIRED_SECONDS:
                    break  # images are taken all the same
    except (node.NodeFailed, KeyboardInterrupt):
        node.stop(settings)
        raise
    _print_addresses(settings)
    _print_problems(status_now := node.status(settings))
    if options.detach:
        return 0 if status_now.state == "ready" or not (settings.workers or status_now.problems) else 1
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    console.print("\nCtrl-C ends the node.")
    try:
        return process.wait()
    except KeyboardInterrupt:
        node.stop(settings)
        return 0


def worker(settings: Settings, options: argparse.Namespace) -> int:
    """Run a worker by itself, for an Orthanc that starts none."""
    from orthanc_plugin.commands import worker as apart

    return apart.check(settings) if options.check else apart.run(settings)


def down(settings: Settings, _options: argparse.Namespace) -> int:
    """Stop the node."""
    print("The node has stopped." if node.stop(settings) else "The node was not running.")
    return 0


def status(settings: Settings, options: argparse.Namespace) -> int:
    """Tell how the node is; exit code 0 only when it is ready."""
    found = node.status(settings)
    credentials = load_credentials(settings.credentials) if settings.credentials.exists() else None
    if options.json:
        described = {
            "state": found.state,
            "http_url": settings.http_url,
            "dicom_port": settings.dicom_port,
            "ae_title": settings.ae_title,
            "user": credentials.user if credentials else None,
            "password": credentials.password if credentials else None,
            "home": str(settings.home),
            "models": found.details.get("models", {}),
            "studies": found.details.get("studies", {}),
            "problems": found.problems,
            "oldest_waiting_seconds": found.details.get("oldest_waiting_seconds"),
            "disk_free_mb": found.details.get("disk_free_mb"),
            "last_reconciliation": found.details.get("last_reconciliation"),
        }
        print(json.dumps(described))
    else:
        print(f"State      {found.state}")
        if found.state != "stopped":
            _print_addresses(settings)
        for name, version in found.details.get("models", {}).items():
            print(f"Model      {name} {version}")
        for name, count in found.details.get("studies", {}).items():
            if count:
                print(f"Studies    {count} {name.replace('_', ' ')}")
        if (oldest := found.details.get("oldest_waiting_seconds")) is not None:
            print(f"Waiting    {oldest:.0f} s, the oldest study")
        if (free := found.details.get("disk_free_mb")) is not None:
            print(f"Disk       {free} MB free, {settings.reserve_mb} MB kept for results")
        if (compared := found.details.get("last_reconciliation")) is not None:
            print(f"Compared   with Orthanc {max(0.0, time.time() - compared):.0f} s ago")
        _print_problems(found)
    return 0 if found.state == "ready" else 1


def send(settings: Settings, options: argparse.Namespace) -> int:
    """Send files and folders by C-STORE."""
    from orthanc_plugin.commands import modality

    where = "127.0.0.1", settings.dicom_port, settings.ae_title
    outcomes = list(modality.send_files(options.paths, *where, modality.caller_of(settings)))
    failed = [o for o in outcomes if not o.accepted]
    for outcome in failed:
        print(f"{outcome.name}: {outcome.error}", file=sys.stderr)
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} instances accepted by {settings.ae_title}.")
    return 0 if outcomes and not failed else 1


def demo(settings: Settings, options: argparse.Namespace) -> int:
    """Send studies as a modality would and show what comes back."""
    from orthanc_plugin.commands.demo import run_demo

    return run_demo(settings, console, limit=options.real)


def predict(settings: Settings, options: argparse.Namespace) -> int:
    """Read files without any server."""
    from orthanc_plugin.commands.predict import predict_files

    return predict_files(settings, options.paths, as_json=options.json, masks=options.masks)


def show(settings: Settings, options: argparse.Namespace) -> int:
    """Print what results say, as a person reads them."""
    from orthanc_plugin.commands.show import show as show_results

    return show_results(settings, options.names, console)


def reread(settings: Settings, options: argparse.Namespace) -> int:
    """Read studies once more with the models that are active now; what differs supersedes the earlier result."""
    unknown = 0
    with open_ledger(settings.ledger_address).write() as db:
        for uid in options.studies:
            if not tasks.request_again(db, uid, now=time.time()):
                print(f"hilum: {uid}: the ledger knows no such study", file=sys.stderr)
                unknown += 1
    print(f"{len(options.studies) - unknown} of {len(options.studies)} studies queued.")
    return 1 if unknown else 0


def retry(settings: Settings, options: argparse.Namespace) -> int:
    """Have quarantined studies tried again."""
    if bool(options.studies) == options.all:
        raise node.NodeFailed("give Study Instance UIDs, or --all")
    now = time.time()
    with open_ledger(settings.ledger_address).write() as db:
        if options.all:
            print(f"{tasks.retry(db, None, now=now)} studies queued.")
            return 0
        refused = [uid for uid in options.studies if not tasks.retry(db, uid, now=now)]
    for uid in refused:
        print(f"hilum: {uid}: no such study is in quarantine", file=sys.stderr)
    print(f"{len(options.studies) - len(refused)} of {len(options.studies)} studies queued.")
    return 1 if refused else 0


def backup(settings: Settings, options: argparse.Namespace) -> int:
    """Copy images, results, ledger and settings into a folder while the node runs."""
    from orthanc_plugin.commands import backup as copying

    return copying.backup(settings, options.folder, console, with_credentials=options.with_credentials)


def restore(settings: Settings, options: argparse.Namespace) -> int:
    """Make a node from a backup."""
    from orthanc_plugin.commands import backup as copying

    return copying.restore(settings, options.folder, console, check=options.check)


def verify(settings: Settings, options: argparse.Namespace) -> int:
    """Check DICOM objects against the standard, its templates and IHE AI Results."""
    from orthanc_plugin.commands.verify import verify_files

    return verify_files(options.paths, as_json=options.json, settings=settings)


def users(settings: Settings, options: argparse.Namespace) -> int:
    """Who may log in, and as what."""
    from orthanc_plugin.commands.users import users as run

    return run(settings, options, console)


def audit(settings: Settings, options: argparse.Namespace) -> int:
    """Who did what: whether the log is whole, and what it says."""
    from orthanc_plugin.commands.audit import audit as run

    return run(settings, options, console)


def ledger(settings: Settings, options: argparse.Namespace) -> int:
    """The ledger's schema, and the way to an earlier one for an earlier Hilum."""
    from orthanc_plugin.commands.ledger import ledger as run

    return run(settings, options, console)


def deliveries(settings: Settings, options: argparse.Namespace) -> int:
    """How the destinations stand; having them tried now, or given up."""
    from orthanc_plugin.commands.deliveries import deliveries as run

    return run(settings, options, console)


def tls(settings: Settings, options: argparse.Namespace) -> int:
    """Certificates: an authority of the site's own, and what it issues to the node and its neighbours."""
    from orthanc_plugin.commands.tls import tls as run

    return run(settings, options, console)


def doctor(options: argparse.Namespace) -> int:
    """Look at everything that keeps the node from its work, and say what to do; exit code 1 when something is wrong."""
    from orthanc_plugin.commands.doctor import doctor as run

    return run(options)


def config(options: argparse.Namespace) -> int:
    """What the site has set, from where, and what is wrong with it."""
    from orthanc_plugin.commands.config import config as run

    return run(options)


def systemd(settings: Settings, options: argparse.Namespace) -> int:
    """Print a unit for systemd that runs this checkout."""
    from orthanc_plugin.commands.systemd import unit

    print(unit(settings, os.environ, user=options.user), end="")
    return 0


def models(settings: Settings, options: argparse.Namespace) -> int:
    """Bundles: which there are, which run, and how to change that."""
    from orthanc_plugin.commands.models import models as run

    return run(settings, options)


def _print_addresses(settings: Settings) -> None:
    print(f"Worklist   {settings.http_url}/hilum/")
    print(f"OHIF       {settings.http_url}/ohif/")
    print(f"DICOM      AE title {settings.ae_title}, port {settings.dicom_port}")
    print(f"User       hilum, password in {settings.credentials}")
    print("Research software, not a medical device.")


def _print_problems(found: node.NodeStatus) -> None:
    for problem in found.problems:
        print(f"Problem    {problem['text']}\n           {problem['what_to_do']} [{problem['code']}]")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./hilum", usage="./hilum COMMAND ... (./hilum --help tells the commands)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    starting = _command(commands, "up", up)
    starting.add_argument("--detach", action="store_true", help="return when the node is ready")
    working = _command(commands, "worker", worker)
    working.add_argument("--check", action="store_true", help="only tell whether one of this machine is ready")
    _command(commands, "down", down)
    _command(commands, "status", status).add_argument("--json", action="store_true")
    sending = _command(commands, "send", send)
    sending.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    showing = _command(commands, "demo", demo)
    showing.add_argument(
        "--real", type=int, default=4, metavar="N", help="real radiographs to send, where there are any"
    )
    saying = _command(commands, "show", show)
    saying.add_argument("names", nargs="+", metavar="STUDY|FILE", help="Study Instance UID, or files and folders")
    _command(commands, "reread", reread).add_argument("studies", nargs="+", metavar="STUDY")
    retrying = _command(commands, "retry", retry)
    retrying.add_argument("studies", nargs="*", metavar="STUDY")
    retrying.add_argument("--all", action="store_true", help="every quarantined study")
    for name, function, flag in (("backup", backup, "--with-credentials"), ("restore", restore, "--check")):
        command = _command(commands, name, function)
        command.add_argument("folder", type=Path, metavar="DIR")
        command.add_argument(flag, action="store_true")
    verifying = _command(commands, "verify", verify)
    verifying.add_argument("paths", nargs="+", type=Path, metavar="FILE")
    verifying.add_argument("--json", action="store_true", help="one JSON object a file, one line each")
    reading = _command(commands, "predict", predict)
    reading.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    reading.add_argument("--json", action="store_true", help="one JSON object an image, one line each")
    reading.add_argument("--masks", type=Path, metavar="DIR", help="write each mask as DIR/<stem>__<key>.png")
    leading = _command(commands, "ledger", ledger)
    leading.add_argument("--to", type=int, metavar="SCHEMA", help="lead it there, with all its rows; the node is down")
    add_deliveries(_command(commands, "deliveries", deliveries))
    _command(commands, "doctor", doctor).add_argument("--json", action="store_true")
    asking = _command(commands, "config", config).add_subparsers(required=True, metavar="COMMAND", dest="do")
    asking.add_parser("check", help="what is wrong, with its line").add_argument("--json", action="store_true")
    asking.add_parser("show", help="every setting: value, default, where from").add_argument(
        "--json", action="store_true"
    )
    running = _command(commands, "systemd", systemd)
    running.add_argument("--user", default="", metavar="NAME", help="who the node runs as")
    add_model_commands(_command(commands, "models", models))
    _user_commands(_command(commands, "users", users))
    add_audit_commands(_command(commands, "audit", audit))
    add_tls_commands(_command(commands, "tls", tls))
    return parser


def _user_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="do")
    commands.add_parser("list", help="names and roles").add_argument("--json", action="store_true")
    adding = commands.add_parser("add", help="somebody new; the password is asked for")
    renewing = commands.add_parser("password", help="another password; sessions end")
    changing = commands.add_parser("role", help="another role; sessions end")
    removing = commands.add_parser("remove", help="somebody who may log in no more; sessions end")
    for command in (adding, renewing, changing, removing):
        command.add_argument("name", metavar="NAME")
    adding.add_argument("--role", required=True, choices=[str(role) for role in ROLES_OF_PEOPLE])
    changing.add_argument("role", choices=[str(role) for role in ROLES_OF_PEOPLE])
    for command in (adding, renewing):
        command.add_argument("--generate", action="store_true", help="make a password and print it")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    function: Callable[..., int],
) -> argparse.ArgumentParser:
    assert function.__doc__  # noqa: S101  (each command says what it does)
    parser: argparse.ArgumentParser = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
    parser.set_defaults(command=function)
    return parser


if __name__ == "__main__":
    sys.exit(main())

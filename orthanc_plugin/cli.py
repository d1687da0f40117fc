"""The command line behind ``./hilum``: what people type, and what they read.

The rule: a mistake ends with one sentence that says what to do, and a non-zero exit code; never with a stack trace.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from orthanc_plugin.access.roles import ROLES_OF_PEOPLE
from orthanc_plugin.commands import node
from orthanc_plugin.commands import status as telling
from orthanc_plugin.commands.cluster import control as cluster
from orthanc_plugin.commands.cluster.plan import is_cluster
from orthanc_plugin.commands.deliveries import add_arguments as add_deliveries
from orthanc_plugin.commands.subcommands import (
    add_audit_commands,
    add_model_commands,
    add_reprocess_arguments,
    add_tls_commands,
)
from orthanc_plugin.ledger.database import LedgerError
from orthanc_plugin.settings import Settings, SettingsInvalid, load_settings
from orthanc_plugin.trust import TlsUnusable

console = Console(highlight=False, stderr=False)
_START_SECONDS, _START_SECONDS_OF_CLUSTER = 120.0, 240.0
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
    several = options.cluster or is_cluster(settings)
    if not several and not (options.workers is None is options.ray):
        raise node.NodeFailed("--workers and --ray are for --cluster; a node of one Orthanc has settings for them")
    process = cluster.start(settings, options.workers, options.ray) if several else node.start(settings)
    settings, impaired_at = load_settings(), None  # a cluster's says where its databases are
    starting = (
        cluster.wait_until_ready(settings, process, seconds=_START_SECONDS_OF_CLUSTER)
        if several
        else node.wait_until_ready(settings, process, seconds=_START_SECONDS)
    )
    try:
        with Console(stderr=True).status("Starting Orthanc ...") as spinner:
            for state in starting:
                spinner.update("Loading the models ...")
                impaired_at = (impaired_at or time.monotonic()) if state == "impaired" else None
                if impaired_at and time.monotonic() - impaired_at > _IMPAIRED_SECONDS:
                    break  # images are taken all the same
    except (node.NodeFailed, KeyboardInterrupt):
        _stop(settings)
        raise
    telling.print_addresses(settings)
    telling.print_problems(status_now := _status(settings))
    if options.detach:
        return 0 if status_now.state == "ready" or not (settings.workers or status_now.problems) else 1
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    console.print("\nCtrl-C ends the node.")
    try:
        return process.wait()
    except KeyboardInterrupt:
        _stop(settings)
        return 0


def worker(settings: Settings, options: argparse.Namespace) -> int:
    """Run a worker by itself, for an Orthanc that starts none."""
    from orthanc_plugin.commands import worker as apart

    return apart.check(settings) if options.check else apart.run(settings)


def down(settings: Settings, _options: argparse.Namespace) -> int:
    """Stop the node."""
    print("The node has stopped." if _stop(settings) else "The node was not running.")
    return 0


def status(settings: Settings, options: argparse.Namespace) -> int:
    """Tell how the node is; exit code 0 only when it is ready."""
    return telling.tell(settings, _status(settings), as_json=options.json)


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
    from orthanc_plugin.commands import again

    return again.reread(settings, options.studies)


def retry(settings: Settings, options: argparse.Namespace) -> int:
    """Have quarantined studies tried again."""
    from orthanc_plugin.commands import again

    return again.retry(settings, options.studies, everything=options.all)


def reprocess(settings: Settings, options: argparse.Namespace) -> int:
    """Have the archive read again, behind everything live; the same command goes on with a run that was stopped."""
    from orthanc_plugin.commands.reprocess import reprocess as run

    return run(settings, options, console)


def backup(settings: Settings, options: argparse.Namespace) -> int:
    """Copy images, results, ledger and settings into a folder while the node runs."""
    from orthanc_plugin.commands import backup as copying

    return copying.backup(settings, options.folder, console, with_credentials=options.with_credentials)


def restore(settings: Settings, options: argparse.Namespace) -> int:
    """Make a node from a backup."""
    from orthanc_plugin.commands import backup as copying

    return copying.restore(settings, options.folder, console, check=options.check, as_cluster=options.cluster)


def deidentify(settings: Settings, options: argparse.Namespace) -> int:
    """Copy studies with their results, without what tells whose they are."""
    from orthanc_plugin.commands.deidentify import deidentify as run

    return run(settings, options.folder, options.studies, console)


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


def _status(settings: Settings) -> node.NodeStatus:
    return cluster.status(settings) if is_cluster(settings) else node.status(settings)


def _stop(settings: Settings) -> bool:
    return cluster.stop(settings) if is_cluster(settings) else node.stop(settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./hilum", usage="./hilum COMMAND ... (./hilum --help tells the commands)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    starting = _command(commands, "up", up)
    starting.add_argument("--detach", action="store_true", help="return when the node is ready")
    starting.add_argument("--cluster", action="store_true", help="PostgreSQL, two Orthancs, Ray, workers, one entrance")
    starting.add_argument("--workers", type=int, choices=range(33), metavar="N", help="of a cluster")
    starting.add_argument("--ray", type=int, choices=range(33), metavar="N", help="nodes of Ray of a cluster; 0: none")
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
    add_reprocess_arguments(_command(commands, "reprocess", reprocess))
    for name, function, flag in (("backup", backup, "--with-credentials"), ("restore", restore, "--check")):
        command = _command(commands, name, function)
        command.add_argument("folder", type=Path, metavar="DIR")
        command.add_argument(flag, action="store_true")
        if name == "restore":
            command.add_argument("--cluster", action="store_true", help="make a cluster of this machine of it")
    copying = _command(commands, "deidentify", deidentify)
    copying.add_argument("folder", type=Path, metavar="DIR")
    copying.add_argument("studies", nargs="+", metavar="STUDY")
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

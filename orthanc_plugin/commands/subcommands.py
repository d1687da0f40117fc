"""What can be said to the commands that have commands of their own, or much to be told."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_model_commands(parser: argparse.ArgumentParser) -> None:
    """``./hilum models ...``."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="do")
    for name, told in (("list", "every bundle"), ("verify", "read every file again and load every bundle")):
        commands.add_parser(name, help=told).add_argument("--json", action="store_true")
    showing = commands.add_parser("show", help="contract, digests and figures; what it said in shadow")
    starting = commands.add_parser("activate", help="read the next study with it, after a trial on a phantom")
    ending = commands.add_parser("deactivate", help="end what activate began")
    for command in (showing, starting, ending):
        command.add_argument("name", metavar="NAME")
        command.add_argument("version", metavar="VERSION", nargs="?")
    showing.add_argument("--json", action="store_true")
    starting.add_argument("--shadow", action="store_true", help="run it and record what it says; publish nothing")
    commands.add_parser("rollback", help="go back to what was chosen before")
    adding = commands.add_parser("add", help="take a bundle from a folder")
    adding.add_argument("folder", type=Path, metavar="DIR")
    adding.add_argument("--name", help="of the bundle, if not that of its folder")
    importing = commands.add_parser("import", help="make a bundle of published weights")
    importing.add_argument("importer", choices=("torchxrayvision", "chexnet", "dino"))
    importing.add_argument("variant", nargs="?", metavar="VARIANT", help="which weights; the first one by default")
    importing.add_argument("--file", type=Path, help="the weights, instead of fetching them")
    importing.add_argument("--name", help="of the bundle")
    importing.add_argument("--version", default="1.0.0", help="of the bundle (default 1.0.0)")
    commands.add_parser("pin", help="record the shipped bundles as they are: for whoever makes them")


def add_tls_commands(parser: argparse.ArgumentParser) -> None:
    """``./hilum tls ...``."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="do")
    for name, told in (("init", "an authority, and the node's certificate"), ("renew", "the node's certificate")):
        commands.add_parser(name, help=told).add_argument(
            "names", nargs="*", metavar="NAME", help="host name, or address"
        )
    commands.add_parser("client", help="for a modality or a worker").add_argument("name", metavar="NAME")
    commands.add_parser("show", help="names, and until when").add_argument("--json", action="store_true")


def add_audit_commands(parser: argparse.ArgumentParser) -> None:
    """What can be asked of it."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="do")
    commands.add_parser("verify", help="follow the chain of hashes; exit code 1 when something is missing or changed")
    showing = commands.add_parser("show", help="entries, the oldest first")
    showing.add_argument("--json", action="store_true", help="one JSON object a line, as it is in the file")
    exporting = commands.add_parser("export", help="audit messages of DICOM (PS3.15 A.5), one XML document a line")
    for command in (showing, exporting):
        command.add_argument("--study", metavar="UID", help="of this study")
        command.add_argument("--user", metavar="NAME", help="of this user")
        command.add_argument("--since", metavar="TIME", help="2026-11-21, 2026-11-21T08:00, or 90m, 12h, 7d ago")
    removing = commands.add_parser("remove", help="whole files with nothing later than a time; the log tells of it")
    removing.add_argument("--before", required=True, metavar="TIME", help="as --since")


def add_reprocess_arguments(parser: argparse.ArgumentParser) -> None:
    """``./hilum reprocess ...``."""
    for name, told in (("--since", "studies of this day and later"), ("--until", "and of no later one than this")):
        parser.add_argument(name, metavar="DATE", help=told)
    parser.add_argument("--model", metavar="NAME@VERSION", help="only what was read without this active model")
    parser.add_argument("--limit", type=int, metavar="N", help="this many studies at the most")
    parser.add_argument("--dry-run", action="store_true", help="only tell how many there are")
    parser.add_argument("--status", action="store_true", help="how far the last run is")
    parser.add_argument("--json", action="store_true", help="the status, as one JSON object")
    parser.add_argument("--stop", action="store_true", help="end the run for now")

"""``./hilum bench NAME``: times parts of the node against named baselines, in one run; or tries to break it."""

from __future__ import annotations

import argparse
import signal
import sys
import warnings
from pathlib import Path


def main() -> int:
    """Run the comparisons of one part; each imports only what it needs."""
    parser = argparse.ArgumentParser(prog="./hilum bench", description=__doc__)
    parts = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, what in (
        ("intake", "from a file to gray values; each decoder"),
        ("encode", "from findings to results"),
        ("ingest", "C-STORE with and without the plugin"),
    ):
        _measuring(parts.add_parser(name, help=what)).add_argument("--rounds", type=int, default=5)
    faults = parts.add_parser("faults", help="kill everything at random, then count what Orthanc holds")
    faults.add_argument("--kills", type=int, default=100)
    faults.add_argument("--seed", type=int, default=1)
    faults.add_argument("--ledger", choices=["sqlite", "postgresql"], default="sqlite")
    faults.add_argument("--cluster", action="store_true", help="of ./hilum up --cluster: its members die")
    faults.add_argument("--disk-mb", type=int, default=2048, help="size of the disk that is filled; 0: it never is")
    soak = parts.add_parser("soak", help="memory and ledger over many studies")
    soak.add_argument("--studies", type=int, default=1000)
    worklist = parts.add_parser("worklist", help="pages, filters and searches over a million studies")
    worklist.add_argument("--studies", type=int, default=1_000_000)
    worklist.add_argument("--ledger", choices=["sqlite", "postgresql"], default="sqlite")
    worklist.add_argument("--write", action="store_true", help="docs/worklist.md, the part of this database")
    triage = parts.add_parser("triage", help="simulated waiting: the reading order against others")
    triage.add_argument("--replications", type=int, default=100)
    triage.add_argument("--days", type=int, default=30)
    triage.add_argument("--write", action="store_true", help="docs/triage.md and its plot")
    bundles = parts.add_parser("models", help="the figures of each committed bundle, and its time an image")
    for part in (faults, soak, worklist, triage, bundles):
        part.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    runtimes = _measuring(parts.add_parser("runtimes", help="each runtime of the default networks, in one run"))
    runtimes.add_argument("--rounds", type=int, default=40)
    for name, what, studies in _OF_STUDIES:
        part = _measuring(parts.add_parser(name, help=what))
        part.add_argument("--studies", type=int, default=studies)
        if name == "latency":
            part.add_argument("--seconds", type=float, default=10.0, help="for which studies come at a steady rate")
    scaling = parts.add_parser("scaling", help="from one machine to a million studies a day, from measured costs")
    scaling.add_argument("--studies", type=int, default=60, help="that wait in each queue")
    scaling.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    scaling.add_argument("--write", action="store_true", help="docs/scaling.md, its tables and its plot")
    starting = _measuring(parts.add_parser("starting", help="seconds until the node is ready, and its memory"))
    starting.add_argument("--rounds", type=int, default=5)
    growth = _measuring(parts.add_parser("growth", help="cost against size; of what: PART"))
    parts_of_growth = ["pixels", "bundles", "queue", "archive", "all"]
    growth.add_argument(
        "parts", choices=parts_of_growth, nargs="*", default="all", metavar="PART", help=f"{', '.join(parts_of_growth)}"
    )
    growth.add_argument("--rounds", type=int, default=10, help="studies of each size; of a ledger 10 times as many")
    growth.add_argument("--most", type=float, default=float("inf"), help="leave larger sizes out")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started ends, and its folder goes
    warnings.simplefilter("ignore", FutureWarning)  # of torch.export, about itself
    return _run(parser.parse_args())


# Those that send studies to a node: name, what is measured, and how many studies unless it is said.
_OF_STUDIES = (
    ("latency", "from the last C-STORE response to flag, objects and report, beside the plain way", 50),
    ("throughput", "how fast waiting studies are read, beside the plain way", 500),
    ("stages", "where the time of a study goes, beside the plain way", 30),
    ("ray", "studies a second with one actor and with two, beside processes", 200),
    ("reprocess", "live studies alone, and beside a run through the archive", 30),
)


def _measuring(part: argparse.ArgumentParser) -> argparse.ArgumentParser:
    part.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    part.add_argument("--write", action="store_true", help="into docs/performance.md")
    return part


def _run(options: argparse.Namespace) -> int:
    if options.name == "faults":
        from tests.bench import faults
        from tests.faults.run import Plan

        ledger = "cluster" if options.cluster else options.ledger
        plan = Plan(options.kills, options.seed, ledger, options.disk_mb)
        return faults.compare(plan, json_file=options.json)
    if options.name == "worklist":
        from tests.bench import worklist

        postgresql = options.ledger == "postgresql"
        return worklist.compare(options.studies, postgresql=postgresql, json_file=options.json, write=options.write)
    if options.name == "triage":
        from tests.bench import triage

        triage.compare(options.replications, options.days, json_file=options.json, write=options.write)
        return 0
    if options.name == "models":
        from tests.bench import bundles

        bundles.compare(options.json)
    elif options.name == "soak":
        from tests.bench import soak

        soak.compare(options.studies, json_file=options.json)
    else:
        _measure(options)
    return 0


def _measure(options: argparse.Namespace) -> None:
    """What stands in docs/performance.md and docs/scaling.md."""
    told = {"json_file": options.json, "write": options.write}
    if options.name == "latency":
        from tests.bench import latency

        latency.compare(options.studies, options.seconds, **told)
    elif options.name == "throughput":
        from tests.bench import throughput

        throughput.compare(options.studies, **told)
    elif options.name == "stages":
        from tests.bench import stages

        stages.compare(options.studies, **told)
    elif options.name == "ray":
        from tests.bench import ray

        ray.compare(options.studies, **told)
    elif options.name == "reprocess":
        from tests.bench import reprocess

        reprocess.compare(options.studies, **told)
    elif options.name == "scaling":
        from tests.bench import scaling

        scaling.compare(options.studies, **told)
    elif options.name == "starting":
        from tests.bench import starting

        starting.compare(options.rounds, **told)
    elif options.name == "runtimes":
        from tests.bench import runtimes

        runtimes.compare(options.rounds, **told)
    elif options.name == "ingest":
        from tests.bench import ingest

        ingest.compare(options.rounds, **told)
    elif options.name == "encode":
        from tests.bench import encode

        encode.compare(options.rounds, **told)
    elif options.name == "intake":
        from tests.bench import intake

        intake.compare(options.rounds, **told)
    else:
        from tests.bench import growth

        names = growth.NAMES if "all" in options.parts else options.parts
        growth.compare(names, rounds=options.rounds, most=options.most, **told)


if __name__ == "__main__":
    sys.exit(main())

"""``./hilum bench NAME``: times parts of the node against named baselines, in one run; or tries to break it."""

from __future__ import annotations

import argparse
import sys
import warnings
from importlib import import_module
from pathlib import Path

_PERFORMANCE = "docs/performance.md"
_GROWTH = ("pixels", "bundles", "queue", "archive", "all")
# Name, what is measured, where --write puts it.
_BENCHES = {
    "latency": ("from the last C-STORE response to flag, objects and report, beside the plain way", _PERFORMANCE),
    "throughput": ("how fast waiting studies are read, beside the plain way", _PERFORMANCE),
    "stages": ("where the time of a study goes, beside the plain way", _PERFORMANCE),
    "starting": ("seconds until the node is ready, and its memory", _PERFORMANCE),
    "runtimes": ("each runtime of the default networks, in one run", _PERFORMANCE),
    "growth": ("cost against size of image, bundles, queue and archive", f"{_PERFORMANCE}, with plots"),
    "ingest": ("C-STORE with and without the plugin", _PERFORMANCE),
    "intake": ("from a file to gray values; each decoder", _PERFORMANCE),
    "encode": ("from findings to results", _PERFORMANCE),
    "ray": ("studies a second with one actor and with two, beside processes", _PERFORMANCE),
    "reprocess": ("live studies alone, and beside a run through the archive", _PERFORMANCE),
    "scaling": ("from one machine to a million studies a day, from measured costs", "docs/scaling.md, with its plot"),
    "models": ("the figures of each committed bundle, and its time an image", "docs/bundles.md"),
    "faults": ("kill everything at random, then count what Orthanc holds", "docs/reliability.md"),
    "soak": ("memory and ledger over many studies", "docs/reliability.md"),
    "worklist": ("pages, filters and searches over a million studies", "docs/worklist.md, the part of this database"),
    "triage": ("simulated waiting: the reading order against others", "docs/triage.md, with its plot"),
}
_ROUNDS = {"ingest": 5, "intake": 5, "encode": 5, "starting": 5, "runtimes": 40}
_STUDIES = {
    "latency": 50,
    "throughput": 500,
    "stages": 30,
    "ray": 200,
    "reprocess": 30,
    "scaling": 60,
    "soak": 1000,
    "worklist": 1_000_000,
}


def main() -> int:
    """Run the comparisons of one part; each imports only what it needs."""
    warnings.simplefilter("ignore", FutureWarning)  # of torch.export, about itself
    return _run(_parser().parse_args())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./hilum bench", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    parts = {}
    for name, (what, page) in _BENCHES.items():
        part = parts[name] = names.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        part.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
        part.add_argument("--write", action="store_true", help=f"into {page}")
        if name in _ROUNDS:
            part.add_argument("--rounds", type=int, default=_ROUNDS[name], help="default %(default)s")
        if name in _STUDIES:
            part.add_argument("--studies", type=int, default=_STUDIES[name], help="default %(default)s")
    parts["latency"].add_argument(
        "--seconds", type=float, default=10.0, help="for which studies come at a steady rate; default %(default)g"
    )
    growth = parts["growth"]
    growth.add_argument(
        "parts", choices=_GROWTH, nargs="*", default="all", metavar="PART", help=f"{', '.join(_GROWTH)} (the default)"
    )
    growth.add_argument("--rounds", type=int, default=10, help="studies of each size; of a ledger 10 times as many")
    growth.add_argument("--most", type=float, default=float("inf"), help="leave larger sizes out")
    for name in ("faults", "worklist"):
        parts[name].add_argument("--ledger", choices=["sqlite", "postgresql"], default="sqlite")
    parts["faults"].add_argument("--kills", type=int, default=100)
    parts["faults"].add_argument("--seed", type=int, default=1)
    parts["faults"].add_argument(
        "--disk-mb", type=int, default=2048, help="size of the disk that is filled; 0: it never is"
    )
    parts["faults"].add_argument("--cluster", action="store_true", help="of ./hilum up --cluster: its members die")
    parts["triage"].add_argument("--replications", type=int, default=100)
    parts["triage"].add_argument("--days", type=int, default=30)
    return parser


def _run(options: argparse.Namespace) -> int:
    """Ask the module of a bench; what it returns counts where that is a number."""
    name = options.name
    bench = import_module(f"tests.bench.{'bundles' if name == 'models' else name}")
    told = {"json_file": options.json, "write": options.write}
    if name == "faults":
        from tests.faults.run import Plan

        ledger = "cluster" if options.cluster else options.ledger
        plan = Plan(options.kills, options.seed, ledger, options.disk_mb)
        return int(bench.compare(plan, **told))
    if name == "worklist":
        return int(bench.compare(options.studies, postgresql=options.ledger == "postgresql", **told))
    if name == "growth":
        names = _GROWTH[:-1] if "all" in options.parts else options.parts
        bench.compare(names, rounds=options.rounds, most=options.most, **told)
    elif name == "triage":
        bench.compare(options.replications, options.days, **told)
    elif name == "latency":
        bench.compare(options.studies, options.seconds, **told)
    elif name == "models":
        bench.compare(**told)
    else:
        bench.compare(options.studies if name in _STUDIES else options.rounds, **told)
    return 0


if __name__ == "__main__":
    sys.exit(main())

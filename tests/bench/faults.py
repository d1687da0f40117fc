"""A long run with faults: kills everything again and again, then asks Orthanc what became of each study.

The rule: a promise that was not kept is printed with its study; Ctrl-C ends the faults, and counts what was done.
"""

from __future__ import annotations

import signal
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.bench.machine import describe
from tests.bench.sheets import RELIABILITY, Sheet, keep, tell
from tests.faults import cluster_run
from tests.faults.counting import Fate
from tests.faults.run import Plan, run
from tests.faults.score import Score, summary

_TELL = 50  # kills between two lines in a log


def compare(plan: Plan, *, json_file: Path | None = None, write: bool = False) -> int:
    """Carry out a plan and print its score; 0 when every promise was kept."""
    for ending in (signal.SIGINT, signal.SIGTERM):  # also where a shell started this in the background
        signal.signal(ending, signal.default_int_handler)
    machine = describe()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task(f"kills, {plan.ledger}", total=plan.kills)

        def show(so_far: Score) -> None:
            progress.update(bar, completed=so_far.all_kills)
            if not console.is_terminal and so_far.all_kills % _TELL == 0:  # a bar is not seen in a file
                console.print(f"{so_far.all_kills} of {plan.kills} kills, {plan.ledger}")

        score = (cluster_run.run if plan.ledger == "cluster" else run)(plan, show)
    tell(f"faults {plan.ledger}", sheets(score), machine, write=write, page=RELIABILITY)
    keep(score.to_json(), json_file)
    return 1 if score.broken() or score.never_acknowledged else 0


def sheets(score: Score) -> list[Sheet]:
    """The score for people: what was done to the node, and what became of the studies."""
    title = f"{score.all_kills} kills, ledger {score.ledger}, seed {score.seed}, {score.seconds / 60:.0f} min"
    struck = [
        *((name, str(times)) for name, times in sorted(score.kills.items())),
        *((f"at {name}", str(times)) for name, times in sorted(score.failpoints.items())),
        *((name.replace("_", " "), str(times)) for name, times in sorted(score.others.items())),
        *((skipped, "skipped") for skipped in score.skipped),
    ]
    became = [
        ("studies acknowledged", str(len(score.found))),
        ("images acknowledged", str(score.images)),
        ("images sent again, for no answer came", str(score.not_acknowledged)),
        ("images never acknowledged", str(score.never_acknowledged)),
        *((fate.value, str(score.count(fate))) for fate in Fate),
        *(
            (f"quarantined before the replay: {reason}", str(studies))
            for reason, studies in sorted(score.quarantined_before_replay.items())
        ),
        ("documents replaced by later ones", str(sum(one.superseded for one in score.found))),
    ]
    for name, values in (
        (f"s from a kill until the study goes on (lease {score.lease_seconds:g} s)", score.all_recovery_seconds),
        *((f"the same, {what} killed", seconds) for what, seconds in sorted(score.recovery_seconds.items())),
        ("s from a start of Orthanc to a ready worker", score.ready_seconds),
    ):
        if figures := summary(values):
            became.append((name, "p50 {p50}, p99 {p99}, max {max} (n {n})".format(**figures)))
    became += [(one.study_instance_uid, f"{one.fate.value}: {one.why}") for one in score.broken()[:20]]
    broken_off = ", broken off" if score.broken_off else ""
    return [
        Sheet(title + broken_off, ("what died, or failed", "times"), tuple(struck)),
        Sheet("What Orthanc holds", ("what became of it", "how many"), tuple(became)),
    ]

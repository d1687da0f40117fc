"""A long run with faults: kills everything again and again, then asks Orthanc what became of each study.

The rule: a promise that was not kept is printed with its study; Ctrl-C ends the faults, and counts what was done.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tests.faults import cluster_run
from tests.faults.counting import Fate
from tests.faults.run import Plan, run
from tests.faults.score import Score, summary

_TELL = 50  # kills between two lines in a log


def compare(plan: Plan, *, json_file: Path | None = None) -> int:
    """Carry out a plan and print its score; 0 when every promise was kept."""
    for ending in (signal.SIGINT, signal.SIGTERM):  # also where a shell started this in the background
        signal.signal(ending, signal.default_int_handler)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task(f"kills, {plan.ledger}", total=plan.kills)

        def tell(so_far: Score) -> None:
            progress.update(bar, completed=so_far.all_kills)
            if not console.is_terminal and so_far.all_kills % _TELL == 0:  # a bar is not seen in a file
                console.print(f"{so_far.all_kills} of {plan.kills} kills, {plan.ledger}")

        score = (cluster_run.run if plan.ledger == "cluster" else run)(plan, tell)
    for table in tables(score):
        Console().print(table)
    if json_file is not None:
        json_file.write_text(json.dumps(score.to_json(), indent=1) + "\n", "utf-8")
    return 1 if score.broken() or score.never_acknowledged else 0


def tables(score: Score) -> list[Table]:
    """The score for people: what was done to the node, and what became of the studies."""
    title = f"{score.all_kills} kills, ledger {score.ledger}, seed {score.seed}, {score.seconds / 60:.0f} min"
    struck = Table("what died, or failed", "times", title=title + (", broken off" if score.broken_off else ""))
    for name, times in (
        *((name, times) for name, times in sorted(score.kills.items())),
        *((f"at {name}", times) for name, times in sorted(score.failpoints.items())),
        *((name.replace("_", " "), times) for name, times in sorted(score.others.items())),
    ):
        struck.add_row(name, str(times))
    for skipped in score.skipped:
        struck.add_row(skipped, "skipped")
    became = Table("what became of it", "", title="what Orthanc holds")
    became.add_row("studies acknowledged", str(len(score.found)))
    became.add_row("images acknowledged", str(score.images))
    became.add_row("images sent again, for no answer came", str(score.not_acknowledged))
    became.add_row("images never acknowledged", str(score.never_acknowledged))
    for fate in Fate:
        became.add_row(fate.value, str(score.count(fate)))
    for reason, studies in sorted(score.quarantined_before_replay.items()):
        became.add_row(f"quarantined before the replay: {reason}", str(studies))
    became.add_row("documents replaced by later ones", str(sum(one.superseded for one in score.found)))
    for name, values in (
        (f"s from a kill until the study goes on (lease {score.lease_seconds:g} s)", score.all_recovery_seconds),
        *((f"the same, {what} killed", seconds) for what, seconds in sorted(score.recovery_seconds.items())),
        ("s from a start of Orthanc to a ready worker", score.ready_seconds),
    ):
        if figures := summary(values):
            shown = "p50 {p50}, p99 {p99}, max {max} (n {n})".format(**figures)
            became.add_row(name, shown)
    for one in score.broken()[:20]:
        became.add_row(f"[bold]{one.study_instance_uid}[/bold]", f"{one.fate.value}: {one.why}")
    return [struck, became]

"""Keeps what `./hilum bench worklist --write` measured in ``docs``: a part for each database, beside the other."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.bench.worklist import Run, Timing

_HEAD = """# How fast the worklist is

Made by `./hilum bench worklist --write`, for each database by itself: a ledger of three years of a hospital, of which
the latest 20,000 studies are unread; each page of 50 is asked for 100 times by the node's functions, from the question
to the ledger to its rows for people, while studies come, are claimed and answered in another process. Milliseconds. The
aim is 50 ms at the 95th percentile; **bold**: missed. *Processor*: the time without waiting for other programs on the
machine (of PostgreSQL only that of its client).

A number with + is a lower bound: counting ends at 1000, and where a page was full before all that fits was looked at.
*Ended*: so few of very many studies fit that the search ended before the page was full. The rows are the first that
fit, the page says that there may be more, and the next page goes on from there.
"""


def keep(report: Path, run: Run) -> None:
    """Put a run into the report, in place of the one before with this kind of database."""
    kind = run.database.split()[0]
    before = report.read_text("utf-8") if report.exists() else ""
    parts = {part.split()[0]: part for part in re.split(r"^## ", before, flags=re.MULTILINE)[1:]}
    parts[kind] = _part(run)
    report.write_text(_HEAD + "".join(f"\n## {parts[name].strip()}\n" for name in sorted(parts, reverse=True)), "utf-8")


def _part(run: Run) -> str:
    date = time.strftime("%Y-%m-%d", time.gmtime())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines = [
        f"{run.database}",
        "",
        f"{date}: {run.studies:,} studies, {run.answered_per_second:.1f} answered a second beside it; {_processor()}, "
        f"{os.cpu_count()} cores, {memory:.0f} GiB memory, Python {platform.python_version()}; load average before: "
        f"{run.load:.1f}.",
        "",
        "| | p50 | p95 | p99 | slowest | processor p95 | rows | studies |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    return "\n".join([*lines, *(_line(t, 50.0) for t in run.timings), *(_line(t, float("inf")) for t in run.writes)])


def _line(t: Timing, aim: float) -> str:
    p95 = f"**{t.p95:.1f}**" if t.p95 > aim else f"{t.p95:.1f}"
    rest = (f"{value:.1f}" for value in (t.p99, t.slowest, t.processor_p95))
    return f"| {t.name} | {t.p50:.1f} | {p95} | {' | '.join(rest)} | {t.rows if t.count else ''} | {t.count} |"


def _processor() -> str:
    """Its name, where the system tells it."""
    told = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", told.read_text("utf-8")) if told.exists() else []
    return names[0].strip() if names else platform.machine()

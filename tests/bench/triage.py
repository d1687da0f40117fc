"""Plays days of a reading room: who waits for how long, in the order of arrival, by priority alone, and in our order.

The rule: our order is the product's own function (``ledger.reading_order.place_of``), so that simulation and worklist
cannot drift apart. The design is that of Baltruschat et al., "Smart chest X-ray worklist prioritization using
artificial intelligence: a clinical workflow simulation", European Radiology 31:3837-3845 (2021),
doi:10.1007/s00330-020-07480-7: first in, first out against priority with and without an upper limit of waiting, judged
by mean and longest waiting. The numbers of `Room` are not theirs: they are assumptions, chosen so that waiting in the
order of arrival is about as long on average as they report (80 min), and stand in the report.

The limit for routine studies is chosen by a rule (`chosen_limit`) from a sweep over the same days.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from scipy import stats

from orthanc_plugin.ledger.reading_order import WaitingLimits, place_of
from orthanc_plugin.settings import REPOSITORY

REPORT = REPOSITORY / "docs" / "triage.md"
PLOT = REPOSITORY / "docs" / "triage.png"
CLASSES = ("critical", "urgent", "routine")
_FIRST_DAY = 86_400.0  # is not counted: the room begins empty


@dataclass(frozen=True)
class Room:
    """A reading room; all of it assumed.

    Parameters
    ----------
    arrivals_an_hour
        Day (8 to 18 h), evening (18 to 24 h) and night; Poisson.
    attention
        Share of the reader's time for chest radiographs at these hours.
    reading_minutes, reading_sigma
        Mean of a reading, and sigma of its logarithm.
    share
        Of true classes: critical, urgent, routine.
    called
        For each true class: how often the AI calls it critical, urgent, routine, or does not read it.
    """

    arrivals_an_hour: tuple[float, float, float] = (12.0, 5.0, 2.0)
    attention: tuple[float, float, float] = (1.0, 0.4, 0.25)
    reading_minutes: float = 4.8
    reading_sigma: float = 0.6
    share: tuple[float, float, float] = (0.03, 0.27, 0.70)
    called: tuple[tuple[float, float, float, float], ...] = (
        (0.80, 0.08, 0.07, 0.05),
        (0.03, 0.75, 0.17, 0.05),
        (0.02, 0.12, 0.81, 0.05),
    )

    def at(self, seconds: float, values: tuple[float, float, float]) -> float:
        """Which of three values counts at a time of day."""
        hour = seconds % 86_400 / 3600
        return values[0] if 8 <= hour < 18 else values[1] if hour >= 18 else values[2]


@dataclass(frozen=True)
class Days:
    """What comes in some days, the same for every order.

    Parameters
    ----------
    came
        Seconds, ascending.
    truth
        Index in `CLASSES`.
    rank
        `priority_rank` that the AI gives.
    work
        Seconds of undivided attention.
    """

    came: np.ndarray
    truth: np.ndarray
    rank: np.ndarray
    work: np.ndarray


_LIMITS = WaitingLimits()


# From priority_rank, when it came, and now, to what goes first.
Order = Callable[[int, float, float], tuple[float, ...]]


def with_limits(limits: WaitingLimits) -> Order:
    """Our order, with these limits."""

    def order(rank: int, came: float, now: float) -> tuple[float, ...]:
        place = place_of(rank, came, None, now=now, limits=limits)
        return place.group, place.seconds, place.tie

    return order


FIRST, ALONE, OURS = "in the order of arrival", "by priority alone", "by priority, with limits (ours)"
ORDERS: dict[str, Order] = {
    FIRST: lambda _rank, came, _now: (came,),
    ALONE: lambda rank, came, _now: (min(rank, 2), came),
    OURS: with_limits(_LIMITS),
}
SWEPT = (60, 120, 180, 240, 300, 360, 480, 720)  # minutes that a routine study may wait


def days_of(room: Room, number: int, rng: np.random.Generator) -> Days:
    """Draw the arrivals of so many days."""
    most = max(room.arrivals_an_hour)
    end = number * 86_400.0
    drawn = np.sort(rng.uniform(0, end, rng.poisson(most * 24 * number)))
    rate = np.array([room.at(seconds, room.arrivals_an_hour) for seconds in drawn])
    came = drawn[rng.random(len(drawn)) < rate / most]  # thinning: Poisson with a rate that changes
    truth = rng.choice(3, len(came), p=room.share)
    rank = np.array([rng.choice(4, p=room.called[t]) for t in truth], int)
    spread = rng.normal(-(room.reading_sigma**2) / 2, room.reading_sigma, len(came))
    return Days(came, truth, rank, 60 * room.reading_minutes * np.exp(spread))


def waits(days: Days, room: Room, order: Order) -> np.ndarray:
    """Minutes from coming to the beginning of the reading, for each study; one reader, who is never interrupted."""
    waited = np.zeros(len(days.came))
    waiting: list[int] = []
    clock, coming = 0.0, 0
    ranks, came = days.rank.tolist(), days.came.tolist()
    while coming < len(came) or waiting:
        if not waiting:
            clock = max(clock, came[coming])
        while coming < len(came) and came[coming] <= clock:
            waiting.append(coming)
            coming += 1
        chosen = min(waiting, key=lambda n: order(ranks[n], came[n], clock))
        waiting.remove(chosen)
        waited[chosen] = (clock - came[chosen]) / 60
        clock += days.work[chosen] / room.at(clock, room.attention)
    return waited


@dataclass(frozen=True)
class Figure:
    """Minutes that the studies of one true class wait in one order: means over replications, with 95 % intervals."""

    order: str
    truth: str
    mean: tuple[float, float]
    p95: tuple[float, float]
    longest: tuple[float, float]


def simulate(
    room: Room, orders: Mapping[str, Order] = ORDERS, *, replications: int, number: int, seed: int = 1
) -> list[Figure]:
    """Play the same days in every order, again and again."""
    drawn: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    console = Console(stderr=True)
    for replication in track(range(replications), description="playing", console=console, transient=True):
        days = days_of(room, number, np.random.default_rng([seed, replication]))
        counted = days.came >= _FIRST_DAY
        for name, order in orders.items():
            waited = waits(days, room, order)
            for n, truth in enumerate(CLASSES):
                some = waited[counted & (days.truth == n)]
                told = (float(some.mean()), float(np.percentile(some, 95)), float(some.max()))
                drawn.setdefault((name, truth), []).append(told)
    return [_figure(name, truth, np.array(several)) for (name, truth), several in drawn.items()]


def _figure(order: str, truth: str, drawn: np.ndarray) -> Figure:
    middle = drawn.mean(0)
    margin = stats.t.ppf(0.975, len(drawn) - 1) * drawn.std(0, ddof=1) / np.sqrt(len(drawn))
    mean, p95, longest = ((float(m), float(h)) for m, h in zip(middle, margin, strict=True))
    return Figure(order, truth, mean, p95, longest)


@dataclass(frozen=True)
class Swept:
    """What one limit for routine studies does; minutes, means over replications.

    Parameters
    ----------
    critical, urgent
        Mean wait of the truly critical and urgent.
    mean, p95, longest
        Wait of the truly routine.
    """

    limit: float
    critical: float
    urgent: float
    mean: float
    p95: float
    longest: float


def swept(figures: list[Figure], order: str, limit: float) -> Swept:
    """The figures of one order, in short."""
    of = {f.truth: f for f in figures if f.order == order}
    routine = of["routine"]
    return Swept(
        limit, of["critical"].mean[0], of["urgent"].mean[0], routine.mean[0], routine.p95[0], routine.longest[0]
    )


def chosen_limit(first: Swept, alone: Swept, tried: Sequence[Swept]) -> float | None:
    """The longest limit that takes back at least half of what priority alone adds to the longest routine wait, while
    critical studies wait no minute longer than by priority alone and urgent ones keep three quarters of what it gains
    them; minutes, None where no limit does.
    """
    fitting = [
        one.limit
        for one in tried
        if one.longest <= (first.longest + alone.longest) / 2
        and one.critical <= alone.critical + 1
        and one.urgent <= alone.urgent + (first.urgent - alone.urgent) / 4
    ]
    return max(fitting, default=None)


def compare(replications: int, number: int, *, json_file: Path | None = None, write: bool = False) -> list[Figure]:
    """Simulate, print the tables, and with `write` keep them and their plot in ``docs``."""
    room = Room()
    limited = {f"{limit}": with_limits(replace(_LIMITS, routine=60.0 * limit)) for limit in SWEPT}
    figures = simulate(room, {**ORDERS, **limited}, replications=replications, number=number)
    first, alone = swept(figures, FIRST, 0.0), swept(figures, ALONE, np.inf)
    tried = [swept(figures, f"{limit}", limit) for limit in SWEPT]
    table, sweep = _markdown([f for f in figures if f.order in ORDERS]), _sweep_table(first, alone, tried)
    print(table, sweep, sep="\n\n")  # noqa: T201
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n", "utf-8")
    if write:
        REPORT.write_text(_report(room, table, sweep, replications, number), "utf-8")
        _plot(figures, (first, alone, tried), PLOT)
    return figures


def _sweep_table(first: Swept, alone: Swept, tried: Sequence[Swept]) -> str:
    chosen = chosen_limit(first, alone, tried)
    lines = [
        "| limit for routine | critical, mean | urgent, mean | routine, mean | 95th percentile | longest |",
        "|---|---|---|---|---|---|",
    ]
    for one in (first, *tried, alone):
        name = {0.0: FIRST, np.inf: f"none: {ALONE}"}.get(one.limit, f"{one.limit:.0f} min")
        mark = "**" if one.limit == chosen else ""
        cells = (f"{value:.0f}" for value in (one.critical, one.urgent, one.mean, one.p95, one.longest))
        lines.append(f"| {mark}{name}{mark} | {' | '.join(cells)} |")
    told = "no limit of these" if chosen is None else f"{chosen:.0f} min"
    return "\n".join((*lines, "", f"Chosen by the rule: {told}."))


def _markdown(figures: list[Figure]) -> str:
    lines = ["| truly | order | mean wait | 95th percentile | longest |", "|---|---|---|---|---|"]
    for truth in CLASSES:
        for f in (f for f in figures if f.truth == truth):
            cells = (f"{value:.0f} ± {half:.0f}" for value, half in (f.mean, f.p95, f.longest))
            lines.append(f"| {truth} | {f.order} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _report(room: Room, table: str, sweep: str, replications: int, number: int) -> str:
    shares = ", ".join(f"{100 * share:.0f} % {name}" for share, name in zip(room.share, CLASSES, strict=True))
    rows = "\n".join(
        f"| {name} | {' | '.join(f'{100 * p:.0f} %' for p in row)} |"
        for name, row in zip(CLASSES, room.called, strict=True)
    )
    settings = ", ".join(f"{f.name} {getattr(_LIMITS, f.name) / 60:.0f}" for f in fields(_LIMITS))
    day, evening, night = room.arrivals_an_hour
    attention = ", ".join(f"{100 * a:.0f} %" for a in room.attention)
    return f"""# Who waits for how long

Made by `./hilum bench triage --write`: {replications} replications of {number} days with fixed seeds, the first day of
each not counted; minutes from arrival until the reading begins, means over replications with 95 % intervals; *longest*
is the mean over replications of the longest wait in each. **A simulation, no measurement of any reading room.**

![Mean and longest waits by true class and order](triage.png)

{table}

Our order is the function that orders the worklist (`orthanc_plugin/ledger/reading_order.py`), with its default limits
(minutes: {settings}). *By priority alone* is the same without limits. Priority costs whoever is not
called critical or urgent time; limits give back a part of the longest waits, not all: no order makes the reader faster.

## Which limits

The limit for routine studies decides how much is given back. Over the same days, with the limit for urgent ones as it
is (that for critical ones changes no place: they stand first in any case); minutes:

{sweep}

The rule: the longest limit that takes back at least half of what priority alone adds to the longest wait of a routine
study, while critical studies wait no minute longer than by priority alone, and urgent ones keep three quarters of what
priority gains them, all on average. The shorter the limit, the more the order is that of arrival, and the longer
urgent studies wait. A site sets its own (`waiting_limits_minutes`): these days are assumed, and others want another.

## Where the numbers come from

The comparison follows Baltruschat et al., *Smart chest X-ray worklist prioritization using artificial intelligence: a
clinical workflow simulation*, European Radiology 31:3837-3845 (2021),
[doi:10.1007/s00330-020-07480-7](https://doi.org/10.1007/s00330-020-07480-7), who report for pneumothorax a mean of
80 min in the order of arrival and 36 min by priority, but a longest wait of 890 min and 1293 min, and 979 min with an
upper limit. Their inputs are those of one hospital; ours are assumed, so that the mean wait in the order of arrival is
about theirs:

- one reader; {day:g} studies an hour by day, {evening:g} in the evening, {night:g} at night (Poisson); the reader has
  {attention} of the time for them;
  a reading takes {room.reading_minutes:g} min on average (log-normal, sigma {room.reading_sigma:g}), uninterrupted;
- {shares};
- an AI that errs, and leaves 1 in 20 studies unread:

| truly | called critical | urgent | routine | not read |
|---|---|---|---|---|
{rows}
"""


def _plot(figures: list[Figure], sweep: tuple[Swept, Swept, list[Swept]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    chart, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    colours = ("#9aa5b1", "#d08770", "#2b6cb0")
    for axis, what, title in ((axes[0], "mean", "Mean wait, minutes"), (axes[1], "longest", "Longest wait, minutes")):
        for n, (order, colour) in enumerate(zip(ORDERS, colours, strict=True)):
            chosen = [next(f for f in figures if (f.order, f.truth) == (order, truth)) for truth in CLASSES]
            values, halves = zip(*(getattr(f, what) for f in chosen), strict=True)
            bars = axis.bar(np.arange(3) + 0.27 * (n - 1), values, 0.25, yerr=halves, label=order, color=colour)
            axis.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
        axis.set_xticks(range(3), [f"truly {truth}" for truth in CLASSES])
        axis.set_title(title)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(0, 140)
    axes[0].legend(frameon=False, loc="upper left")
    _plot_sweep(axes[2], *sweep)
    chart.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(chart)


def _plot_sweep(axis: Any, first: Swept, alone: Swept, tried: Sequence[Swept]) -> None:
    """The longest wait on the left scale, means on the right one; dotted and dashed: without any limit."""
    limits, right = [one.limit for one in tried], axis.twinx()
    for where, what, label, colour in (
        (axis, "longest", "routine, longest (left)", "#2b6cb0"),
        (right, "urgent", "urgent, mean (right)", "#d08770"),
        (right, "critical", "critical, mean (right)", "#b03030"),
    ):
        where.plot(limits, [getattr(one, what) for one in tried], "o-", color=colour, label=label)
        where.axhline(getattr(alone, what), color=colour, linestyle="--", linewidth=1)
    axis.axhline(first.longest, color="#2b6cb0", linestyle=":", linewidth=1)
    axis.set_ylim(500, 850)
    right.set_ylim(0, 140)
    axis.set_xticks(limits, [f"{limit:.0f}" for limit in limits], fontsize=8)
    axis.set_xlabel("limit, minutes; dashed: priority alone, dotted: order of arrival", fontsize=8)
    axis.set_title("Waits by the limit for routine, minutes")
    axis.spines["top"].set_visible(False)
    right.spines["top"].set_visible(False)
    lines = [line for where in (axis, right) for line in where.get_legend_handles_labels()[0]]
    axis.legend(lines, [line.get_label() for line in lines], frameon=False, loc="center right", fontsize=8)

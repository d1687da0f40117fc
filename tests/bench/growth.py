"""How cost grows: with the size of an image, the number of bundles, the length of the queue, the size of the archive.

The rule: each is varied alone, on a real node or a real ledger, and drawn; what is said to be flat or linear is an
exponent that was fitted: cost = size ** exponent, 0 where it does not grow and 1 where it grows as the size does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tests.bench import ledger_growth, node_growth
from tests.bench.folders import working_folder
from tests.bench.machine import describe, keep_to_cores
from tests.bench.sheets import PAGE, Sheet, Spread, keep, tell

LINEAR = 1.1  # an exponent up to which cost counts as growing no faster than the size
STEEP = 1.5  # the same between two sizes alone, of which chance moves both


@dataclass(frozen=True)
class Part:
    """One thing that is varied.

    Parameters
    ----------
    varied
        What it is, with its unit; `costs` name theirs.
    """

    name: str
    title: str
    varied: str
    sizes: tuple[float, ...]


PARTS = (
    Part("pixels", "With the size of an image", "Mpixel", (1, 4, 9, 16, 25)),
    Part("bundles", "With the number of bundles", "bundles", (1, 2, 3, 4, 5, 6, 7, 8)),
    Part("queue", "With the length of the queue", "studies that wait", (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)),
    Part("archive", "With the size of the archive", "studies in the ledger", (1_000, 10_000, 100_000, 1_000_000)),
)
NAMES = tuple(part.name for part in PARTS)


@dataclass(frozen=True)
class Course:
    """What a cost, named with its unit, was at each size."""

    cost: str
    sizes: tuple[float, ...]
    spreads: tuple[Spread, ...]

    @property
    def exponent(self) -> float:
        """Of the size, by which the median grows; nan where that cannot be said."""
        return _exponent(self.sizes, self.spreads)

    @property
    def last_exponent(self) -> float:
        """That between the two largest sizes, which many small ones before cannot hide."""
        return _exponent(self.sizes[-2:], self.spreads[-2:])


def _exponent(sizes: Sequence[float], spreads: Sequence[Spread]) -> float:
    medians = np.array([spread.p50 for spread in spreads])
    if len(medians) < 2 or (medians <= 0).any():
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(medians), 1)[0])


def compare(
    names: Sequence[str] = NAMES,
    *,
    rounds: int = 10,
    most: float = np.inf,
    json_file: Path | None = None,
    write: bool = False,
) -> dict[str, list[Course]]:
    """Measure the named parts and print them.

    Parameters
    ----------
    rounds
        Studies of each size on a node; a ledger is asked ten times as often.
    most
        Sizes above it are left out.
    """
    keep_to_cores()
    machine, found = describe(), {}
    for part in (part for part in PARTS if part.name in names):
        sizes = tuple(size for size in part.sizes if size <= most)
        if not sizes:
            raise SystemExit(f"no size of {part.name} is at most {most:g}: the least is {min(part.sizes):g}")
        with working_folder(f"growth-{part.name}") as folder:
            costs = _MEASURES[part.name](sizes, rounds, folder)
        courses = [Course(cost, sizes, tuple(map(Spread.of, values))) for cost, values in costs.items()]
        found[part.name] = courses
        picture = f"growth-{part.name}.png"
        if write:
            draw(part, courses, PAGE.with_name(picture))
        tell(f"growth {part.name}", [sheet(part, courses)], machine, write=write, picture=picture)
    told = {
        name: [{**asdict(c), "exponent": c.exponent, "last_exponent": c.last_exponent} for c in courses]
        for name, courses in found.items()
    }
    keep({"machine": machine, **told}, json_file)
    return found


_MEASURES = {
    "pixels": node_growth.with_pixels,
    "bundles": node_growth.with_bundles,
    "queue": ledger_growth.with_queue,
    "archive": ledger_growth.with_archive,
}


def sheet(part: Part, courses: Sequence[Course]) -> Sheet:
    """Medians, with the 95th percentile where it was measured more than once."""
    rows = []
    for number, size in enumerate(courses[0].sizes):
        spreads = (course.spreads[number] for course in courses)
        rows.append((f"{size:,g}" if size < 1e6 else f"{size:,.0f}", *map(_cell, spreads)))
    rows.append(("exponent", *(_told(course.exponent) for course in courses)))
    rows.append(("of the last two sizes", *(_told(course.last_exponent) for course in courses)))
    number = max(spread.number for course in courses for spread in course.spreads)
    steep = [course.cost for course in courses if course.exponent > LINEAR or course.last_exponent > STEEP]
    faster = f" Faster than the size grow: {', '.join(steep)}." if steep else " None grows faster than the size."
    note = f"Medians of {number}; in brackets the 95th percentile.{faster}"
    return Sheet(part.title, (part.varied, *(course.cost for course in courses)), tuple(rows), note)


def _told(exponent: float) -> str:
    return "" if np.isnan(exponent) else f"{exponent:.2f}"


def _cell(spread: Spread) -> str:
    digits = 0 if spread.p50 >= 100 else 2
    if spread.number == 1:
        return f"{spread.p50:.{digits}f}"
    return f"{spread.p50:.{digits}f} ({spread.p95:.{digits}f})"


def draw(part: Part, courses: Sequence[Course], path: Path) -> None:
    """A plot for each unit: lines are medians, bands go from the lowest to the 95th percentile."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    units = list(dict.fromkeys(course.cost.rpartition(", ")[2] for course in courses))
    chart, axes = plt.subplots(1, len(units), figsize=(5 * len(units), 4), layout="constrained", squeeze=False)
    for axis, unit in zip(axes[0], units, strict=True):
        for course in (course for course in courses if course.cost.rpartition(", ")[2] == unit):
            line = axis.plot(course.sizes, [s.p50 for s in course.spreads], "o-", label=course.cost.rpartition(", ")[0])
            low, high = [s.lowest for s in course.spreads], [s.p95 for s in course.spreads]
            axis.fill_between(course.sizes, low, high, alpha=0.15, color=line[0].get_color(), linewidth=0)
        axis.set_ylim(bottom=0)
        if max(part.sizes) / min(part.sizes) > 100:
            axis.set_xscale("log")
        axis.set_xlabel(part.varied)
        axis.set_title(unit)
        axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
        axis.spines[["top", "right"]].set_visible(False)
    chart.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(chart)

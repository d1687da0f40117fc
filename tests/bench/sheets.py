"""Tables of figures, for a terminal and for pages of ``docs``, where each bench keeps a section of its own.

The rule: what stands between the marks of a section was written by the bench that it names, and by nobody else; the
rest of the page was written by people, and no bench touches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from orthanc_plugin.settings import REPOSITORY
from tests.bench.machine import Machine

PAGE = REPOSITORY / "docs" / "performance.md"


@dataclass(frozen=True)
class Spread:
    """How a quantity that was measured several times is distributed."""

    number: int
    lowest: float
    p50: float
    p95: float
    p99: float
    highest: float
    mean: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """That of some values; percentiles between two of them are interpolated."""
        p50, p95, p99 = (float(value) for value in np.percentile(values, (50, 95, 99)))
        return cls(len(values), min(values), p50, p95, p99, max(values), float(np.mean(values)))

    def times(self, factor: float) -> Spread:
        """The same in another unit, of which so many make one of this."""
        parts = (self.lowest, self.p50, self.p95, self.p99, self.highest, self.mean)
        return Spread(self.number, *(factor * value for value in parts))

    def cells(self, digits: int = 2) -> tuple[str, ...]:
        """Median, percentiles, and lowest to highest, as `SPREAD` names them."""
        middle = (f"{value:.{digits}f}" for value in (self.p50, self.p95, self.p99))
        return (str(self.number), *middle, f"{self.lowest:.{digits}f} to {self.highest:.{digits}f}")


SPREAD = ("n", "p50", "p95", "p99", "lowest to highest")


@dataclass(frozen=True)
class Sheet:
    """A table: the first column is text, all others are figures; `note` stands below it."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def print(self, console: Console) -> None:
        """Show it on a terminal."""
        table = Table(title=self.title, title_justify="left", caption=self.note or None, caption_justify="left")
        for number, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    def markdown(self) -> str:
        """The same as Markdown."""
        lines = [f"| {' | '.join(self.headings)} |", "|---" + "|--:" * (len(self.headings) - 1) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join([f"**{self.title}**", "", *lines, *(["", self.note] if self.note else [])])


def tell(
    section: str,
    sheets: Sequence[Sheet],
    machine: Machine,
    *,
    write: bool,
    picture: str = "",
    text: str = "",
    page: Path | None = None,
) -> None:
    """Print tables with their machine, and with `write` put them into their section of the page.

    Parameters
    ----------
    picture
        File beside the page that shows the section, if there is one.
    text
        Lines that follow the tables as they are.
    page
        Instead of docs/performance.md.
    """
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    console.print(str(machine), markup=False)
    for sheet in sheets:
        sheet.print(console)
    if text:
        console.print(text, markup=False)
    if write:
        shown = [f"![{sheets[0].title}]({picture})"] if picture else []
        parts = [f"Measured on {machine}.", *shown, *(sheet.markdown() for sheet in sheets)]
        parts += [f"```\n{text}\n```"] if text else []
        page = page or PAGE
        page.write_text(with_section(page.read_text("utf-8"), section, "\n\n".join(parts)), "utf-8")


def with_section(page: str, section: str, content: str) -> str:
    """The page with another content in a section; its marks must be there.

    Raises
    ------
    ValueError
    """
    begin, end = f"<!-- ./hilum bench {section} --write -->\n", f"<!-- end of {section} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no section {section!r}: restore its two marks")
    return f"{before}{begin}{content}\n{end}{after}"

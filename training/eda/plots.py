"""Plots as SVG elements that stand in a page: few ticks, text as text, legible on light and dark ground.

The rule: what is neither data nor text is left out, and every plot carries in words what it shows.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

FloatArray = npt.NDArray[np.float64]

# Stands for the colour of the page's text until it is replaced; nothing else is drawn in it.
_INK = "#010203"
# Told apart by people with any colour vision (Okabe and Ito, 2008), and seen on white as on black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#b8a800")
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "hilum", "text.parse_math": False, "font.size": 9.0,
    "font.family": "sans-serif", "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK,
    "xtick.color": _INK, "ytick.color": _INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.6, "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none",
}  # fmt: skip
_LONGEST_LABEL = 34  # characters
_PANELS = 3  # beside each other


def bars(names: Sequence[str], series: Mapping[str, Sequence[float]], alt: str, *, xlabel: str = "images") -> Markup:
    """Horizontal bars, one for each name from the top; several series are stacked."""

    def draw(axis: Any) -> None:
        left = np.zeros(len(names))
        for colour, (label, values) in zip(COLOURS, series.items(), strict=False):
            axis.barh(range(len(names)), values, left=left, color=colour, height=0.7, label=label)
            left += np.asarray(values, np.float64)
        for row, total in enumerate(left):
            axis.annotate(f"{total:,.0f}", (total, row), (3, 0), textcoords="offset points", va="center")
        axis.set_yticks(range(len(names)), [_short(name) for name in names])
        axis.invert_yaxis()
        axis.set_xlim(0, max(1.0, float(left.max(initial=0))) * 1.12)
        axis.tick_params(axis="y", length=0)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.set_xlabel(xlabel)
        if len(series) > 1:
            axis.legend(loc="lower right")

    return _svg(draw, alt, 6.4, 0.7 + 0.24 * max(2, len(names)))


def columns(numbers: Mapping[int, int], alt: str, *, xlabel: str, ylabel: str = "images") -> Markup:
    """Bars over whole numbers; those beyond the fifteenth are drawn as one."""
    first = dict(list(numbers.items())[:15])
    names = [str(number) for number in first]
    values = list(first.values())
    if rest := sum(numbers.values()) - sum(values):
        names, values = [*names, "more"], [*values, rest]

    def draw(axis: Any) -> None:
        axis.bar(range(len(values)), values, color=COLOURS[0], width=0.8)
        axis.set_xticks(range(len(values)), names)
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.tick_params(axis="x", length=0)
        axis.set(xlabel=xlabel, ylabel=ylabel)

    return _svg(draw, alt, 4.2, 2.4)


def histogram(
    groups: Mapping[str, Sequence[float]], alt: str, *, xlabel: str, ylabel: str = "images", bins: int = 24
) -> Markup:
    """Stacked histograms; the first eight groups are drawn."""
    drawn = dict(list(groups.items())[: len(COLOURS)])

    def draw(axis: Any) -> None:
        axis.hist(list(drawn.values()), bins=bins, stacked=True, color=COLOURS[: len(drawn)], label=list(drawn))
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.set(xlabel=xlabel, ylabel=ylabel)
        if len(drawn) > 1:
            axis.legend(labels=[_short(name) for name in drawn])

    return _svg(draw, alt, 4.8, 2.6)


def spread(groups: Mapping[str, Sequence[float] | FloatArray], alt: str, *, xlabel: str) -> Markup:
    """For each group median, quartiles (thick) and the 5th to 95th percentile (thin)."""

    def draw(axis: Any) -> None:
        for row, values in enumerate(groups.values()):
            low, first, middle, third, high = np.percentile(values, (5, 25, 50, 75, 95))
            axis.plot([low, high], [row, row], color=COLOURS[0], linewidth=1)
            axis.plot([first, third], [row, row], color=COLOURS[0], linewidth=5, solid_capstyle="butt")
            axis.plot(middle, row, "o", color=COLOURS[1], markersize=5)
        axis.set_yticks(range(len(groups)), [_short(name) for name in groups])
        axis.set_ylim(len(groups) - 0.4, -0.6)
        axis.set_xlim(0, 1.06 * max(float(np.percentile(values, 95)) for values in groups.values()) or 1)
        axis.tick_params(axis="y", length=0)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.set_xlabel(xlabel)

    return _svg(draw, alt, 6.4, 0.7 + 0.28 * max(2, len(groups)))


def matrix(values: FloatArray, names: Sequence[str], alt: str) -> Markup:
    """Shares from 0 to 1, in per cent in each cell; a row of NaN stays blank."""

    def draw(axis: Any) -> None:
        axis.imshow(np.ma.masked_invalid(values), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), share in np.ndenumerate(values):
            if np.isfinite(share):
                colour = "white" if share > 0.55 else "black"
                axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=8)
        labels = [_short(name) for name in names]
        axis.set_xticks(range(len(names)), labels, rotation=40, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(names)), labels)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)

    side = 1.8 + 0.34 * len(names)
    return _svg(draw, alt, side + 1.0, side)


def heat(grids: Mapping[str, FloatArray], alt: str) -> Markup:
    """Square maps over the outline of an image, three in a row, each from 0 to its own peak."""
    rows = -(-len(grids) // _PANELS)

    def draw(axes: Any) -> None:
        panels = np.atleast_1d(axes).ravel()
        for axis, (name, grid) in zip(panels, grids.items(), strict=False):
            axis.imshow(grid, cmap="viridis", vmin=0, extent=(0, 1, 1, 0))
            axis.set_title(f"{_short(name)}\npeak {100 * grid.max():.0f} %", fontsize=9)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(True)
        for axis in panels[len(grids) :]:
            axis.set_axis_off()

    columns = min(_PANELS, len(grids))
    return _svg(draw, alt, 2.0 * columns, 2.4 * rows, (rows, columns))


def _svg(
    draw: Callable[[Any], None], alt: str, width: float, height: float, panels: tuple[int, int] = (1, 1)
) -> Markup:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots(*panels))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # names of groups would be the same in every plot of the page; those of parts that are referred to are digests
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    opening = f'<svg role="img" aria-label="{escape(alt)}"'
    return Markup(text.replace("<svg", opening, 1))  # noqa: S704 (matplotlib escapes the text that it writes)


def _short(name: str) -> str:
    # a character that XML forbids would end the plot
    shown = "".join(c if c.isprintable() else "?" for c in name)
    return shown if len(shown) <= _LONGEST_LABEL else shown[: _LONGEST_LABEL - 1] + "…"

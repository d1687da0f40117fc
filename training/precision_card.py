"""The section of a card about lower precisions: figures before and after, and what may be taken.

The rule: it stands between two marks, so that it can be written anew without the rest of the card.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.precision_evidence import Change

BEGIN, END = "<!-- ./hilum train quantise -->", "<!-- end of quantise -->"
TITLE = "Numbers at half and quarter precision"
HEADER = ("figure", "images", "float32", "then", "change, 95 % interval", "limit", "held")
_NAMES = {"openvino-bf16": "bfloat16, 16 bits", "openvino-int8": "integers of 8 bits"}
_NOTE = (
    "Asked about the same pictures in both precisions. The difference is what counts: the weights have seen many of "
    "these pictures, so that the figures themselves may be too good. Intervals of differences are drawn by patient."
)


def write_section(bundle: Path, measured: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the tables into ``docs/README.md``, and into ``docs/card.html`` where there is one.

    Parameters
    ----------
    measured
        Runtime to what the bundle states of it in ``models/precisions.json``.
    """
    tables = {name: [_cells(Change(**figure)) for figure in said["figures"]] for name, said in measured.items()}
    lines = [f"## {TITLE}", "", _NOTE]
    page = [f"<h2>{TITLE}</h2>", f"<p>{html.escape(_NOTE)}</p>"]
    for name, rows in tables.items():
        what = _NAMES.get(name, name)
        verdict = f"`{name}` {'may be taken unasked' if measured[name]['accepted'] else 'is not taken unasked'}."
        lines += ["", f"### {what}", "", _row(HEADER), _row(["---"] * len(HEADER)), *map(_row, rows), "", verdict]
        cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        head = "".join(f"<th>{cell}</th>" for cell in HEADER)
        page += [f"<h3>{html.escape(what)}</h3>", f"<table><tr>{head}</tr>{cells}</table>",
                 f"<p>{html.escape(verdict.replace('`', ''))}</p>"]  # fmt: skip
    _put(bundle / "docs" / "README.md", "\n".join(lines), before="## Limits")
    if (bundle / "docs" / "card.html").exists():
        _put(bundle / "docs" / "card.html", "\n".join(page), before="<h2>Limits")


def _put(file: Path, section: str, before: str) -> None:
    """Replace the section, or place it before a heading, or else at the end."""
    text = file.read_text("utf-8")
    start, _, rest = text.partition(f"{BEGIN}\n")
    if rest:
        text = start + rest.partition(f"{END}\n\n")[2]
    head, found, tail = text.partition(before)
    file.write_text(f"{head}{BEGIN}\n{section}\n{END}\n\n{found}{tail}", "utf-8")


def _cells(change: Change) -> tuple[str, ...]:
    interval = "" if change.low is None or change.high is None else f"{change.low:+.4f} to {change.high:+.4f}"
    apart = "" if change.before is None else f"{change.after - change.before:+.4f}"
    told = f"{apart} ({interval})" if interval else apart
    held = "" if change.held is None else "yes" if change.held else "no"
    before = "" if change.before is None else f"{change.before:.4f}"
    return change.figure, str(change.images), before, f"{change.after:.4f}", told, change.limit, held


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"

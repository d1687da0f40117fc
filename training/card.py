"""Model cards and MONAI metadata: the same facts for people (``docs/README.md``, ``docs/card.html``) and for programs.

The rule: a card begins with what the model must not be used for, and every figure stands with how it was had.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

VERSION = "0.1.0"
RESEARCH_ONLY = "Research software, not a medical device. Not for diagnosis."


@dataclass(frozen=True)
class Table:
    """Figures, with what is to be known to read them."""

    caption: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


@dataclass(frozen=True)
class Card:
    """What a model card says. ``**bold**`` is the only mark-up that a text may hold.

    Parameters
    ----------
    rows
        The chief figures, under `header`.
    notes
        Limits, confounders and baselines, a sentence or two each.
    plots
        Pictures below ``docs/``.
    provenance
        Command, seed, digest of the data: JSON text.
    tables
        More figures.
    caption
        What the chief figures are.
    version
        Of the bundle.
    """

    title: str
    purpose: str
    data: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: Sequence[str]
    plots: Sequence[Path]
    provenance: str
    tables: Sequence[Table] = ()
    caption: str = "Figures on held-out patients"
    version: str = VERSION


def write_card(bundle: Path, card: Card) -> None:
    """Write ``docs/README.md`` and ``docs/card.html``, which says the same."""
    tables = [part for table in card.tables for part in _markdown(table)]
    lines = [
        f"# {card.title} {card.version}", "", f"**{RESEARCH_ONLY}**", "", card.purpose, "",
        "## Data", "", card.data, "",
        f"## {card.caption}", "", _row(card.header), _row(["---"] * len(card.header)),
        *(_row(row) for row in card.rows), "", *tables, *(f"![{p.stem}]({p.name})" for p in card.plots), "",
        "## Limits", "", *(f"- {note}" for note in card.notes), "",
        "## How it was made", "", "```json", card.provenance, "```", "",
    ]  # fmt: skip
    (bundle / "docs" / "README.md").write_text("\n".join(lines), "utf-8")
    environment = Environment(
        loader=PackageLoader("training", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["marked"] = _marked
    chief = Table(card.caption, card.header, card.rows)
    page = environment.get_template("card.html").render(
        card=card, version=card.version, notice=RESEARCH_ONLY, tables=[chief, *card.tables]
    )
    (bundle / "docs" / "card.html").write_text(page, "utf-8")


def metadata(
    task: str, intended_use: str, *, channels: int, size: int, outputs: Mapping[str, str], version: str = VERSION
) -> dict[str, Any]:
    """The part of ``metadata.json`` that MONAI's schema asks for."""
    picture = {
        "type": "image", "format": "radiograph", "modality": "CR/DX", "num_channels": channels,
        "spatial_shape": [size, size], "dtype": "float32", "value_range": [0, 1], "is_patch_data": False,
        "channel_def": {"0": "gray, dense structures bright"},
    }  # fmt: skip
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "version": version,
        "changelog": {version: "see docs/README.md"},
        "monai_version": installed("monai"),
        "pytorch_version": installed("torch").split("+")[0],
        "numpy_version": installed("numpy"),
        "required_packages_version": {},
        "task": task,
        "description": task,
        "intended_use": f"{intended_use}",
        "authors": "The Hilum engineers",
        "copyright": "AGPL-3.0-or-later",
        "data_source": "see docs/README.md",
        "data_type": "DICOM, PNG, JPEG",
        "network_data_format": {
            "inputs": {"image": picture},
            "outputs": {"pred": {"channel_def": dict(outputs)}},  # `write_bundle` asks the network for the rest
        },
    }  # fmt: skip


def plot_histograms(path: Path, values: Mapping[str, Sequence[float]], what: str, baseline: float) -> Path:
    """One histogram for each key, with the baseline as a line; written as PNG."""
    figure, axes = figure_of(len(values))
    for axis, (key, numbers) in zip(axes, values.items(), strict=True):
        axis.hist(numbers, bins=20, range=(0.8, 1.0), color="#2f7fb8")
        axis.axvline(baseline, color="#c05020", linestyle="--", label=f"baseline {baseline}")
        axis.set(title=key.replace("_", " "), xlabel=what, ylabel="images")
        axis.legend(fontsize=7)
    return save(figure, path)


def plot_outlines(path: Path, pictures: Sequence[tuple[Any, Sequence[Any]]]) -> Path:
    """Pictures (rows, columns) with the outlines of boolean masks of the same shape; for computed pictures alone."""
    figure, axes = figure_of(len(pictures))
    for axis, (picture, outlines) in zip(axes, pictures, strict=True):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        for mask, colour in zip(outlines, ("#2f9fe8", "#35c46a", "#f0a030"), strict=True):
            axis.contour(mask, levels=[0.5], colors=[colour], linewidths=1.2)
        axis.set_axis_off()
    return save(figure, path)


def figure_of(columns: int, width: float = 3.6, height: float = 3.2) -> Any:
    """A figure of so many plots beside each other, each `width` x `height` inches, and the plots."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=(width * columns, height), squeeze=False)
    return figure, axes[0]


def save(figure: Any, path: Path) -> Path:
    """Write a figure as PNG, the same bytes each time."""
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=80, metadata={"Software": None})
    pyplot.close(figure)
    return path


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _markdown(table: Table) -> list[str]:
    lines = [f"### {table.caption}", "", _row(table.header), _row(["---"] * len(table.header))]
    return [*lines, *(_row(row) for row in table.rows), *(["", table.note] if table.note else []), ""]


def _marked(text: str) -> Markup:
    """Text for the page: escaped, what is bold in Markdown is bold here."""
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(escape(text))))  # noqa: S704  escaped before


def plot_intervals(path: Path, intervals: Mapping[str, Any], shortcuts: Mapping[str, float], gate: float) -> Path:
    """AUROC of each finding with its interval, the shortcut baseline beside it and the gate as a line."""
    keys = sorted(intervals, key=lambda key: intervals[key].value)
    figure, (axis,) = figure_of(1, width=7.0, height=1.2 + 0.27 * len(keys))
    for row, key in enumerate(keys):
        found = intervals[key]
        colour = "#2f7fb8" if found.low >= gate else "#8a8a8a"
        axis.plot([found.low, found.high], [row, row], color=colour, linewidth=3)
        axis.plot(found.value, row, "o", color=colour)
        axis.plot(shortcuts[key], row, "x", color="#c05020")
    axis.axvline(gate, color="black", linestyle="--", linewidth=1)
    axis.set_yticks(range(len(keys)), [key.replace("_", " ") for key in keys])
    axis.set_ylim(-0.6, len(keys) - 0.4)
    axis.set(xlabel="AUROC on held-out patients (cross: view and source alone; dashed: gate)", xlim=(0.4, 1.0))
    return save(figure, path)


def plot_reliability(path: Path, answers: Mapping[str, tuple[Any, Any]], bins: int = 8) -> Path:
    """Observed share against predicted probability, a line for each finding."""
    figure, (axis,) = figure_of(1, width=4.5, height=4.5)
    axis.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle=":")
    for key, (truth, probabilities) in answers.items():
        parts = [part for part in np.array_split(np.argsort(probabilities), bins) if len(part)]
        axis.plot(
            [probabilities[i].mean() for i in parts], [truth[i].mean() for i in parts], "o-", label=key, markersize=3
        )
    axis.set(xlabel="predicted probability", ylabel="observed share", xlim=(0, 1), ylim=(0, 1))
    axis.legend(fontsize=7)
    return save(figure, path)


def plot_roc(path: Path, curves: Mapping[str, tuple[Any, Any]]) -> Path:
    """A ROC curve for each group: truth (1: should pass) and scores, shape (n,) each; the corner that counts."""
    from sklearn.metrics import roc_curve

    figure, (axis,) = figure_of(1, width=6.0, height=5.0)
    for name, (truth, scores) in curves.items():
        passed, sensitivity, _ = roc_curve(truth, scores)
        axis.plot(passed, 1 - sensitivity, label=name, linewidth=1.2)
    axis.axhline(0.01, color="black", linewidth=1, linestyle=":")
    axis.axvline(0.05, color="black", linewidth=1, linestyle=":")
    axis.set(xlabel="share of the group that passes", ylabel="share of adults refused", xlim=(0, 0.1), ylim=(0, 0.05))
    axis.legend(fontsize=6)
    return save(figure, path)


def plot_shares(path: Path, shares: Mapping[str, tuple[Any, bool]]) -> Path:
    """Share refused of each group with its interval; green where it should be low, blue where it should be high."""
    figure, (axis,) = figure_of(1, width=7.5, height=0.22 * len(shares) + 1.2)
    for row, (share, accept) in enumerate(reversed(list(shares.values()))):
        colour = "#35a45a" if accept else "#2f7fb8"
        axis.plot([100 * share.low, 100 * share.high], [row, row], color=colour, linewidth=3)
        axis.plot(100 * share.value, row, "o", color=colour)
    axis.set_yticks(range(len(shares)), list(shares)[::-1], fontsize=7)
    axis.set(xlabel="% refused (green should pass, blue should be refused)", xlim=(-2, 102))
    return save(figure, path)

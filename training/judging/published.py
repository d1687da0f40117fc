"""What others reached, beside ours.

The rule: figures of others are theirs, on their patients; the differences are said under the table, and where nothing
of ours is comparable, nothing of ours is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.card import Table
from training.judging.case import words
from training.recipe import PublishedPart, Recipe


def published_table(part: PublishedPart, figures: Mapping[str, Any], recipe: Recipe) -> Table:
    """The table of a recipe's ``[published]``.

    Parameters
    ----------
    figures
        Ours: figure to its numbers, as a judgement has them.
    """
    rows = [(words(name), _number(value), ours(name, figures, recipe)) for name, value in _flat(part.figures)]
    note = f"Theirs: {part.source}." + (f" What differs: {part.differences}" if part.differences else "")
    return Table("Published, and ours", ("figure", "published", "ours, on our test patients"), tuple(rows), note)


def ours(name: str, figures: Mapping[str, Any], recipe: Recipe) -> str:
    """Our figure of a published name: a finding's AUROC, a naive baseline, an accuracy, a score or a Dice."""
    group, _, key = name.rpartition(".")
    if group == "naive_baseline":
        return _number(figures.get("confusion", {}).get("naive_baseline", {}).get(key))
    if key in recipe.data.findings:
        return _interval(figures.get(group or "auroc", {}).get("findings", {}).get(key))
    if key == "accuracy":
        return _interval(figures.get("accuracy"))
    if key.startswith("public_score"):
        return _interval(figures.get("competition", {}).get("score"))
    if recipe.task.kind == "segmentation" and "place" not in key:
        # published Dice of several networks: ours is one
        return _interval(figures.get("dice", {}).get("findings", {}).get(recipe.data.findings[0], {}).get("dice"))
    return "none"


def _flat(figures: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found += [(f"{name}.{inner}", number) for inner, number in _flat(value)]
        else:
            found.append((name, value))
    return found


def _number(value: Any) -> str:
    return "none" if value is None else f"{value:.4g}"


def _interval(value: Mapping[str, Any] | None) -> str:
    if not value:
        return "none"
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})" if "value" in value else "too few"

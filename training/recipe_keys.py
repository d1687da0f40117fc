"""Every key that a recipe may hold, with type, default and meaning, as Markdown: ``./hilum train --help-recipe``.

The rule: nothing is told here that does not stand in the dataclasses themselves, so that it cannot be out of date.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib import import_module
from typing import Any, Union, get_args, get_origin, get_type_hints

from training.readers.catalogue import READERS
from training.recipe import CHOICES, FIGURES, SAMPLER_OPTIONS, TARGETS, TASKS, KindPart, Recipe
from training.sampling import SAMPLERS
from training.tasks import keywords

_HEAD = """# Recipes, key by key

A recipe is one TOML file; `training/recipes/` holds those of the published systems. A key or a value that is not known
is an error that names the known ones. How to use them: [training.md](training.md).

This page is printed by `./hilum train --help-recipe` from the code that reads recipes.
"""
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything"}
_NEEDED = "needed"
_ROW = tuple[str, str, str, str]  # key, type, default, meaning


def reference() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_parts(), *_tasks(), *_losses(), *_samplers(), *_networks(), *_data_sets(), *_figures()])


def documented(cls: type) -> dict[str, str]:
    """Field to its meaning, from the numpydoc parameters of a dataclass and those that it extends."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        found |= _parameters(each)
    return found


def _parts() -> Iterator[str]:
    said, hints = documented(Recipe), get_type_hints(Recipe)
    top = [f for f in fields(Recipe) if not _part_of(hints[f.name]) and f.name != "network"]
    yield _section("The file", "Beside the tables below:", _rows(top, said, hints))
    for field in fields(Recipe):
        part = _part_of(hints[field.name])
        if part is KindPart:
            kind: _ROW = ("kind", "text", _default(field, "kind"), f"{said[field.name]} {_one_of(field.name, 'kind')}")
            yield _section(f"[{field.name}]", "Beside `kind` its options, which are below.", [kind])
        elif part is not None:
            rows = _rows(fields(part), documented(part), get_type_hints(part), field.name)
            yield _section(f"[{field.name}]", _first(part) + _whether(field), rows)


def _tasks() -> Iterator[str]:
    yield "## Options of `[task]`\n"
    for kind in TASKS:
        module = import_module(f"training.tasks.{kind}")
        watch = ", ".join(f"`{name}`" for name in module.FIGURES)
        rows = _rows(fields(module.Options), documented(module.Options), get_type_hints(module.Options))
        yield _section(f"kind = {kind!r}".replace("'", '"'), f"`[evaluation] watch` is one of {watch}.", rows, level=3)


def _losses() -> Iterator[str]:
    yield "## Options of `[loss]`\n"
    tasks: dict[str, list[str]] = {}
    losses: dict[str, Callable[..., Any]] = {}
    for kind in TASKS:
        for name, loss in import_module(f"training.tasks.{kind}").LOSSES.items():
            tasks.setdefault(name, []).append(kind)
            losses[name] = loss
    rows = [(f"`{n}`", ", ".join(tasks[n]), _options(loss, keywords(loss)), _first(loss)) for n, loss in losses.items()]
    yield _table(("kind", "tasks", "options and their defaults", "meaning"), rows)


def _samplers() -> Iterator[str]:
    yield "## Options of `[sampler]`\n"
    rows = []
    for kind, sampler in SAMPLERS.items():
        said = documented(sampler)
        meant = "; ".join(f"`{name}`: {said[name]}" for name in SAMPLER_OPTIONS[kind])
        rows.append((f"`{kind}`", _options(sampler, SAMPLER_OPTIONS[kind]), f"{_first(sampler)} {meant}".strip()))
    yield _table(("kind", "options and their defaults", "meaning"), rows)


def _networks() -> Iterator[str]:
    yield _section("[network]", documented(Recipe)["network"], [])
    yield f"It comes from {', '.join(f'`{target}*`' for target in TARGETS)}.\n"


def _data_sets() -> Iterator[str]:
    yield "## Options of `[data.options]`\n"
    rows = []
    for name, read in READERS.items():
        given = [p.name for p in list(inspect.signature(read).parameters.values())[1:]]
        rows.append((f"`{name}`", _options(read, given), _first(import_module(read.__module__))))
    yield _table(("set", "options and their defaults", "what it is"), rows)


def _figures() -> Iterator[str]:
    yield "## Figures of `[evaluation] report`\n"
    rows = []
    for kind in TASKS:
        if kind not in ("mae", "dino"):
            given = import_module(f"training.judging.{kind}").FIGURES
            rows.append((f"`{kind}`", ", ".join(f"`{name}`" for name in FIGURES if name in given)))
    yield _table(("task", "figures"), rows)


def _rows(told: Sequence[Field[Any]], said: Mapping[str, str], hints: Mapping[str, Any], table: str = "") -> list[_ROW]:
    return [
        (f.name, _type(hints[f.name]), _default(f), f"{said.get(f.name, '')} {_one_of(table, f.name)}".strip())
        for f in told
    ]


def _section(title: str, lead: str, rows: Sequence[_ROW], level: int = 2) -> str:
    shown = "`" + title + "`" if title.startswith(("[", "kind")) else title
    lines = [f"{'#' * level} {shown}\n"]
    lines += [f"{lead}\n"] if lead else []
    if rows:
        lines.append(_table(("key", "type", "default", "meaning"), [(f"`{key}`", *rest) for key, *rest in rows]))
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def _part_of(hint: Any) -> type | None:
    """The dataclass that a field holds, if it does."""
    inner = next((kind for kind in get_args(hint) if kind is not type(None)), hint) if _is_union(hint) else hint
    return inner if isinstance(inner, type) and is_dataclass(inner) else None


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _type(hint: Any) -> str:
    if _is_union(hint):
        return _type(next(kind for kind in get_args(hint) if kind is not type(None)))
    if get_origin(hint) is tuple:
        return f"list of {_type(get_args(hint)[0])}s"
    if get_origin(hint) is not None:
        return f"table to {_type(get_args(hint)[1])}"
    if is_dataclass(hint):
        return "table"
    return _WORDS[hint]


def _default(field: Field[Any], of: str = "") -> str:
    if field.default is not MISSING:
        value = field.default
    elif field.default_factory is not MISSING:
        value = field.default_factory()
    else:
        return _NEEDED
    return _toml(getattr(value, of) if of else value)


def _toml(value: Any) -> str:
    if value is None or is_dataclass(value):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return "`[]`" if value == () else "none" if isinstance(value, Mapping) and not value else f"`{value}`"


def _options(function: Callable[..., Any], names: Sequence[str]) -> str:
    given = inspect.signature(function).parameters
    return ", ".join(f"`{name}` {_toml(given[name].default)}" for name in names) or "none"


def _one_of(table: str, key: str) -> str:
    known = CHOICES.get((table, key))
    return f"One of {', '.join(f'`{value}`' for value in known)}." if known else ""


def _whether(field: Field[Any]) -> str:
    needed = field.default is MISSING and field.default_factory is MISSING
    return " The table is needed." if needed else " The table may be left out."


def _first(documented_thing: Any) -> str:
    """The first paragraph of a docstring."""
    return _plain(inspect.getdoc(documented_thing).partition("\n\n")[0])  # type: ignore[union-attr]


def _parameters(cls: type) -> dict[str, str]:
    """The section ``Parameters`` of a docstring of numpydoc: one entry for each name."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w+\n-+\n|\Z)", text, re.DOTALL | re.MULTILINE)
    found: dict[str, str] = {}
    for names, meaning in re.findall(r"^(\S.*)\n((?:[ ]+.*\n?|\n)+)", section[1] if section else "", re.MULTILINE):
        found |= dict.fromkeys(names.split(", "), _plain(meaning))
    return found


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")

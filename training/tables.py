"""From tables as TOML has them to frozen dataclasses.

The rule: a key, a type or a value that does not fit is an error that says where it stands and names what would.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from functools import partial
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Part = TypeVar("Part")


class RecipeInvalid(Exception):
    """A recipe that cannot be followed; the message names the file, the place, what is wrong and what is known."""


def choose(value: str, known: Iterable[str], where: str) -> None:
    """Refuse a value that is not known.

    Raises
    ------
    RecipeInvalid
    """
    if value not in (known := tuple(known)):
        raise RecipeInvalid(f"{where} is {value!r}; known are {', '.join(known)}")


def check_options(options: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse options that are not known.

    Raises
    ------
    RecipeInvalid
    """
    for key in options:
        if key not in (known := tuple(known)):
            raise RecipeInvalid(f"{where} has no key {key!r}; it has {', '.join(known) or 'none'}")


def fill(cls: type[Part], table: Any, where: str) -> Part:
    """Make a dataclass of a table whose keys and types fit its fields.

    Raises
    ------
    RecipeInvalid
    """
    if not isinstance(table, Mapping):
        raise RecipeInvalid(f"{where} is no table")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    check_options(table, known, where)
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in table]:
        raise RecipeInvalid(f"{where} lacks {', '.join(missing)}")
    hints = get_type_hints(cls)
    return cls(**{key: _fit(value, hints[key], f"{where}: {key}") for key, value in table.items()})


def _fit(value: Any, wanted: Any, where: str) -> Any:
    """A value of TOML as the type that a field has."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return _fit(value, next(kind for kind in inner if kind is not type(None)), where)
    if origin is tuple:
        if not isinstance(value, list):
            raise RecipeInvalid(f"{where} is no list")
        return tuple(_fit(each, inner[0], where) for each in value)
    if origin is not None:  # a mapping
        if not isinstance(value, Mapping):
            raise RecipeInvalid(f"{where} is no table")
        return {key: _fit(each, inner[1], f"{where}.{key}") for key, each in value.items()}
    if wanted is Any:
        return value
    if wanted in _SIMPLE:
        return _SIMPLE[wanted](value, where)
    return fill(wanted, value, f"[{where.rpartition(': ')[2]}]")


def _simple(kinds: tuple[type, ...], name: str, value: Any, where: str) -> Any:
    if isinstance(value, bool) != (kinds == (bool,)) or not isinstance(value, kinds):
        raise RecipeInvalid(f"{where} is {value!r}, expected {name}")
    return kinds[0](value)


_SIMPLE = {
    str: partial(_simple, (str,), "a text"),
    bool: partial(_simple, (bool,), "true or false"),
    int: partial(_simple, (int,), "a whole number"),
    float: partial(_simple, (float, int), "a number"),
}

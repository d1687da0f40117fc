"""The table of sentences in one language: read, laid over by a site's own file, and checked.

The rule: a table has exactly the entries of ``en.toml``, and each entry exactly its placeholders, so that no edit can
drop a side, a probability or an image from a sentence. Two findings, sides or degrees of confidence never share a name.

::

    WordingInvalid    a table or a site's file cannot be used; the message names file, entry and what is allowed
"""

from __future__ import annotations

import hashlib
import json
import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

_TABLES = Path(__file__).parent
LANGUAGES = ("de", "en")
_REFERENCE = "en"
# What a reader tells apart by the words alone.
_DISTINCT = ("confidence", "sides", "views", "regions", "why_not_evaluated")
_DISTINCT_OF_FINDINGS = ("name", "subject", "none")


class WordingInvalid(Exception):
    """A table of sentences cannot be used; nothing is written with it."""


@dataclass(frozen=True, eq=False)
class Wording:
    """A complete table.

    Parameters
    ----------
    language
        As in RFC 5646: ``en``.
    digest
        SHA-256, hexadecimal, of language and entries: the same digest means the same sentences.
    entries
        By dotted name, e.g. ``findings.mass.name``.
    """

    language: str
    digest: str
    entries: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.entries[name]

    def get(self, name: str) -> str | None:
        """An entry that not every finding has; None where it has none."""
        return self.entries.get(name)

    def table(self, name: str) -> dict[str, str]:
        """Entries below a name, by the rest of their name: ``sides`` gives ``right``, ``left``, ``bilateral``."""
        start = f"{name}."
        return {key[len(start) :]: text for key, text in self.entries.items() if key.startswith(start)}


def load_wording(language: str, site_file: Path | None = None) -> Wording:
    """Read the table of a language.

    Parameters
    ----------
    language
        ``en`` or ``de``.
    site_file
        A TOML file of the site with the entries that it words differently, laid out as the table is.

    Raises
    ------
    WordingInvalid
    """
    if language not in LANGUAGES:
        raise WordingInvalid(f"language {language!r}: there are tables for {', '.join(LANGUAGES)}")
    reference = _read(_TABLES / f"{_REFERENCE}.toml")
    path = _TABLES / f"{language}.toml"
    entries = _read(path)
    _check(path, entries, reference)
    if missing := [name for name in reference if name not in entries]:
        raise WordingInvalid(f"{path.name}: {missing[0]} is missing")
    if site_file is not None:
        path = site_file
        changed = _read(site_file)
        _check(path, changed, reference)
        entries |= changed
    _check_distinct(path, entries)
    ordered = {name: entries[name] for name in reference}
    digest = hashlib.sha256(json.dumps([language, ordered], ensure_ascii=False).encode()).hexdigest()
    return Wording(language, digest, MappingProxyType(ordered))


def placeholders(template: str) -> list[str]:
    """Names in braces, sorted, each as often as it occurs.

    Raises
    ------
    ValueError
        When braces are not closed, or hold a conversion or a format.
    """
    names = []
    for _, name, spec, conversion in string.Formatter().parse(template):
        if name is not None:
            if not name.isidentifier() or spec or conversion:
                raise ValueError(f"{{{name}}} is not a plain placeholder")
            names.append(name)
    return sorted(names)


def _read(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            return _flat(path, tomllib.load(file))
    except OSError as error:
        raise WordingInvalid(f"{path.name}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WordingInvalid(f"{path.name}: not a TOML file ({error})") from error


def _flat(path: Path, table: Mapping[str, Any], above: str = "") -> dict[str, str]:
    entries: dict[str, str] = {}
    for key, value in table.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            entries |= _flat(path, value, f"{name}.")
        elif isinstance(value, str):
            entries[name] = value
        else:
            raise WordingInvalid(f"{path.name}: {name} is not a text, and only texts are allowed")
    return entries


def _check(path: Path, entries: Mapping[str, str], reference: Mapping[str, str]) -> None:
    """Each entry is known, is one line of text, and has the placeholders of the reference."""
    for name, text in entries.items():
        if name not in reference:
            group = name.rpartition(".")[0]
            known = [n for n in reference if n.rpartition(".")[0] == group] or sorted(
                {n.split(".")[0] for n in reference}
            )
            raise WordingInvalid(f"{path.name}: there is no entry {name}; allowed here: {', '.join(known)}")
        if not text.strip() or text != text.strip() or not text.isprintable():
            raise WordingInvalid(f"{path.name}: {name} is not one line of text without spaces around it")
        wanted = placeholders(reference[name])
        try:
            found = placeholders(text)
        except ValueError as error:
            raise WordingInvalid(f"{path.name}: {name}: {error}; allowed: {_braced(wanted)}") from error
        if found != wanted:
            raise WordingInvalid(f"{path.name}: {name} has {_braced(found)}; allowed, once each: {_braced(wanted)}")


def _check_distinct(path: Path, entries: Mapping[str, str]) -> None:
    groups = [[n for n in entries if n.startswith(f"{table}.")] for table in _DISTINCT]
    for part in _DISTINCT_OF_FINDINGS:
        groups.append([n for n in entries if n.startswith("findings.") and n.endswith(f".{part}")])
    for group in groups:
        seen: dict[str, str] = {}
        for name in group:
            said = entries[name].casefold()
            if said in seen:
                raise WordingInvalid(f"{path.name}: {name} and {seen[said]} say the same, {entries[name]!r}")
            seen[said] = name


def _braced(names: list[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names) or "no placeholder"

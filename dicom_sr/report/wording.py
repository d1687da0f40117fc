"""The table of sentences in one language: read, laid over by a site's own file, and checked.

The rule: a table has exactly the entries of ``en.toml``, and each entry exactly its placeholders, so that no edit can
drop a side, a probability or an image from a sentence. What a reader tells apart by the words alone (findings, states,
sides, degrees of confidence, priorities) never shares them.

::

    WordingInvalid    a table or a site's file cannot be used; the message names file, entry and what is allowed
"""

from __future__ import annotations

import hashlib
import json
import re
import string
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

_TABLES = Path(__file__).parent
LANGUAGES = ("de", "en")
_REFERENCE = "en"
# What a reader tells apart by the words alone: no two entries below the tables of one line have the same.
_DISTINCT = (
    ("confidence", "sides"),
    *((table,) for table in ("views", "regions", "why_not_evaluated", "cautions", "unread")),
    *((table,) for table in ("impression", "technique", "measurements", "criteria")),
)
# Where states are worded; each state has words that no other has in any of them.
_STATED_IN = ("states", "elsewhere", "impression", "findings", "criteria")
_STATES = ("present", "undetermined", "absent", "not_evaluated")
_DECIMALS = (".", ",")


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


def listed(items: Sequence[str], wording: Wording) -> str:
    """``one, two and three``."""
    return f" {wording['and']} ".join(part for part in (", ".join(items[:-1]), items[-1]) if part)


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
    if entries["decimal"] not in _DECIMALS:
        raise WordingInvalid(f"{path.name}: decimal is {entries['decimal']!r}; allowed: {' or '.join(_DECIMALS)}")
    for tables in _DISTINCT:
        seen: dict[str, str] = {}
        for name in (n for n in entries if n.partition(".")[0] in tables):
            said = _words(entries[name])
            # one and many of the same may be worded alike
            if said in seen and _meant(name) != _meant(seen[said]):
                raise _alike(path, name, seen[said], entries)
            seen[said] = name
    _check_states(path, entries)
    _check_findings(path, entries)


def _check_states(path: Path, entries: Mapping[str, str]) -> None:
    """No state is worded within the words of another, and only what is present with a degree of confidence."""
    said = [
        (state, name, _words(text))
        for name, text in entries.items()
        for state in _STATES
        if name.partition(".")[0] in _STATED_IN and _meant(name).endswith(f".{state}")
    ]
    marks = [one for one in said if one[0] != "present"]
    marks += [("present", n, _words(text)) for n, text in entries.items() if n.startswith("confidence.")]
    for state, name, words in marks:
        for other, within, whole in said:
            if state != other and f" {words} " in f" {whole} ":
                raise WordingInvalid(
                    f"{path.name}: {within} has the words of {name}, {words!r}; change one of them, so that what is "
                    f"{state.replace('_', ' ')} is told from what is {other.replace('_', ' ')}"
                )


def _check_findings(path: Path, entries: Mapping[str, str]) -> None:
    """Different findings have different names, none is named as its absence, and none with a side or as a list."""
    seen: dict[str, str] = {}
    sides = {name: _words(text) for name, text in entries.items() if name.startswith("sides.")}
    for name, text in entries.items():
        finding, _, part = name.rpartition(".")
        if not finding.startswith("findings.") or part not in ("name", "subject", "none"):
            continue
        said = _words(text)
        before = seen.setdefault(said, name)
        if before != name and (not before.startswith(f"{finding}.") or part == "none"):
            raise _alike(path, name, before, entries)
        if side := next((n for n, words in sides.items() if f" {words} " in f" {said} "), None):
            raise WordingInvalid(f"{path.name}: {name} has the words of {side}; name the finding without a side")
        _check_listed(path, name, entries)
    for name in (name for name in entries if name.startswith("criteria.names.")):
        _check_listed(path, name, entries)


def _check_listed(path: Path, name: str, entries: Mapping[str, str]) -> None:
    """What stands in a list has nothing in it that separates the items of one."""
    marks = (", ", "; ", f" {entries['and']} ")
    if mark := next((mark for mark in marks if mark in entries[name]), None):
        raise WordingInvalid(f"{path.name}: {name} has {mark!r}, which separates findings in a list; leave it out")


def _alike(path: Path, name: str, other: str, entries: Mapping[str, str]) -> WordingInvalid:
    return WordingInvalid(f"{path.name}: {name} and {other} say the same, {entries[name]!r}; change one of them")


def _meant(name: str) -> str:
    """An entry without its number: ``impression.not_evaluated`` for one and for many."""
    return name.removesuffix("_one").removesuffix("_many")


def _words(template: str) -> str:
    """The words alone, without placeholders and punctuation, in lower case; the template where it has no words."""
    found = re.findall(r"[^\W_]+", re.sub(r"\{\w+\}", " ", template).casefold())
    return " ".join(found) or template


def _braced(names: list[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names) or "no placeholder"

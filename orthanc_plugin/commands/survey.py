"""What a site has set, looked at whole: every setting with where it comes from, and everything that is wrong with it.

The rule: it never stops at the first mistake, and shows no secret. `load_settings` decides what is right; this says
where it stands.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from dicom_sr.report.wording import WordingInvalid, load_wording
from orthanc_plugin.settings import REPOSITORY, Settings, SettingsInvalid, contradiction, convert
from orthanc_plugin.working.notice_settings import NoticesUnusable, load_notice_settings

# of the environment, and no settings: see README.md, and the tests
_OTHERS = frozenset(
    ("HILUM_HOME", "HILUM_VENV", "HILUM_PYTHON", "HILUM_SAMPLES", "HILUM_FAILPOINTS", "HILUM_WITHOUT_SHARED",
     "HILUM_SCREENSHOTS")
)  # fmt: skip
_KEY = re.compile(r"""\s*(?:\[\s*)?(["']?)([\w-]+)\1\s*(?:[.\]=]|$)""")
_LAST_NUMBER = re.compile(r"\d+$")
_SENTENCE = re.compile(r"\.\s| \(models")
_AT_LINE = re.compile(r"\s*\(at line (\d+), column \d+\)")


@dataclass(frozen=True)
class Setting:
    """One setting of this site.

    Parameters
    ----------
    origin
        ``default``, the file with its line, or the name of the variable.
    value
        As it is used; as it was given where that cannot be used.
    what
        What it is for, in one line.
    """

    name: str
    value: Any
    default: Any
    origin: str
    what: str


@dataclass(frozen=True)
class Mistake:
    """Something in what a site has set that cannot be used.

    Parameters
    ----------
    where
        File and line, or the name of a variable.
    stops
        Whether the node does not start with it.
    """

    where: str
    text: str
    stops: bool = True


@dataclass(frozen=True)
class Survey:
    """Everything that a site has set."""

    home: Path
    settings: tuple[Setting, ...]
    mistakes: tuple[Mistake, ...]

    @property
    def is_usable(self) -> bool:
        """Whether the node starts with it."""
        return not any(mistake.stops for mistake in self.mistakes)


def survey(environment: Mapping[str, str]) -> Survey:
    """Look at ``hilum.toml``, the environment and the files beside them."""
    home = Path(environment.get("HILUM_HOME", "var")).expanduser().resolve()
    file = home / "hilum.toml"
    given, lines, mistakes = _read(file)
    known = {f.name: f.default for f in fields(Settings) if f.name != "home"}
    for name in given.keys() - known.keys():
        mistakes.append(Mistake(_at(file, lines.get(name)), f"unknown setting {name!r}{_meant(name, known)}"))
    found = []
    for name, default in known.items():
        variable = f"HILUM_{name.upper()}"
        value, origin = default, "default"
        if name in given:
            value, origin = given[name], _at(file, lines.get(name))
        if variable in environment:
            value, origin = environment[variable], variable
        if origin != "default":
            try:
                value = convert(name, value)
            except SettingsInvalid as error:
                mistakes.append(Mistake(origin, str(error)))
                value = "(cannot be used)"
        found.append(Setting(name, _shown(name, value), _shown(name, default), origin, _WHAT.get(name, "")))
    mistakes += _unknown_variables(environment, known)
    values = {setting.name: setting.value for setting in found}
    if values["http_port"] == values["dicom_port"]:
        mistakes.append(Mistake("http_port, dicom_port", f"both are {values['http_port']}: give each its own"))
    if wrong := contradiction(known if any(mistake.stops for mistake in mistakes) else values):
        mistakes.append(Mistake(wrong.partition(" ")[0], wrong))
    mistakes += _of_files(home, values)
    return Survey(
        home, tuple(found), tuple(sorted(mistakes, key=lambda m: (not m.stops, _LAST_NUMBER.sub(_padded, m.where))))
    )


def _padded(number: re.Match[str]) -> str:
    return number[0].rjust(9, "0")


def _read(file: Path) -> tuple[dict[str, Any], dict[str, int], list[Mistake]]:
    """What the file holds, at which line each key stands, and why it cannot be read."""
    try:
        text = file.read_text("utf-8")
        given = tomllib.loads(text)
    except FileNotFoundError:
        return {}, {}, []
    except (OSError, ValueError) as error:  # tomllib's and that of UTF-8 are ValueErrors
        line = _AT_LINE.search(str(error))
        why = _AT_LINE.sub("", str(error)) if isinstance(error, tomllib.TOMLDecodeError) else type(error).__name__
        where = _at(file, int(line[1]) if line else None)
        return {}, {}, [Mistake(where, f"this is no valid TOML: {why}")]
    lines: dict[str, int] = {}
    for number, line_text in enumerate(text.splitlines(), 1):
        key = _KEY.match(line_text)
        if key and key[2] in given:
            lines.setdefault(key[2], number)
    return given, lines, []


def _unknown_variables(environment: Mapping[str, str], known: Mapping[str, Any]) -> Iterator[Mistake]:
    names = {f"HILUM_{name.upper()}" for name in known} | _OTHERS
    for name in sorted(environment):
        if name.startswith("HILUM_") and name not in names:
            meant = _meant(name, names)
            yield Mistake(name, f"no setting has this name, so it is passed over{meant}", stops=False)


def _of_files(home: Path, values: Mapping[str, Any]) -> Iterator[Mistake]:
    """What is wrong in the other files of a site."""
    try:
        load_notice_settings(home / "notifications.toml")
    except NoticesUnusable as error:
        yield Mistake("notifications.toml", f"{error}; nobody is told of critical results", stops=False)
    language = str(values["report_language"])
    if (wording := home / f"report.{language}.toml").exists():
        try:
            load_wording(language, wording)
        except WordingInvalid as error:
            yield Mistake(wording.name, str(error))
    for name in values["bundles"] if isinstance(values["bundles"], list) else ():
        if not (REPOSITORY / "models" / name / "configs").is_dir() and not (home / "models" / name).is_dir():
            yield Mistake("bundles", f"there is no bundle {name!r} (./hilum models list)")


def _at(file: Path, line: int | None) -> str:
    return f"{file.name}, line {line}" if line else file.name


def _meant(name: str, known: Mapping[str, Any] | set[str]) -> str:
    """What somebody may have meant, or else all that there is."""
    close = difflib.get_close_matches(name, list(known), 1, 0.6)
    if close:
        return f": did you mean {close[0]!r}?"
    return f"; known are {', '.join(sorted(known))}" if isinstance(known, dict) else ""


def _shown(name: str, value: Any) -> Any:
    """As JSON types, and without a password."""
    if name == "ledger_url" and isinstance(value, str) and "://" in value:
        parts = urlsplit(value)
        user, host = (parts.username or ""), parts.netloc.rpartition("@")[2]
        secret = ":(withheld)" if parts.password else ""
        who = f"{user}{secret}@" if user else ""
        return urlunsplit(parts._replace(netloc=f"{who}{host}", query="(withheld)" if parts.query else ""))
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _explained() -> dict[str, str]:
    """The first sentence about each setting, from where they are defined."""
    told: dict[str, list[str]] = {}
    names: list[str] = []
    for line in (Settings.__doc__ or "").splitlines():
        if line.startswith("        "):
            for name in names:
                told[name].append(line.strip().replace("`", ""))
        elif line.strip().replace("_", "").replace(", ", "").isalpha():
            names = line.strip().split(", ")
            told.update({name: [] for name in names})
    return {name: _SENTENCE.split(" ".join(lines), maxsplit=1)[0].rstrip(".") for name, lines in told.items()}


_WHAT = _explained()

"""What a site has set, looked at whole: every setting with where it comes from, and everything that is wrong with it.

The rule: it never stops at the first mistake, and shows no secret. `load_settings` decides what is right; this says
where it stands.
"""

from __future__ import annotations

import difflib
import itertools
import re
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from dicom_sr.report.wording import WordingInvalid, load_wording
from orthanc_plugin.integration import line_of
from orthanc_plugin.settings import (
    Settings,
    SettingsInvalid,
    contradiction,
    convert,
    from_environment,
    has_bundle,
    wrong_tables,
)
from orthanc_plugin.trust import EXPIRES_SOON_SECONDS, TlsUnusable, require_certificates, seconds_left
from orthanc_plugin.working.notice_settings import NoticesUnusable, load_notice_settings

# of the environment, and no settings: see README.md, and the tests
_OTHERS = frozenset(
    ("HILUM_HOME", "HILUM_VENV", "HILUM_PYTHON", "HILUM_SAMPLES", "HILUM_FAILPOINTS", "HILUM_WITHOUT_SHARED",
     "HILUM_SCREENSHOTS")
)  # fmt: skip
_UNUSABLE = "(cannot be used)"
_KEY = re.compile(r"""\s*(?:\[\[?\s*)?(["']?)([\w-]+)\1\s*(?:[.\]=]|$)""")
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
    given, written, mistakes = _read(file)
    lines = _lines(written, given)
    known = {f.name: f.default for f in fields(Settings) if f.name != "home"}
    for name in given.keys() - known.keys():
        mistakes.append(Mistake(_at(file, lines.get(name)), f"unknown setting {name!r}{_meant(name, known)}"))
    found = []
    used: dict[str, Any] = {}
    for name, default in known.items():
        variable = f"HILUM_{name.upper()}"
        value, origin = default, "default"
        if name in given:
            value, origin = given[name], _at(file, lines.get(name))
        by_file = f"{variable}_FILE"
        if variable in environment or by_file in environment:
            origin = by_file if by_file in environment else variable
        if origin != "default":
            try:
                text = from_environment(name, environment)
                value = used[name] = convert(name, value if text is None else text)
            except SettingsInvalid as error:
                place = line_of(written, error.table, error.number, error.key) if origin.startswith(file.name) else None
                mistakes.append(Mistake(_at(file, place) if place else origin, str(error)))
                value = _UNUSABLE
        found.append(Setting(name, _shown(name, value), _shown(name, default), origin, _WHAT.get(name, "")))
    mistakes += _unknown_variables(environment, known)
    values = {setting.name: setting.value for setting in found}
    for wrong in wrong_tables(home, used):
        mistakes.append(Mistake(_at(file, line_of(written, wrong.table, wrong.number, wrong.key)), str(wrong)))
    if not any(mistake.stops for mistake in mistakes) and (against := contradiction(known | used)):
        mistakes.append(Mistake(against.partition(" ")[0], against))
    mistakes += [*_of_several(values), *_of_files(home, values), *_of_certificates(home, values)]
    return Survey(
        home, tuple(found), tuple(sorted(mistakes, key=lambda m: (not m.stops, _LAST_NUMBER.sub(_padded, m.where))))
    )


def _padded(number: re.Match[str]) -> str:
    return number[0].rjust(9, "0")


def _read(file: Path) -> tuple[dict[str, Any], str, list[Mistake]]:
    """What the file holds, its text, and why it cannot be read."""
    try:
        text = file.read_text("utf-8")
        return tomllib.loads(text), text, []
    except FileNotFoundError:
        return {}, "", []
    except (OSError, ValueError) as error:  # tomllib's and that of UTF-8 are ValueErrors
        line = _AT_LINE.search(str(error))
        why = _AT_LINE.sub("", str(error)) if isinstance(error, tomllib.TOMLDecodeError) else type(error).__name__
        where = _at(file, int(line[1]) if line else None)
        return {}, "", [Mistake(where, f"this is no valid TOML: {why}")]


def _lines(text: str, given: Mapping[str, Any]) -> dict[str, int]:
    """At which line each key stands."""
    lines: dict[str, int] = {}
    for number, line_text in enumerate(text.splitlines(), 1):
        key = _KEY.match(line_text)
        if key and key[2] in given:
            lines.setdefault(key[2], number)
    return lines


def _unknown_variables(environment: Mapping[str, str], known: Mapping[str, Any]) -> Iterator[Mistake]:
    names = {f"HILUM_{name.upper()}{end}" for name in known for end in ("", "_FILE")} | _OTHERS
    for name in sorted(environment):
        if name.startswith("HILUM_") and name not in names:
            meant = _meant(name, names)
            yield Mistake(name, f"no setting has this name, so it is passed over{meant}", stops=False)


def _of_several(values: Mapping[str, Any]) -> Iterator[Mistake]:
    """What is wrong with settings that are right each by itself."""
    ports = ["http_port", "dicom_port", *(["https_port"] if values["https"] != "off" else [])]
    for name, other in itertools.combinations(ports, 2):
        if values[name] == values[other]:
            yield Mistake(f"{name}, {other}", f"both are {values[name]}: give each its own")
    if values["proxy_groups"] and not values["proxy_secret"]:
        yield Mistake("proxy_groups", "without a proxy_secret no proxy is believed", stops=False)
    if values["proxy_secret"] and not values["proxy_groups"]:
        yield Mistake("proxy_secret", "without proxy_groups nobody whom the proxy names may do anything", stops=False)
    if values["check_modality_host"] and not values["modalities"]:
        yield Mistake("check_modality_host", "without modalities there is no host to compare with", stops=False)


def _of_certificates(home: Path, values: Mapping[str, Any]) -> Iterator[Mistake]:
    """What is wrong with the certificates that the settings ask for."""
    if _UNUSABLE in (values["https"], values["dicom_tls"]):
        return
    settings = Settings(home=home, https=values["https"], dicom_tls=values["dicom_tls"])
    try:
        require_certificates(settings)
    except TlsUnusable as error:
        yield Mistake("https" if settings.https != "off" else "dicom_tls", str(error))
        return
    left = seconds_left(settings, time.time())
    if left is not None and left < EXPIRES_SOON_SECONDS:
        when = "has expired" if left <= 0 else f"expires in {left / 86_400:.0f} days"
        yield Mistake("tls/server.crt", f"the node's certificate {when}: ./hilum tls renew", stops=False)


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
        if not has_bundle(home, name):
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
    if name == "proxy_secret" and value:
        return "(withheld)"
    if name in ("ledger_url", "index_url") and isinstance(value, str) and "://" in value:
        parts = urlsplit(value)
        user, host = (parts.username or ""), parts.netloc.rpartition("@")[2]
        secret = ":(withheld)" if parts.password else ""
        who = f"{user}{secret}@" if user else ""
        return urlunsplit(parts._replace(netloc=f"{who}{host}", query="(withheld)" if parts.query else ""))
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {one: _shown(one, each) for one, each in asdict(value).items()}
    if isinstance(value, tuple):
        return [_shown("", each) for each in value]
    return value


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

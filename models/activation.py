"""Which version of each bundle is active and which run in shadow: one small file, with what it said before.

The rule: the file says only where a site departs from what Hilum ships, so that an update of Hilum brings its new
bundles to everyone else; and it is replaced at once, so that a node never reads half a change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.bundle import BundleInvalid
from models.registry import Packaged, Registry, write_whole

_KEPT = 50  # earlier choices


@dataclass(frozen=True)
class Choice:
    """What a site has chosen.

    Parameters
    ----------
    active
        Name to version, of the bundles that are run otherwise than the setting `bundles` says; an empty version is
        the one that Hilum ships.
    shadow
        Names and versions that are run, recorded and not published.
    """

    active: Mapping[str, str] = field(default_factory=dict)
    shadow: tuple[tuple[str, str], ...] = ()

    def activate(self, bundle: Packaged, names: Sequence[str]) -> Choice:
        """Run this version of a bundle; `names` is the setting `bundles`."""
        dropped = self.drop(bundle)
        active = {name: version for name, version in dropped.active.items() if name != bundle.name}
        if not bundle.shipped or bundle.name not in names:
            active[bundle.name] = "" if bundle.shipped else bundle.version
        return replace(dropped, active=active)

    def watch(self, bundle: Packaged) -> Choice:
        """Run it in shadow."""
        return replace(self, shadow=tuple(dict.fromkeys([*self.shadow, (bundle.name, bundle.version)])))

    def drop(self, bundle: Packaged) -> Choice:
        """Run it no more, neither way; the shipped version takes its place if the setting `bundles` names it."""
        version = "" if bundle.shipped else bundle.version
        active = {name: chosen for name, chosen in self.active.items() if (name, chosen) != (bundle.name, version)}
        return Choice(active, tuple(pair for pair in self.shadow if pair != (bundle.name, bundle.version)))

    def bundles(self, registry: Registry, names: Sequence[str]) -> list[Packaged]:
        """The active ones, in the order in which the setting names them; what the site added comes last.

        Parameters
        ----------
        names
            The setting `bundles`.

        Raises
        ------
        BundleInvalid
            When one of them is not here.
        """
        wanted = dict.fromkeys([*names, *self.active])
        return [
            registry.find(name, version) if (version := self.active.get(name)) else registry.shipped(name)
            for name in wanted
        ]

    def shadows(self, registry: Registry) -> list[Packaged]:
        """Those that run in shadow.

        Raises
        ------
        BundleInvalid
            When one of them is not here.
        """
        return [registry.find(name, version) for name, version in self.shadow]


class Activation:
    """The file of the choice.

    Parameters
    ----------
    file
        It need not be there: then everything is run as Hilum ships it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def choice(self) -> Choice:
        """What holds now.

        Raises
        ------
        BundleInvalid
            When the file is damaged.
        """
        return _choice(self._read(), self._file)

    @property
    def earlier(self) -> list[tuple[str, Choice]]:
        """What held before, the latest first, and until when (ISO 8601, UTC).

        Raises
        ------
        BundleInvalid
            When the file is damaged.
        """
        found = self._read().get("earlier", [])
        return [(str(given["until"]), _choice(given, self._file)) for given in reversed(found)]

    def choose(self, choice: Choice) -> None:
        """Replace the choice, and keep what it was."""
        held = self._read()
        if choice == _choice(held, self._file):
            return
        before = {"until": datetime.now(UTC).isoformat(timespec="seconds"), **_json(_choice(held, self._file))}
        self._write(choice, [*held.get("earlier", []), before][-_KEPT:])

    def go_back(self, steps: int) -> Choice:
        """Make the choice of so many changes ago that of now, and forget what came after it."""
        choice = self.earlier[steps - 1][1]
        self._write(choice, self._read()["earlier"][:-steps])
        return choice

    def _write(self, choice: Choice, earlier: list[dict[str, Any]]) -> None:
        write_whole(self._file, json.dumps({**_json(choice), "earlier": earlier}, indent=1) + "\n")

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self._file.read_text("utf-8"))
            if not isinstance(content, dict) or not isinstance(content.get("earlier", []), list):
                raise TypeError("it is of another form")
            return content
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            raise _damaged(self._file, error) from error


def _choice(given: Mapping[str, Any], file: Path) -> Choice:
    try:
        active = {str(name): str(version) for name, version in given.get("active", {}).items()}
        return Choice(active, tuple((str(name), str(version)) for name, version in given.get("shadow", [])))
    except (AttributeError, TypeError, ValueError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> BundleInvalid:
    return BundleInvalid(f"{file} is damaged ({error}): delete it, and the bundles are run as Hilum ships them")


def _json(choice: Choice) -> dict[str, Any]:
    return {"active": dict(choice.active), "shadow": [list(pair) for pair in choice.shadow]}

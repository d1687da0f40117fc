"""What the packaged models say of themselves: their metadata, digests and cards, for the pages.

The rule: only what the lists of recorded digests name is read, nothing is loaded, and a file that cannot be read is
told as absent. (The registry itself leads to the model libraries, which the Orthanc process never loads.)
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from orthanc_plugin.settings import REPOSITORY, Settings

_RECORDS = "registry.toml"
_MIME = {".html": "text/html; charset=utf-8", ".png": "image/png"}


@dataclass(frozen=True)
class BundleFiles:
    """One recorded version of a bundle; `digests` are file to SHA-256 in hexadecimal."""

    name: str
    version: str
    folder: Path
    digests: dict[str, str]
    shipped: bool

    @property
    def section(self) -> dict[str, Any]:
        """The section ``hilum`` of its metadata; empty when it cannot be read."""
        file = self.folder / "configs" / "metadata.json"
        try:
            return _section(file, file.stat().st_mtime_ns)
        except OSError:
            return {}

    @property
    def has_card(self) -> bool:
        """Whether there is a page about it."""
        return (self.folder / "docs" / "card.html").is_file()

    def page(self, file: str) -> tuple[str, bytes] | None:
        """MIME type and content of ``card.html`` or one of its plots; None when there is none of this name."""
        path = self.folder / "docs" / file
        if Path(file).name != file or path.suffix not in _MIME or not path.is_file():
            return None
        return _MIME[path.suffix], path.read_bytes()


def recorded(settings: Settings) -> list[BundleFiles]:
    """Every version that is recorded: what Hilum ships, then the site's own."""
    return [*_listed(REPOSITORY / "models", shipped=True), *_listed(settings.own_models, shipped=False)]


def find(settings: Settings, name: str, version: str) -> BundleFiles | None:
    """One version of a bundle; None when it is not recorded here."""
    return next((b for b in recorded(settings) if (b.name, b.version) == (name, version)), None)


def evaluated(settings: Settings, models: Mapping[str, str]) -> frozenset[str]:
    """The findings that these bundles, name to version, evaluate."""
    active = [bundle for bundle in recorded(settings) if models.get(bundle.name) == bundle.version]
    findings = [bundle.section.get("findings") for bundle in active]
    told = [(key, its) for of in findings if isinstance(of, dict) for key, its in of.items() if isinstance(its, dict)]
    return frozenset(key for key, its in told if its.get("evaluated") is True)


def _listed(folder: Path, *, shipped: bool) -> list[BundleFiles]:
    file = folder / _RECORDS
    try:
        content = _records(file, file.stat().st_mtime_ns)
        return [
            BundleFiles(name, version, folder / name if shipped else folder / name / version, dict(digests), shipped)
            for name, versions in content.items()
            for version, digests in versions.items()
        ]
    except (OSError, ValueError, AttributeError, TypeError):
        return []


@lru_cache(maxsize=8)
def _records(file: Path, _changed: int) -> dict[str, Any]:
    return tomllib.loads(file.read_text("utf-8"))


@lru_cache(maxsize=64)
def _section(file: Path, _changed: int) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))["hilum"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}

"""Which bundles there are, by name and version, and whether each is still the one that was recorded.

The rule: a bundle runs only if every file that decides on its answers has the SHA-256 that was recorded when it was
shipped or added: the weights, and both configurations, so that a changed threshold is noticed like a changed weight;
and what says in which lower precisions it may answer, where that lies there. A bundle of criteria has no weights: of it
the metadata alone is recorded.

::

    models/registry.toml                  the digests of the bundles that Hilum ships, folders models/NAME/
    HILUM_HOME/models/registry.toml       those of the site's own, folders HILUM_HOME/models/NAME/VERSION/
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.bundle import DECISIVE, DECISIVE_OF_CRITERIA, Bundle, BundleInvalid, load_bundle
from models.precisions import BESIDE
from models.trial import require_answer

RECORDS = "registry.toml"
CARD = "docs/README.md"
# They become folders, keys of TOML, and values of DICOM (LO: at most 64 characters).
_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}", re.ASCII)
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,31}", re.ASCII)
_HEADER = {
    True: "# SHA-256 of the bundles that Hilum ships. Written by `./hilum models pin`.\n",
    False: "# SHA-256 of this site's own bundles. Written by `./hilum models add` and `import`.\n",
}


@dataclass(frozen=True)
class Packaged:
    """One version of a bundle, as it was recorded.

    Parameters
    ----------
    digests
        File, as in `DECISIVE` and `BESIDE` or in `DECISIVE_OF_CRITERIA`, to SHA-256, hexadecimal.
    shipped
        Whether it came with Hilum.
    """

    name: str
    version: str
    folder: Path
    digests: Mapping[str, str]
    shipped: bool

    @property
    def title(self) -> str:
        """Name and version, for people."""
        return f"{self.name} {self.version}"

    @property
    def digest(self) -> str:
        """SHA-256 by which people know it: of the weights, or of the metadata where there are none."""
        return next(iter(self.digests.values()))

    def verify(self) -> None:
        """Compare its files with what was recorded.

        Raises
        ------
        BundleInvalid
            When one is missing or another one.
        """
        mend = "restore the folder" if self.shipped else "add it again (./hilum models add)"
        for file, expected in self.digests.items():
            if (found := _digest(self.folder / file)) != expected:
                is_now = f"has SHA-256 {found}" if found else "is missing"
                raise BundleInvalid(
                    f"bundle {self.title}: {file} {is_now}, {expected} was recorded; {mend}, "
                    "or go back (./hilum models rollback)"
                )

    def load(self) -> Bundle:
        """Verify and load it.

        Raises
        ------
        BundleInvalid
        """
        self.verify()
        bundle = load_bundle(self.folder, self.name)
        if set(self.digests) != set(bundle.decisive):
            raise BundleInvalid(
                f"bundle {self.title}: recorded are {', '.join(self.digests)}, it is decided by "
                f"{', '.join(bundle.decisive)}; restore {RECORDS}, or record it anew"
            )
        return bundle


class Registry:
    """The bundles that Hilum ships and those of this site.

    Parameters
    ----------
    shipped
        The folder ``models`` of Hilum.
    own
        That of the site; it need not be there.
    """

    def __init__(self, shipped: Path, own: Path) -> None:
        self._shipped, self._own = shipped, own

    def bundles(self) -> list[Packaged]:
        """Every version that was recorded, by name; the shipped one first.

        Raises
        ------
        BundleInvalid
            When a list of digests is damaged.
        """
        found = [*_recorded(self._shipped, shipped=True), *_recorded(self._own, shipped=False)]
        return sorted(found, key=lambda b: (b.name, not b.shipped))

    def shipped(self, name: str) -> Packaged:
        """The version of a bundle that came with Hilum.

        Raises
        ------
        BundleInvalid
            When there is none.
        """
        for bundle in _recorded(self._shipped, shipped=True):
            if bundle.name == name:
                return bundle
        if any(bundle.name == name for bundle in _recorded(self._own, shipped=False)):
            raise BundleInvalid(f"bundle {name!r} is the site's own: name its version (./hilum models activate {name})")
        if (self._shipped / name / "configs").is_dir():
            raise BundleInvalid(f"no digests of {name!r} are in models/{RECORDS}: record them (./hilum models pin)")
        raise BundleInvalid(f"there is no bundle {name!r} in {self._shipped.name}/: correct the setting `bundles`")

    def find(self, name: str, version: str) -> Packaged:
        """One version; a site's own goes before a shipped one that took the same number later.

        Raises
        ------
        BundleInvalid
            When there is none.
        """
        of_name = [bundle for bundle in self.bundles() if bundle.name == name]
        for bundle in reversed(of_name):
            if bundle.version == version:
                return bundle
        known = f"there are {', '.join(b.version for b in of_name)}" if of_name else "no version of it is here"
        raise BundleInvalid(f"there is no bundle {name} {version}: {known} (./hilum models list)")

    def add(self, source: Path, name: str = "") -> Packaged:
        """Copy a bundle into the site's folder and record its digests; one that is there already stays as it is.

        Parameters
        ----------
        source
            Folder of the bundle; what is not of a bundle is not copied.
        name
            Where the folder's name is not to be that of the bundle.

        Raises
        ------
        BundleInvalid
            When a file or the card is missing, it cannot be loaded, does not answer as its contract says, or its
            version is taken by another.
        """
        name = name or source.resolve().name
        version = _version_of(source)
        if not _NAME.fullmatch(name) or not _VERSION.fullmatch(version):
            raise BundleInvalid(
                f"bundle {name!r}, version {version!r}: a name is of a-z, 0-9 and _, a version of letters, digits and "
                ".+_-; name it with --name"
            )
        bundle = load_bundle(source, name)
        if not (source / CARD).is_file():
            raise BundleInvalid(f"bundle {name}: {CARD} is missing: no model without its card")
        require_answer(bundle)
        digests = {file: _digest(source / file) for file in bundle.decisive}
        for other in self.bundles():
            if (other.name, other.version) == (name, version):
                if dict(other.digests) != digests:
                    raise BundleInvalid(f"there is another {other.title} already: give this one another version")
                if other.shipped:
                    return other
        added = Packaged(name, version, self._own / name / version, digests, shipped=False)
        _copy(source, added.folder, added.digests)
        added.verify()
        rest = [b for b in _recorded(self._own, shipped=False) if (b.name, b.version) != (name, version)]
        _write_records(self._own, [*rest, added], shipped=False)
        return added

    def pin(self) -> list[Packaged]:
        """Record the bundles that lie in the folder of Hilum as they are now: for whoever makes them.

        Raises
        ------
        BundleInvalid
            When one cannot be loaded or built; nothing is recorded then.
        """
        found = []
        for configs in sorted(self._shipped.glob("*/configs")):
            folder = configs.parent
            bundle = load_bundle(folder)
            if bundle.build is not None:
                bundle.build()
            digests = {file: _digest(folder / file) for file in bundle.decisive}
            found.append(Packaged(folder.name, _version_of(folder), folder, digests, shipped=True))
        _write_records(self._shipped, found, shipped=True)
        return found


def write_whole(file: Path, content: str) -> None:
    """Write a file such that a reader, and a power cut, meet the old one or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _recorded(folder: Path, *, shipped: bool) -> list[Packaged]:
    try:
        content = tomllib.loads((folder / RECORDS).read_text("utf-8"))
        return [
            _packaged(folder, name, version, digests, shipped=shipped)
            for name, versions in content.items()
            for version, digests in versions.items()
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        mend = "restore it" if shipped else "restore it from a backup, or delete it and add the bundles again"
        raise BundleInvalid(f"{folder / RECORDS} cannot be read ({type(error).__name__}: {error}): {mend}") from error


def _packaged(folder: Path, name: str, version: str, digests: Mapping[str, str], *, shipped: bool) -> Packaged:
    if not _NAME.fullmatch(name) or not _VERSION.fullmatch(version):
        raise ValueError(f"{name} {version} is no bundle")
    place = folder / name if shipped else folder / name / version
    # each of them must be recorded, or a file could be left unchecked; `Packaged.load` tells which kind it has to be
    of_network = (*DECISIVE, *(file for file in BESIDE if file in digests))
    files = DECISIVE_OF_CRITERIA if set(digests) == set(DECISIVE_OF_CRITERIA) else of_network
    return Packaged(name, version, place, {file: str(digests[file]) for file in files}, shipped)


def _write_records(folder: Path, bundles: Iterable[Packaged], *, shipped: bool) -> None:
    parts = [_HEADER[shipped]]
    for bundle in sorted(bundles, key=lambda b: (b.name, b.version)):
        lines = [f'\n[{bundle.name}."{bundle.version}"]\n']
        parts += [*lines, *(f'"{file}" = "{digest}"\n' for file, digest in bundle.digests.items())]
    write_whole(folder / RECORDS, "".join(parts))


def _version_of(folder: Path) -> str:
    try:
        return str(json.loads((folder / "configs" / "metadata.json").read_text("utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleInvalid(f"{folder} is no bundle: configs/metadata.json: {type(error).__name__}") from error


def _copy(source: Path, target: Path, files: Iterable[str]) -> None:
    """Copy what belongs to a bundle; the target is there whole or not at all."""
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    for file in files:
        (draft / file).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copyfile(source / file, draft / file)
    if (source / "docs").is_dir():
        shutil.copytree(source / "docs", draft / "docs")
    if (source / "LICENSE").is_file():
        shutil.copyfile(source / "LICENSE", draft / "LICENSE")
    shutil.rmtree(target, ignore_errors=True)
    draft.replace(target)


def _digest(file: Path) -> str:
    """SHA-256 of a file; empty when it is not there or cannot be read."""
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError:
        return ""

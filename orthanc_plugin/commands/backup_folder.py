"""A backup on disk: what lies where, how it is written, and how it is known to be whole.

The rule: a backup is what its manifest says. The manifest is replaced last and at once, so that a backup that was
broken off leaves the one before it as it was; and everything it counts on is found by SHA-256 from it.

::

    manifest.json            the files of the latest backup, with their SHA-256
    <time>/ledger.jsonl      ``ledger.dump``
    <time>/resources.jsonl   each instance, and each study to which something is attached
    <time>/...               settings, and the site's own models below ``models/``
    objects/ab/<MD5>.dcm     an instance, byte for byte; Orthanc knows it by the same MD5
    objects/ab/<MD5>         what is attached to an instance or a study
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orthanc_plugin.commands.node import NodeFailed

FORMAT = 1
_PIECE = 1 << 20


class BackupFailed(NodeFailed):
    """Nothing was backed up or restored; the message says why and what to do."""


@dataclass(frozen=True)
class Kept:
    """A file of a backup: its path in it, its SHA-256 and its bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Resource:
    """An instance or a study of Orthanc.

    Parameters
    ----------
    path
        In Orthanc's interface, e.g. ``/instances/<id>``.
    file
        The instance; None for a study.
    metadata
        User-defined, by number.
    attachments
        User-defined, by number.
    """

    path: str
    file: Kept | None
    metadata: dict[str, str]
    attachments: dict[str, Kept]


@dataclass(frozen=True)
class Manifest:
    """What a backup holds.

    Parameters
    ----------
    archive
        The random name of the archive.
    made_at
        When, as the name of its folder tells too: UTC, ``YYYYMMDDTHHMMSSZ``.
    files
        Settings and lists; the lists name the objects.
    """

    archive: str
    made_at: str
    instances: int
    size: int
    files: tuple[Kept, ...]


class BackupFolder:
    """The folder of a backup."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Have the folder for oneself, made where there is none, readable by its owner alone.

        Raises
        ------
        BackupFailed
            When another backup is written to it.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackupFailed(f"another backup is being written to {self.path}: wait for it") from None
            yield

    def manifest(self) -> Manifest | None:
        """What the folder holds; None when no backup was ever completed in it.

        Raises
        ------
        BackupFailed
            When it is damaged, or of a newer Hilum.
        """
        try:
            given = json.loads((self.path / "manifest.json").read_text("utf-8"))
            if given.pop("format") != FORMAT:
                raise BackupFailed(f"{self.path} was written by a newer Hilum: update this one")
            return Manifest(**{**given, "files": tuple(Kept(**file) for file in given["files"])})
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError) as error:
            raise BackupFailed(f"the manifest of {self.path} is damaged: take another backup") from error

    def keep(self, path: str, pieces: Iterable[bytes]) -> Kept:
        """Write a file; it appears under its name when it is complete."""
        return self._write(path, pieces)[0]

    def keep_object(self, md5: str, suffix: str, pieces: Iterable[bytes]) -> Kept:
        """Write content of which the MD5 is known, unless it is there.

        Raises
        ------
        BackupFailed
            When the content has another MD5.
        """
        if (kept := self.find_object(md5, suffix)) is not None:
            return kept
        path = _object_path(md5, suffix)
        kept, found = self._write(path, pieces)
        if found != md5:
            (self.path / path).unlink()
            raise BackupFailed(f"an object came with another content (MD5 {found}) than Orthanc says ({md5})")
        return kept

    def find_object(self, md5: str, suffix: str) -> Kept | None:
        """Content that was written before and is whole."""
        path = _object_path(md5, suffix)
        try:
            kept, found = self._read(path)
        except FileNotFoundError:
            return None
        return kept if found == md5 else None

    def complete(self, manifest: Manifest, resources: Iterable[Resource]) -> None:
        """Make this the backup that the folder holds, and delete what only earlier ones held."""
        os.sync()  # not even a power cut leaves a manifest without its files
        draft = self.path / "manifest.draft"
        with draft.open("w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, **asdict(manifest)}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path / "manifest.json")
        needed = {kept.path for resource in resources for kept in _objects(resource)}
        for old in (self.path / "objects").glob("*/*"):
            if f"objects/{old.parent.name}/{old.name}" not in needed:
                old.unlink()
        for folder in self.path.iterdir():
            if folder.is_dir() and folder.name not in ("objects", manifest.made_at):
                shutil.rmtree(folder)

    def resources(self, manifest: Manifest) -> Iterator[Resource]:
        """The instances and studies of a backup."""
        with (self.path / manifest.made_at / "resources.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                yield _resource(json.loads(line))

    def damaged(self, manifest: Manifest, watch: Callable[[list[Resource]], Iterable[Resource]] = iter) -> list[str]:
        """The files of a backup that are missing or not as they were written; the lists first, then what they list.

        Parameters
        ----------
        watch
            Gives on what it is given, one by one, and may show how far that is.
        """
        bad = [kept.path for kept in manifest.files if not self._is_whole(kept)]
        if bad:
            return bad
        for resource in watch(list(self.resources(manifest))):
            bad.extend(kept.path for kept in _objects(resource) if not self._is_whole(kept))
        return bad

    def _is_whole(self, kept: Kept) -> bool:
        try:
            return self._read(kept.path)[0] == kept
        except FileNotFoundError:
            return False

    def _read(self, path: str) -> tuple[Kept, str]:
        with (self.path / path).open("rb") as file:
            return _hashed(path, iter(lambda: file.read(_PIECE), b""))

    def _write(self, path: str, pieces: Iterable[bytes]) -> tuple[Kept, str]:
        target = self.path / path
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = target.with_name(f"{target.name}.draft")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                written = _hashed(path, _through(pieces, file.write))
            draft.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        return written


def line_of(resource: Resource) -> str:
    """The line of ``resources.jsonl``, without its end."""
    return json.dumps(asdict(resource), separators=(",", ":"))


def _resource(given: dict[str, Any]) -> Resource:
    return Resource(
        given["path"],
        None if given["file"] is None else Kept(**given["file"]),
        given["metadata"],
        {number: Kept(**kept) for number, kept in given["attachments"].items()},
    )


def _objects(resource: Resource) -> list[Kept]:
    return [*([resource.file] if resource.file else []), *resource.attachments.values()]


def _object_path(md5: str, suffix: str) -> str:
    return f"objects/{md5[:2]}/{md5}{suffix}"


def _hashed(path: str, pieces: Iterable[bytes]) -> tuple[Kept, str]:
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    for piece in pieces:
        sha256.update(piece)
        md5.update(piece)
        size += len(piece)
    return Kept(path, sha256.hexdigest(), size), md5.hexdigest()


def _through(pieces: Iterable[bytes], write: Any) -> Iterator[bytes]:
    for piece in pieces:
        write(piece)
        yield piece

"""Copies a running node into a folder, and makes a node from such a copy.

The rule: the ledger is copied before the images, so that whatever it names as answered is in the copy, and what came
later is found by reconciliation. A copy is compared with its source before it is called one, both ways.

Passwords, and the accounts of people, are left out unless they are asked for, also the password that the address of a
PostgreSQL database may hold. The audit log goes along, so that its chain goes on where it was.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import signal
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orthanc_plugin.access import audit_files
from orthanc_plugin.archive.client import (
    RECEIVED_METADATA,
    OrthancClient,
    OrthancFailed,
    OrthancUnavailable,
    ResultRefused,
    received_of,
)
from orthanc_plugin.commands.backup_folder import BackupFailed, BackupFolder, Kept, Manifest, Resource, line_of
from orthanc_plugin.commands.cluster.control import databases
from orthanc_plugin.commands.node import UNFINISHED, running_pid
from orthanc_plugin.commands.plain_orthanc import plain_orthanc
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.ledger.database import LedgerError, open_ledger
from orthanc_plugin.ledger.dump import dump, load, require_empty
from orthanc_plugin.ledger.notes import LAST_BACKUP, set_fact
from orthanc_plugin.ledger.ownership import load_archive_id
from orthanc_plugin.settings import Settings, load_settings

_FIRST_OF_USERS = 1024  # Orthanc's numbers of metadata and attachments below are its own
_FULL = (errno.ENOSPC, errno.EDQUOT)
# what may be, or hold, a password
_SECRET_SETTINGS = ("ledger_url", "index_url", "proxy_secret")
_SECRET_LINE = re.compile(rf"^\s*(?:{'|'.join(_SECRET_SETTINGS)})\s*=.*\n?", re.MULTILINE)
_MEBIBYTE = 1 << 20
log = logging.getLogger("hilum.backup")


def backup(settings: Settings, folder: Path, console: Console, *, with_credentials: bool = False) -> int:
    """Copy images, results, ledger, settings and own models of a running node into a folder; what it holds is kept.

    Returns
    -------
    int
        Exit code of the command.

    Raises
    ------
    BackupFailed
    LedgerError
    """
    target = BackupFolder(folder.expanduser().resolve())
    if running_pid(settings) is None:
        raise BackupFailed("the node does not run: start it (./hilum up), it is copied while it runs")
    if target.path == settings.home or settings.home in target.path.parents:
        raise BackupFailed(f"{target.path} lies in the node's own folder: name one on another disk")
    with _told(f"the disk of {target.path} is full", "what was copied is kept"), target.writing():
        archive = load_archive_id(settings.archive_id_file)
        before = target.manifest()
        if before is not None and before.archive != archive:
            raise BackupFailed(f"{target.path} holds the backup of another archive: name another folder")
        manifest = _copy(settings, target, archive, console, with_credentials=with_credentials)
    _note(settings)
    console.print(f"{manifest.instances} instances, {manifest.size / _MEBIBYTE:.0f} MiB, in {target.path}")
    return 0


def _note(settings: Settings) -> None:
    """Have the admin page know when it was; a backup is made whatever becomes of the note."""
    ledger = open_ledger(settings.ledger_address)
    try:
        with ledger.write() as db:
            set_fact(db, LAST_BACKUP, f"{time.time():.0f}")
    except LedgerError as error:
        log.warning("the backup is not noted in the ledger: %s", error)
    finally:
        ledger.close()


def restore(
    settings: Settings, folder: Path, console: Console, *, check: bool = False, as_cluster: bool = False
) -> int:
    """Make a node from a backup, in an empty folder; nothing is left there when it fails.

    Parameters
    ----------
    check
        Only tell whether the backup is whole.
    as_cluster
        Make a cluster of this machine: its index and its ledger are in a PostgreSQL of its own.

    Raises
    ------
    BackupFailed
    LedgerError
    """
    source = BackupFolder(folder.expanduser().resolve())
    with _told("a disk is full", "nothing was restored"):
        manifest = _verified(source, console)
        if check:
            console.print(f"{source.path} is whole: {manifest.instances} instances, made {manifest.made_at}")
            return 0
        home = settings.home
        unfinished = home / UNFINISHED
        if running_pid(settings) is None and unfinished.exists():
            _empty(home)  # of what an earlier try left
        if running_pid(settings) is not None or (home.exists() and any(home.iterdir())):
            raise BackupFailed(f"{home} is not empty: a node is restored into an empty folder; set HILUM_HOME to one")
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if (free := shutil.disk_usage(home).free) < manifest.size:
            raise BackupFailed(f"{home} has {free // _MEBIBYTE} MiB free, {manifest.size // _MEBIBYTE} are needed")
        unfinished.touch(mode=0o600)
        try:
            with _ended_in_order():
                rows = _fill(home, source, manifest, console, as_cluster=as_cluster)
        except BaseException:
            _empty(home)
            raise
        unfinished.unlink()
    console.print(f"{manifest.instances} instances and {rows} studies of the ledger restored into {home}")
    return 0


def _copy(
    settings: Settings, target: BackupFolder, archive: str, console: Console, *, with_credentials: bool
) -> Manifest:
    made_at = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    ledger = open_ledger(settings.ledger_address)
    files = [target.keep(f"{made_at}/ledger.jsonl", (f"{line}\n".encode() for line in dump(ledger)))]
    ledger.close()
    for name, content in _settings_files(settings, with_credentials=with_credentials):
        files.append(target.keep(f"{made_at}/{name}", (content,)))
    accounts = load_credentials(settings.credentials)
    with OrthancClient(settings.http_url, accounts.worker_user, accounts.worker_password) as orthanc:
        resources = list(_copy_resources(orthanc, target, console))
    files.append(target.keep(f"{made_at}/resources.jsonl", (f"{line_of(r)}\n".encode() for r in resources)))
    objects = [kept for r in resources for kept in (r.file, *r.attachments.values()) if kept is not None]
    manifest = Manifest(
        archive=archive,
        made_at=made_at,
        instances=sum(resource.file is not None for resource in resources),
        size=sum(kept.size for kept in (*objects, *files)),
        files=tuple(files),
    )
    target.complete(manifest, resources)
    return manifest


def _copy_resources(orthanc: OrthancClient, target: BackupFolder, console: Console) -> Iterator[Resource]:
    paths = [f"/instances/{name}" for name in orthanc.instance_ids()]
    paths += [f"/studies/{name}" for name in orthanc.study_ids()]
    with _progress(console) as progress:
        for path in progress.track(paths, description="Copying"):
            try:
                resource = _copy_resource(orthanc, path, target)
            except httpx.HTTPStatusError as error:
                if error.response.status_code != 404:
                    raise BackupFailed(f"Orthanc cannot give {path} (HTTP {error.response.status_code})") from error
                continue  # deleted while we copied
            if resource is not None:
                yield resource


def _copy_resource(orthanc: OrthancClient, path: str, target: BackupFolder) -> Resource | None:
    """Copy an instance, or what is attached to a study; None when it is there no more, or nothing is."""
    file, metadata = None, {}
    if path.startswith("/instances/"):
        if (file := _copy_attachment(orthanc, path, "dicom", target)) is None:
            return None
        noted = orthanc.metadata(path.rpartition("/")[2])
        metadata = {name: value for name, value in noted.items() if _is_of_users(name)}
        metadata[RECEIVED_METADATA] = received_of(noted)
    attachments = {}
    for name in filter(_is_of_users, orthanc.attachments(path)):
        if (kept := _copy_attachment(orthanc, path, name, target)) is not None:
            attachments[name] = kept
    return Resource(path, file, metadata, attachments) if file or attachments else None


def _copy_attachment(orthanc: OrthancClient, path: str, name: str, target: BackupFolder) -> Kept | None:
    for last in (False, True):
        if (md5 := orthanc.attachment_md5(path, name)) is None:
            return None
        suffix = ".dcm" if name == "dicom" else ""
        if (kept := target.find_object(md5, suffix)) is not None:
            return kept
        try:
            with orthanc.attachment(path, name) as pieces:
                return target.keep_object(md5, suffix, pieces)
        except BackupFailed:  # the worker may have replaced it in between
            if last:
                raise
    return None


def _settings_files(settings: Settings, *, with_credentials: bool) -> Iterator[tuple[str, bytes]]:
    home = settings.home
    for file in sorted([*home.glob("hilum.toml"), *home.glob("report.*.toml"), settings.archive_id_file]):
        content = file.read_bytes()
        if file.name == "hilum.toml" and not with_credentials:
            content = _without_secrets(content)
        yield file.name, content
    for file in sorted(settings.own_models.rglob("*")):
        path = file.relative_to(home)
        if file.is_file() and not any(part.startswith(".") for part in path.parts):  # which is still being written
            yield path.as_posix(), file.read_bytes()
    yield from _audit_files(settings)
    if with_credentials:
        certificates = (file for file in sorted(settings.tls.rglob("*")) if file.is_file())
        for file in (*filter(Path.exists, (settings.credentials, settings.users)), *certificates):
            yield file.relative_to(home).as_posix(), file.read_bytes()


def _audit_files(settings: Settings) -> Iterator[tuple[str, bytes]]:
    """The audit log; its last file, and what names its ends, belong together."""
    with audit_files.locked(settings.audit, shared=True):
        files = audit_files.files_of(settings.audit)
        ends = (settings.audit / name for name in (audit_files.START, audit_files.HEAD, audit_files.SENT))
        last = [(path, path.read_bytes()) for path in (*files[-1:], *ends) if path.exists()]
    for path, content in [*((path, path.read_bytes()) for path in files[:-1]), *last]:
        yield path.relative_to(settings.home).as_posix(), content


def _without_secrets(content: bytes) -> bytes:
    """The settings without passwords, and the addresses of databases, which hold some and are another node's."""
    given = content.decode("utf-8")
    text = _SECRET_LINE.sub("", given)
    try:
        kept = [name for name in _SECRET_SETTINGS if name in tomllib.loads(text)]
    except tomllib.TOMLDecodeError:
        kept = [name for name in _SECRET_SETTINGS if name in given]
    if kept:
        raise BackupFailed(f"write {kept[0]} in one line of hilum.toml: it is left out of a backup, for it is secret")
    return text.encode("utf-8")


def _verified(source: BackupFolder, console: Console) -> Manifest:
    manifest = source.manifest()
    if manifest is None:
        raise BackupFailed(f"{source.path} holds no complete backup: it has no manifest")
    with _progress(console) as progress:
        bad = source.damaged(manifest, lambda listed: progress.track(listed, description="Checking"))
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise BackupFailed(f"the backup is damaged: {bad[0]}{more}; nothing was restored")
    return manifest


def _fill(home: Path, source: BackupFolder, manifest: Manifest, console: Console, *, as_cluster: bool) -> int:
    """Restore everything into a home; returns the number of studies in the ledger."""
    for kept in manifest.files:
        path = Path(kept.path).relative_to(manifest.made_at)
        if path.suffix != ".jsonl":
            target = home / path
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copyfile(source.path / kept.path, target)
            target.chmod(0o600)
    at_home = {**os.environ, "HILUM_HOME": str(home)}
    with databases(load_settings(at_home)) if as_cluster else nullcontext():
        return _fill_databases(load_settings(at_home), source, manifest, console)


def _fill_databases(settings: Settings, source: BackupFolder, manifest: Manifest, console: Console) -> int:
    """Restore images and results into Orthanc, and then the ledger."""
    ledger = open_ledger(settings.ledger_address)
    require_empty(ledger)
    with plain_orthanc(settings) as orthanc:
        if orthanc.instance_ids():
            raise BackupFailed(
                "Orthanc is not empty: give it an index of its own (index_url: drop what a restore left in it)"
            )
        resources = list(source.resources(manifest))
        with _progress(console) as progress:
            studies: frozenset[str] = frozenset()
            for resource in progress.track(resources, description="Restoring"):  # the instances first
                kind, _, name = resource.path.strip("/").partition("/")
                if kind == "studies":
                    studies = studies or frozenset(orthanc.study_ids())
                    if name not in studies:
                        continue  # it came, or went, while it was copied: the backup holds no instance of it
                _restore_resource(orthanc, resource, source)
        if (found := len(orthanc.instance_ids())) != manifest.instances:
            raise BackupFailed(f"Orthanc holds {found} instances after {manifest.instances} were restored")
    with (source.path / manifest.made_at / "ledger.jsonl").open(encoding="utf-8") as lines:
        rows = load(ledger, lines)["tasks"]
    ledger.close()
    return rows


def _restore_resource(orthanc: OrthancClient, resource: Resource, source: BackupFolder) -> None:
    """Upload one, and make sure that it is what was copied."""
    try:
        if resource.file is not None:
            path = f"/instances/{orthanc.store((source.path / resource.file.path).read_bytes())}"
            _require_same(orthanc, path, "dicom", resource.file)
            if path != resource.path:
                raise BackupFailed(f"{resource.path} became {path}: Orthanc names instances otherwise than before")
        for number, value in resource.metadata.items():
            orthanc.put(f"{resource.path}/metadata/{number}", value.encode())
        for number, kept in resource.attachments.items():
            orthanc.put(f"{resource.path}/attachments/{number}", (source.path / kept.path).read_bytes())
            _require_same(orthanc, resource.path, number, kept)
    except (OrthancFailed, ResultRefused) as error:
        raise BackupFailed(f"Orthanc does not take {resource.path}: {error}") from error


def _require_same(orthanc: OrthancClient, path: str, attachment: str, kept: Kept) -> None:
    if orthanc.attachment_md5(path, attachment) != Path(kept.path).stem:
        raise BackupFailed(f"{path} is not what was copied ({kept.path})")


def _is_of_users(name: str) -> bool:
    return name.isdecimal() and int(name) >= _FIRST_OF_USERS


def _empty(home: Path) -> None:
    for entry in home.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let a request to end (a connection that is closed, a service that is stopped) undo what was begun."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _told(full: str, so_far: str) -> Iterator[None]:
    """Say plainly what stopped the command."""
    try:
        yield
    except OrthancUnavailable as error:
        raise BackupFailed(f"Orthanc does not answer any more ({error}); {so_far}: run it again") from error
    except OSError as error:
        if error.errno is None:  # it has its own words
            raise
        if error.errno in _FULL:
            raise BackupFailed(f"{full}; {so_far}: free space and run it again") from error
        raise BackupFailed(f"{error.strerror}: {error.filename}; {so_far}") from error


def _progress(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True)

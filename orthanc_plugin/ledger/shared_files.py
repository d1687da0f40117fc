"""Small files that all servers and workers of an archive hold alike: accounts, and which models are active.

The rule: the ledger's PostgreSQL says what holds, by a version; the file beside each server and worker is its copy, and
is read as ever, so that an outage of the database changes nothing but that nothing can be changed. A ledger that is a
file has nobody to share with.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

from sqlalchemy import text

from orthanc_plugin.ledger.database import Ledger, LedgerError, open_ledger
from orthanc_plugin.ledger.ownership import load_archive_id
from orthanc_plugin.ledger.side_tables import SideTables
from orthanc_plugin.settings import Settings

_TABLE = """
    CREATE TABLE IF NOT EXISTS shared_files (
        archive TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, content TEXT NOT NULL,
        PRIMARY KEY (archive, name)
    )
"""
USERS, ACTIVE_MODELS = "users", "active_models"
_PAUSE_SECONDS = 1.0  # after which a change is known everywhere
log = logging.getLogger("hilum.shared_files")


class ChangedElsewhere(LedgerError):
    """Somebody changed the same at another server a moment ago; nothing was changed here."""


class SharedFiles:
    """The files of one server or worker, and what the database says of them.

    Parameters
    ----------
    archive
        Whose they are: an address that was given to two archives by mistake mixes nothing up.
    files
        Their names in the database, and where they lie here.
    """

    def __init__(self, ledger: Ledger, archive: str, files: Mapping[str, Path]) -> None:
        self._tables = SideTables(ledger, [_TABLE])
        self._archive, self._files = archive, files
        self._versions: dict[str, int] = {}

    def bring_in_step(self) -> None:
        """Have each file say what the database says; what the database does not know yet is given to it.

        Raises
        ------
        LedgerError
        OSError
        """
        with self._tables.read() as db:
            rows = db.execute(
                text("SELECT name, version FROM shared_files WHERE archive = :archive"), {"archive": self._archive}
            ).all()
        known = {row.name: row.version for row in rows}
        for name, file in self._files.items():
            if name not in known:
                if file.exists():
                    self._give(name, file)
            elif known[name] != self._versions.get(name) or not file.exists():
                self._take(name, file)

    @contextmanager
    def changing(self, name: str) -> Iterator[None]:
        """Change a file, everywhere or nowhere: it is brought in step before, and what it holds after is shared.

        Raises
        ------
        ChangedElsewhere
        LedgerError
            When the database does not answer.
        OSError
        """
        self.bring_in_step()
        file = self._files[name]
        with _alone(file):
            before = _read(file)
            try:
                yield
                if (after := _read(file)) is not None and after != before:
                    self._share(name, after)
            except BaseException:
                if _read(file) != before:
                    _put_back(file, before)
                raise

    def _share(self, name: str, content: str) -> None:
        """Make this what holds, unless that changed since it was brought in step."""
        version = self._versions.get(name, 0)
        known = {"archive": self._archive, "name": name, "version": version, "content": content}
        with self._tables.write() as db:
            if version:
                changed = db.execute(
                    text(
                        "UPDATE shared_files SET content = :content, version = version + 1"
                        " WHERE archive = :archive AND name = :name AND version = :version"
                    ),
                    known,
                ).rowcount
            else:
                changed = db.execute(text(_INSERT), known).rowcount
            if not changed:
                raise ChangedElsewhere(f"{name}: this was changed at another server a moment ago; look, and try again")
        self._versions[name] = version + 1

    def _give(self, name: str, file: Path) -> None:
        """The first server brings what it has; whoever comes later takes it."""
        if (content := _read(file)) is not None:
            known = {"archive": self._archive, "name": name, "content": content}
            with self._tables.write() as db:
                db.execute(text(_INSERT), known)
            self._take(name, file)

    def _take(self, name: str, file: Path) -> None:
        with _alone(file):
            with self._tables.read() as db:
                row = db.execute(
                    text("SELECT version, content FROM shared_files WHERE archive = :archive AND name = :name"),
                    {"archive": self._archive, "name": name},
                ).one()
            if _read(file) != row.content:
                _put_back(file, row.content)
                log.info("taken over as it was changed at another server: %s", name)
        self._versions[name] = row.version


_INSERT = (
    "INSERT INTO shared_files (archive, name, version, content) VALUES (:archive, :name, 1, :content)"
    " ON CONFLICT (archive, name) DO NOTHING"
)


def keep_in_step(settings: Settings, ledger: Ledger, names: tuple[str, ...], stop: threading.Event) -> None:
    """Have these files follow what is changed elsewhere, until `stop`; a thread's work."""
    if ledger.path is not None:
        return
    shared, told = None, ""
    while not stop.wait(_PAUSE_SECONDS):
        try:
            shared = shared or _of(settings, ledger, names)
            shared.bring_in_step()
            told = ""
        except (LedgerError, OSError) as error:
            if type(error).__name__ != told:  # they go on as they are
                log.warning("what is changed at other servers is not seen: %s", error)
            told = type(error).__name__
        except Exception:  # what is shared later must not depend on one bad moment
            log.exception("what is changed at other servers is not seen")


@contextmanager
def changing(settings: Settings, name: str) -> Iterator[None]:
    """Change one of the files for all servers and workers of the archive; a ledger that is a file has only this one.

    Raises
    ------
    LedgerError
        When the database does not answer, or it was changed elsewhere at the same time: nothing is changed then.
    """
    if not settings.ledger_url:
        yield
        return
    ledger = open_ledger(settings.ledger_address)
    try:
        with _of(settings, ledger, (name,)).changing(name):
            yield
    finally:
        ledger.close()


def _of(settings: Settings, ledger: Ledger, names: tuple[str, ...]) -> SharedFiles:
    files = {USERS: settings.users, ACTIVE_MODELS: settings.active_models}
    return SharedFiles(ledger, load_archive_id(settings.archive_id_file), {name: files[name] for name in names})


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """No other process of this home takes the file over meanwhile."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with file.with_name(f".{file.name}.shared").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(file: Path) -> str | None:
    try:
        return file.read_text("utf-8")
    except FileNotFoundError:
        return None


def _put_back(file: Path, content: str | None) -> None:
    """Replace a file as a whole, for its owner alone; None: it is not to be there."""
    if content is None:
        file.unlink(missing_ok=True)
        return
    # mode 0600 is NamedTemporaryFile's
    with NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, prefix=f".{file.name}.", delete=False) as draft:
        try:
            draft.write(content)
            draft.flush()
            os.fsync(draft.fileno())
            Path(draft.name).replace(file)
        except BaseException:
            Path(draft.name).unlink(missing_ok=True)
            raise

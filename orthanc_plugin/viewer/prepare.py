"""Fetches the pinned OHIF, checks it and lays it out for ``serving``: `python -m orthanc_plugin.viewer.prepare DEST`.

The rule: DEST is either complete or not there. It is built aside and renamed, and carries a stamp of what it was made
from; when the stamp is the wanted one, nothing is done. No dependency of OHIF is installed and no script of it is run.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import json
import mimetypes
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from orthanc_plugin.viewer import rebase
from orthanc_plugin.viewer.serving import MANIFEST, STAMP, StoredFile

_LOCK = Path(__file__).with_name("ohif.lock.json")
_DEFAULT = Path(__file__).resolve().parent.parent.parent / ".cache" / "ohif"
_MEBIBYTE = 1 << 20
_LARGEST_MEMBER = 128 * _MEBIBYTE  # the largest file of 3.13.2 has 20 MB
_MIMES = {".wasm": "application/wasm", ".js": "text/javascript; charset=utf-8", ".woff2": "font/woff2"}
_COMPRESSED_ALREADY = frozenset({".png", ".woff2", ".ico", ".jpg"})


class ViewerNotPrepared(Exception):
    """OHIF could not be laid out; the message says why and what to do."""


@dataclass(frozen=True)
class Pin:
    """The one version of OHIF that this version of Hilum is tested with.

    Parameters
    ----------
    integrity
        ``sha512-`` and the base64 of the SHA-512 of the package file, as npm's lock files write it.
    """

    package: str
    version: str
    integrity: str


def read_pin() -> Pin:
    """The pinned version, from ``ohif.lock.json``."""
    return Pin(**json.loads(_LOCK.read_text("utf-8")))


def wanted_stamp(pin: Pin) -> str:
    """SHA-256, hexadecimal, of all that decides what DEST holds: the pin and how files are chosen and changed."""
    return hashlib.sha256(repr(pin).encode() + Path(rebase.__file__).read_bytes()).hexdigest()


def is_prepared(dest: Path, pin: Pin | None = None) -> bool:
    """Whether `dest` holds the wanted files, by its stamp and the size of each file."""
    try:
        if (dest / STAMP).read_text("ascii") != wanted_stamp(pin or read_pin()):
            return False
        manifest = json.loads((dest / MANIFEST).read_text("utf-8"))
        return all((dest / f["stored"]).stat().st_size == f["stored_size"] for f in manifest["files"])
    except (OSError, ValueError, KeyError):
        return False


def prepare(dest: Path, console: Console, tarball: Path | None = None, pin: Pin | None = None) -> None:
    """Make `dest` hold the viewer.

    Parameters
    ----------
    tarball
        The package file, where it is at hand already; by default npm fetches it.
    pin
        By default the one of ``ohif.lock.json``.

    Raises
    ------
    ViewerNotPrepared
        When it cannot be fetched, is not the pinned file, or is laid out in a way that we do not know.
    """
    pin = pin or read_pin()
    if is_prepared(dest, pin):
        return
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ohif-", dir=dest.parent) as folder, _progress(console) as progress:
        package = tarball or _fetch(pin, Path(folder), progress)
        _check_integrity(package, pin)
        built = Path(folder) / "built"
        built.mkdir()
        try:
            _unpack(package, built, pin, progress)
        except rebase.UnknownLayout as error:
            raise ViewerNotPrepared(
                f"{pin.package} {pin.version} is not laid out as expected ({error}); pin a version that is known"
            ) from error
        except tarfile.TarError as error:
            raise ViewerNotPrepared(f"{package} cannot be unpacked: {error}") from error
        (built / STAMP).write_text(wanted_stamp(pin), "ascii")
        _put_in_place(built, dest, Path(folder), pin)


def _fetch(pin: Pin, folder: Path, progress: Progress) -> Path:
    command = ["npm", "pack", f"{pin.package}@{pin.version}", "--pack-destination", str(folder)]
    options = ["--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error"]
    task = progress.add_task(f"fetching OHIF {pin.version} (48 MB)", total=None)
    with tempfile.TemporaryFile("w+") as said:
        try:
            npm = subprocess.Popen(
                [*command, *options], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
            )
        except FileNotFoundError as error:
            raise ViewerNotPrepared("npm is not installed: apt install npm, then try again") from error
        try:
            while npm.poll() is None:
                time.sleep(0.2)
        finally:
            npm.kill()  # only if we were interrupted
            npm.wait()
        said.seek(0)
        complaint = said.read().strip()
    packages = sorted(folder.glob("*.tgz"))
    if npm.returncode != 0 or len(packages) != 1:
        raise ViewerNotPrepared(
            f"npm could not fetch {pin.package}@{pin.version}:\n{complaint[-1500:]}\n"
            "Check the network or npm's registry setting and try again, or fetch it elsewhere with\n"
            f"  npm pack {pin.package}@{pin.version}\nand give the file with --tarball FILE."
        )
    progress.update(task, total=packages[0].stat().st_size, completed=packages[0].stat().st_size)
    return packages[0]


def _check_integrity(package: Path, pin: Pin) -> None:
    try:
        with package.open("rb") as file:
            digest = hashlib.file_digest(file, "sha512").digest()
    except OSError as error:
        raise ViewerNotPrepared(f"{package} cannot be read: {error.strerror}") from error
    found = "sha512-" + base64.b64encode(digest).decode()
    if found != pin.integrity:
        raise ViewerNotPrepared(
            f"{package.name} is not the file that was pinned.\n  expected {pin.integrity}\n  found    {found}\n"
            "It was damaged or replaced on its way: fetch it again, and do not use it if this repeats."
        )


def _unpack(package: Path, built: Path, pin: Pin, progress: Progress) -> None:
    """Write the used files of the package, re-based and compressed, and the manifest."""
    assets = f"{rebase.BASE}{pin.version}-{wanted_stamp(pin)[:8]}/"
    (built / "files").mkdir()
    task = progress.add_task("unpacking and compressing", total=package.stat().st_size)
    files: list[StoredFile] = []
    loaders = 0
    with package.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:gz") as archive:
        for member in archive:
            progress.update(task, completed=raw.tell())
            name = member.name.removeprefix("package/dist/")
            if not member.isfile() or name == member.name or not rebase.is_used(name):
                continue
            if member.size > _LARGEST_MEMBER or (source := archive.extractfile(member)) is None:
                raise ViewerNotPrepared(f"{package.name}: {member.name} is too large to be a part of the viewer")
            content = source.read()
            loaders += rebase.has_public_path(content) if name.endswith(".js") else 0
            files.append(_store(name, rebase.rebase(name, content, assets), built))
    rebase.check_rebased(loaders, any(f.path == "index.html" for f in files))
    manifest = {"version": pin.version, "assets": assets, "files": [asdict(f) for f in files]}
    (built / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")


def _store(name: str, content: bytes, built: Path) -> StoredFile:
    """Write one file under a name of our own, so that no name in the package can lead elsewhere."""
    digest = hashlib.sha256(content).hexdigest()
    suffix = Path(name).suffix
    encoding = "" if suffix in _COMPRESSED_ALREADY else "gzip"
    stored = f"files/{hashlib.sha256(name.encode()).hexdigest()[:16]}{suffix}{'.gz' if encoding else ''}"
    packed = gzip.compress(content, 9, mtime=0) if encoding else content
    (built / stored).write_bytes(packed)
    mime = _MIMES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    if mime in ("text/html", "text/css"):
        mime += "; charset=utf-8"
    return StoredFile(name, stored, encoding, len(content), len(packed), digest, mime)


def _put_in_place(built: Path, dest: Path, folder: Path, pin: Pin) -> None:
    try:
        if dest.exists():
            dest.rename(folder / "old")
        built.rename(dest)
    except OSError as error:
        if not is_prepared(dest, pin):  # another start may have been faster
            raise ViewerNotPrepared(f"{dest} cannot be replaced: {error.strerror}; remove it and try again") from error


def _progress(console: Console) -> Progress:
    columns = (TextColumn("  {task.description:34}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def main(arguments: list[str] | None = None) -> int:
    """Prepare the viewer from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m orthanc_plugin.viewer.prepare", description=prepare.__doc__)
    parser.description = "Fetch the pinned OHIF viewer and lay it out to be served by the node."
    parser.add_argument("dest", nargs="?", type=Path, default=_DEFAULT, help="folder of the files (.cache/ohif)")
    parser.add_argument("--check", action="store_true", help="only tell, by the exit code, whether it is in place")
    parser.add_argument("--tarball", type=Path, help="use this package file and do not ask npm")
    options = parser.parse_args(arguments)
    if options.check:
        return 0 if is_prepared(options.dest) else 1
    console = Console(stderr=True)
    if is_prepared(options.dest):
        return 0
    started = time.monotonic()
    try:
        prepare(options.dest, console, options.tarball)
    except ViewerNotPrepared as error:
        console.print(f"hilum: the viewer could not be prepared. {error}", style="red", markup=False, soft_wrap=True)
        return 1
    size = sum(f.stat().st_size for f in options.dest.rglob("*") if f.is_file())
    console.print(
        f"hilum: OHIF {read_pin().version} is in place ({size / 1e6:.1f} MB, {time.monotonic() - started:.0f} s)",
        markup=False,
        highlight=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

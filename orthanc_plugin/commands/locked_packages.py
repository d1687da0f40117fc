"""``./hilum lock``: the Python packages of the lock files, each with the SHA-256 of every file that may be installed.

The rule: a lock names versions, one ``name==version`` a line; what stands behind it is written by this command alone.
It changes no version: whoever wants another one writes it into the line, and runs this. The hashes come from the
package index that pip asks. A local version (``torch==2.13.0+cpu``) is not on that one: what pip finds elsewhere for a
Python and platform of ours is fetched and added to what stood there, for no machine finds it all. What an image needs
(``docker/*/requirements.txt``, with what those need) is taken from these locks into one of its own.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orthanc_plugin.settings import REPOSITORY

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][\w.-]*)(?:\[[\w,-]+\])?==(?P<version>[^\s;\\]+)[^\\]*", re.ASCII)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_CPU, _CUDA = "requirements-cpu.lock", "requirements-cuda.lock"
_PYTHONS = ("3.11", "3.13")  # of Debian 12 and 13
_PLATFORM = "manylinux_2_28_x86_64"


class LockFailed(Exception):
    """A lock could not be made; the message says which, and why."""


@dataclass(frozen=True)
class Locked:
    """A package as a lock has it.

    Parameters
    ----------
    line
        As it stands there, without its hashes.
    hashes
        SHA-256 of its files, hexadecimal: for every Python and platform that there are any for.
    """

    name: str
    version: str
    line: str
    hashes: tuple[str, ...]

    @property
    def canonical_name(self) -> str:
        """As package indexes have it."""
        return re.sub(r"[-_.]+", "-", self.name).lower()


def lock_files(folder: Path = REPOSITORY) -> list[Path]:
    """Every lock, ``requirements.lock`` first."""
    return sorted(folder.glob("requirements*.lock"), key=lambda file: (file.name != "requirements.lock", file.name))


def read_lock(file: Path) -> list[Locked]:
    """The packages of a lock, in its order."""
    found: list[Locked] = []
    for line in file.read_text("utf-8").splitlines():
        hashes = tuple(_HASH.findall(line))
        if pin := _PIN.match(line):
            found.append(Locked(pin["name"], pin["version"], _HASH.sub("", line).rstrip(" \\"), hashes))
        elif hashes and found:
            last = found[-1]
            found[-1] = Locked(last.name, last.version, last.line, last.hashes + hashes)
    return found


def write_lock(file: Path, packages: Sequence[Locked]) -> None:
    """Write a lock anew; what stands above its first package stays."""
    head: list[str] = []
    for line in file.read_text("utf-8").splitlines():
        if _PIN.match(line):
            break
        head.append(line)
    lines = [*head]
    for package in packages:
        if not package.hashes:
            raise LockFailed(f"{file.name}: {package.line}: the package index has no file of it")
        lines.append(" \\\n    ".join([package.line, *(f"--hash=sha256:{one}" for one in sorted(set(package.hashes)))]))
    file.write_text("\n".join(lines) + "\n", "utf-8")


def refresh(file: Path) -> int:
    """Have a lock hold the hashes of its versions; how many of its packages changed.

    Raises
    ------
    LockFailed
    """
    before = read_lock(file)
    asked = [package for package in before if "+" not in package.version]
    found = {one.canonical_name: one.hashes for one in (_asked(file, asked) if asked else ())}
    after = []
    for package in before:
        hashes = found.get(package.canonical_name, ())
        if "+" in package.version:
            hashes = (*package.hashes, *_fetched(package))
        after.append(Locked(package.name, package.version, package.line, tuple(sorted(set(hashes)))))
    write_lock(file, after)
    return sum(set(one.hashes) != set(other.hashes) for one, other in zip(before, after, strict=True))


def lock_image(names: Path) -> Path:
    """Write what an image needs, as the locks have it, into ``requirements.lock`` beside its names.

    What the default build of torch needs is left out: an image installs one of both builds before.

    Parameters
    ----------
    names
        A ``requirements.txt`` without versions.

    Raises
    ------
    LockFailed
        When something is needed that no lock has.
    """
    files = [file for file in lock_files() if file.name != _CPU]
    locked = {package.canonical_name: package for file in files for package in read_lock(file)}
    cuda = {package.canonical_name for package in read_lock(REPOSITORY / _CUDA)}
    constraints = [part for file in files for part in ("-c", str(file))]
    needed = [one.canonical_name for one in _compiled(names, [*constraints, "--python-platform", "linux"])]
    if missing := sorted(set(needed) - set(locked)):
        raise LockFailed(f"{names}: no lock has {', '.join(missing)}")
    file = names.with_suffix(".lock")
    if not file.exists():
        file.write_text("# What requirements.txt needs, as the locks have it: ./hilum lock.\n", "utf-8")
    write_lock(file, [locked[name] for name in needed if name not in cuda])
    return file


def main() -> int:
    """Refresh every lock."""
    try:
        for file in lock_files():
            changed = refresh(file)
            print(f"{file.name}: {len(read_lock(file))} packages, {changed} changed")
        for names in sorted((REPOSITORY / "docker").glob("*/requirements.txt")):
            made = lock_image(names)
            print(f"{made.relative_to(REPOSITORY)}: {len(read_lock(made))} packages")
    except LockFailed as error:
        print(f"hilum: {error}", file=sys.stderr)
        return 1
    return 0


def _asked(file: Path, packages: Sequence[Locked]) -> list[Locked]:
    """The packages as uv finds them on the index, for every platform."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / file.name
        pins.write_text("".join(f"{package.line}\n" for package in packages), "utf-8")
        return _compiled(pins, ["--no-deps", "--universal", "--generate-hashes"])


def _compiled(names: Path, options: Sequence[str]) -> list[Locked]:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.lock"
        command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--no-config", "--no-header",
                   "--no-annotate", "--system-certs", "--python-version", _PYTHONS[0], *_index(), *options,
                   "-o", str(made), str(names)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LockFailed(f"{names.name}: {done.stderr.strip()[-2000:]}")
        return read_lock(made)


def _fetched(package: Locked) -> list[str]:
    """The hashes of the files that pip finds for our Pythons, wherever it looks; none where it finds none."""
    hashes = []
    for python in _PYTHONS:
        with tempfile.TemporaryDirectory() as folder:
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", folder]
            for_ours = ["--implementation", "cp", "--python-version", python, "--platform", _PLATFORM]
            subprocess.run([*pip, *for_ours, package.line], capture_output=True, check=False)
            for file in Path(folder).iterdir():
                with file.open("rb") as content:
                    hashes.append(hashlib.file_digest(content, "sha256").hexdigest())
    return hashes


def _index() -> list[str]:
    """The package index that pip is set to ask, for uv; the environment, which pip names last, wins."""
    said = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    known = re.findall(r"^[\w:]+\.index-url='(.*)'$", said, re.MULTILINE)
    return ["--default-index", known[-1]] if known else []


if __name__ == "__main__":
    sys.exit(main())

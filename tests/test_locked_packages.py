"""The lock files: a hash for whatever may be installed, and nothing that is not named."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from orthanc_plugin.commands.locked_packages import Locked, LockFailed, lock_files, read_lock, write_lock
from orthanc_plugin.settings import REPOSITORY

LOCKS = [*lock_files(), *sorted((REPOSITORY / "docker").glob("*/requirements.lock"))]
INSTALLERS = [REPOSITORY / "hilum", *sorted((REPOSITORY / "docker").glob("*/Dockerfile"))]
INSTALLED = ("requirements.lock", "requirements-ray.lock")


def packages(*names: str) -> dict[str, Locked]:
    return {package.canonical_name: package for name in names for package in read_lock(REPOSITORY / name)}


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_every_line_of_a_lock_pins_a_version_and_its_hashes(file: Path) -> None:
    locked = read_lock(file)
    pins = [line for line in file.read_text().splitlines() if re.match(r"[A-Za-z]", line)]
    assert len(locked) == len(pins) > 0, "a line is no name==version"
    assert [package.name for package in locked if not package.hashes] == []
    names = [package.canonical_name for package in locked]
    assert len(set(names)) == len(names)


def test_the_locks_contradict_each_other_nowhere() -> None:
    versions: dict[str, set[str]] = {}
    for package in (package for file in LOCKS for package in read_lock(file)):
        versions.setdefault(package.canonical_name, set()).add(package.version.partition("+")[0])
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


@pytest.mark.parametrize("name", INSTALLED)
def test_what_is_installed_is_what_the_lock_says(name: str) -> None:
    found = {}
    for package in packages(name).values():
        try:
            found[package.name] = metadata.version(package.name).partition("+")[0]
        except metadata.PackageNotFoundError:
            if package.canonical_name == "ray":
                pytest.skip("Ray is not installed here")
    assert {
        name: version for name, version in found.items() if packages(*INSTALLED)[_canonical(name)].version != version
    } == {}


def test_whatever_a_locked_package_needs_is_locked_too() -> None:
    """For it is installed without what it says it needs."""
    locked = packages(*INSTALLED)
    missing = set()
    for package in locked.values():
        try:
            told = metadata.requires(package.name) or []
        except metadata.PackageNotFoundError:  # Ray's, where it is not installed
            continue
        for needed in map(Requirement, told):
            if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
                continue
            one = locked.get(_canonical(needed.name))
            if one is None or not needed.specifier.contains(one.version, prereleases=True):
                missing.add(f"{package.name} needs {needed}")
    assert {one for one in missing if not re.search(r"needs (nvidia-|cuda-|triton)", one)} == set()


def test_both_builds_of_torch_are_of_one_version() -> None:
    [cpu] = read_lock(REPOSITORY / "requirements-cpu.lock")
    assert cpu.version == f"{packages('requirements.lock')['torch'].version}+cpu"


@pytest.mark.parametrize("file", INSTALLERS, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_nothing_is_installed_but_from_a_lock_by_its_hashes(file: Path) -> None:
    text = re.sub(r"\\\n\s*", "", file.read_text())
    commands = [line for line in re.split(r"\n|&&", text) if re.search(r"\bpip\b.* install\b", line)]
    assert commands
    for command in commands:
        assert "--require-hashes --no-deps" in command, command


def test_a_lock_is_written_as_it_was_read(tmp_path: Path) -> None:
    file = tmp_path / "requirements.lock"
    for lock in LOCKS:
        file.write_text(lock.read_text())
        write_lock(file, read_lock(lock))
        assert file.read_text() == lock.read_text(), lock


def test_a_package_that_the_index_does_not_have_is_not_locked(tmp_path: Path) -> None:
    file = tmp_path / "requirements.lock"
    file.write_text("# kept\nnobody[x]==1.0 ; python_version < '4'\n")
    assert read_lock(file) == [Locked("nobody", "1.0", "nobody[x]==1.0 ; python_version < '4'", ())]
    with pytest.raises(LockFailed, match="nobody"):
        write_lock(file, read_lock(file))
    write_lock(file, [Locked("nobody", "1.0", "nobody==1.0", ("b" * 64, "a" * 64))])
    assert (
        file.read_text() == f"# kept\nnobody==1.0 \\\n    --hash=sha256:{'a' * 64} \\\n    --hash=sha256:{'b' * 64}\n"
    )


def _canonical(name: str) -> str:
    return str(canonicalize_name(name))

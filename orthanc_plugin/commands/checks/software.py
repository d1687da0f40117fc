"""Versions: Orthanc, its plugins, Python and its packages, the viewer."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from orthanc_plugin import __version__
from orthanc_plugin.commands import node
from orthanc_plugin.commands.checks.check import Check, unknown, warning, well, wrong
from orthanc_plugin.commands.locked_packages import read_lock
from orthanc_plugin.settings import REPOSITORY, Settings
from orthanc_plugin.viewer.prepare import is_prepared, read_pin

_TESTED = ("1.10.1", "1.12.7")  # Debian 12 and 13
_VERSION = re.compile(r"^Orthanc (?:version: )?(\S+)", re.MULTILINE)
_PYTHON = re.compile(r"libpython(\d+\.\d+)")
_MOST_NAMED = 5
_INSTALL = "./hilum up installs what is missing"


def check_software() -> Iterator[Check]:
    """What is installed, whatever the site has set."""
    yield well("hilum", f"version {__version__}, in {REPOSITORY}")
    yield _orthanc()
    try:
        for name in node.PLUGINS:
            node.plugin_file(name)
        yield well("orthanc_plugins", ", ".join(node.PLUGINS))
    except node.NodeFailed as error:
        yield wrong("orthanc_plugins", f"{error}", _INSTALL)
    yield _python()
    yield check_packages(REPOSITORY / "requirements.lock")


def check_viewer(settings: Settings) -> Check:
    """Whether OHIF lies there as it was prepared."""
    if is_prepared(settings.viewer):
        return well("viewer", f"OHIF {read_pin().version}, {settings.viewer}")
    advice = "./hilum up prepares it, which needs npm and, once, the network; the worklist works without"
    return warning("viewer", f"OHIF is not prepared in {settings.viewer}", advice)


def check_packages(lock: Path) -> Check:
    """Whether the packages of this environment are those of the lock."""
    wanted = {package.name: package.version for package in read_lock(lock)}
    differ = []
    for name, version in wanted.items():
        try:
            found = metadata.version(name).partition("+")[0]  # torch 2.13.0+cpu is torch 2.13.0
        except metadata.PackageNotFoundError:
            found = "missing"
        if found != version.partition("+")[0]:
            differ.append(f"{name} {found} instead of {version}")
    if not differ:
        return well("packages", f"all {len(wanted)} are as {lock.name} says")
    more = f" and {len(differ) - _MOST_NAMED} more" if len(differ) > _MOST_NAMED else ""
    told = ", ".join(differ[:_MOST_NAMED]) + more
    advice = f"./hilum up; or {sys.executable} -m pip install --require-hashes --no-deps -r {lock}"
    return wrong("packages", f"not as {lock.name} says: {told}", advice)


def _python() -> Check:
    """Orthanc embeds a Python, which uses the packages of this one: they must be of one version."""
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    try:
        plugin = node.plugin_file(node.PLUGINS[0])
        linked = subprocess.run(["ldd", str(plugin)], capture_output=True, text=True, timeout=20, check=False).stdout
    except (node.NodeFailed, OSError, subprocess.TimeoutExpired):
        linked = ""
    embedded = _PYTHON.search(linked)
    if embedded is None:
        return unknown("python", f"{ours}, {sys.executable}; which one Orthanc embeds is not known")
    if embedded[1] != ours:
        advice = f"make the environment anew with python{embedded[1]}: HILUM_VENV=... ./hilum up"
        return wrong("python", f"Orthanc embeds {embedded[1]}, and the packages are for {ours}", advice)
    return well("python", f"{ours}, as Orthanc embeds it; {sys.executable}")


def _orthanc() -> Check:
    try:
        said = subprocess.run(["Orthanc", "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except FileNotFoundError:
        return wrong("orthanc", "Orthanc is not installed", _INSTALL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return wrong("orthanc", f"Orthanc cannot be run ({type(error).__name__})", "apt install --reinstall orthanc")
    version = _VERSION.search(said)
    if version is None:
        return unknown("orthanc", "Orthanc does not tell its version", "Orthanc --version")
    if version[1] in _TESTED:
        return well("orthanc", f"version {version[1]}")
    return warning(
        "orthanc", f"version {version[1]}; tested are {' and '.join(_TESTED)}", "./hilum test tells whether it works"
    )

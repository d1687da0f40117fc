"""Debian 13 in a folder, with what the images install, in which their entry points run as in a container.

The rule: packages, environment and scripts are read from the Dockerfiles, so that what runs here is what they say. As in
the compose file the root can only be read, the user is not root, has no capability and gets none. What is not there is
the engine: layers, networks and limits are not tested.

It needs root, debootstrap, the Debian mirror of this machine's apt, and 7 GB; it is made once, in about ten minutes.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from orthanc_plugin.settings import REPOSITORY

DOCKER = REPOSITORY / "docker"
USER = 10001
_DEBOOTSTRAP = shutil.which("debootstrap") or "/usr/sbin/debootstrap"
_SOURCE = re.compile(r"^(?:URIs:|deb(?: \[.*\])?)\s+(\S+/debian)/?(?:\s|$)", re.MULTILINE)
_STOP_SECONDS = 60.0
_ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")


def can_be_made() -> str:
    """Why it cannot be made here; empty when it can."""
    if os.geteuid() != 0:
        return "a chroot needs root"
    return "" if Path(_DEBOOTSTRAP).exists() else "debootstrap is not installed"


def instructions(image: str) -> list[tuple[str, str]]:
    """The Dockerfile of an image: each instruction with what stands behind it, in one line."""
    lines = [line for line in (DOCKER / image / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word]


def last_stage(image: str) -> list[tuple[str, str]]:
    """The instructions after the last FROM: those of what runs."""
    given = instructions(image)
    return given[max(n for n, (word, _) in enumerate(given) if word == "FROM") :]


def debian_packages(image: str) -> list[str]:
    """What an image installs from Debian, in any stage but npm, which only fetches the viewer."""
    found: list[str] = []
    for word, rest in instructions(image):
        if word == "RUN" and (listed := re.search(r"--no-install-recommends ([\w.\- ]+?) *&&", rest)):
            found += listed[1].split()
    return sorted({*found} - {"npm"})


def environment(image: str) -> dict[str, str]:
    """The environment that an image sets."""
    variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}  # as the bases have it
    for word, rest in last_stage(image):
        if word == "ENV":
            for pair in shlex.split(rest):
                name, _, value = pair.partition("=")
                variables[name] = value.replace("$PATH", variables["PATH"])
    return variables


def command(image: str) -> list[str]:
    """What an image runs: entry point and command."""
    given = dict(last_stage(image))
    return [*json.loads(given["ENTRYPOINT"]), *json.loads(given["CMD"])]


def mirror() -> str:
    """The Debian mirror that apt uses here."""
    for source in [*Path("/etc/apt").glob("sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        if found := _SOURCE.search(source.read_text("utf-8")):
            return found[1]
    return "http://deb.debian.org/debian"


class Chroot:
    """A Debian 13, and the processes of images in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def make(self) -> None:
        """Install what is missing: Debian 13, the images' packages, and their Python environments."""
        if not (self.root / "etc/debian_version").exists():
            _run(_DEBOOTSTRAP, "--variant=minbase", "--include=ca-certificates", "trixie", str(self.root), mirror())
        refuse = self.root / "usr/sbin/policy-rc.d"
        refuse.write_text("#!/bin/sh\nexit 101\n")
        refuse.chmod(0o755)
        wanted = {*debian_packages("server"), *debian_packages("worker"), "python3-venv", "nginx-light"}
        if missing := [package for package in sorted(wanted) if not self._has(package)]:
            shutil.copy("/etc/resolv.conf", self.root / "etc/resolv.conf")
            self._install("apt-get", "update", "-q")
            self._install("apt-get", "install", "-q", "-y", "--no-install-recommends", *missing)
        for image in ("server", "worker"):
            self._install_python_packages(image)

    def _has(self, package: str) -> bool:
        return (self.root / f"var/lib/dpkg/info/{package}.list").exists() or any(
            (self.root / "var/lib/dpkg/info").glob(f"{package}:*.list")
        )

    def _install_python_packages(self, image: str) -> None:
        """As the Dockerfile does, into a folder of the image's own."""
        names, lock = DOCKER / image / "requirements.txt", REPOSITORY / "requirements.lock"
        stamp = self.root / f"srv/{image}/stamp"
        if stamp.exists() and stamp.read_text() == names.read_text() + lock.read_text():
            return
        for file in (names, lock):
            shutil.copy(file, self.root / "tmp")
        for file in (Path("/etc/ssl/certs/ca-certificates.crt"),):  # of this machine's package indexes
            shutil.copy(file, self.root / str(file)[1:])
        pip = (f"/srv/{image}/bin/pip", "install", "--progress-bar", "off", "-q")
        self._install("python3", "-m", "venv", f"/srv/{image}")
        if image == "worker":
            torch = re.search(r"^torch==(.+)$", lock.read_text(), re.MULTILINE)
            assert torch is not None
            try:  # as the launcher does: the build for processors where an index has it
                self._install(*pip, f"torch=={torch[1]}+cpu")
            except RuntimeError:
                self._install(*pip, f"torch=={torch[1]}")
        self._install(*pip, "-c", "/tmp/requirements.lock", "-r", "/tmp/requirements.txt")
        stamp.write_text(names.read_text() + lock.read_text())

    def _install(self, *given: str) -> None:
        """Run something in it as root, with the folders of package indexes that lie on this machine."""
        kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        settings = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=False).stdout
        for line in settings.splitlines():
            name, _, value = line.partition("=")
            kept.setdefault(f"PIP_{name.rpartition('.')[2].upper().replace('-', '_')}", value.strip("'\""))
        folders = {str(Path(p).parents[-3]) for p in re.findall(r"(?:^|[ =]|file://)(/[\w./-]+)", " ".join(kept.values()))
                   if len(Path(p).parents) > 2 and Path(p).is_dir()}  # fmt: skip
        mounts = [f"mkdir -p {self.root}{f} && mount --rbind {f} {self.root}{f}" for f in sorted(folders)]
        script = "\n".join(["set -e", f"mount --bind /proc {self.root}/proc", *mounts, 'exec chroot "$@"'])
        inside = ["env", "-i", "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                  *(f"{k}={v}" for k, v in kept.items()), *given]  # fmt: skip
        _run("unshare", "-m", "bash", "-c", script, "sh", str(self.root), *inside)

    @contextmanager
    def running(
        self, image: str, home: Path, settings: Mapping[str, str], log: Path, *, secrets: Path | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """The container of an image, for the time of a block: its entry point and command, as its user.

        Parameters
        ----------
        home
            The volume at ``/var/lib/hilum``.
        secrets
            The folder at ``/run/secrets``.
        """
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*_ENDS_WITH_US, *self._inside(image, home, settings, command(image), secrets)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def is_healthy(self, image: str, home: Path, settings: Mapping[str, str]) -> bool:
        """What the image's health check says."""
        check = dict(last_stage(image))["HEALTHCHECK"].partition("CMD ")[2]
        done = subprocess.run(
            self._inside(image, home, settings, json.loads(check), None), capture_output=True, check=False, timeout=60
        )
        return done.returncode == 0

    def said(self, *given: str) -> str:
        """What a command prints in it."""
        return subprocess.run(["chroot", self.root, *given], capture_output=True, text=True, check=True).stdout

    def _inside(
        self, image: str, home: Path, settings: Mapping[str, str], given: list[str], secrets: Path | None
    ) -> list[str]:
        """The command that runs another one in the image: its mounts are gone with it."""
        root = self.root
        volumes = {home: "/var/lib/hilum"} | ({secrets: "/run/secrets"} if secrets else {})
        folders = {DOCKER: "/opt/docker", root / "srv" / image: "/opt/venv"}
        for folder in ("orthanc_plugin", "dicom_sr", "models"):
            folders[REPOSITORY / folder] = f"/opt/hilum/{folder}"
        variables = environment(image) | dict(settings)
        mounts = [f"mount --bind {root} {root}", f"mount --bind /proc {root}/proc", f"mount --bind /dev {root}/dev",
                  f"mount --rbind /sys {root}/sys"]  # fmt: skip
        mounts += [
            f"mkdir -p {root}{at} && mount --bind {folder} {root}{at}" for folder, at in (folders | volumes).items()
        ]
        mounts += [f"mkdir -p {root}{at}" for at in ("/var/cache/hilum", "/opt/viewer")]
        if (viewer := Path(os.environ.get("HILUM_VIEWER", REPOSITORY / ".cache/ohif"))).is_dir():
            mounts.append(f"mount --bind {viewer} {root}/opt/viewer")
        mounts += [f"install -m 755 {DOCKER}/{name} {root}/usr/local/bin/" for name in ("enter", "healthy")]
        mounts += [f"mount -o remount,bind,ro {root}{at}" for at in ("", *folders.values())]
        mounts += [f"mount -t tmpfs -o mode=1777 none {root}{at}" for at in ("/tmp", "/var/cache/hilum")]
        nobody = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", "--no-new-privs",
                  "--inh-caps=-all", "--bounding-set=-all"]  # fmt: skip
        inside = [*nobody, "env", "-i", *(f"{name}={value}" for name, value in variables.items()), *given]
        script = "\n".join(["set -e", *mounts, 'exec chroot "$@"'])
        return ["unshare", "-m", "bash", "-c", script, "sh", str(root), *inside]


def _run(*given: str) -> None:
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(given[:6])} ...: {done.stdout[-1500:]}{done.stderr[-1500:]}")

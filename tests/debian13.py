"""Debian 13 in a folder, with what the images install, in which their entry points run as in a container.

The rule: packages, environment and scripts are read from the Dockerfiles, so that what runs here is what they say. The
root can only be read, the user is not root, has no capability and gets none.

It needs root, debootstrap, the Debian mirror of this machine's apt, and 7 GB; it is made once, in about ten minutes.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from orthanc_plugin.settings import REPOSITORY

DOCKER = REPOSITORY / "docker"
_DEBOOTSTRAP = shutil.which("debootstrap") or "/usr/sbin/debootstrap"
# for the environments, and in place of the image of the proxies
_BESIDE = ("python3-venv", "nginx-light", "libnginx-mod-stream", "curl")
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_TMPFS = "mode=1777,noexec,nosuid,nodev"  # as an engine mounts it
_SOURCE = re.compile(r"^(?:URIs:|deb(?: \[.*\])?)\s+(\S+/debian)/?(?:\s|$)", re.MULTILINE)


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
        wanted = {*debian_packages("server"), *debian_packages("worker"), *_BESIDE}
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
        lock, builds = DOCKER / image / "requirements.lock", ("requirements-cpu.lock", "requirements-cuda.lock")
        files = [lock, *((REPOSITORY / name for name in builds) if image == "worker" else ())]
        stamp, wanted = self.root / f"srv/{image}/stamp", "".join(file.read_text() for file in files)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        for file in files:
            shutil.copy(file, self.root / "tmp")
        if _AUTHORITIES.exists():  # of this machine's package indexes
            shutil.copy(_AUTHORITIES, self.root / _AUTHORITIES.relative_to("/"))
        self._install("python3", "-m", "venv", f"/srv/{image}")
        pip = (f"/srv/{image}/bin/pip", "install", "--progress-bar", "off", "-q", "--require-hashes", "--no-deps", "-r")
        if image == "worker":
            try:  # as the launcher does: the build for processors where an index has it
                self._install(*pip, "/tmp/requirements-cpu.lock")
            except RuntimeError:
                self._install(*pip, "/tmp/requirements-cuda.lock")
        self._install(*pip, "/tmp/requirements.lock")
        stamp.write_text(wanted)

    def _install(self, *given: str) -> None:
        """Run something in it as root, with the folders of package indexes that lie on this machine."""
        kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        settings = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=False).stdout
        for line in settings.splitlines():
            name, _, value = line.partition("=")
            kept.setdefault(f"PIP_{name.rpartition('.')[2].upper().replace('-', '_')}", value.strip("'\""))
        named = [Path(path) for path in re.findall(r"(?:^|[ =]|file://)(/[\w./-]+)", " ".join(kept.values()))]
        folders = {path.parents[-3] if len(path.parents) > 2 else path for path in named if path.is_dir()}
        mounts = [f"mkdir -p {self.root}{f} && mount --rbind {f} {self.root}{f}" for f in sorted(folders)]
        script = "\n".join(["set -e", f"mount --bind /proc {self.root}/proc", *mounts, 'exec chroot "$@"'])
        inside = ["env", "-i", "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                  *(f"{k}={v}" for k, v in kept.items()), *given]  # fmt: skip
        _run("unshare", "-m", "bash", "-c", script, "sh", str(self.root), *inside)

    def command(
        self,
        image: str,
        given: Sequence[str],
        *,
        variables: Mapping[str, str],
        folders: Mapping[Path, str],
        tmpfs: Sequence[str],
        user: int,
        network: str,
        name: str,
        writable: Collection[str] = (),
    ) -> list[str]:
        """What runs a command in it as an engine would: its mounts and its host name are gone with it.

        Parameters
        ----------
        image
            ``server`` or ``worker``, whose Python packages it has; empty for what Debian packages alone run.
        folders
            What is mounted where; it can only be read, but for what is named in `writable`.
        network
            A network namespace.
        """
        root, own = self.root, dict(folders)
        if image:
            own[root / "srv" / image] = "/opt/venv"
            for folder in ("orthanc_plugin", "dicom_sr", "models"):
                own[REPOSITORY / folder] = f"/opt/hilum/{folder}"
        if (viewer := Path(os.environ.get("HILUM_VIEWER", REPOSITORY / ".cache/ohif"))).is_dir():
            own[viewer] = "/opt/viewer"
        mounts = [f"mount --bind {root} {root}", f"hostname {name}"]
        mounts += [f"mount --rbind /{at} {root}/{at}" for at in ("proc", "dev", "sys")]
        for folder, at in sorted(own.items(), key=lambda pair: pair[1]):  # one may lie in another
            place = f"touch {root}{at}" if folder.is_file() else f"mkdir -p {root}{at}"
            mounts.append(f"{place} && mount --bind {folder} {root}{at}")
        mounts += [f"mkdir -p {root}{at}" for at in tmpfs]
        mounts += [f"mount -o remount,bind,ro {root}{at}" for at in own.values() if at not in writable]
        mounts += [
            f"mount -o remount,bind,ro {root}",
            *(f"mount -t tmpfs -o {_TMPFS} none {root}{at}" for at in tmpfs),
        ]
        nobody = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", "--no-new-privs",
                  "--inh-caps=-all", "--bounding-set=-all"]  # fmt: skip
        inside = [*nobody, "env", "-i", *(f"{key}={value}" for key, value in variables.items()), *given]
        script = "\n".join(["set -e", *mounts, 'exec chroot "$@"'])
        entered = ["nsenter", f"--net=/run/netns/{network}", "unshare", "-m", "-u"]
        return [*entered, "bash", "-c", script, "sh", str(root), *inside]

    def said(self, *given: str) -> str:
        """What a command prints in it."""
        return subprocess.run(["chroot", self.root, *given], capture_output=True, text=True, check=True).stdout


def _run(*given: str) -> None:
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(given[:6])} ...: {done.stdout[-1500:]}{done.stderr[-1500:]}")

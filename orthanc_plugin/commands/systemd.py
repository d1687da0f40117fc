"""``./hilum systemd``: a unit for systemd that runs this checkout, with as few rights as it needs.

The rule: what the unit allows is what the node does: it writes below its home and its caches, talks TCP, and gains no
right. What a site adds goes into a drop-in (``systemctl edit hilum``), so that the unit can be made anew.
"""

from __future__ import annotations

import getpass
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from orthanc_plugin.settings import REPOSITORY, Settings

_FIRST_PORT_FOR_ALL = 1024  # below it a right is needed (capabilities(7), CAP_NET_BIND_SERVICE)
_STOP_SECONDS = 60  # more than `./hilum down` waits
_GPU = Path("/dev/nvidiactl")
# of the environment of this command, what the service needs as well
_PASSED_ON = ("HILUM_HOME", "HILUM_VENV", "HILUM_HTTP_PORT", "HILUM_DICOM_PORT", "HILUM_VIEWER", "HILUM_TRANSLATED")

_UNIT = """\
# Made by ./hilum systemd for {repository}. To install it, as root:
#   ./hilum systemd > /etc/systemd/system/hilum.service && systemctl daemon-reload && systemctl enable --now hilum
# Run ./hilum up once as {user} before: it installs packages, which this unit may not.
[Unit]
Description=Hilum, an open chest X-ray AI node (research software, not a medical device)
Documentation=file://{documentation}
Wants=network-online.target
After=network-online.target time-sync.target postgresql.service

[Service]
Type=exec
User={user}
WorkingDirectory={repository}
{environment}
ExecStart={launcher} up
Restart=on-failure
RestartSec=10
# Orthanc is asked to end, gives the worker its 15 s, and writes what it has in hand
KillMode=mixed
TimeoutStopSec={stop_seconds}
# a reading process that runs out of memory costs one attempt, not the node
OOMPolicy=continue
LimitNOFILE=65536
LimitCORE=0
UMask=0077

# only these can be written
ProtectSystem=strict
ReadWritePaths={writable}
{temporary}
{home}
{devices}
NoNewPrivileges=yes
{capabilities}
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
LockPersonality=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
# not MemoryDenyWriteExecute: OpenVINO and PyTorch make machine code as they load networks

[Install]
WantedBy=multi-user.target
"""


def unit(settings: Settings, environment: Mapping[str, str], *, user: str = "") -> str:
    """The text of the unit.

    Parameters
    ----------
    environment
        Of whoever asks for it: where home, packages and ports are.
    user
        Who the node runs as; by default who asks.
    """
    passed = {name: environment[name] for name in _PASSED_ON if name in environment}
    passed["HILUM_HOME"] = str(settings.home)
    own = settings.dicom_port < _FIRST_PORT_FOR_ALL or settings.http_port < _FIRST_PORT_FOR_ALL
    rights = "CAP_NET_BIND_SERVICE" if own else ""
    cache = REPOSITORY / ".cache"
    writable = [settings.home, *(f"-{path}" for path in dict.fromkeys((cache, settings.translated)))]
    needed = (REPOSITORY, settings.home, Path(sys.prefix).resolve())
    below_home, below_tmp = (
        any(path.is_relative_to(folder) for path in needed for folder in folders)
        for folders in (("/home", "/root"), ("/tmp", "/var/tmp"))  # noqa: S108  (nothing is written there)
    )
    return _UNIT.format(
        repository=REPOSITORY,
        documentation=REPOSITORY / "docs" / "operations.md",
        user=user or getpass.getuser(),
        environment="\n".join(f"Environment={_quoted(f'{name}={value}')}" for name, value in passed.items()),
        launcher=_quoted(str(REPOSITORY / "hilum")),
        stop_seconds=_STOP_SECONDS,
        writable=" ".join(_quoted(str(path)) for path in writable),
        temporary="# no PrivateTmp: this checkout lies there" if below_tmp else "PrivateTmp=yes",
        home="ProtectHome=read-only" if below_home else "ProtectHome=yes",
        devices="# no PrivateDevices: this machine has a GPU" if _GPU.exists() else "PrivateDevices=yes",
        capabilities=f"CapabilityBoundingSet={rights}" + (f"\nAmbientCapabilities={rights}" if rights else ""),
    )


def _quoted(text: str) -> str:
    """As systemd reads it (systemd.syntax(7)): percent signs are its own, and words with spaces are quoted."""
    doubled = text.replace("%", "%%")
    return shlex.quote(doubled) if any(c.isspace() or c in "\"'\\" for c in doubled) else doubled

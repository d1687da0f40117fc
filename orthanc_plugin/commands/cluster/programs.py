"""The configurations of the engines that a cluster of this machine runs on: Supervisor, and HAProxy at the entrance.

The rule: nothing secret stands in them, and no address of a request is logged, for it may name a patient.
"""

from __future__ import annotations

import sys
from pathlib import Path

from orthanc_plugin.commands.cluster.plan import Plan, folder_of
from orthanc_plugin.settings import REPOSITORY, Settings

# What ends first has the highest number: nobody comes in any more, then work is given back, then Orthanc, then its
# index. Those of one kind end together.
_ORDER = {"postgresql": 1, "orthanc": 2, "ray": 3, "worker": 4, "entrance": 5, "https": 6}
_STOP_SECONDS = {"postgresql": 30, "orthanc": 45, "ray": 15, "worker": 20, "entrance": 5, "https": 5}
_SUPERVISOR = """\
[supervisord]
nodaemon = true
silent = true
logfile = {logs}/supervisor.log
logfile_maxbytes = {log_bytes}
logfile_backups = {log_files}
pidfile = {folder}/supervisor.pid
"""
# started again whenever it ends, after one second, two seconds ...
_PROGRAM = """
[program:{name}]
command = {python} -m orthanc_plugin.commands.cluster.member {name}
environment = PYTHONPATH="{repository}"
autorestart = true
startretries = 1000000
stopsignal = {signal}
stopwaitsecs = {stop_seconds}
redirect_stderr = true
stdout_logfile = {logs}/cluster-{name}.log
stdout_logfile_maxbytes = {log_bytes}
stdout_logfile_backups = {log_files}
"""
_GROUP = """
[group:{kind}]
programs = {names}
priority = {order}
"""
_ENTRANCE = """\
# Whoever comes by HTTP or DICOM is led to an Orthanc that lives: each is asked again and again for the page to log in.
global
    maxconn 2000
defaults
    timeout connect 3s
    timeout check 5s
    timeout queue 10s
    timeout client 60s
    timeout server 300s
    timeout http-request 15s
    timeout http-keep-alive 15s
    retries 3
    option redispatch 1
    default-server inter 2s fastinter 500ms fall 2 rise 1 on-marked-down shutdown-sessions

frontend http
    mode http
    bind 127.0.0.1:{http_port}
    default_backend orthancs

backend orthancs
    mode http
    # a person stays with one Orthanc as long as it lives; workers and programs, which have no cookie, take turns
    balance hdr(cookie)
    hash-type consistent
    option httpchk
    http-check send meth GET uri /hilum/login
    http-check expect string </html>
    # should an Orthanc die meanwhile, the other is asked what only asks; what changes something is not sent twice
    retry-on conn-failure empty-response
    http-request disable-l7-retry unless METH_GET
{http_servers}

frontend dicom
    mode tcp
    bind :{dicom_port}
    timeout client 15m
    # who calls speaks first: Orthanc, which waits long for each, is not asked before that
    tcp-request inspect-delay 10s
    tcp-request content accept if {{ req.len gt 5 }}
    tcp-request content reject
    default_backend entities

backend entities
    mode tcp
    balance leastconn
    timeout server 15m
{dicom_servers}
"""


def write_configurations(settings: Settings, plan: Plan) -> Path:
    """Write what the engines are told; returns the file of Supervisor."""
    folder = folder_of(settings)
    shared = {
        "logs": settings.logs,
        "folder": folder,
        "log_bytes": settings.log_mb * 1_000_000,
        "log_files": settings.log_files - 1,
        "python": sys.executable,
        "repository": REPOSITORY,
    }
    programs = [_PROGRAM.format(**_doubled(shared), **_of_kind(name)) for name in plan.members]
    names = {kind: ",".join(name for name in plan.members if name.partition("-")[0] == kind) for kind in _ORDER}
    groups = [_GROUP.format(kind=kind, names=of, order=_ORDER[kind]) for kind, of in names.items() if of]
    supervisor = folder / "supervisor.conf"
    supervisor.write_text(_SUPERVISOR.format(**_doubled(shared)) + "".join([*programs, *groups]), "utf-8")
    servers = {
        f"{kind}_servers": "\n".join(
            f"    server orthanc-{number} 127.0.0.1:{ports[place]}{also.format(number)}"
            for number, ports in enumerate(plan.orthancs, 1)
        )
        for place, (kind, also) in enumerate((("http", " check"), ("dicom", " track orthancs/orthanc-{}")))
    }
    ports = {"http_port": settings.http_port, "dicom_port": settings.dicom_port}
    entrance_file(settings).write_text(_ENTRANCE.format(**ports, **servers), "utf-8")
    return supervisor


def entrance_file(settings: Settings) -> Path:
    """The configuration of HAProxy."""
    return folder_of(settings) / "haproxy.cfg"


def _of_kind(name: str) -> dict[str, object]:
    kind = name.partition("-")[0]
    signal = "INT" if kind == "postgresql" else "TERM"  # INT: it does not wait until nobody is connected
    return {"name": name, "signal": signal, "stop_seconds": _STOP_SECONDS[kind]}


def _doubled(values: dict[str, object]) -> dict[str, object]:
    """As Supervisor reads them: a percent sign begins a name of its own."""
    return {name: str(value).replace("%", "%%") for name, value in values.items()}

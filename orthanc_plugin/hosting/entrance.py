"""HTTPS for other machines: nginx before Orthanc, started with it, watched, and ended with it.

The rule: Orthanc itself answers to this machine alone. Its own HTTPS (``SslEnabled``) is not used: in Debian 12 it ends
the server with the first connection (libcivetweb 1.15 with OpenSSL 3), and nothing there bounds how slowly somebody may
send.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

from orthanc_plugin.settings import Settings
from orthanc_plugin.trust import TlsFiles

log = logging.getLogger("hilum.entrance")

_TEMPLATE = Path(__file__).with_name("entrance.conf")
_ENDS_WITH_US = ("setpriv", "--pdeathsig", "TERM")  # of util-linux
_LOOK_SECONDS, _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 2.0, 0.5, 30.0
_STEADY_SECONDS, _STOP_SECONDS = 5.0, 15.0


def nginx() -> str | None:
    """Where nginx is; None where it is not installed."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def configuration(settings: Settings) -> str:
    """What nginx is told."""
    files, port = TlsFiles(settings.tls), settings.https_port
    listen = f"listen {port} ssl;"
    if Path("/proc/net/if_inet6").exists():
        listen += f" listen [::]:{port} ssl ipv6only=on;"
    clients = f'ssl_verify_client on; ssl_client_certificate "{files.authority}"; ssl_verify_depth 3;'
    values = {
        "FOLDER": str(settings.entrance),
        "USER": "user root root;" if os.geteuid() == 0 else "",  # else nobody, who may not look into HILUM_HOME
        "CERTIFICATE": str(files.certificate),
        "KEY": str(files.key),
        "CLIENTS": clients if settings.https == "mutual" else "",
        "LISTEN": listen,
        "HTTP_PORT": str(settings.http_port),
    }
    text = _TEMPLATE.read_text("utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


class Entrance:
    """One nginx, kept alive; a certificate that was renewed is taken up without an end to any connection."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self.keep_alive, name="entrance", daemon=True)
        self.problem = ""

    def start(self) -> None:
        """Start nginx and watch it."""
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stopping.set()
        if (process := self._process) is not None:
            with contextlib.suppress(OSError):
                process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def keep_alive(self) -> None:
        """Start nginx as often as it ends, until `stop`."""
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                self._run_once()
            except (OSError, ValueError) as error:  # it is tried again whatever there is
                self.problem = f"it cannot be started ({type(error).__name__})"
            if self._stopping.is_set():
                return
            self.problem = self.problem or "it ends as soon as it is started"
            log.error("HTTPS is not offered: %s", self.problem)
            pause = _FIRST_PAUSE_SECONDS if time.monotonic() - started > _STEADY_SECONDS else pause
            self._stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _run_once(self) -> None:
        program, folder = nginx(), self._settings.entrance
        if program is None:
            self.problem = "nginx is not installed"
            return
        folder.mkdir(exist_ok=True, mode=0o700)
        file = folder / "nginx.conf"
        file.write_text(configuration(self._settings), "utf-8")
        seen = self._certificate()
        self._process = process = subprocess.Popen(
            [*_ENDS_WITH_US, program, "-c", str(file), "-p", str(folder)],
            stdin=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TZ")},
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_SECONDS)
                    return
                self.problem = ""
                if seen != (seen := self._certificate()):
                    log.info("the node's certificate was renewed", extra={"pid": process.pid})
                    process.send_signal(signal.SIGHUP)
        finally:
            with contextlib.suppress(OSError):  # its workers outlive one that was killed, and would keep the port
                os.killpg(process.pid, signal.SIGKILL)

    def _certificate(self) -> int:
        try:
            return TlsFiles(self._settings.tls).certificate.stat().st_mtime_ns
        except OSError:
            return 0

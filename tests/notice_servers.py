"""Servers that take notices: a web server, and as much of an SMTP server with STARTTLS as a message needs."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


@dataclass
class Receiver:
    """A web server, and what it was sent; it answers `status`."""

    url: str = ""
    status: int = 204
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    it = Receiver()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            it.got.append((dict(self.headers), body))
            self.send_response(it.status)
            self.send_header("Location", it.url)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    it.url = f"http://127.0.0.1:{server.server_port}/hook"
    try:
        yield it
    finally:
        server.shutdown()
        server.server_close()


class MailServer(threading.Thread):
    """As much of RFC 5321 and RFC 3207 as messages need, one connection after the other."""

    def __init__(self, certificate: Path | None) -> None:
        super().__init__(daemon=True)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.certificate = certificate
        self.messages: list[bytes] = []
        self.commands: list[str] = []
        self.start()

    def run(self) -> None:
        while True:
            connection, _ = self.listening.accept()
            try:
                self._serve(connection)
            except OSError:
                continue

    def _serve(self, connection: socket.socket) -> None:
        file = connection.makefile("rwb", buffering=0)
        file.write(b"220 here\r\n")
        while line := file.readline():
            word = line.split()[0].upper().decode()
            self.commands.append(word)
            if word == "STARTTLS" and self.certificate:
                file.write(b"220 go\r\n")
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self.certificate)
                connection = context.wrap_socket(connection, server_side=True)
                file = connection.makefile("rwb", buffering=0)
            elif word == "DATA":
                file.write(b"354 go\r\n")
                message = b""
                while (part := file.readline()) != b".\r\n":
                    message += part
                self.messages.append(message)
                file.write(b"250 ok\r\n")
            elif word == "EHLO":
                file.write(b"250-here\r\n250 STARTTLS\r\n" if self.certificate else b"250 here\r\n")
            elif word == "QUIT":
                file.write(b"221 bye\r\n")
                break
            else:
                file.write(b"250 ok\r\n")
        connection.close()


def made_certificate(folder: Path) -> Path:
    """A certificate of localhost with its key, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    file = folder / "both.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*made, "-keyout", file.with_suffix(".key"), "-out", file], check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + file.with_suffix(".key").read_bytes())
    return file

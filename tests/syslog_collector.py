"""A collector of syslog for tests: by TLS (RFC 5425) or TCP, with octet counting, as its receiver has it."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from running_node import free_port


@dataclass
class SyslogCollector:
    """What it took, in order. `takes` may be cleared: then it reads what comes and ends the connection rudely."""

    port: int
    context: ssl.SSLContext | None = None
    messages: list[bytes] = field(default_factory=list)
    connections: int = 0
    takes: bool = True
    left: int | None = None  # messages that it takes before it dies, once; None: all
    is_polite: bool = True  # whether it ends TLS in good order

    def serve(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                plain, _ = listening.accept()
                threading.Thread(target=self._of_one, args=[plain], daemon=True).start()

    def _of_one(self, plain: socket.socket) -> None:
        with suppress(OSError, ValueError), plain:
            connection = self.context.wrap_socket(plain, server_side=True) if self.context else plain
            self.connections += 1
            with connection, connection.makefile("rb") as coming:
                while length := _length(coming):
                    message = coming.read(length)
                    if self.left == 0 or not self.takes:
                        # a reset: nothing says that it was taken
                        self.left = None
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                        return
                    assert len(message) == length
                    self.messages.append(message)
                    self.left = None if self.left is None else self.left - 1
                if isinstance(connection, ssl.SSLSocket) and self.is_polite:
                    connection.unwrap()


def _length(coming: object) -> int:
    """MSG-LEN and the space behind it (RFC 5425 4.3); 0 at the end."""
    digits = b""
    while (one := coming.read(1)) not in (b" ", b""):  # type: ignore[attr-defined]
        digits += one
    return int(digits) if one else 0


@contextmanager
def syslog_collector(context: ssl.SSLContext | None = None, port: int = 0) -> Iterator[SyslogCollector]:
    """Run one for the time of a block."""
    with socket.create_server(("127.0.0.1", port or free_port())) as listening:
        it = SyslogCollector(int(listening.getsockname()[1]), context)
        threading.Thread(target=it.serve, args=[listening], daemon=True).start()
        yield it
        listening.shutdown(socket.SHUT_RDWR)

"""Stands between the worker and Orthanc's HTTP port and, when told to, lets requests through but no answer back.

The rule: what Orthanc was asked to do is done; the worker does not hear of it, as when a cable is pulled.
"""

from __future__ import annotations

import contextlib
import socket
import threading


class AnswerDropper:
    """Forwards TCP connections from one loopback port to another. It may be closed and opened again."""

    def __init__(self, port: int, orthanc_port: int) -> None:
        self.dropping = threading.Event()
        self.dropped = 0  # answers, so far
        self._port, self._orthanc_port = port, orthanc_port
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Take connections."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen(64)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name="answer dropper", daemon=True).start()

    def close(self) -> None:
        """Give the port back, and end every connection."""
        with self._lock:
            sockets, self._open = self._open, set()
        if self._listener is not None:
            sockets.add(self._listener)
            self._listener = None
        for one in sockets:
            _end(one)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                worker, _ = listener.accept()
            except OSError:
                return
            orthanc = socket.socket()
            try:
                orthanc.connect(("127.0.0.1", self._orthanc_port))
            except OSError:
                _end(worker)
                _end(orthanc)
                continue
            with self._lock:
                self._open |= {worker, orthanc}
            for source, target, answers in ((worker, orthanc, False), (orthanc, worker, True)):
                threading.Thread(target=self._forward, args=(source, target, answers), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if answers and self.dropping.is_set():
                    self.dropped += 1
                    break
                target.sendall(data)
        with self._lock:
            self._open -= {source, target}
        _end(source)
        _end(target)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits in accept or recv
    one.close()

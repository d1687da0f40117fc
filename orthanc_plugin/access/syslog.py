"""Syslog to a collector: by TLS (RFC 5425), TCP (RFC 6587 3.4.1) or UDP (RFC 5426).

The rule: syslog knows no acknowledgement, so each batch has a connection of its own, and counts as taken when the
collector has closed that in turn: it does so after what came before, and by TLS nobody else can say it. By UDP what was
sent counts as taken.

::

    CollectorAway    it did not take what it was sent
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress

from orthanc_plugin.integration import Collector
from orthanc_plugin.trust import TlsUnusable, context_for

_SECONDS = 10.0  # to connect, and for each answer
_PIECE = 16_384
_LONGEST_DATAGRAM = 65_507  # bytes: what UDP by IPv4 holds


class CollectorAway(Exception):
    """The collector did not take it; the message names no secret, and nothing that it said in words."""


def send(collector: Collector, messages: Sequence[bytes]) -> None:
    """Send messages, and wait until they were taken.

    Raises
    ------
    CollectorAway
    """
    counted = b"".join(b"%d %s" % (len(one), one) for one in messages)  # octet counting
    try:
        if collector.transport == "udp":
            _send_datagrams(collector, messages)
            return
        with socket.create_connection((collector.host, collector.port), _SECONDS) as connection:
            if collector.transport == "tls":
                context = context_for(collector.authority_file, collector.certificate_file, collector.key_file)
                _send_by_tls(connection, context, collector, counted)
            else:
                connection.sendall(counted)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(_PIECE):
                    pass
    except TlsUnusable as error:
        raise CollectorAway(str(error)) from None
    except (OSError, ValueError) as error:
        raise CollectorAway(_why(error)) from None


def knock(collector: Collector) -> None:
    """See whether it takes connections, and our certificate; by UDP nothing tells.

    Raises
    ------
    CollectorAway
    """
    send(collector, ())


def _send_by_tls(connection: socket.socket, context: ssl.SSLContext, collector: Collector, content: bytes) -> None:
    """Send, say that nothing follows (close_notify), and wait for the same word (RFC 5425 4.4).

    By hand, for `ssl.SSLSocket.unwrap` is content with an alert too, and with TLS 1.3 that is how a collector refuses
    our certificate: after we have sent.
    """
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(coming, going, server_hostname=collector.host)

    def exchange() -> bool:
        """Send what is to be sent, and take what comes; False when the connection has ended."""
        connection.sendall(going.read())
        piece = connection.recv(_PIECE)
        coming.write(piece)
        return bool(piece)

    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            if not exchange():
                raise CollectorAway("it ended the connection before TLS was agreed on") from None
    if content:
        tls.write(content)
    with suppress(ssl.SSLWantReadError):
        tls.unwrap()  # sends our word; nothing of theirs is there to be read
    while exchange():
        try:
            tls.read(_PIECE)
        except ssl.SSLZeroReturnError:
            return
        except ssl.SSLWantReadError:
            continue
    if collector.close_notify:
        raise CollectorAway("it ended the connection without close_notify, so that anybody between may have")


def _send_datagrams(collector: Collector, messages: Sequence[bytes]) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(collector.host, collector.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as datagrams:
        datagrams.connect(address)  # so that a host that has nobody there is heard
        for one in messages:
            datagrams.send(one[:_LONGEST_DATAGRAM])


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or type(error).__name__})"  # a code of OpenSSL's
    return f"it cannot be reached, or does not answer ({type(error).__name__})"

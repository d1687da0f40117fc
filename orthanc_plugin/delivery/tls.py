"""TLS to a destination: whom it trusts, and what it shows of itself."""

from __future__ import annotations

import ssl

from orthanc_plugin.delivery.failures import ReceiverAway
from orthanc_plugin.integration import Destination
from orthanc_plugin.trust import TlsUnusable, context_for


def context_of(destination: Destination) -> ssl.SSLContext:
    """What a connection is made with; the host's name is checked.

    Raises
    ------
    ReceiverAway
        When a file of it cannot be used.
    """
    try:
        return context_for(destination.authority_file, destination.certificate_file, destination.key_file)
    except TlsUnusable as error:
        raise ReceiverAway(str(error)) from error

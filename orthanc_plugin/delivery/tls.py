"""TLS to a destination: whom it trusts, and what it shows of itself."""

from __future__ import annotations

import ssl

from orthanc_plugin.delivery.failures import ReceiverAway
from orthanc_plugin.integration import Destination


def context_of(destination: Destination) -> ssl.SSLContext:
    """What a connection is made with; the host's name is checked.

    Raises
    ------
    ReceiverAway
        When a file of it cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=destination.authority_file or None)
        if destination.certificate_file:
            context.load_cert_chain(destination.certificate_file, destination.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ReceiverAway(f"its certificates cannot be used ({type(error).__name__})") from error
    return context

"""A trial of bundles on a radiograph computed from geometry, before they meet a patient.

The rule: what cannot answer for a phantom is not activated.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from models.bundle import BundleInvalid
from models.findings import Caution, View
from models.hanging import AS_STORED
from models.inference import ImageIdentity, Models
from models.phantom import chest
from models.reading import read
from models.refusal import ImageRefused
from models.rendering import RenderedImage
from models.selection import Policy, Selection

_IDENTITY = ImageIdentity("", "", "", View.PA)


def try_out(models: Models) -> None:
    """Have bundles read a normal phantom.

    Raises
    ------
    BundleInvalid
        When one of them fails, or finds no lungs in it.
    """
    selection = Selection(View.PA, AS_STORED, ())
    with _complaints() as said:
        try:
            findings = read(RenderedImage(chest(1).pixels), selection, _IDENTITY, models, Policy()).findings
        except ImageRefused as refusal:
            raise BundleInvalid(f"on trial a normal chest made in code is refused: {refusal}") from refusal
    failed = [run.model.name for run in findings.runs if run.failure]
    if Caution.GATE_FAILED in findings.cautions and models.gate:
        failed.append(models.gate[0].identity.name)
    if failed:
        raise BundleInvalid(f"on trial {', '.join(failed)} failed on a chest made in code: {'; '.join(said)}")


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Gather what is logged of failures, instead of showing it."""
    said: list[str] = []

    class Gather(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            said.append(f"{type(error).__name__}: {error}" if error else record.getMessage())

    log, handler = logging.getLogger("hilum"), Gather(logging.WARNING)
    propagate = log.propagate
    log.addHandler(handler)
    log.propagate = False
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.propagate = propagate

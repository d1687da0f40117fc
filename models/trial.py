"""A trial of bundles on a radiograph computed from geometry, before they meet a patient.

The rule: what gives no answer of the shape that its contract wants is not even taken in; what cannot answer for a
phantom, together with the others, is not activated.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from models.bundle import Bundle, BundleInvalid, Contract
from models.contracts import BoxContract, ClassContract, MaskContract
from models.findings import Caution, View
from models.hanging import AS_STORED
from models.inference import ImageIdentity, Models
from models.outputs import FloatArray, ask
from models.phantom import chest
from models.pixel_gate import CLASSES
from models.reading import read
from models.refusal import ImageRefused
from models.rendering import RenderedImage
from models.selection import Policy, Selection

_IDENTITY = ImageIdentity("", "", "", View.PA)


def require_answer(bundle: Bundle) -> None:
    """Have one bundle answer once, and hold the outputs against its contract.

    Raises
    ------
    BundleInvalid
        When it cannot answer, lacks an output, or one has not the numbers that the contract speaks of.
    """
    network = bundle.network  # what cannot be built says so itself
    if network is None:
        return
    contract, preprocessing = bundle.contract, bundle.contract.preprocessing
    title = f"bundle {bundle.identity.name}"
    try:
        answer = ask(network, contract.input_size, preprocessing.channels if preprocessing else 1)
    except Exception as error:  # a network of anybody's making may raise anything
        why = " ".join(str(error).split())
        raise BundleInvalid(f"{title}: its network cannot take a picture of {contract.input_size} pixels: {why}"
                            ) from error  # fmt: skip
    if bad := [name for name, values in answer.items() if not np.isfinite(values).all()]:
        raise BundleInvalid(f"{title}: {', '.join(bad)} holds values that are not numbers")
    for name, shape in _wanted(contract, answer).items():
        if name not in answer:
            raise BundleInvalid(f"{title}: its network gives {', '.join(answer)}, and the contract wants {name}")
        given = answer[name].shape
        if len(given) != len(shape) or any(number not in of for number, of in zip(given, shape, strict=True)):
            raise BundleInvalid(
                f"{title}: its network gives {name} of {' x '.join(map(str, given))} numbers, and the contract wants "
                f"{' x '.join(map(_in_words, shape))}"
            )


def _wanted(contract: Contract, answer: Mapping[str, FloatArray]) -> dict[str, tuple[range, ...]]:
    """Output to its shape, each side from and to."""
    reading, side, anything = contract.reading, _just(contract.input_size), _at_least(1)
    told = _at_least(max((finding.output + 1 for finding in contract.findings), default=1))
    logits: tuple[range, ...] = (told,)
    others: dict[str, tuple[range, ...]] = {"maps": (told, anything, anything)} if "maps" in answer else {}
    if contract.interpreter == "gate":
        logits = (_just(len(CLASSES)),)
    elif contract.interpreter == "structures":
        logits = (_just(len(contract.segments)), side, side)
    elif isinstance(reading, ClassContract):
        logits = (range(len(contract.findings), len(contract.findings) + 2),)
    elif isinstance(reading, MaskContract):
        head = {"empty": (told,)} if reading.score == "empty" else {}
        return {"masks" if "masks" in answer else "logits": (told, side, side), **head}
    elif isinstance(reading, BoxContract) and reading.head == "heat":
        pair = (_just(2), anything, anything)
        return {"heat": (told, anything, anything), "size": pair, "offset": pair}
    elif isinstance(reading, BoxContract):
        logits, others = (anything, told), {"boxes": (anything, _just(4))}
    return {"logits": logits, **others}


def _just(number: int) -> range:
    return range(number, number + 1)


def _at_least(number: int) -> range:
    return range(number, sys.maxsize)


def _in_words(numbers: range) -> str:
    more = "" if len(numbers) == 1 else " or more" if numbers.stop == sys.maxsize else f" to {numbers[-1]}"
    return f"{numbers.start}{more}"


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

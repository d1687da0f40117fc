"""In which precisions below float32 a bundle may answer: what was measured of it, and its network in integers.

The rule: who reads a bundle believes what stands beside it only where it was measured with these very weights and this
very contract, and takes integers only where the files are those that were measured. What is not believed is told in the
log, and the bundle answers in float32.

::

    models/precisions.json         what was measured, and what may be taken; written by `./hilum train quantise`
    models/int8.xml, int8.bin      the network in integers of 8 bits, in OpenVINO's form; where it may be taken
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from models.findings import ModelIdentity

log = logging.getLogger("hilum.precisions")

STATEMENT = "models/precisions.json"
QUANTISED = ("models/int8.xml", "models/int8.bin")
# What may lie beside weights and configurations, and decides on answers where it does.
BESIDE = (STATEMENT, *QUANTISED)


@dataclass(frozen=True)
class Measured:
    """What was measured of a network at one precision.

    Parameters
    ----------
    accepted
        Whether real pictures showed that nothing is lost, so that it may be taken without being asked for.
    tolerances
        How far each output about the probe (``models.runtime``) may lie from that in float32: half as far again as
        where it was measured. Beyond it the machine computes otherwise than that one, as some integers without VNNI.
    quantised
        Description (XML) and weights of a network of its own, where the precision needs one and it lies here.
    parts
        SHA-256 of the weights of the bundles of which that network is made, in their order: networks that begin alike
        are one (``models.networks.Together``), which lies with the first of them.
    """

    accepted: bool
    tolerances: Mapping[str, float]
    quantised: tuple[bytes, bytes] | None = None
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Precisions:
    """Those of a bundle by the name of the runtime that computes with them; none unless somebody measured."""

    digest: str = ""  # SHA-256 of the statement
    by_runtime: Mapping[str, Measured] = field(default_factory=dict)


def read_precisions(folder: Path, model: ModelIdentity) -> Precisions:
    """What may be believed of what stands in the folder of a bundle."""
    file = folder / STATEMENT
    if not file.is_file():
        return Precisions()
    try:
        content = file.read_bytes()
        said = json.loads(content)
        if (said["weights_sha256"], said["config_sha256"]) != (model.weights_digest, model.config_digest):
            log.warning("%s is of other weights or another contract: not used", STATEMENT, extra={"model": model.name})
            return Precisions()
        found = {name: _precision(folder, entry) for name, entry in said["precisions"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be used (%s: %s)", STATEMENT, type(error).__name__, error, extra={"model": model.name})
        return Precisions()
    for name in [name for name, precision in found.items() if precision is None]:
        log.warning("the files of %s are not those that were measured: not used", name, extra={"model": model.name})
    known = {name: precision for name, precision in found.items() if precision is not None}
    return Precisions(hashlib.sha256(content).hexdigest(), known)


def _precision(folder: Path, entry: Mapping[str, object]) -> Measured | None:
    """One of them; None where its files are other ones."""
    accepted, tolerances, files = entry["accepted"], entry["tolerances"], entry.get("files")
    if not isinstance(accepted, bool) or not isinstance(tolerances, Mapping) or not tolerances:
        raise ValueError(f"accepted {accepted!r}, tolerances {tolerances!r}")
    if not all(isinstance(most, float) and 0.0 < most < math.inf for most in tolerances.values()):
        raise ValueError(f"tolerances {tolerances!r}")
    if files is None:
        return Measured(accepted, tolerances)
    if not isinstance(files, Mapping) or set(files) != set(QUANTISED):
        raise ValueError(f"files {files!r}")
    try:
        description, weights = ((folder / file).read_bytes() for file in QUANTISED)
    except OSError:
        return None
    for file, content in zip(QUANTISED, (description, weights), strict=True):
        if hashlib.sha256(content).hexdigest() != files[file]:
            return None
    parts = entry["parts"]
    if not isinstance(parts, list):
        raise ValueError(f"parts {parts!r}")
    return Measured(accepted, tolerances, (description, weights), tuple(map(str, parts)))

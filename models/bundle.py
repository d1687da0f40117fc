"""Packaged models: MONAI bundles with pinned weights and the contract of what their outputs mean.

The rule: a bundle whose weights are not the ones its metadata names is not run. A bundle is a folder::

    configs/metadata.json    MONAI's schema; its section "hilum" is the contract
    configs/inference.json   "network_def", built by monai.bundle.ConfigParser
    models/model.pt          state_dict, half precision
    models/precisions.json   in which lower precisions it may answer (``models.precisions``), where that was measured
    docs/README.md           the model card

A bundle of criteria (interpreter ``criteria``) has no network: neither inference.json nor model.pt, only a contract.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from pydoc import locate
from typing import TYPE_CHECKING, Any

from models.appearance import CriteriaContract
from models.contracts import SECTIONS, BoxContract, ClassContract, MaskContract, read_section
from models.findings import ModelIdentity
from models.outputs import declared
from models.pixel_gate import CLASSES, GateContract
from models.plausibility import FEATURES, Plausibility
from models.precisions import BESIDE, Precisions, read_precisions
from models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import nn

# `network_def` comes from a file: it may name a class of these modules and nothing else.
_ALLOWED_TARGETS = ("monai.networks.nets.", "monai.apps.detection.networks.", "models.networks.")
CRITERIA = "criteria"
INTERPRETERS = ("gate", "structures", "scores", *SECTIONS, CRITERIA)
# The files that decide on the answers; of a bundle of criteria there are no others than its contract.
DECISIVE = ("models/model.pt", "configs/metadata.json", "configs/inference.json")
DECISIVE_OF_CRITERIA = ("configs/metadata.json",)
_TOLD = 200  # characters of what torch says of weights
_NO_WEIGHTS = hashlib.sha256(b"").hexdigest()


class BundleInvalid(Exception):
    """A bundle that must not be run; the message names it, what is wrong, and what to do."""


@dataclass(frozen=True)
class FindingContract:
    """What one output of a network means.

    Parameters
    ----------
    evaluated
        Whether the held-out evidence carries this finding; if not it is reported as not evaluated.
    slope, intercept
        Calibration: probability = sigmoid(slope * logit + intercept).
    isotonic
        Calibration by a table in their place: pairs of logit and probability, straight between them, level beyond.
    threshold_absent, threshold_present
        Probabilities: below the first absent, from the second present, between them undetermined.
    localises
        Whether boxes drawn from this output's map were shown to lie on the finding.
    within_lungs
        Whether boxes are cut to the lung on which they lie, and dropped where they lie on none.
    outline_from
        Value of the map from which what lies in a lung belongs to the finding's outline; None where none is shown.
    """

    key: str
    output: int
    evaluated: bool
    slope: float = 1.0
    intercept: float = 0.0
    isotonic: tuple[tuple[float, float], ...] = ()
    threshold_absent: float = 0.5
    threshold_present: float = 0.5
    localises: bool = False
    within_lungs: bool = False
    outline_from: float | None = None


@dataclass(frozen=True)
class Contract:
    """The interface between a network and the node.

    Parameters
    ----------
    interpreter
        One of `INTERPRETERS`: which module reads the outputs.
    input_size
        Side of the square picture, in pixels; 0 where no network looks at one (interpreter ``criteria``).
    segments, plausibility
        Key of each output channel, and what lungs look like (interpreter ``structures``).
    gate
        How the scores of the classes decide (interpreter ``gate``).
    reading
        What is to be known beside the findings (interpreters ``masks``, ``boxes``, ``classes``).
    preprocessing
        What the network sees of an image when that is not our own picture: published weights (interpreter ``scores``).
    criteria
        By which findings are derived from those of other bundles (interpreter ``criteria``).
    """

    interpreter: str
    input_size: int
    segments: tuple[str, ...] = ()
    findings: tuple[FindingContract, ...] = ()
    plausibility: Plausibility | None = None
    gate: GateContract | None = None
    preprocessing: Preprocessing | None = None
    reading: MaskContract | BoxContract | ClassContract | None = None
    criteria: CriteriaContract | None = None


@dataclass(frozen=True)
class Bundle:
    """A verified model, ready to run; a bundle of criteria has no network.

    Parameters
    ----------
    build
        Gives the network, made anew; None where there is none.
    precisions
        In which lower ones it may answer.
    beside
        Files of `BESIDE` that lie in its folder.
    """

    identity: ModelIdentity
    contract: Contract
    build: Callable[[], nn.Module] | None
    precisions: Precisions = field(default=Precisions(), repr=False)
    beside: tuple[str, ...] = ()

    @cached_property
    def network(self) -> nn.Module | None:
        """The network in float32, in evaluation mode; built when it is first asked for, which imports torch and MONAI.

        Raises
        ------
        BundleInvalid
            When its definition and its weights do not make one, or its weights changed since it was loaded.
        """
        return None if self.build is None else self.build()

    @property
    def decisive(self) -> tuple[str, ...]:
        """The files that decide on its answers."""
        return (*DECISIVE, *self.beside) if self.build is not None else DECISIVE_OF_CRITERIA


def load_bundle(path: Path, name: str = "") -> Bundle:
    """Load a bundle and verify its weights, if it has any; its network is built when it is needed.

    Parameters
    ----------
    name
        Of the bundle, where its folder has another one.

    Raises
    ------
    BundleInvalid
        When a file is missing or malformed, the weights are not those that the metadata names, or the network is not
        of the modules that bundles may use.
    """
    name = name or path.name
    try:
        metadata = json.loads((path / "configs" / "metadata.json").read_text("utf-8"))
        if metadata["hilum"]["interpreter"] == CRITERIA:
            return _bundle_of_criteria(name, metadata)
        if lacking := [file for file in DECISIVE if not (path / file).is_file()]:
            raise BundleInvalid(f"bundle {name}: {' and '.join(lacking)} missing; restore its folder")
        inference = json.loads((path / "configs" / "inference.json").read_text("utf-8"))
        section, network_def = metadata["hilum"], inference["network_def"]
        expected, version = section["weights_sha256"], metadata["version"]
        contract = _contract(section)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleInvalid(f"bundle {name}: {type(error).__name__}: {error}; restore its folder") from error
    identity = ModelIdentity(name, version, expected, config_digest(section, inference))
    _weights(path, identity)
    _check_network_def(name, network_def, lambda target: target.startswith(_ALLOWED_TARGETS))
    beside = tuple(file for file in BESIDE if (path / file).is_file())
    build = partial(_network, path, identity, network_def)
    return Bundle(identity, contract, build, read_precisions(path, identity), beside)


def _weights(path: Path, identity: ModelIdentity) -> bytes:
    """The file of the weights, which must be the one that the metadata names."""
    try:
        content = (path / "models" / "model.pt").read_bytes()
    except OSError as error:
        raise BundleInvalid(f"bundle {identity.name}: {type(error).__name__}: {error}; restore its folder") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != identity.weights_digest:
        raise BundleInvalid(
            f"bundle {identity.name}: model.pt has SHA-256 {digest}, metadata.json names {identity.weights_digest}; "
            "restore the file"
        )
    return content


def _network(path: Path, identity: ModelIdentity, network_def: Any) -> nn.Module:
    """The network of a bundle. Its weights are read, and looked at, once more: nobody keeps them until then."""
    import torch
    from monai.bundle import ConfigParser

    content = _weights(path, identity)
    _check_network_def(identity.name, network_def, _is_network)
    try:
        network: nn.Module = ConfigParser({"network_def": network_def}).get_parsed_content(
            "network_def", instantiate=True
        )
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except (RuntimeError, TypeError, ValueError, AttributeError, UnpicklingError) as error:
        why = " ".join(str(error).split())[:_TOLD]
        raise BundleInvalid(
            f"bundle {identity.name}: the weights do not fit network_def ({why}); restore its folder"
        ) from error
    return network.eval()


def write_bundle(
    path: Path, network: nn.Module, inference: dict[str, Any], metadata: dict[str, Any], *, half: bool = True
) -> None:
    """Write weights and both configurations; pins the digest of the weights in the metadata.

    What was measured of earlier weights in lower precisions is taken away.
    What the metadata says of the outputs is asked of the network; `metadata` says what the channels of the first tell.

    Parameters
    ----------
    half
        Whether to write them in half precision.
    """
    import torch

    for folder in ("configs", "models", "docs"):
        (path / folder).mkdir(parents=True, exist_ok=True)
    for file in BESIDE:
        (path / file).unlink(missing_ok=True)
    state = {k: v.half() if half and v.is_floating_point() else v for k, v in network.state_dict().items()}
    torch.save(state, path / "models" / "model.pt")
    metadata["hilum"]["weights_sha256"] = hashlib.sha256((path / "models" / "model.pt").read_bytes()).hexdigest()
    section, described = metadata["hilum"], metadata.setdefault("network_data_format", {})
    tells: dict[str, str] = next((output["channel_def"] for output in described.get("outputs", {}).values()), {})
    channels = len(section["preprocessing"]["mean"]) if "preprocessing" in section else 1
    described["outputs"] = declared(network, section["input_size"], channels, tells=tells)
    for name, content in (("metadata.json", metadata), ("inference.json", inference)):
        (path / "configs" / name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def config_digest(section: dict[str, Any], inference: dict[str, Any]) -> str:
    """SHA-256 of what decides on an answer beside the weights: contract and network, without figures and provenance."""
    keys = ("interpreter", "input_size", "segments", "findings", "plausibility", "gate", "preprocessing", *SECTIONS)
    decisive = {k: section[k] for k in keys if k in section}
    canonical = json.dumps([decisive, inference["network_def"]], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _bundle_of_criteria(name: str, metadata: dict[str, Any]) -> Bundle:
    """One that derives findings from those of other bundles; as `load_bundle`."""
    entry = metadata["hilum"][CRITERIA]
    criteria = CriteriaContract(**{**entry, "atypical_findings": tuple(entry["atypical_findings"])})
    criteria.check()
    identity = ModelIdentity(name, metadata["version"], _NO_WEIGHTS, criteria.digest)
    return Bundle(identity, Contract(CRITERIA, 0, criteria=criteria), None)


def _contract(section: dict[str, Any]) -> Contract:
    findings = tuple(_finding(key, entry) for key, entry in section.get("findings", {}).items())
    for f in findings:
        if not 0.0 <= f.threshold_absent <= f.threshold_present <= 1.0:
            raise ValueError(f"the thresholds of {f.key} are not in order between 0 and 1")
        if not isinstance(f.output, int) or f.output < 0 or (f.evaluated and not f.slope > 0.0):
            raise ValueError(f"{f.key} is called by a slope of {f.slope!r} from output {f.output!r}")
        if f.evaluated and section.get("figures", {}).get(f.key, {}).get("evaluated") is False:
            raise ValueError(f"{f.key} counts as evaluated, and its figures say that the evidence does not carry it")
    interpreter, size = section["interpreter"], section["input_size"]
    if interpreter not in INTERPRETERS:
        raise ValueError(f"interpreter {interpreter!r} is none of {', '.join(INTERPRETERS)}")
    if not isinstance(size, int) or not 32 <= size <= 2048:
        raise ValueError(f"input_size {size!r} is no side between 32 and 2048 pixels")
    gate = _gate(section) if interpreter == "gate" else None
    segments, preprocessing = tuple(section.get("segments", ())), None
    if "preprocessing" in section:
        entry = section["preprocessing"]
        preprocessing = Preprocessing(**{**entry, "mean": tuple(entry["mean"]), "deviation": tuple(entry["deviation"])})
        if interpreter != "scores" or any(f.localises for f in findings):
            raise ValueError("what is seen by a preprocessing of its own is neither outlined nor located")
    reading = read_section(section, interpreter, [f.key for f in findings]) if interpreter in SECTIONS else None
    if interpreter == "classes" and sorted(f.output for f in findings) != list(range(len(findings))):
        raise ValueError("exclusive classes take the first outputs, each finding one of its own")
    return Contract(interpreter, size, segments, findings, _plausibility(section), gate, preprocessing, reading=reading)


def _finding(key: str, entry: dict[str, Any]) -> FindingContract:
    if unknown := sorted(set(entry) - set(FindingContract.__dataclass_fields__)):
        raise ValueError(f"{key} has {unknown[0]!r}, which no contract knows: is it misspelt?")
    known = dict(entry)
    if not isinstance(known.get("outline_from"), float | int | None):
        raise ValueError(f"{key} is outlined from {known['outline_from']!r}, which is no number")
    if "isotonic" in known:
        known["isotonic"] = tuple((float(logit), float(probability)) for logit, probability in known["isotonic"])
        if not _rises(known["isotonic"]) or {"slope", "intercept"} & set(known):
            raise ValueError(
                f"the table of {key} has two pairs at least, with rising logits and with probabilities from 0 to 1 "
                "that do not fall, and stands in the place of slope and intercept"
            )
    return FindingContract(key=key, **known)


def _rises(table: tuple[tuple[float, float], ...]) -> bool:
    logits, probabilities = ([pair[i] for pair in table] for i in (0, 1))
    return (
        len(table) > 1
        and all(math.isfinite(logit) for logit in logits)
        and all(a < b for a, b in pairwise(logits))
        and all(a <= b for a, b in pairwise([0.0, *probabilities, 1.0]))
    )


def _gate(section: dict[str, Any]) -> GateContract:
    entry = section["gate"]
    classes = tuple(entry["classes"])
    if classes != tuple(CLASSES):
        raise ValueError(f"the gate tells {', '.join(classes)}, this version reads {', '.join(CLASSES)}")
    if not 0.0 < entry["threshold"] < 1.0:
        raise ValueError(f"threshold {entry['threshold']!r} does not lie between 0 and 1")
    return GateContract(classes, float(entry["slope"]), float(entry["intercept"]), float(entry["threshold"]))


def _plausibility(section: dict[str, Any]) -> Plausibility | None:
    if "plausibility" not in section:
        return None
    entry, count = section["plausibility"], len(FEATURES)
    mean = tuple(float(v) for v in entry["mean"])
    precision = tuple(tuple(float(v) for v in row) for row in entry["precision"])
    if len(mean) != count or len(precision) != count or any(len(row) != count for row in precision):
        raise ValueError(f"plausibility does not describe {count} features")
    return Plausibility(mean, precision, float(entry["limit"]))


def _check_network_def(name: str, part: Any, allowed: Callable[[str], bool]) -> None:
    """Refuse what ConfigParser would evaluate or import beyond the allowed classes, at any depth."""
    if isinstance(part, str) and part[:1] in ("$", "@", "%"):
        raise BundleInvalid(f"bundle {name}: network_def may hold no expression or reference: {part}")
    if isinstance(part, dict):
        if "_target_" in part and not allowed(str(part["_target_"])):
            raise BundleInvalid(f"bundle {name}: network_def may not name {part['_target_']}")
        for value in part.values():
            _check_network_def(name, value, allowed)
    if isinstance(part, list):
        for value in part:
            _check_network_def(name, value, allowed)


def _is_network(target: str) -> bool:
    """Whether a name is that of a network defined there; ``models.networks.torch.load`` has the prefix as well."""
    from torch import nn

    found = locate(target) if target.startswith(_ALLOWED_TARGETS) else None
    defined_in = f"{getattr(found, '__module__', '')}."
    return isinstance(found, type) and issubclass(found, nn.Module) and defined_in.startswith(_ALLOWED_TARGETS)

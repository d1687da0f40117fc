"""Packaged models: MONAI bundles with pinned weights and the contract of what their outputs mean.

The rule: a bundle whose weights are not the ones its metadata names is not run. A bundle is a folder::

    configs/metadata.json    MONAI's schema; its section "hilum" is the contract
    configs/inference.json   "network_def", built by monai.bundle.ConfigParser
    models/model.pt          state_dict, half precision
    docs/README.md           the model card
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.findings import ModelIdentity

# `network_def` comes from a file: it may name a class of these modules and nothing else.
_ALLOWED_TARGETS = ("monai.networks.nets.", "models.networks.")


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
    threshold_absent, threshold_present
        Probabilities: below the first absent, from the second present, between them undetermined.
    localises
        Whether boxes drawn from this output's map were shown to lie on the finding.
    """

    key: str
    output: int
    evaluated: bool
    slope: float = 1.0
    intercept: float = 0.0
    threshold_absent: float = 0.5
    threshold_present: float = 0.5
    localises: bool = False


@dataclass(frozen=True)
class Contract:
    """The interface between a network and the node.

    Parameters
    ----------
    interpreter
        ``structures`` or ``scores``: which module reads the outputs.
    input_size
        Side of the square picture, in pixels.
    segments
        Key of each output channel (interpreter ``structures``).
    """

    interpreter: str
    input_size: int
    segments: tuple[str, ...] = ()
    findings: tuple[FindingContract, ...] = ()


@dataclass(frozen=True)
class Bundle:
    """A verified model, ready to run: float32, in evaluation mode."""

    identity: ModelIdentity
    contract: Contract
    network: nn.Module


def load_bundle(path: Path) -> Bundle:
    """Load a bundle and verify its weights.

    Raises
    ------
    BundleInvalid
        When a file is missing or malformed, or the weights are not those that the metadata names.
    """
    from monai.bundle import ConfigParser

    try:
        metadata = json.loads((path / "configs" / "metadata.json").read_text("utf-8"))
        inference = json.loads((path / "configs" / "inference.json").read_text("utf-8"))
        weights = path / "models" / "model.pt"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        section, target = metadata["hilum"], inference["network_def"]["_target_"]
        expected, version = section["weights_sha256"], metadata["version"]
        contract = _contract(section)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleInvalid(f"bundle {path.name}: {type(error).__name__}: {error}; restore its folder") from error
    if digest != expected:
        raise BundleInvalid(
            f"bundle {path.name}: model.pt has SHA-256 {digest}, metadata.json names {expected}; restore the file"
        )
    if not target.startswith(_ALLOWED_TARGETS):
        raise BundleInvalid(f"bundle {path.name}: network_def may not name {target}")
    network = ConfigParser(inference).get_parsed_content("network_def", instantiate=True)
    state = torch.load(weights, map_location="cpu", weights_only=True)
    try:
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except RuntimeError as error:
        raise BundleInvalid(f"bundle {path.name}: the weights do not fit network_def; restore its folder") from error
    identity = ModelIdentity(path.name, version, digest, config_digest(section, inference))
    return Bundle(identity, contract, network.eval())


def write_bundle(path: Path, network: nn.Module, inference: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Write weights in half precision and both configurations; pins the digest of the weights in the metadata."""
    for folder in ("configs", "models", "docs"):
        (path / folder).mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    torch.save(state, path / "models" / "model.pt")
    metadata["hilum"]["weights_sha256"] = hashlib.sha256((path / "models" / "model.pt").read_bytes()).hexdigest()
    for name, content in (("metadata.json", metadata), ("inference.json", inference)):
        (path / "configs" / name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def config_digest(section: dict[str, Any], inference: dict[str, Any]) -> str:
    """SHA-256 of what decides on an answer beside the weights: contract and network, without figures and provenance."""
    decisive = {k: section[k] for k in ("interpreter", "input_size", "segments", "findings") if k in section}
    canonical = json.dumps([decisive, inference["network_def"]], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _contract(section: dict[str, Any]) -> Contract:
    findings = tuple(
        FindingContract(key=key, **{n: v for n, v in entry.items() if n in FindingContract.__dataclass_fields__})
        for key, entry in section.get("findings", {}).items()
    )
    return Contract(section["interpreter"], int(section["input_size"]), tuple(section.get("segments", ())), findings)

"""What every importer gives: a network with the meaning of its outputs and of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from models.preprocessing import Preprocessing
from training.importers.registry import Entry


@dataclass(frozen=True)
class ImportedFinding:
    """One output: sigmoid(logit) is the published probability.

    Parameters
    ----------
    key
        As in ``models.findings``.
    output
        Which of the network's logits.
    operating_point
        Probability from which its authors call the finding present; None where they name none.
    """

    key: str
    output: int
    operating_point: float | None = None


@dataclass(frozen=True)
class Provenance:
    """Where weights come from.

    Parameters
    ----------
    file, sha256
        What was read: its name and the digest of its bytes, hexadecimal.
    verified
        Whether the registry knew that digest; else it is recorded here for the first time.
    """

    name: str
    file: str
    sha256: str
    verified: bool
    url: str
    licence: str
    paper: str

    @classmethod
    def of(cls, entry: Entry, file: Path, digest: str) -> Provenance:
        """Of a file that was checked against its entry."""
        return cls(
            entry.name, file.name, digest, bool(entry.sha256), entry.url, entry.licence, entry.paper
        )  # fmt: skip

    def __str__(self) -> str:
        told = "as the registry names it" if self.verified else "which its authors do not publish: recorded here"
        return f"{self.name}: {self.file}, SHA-256 {self.sha256}, {told}; {self.licence}; {self.paper}"


@dataclass(frozen=True, eq=False)
class Imported:
    """A published network, in evaluation mode, and how to use it.

    Parameters
    ----------
    network
        Of shape (n, channels, size, size), as `preprocessing` makes it, to logits (n, outputs); a trunk without
        findings gives features.
    network_def
        The same network for a bundle's ``inference.json``.
    findings
        What its outputs mean; an output that means nothing is not named.
    """

    network: nn.Module
    network_def: dict[str, Any]
    preprocessing: Preprocessing
    findings: tuple[ImportedFinding, ...]
    provenance: Provenance

"""Bundles by their folders, for tests that want no registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.bundle import load_bundle
from models.inference import Models, assemble


def load_models(root: Path, names: Sequence[str], *, threads: int) -> Models:
    """Load bundles, each in a folder of its name, and make them ready to run."""
    return assemble([load_bundle(root / name) for name in names], threads=threads)

"""Other versions of the shipped bundles, for tests: the same weights under another number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orthanc_plugin.settings import REPOSITORY

SHIPPED = REPOSITORY / "models"


def other_version(
    folder: Path, name: str, version: str, change: Callable[[dict[str, Any]], None] = lambda _: None
) -> Path:
    """A copy of a shipped bundle in `folder`, with another version and with `change` made to its metadata."""
    made = folder / version / name
    shutil.copytree(SHIPPED / name, made)
    edit(made, lambda metadata: metadata.update(version=version))
    edit(made, change)
    return made


def edit(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the metadata of a bundle in place."""
    file = bundle / "configs" / "metadata.json"
    metadata = json.loads(file.read_text("utf-8"))
    change(metadata)
    file.write_text(json.dumps(metadata), "utf-8")

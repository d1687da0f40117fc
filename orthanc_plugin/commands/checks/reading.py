"""What reads: the bundles as they were recorded, and what their networks are run by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orthanc_plugin.commands.checks.check import Check, unknown, warning, well, wrong
from orthanc_plugin.settings import Settings

_LOADED = "networks run"  # what models.runtime says of each, once it is loaded


def check_reading(settings: Settings) -> Iterator[Check]:
    """Bundles against their pins, and the runtime of each network."""
    yield from _bundles(settings)
    yield _runtimes(settings)


def _bundles(settings: Settings) -> Iterator[Check]:
    from models.activation import Activation
    from models.bundle import BundleInvalid
    from orthanc_plugin.reading.active_models import registry_of

    registry = registry_of(settings)
    try:
        choice = Activation(settings.active_models).choice
        active = choice.bundles(registry, settings.bundles)
    except BundleInvalid as error:
        yield wrong("bundles", f"{error}", "./hilum models list; nothing is read until this is mended")
        return
    for bundle in active:
        try:
            bundle.verify()
            yield well("bundle", f"{bundle.title} is as it was recorded, SHA-256 {bundle.digest[:12]}")
        except BundleInvalid as error:
            yield wrong("bundle", f"{error}", "nothing is read until this is mended")
    try:
        for bundle in choice.shadows(registry):
            bundle.verify()
            yield well("shadow", f"{bundle.title} is as it was recorded")
    except BundleInvalid as error:
        yield warning("shadow", f"{error}", "it does not run in shadow until this is mended")


def _runtimes(settings: Settings) -> Check:
    """What the worker said last of each network; it is chosen as they are loaded."""
    chosen: dict[str, str] = {}
    for line in _lines_of_worker(settings.logs):
        if line.get("event") == _LOADED and "runtime" in line:
            chosen[str(line["model"])] = str(line["runtime"])
    if not chosen:
        return unknown("runtime", f"no worker has said so yet; the setting is {settings.runtime}", "./hilum up")
    told = ", ".join(f"{model} by {runtime}" for model, runtime in chosen.items())
    return well("runtime", f"{told} (setting {settings.runtime}), as worker.log says")


def _lines_of_worker(logs: Path) -> Iterator[dict[str, Any]]:
    """Those that are JSON objects, the oldest file first."""
    files = sorted(logs.glob("worker.log*"), key=lambda file: -int(file.suffix[1:]) if file.suffix[1:].isdigit() else 1)
    for file in files:
        try:
            with file.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    if _LOADED in line and line.startswith("{"):
                        yield json.loads(line)
        except (OSError, ValueError):  # rotated away, or half a line of a process that died
            continue

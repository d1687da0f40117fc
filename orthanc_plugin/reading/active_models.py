"""The models that this site has chosen, loaded through the registry.

The rule: an active bundle that is not as it was recorded stops the start, and is named; a shadow only stays away.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from models.activation import Activation
from models.bundle import BundleInvalid
from models.inference import Models, assemble
from models.registry import Registry
from models.runtime import Running, Runtime, torch_answers
from orthanc_plugin.reading.shadow import Shadow, Shadows
from orthanc_plugin.settings import REPOSITORY, Settings

log = logging.getLogger("hilum.shadow")


def registry_of(settings: Settings) -> Registry:
    """The bundles that Hilum ships and those of the site."""
    return Registry(REPOSITORY / "models", settings.own_models)


def prepare(settings: Settings) -> None:
    """Import torch and MONAI where torch is going to answer: what is imported before a fork, no child imports again."""
    if torch_answers(_running(settings)):
        from models import networks  # noqa: F401  (all that bundles name)


def load_active(
    settings: Settings, studies: int = 1, apart: Callable[[Callable[[], object]], None] | None = None
) -> Models:
    """Verify and load what is active.

    Parameters
    ----------
    studies
        How many threads will ask the models at the same time.
    apart
        See `Running`.

    Raises
    ------
    BundleInvalid
        When one of them is not here, or is not as it was recorded.
    """
    chosen = Activation(settings.active_models).choice.bundles(registry_of(settings), settings.bundles)
    running = _running(settings, studies, apart)
    return assemble([bundle.load() for bundle in chosen], threads=running.threads, running=running)


def load_shadows(settings: Settings) -> Shadows:
    """Verify and load what runs in shadow; what cannot be loaded is told in the log."""
    registry, loaded = registry_of(settings), []
    for name, version in Activation(settings.active_models).choice.shadow:
        try:
            loaded.append(Shadow.of(registry.find(name, version).load(), threads=threads_of(settings)))
        except BundleInvalid as error:
            log.warning("it does not run in shadow: %s", error, extra={"model": name})
    return Shadows(loaded, settings.shadow_records)


def _running(
    settings: Settings, studies: int = 1, apart: Callable[[Callable[[], object]], None] | None = None
) -> Running:
    return Running(Runtime(settings.runtime), threads_of(settings), settings.translated, studies, apart)


def threads_of(settings: Settings) -> int:
    """How many threads one inference may use."""
    return settings.threads or os.cpu_count() or 1

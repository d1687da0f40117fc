"""An actor without models that does to itself what a study's name asks for (``faulty_reader``); started by tests.

Everything else is the real one. The folder of faults is the home of the settings that it gets.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import faulty_reader

from orthanc_plugin.working.ray_driver import main
from orthanc_plugin.working.reading_actor import ReadingActor, Unusable

COMMAND = (sys.executable, str(Path(__file__).resolve()))


class Equipment:
    """What a faulty actor reads with."""

    def __init__(self) -> None:
        self.versions = {"lungs": "1.0"}
        self.expected = {faulty_reader.OrthancAway: ("orthanc_unavailable", "Orthanc did not answer")}

    def idle(self) -> bool:
        return False

    @contextmanager
    def reading(self) -> Iterator[Any]:
        yield faulty_reader.read


class FaultyActor(ReadingActor):
    """Notes that it was begun."""

    def load(self) -> Equipment:  # type: ignore[override]
        faulty_reader.FOLDER = self._settings.home
        if (self._settings.home / "broken").exists():
            raise Unusable("bundle lungs: its weights are damaged")
        with (self._settings.home / "begun").open("a") as begun:
            begun.write(f"{os.getpid()}\n")
        return Equipment()


if __name__ == "__main__":
    sys.exit(main(FaultyActor))

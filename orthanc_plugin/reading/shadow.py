"""Bundles in shadow: run on what was read, recorded, never published.

The rule: nobody waits for a shadow. It runs while there is no study to read, after the study was answered; what it says
goes into a file of its own and nowhere else; and whatever becomes of it costs the study nothing.

Each line of ``HILUM_HOME/shadow/NAME-VERSION.jsonl`` is one image: the shadow's answer, and beside it what the active
models said. No patient is named there, only the UIDs.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.bundle import Bundle, BundleInvalid
from models.findings import ImageFindings
from models.inference import ImageIdentity, Models, assemble
from models.refusal import ImageRefused
from models.rendering import RenderedImage

log = logging.getLogger("hilum.shadow")

LARGEST_FILE = 16 * 2**20  # bytes, of about 5,000 images; then it is renamed, and the one renamed before it is gone
_MOST_WAITING = 8  # images of which the pixels are kept, about 30 MB each; the oldest is left out


@dataclass(frozen=True)
class Shadow:
    """One bundle, ready to run alone.

    Parameters
    ----------
    bundle
        As it was loaded.
    models
        The same, asked for every finding: what it would say is recorded also where the evidence does not carry it.
    """

    bundle: Bundle
    models: Models

    @classmethod
    def of(cls, bundle: Bundle, *, threads: int) -> Shadow:
        """Make a bundle ready.

        Raises
        ------
        BundleInvalid
            When it has no network: what it derives, it derives from what the active ones found.
        """
        if bundle.build is None:
            raise BundleInvalid(f"{bundle.identity.name} has no network that could run in shadow: activate it")
        asked = tuple(replace(finding, evaluated=True) for finding in bundle.contract.findings)
        curious = replace(bundle, contract=replace(bundle.contract, findings=asked))
        return cls(bundle, assemble([curious], threads=threads))

    def say(self, image: RenderedImage, findings: ImageFindings) -> dict[str, Any]:
        """What it says of an image of which the active models said `findings`, as JSON types."""
        identity, started = self.bundle.identity, time.monotonic()
        answer = self._answer(image, findings)
        return {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "study_instance_uid": findings.study_instance_uid,
            "sop_instance_uid": findings.sop_instance_uid,
            "weights_digest": identity.weights_digest,
            "config_digest": identity.config_digest,
            "seconds": round(time.monotonic() - started, 3),
            **answer,
            "active": {
                "models": {run.model.name: run.model.version for run in findings.runs},
                "findings": {f.key: {"state": f.state.value, "probability": f.probability} for f in findings.findings},
                "measurements": {m.key: m.value for m in findings.measurements},
            },
        }

    def _answer(self, image: RenderedImage, read: ImageFindings) -> dict[str, Any]:
        uids = (read.study_instance_uid, read.sop_class_uid, read.sop_instance_uid)
        nothing: dict[str, Any] = {"failure": None, "findings": {}, "measurements": {}}
        if self.models.gate is not None:
            looked = self.models.look(image, children=True)
            return {**nothing, "gate": None if looked is None else {"shows": looked.shows, "score": looked.score}}
        try:
            said = self.models.predict(image, ImageIdentity(*uids, read.view))
        except ImageRefused as refusal:
            return {**nothing, "failure": refusal.code.value}
        name = self.bundle.identity.name
        evaluated = {c.key: c.evaluated for c in self.bundle.contract.findings}
        return {
            "failure": next((run.failure for run in said.runs if run.model.name == name), None),
            "findings": {
                f.key: {"state": f.state.value, "probability": f.probability, "evaluated": evaluated[f.key]}
                for f in said.findings
                if f.model == name and f.key in evaluated
            },
            "measurements": {m.key: m.value for m in said.measurements},
        }


class Shadows:
    """Those that run beside the active models, and the images that wait for them.

    Parameters
    ----------
    folder
        Where what they say is recorded.
    """

    def __init__(self, shadows: Sequence[Shadow] = (), folder: Path = Path()) -> None:
        self._shadows, self._folder = tuple(shadows), folder
        self._waiting: deque[tuple[RenderedImage, ImageFindings]] = deque(maxlen=_MOST_WAITING)

    def remember(self, image: RenderedImage, findings: ImageFindings) -> None:
        """Have them run on this image when there is nothing else to do."""
        if self._shadows:
            self._waiting.append((image, findings))

    def work(self) -> bool:
        """Run them on one image; False when none waits."""
        if not self._waiting:
            return False
        image, findings = self._waiting.popleft()
        for shadow in self._shadows:
            identity = shadow.bundle.identity
            try:
                record(self._folder, identity.name, identity.version, shadow.say(image, findings))
            except Exception:  # whatever becomes of a shadow, nobody waits for it
                log.exception("a shadow failed", extra={"model": identity.name})
        return True


def record(folder: Path, name: str, version: str, said: dict[str, Any]) -> None:
    """Append a line to what a shadow said, also while other processes do so."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = records_of(folder, name, version)[-1]
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "ab") as lines:
        fcntl.flock(lines, fcntl.LOCK_EX)
        lines.write(json.dumps(said, separators=(",", ":")).encode() + b"\n")
        lines.flush()
        full = os.fstat(descriptor).st_size > LARGEST_FILE
        renamed = not file.exists() or file.stat().st_ino != os.fstat(descriptor).st_ino  # by another process
        if full and not renamed:
            file.replace(records_of(folder, name, version)[0])


def records_of(folder: Path, name: str, version: str) -> tuple[Path, Path]:
    """The files of what a shadow said: the older one, which may not be there, and that of now."""
    file = folder / f"{name}-{version}.jsonl"
    return file.with_name(f"{file.name}.1"), file

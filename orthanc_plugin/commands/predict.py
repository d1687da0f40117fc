"""``./hilum predict``: the active bundles on files, without any server; one answer for each file, whatever it holds."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from models.bundle import BundleInvalid
from models.findings import OF_ABSENCE, Caution, View
from models.findings_json import findings_json
from models.hanging import AS_STORED
from models.inference import ImageIdentity, Models
from models.names import within_sentence
from models.reading import Reading, read, read_intake
from models.refusal import Evidence, ImageRefused, Refusal
from models.rendering import render_picture
from models.selection import Selection
from orthanc_plugin.commands.node import NodeFailed
from orthanc_plugin.reading.active_models import load_active
from orthanc_plugin.reading.intake_process import IntakeProcess, policy_of
from orthanc_plugin.settings import Settings

_PICTURES = frozenset({".png", ".jpg", ".jpeg"})


@dataclass(frozen=True)
class FileReader:
    """What files are read with."""

    settings: Settings
    models: Models
    intake: IntakeProcess


def predict_files(settings: Settings, paths: Sequence[Path], *, as_json: bool, masks: Path | None) -> int:
    """Read each file and print its answer; the exit code is 1 when a path does not exist."""
    files = list(_files(paths))
    if masks is not None:
        masks.mkdir(parents=True, exist_ok=True)
    try:
        models = load_active(settings)
    except BundleInvalid as error:
        raise NodeFailed(str(error)) from error
    progress = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with IntakeProcess(settings.intake_seconds) as intake, progress:
        reader = FileReader(settings, models, intake)
        for file in progress.track(files, description="Reading"):
            answer = predict_file(file, reader, masks)
            print(json.dumps(answer) if as_json else _sentence(answer), flush=True)
    missing = [path for path in paths if not path.exists()]
    for path in missing:
        print(f"hilum: {path}: no such file or folder", file=sys.stderr)
    return 1 if missing else 0


def predict_file(file: Path, reader: FileReader, masks: Path | None) -> dict[str, Any]:
    """The answer for one DICOM, PNG or JPEG file as JSON types; masks are written on the way."""
    models = reader.models
    answer: dict[str, Any] = {
        "path": str(file),
        "status": "done",
        "reason": None,
        "models": models.versions,
        "precisions": models.precisions,
    }
    try:
        reading = _read(file, reader)
    except ImageRefused as refusal:
        evidence = [str(e) for e in refusal.evidence]
        return {
            **answer,
            "status": "not_processed",
            "reason": refusal.code.value,
            "message": str(refusal),
            "evidence": evidence,
        }
    findings = reading.findings
    found = findings_json(findings)
    if masks is not None:
        for segment in findings.segments:
            Image.fromarray(segment.mask.astype(np.uint8) * 255).save(masks / f"{file.stem}__{segment.key}.png")
    return {
        **answer,
        "rows": findings.rows,
        "columns": findings.columns,
        "view": found["view"],
        "priority": found["priority"],
        "priority_reason": found["priority_reason"],
        "findings": [{**f, "regions": len(f["regions"])} for f in found["findings"]],
        "regions": [region for f in found["findings"] for region in f["regions"]],
        "measurements": {m["key"]: m["value"] for m in found["measurements"]},
        "criteria": found["criteria"],
        "segments": found["segments"],
        "cautions": found["cautions"],
        "evidence": [str(e) for e in reading.evidence],
        "pixel_gate": None if reading.gate is None else {"shows": reading.gate.shows, "score": reading.gate.score},
        "failures": found["failures"],
    }


def _read(file: Path, reader: FileReader) -> Reading:
    policy = policy_of(reader.settings)
    if file.suffix.lower() in _PICTURES:
        # A picture has no header. Without a gate to look at it, whoever passes it vouches for a frontal radiograph.
        view = None if reader.models.gate else View.FRONTAL
        selection = Selection(
            view, AS_STORED, (Evidence("file", "a picture without a header"),), (Caution.AGE_UNKNOWN,)
        )
        return read(render_picture(file), selection, _picture_identity(file), reader.models, policy)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ImageRefused(Refusal.UNREADABLE_HEADER, f"the file cannot be read: {type(error).__name__}") from error
    taken = reader.intake.take_in(content, policy)
    return read_intake(taken, reader.models, policy)


def _picture_identity(file: Path) -> ImageIdentity:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return ImageIdentity("", "", f"sha256:{digest}", View.FRONTAL)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        elif path.exists():
            yield path


def _sentence(answer: dict[str, Any]) -> str:
    if answer["status"] != "done":
        return f"{answer['path']}: not processed ({answer['reason']}): {answer['message']}"
    present = [within_sentence(f["key"]) + ("" if f["probability"] is None else f" {100 * f['probability']:.0f} %")
               for f in answer["findings"] if f["state"] == "present" and f["key"] not in OF_ABSENCE]  # fmt: skip
    ratio = answer["measurements"].get("cardiothoracic_ratio")
    words = ", ".join(present) or "nothing found by the evaluated models"
    return f"{answer['path']}: {answer['priority']}: {words}" + (f"; CTR {ratio:.2f}" if ratio else "")

"""From imported weights to a bundle that the node can hold.

The rule: nothing is called evaluated that was not evaluated here. Each finding of such a bundle is reported as not
evaluated, by contract, until somebody measures it; in shadow its scores are recorded all the same.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.bundle import write_bundle
from training.card import RESEARCH_ONLY, metadata
from training.importers import chexnet, dino, torchxrayvision
from training.importers.imported import Imported, ImportedFinding
from training.importers.registry import entries
from training.importers.weights import WeightsRefused

IMPORTERS = {
    "torchxrayvision": torchxrayvision.import_weights,
    "chexnet": chexnet.import_weights,
    "dino": dino.import_weights,
}
_USE = "Research on radiographs of adults. Nothing that it says was evaluated here. Not a medical device."


def bundle_name(importer: str, variant: str) -> str:
    """What the bundle of published weights is called: ``torchxrayvision_densenet121_res224_all``."""
    plain = re.sub(r"[^a-z0-9]+", "_", variant.lower())
    return plain if plain.startswith(importer) else f"{importer}_{plain}"


def variants(importer: str) -> list[str]:
    """The weights that an importer knows."""
    return [entry.name for entry in entries().values() if entry.importer == importer]


def import_bundle(importer: str, variant: str, file: Path, folder: Path, version: str) -> Imported:
    """Write published weights as a bundle, in the precision in which they were published.

    Parameters
    ----------
    file
        The weights, as their authors publish them.
    folder
        Of the bundle; made if it is not there.

    Raises
    ------
    WeightsRefused
        When the file is not that of the variant.
    """
    if importer not in IMPORTERS:
        raise WeightsRefused(f"there is no importer {importer!r}; there are {', '.join(IMPORTERS)}")
    imported = IMPORTERS[importer](file, variant)
    described = {**_described(imported, version), "hilum": _contract(imported)}
    write_bundle(folder, imported.network, {"network_def": imported.network_def}, described, half=False)
    (folder / "docs" / "README.md").write_text(_card(imported, f"{folder.name} {version}"), "utf-8")
    return imported


def _contract(imported: Imported) -> dict[str, Any]:
    return {
        "interpreter": "scores",
        "input_size": imported.preprocessing.size,
        "preprocessing": asdict(imported.preprocessing),
        "findings": {finding.key: _finding(finding) for finding in imported.findings},
        "provenance": asdict(imported.provenance),
    }


def _finding(finding: ImportedFinding) -> dict[str, Any]:
    point = 0.5 if finding.operating_point is None else finding.operating_point
    return {
        "output": finding.output, "evaluated": False, "slope": 1.0, "intercept": 0.0, "threshold_absent": point,
        "threshold_present": point, "localises": False,
    }  # fmt: skip


def _described(imported: Imported, version: str) -> dict[str, Any]:
    seen, provenance = imported.preprocessing, imported.provenance
    outputs = {str(finding.output): finding.key for finding in imported.findings}
    described = metadata(f"published weights: {provenance.name}", _USE, channels=seen.channels, size=seen.size,
                         outputs=outputs)  # fmt: skip
    picture = described["network_data_format"]["inputs"]["image"]
    mean, deviation = seen.mean[0], seen.deviation[0]
    picture["value_range"] = [round((edge - mean) / deviation, 6) for edge in (0.0, 1.0)]
    picture["channel_def"] = {str(channel): "gray, dense structures bright" for channel in range(seen.channels)}
    return {
        **described,
        "version": version,
        "changelog": {version: f"imported from {provenance.file}"},
        "authors": provenance.paper,
        "copyright": provenance.licence,
        "data_source": provenance.url,
    }


def _card(imported: Imported, title: str) -> str:
    provenance = imported.provenance
    findings = ", ".join(f.key for f in imported.findings) or "none: a trunk, from which findings can be learnt"
    known = "as it is known" if provenance.verified else "recorded here for the first time: its authors publish none"
    return "\n".join(
        [
            f"# {title}", "", f"**{RESEARCH_ONLY}**", "",
            f"Published weights, imported as they are: {provenance.paper}.", "",
            "**Not evaluated here.** None of its findings was measured on radiographs by us, so that each is "
            "reported as not evaluated. `./hilum models activate NAME VERSION --shadow` records what it would say.", "",
            "## What it was trained to tell", "", findings, "",
            "## What it sees", "",
            "What its authors showed it, step by step (`models/preprocessing.py`):", "",
            "```json", json.dumps(asdict(imported.preprocessing)), "```", "",
            "## Thresholds", "",
            "Those of its authors where they publish them, else one half. They are not calibrated.", "",
            "## Where it comes from", "",
            f"- file: {provenance.file}, from {provenance.url}",
            f"- SHA-256: {provenance.sha256} ({known})",
            f"- licence: {provenance.licence}", "",
        ]
    )  # fmt: skip

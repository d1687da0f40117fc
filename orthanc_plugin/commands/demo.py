"""``./hilum demo``: what the node does, shown with radiographs made in code and, where there are any, real ones."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.uid import JPEG2000Lossless
from rich.console import Console
from rich.table import Table

from models.findings import OF_ABSENCE
from models.phantom import Pathology, chest
from orthanc_plugin.commands import modality, node
from orthanc_plugin.commands.modality import Exposure
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.settings import REPOSITORY, Settings

_WAIT_SECONDS = 120.0
_STEP_SECONDS = 0.05
_ENDED = ("done", "not_processed", "quarantined")


@dataclass(frozen=True)
class DemoStudy:
    """A study to send: a title for people and its instances."""

    title: str
    instances: tuple[Dataset, ...]

    @property
    def study_instance_uid(self) -> str:
        """Of all its instances."""
        return str(self.instances[0].StudyInstanceUID)


def run_demo(settings: Settings, console: Console, *, limit: int) -> int:
    """Send, wait and tell; exit code 0 when every study has its result or its reason."""
    if node.status(settings).state != "ready":
        raise node.NodeFailed("the node is not ready: start it with ./hilum up --detach")
    stamp = f"{time.time_ns()}"
    with console.status("Making radiographs ..."):
        studies = [*phantom_studies(stamp), *real_studies(stamp, limit)]
    for study in studies:
        with console.status(f"Sending: {study.title}"):
            outcomes = list(
                modality.send(
                    study.instances, "127.0.0.1", settings.dicom_port, settings.ae_title, modality.caller_of(settings)
                )
            )
            if failed := [outcome.error for outcome in outcomes if not outcome.accepted]:
                raise node.NodeFailed(f"{study.title}: {failed[0]}")
            # one after the other, as a modality would: so that the time shown is that of a lone study
            row, moments = _wait(settings, study.study_instance_uid)
        _show(console, study, row, {what: at - outcomes[-1].answered_at for what, at in moments.items()}, settings)
    console.print(f"\nWorklist: {settings.http_url}/hilum/   Research software, not a medical device.", soft_wrap=True)
    return 0


def phantom_studies(stamp: str) -> Iterator[DemoStudy]:
    """Radiographs computed from geometry; `stamp` makes their UIDs."""

    def exposure(number: int, **how: Any) -> Exposure:
        return Exposure(
            seed=f"{stamp}/{number}",
            study=how.pop("study", f"{stamp}/{number}"),
            patient_name=f"Hilum^Phantom {number:02d}",
            patient_id=f"PHANTOM-{number:02d}",
            **how,
        )

    yield DemoStudy("Normal, PA", (modality.radiograph(chest(1).pixels, exposure(1)),))
    collapsed = chest(2, pathologies=[Pathology("pneumothorax", right=True, size=0.9)])
    yield DemoStudy(
        "Pneumothorax on the right, PA, 16 bits", (modality.radiograph(collapsed.pixels, exposure(2, bits_stored=16)),)
    )
    opacity = chest(3, pathologies=[Pathology("lung_opacity", right=False, size=0.8, height=0.75)])
    compressed = modality.radiograph(opacity.pixels, exposure(3, modality="CR", monochrome1=True))
    yield DemoStudy(
        "Opacity on the left, CR, MONOCHROME1, JPEG 2000", (modality.encode_as(compressed, JPEG2000Lossless),)
    )
    wide = chest(4, heart=1.45, pathologies=[Pathology("effusion", right=True, size=0.6)])
    yield DemoStudy("Large heart, effusion, AP", (modality.radiograph(wide.pixels, exposure(4, view="AP")),))
    both = tuple(
        modality.radiograph(chest(seed).pixels, exposure(seed, study=f"{stamp}/5", modality="CR")) for seed in (5, 6)
    )
    for ds in both:
        ds.PatientName, ds.PatientID = "Hilum^Phantom 05", "PHANTOM-05"
    yield DemoStudy("Two frontals in a study", both)
    yield DemoStudy("Lateral (to be refused)", (modality.radiograph(chest(7).pixels, exposure(7, view="LL")),))


def real_studies(stamp: str, limit: int) -> Iterator[DemoStudy]:
    """Pictures of ``HILUM_SAMPLES`` or ``../shared/data`` as a modality would send them; none where there are none."""
    here = REPOSITORY.parent / "shared" / "data" / "nih_chestxray14" / "images"
    folder = Path(os.environ.get("HILUM_SAMPLES") or here)
    found = folder.glob("*") if folder.is_dir() else ()
    pictures = sorted(p for p in found if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    for number, path in enumerate(pictures[:: max(1, len(pictures) // max(1, limit))][:limit]):
        yield DemoStudy(f"Real radiograph {number + 1}", (real_radiograph(path, f"{stamp}/real/{number}", number),))


def real_radiograph(path: Path, seed: str, variant: int) -> Dataset:
    """A picture as CR or DX, MONOCHROME1 or 2, 12 or 16 bits, uncompressed or JPEG 2000, as `variant` says."""
    pixels = np.asarray(Image.open(path).convert("L"))
    ds = modality.radiograph(
        pixels,
        Exposure(
            modality="CR" if variant % 2 else "DX",
            monochrome1=variant % 4 >= 2,
            bits_stored=16 if variant % 3 == 2 else 12,
            seed=seed,
            patient_name=f"Hilum^Real {variant + 1:02d}",
            patient_id=f"REAL-{variant + 1:02d}",
        ),
    )
    return modality.encode_as(ds, JPEG2000Lossless) if variant % 3 == 1 else ds


def _wait(settings: Settings, study_instance_uid: str) -> tuple[dict[str, Any], dict[str, float]]:
    """The ended row, and when what of it was there, in seconds since 1970, seen every `_STEP_SECONDS`."""
    deadline, moments = time.monotonic() + _WAIT_SECONDS, dict[str, float]()
    with node.http(settings, load_credentials(settings.credentials)) as client:
        while time.monotonic() < deadline:
            rows = client.get("/hilum/api/worklist").raise_for_status().json()["rows"]
            row = next((r for r in rows if r["study_instance_uid"] == study_instance_uid), None)
            if row is not None and row["priority"] != "none":
                moments.setdefault("flagged after", time.time())
            if row is not None and row["status"] == "answered":
                moments.setdefault("SR and SEG", time.time())
            if row is not None and row["status"] in _ENDED:
                moments["the study's report" if row["status"] == "done" else "known"] = row["completed_at"]
                return dict(row), moments
            time.sleep(_STEP_SECONDS)
    raise node.NodeFailed(f"study {study_instance_uid} has no answer after {_WAIT_SECONDS:.0f} s: see ./hilum status")


def _show(
    console: Console, study: DemoStudy, row: dict[str, Any], seconds: dict[str, float], settings: Settings
) -> None:
    course = ", ".join(f"{what} {max(0.0, after):.2f} s" for what, after in seconds.items())
    console.print(
        f"\n[bold]{study.title}[/bold]: {row['status'].replace('_', ' ')}, priority {row['priority']}"
        f"\n  {course} after the last C-STORE response",
        soft_wrap=True,
    )
    if row["status"] != "done":
        console.print(f"  {row['reason']}: {row['message']}")
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in row["findings"]:
        if finding["state"] in ("present", "undetermined") and finding["key"] not in OF_ABSENCE:
            side = finding["laterality"] or ""
            share = "" if finding["probability"] is None else f"{100 * finding['probability']:.0f} %"
            table.add_row("  " + finding["key"], finding["state"], share, side)
    console.print(table if table.row_count else "  nothing found by the evaluated models")
    unseen = [f["key"] for f in row["findings"] if f["state"] == "not_evaluated"]
    console.print(f"  not evaluated: {', '.join(unseen) or 'none'}", style="dim", soft_wrap=True)
    console.print(f"  {settings.http_url}{row['ohif_url']}", soft_wrap=True)

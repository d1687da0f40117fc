"""How long the results of one large radiograph take to encode, part by part, against highdicom as it is.

The rule: all parts are timed on the same findings, in turns, in one run and on one core; the baseline holds the same
findings, boxes and masks, made with highdicom's own constructors and templates.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from rich.console import Console
from rich.progress import track

from dicom_sr.evidence import evidence
from dicom_sr.file_format import file_of
from dicom_sr.measurement_report import encode_measurement_report
from dicom_sr.report.wording import Wording, load_wording
from dicom_sr.segmentation import encode_segmentation
from dicom_sr.text_report import encode_text_report
from models.findings import (
    BoolMask,
    Caution,
    Finding,
    FindingState,
    ImageFindings,
    Laterality,
    Line,
    Measurement,
    ModelIdentity,
    ModelRun,
    Priority,
    Region,
    SegmentMask,
    View,
)
from models.study import StudyFindings
from orthanc_plugin.commands.modality import Exposure, radiograph
from orthanc_plugin.settings import REPOSITORY
from tests.bench.machine import describe
from tests.bench.plain_results import encode_with_highdicom
from tests.bench.sheets import SPREAD, Sheet, Spread, keep, tell

ROWS, COLUMNS = 3000, 2500
BASELINE = "highdicom as it is: SEG and SR to bytes, no text"
WHOLE = "one study: all of these"
FIRST = "the same, first in a fresh process"
CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LUNGS = ModelIdentity("lung_fields", "0.1.0", "a" * 64, "b" * 64)
SCORES = ModelIdentity("chest_findings", "0.1.0", "c" * 64, "d" * 64)
# What chest_findings answers, with a state for each.
_STATES = {
    "lung_opacity": FindingState.PRESENT, "pneumothorax": FindingState.PRESENT, "effusion": FindingState.UNDETERMINED,
    "consolidation": FindingState.UNDETERMINED, "edema": FindingState.ABSENT, "emphysema": FindingState.ABSENT,
    "fibrosis": FindingState.ABSENT, "pleural_thickening": FindingState.ABSENT, "hernia": FindingState.ABSENT,
    "atelectasis": FindingState.NOT_EVALUATED, "cardiomegaly": FindingState.NOT_EVALUATED,
    "infiltration": FindingState.NOT_EVALUATED, "mass": FindingState.NOT_EVALUATED,
    "nodule": FindingState.NOT_EVALUATED, "pneumonia": FindingState.NOT_EVALUATED,
}  # fmt: skip
# Centre (row, column) and half axes of each segment, as shares of the image.
_ELLIPSES = {
    "lung_right": (0.50, 0.28, 0.33, 0.17), "lung_left": (0.50, 0.72, 0.33, 0.17), "heart": (0.62, 0.56, 0.16, 0.20),
    "pneumothorax": (0.25, 0.25, 0.08, 0.10),
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One part with its times, in seconds; `ratio` is its median over the baseline's."""

    name: str
    seconds: Spread
    ratio: float


def compare(rounds: int = 5, *, json_file: Path | None = None, write: bool = False) -> list[Step]:
    """Time the encoding of one study of one image of 2500 x 3000 pixels; prints a table."""
    machine = describe()
    source, findings = example()
    gc.collect()
    gc.freeze()  # as the worker does when it has started
    with _one_core():
        steps = _time(source, findings, load_wording("en"), 4 * rounds)
        importing, encoding = _first()
    base = next(step.seconds.p50 for step in steps if step.name == BASELINE)
    steps.append(Step(FIRST, Spread.of([encoding]), encoding / base))
    tell("encode", [sheet(steps, len(findings.segments), importing)], machine, write=write)
    keep({"machine": machine, "steps": steps, "importing": importing}, json_file)
    return steps


def example() -> tuple[Dataset, ImageFindings]:
    """A radiograph and what the models may say about it: every finding they know, boxes, four segments, the ratio."""
    source = radiograph(np.zeros((ROWS, COLUMNS), np.uint8), Exposure(bits_stored=16, seed="encoding benchmark"))
    boxes = (
        Region(1600.0, 1500.0, 500.0, 700.0, 0.87, Laterality.LEFT),
        Region(400.0, 1800.0, 300.0, 250.0, 0.61, Laterality.RIGHT),
    )
    findings = ImageFindings(
        study_instance_uid=str(source.StudyInstanceUID),
        sop_class_uid=str(source.SOPClassUID),
        sop_instance_uid=str(source.SOPInstanceUID),
        rows=ROWS,
        columns=COLUMNS,
        view=View.PA,
        runs=(ModelRun(LUNGS), ModelRun(SCORES)),
        findings=tuple(_finding(key, state, boxes) for key, state in _STATES.items()),
        segments=tuple(SegmentMask(key, _ellipse(*shape), "lung_fields") for key, shape in _ELLIPSES.items()),
        measurements=(
            Measurement(
                "cardiothoracic_ratio",
                0.53,
                "1",
                "lung_fields",
                (Line(900.0, 1900.0, 1900.0, 1900.0), Line(300.0, 2000.0, 2200.0, 2000.0)),
            ),
        ),
        priority=Priority.CRITICAL,
        priority_reason="Pneumothorax 91 %, right",
        cautions=(Caution.AGE_UNKNOWN,),
    )
    return source, findings


def _finding(key: str, state: FindingState, boxes: tuple[Region, ...]) -> Finding:
    if state is FindingState.NOT_EVALUATED:
        return Finding(key, state, reason="evidence", model=SCORES.name)
    probability = {FindingState.PRESENT: 0.91, FindingState.UNDETERMINED: 0.31}.get(state, 0.04)
    side = Laterality.RIGHT if state is FindingState.PRESENT else None
    return Finding(key, state, probability, 0.5, side, boxes if key == "lung_opacity" else (), model=SCORES.name)


def _ellipse(row: float, column: float, height: float, width: float) -> BoolMask:
    y, x = np.ogrid[0 : 1 : ROWS * 1j, 0 : 1 : COLUMNS * 1j]
    inside: BoolMask = ((y - row) / height) ** 2 + ((x - column) / width) ** 2 <= 1
    return inside


def _time(source: Dataset, findings: ImageFindings, wording: Wording, rounds: int) -> list[Step]:
    header = evidence(source, findings)
    segmentation = encode_segmentation(header, findings, CREATED)
    report = encode_measurement_report(header, findings, segmentation, CREATED)
    study = StudyFindings(findings.study_instance_uid, (findings,))
    text = encode_text_report([header], study, [report], CREATED, wording=wording)
    todo: dict[str, Callable[[], Any]] = {
        "header of patient, study and image": lambda: evidence(source, findings),
        "Segmentation": lambda: encode_segmentation(header, findings, CREATED),
        "Segmentation, to bytes": lambda: file_of(segmentation),
        "measurement report": lambda: encode_measurement_report(header, findings, segmentation, CREATED),
        "measurement report, to bytes": lambda: file_of(report),
        "preliminary report": lambda: encode_text_report([header], study, [report], CREATED, wording=wording),
        "preliminary report, to bytes": lambda: file_of(text),
        WHOLE: lambda: encode_study(source, findings, wording),
        BASELINE: lambda: encode_with_highdicom(header, findings),
    }
    seconds: dict[str, list[float]] = {name: [] for name in todo}
    for turn in track(range(rounds + 1), description="encoding", console=Console(stderr=True), transient=True):
        for name, work in todo.items():
            started = time.perf_counter()
            work()
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - started)
    base = statistics.median(seconds[BASELINE])
    return [Step(name, Spread.of(taken), statistics.median(taken) / base) for name, taken in seconds.items()]


def encode_study(source: Dataset, findings: ImageFindings, wording: Wording) -> list[bytes]:
    """What the worker encodes of a study of one image."""
    header = evidence(source, findings)
    segmentation = encode_segmentation(header, findings, CREATED)
    report = encode_measurement_report(header, findings, segmentation, CREATED)
    study = StudyFindings(findings.study_instance_uid, (findings,))
    text = encode_text_report([header], study, [report], CREATED, wording=wording)
    return [file_of(ds) for ds in (segmentation, report, text)]


@contextmanager
def _one_core() -> Iterator[None]:
    """Keep this process and its children on one core, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


_ALONE = """
import json, time
started = time.perf_counter()
from tests.bench import encode
source, findings = encode.example()
wording = encode.load_wording("en")
imported = time.perf_counter()
encode.encode_study(source, findings, wording)
print(json.dumps([imported - started, time.perf_counter() - imported]))
"""


def _first() -> tuple[float, float]:
    """Seconds of importing (with the making of the example) and of the first encoding, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, "-c", _ALONE], capture_output=True, text=True, check=True, cwd=REPOSITORY, env=environment
    )
    importing, encoding = json.loads(told.stdout)
    return importing, encoding


def sheet(steps: list[Step], segments: int, importing: float) -> Sheet:
    """The steps as a table, in milliseconds."""
    rows = tuple((step.name, *step.seconds.times(1000.0).cells(1), f"{step.ratio:.2f}") for step in steps)
    note = f"Milliseconds. Importing the encoders took {importing:.2f} s before the first one of a fresh process."
    title = f"Encoding of {COLUMNS} x {ROWS} pixels, {segments} segments, one core"
    return Sheet(title, ("part", *SPREAD, "ratio"), rows, note)

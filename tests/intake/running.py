"""Runs a case through the node's own flow: ``orthanc_plugin.reading.study.process_study`` with the active bundles.

The rule: only the archive is replaced, by one in memory; selection, the isolated intake process, the pixel gate, the
models, the study logic and the encoding of results are the node's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from dicom_sr.report.wording import load_wording
from models.bundle import load_bundle
from models.inference import assemble
from models.refusal import Refusal
from orthanc_plugin.archive.client import OrthancClient, Series, StoredInstance
from orthanc_plugin.ledger.tasks import InferenceTask, Outcome, TaskStatus, Urgency
from orthanc_plugin.reading.intake_process import IntakeProcess
from orthanc_plugin.reading.study import Reader, process_study
from orthanc_plugin.settings import REPOSITORY, Settings

from .case import PASSED_OVER, READ, Case

# Evidence that every radiograph carries: it is told only where it decided.
_USUAL = ("SOPClassUID", "Modality")


@dataclass(frozen=True)
class Fate:
    """What became of one file.

    Parameters
    ----------
    outcome
        `READ`, `PASSED_OVER`, or the code of a refusal.
    decided
        The evidence, or the words of the refusal; without scores, which differ in the last digit between machines.
    """

    outcome: str
    decided: str
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What became of a case: one fate for each file, and the version of the study's answer."""

    fates: tuple[Fate, ...]
    version: int


class Archive:
    """What `process_study` asks of Orthanc, for one study in memory."""

    def __init__(self, files: list[bytes]) -> None:
        self.files = files
        self.results: list[Dataset] = []
        self.headers = [_header(content) for content in files]

    def series_of_study(self, _study_instance_uid: str) -> list[Series]:
        series: dict[str, Series] = {}
        for number, header in enumerate(self.headers):
            uid = str(header.get("SeriesInstanceUID", f"unknown-{number}"))
            modality = str(header.get("Modality") or "").strip().upper()
            manufacturer = str(header.get("Manufacturer") or "").strip()
            before = series.get(uid, Series(uid, "study", uid, modality, manufacturer, ()))
            series[uid] = Series(
                uid, "study", uid, before.modality, before.manufacturer, (*before.instances, str(number))
            )
        return list(series.values())

    def model_name(self, orthanc_id: str) -> str:
        return str(self.headers[int(orthanc_id)].get("ManufacturerModelName") or "").strip()

    def file_size(self, orthanc_id: str) -> int:
        return len(self.files[int(orthanc_id)])

    def fetch(self, orthanc_id: str) -> StoredInstance:
        return StoredInstance(self.file(orthanc_id), "20260102T030405")

    def file(self, orthanc_id: str) -> bytes:
        return self.files[int(orthanc_id)]

    def has_instances(self, sop_instance_uids: Iterable[str]) -> bool:
        return set(sop_instance_uids) <= {str(ds.SOPInstanceUID) for ds in self.results}

    def beside(self, work: Callable[[], str]) -> Callable[[], str]:
        name = work()
        return lambda: name

    def store(self, file: bytes) -> str:
        self.results.append(dcmread(BytesIO(file)))
        return str(len(self.results))

    def keep_with_studies(self, _studies: Iterable[str], _number: int, _content: bytes) -> None:
        """Nothing is asked for it."""

    def attach(self, _instances: Sequence[str], _number: int, _content: bytes) -> None:
        """Nor for pictures."""


@dataclass(frozen=True)
class Runner:
    """What cases are run with; use `runner`."""

    settings: Settings
    reader: Reader

    def run(self, case: Case) -> Answer:
        """Run one case as the node would, twice where files come late."""
        files = case.files()
        before: dict[str, Any] = {}
        if case.late:
            before = self._process(Archive(files[: -case.late]), {}).result
        archive = Archive(files)
        outcome = self._process(archive, before)
        return Answer(_fates(outcome, archive), int(outcome.result["version"]))

    def _process(self, archive: Archive, before: dict[str, Any]) -> Outcome:
        reader = replace(self.reader, orthanc=cast("OrthancClient", archive))
        task = InferenceTask(
            "the case's study", fence=1, generation=1, attempts=0, failures=0, first_failed_at=None, result=before,
            conclude=False, received_at=1.0, last_instance_at=1.0, urgency=Urgency.ROUTINE,
        )  # fmt: skip
        return process_study(task, reader)


@contextmanager
def runner() -> Iterator[Runner]:
    """The active bundles and an intake process."""
    settings = Settings(home=Path("unused"), outputs=())
    wording = load_wording(settings.report_language, None)
    models = assemble([load_bundle(REPOSITORY / "models" / name) for name in settings.bundles], threads=1)
    with IntakeProcess(settings.intake_seconds) as intake:
        yield Runner(settings, Reader(settings, cast("OrthancClient", None), models, intake, wording))


def _header(content: bytes) -> Dataset:
    """What Orthanc indexes of a file; empty where it is no DICOM file."""
    try:
        return dcmread(BytesIO(content), stop_before_pixels=True)
    except (InvalidDicomError, EOFError, ValueError):
        return Dataset()


def _fates(outcome: Outcome, archive: Archive) -> tuple[Fate, ...]:
    entries = list(outcome.result["images"])
    if not entries:
        return (Fate(str(outcome.reason), str(outcome.message)),) * len(archive.files)
    by_uid = {e["sop_instance_uid"]: e for e in entries if e["sop_instance_uid"]}
    unnamed = iter([e for e in entries if not e["sop_instance_uid"]])
    fates = []
    for header in archive.headers:
        entry = by_uid.get(str(header.get("SOPInstanceUID", ""))) or next(unnamed, None)
        fates.append(_fate(entry) if entry is not None else Fate(PASSED_OVER, "an object that accompanies images"))
    return tuple(fates)


def _fate(entry: dict[str, Any]) -> Fate:
    evidence = [f"{e['source']} {_without_score(e['says'])}" for e in entry["evidence"]]
    if entry["status"] == TaskStatus.DONE.value:
        told = [e for e in evidence if not e.startswith(_USUAL)]
        return Fate(READ, "; ".join(told), tuple(entry["cautions"]))
    last = f" [{evidence[-1]}]" if evidence else ""
    return Fate(Refusal(entry["reason"]).value, _without_score(entry["message"]) + last)


def _without_score(text: str) -> str:
    without = re.sub(r"(, score [\d.]+| \(score [\d.]+\))", "", text)
    return re.sub(r"2\.25\.\d+", "the other image", without)

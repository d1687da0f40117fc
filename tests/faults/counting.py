"""Looks into Orthanc and says what became of each study that was sent; the ledger is asked only for coded reasons.

The rule: a study is well when every readable image has exactly one current measurement report with its Segmentation,
the study exactly one current preliminary report, and every other image a coded reason that the worklist shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import SegmentationStorage

from dicom_sr.predecessor import current
from dicom_sr.reader import NotOurResult, is_measurement_report, is_ours, is_preliminary_report, read_study
from dicom_sr.references import evidence_of
from orthanc_plugin.archive.client import OrthancClient
from orthanc_plugin.ledger.database import Ledger
from orthanc_plugin.ledger.task_states import TaskStatus
from orthanc_plugin.ledger.views import of_study
from tests.faults.studies import Study

_UNDER_WAY = {TaskStatus.QUEUED, TaskStatus.RUNNING, TaskStatus.ANSWERED}


class Fate(StrEnum):
    """What became of a study."""

    ANSWERED = "answered"  # one current result for each readable image, one current report
    REFUSED = "not processed, with a code"  # as it must be: none of its images is readable
    QUARANTINED = "quarantined"  # visible, with a code
    DUPLICATE = "duplicate"  # two current results for one image, or two current reports
    LOST = "lost"  # an acknowledged image, a result or a reason is missing, and nothing is under way
    STUCK = "stuck"  # still queued, running or answered


@dataclass(frozen=True)
class Found:
    """One study at the end.

    Parameters
    ----------
    why
        What is wrong; empty when all is well.
    superseded
        Documents that another replaced.
    """

    study_instance_uid: str
    fate: Fate
    why: str = ""
    superseded: int = 0


def look_at(study: Study, orthanc: OrthancClient, ledger: Ledger) -> Found:
    """What became of a study of which every image was acknowledged."""
    uid = study.study_instance_uid
    with ledger.read() as db:
        row = next(iter(of_study(db, uid)), None)
    documents = _documents(uid, orthanc)
    reports = current(filter(is_measurement_report, documents))
    texts = current(filter(is_preliminary_report, documents))
    doubled = _doubled(study, reports, texts)
    missing = doubled or next(_missing(study, row, reports, texts, orthanc), "")
    fate = Fate.ANSWERED if study.readable else Fate.REFUSED
    if doubled:
        fate = Fate.DUPLICATE
    elif row is not None and row["status"] == TaskStatus.QUARANTINED and row["reason"]:
        fate, missing = Fate.QUARANTINED, row["reason"]
    elif row is not None and row["status"] in _UNDER_WAY:
        fate, missing = Fate.STUCK, f"{row['status']}, {row['reason'] or 'no reason'}; {missing}"
    elif missing:
        fate = Fate.LOST
    return Found(uid, fate, missing, len(documents) - len(reports) - len(texts))


def _doubled(study: Study, reports: Sequence[Dataset], texts: Sequence[Dataset]) -> str:
    """What speaks twice; empty when nothing does."""
    results = Counter(_image_of(report, study) for report in reports)
    for image, times in results.items():
        if times > 1:
            return f"{times} current results for image {image}"
    return f"{len(texts)} current preliminary reports" if len(texts) > 1 else ""


def _missing(
    study: Study,
    row: dict[str, Any] | None,
    reports: Sequence[Dataset],
    texts: Sequence[Dataset],
    orthanc: OrthancClient,
) -> Iterator[str]:
    """What is not as it must be, the worst first."""
    for ds in study.images:
        if not orthanc.has_instances([str(ds.SOPInstanceUID)]):
            yield f"image {ds.SOPInstanceUID} was acknowledged and is not in Orthanc"
    read = {_image_of(report, study) for report in reports}
    if read != set(study.readable):
        yield f"results for {len(read)} of {len(study.readable)} readable images"
    masks = [r.sop_instance_uid for ds in reports for r in evidence_of(ds) if r.sop_class_uid == SegmentationStorage]
    if len(masks) != len(reports) or not orthanc.has_instances(masks):
        yield "a Segmentation is missing"
    if len(texts) != bool(study.readable):
        yield f"{len(texts)} preliminary reports"
    try:
        if reports and {image.sop_instance_uid for image in read_study([*reports, *texts]).images} != study.readable:
            yield "its results do not say which images were read"
    except NotOurResult as error:
        yield str(error)
    if row is None:
        yield "the worklist does not show it"
        return
    codes = tuple(sorted(entry["reason"] for entry in row["result"].get("images", []) if entry["reason"]))
    if codes != study.refused:
        yield f"reasons {codes}, expected {study.refused}"
    expected = TaskStatus.DONE if study.readable else TaskStatus.NOT_PROCESSED
    if row["status"] != expected:
        yield f"the worklist shows it as {row['status']}"


def _image_of(report: Dataset, study: Study) -> str:
    """The image that a report speaks for."""
    images = {str(ds.SOPInstanceUID) for ds in study.images}
    named = [one.sop_instance_uid for one in evidence_of(report) if one.sop_instance_uid in images]
    return named[0] if named else ""


def _documents(study_instance_uid: str, orthanc: OrthancClient) -> list[Dataset]:
    """Our Structured Reports in a study."""
    instances: Iterable[str] = (
        instance
        for series in orthanc.series_of_study(study_instance_uid)
        if series.modality == "SR"
        for instance in series.instances
    )
    return [ds for i in instances if is_ours(ds := dcmread(BytesIO(orthanc.fetch(i).content)))]

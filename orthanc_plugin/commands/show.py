"""``./hilum show``: what our results say, as a person reads them; from files, or of a study that the node holds.

The rule: it reads the objects themselves (``dicom_sr.reader``), never the ledger, and names no patient.
"""

from __future__ import annotations

import struct
import sys
import warnings
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import httpx
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicom_sr.conformance.general import check_uid
from dicom_sr.conformance.tree import cut_off
from dicom_sr.ownership import is_own_result
from dicom_sr.predecessor import current
from dicom_sr.reader import NotOurResult, is_measurement_report, is_ours, is_preliminary_report, read_study
from dicom_sr.references import predecessors_of
from dicom_sr.text_report import FINDINGS, IMPRESSIONS, PROCEDURE
from models.findings import PROBABILITY, Criterion, Finding, FindingState, ImageFindings
from models.names import how_precisely, in_short, in_words
from orthanc_plugin.archive.client import OrthancClient, OrthancUnavailable
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.settings import Settings

# What pydicom raises for an attribute that somebody removed or replaced.
_DAMAGED = (AttributeError, LookupError, TypeError, ValueError, NotImplementedError, ArithmeticError, RecursionError)
DISCLAIMER = "AI result, not verified. Research software, not a medical device."
_STYLES = {
    FindingState.PRESENT: "bold red",
    FindingState.UNDETERMINED: "yellow",
    FindingState.ABSENT: "",
    FindingState.NOT_EVALUATED: "dim",
}


def show(settings: Settings, names: Sequence[str], console: Console) -> int:
    """Print each result named: a file, a folder, or a Study Instance UID; 1 when one holds no result of ours."""
    failed = 0
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # `./hilum verify` tells what is wrong with a value
                show_objects(list(_objects(settings, name)), console)
        except (NotOurResult, OrthancUnavailable, httpx.HTTPStatusError, OSError) as error:
            print(f"hilum: {name}: {error}", file=sys.stderr)
            failed = 1
    return failed


def show_objects(objects: Sequence[Dataset], console: Console) -> None:
    """Print what these objects say; of several studies one after the other.

    Raises
    ------
    NotOurResult
    """
    try:
        short = [cut_off(ds) for ds in objects]  # before anything in them is decoded
        ours = [ds for ds in objects if is_ours(ds)]
        for ds, keyword in zip(objects, short, strict=True):
            if keyword and is_ours(ds):
                raise NotOurResult(f"a result is damaged: its file was cut off within {keyword}")
        if not any(is_measurement_report(ds) or is_preliminary_report(ds) for ds in ours):
            raise NotOurResult("holds no report of Hilum; for objects of others use dsrdump")
        for study in dict.fromkeys(str(ds.StudyInstanceUID) for ds in ours):
            _show_study([ds for ds in ours if ds.StudyInstanceUID == study], console)
    except NotOurResult:
        raise
    except _DAMAGED as error:
        lacks = f" (no {error.name})" if isinstance(error, AttributeError) and error.name else ""
        raise NotOurResult(f"a result was changed or damaged{lacks}; ./hilum verify tells how") from error


def _show_study(objects: Sequence[Dataset], console: Console) -> None:
    console.rule(f"Study {objects[0].StudyInstanceUID}")
    reports = [ds for ds in objects if is_measurement_report(ds)]
    documents = [ds for ds in objects if is_preliminary_report(ds)]
    if reports:
        for image in read_study(objects).images:
            _show_image(image, console)
    for document in current(documents):
        _check_complete(document)
        console.print(Text("Preliminary report", style="bold"))
        for line in _lines(document):
            console.print(Text(line))
    replaced = {one.sop_instance_uid for ds in (*reports, *documents) for one in predecessors_of(ds)}
    if superseded := [ds for ds in (*reports, *documents) if ds.SOPInstanceUID in replaced]:
        console.print(f"{len(superseded)} earlier report{'s' * (len(superseded) > 1)}, superseded", style="dim")
    console.print(DISCLAIMER, style="dim")


def _show_image(image: ImageFindings, console: Console) -> None:
    console.print(Text(f"Image {image.sop_instance_uid}", style="bold"))
    console.print(f"  {image.view.value} view, {image.columns} x {image.rows} pixels")
    for run in image.runs:
        outcome = f"{'failed' if run.failure else 'answered'} {how_precisely(run.precision)}".rstrip()
        why = f": {run.failure}" if run.failure else ""
        digest = run.model.weights_digest[:12]
        console.print(f"  {run.model.name} {run.model.version} {outcome}{why} (weights {digest})")
    console.print(Text(f"  Priority {image.priority.value}: {image.priority_reason}"))
    headings = ("Finding", "State", "Score", "From", "Side", "Boxes", "Why not")
    table = Table(*headings, box=None, padding=(0, 1))
    for finding in sorted(image.findings, key=lambda f: list(FindingState).index(f.state)):
        table.add_row(*_cells(finding), style=_STYLES[finding.state])
    if image.findings:
        console.print(table)
    if image.criteria:
        console.print(_criteria(image.criteria))
    for m in image.measurements:
        caution = f" ({m.caution.replace('_', ' ')})" if m.caution else ""
        console.print(f"  {in_words(m.key)} {m.value:.2f}{caution}")
    for segment in image.segments:
        share = 100 * float(segment.mask.mean())
        console.print(f"  Outlined: {segment.key.replace('_', ' ')}, {share:.1f} % of the picture, by {segment.model}")
    if image.cautions:
        console.print(f"  Cautions: {', '.join(c.replace('_', ' ') for c in image.cautions)}")


def _criteria(criteria: Sequence[Criterion]) -> Table:
    """By what a derived finding was derived, a line for each criterion."""
    table = Table("Criterion", "Of", "Met", "Value", "Needed", "Why not", box=None, padding=(0, 1))
    met = {True: "met", False: "not met"}
    for criterion in criteria:
        limit = _number(criterion, criterion.threshold)
        table.add_row(
            in_words(criterion.key),
            in_short(criterion.speaks_for),
            criterion.state.value.replace("_", " ") if criterion.met is None else met[criterion.met],
            _number(criterion, criterion.value),
            f"{criterion.sense} {limit}" if limit else "",
            (criterion.reason or "").replace("_", " "),
        )
    return table


def _number(criterion: Criterion, number: float | None) -> str:
    if number is None:
        return ""
    return f"{100 * number:.6g} %" if criterion.unit == PROBABILITY else f"{number:.7g}"


def _cells(finding: Finding) -> tuple[str, ...]:
    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f} %"

    return (
        in_words(finding.key),
        finding.state.value.replace("_", " "),
        percent(finding.probability),
        percent(finding.threshold),
        finding.laterality.value if finding.laterality else "",
        str(len(finding.regions) or ""),
        (finding.reason or "").replace("_", " "),
    )


def _check_complete(document: Dataset) -> None:
    """A preliminary report is shown whole or not at all.

    Raises
    ------
    NotOurResult
    """
    said = {
        str(section.ConceptNameCodeSequence[0].CodeValue)
        for section in document.get("ContentSequence") or ()
        if section.ValueType == "CONTAINER" and any(_lines(section))
    }
    if not {PROCEDURE, FINDINGS, IMPRESSIONS} <= said:
        raise NotOurResult("a result is damaged: a section of the preliminary report says nothing")


def _lines(document: Dataset, depth: int = 1) -> Iterator[str]:
    """The headings and sentences of a text SR, in their order."""
    for item in document.get("ContentSequence") or ():
        if item.ValueType == "CONTAINER":
            yield "  " * depth + str(item.ConceptNameCodeSequence[0].CodeMeaning).upper()
            yield from _lines(item, depth + 1)
        elif item.ValueType == "TEXT" and item.RelationshipType == "CONTAINS":
            yield "  " * depth + str(item.TextValue)


def _objects(settings: Settings, name: str) -> Iterator[Dataset]:
    path = Path(name)
    if path.exists():
        if not (path.is_file() or path.is_dir()):  # to read from a pipe or a device could take for ever
            raise FileNotFoundError("is neither a file nor a folder")
        for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
            try:
                yield dcmread(file)
            except struct.error as error:  # a DICOM file that ends within the head of an element
                raise NotOurResult(f"{file.name} is damaged: it was cut off") from error
            except (InvalidDicomError, OSError, *_DAMAGED):
                continue  # a folder may hold other files; a single one is told by its lack of results
        return
    if check_uid(name):
        raise FileNotFoundError("is neither a file nor a Study Instance UID")
    credentials = load_credentials(settings.credentials)
    user, password = credentials.worker_user, credentials.worker_password
    with OrthancClient(settings.http_url, user, password) as orthanc:
        for series in orthanc.series_of_study(name):
            if is_own_result(series.modality, series.manufacturer):
                for instance in series.instances:
                    yield dcmread(BytesIO(orthanc.fetch(instance).content))

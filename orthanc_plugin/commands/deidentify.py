"""``./hilum deidentify``: copies of chosen studies with their current results, for research and training.

The rule: what leaves the archive is what ``deidentification`` makes, and is told by number, never by patient.
That a study was copied is in the audit log before the first of its files is written.
"""

from __future__ import annotations

import secrets
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from rich.console import Console

from dicom_sr.predecessor import current
from dicom_sr.reader import is_measurement_report, is_ours
from dicom_sr.references import evidence_of
from orthanc_plugin.archive.client import OrthancClient, OrthancUnavailable
from orthanc_plugin.commands.deidentification import RADIOGRAPHS, NotCopied, Pseudonyms, deidentified
from orthanc_plugin.commands.node import NodeFailed
from orthanc_plugin.commands.recorded import record
from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.made_once import make_once
from orthanc_plugin.settings import Settings

_KEY_BYTES = 32


def deidentify(settings: Settings, folder: Path, studies: Sequence[str], console: Console) -> int:
    """Copy studies of the running node into a folder, ``patient/study/object.dcm``; 1 when one of them is not there.

    Raises
    ------
    NodeFailed
        When nothing more can be copied; the message says why.
    """
    try:
        return _copy(settings, folder, studies, console)
    except OrthancUnavailable as error:
        raise NodeFailed("Orthanc does not answer: start the node first (./hilum up)") from error
    except OSError as error:
        raise NodeFailed(f"{folder} cannot be written: {error.strerror}") from error


def _copy(settings: Settings, folder: Path, studies: Sequence[str], console: Console) -> int:
    pseudonyms = Pseudonyms(_key(settings.deidentification_key))
    folder.mkdir(parents=True, exist_ok=True)
    accounts = load_credentials(settings.credentials)
    copied, left = 0, Counter[str]()
    missing = []
    with OrthancClient(settings.http_url, accounts.worker_user, accounts.worker_password) as orthanc:
        for study in dict.fromkeys(studies):
            instances = [name for series in orthanc.series_of_study(study) for name in series.instances]
            if not instances:
                missing.append(study)
                continue
            if not record(settings, "deidentify", study):
                raise NodeFailed("the audit log does not take that a study is copied, so it is not: ./hilum doctor")
            for ds in _chosen([_read(orthanc.file(name)) for name in instances], left):
                try:
                    copy = deidentified(ds, pseudonyms)
                except NotCopied as error:
                    left[str(error)] += 1
                    continue
                file = folder / copy.PatientID / copy.StudyInstanceUID / f"{copy.SOPInstanceUID}.dcm"
                file.parent.mkdir(parents=True, exist_ok=True)
                copy.save_as(file, enforce_file_format=True)
                copied += 1
    console.print(f"{copied} objects copied to {folder}. Nobody has looked at their pixels.")
    for reason, number in sorted(left.items()):
        console.print(f"{number} left out: {reason}", markup=False)
    for study in missing:
        print(f"hilum: {study}: the node holds no such study", file=sys.stderr)
    return 1 if missing else 0


def _chosen(objects: Sequence[Dataset | None], left: Counter[str]) -> Iterator[Dataset]:
    """Radiographs, and of our results those that speak for them now; what is left out is counted."""
    readable = [ds for ds in objects if ds is not None]
    reports = current(ds for ds in readable if is_measurement_report(ds))
    speaking = {str(ds.SOPInstanceUID) for ds in reports}
    speaking |= {one.sop_instance_uid for ds in reports for one in evidence_of(ds)}
    left["no valid DICOM"] += len(objects) - len(readable)
    for ds in readable:
        if ds.get("SOPInstanceUID") in speaking if is_ours(ds) else ds.get("SOPClassUID") in RADIOGRAPHS:
            yield ds
        else:
            left["neither a radiograph nor a current SR or SEG of Hilum"] += 1
    left += Counter()  # without what did not occur


def _read(file: bytes) -> Dataset | None:
    try:
        return dcmread(BytesIO(file))
    except (InvalidDicomError, ValueError, EOFError):
        return None


def _key(file: Path) -> bytes:
    """The site's key, made when it is needed first."""
    try:
        make_once(file, secrets.token_hex(_KEY_BYTES) + "\n")
        key = bytes.fromhex(file.read_text("ascii").strip())
    except (OSError, ValueError) as error:
        raise NodeFailed(f"{file} is no key of 64 hexadecimal digits, or cannot be read") from error
    if len(key) != _KEY_BYTES:
        raise NodeFailed(f"{file} is no key of 64 hexadecimal digits")
    return key

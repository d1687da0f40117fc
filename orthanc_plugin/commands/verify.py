"""``./hilum verify``: whether DICOM files keep the standard and, where they are ours, the profile for AI results.

The rule: everything is judged, nothing is changed, and nothing of the patient is printed.
"""

from __future__ import annotations

import json
import struct
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from rich.console import Console
from rich.progress import Progress

from dicom_sr.conformance import dciodvfy
from dicom_sr.conformance.check import Violation, check, check_together, frame_areas
from dicom_sr.conformance.objects import SEGMENTATION
from dicom_sr.conformance.tree import class_name, decoded, text
from dicom_sr.ownership import MANUFACTURER
from dicom_sr.report.wording import Wording, WordingInvalid, load_wording
from orthanc_plugin.settings import Settings

# What pydicom raises for bytes that are no data set.
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, NotImplementedError, EOFError, RecursionError)
# The pixels of a Segmentation of ours are counted up to this size: 60 outlines at 6000 x 6000 pixels.
_MOST_BYTES = 2**28


class NotReadable(Exception):
    """A file that holds no DICOM object; the message says why."""


@dataclass(frozen=True)
class Verified:
    """What was found in one file, or, without a path, between all of them.

    Parameters
    ----------
    kind
        SOP class in words; empty when the file was not readable.
    ours
        Whether it is a result of ours, which is held to more rules.
    unreadable
        Why it was not read; None when it was.
    """

    path: str
    kind: str
    ours: bool
    violations: tuple[Violation, ...]
    unreadable: str | None = None


def verify_files(paths: Sequence[Path], *, as_json: bool, settings: Settings | None = None) -> int:
    """Judge files, and everything in folders; the exit code is 1 when any rule is broken or a file named is no DICOM.

    Parameters
    ----------
    as_json
        One JSON object a file, one line each, and one without a path for what holds between the files.
    settings
        Of the node whose own sentences the reports may have, besides those that are built in.
    """
    out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)
    judged: list[Verified] = []
    objects: list[Dataset] = []
    areas: dict[str, tuple[int, ...]] = {}
    wordings = _site_wording(settings, err)
    progress = Progress(console=err, transient=True, disable=not sys.stderr.isatty())
    with progress:
        for path in progress.track(list(_files(paths)), description="Verifying"):
            result, ds = verify_file(path)
            if result.unreadable and path not in paths:
                continue  # a folder may hold anything
            judged.append(result)
            if ds is not None:
                plain, _ = decoded(ds)
                areas[text(plain, "SOPInstanceUID")] = frame_areas(plain)
                ds.pop("PixelData", None)  # counted, and too large to keep of every file
                objects.append(ds)
            _print(result, out, as_json=as_json)
    between = Verified("", "", False, tuple(check_together(objects, areas=areas, wordings=wordings)))
    if as_json or between.violations:
        _print(between, out, as_json=as_json)
    if not as_json:
        _summary([*judged, between], out)
    if not dciodvfy.is_installed():
        err.print(
            f"{dciodvfy.NAME} is not installed (Debian package dicom3tools): its checks were left out.", markup=False
        )
    failed = not objects or any(result.violations or result.unreadable for result in (*judged, between))
    return 1 if failed else 0


def verify_file(path: Path) -> tuple[Verified, Dataset | None]:
    """Judge one file by our rules and by those of ``dciodvfy``; pixels come with Segmentations of ours alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every bad value is reported as a violation
        try:
            ds = _read(path)
        except NotReadable as error:
            return Verified(str(path), "", False, (), str(error)), None
        violations = (*check(ds), *dciodvfy.errors_of(path, ds))
        plain, _ = decoded(ds)
        kind = class_name(text(plain, "SOPClassUID")) or "an object without SOP class"
        return Verified(str(path), kind, text(plain, "Manufacturer") == MANUFACTURER, violations), ds


def _read(path: Path) -> Dataset:
    try:
        if not path.is_file():  # to read from a pipe or a device could take for ever
            raise NotReadable("neither a file nor a folder" if path.exists() else "no such file or folder")
        ds: Dataset = dcmread(path, stop_before_pixels=True)
        plain, _ = decoded(ds)
        outlines = text(plain, "SOPClassUID") == SEGMENTATION and text(plain, "Manufacturer") == MANUFACTURER
        if outlines and path.stat().st_size <= _MOST_BYTES:
            ds = dcmread(path)
    except InvalidDicomError as error:
        raise NotReadable("not a DICOM file") from error
    except (OSError, struct.error, *_UNREADABLE) as error:
        raise NotReadable(f"the file cannot be read: {type(error).__name__}") from error
    return ds


def _site_wording(settings: Settings | None, err: Console) -> list[Wording]:
    """The node's own table of sentences; none where it has none, or one that the node itself would refuse."""
    if settings is None or settings.site_wording is None:
        return []
    try:
        return [load_wording(settings.report_language, settings.site_wording)]
    except WordingInvalid as error:
        err.print(f"the sentences of the site were left out: {error}", markup=False)
        return []


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if _is_folder(path):
            yield from sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        else:
            yield path


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, a folder that may not be entered: to be told when it is read
        return False


def _print(result: Verified, console: Console, *, as_json: bool) -> None:
    if as_json:
        described = {**asdict(result), "path": result.path or None}
        console.print(json.dumps(described), markup=False)
        return
    if result.unreadable:
        console.print(f"{result.path}: {result.unreadable}", markup=False, style="yellow")
    for violation in result.violations:
        where = f" at {violation.where}" if violation.where else ""
        place = result.path or "between the files"
        console.print(f"{place}: {violation.rule}{where}: {violation.message}", markup=False, style="red")


def _summary(results: Sequence[Verified], console: Console) -> None:
    read = [result for result in results if result.kind]
    broken = sum(len(result.violations) for result in results)
    unread = sum(result.unreadable is not None for result in results)
    ours = sum(result.ours for result in read)
    objects = f"{_counted(len(read), 'object')}, {ours} of ours"
    verdict = _counted(broken, "violation") if broken else "no violation" if read else "nothing was judged"
    files = f", {_counted(unread, 'file')} not read" if unread else ""
    console.print(f"{objects}: {verdict}{files}.", markup=False, style="red" if broken or unread else "green")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"

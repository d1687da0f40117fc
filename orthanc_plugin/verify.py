"""``./hilum verify``: whether DICOM files keep the standard and, where they are ours, the profile for AI results.

The rule: everything is judged, nothing is changed, and nothing of the patient is printed.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID
from rich.console import Console
from rich.progress import Progress

from dicom_sr.conformance.check import Violation, check, check_together
from dicom_sr.ownership import MANUFACTURER

_DCIODVFY = "dciodvfy"
_DCIODVFY_SECONDS = 60.0
# What pydicom raises for bytes that are no data set.
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, NotImplementedError, EOFError, RecursionError)


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


def verify_files(paths: Sequence[Path], *, as_json: bool) -> int:
    """Judge files, and everything in folders; the exit code is 1 when any rule is broken or a file named is no DICOM.

    Parameters
    ----------
    as_json
        One JSON object a file, one line each, and one without a path for what holds between the files.
    """
    out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)
    judged: list[Verified] = []
    objects: list[Dataset] = []
    progress = Progress(console=err, transient=True, disable=not sys.stderr.isatty())
    with progress:
        for path in progress.track(list(_files(paths)), description="Verifying"):
            result, ds = verify_file(path)
            if result.unreadable and path not in paths:
                continue  # a folder may hold anything
            judged.append(result)
            objects.extend([] if ds is None else [ds])
            _print(result, out, as_json=as_json)
    between = Verified("", "", False, tuple(check_together(objects)))
    if as_json or between.violations:
        _print(between, out, as_json=as_json)
    missing = [path for path in paths if not path.exists()]
    for path in missing:
        err.print(f"hilum: {path}: no such file or folder", markup=False)
    if not as_json:
        _summary([*judged, between], out)
    if shutil.which(_DCIODVFY) is None:
        err.print(f"{_DCIODVFY} is not installed (Debian package dicom3tools): its checks were left out.", markup=False)
    failed = missing or not objects or any(result.violations or result.unreadable for result in (*judged, between))
    return 1 if failed else 0


def verify_file(path: Path) -> tuple[Verified, Dataset | None]:
    """Judge one file by our rules and by those of ``dciodvfy``; the data set comes without its pixels."""
    try:
        ds = _read(path)
    except NotReadable as error:
        return Verified(str(path), "", False, (), str(error)), None
    violations = (*check(ds), *_dciodvfy(path))
    kind = UID(str(ds.get("SOPClassUID", ""))).name
    return Verified(str(path), kind, str(ds.get("Manufacturer", "")) == MANUFACTURER, violations), ds


def _read(path: Path) -> Dataset:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # every bad value is reported as a violation
            ds: Dataset = dcmread(path, stop_before_pixels=True)
    except InvalidDicomError as error:
        raise NotReadable("not a DICOM file") from error
    except (OSError, struct.error, *_UNREADABLE) as error:
        raise NotReadable(f"the file cannot be read: {type(error).__name__}") from error
    return ds


def _dciodvfy(path: Path) -> Iterator[Violation]:
    """The errors of ``dciodvfy`` without the values that it quotes, for they may be the patient's."""
    if shutil.which(_DCIODVFY) is None:
        return
    try:
        ran = subprocess.run(
            [_DCIODVFY, str(path)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_DCIODVFY_SECONDS,
        )
    except subprocess.TimeoutExpired:
        yield Violation(_DCIODVFY, "", f"no answer within {_DCIODVFY_SECONDS:.0f} s")
        return
    for line in ran.stderr.splitlines():
        if line.startswith("Error"):
            yield Violation(_DCIODVFY, "", _without_values(line.removeprefix("Error - ")))
    if ran.returncode < 0:
        yield Violation(_DCIODVFY, "", f"ended by signal {-ran.returncode}")


def _without_values(line: str) -> str:
    """What is wrong, with the names of attribute and module; values stand in angle brackets too."""
    said, _, rest = line.partition("<")
    named = re.findall(r"(?:Element|Module|Macro)=<\w+>", line)
    words = re.sub(r"(Element|Module|Macro)=$", "", said).strip()
    return " ".join([words, *named]) if named else f"{words} <...>" if rest else words


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        elif path.exists():
            yield path


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
    ours = sum(result.ours for result in read)
    objects = f"{len(read)} object{'' if len(read) == 1 else 's'}, {ours} of ours"
    verdict = f"{broken} violation{'' if broken == 1 else 's'}" if broken else "no violation"
    console.print(f"{objects}: {verdict}.", markup=False, style="red" if broken else "green")

"""What ``dciodvfy`` (dicom3tools) says of a file, without what it says wrongly and without the values that it quotes.

The rule: it measures texts in bytes, and the standard counts characters (PS3.5 6.2); a text that is too long for it
alone is not reported.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pydicom import Dataset

from dicom_sr.conformance.tree import Violation, decoded, elements, listed

NAME = "dciodvfy"
_SECONDS = 60.0
# Most characters of one value; of a name, those of each component group (PS3.5 table 6.2-1).
_MOST = {"LO": 64, "LT": 10240, "PN": 64, "SH": 16, "ST": 1024}
# A value may hold line ends.
_TOO_LONG = re.compile(
    r"^Error - Value invalid for this VR - \(0x([0-9a-f]{4}),0x([0-9a-f]{4})\) (?:(?!^(?:Error|Warning) - ).)*?"
    r"> - Length invalid for this VR = \d+, expected <= \d+$\n?",
    re.DOTALL | re.MULTILINE,
)
_INVALID_VALUE, _SUMMARY = "Error - Value invalid for this VR", "Error - Dicom dataset contains invalid data values"


def is_installed() -> bool:
    """Whether its checks can be made."""
    return shutil.which(NAME) is not None


def errors_of(path: Path, ds: Dataset) -> Iterator[Violation]:
    """Its errors about a file; none where it is not installed.

    Parameters
    ----------
    ds
        What the file holds.
    """
    if not is_installed():
        return
    command = [NAME, str(path)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        yield Violation(NAME, "", f"no answer within {_SECONDS:.0f} s")
        return
    for line in without_byte_counts(ran.stderr, ds).splitlines():
        if line.startswith("Error"):
            yield Violation(NAME, "", _without_values(line.removeprefix("Error - ")))
    if ran.returncode < 0:
        yield Violation(NAME, "", f"ended by signal {-ran.returncode}")


def without_byte_counts(said: str, ds: Dataset) -> str:
    """What `dciodvfy` said, but for texts of a legal number of characters; and for its summary, if nothing is left."""
    if not _TOO_LONG.search(said):
        return said
    too_long = _texts_too_long(ds)
    left = _TOO_LONG.sub(lambda found: found[0] if int(found[1] + found[2], 16) in too_long else "", said)
    if _INVALID_VALUE in left:
        return left
    return "\n".join(line for line in left.splitlines() if not line.startswith(_SUMMARY))


def _texts_too_long(ds: Dataset) -> set[int]:
    """Tags of the elements, at any depth, of which a value has more characters than it may, or is no text."""
    found = set()
    for _path, element in elements(decoded(ds)[0]):
        most = _MOST.get(element.VR, 0)
        texts = [part for value in listed(element.value) for part in _counted(element.VR, value)] if most else []
        if not most or any(len(part) > most for part in texts):
            found.add(int(element.tag))
    return found


def _counted(vr: str, value: object) -> list[str]:
    written = "" if value is None else str(value)
    return written.split("=") if vr == "PN" else [written.rstrip(" ")]


def _without_values(line: str) -> str:
    """What is wrong, with the names of attribute and module; values stand in angle brackets too."""
    said, _, rest = line.partition("<")
    named = re.findall(r"(?:Element|Module|Macro)=<\w+>", line)
    words = re.sub(r"(Element|Module|Macro)=$", "", said).strip()
    return " ".join([words, *named]) if named else f"{words} <...>" if rest else words

"""What is kept of networks from one start to the next, beside their translations: so that torch need not be there.

The rule: what is kept is a convenience, as a translation is. It is of these very networks and of this very code, its
name says so; what is damaged, or cannot be written, is worked out again.

::

    KEY.xml, KEY.bin    the translated network (``models.translation``)
    KEY.npz             what torch said of the probe, and the probe
    KEY.runtime         what was the fastest
    KEY.groups          which of several networks begin alike: numbers, as JSON
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np

from models.bundle import Bundle
from models.forward import FloatArray

_NETWORKS = Path(__file__).parent / "networks"
_PROBE = "probe"
_LIBRARIES = ("openvino", "torch", "monai")
_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, ZlibError)


def key_of(bundles: Sequence[Bundle]) -> str:
    """A name for files of these very networks and their evidence, by these very libraries and our very networks."""
    identities = [(b.identity.weights_digest, b.identity.config_digest, b.precisions.digest) for b in bundles]
    parts = [part for identity in identities for part in identity]
    return hashlib.sha256("|".join([*parts, _code()]).encode()).hexdigest()[:32]


@cache
def _code() -> str:
    """The versions of the libraries, and a digest of the networks that are ours."""
    ours = hashlib.sha256()
    for file in sorted(_NETWORKS.glob("*.py")):
        ours.update(file.read_bytes())
    return "|".join([*map(version, _LIBRARIES), ours.hexdigest()])


def answer_kept(file: Path, picture: FloatArray) -> dict[str, FloatArray] | None:
    """What torch said of this very picture; None when that is not known."""
    try:
        with np.load(file, allow_pickle=False) as arrays:  # each has a checksum
            said = {name: arrays[name] for name in arrays.files}
            return said if np.array_equal(said.pop(_PROBE), picture) else None
    except _DAMAGED:
        return None


def keep_answer(file: Path, picture: FloatArray, said: dict[str, FloatArray]) -> None:
    """Note what torch said of a picture."""
    content = io.BytesIO()
    np.savez(content, **{**said, _PROBE: picture})  # type: ignore[arg-type]  # its flags are keywords as well
    write(file, content.getvalue())


def groups_kept(file: Path, count: int) -> list[list[int]] | None:
    """Which of so many networks are run together; None when that is not known."""
    try:
        groups = [[int(number) for number in group] for group in json.loads(file.read_text("utf-8"))]
    except _DAMAGED:
        return None
    return groups if sorted(number for group in groups for number in group) == list(range(count)) else None


def keep_groups(file: Path, groups: list[list[int]]) -> None:
    """Note which are run together."""
    write(file, json.dumps(groups).encode())


def write(file: Path, content: bytes) -> None:
    """Write a file whole or not at all; where that cannot be, it is done without."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:  # several machines may share the folder
            draft = Path(folder) / file.name
            draft.write_bytes(content)
            draft.replace(file)

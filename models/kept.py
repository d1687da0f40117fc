"""What is kept of networks from one start to the next, so that torch need not be there.

The rule: what is kept is a convenience. It is of these very networks and of this very code, its name says so, and it
begins with the SHA-256 of that name and of the rest: what does not match is not there, and is worked out again. It is
read into memory, so that nothing which happens to a file changes an answer.

::

    KEY.network            the translated network (``models.translation``)
    KEY.answer             what torch said of the probe, and the probe
    KEY.MACHINE.runtime    what was the fastest on a machine like this one
    KEY.groups             which of several networks begin alike: numbers, as JSON
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bundle import Bundle
from models.forward import FloatArray

log = logging.getLogger("hilum.kept")

Arrays = dict[str, npt.NDArray[Any]]

_NETWORKS = Path(__file__).parent / "networks"
_PROBE = "probe"
_LIBRARIES = ("openvino", "torch", "monai")
_SEAL = hashlib.sha256().digest_size


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
    return "|".join([*map(_version, _LIBRARIES), ours.hexdigest()])


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # torch answers without it
        return "none"


@cache
def machine_of(threads: int) -> str:
    """A name for machines on which the same is the fastest: this processor, so many threads, GPUs or none."""
    processor = ""
    with contextlib.suppress(OSError):  # not on Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line for line in lines if line.startswith("model name")), "")
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return hashlib.sha256(f"{processor}|{threads}|{gpus}".encode()).hexdigest()[:8]


def can_keep(folder: Path) -> bool:
    """Whether anything can be kept there, as far as its rights tell."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return os.access(there, os.W_OK)


def read(file: Path) -> bytes | None:
    """What was kept; None where nothing was, or not this."""
    try:
        sealed = file.read_bytes()
    except OSError:
        return None
    content = sealed[_SEAL:]
    if sealed == _sealed(file, content):
        return content
    log.warning("%s is damaged: it is made anew", file.name)
    discard(file)
    return None


def keep(file: Path, content: bytes) -> None:
    """Write a file whole or not at all; where that cannot be, it is done without."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:  # several machines may share the folder
            draft = Path(folder) / file.name
            draft.write_bytes(_sealed(file, content))
            draft.replace(file)
    except OSError as error:
        log.warning("%s cannot be kept (%s): it is made at each start", file.name, error.strerror)


def _sealed(file: Path, content: bytes) -> bytes:
    return hashlib.sha256(file.name.encode() + content).digest() + content


def discard(file: Path) -> None:
    """Take away what is damaged, or holds no longer."""
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)


def read_arrays(file: Path) -> Arrays | None:
    """Arrays that were kept, by name."""
    if (content := read(file)) is None:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def keep_arrays(file: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Keep arrays by name."""
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # its flags are keywords as well
    keep(file, content.getvalue())


def answer_kept(file: Path, picture: FloatArray) -> dict[str, FloatArray] | None:
    """What torch said of this very picture; None when that is not known."""
    said = read_arrays(file)
    return said if said is not None and np.array_equal(said.pop(_PROBE), picture) and said else None


def keep_answer(file: Path, picture: FloatArray, said: Mapping[str, FloatArray]) -> None:
    """Note what torch said of a picture."""
    keep_arrays(file, {**said, _PROBE: picture})

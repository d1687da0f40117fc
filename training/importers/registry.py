"""Which published weights are known: where they lie, what they are, and under which terms.

The rule: a file whose digest is known is used only if it has it. Where its authors publish none, none is made up: the
digest of what was imported is then told, and stands in the bundle.
"""

from __future__ import annotations

import hashlib
import tomllib
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from training.importers.weights import WeightsRefused

_FILE = Path(__file__).with_name("registry.toml")


@dataclass(frozen=True)
class Entry:
    """One file of published weights.

    Parameters
    ----------
    name
        As importers and recipes call it.
    importer
        ``torchxrayvision``, ``chexnet`` or ``dino``.
    network
        What it holds, as its importer calls it.
    url
        Where its authors publish it.
    sha256
        Hexadecimal; empty when not known with certainty.
    licence
        Of the code it came with; the terms of the data it was trained on are another matter.
    paper
        What to cite.
    """

    name: str
    importer: str
    network: str
    url: str
    sha256: str
    licence: str
    paper: str

    def verify(self, name: str, digest: str) -> None:
        """Check a file's digest, where this entry knows it.

        Raises
        ------
        WeightsRefused
        """
        if self.sha256 and digest != self.sha256:
            message = f"{name} has SHA-256 {digest}, {self.name} is {self.sha256}"
            raise WeightsRefused(f"{message}; fetch it again from {self.url}")


def entries() -> dict[str, Entry]:
    """Every entry of ``registry.toml`` by name."""
    content = tomllib.loads(_FILE.read_text("utf-8"))
    found: dict[str, Entry] = {}
    for importer, section in content.items():
        for name, fields in section["weights"].items():
            terms = {"licence": section["licence"], "paper": section["paper"], "sha256": ""}
            found[name] = Entry(name=name, importer=importer, **(terms | fields))
    return found


def entry(name: str, importer: str) -> Entry:
    """The entry of an importer.

    Raises
    ------
    WeightsRefused
        When that importer knows no such weights.
    """
    known = {e.name: e for e in entries().values() if e.importer == importer}
    if name not in known:
        raise WeightsRefused(f"{importer} has no weights {name!r}; it knows {', '.join(known)}")
    return known[name]


def download(weights: Entry, to: Path) -> Path:
    """Fetch a file, showing how far it is; one that is there already is checked and not fetched again.

    Parameters
    ----------
    to
        Folder; made if it is not there.

    Returns
    -------
    Path
        The file, verified where its digest is known.

    Raises
    ------
    WeightsRefused
        When it cannot be fetched or is not the one that the registry names; nothing is then left behind.
    """
    to.mkdir(parents=True, exist_ok=True)
    file = to / weights.url.rpartition("/")[2]
    if file.exists():
        weights.verify(file.name, _digest(file))
        return file
    part = file.with_name(file.name + ".part")
    try:
        _fetch(weights.url, part)
        weights.verify(file.name, _digest(part))
        part.replace(file)
    except OSError as error:
        message = f"{weights.url} cannot be fetched: {error}"
        raise WeightsRefused(f"{message}; fetch it elsewhere and name it with --file") from error
    finally:
        part.unlink(missing_ok=True)
    return file


def _fetch(url: str, to: Path) -> None:
    with urllib.request.urlopen(url, timeout=60) as answer:
        length = int(answer.headers.get("Content-Length") or 0)
        bar = tqdm(total=length or None, unit="B", unit_scale=True, desc=to.name)
        with bar, to.open("wb") as file:
            while block := answer.read(1 << 20):
                file.write(block)
                bar.update(len(block))
    if length and to.stat().st_size != length:
        raise OSError(f"{to.stat().st_size} of {length} bytes arrived")


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()

"""The figures of each committed bundle, beside its floor, its shortcut baselines and its card; and its time an image.

The rule: a figure is called held out only where the shipped weights never saw the pictures, which is checked against
their provenance. Where they have seen every picture, or nobody can tell, the card's figures are printed as the card's.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from models.appearance import derive
from models.bundle import Bundle, load_bundle
from models.findings import View
from models.inference import ImageIdentity, assemble
from models.opacities import lung_fields
from models.phantom import chest
from models.rendering import RenderedImage
from orthanc_plugin.settings import REPOSITORY
from tests.bench import held_out
from tests.bench.held_out import NotHeldOut, Row
from tests.bench.machine import describe
from tests.bench.sheets import Sheet, keep, tell

DATA = REPOSITORY.parent / "shared" / "data"
REPORT = REPOSITORY / "docs" / "bundles.md"
HELD_OUT = "held out: measured now, on pictures that the shipped weights never saw"
MEASURES: Mapping[str, Callable[[Bundle, Mapping[str, Any], Path], list[Row]]] = {
    "lung_fields": held_out.lung_fields,
    "pixel_gate": held_out.pixel_gate,
    "pneumothorax": held_out.pneumothorax,
}
_CROSS_VALIDATED = "from the card, cross-validated by patient: the shipped weights have seen every picture here"
# What a card's figures are, where they are all that can be told.
FROM_CARD = {
    "chest_findings": _CROSS_VALIDATED,
    "lung_opacity": _CROSS_VALIDATED,
    "covid_appearance": "from the card, how often each class occurs: nothing was trained, and no accuracy is known",
}
NOT_KNOWN = "from the card: nothing here tells which pictures the shipped weights have not seen"
# Of ../shared/data/README.md: what simple baselines reached on the same data.
FLOORS = {
    ("lung_fields", "dice_lungs"): 0.952,
    ("chest_findings", "abnormal.auroc"): 0.878,
    ("chest_findings", "mean of the eight most frequent findings.auroc"): 0.744,
    ("lung_opacity", "lung_opacity.auroc"): 0.820,
    ("lung_opacity", "pointing"): 0.735,
}
_TIMED = 9  # images
_SIDE = 1024  # of them, in pixels


@dataclass(frozen=True)
class Measured:
    """What is known about one bundle.

    Parameters
    ----------
    evidence
        How the figures were had.
    again
        The command that makes them, and the weights, again; or what it takes to know more.
    seconds
        Median of an image on one thread: picture, network, interpretation.
    """

    name: str
    version: str
    evidence: str
    again: str
    seconds: float
    rows: tuple[Row, ...]


def compare(
    *,
    json_file: Path | None = None,
    write: bool = False,
    bundles: Path = REPOSITORY / "models",
    data: Path = DATA,
) -> list[Measured]:
    """Measure every bundle; prints a table for each."""
    machine = describe()
    folders = sorted(path.parent.parent for path in bundles.glob("*/configs/metadata.json"))
    found = [measure(folder, data) for folder in tqdm(folders, desc="bundles", unit="bundle")]
    tell("models", list(map(sheet, found)), machine, write=write, page=REPORT)
    keep(found, json_file)
    return found


def measure(folder: Path, data: Path) -> Measured:
    """What is known about the bundle in a folder."""
    bundle = load_bundle(folder)
    metadata = json.loads((folder / "configs" / "metadata.json").read_text("utf-8"))
    section, name = metadata["hilum"], bundle.identity.name
    command = section.get("provenance", {}).get("command", "no command is recorded")
    rows, evidence = None, FROM_CARD.get(name, NOT_KNOWN)
    if name in MEASURES:
        try:
            rows, evidence = MEASURES[name](bundle, section, data), HELD_OUT
        except NotHeldOut as why:
            evidence = f"from the card: {why}"
    if rows is None:
        rows = list(of_card(section.get("figures", {})))
    with_floors = tuple(row.beside(FLOORS.get((name, row.figure))) if row.group == "all" else row for row in rows)
    again = f"{command} --out DIR" if command.startswith("./hilum") else command
    return Measured(name, bundle.identity.version, evidence, again, seconds(folder, bundle), with_floors)


def of_card(figures: Mapping[str, Any], within: str = "") -> Iterator[Row]:
    """Each figure with an interval that a card's figures hold, at any depth, with the shortcut beside it."""
    for key, value in figures.items():
        name = f"{within}.{key}" if within else key
        if not isinstance(value, Mapping):
            continue
        if {"value", "low", "high"} <= set(value):
            at_random = key == "within_source"
            yield Row(
                f"{within}.auroc" if at_random else name,
                "within the randomly drawn source" if at_random else "all",
                None if at_random else figures.get("images"),
                value["value"],
                value["low"],
                value["high"],
                shortcut=figures.get("shortcut") if key == "auroc" else None,
            )
        else:
            yield from of_card(value, name)


def seconds(folder: Path, bundle: Bundle) -> float:
    """Median time of an image of 1024 x 1024 pixels on one thread, after one that warms up."""
    images = [RenderedImage(chest(seed, rows=_SIDE, columns=_SIDE).pixels) for seed in range(_TIMED)]
    identity = ImageIdentity("", "", "", View.PA)
    models = assemble([bundle], threads=1)
    if bundle.contract.criteria is not None:
        criteria = bundle.contract.criteria
        others = [load_bundle(folder.parent / name) for name in ("lung_fields", "chest_findings", "lung_opacity")]
        found = [assemble(others, threads=1).predict(image, identity) for image in images]

        def ask(number: int) -> object:
            return derive(found[number].findings, lung_fields(found[number].segments), contract=criteria)
    elif models.gate is not None:

        def ask(number: int) -> object:
            return models.look(images[number], children=False)
    else:

        def ask(number: int) -> object:
            return models.predict(images[number], identity)

    ask(0)
    times = []
    for number in range(_TIMED):
        started = time.perf_counter()
        ask(number)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def sheet(one: Measured) -> Sheet:
    """What is known about one bundle, as a table."""
    rows = tuple(
        (
            row.figure.replace("_", " "),
            row.group,
            "" if row.images is None else str(row.images),
            _number(row.value) or row.why,
            "" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}",
            *(_number(value) for value in (row.floor, row.shortcut, row.card)),
        )
        for row in one.rows
    )
    headings = ("figure", "group", "images", "value", "95 % interval", "floor", "shortcut", "card")
    title = f"{one.name} {one.version}, {1000 * one.seconds:.0f} ms an image on one thread"
    return Sheet(title, headings, rows, f"{one.evidence[0].upper()}{one.evidence[1:]}. Made by `{one.again}`.")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"

"""The sections of the page: plots, each with its numbers in a table, notes and a montage.

The rule: beside every number that comes from a sample stands how large the sample was.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from models.exposures import COPY
from models.names import in_words
from training.eda import files, montage, plots, statistics
from training.eda.statistics import FloatArray, IntArray
from training.readers.records import DataSet, Record

_LONGEST_TABLE, _LONGEST_LIST = 40, 12  # rows
_NUMBER = re.compile(r"[-+]?[\d,.]*( %)?( \([\d,]+\))?$")
_QUARTILES = ("class", "number", "first quartile", "median", "third quartile")


@dataclass(frozen=True)
class Options:
    """How much is opened.

    Parameters
    ----------
    headers
        Files of which the header is read.
    images
        Images that are opened in search of copies, and masks that are read; each.
    tiles
        Pictures of the montage.
    seed
        Of every sample.
    """

    headers: int = 2000
    images: int = 300
    tiles: int = 24
    seed: int = 7


@dataclass(frozen=True)
class Table:
    """Rows under a caption; the first cell of a row names it."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold nothing but numbers."""
        return tuple(all(_NUMBER.match(row[i]) for row in self.rows) for i in range(len(self.headers)))


@dataclass(frozen=True)
class Plot:
    """A plot and the numbers in it; a wide one has a row of the page to itself."""

    title: str
    svg: Markup
    table: Table
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    notes: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    tiles: tuple[montage.Tile, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()


def sections(data: DataSet, keys: Sequence[str], options: Options, unread: files.Unread) -> tuple[Section, ...]:
    """All that there is to tell of a data set with these findings; files that cannot be read are added to `unread`."""
    records = data.records
    labels = statistics.label_matrix(records, keys)
    survey = files.survey(records, options.headers, options.seed, unread)
    told = (
        *(_labels(labels, keys) if keys else ()),
        _people(records),
        *(_balance(records, labels, keys) if keys else ()),
        *_boxes(records, survey),
        *_masks(records, options, unread),
        _files(survey, len(records)),
        _copies(records, options, unread),
        _montage(records, options, unread),
    )
    return (_left_out(data), _unread(unread), *told)


def _left_out(data: DataSet) -> Section:
    reasons = statistics.left_out_reasons(data.left_out)
    rows = tuple(
        (reason.pattern, _n(reason.count), "; ".join(f"{e.row}: {e.reason}" for e in reason.examples))
        for reason in reasons
    )
    note = "The reader left nothing out." if not reasons else ""
    table = _table("Rows that the reader left out, by reason", ("reason", "rows", "the first of them"), rows)
    return Section("Left out", (note,) if note else (), tables=(table,) if reasons else ())


def _unread(unread: files.Unread) -> Section:
    title = "Files that could not be read"
    if not unread:
        return Section(title, ("Every file that was opened could be read; below stands how many were.",))
    return Section(title, tables=(_table(title, ("file", "reason"), tuple(files.named(unread))),))


def _labels(labels: FloatArray, keys: Sequence[str]) -> Iterable[Section]:
    counted = statistics.label_counts(labels, keys)
    names = [in_words(key) for key in keys]
    said = {"present": [c.present for c in counted], "uncertain": [c.uncertain for c in counted]}
    if not any(said["uncertain"]):
        del said["uncertain"]
    rows = tuple(
        (in_words(c.key), _n(c.present), _n(c.uncertain), _n(c.absent), _n(c.unlabelled), _share(c.present, c.absent))
        for c in counted
    )
    headers = ("finding", "present", "uncertain", "absent", "nobody looked", "present of those answered")
    several = statistics.findings_per_image(labels, keys)
    yield Section(
        "Labels",
        plots=(
            Plot(
                "Images by finding",
                plots.bars(names, said, "Bars: number of images by finding."),
                _table("Images by finding", headers, rows),
            ),
            Plot(
                "Findings per image",
                plots.columns(several, "Bars: number of images by number of findings.", xlabel="findings present"),
                _counted("Findings per image", "findings present", several),
            ),
        ),
    )
    if len(keys) > 1:
        yield _co_occurrence(statistics.together(labels), names)


def _co_occurrence(both: IntArray, names: Sequence[str]) -> Section:
    own = np.diag(both).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = both / own[:, None]
    np.fill_diagonal(share, np.nan)
    rows = tuple((name, *(_n(n) for n in numbers)) for name, numbers in zip(names, both, strict=True))
    return Section(
        "Co-occurrence",
        ("Read along a row: of the images with that finding, the share in per cent that also has the other one.",),
        plots=(
            Plot(
                "Findings that occur together",
                plots.matrix(share, names, "Matrix: share of images with one finding that also have another."),
                Table("Images that have both; on the diagonal, images that have the one", ("", *names), rows),
                wide=len(names) > 8,
            ),
        ),
    )


def _people(records: Sequence[Record]) -> Section:
    made = []
    for attribute, title in (("view", "View"), ("sex", "Sex"), ("source", "Source"), ("split", "Split")):
        found = statistics.counts(records, attribute)
        first = dict(list(found.items())[:_LONGEST_TABLE])
        svg = plots.bars(list(first), {"images": list(first.values())}, f"Bars: number of images by {attribute}.")
        made.append(Plot(title, svg, _counted(title, attribute, found)))
    ages = statistics.ages(records)
    if ages:
        rows = tuple(
            (sex, _n(len(a)), *(f"{v:.0f}" for v in np.percentile(a, (0, 25, 50, 75, 100)))) for sex, a in ages.items()
        )
        svg = plots.histogram(ages, "Histogram: number of images by age, by sex.", xlabel="age in years")
        headers = ("sex", "images", "youngest", "first quartile", "median", "third quartile", "oldest")
        made.append(Plot("Age", svg, _table("Age in years, by sex", headers, rows)))
    for attribute in ("study", "patient"):
        sizes = statistics.group_sizes(records, attribute)
        title = f"Images per {attribute}"
        svg = plots.columns(
            sizes, f"Bars: number by {title.lower()}.", xlabel=title.lower(), ylabel=_several(attribute)
        )
        made.append(Plot(title, svg, _counted(title, "images", sizes, _several(attribute))))
    without = sum(record.age is None for record in records)
    return Section("Patients and studies", (f"Images without an age: {_n(without)}.",), tuple(made))


def _balance(records: Sequence[Record], labels: FloatArray, keys: Sequence[str]) -> Iterable[Section]:
    tables = []
    for attribute in ("split", "view", "source"):
        found = statistics.shares(records, labels, attribute)
        if len(found) > 1:
            rows = tuple(
                (
                    in_words(key),
                    *(f"{_share(p[i], n[i] - p[i])} ({_n(p[i])})" if n[i] else "-" for p, n in found.values()),
                )
                for i, key in enumerate(keys)
            )
            caption = f"Share of answered images with the finding, and their number, by {attribute}"
            tables.append(Table(caption, ("finding", *found), rows))
    if not tables:
        return
    leaked = statistics.in_several_splits(records)
    notes = ["Where a finding is much more frequent in one view or source, a model can learn that instead of it."]
    if any(record.split for record in records):
        named = f": {', '.join(leaked[:10])}{', …' if len(leaked) > 10 else ''}" if leaked else ""
        notes.append(f"Patients with images in more than one split: {_n(len(leaked))}{named}.")
    yield Section("Balance", tuple(notes), tables=tuple(tables))


def _boxes(records: Sequence[Record], survey: files.Survey) -> Iterable[Section]:
    counted = statistics.box_counts(records)
    if not counted:
        return
    rows = tuple((in_words(c.key), _n(c.boxes), _n(c.images), _n(c.empty), *_quartiles(c.areas)) for c in counted)
    headers = ("class", "boxes", "images with boxes", "looked at, no box", "area: first quartile", "median", "third")
    table = _table("Boxes by class; areas in pixels", headers, rows)
    relative = statistics.relative_boxes(records, survey.sizes)
    shown = {in_words(c.key): relative[c.key] for c in counted if c.key in relative}
    known = sum(map(len, relative.values()))
    notes = [
        f"Sizes of images are known for {_n(known)} of {_n(sum(c.boxes for c in counted))} boxes; these are drawn."
    ]
    made: list[Plot] = []
    if shown:
        areas = {name: 100 * boxes[:, 2] * boxes[:, 3] for name, boxes in shown.items()}
        grids = {name: statistics.coverage(boxes) for name, boxes in list(shown.items())[:6]}
        places = tuple((name, *(f"{v:.2f}" for v in _centre(boxes))) for name, boxes in shown.items())
        made = [
            Plot(
                "Area of boxes",
                plots.spread(areas, "Median, quartiles and 5th to 95th percentile of box areas.", xlabel="% of image"),
                _table("Area of a box in % of its image", _QUARTILES, _spreads(areas)),
            ),
            Plot(
                "Where boxes lie",
                plots.heat(grids, "Heat maps: share of boxes of a class that cover each place of the image."),
                _table("Mean centre of boxes: 0 is left or top, 1 right or bottom", ("class", "x", "y"), places),
            ),
        ]
    yield Section("Boxes", tuple(notes), tuple(made), (table,))


def _masks(records: Sequence[Record], options: Options, unread: files.Unread) -> Iterable[Section]:
    keys = Counter(key for record in records for key, parts in record.masks.items() if parts)
    empty = Counter(key for record in records for key, parts in record.masks.items() if not parts)
    if not keys and not empty:
        return
    found = {
        in_words(key): [100 * share for share in shares]
        for key, shares in files.mask_shares(records, options.images, options.seed, unread).items()
    }
    rows = tuple((in_words(key), _n(keys[key]), _n(empty[key])) for key in sorted(keys | empty))
    table = _table("Masks by structure or finding", ("key", "images with a mask", "empty masks"), rows)
    seen = max(map(len, found.values()), default=0)
    made: tuple[Plot, ...] = ()
    if found:
        svg = plots.spread(found, "Median, quartiles and 5th to 95th percentile of mask areas.", xlabel="% of image")
        made = (Plot("Area of masks", svg, _table("Area of a mask in % of its image", _QUARTILES, _spreads(found))),)
    yield Section("Masks", (f"Areas are those of at most {_n(seen)} images per key, a sample.",), made, (table,))


def _files(survey: files.Survey, total: int) -> Section:
    facts = list(survey.facts.values())
    notes = [f"Headers of {_n(survey.looked)} of {_n(total)} files were looked for; {_n(len(facts))} could be read."]
    if survey.absent:
        notes.append(f"Absent, so that nothing here speaks of them: {_n(survey.absent)}.")
    dicom = [fact for fact in facts if fact.kind == "DICOM"]
    listed: list[tuple[str, list[str]]] = [
        ("Format", [fact.kind for fact in facts]),
        ("Size in pixels (columns x rows)", [f"{fact.columns} x {fact.rows}" for fact in facts]),
    ]
    if dicom:
        listed.append(("Pixel spacing in mm (row x column)", [fact.spacing or "(empty)" for fact in dicom]))
        listed.extend((word, [fact.header[word] or "(empty)" for fact in dicom]) for word in files.LISTED)
    tables = tuple(
        _counted(title, "value", dict(Counter(values).most_common()), "files", _LONGEST_LIST)
        for title, values in listed
        if values
    )
    return Section("Files", tuple(notes), tables=tables)


def _copies(records: Sequence[Record], options: Options, unread: files.Unread) -> Section:
    search = files.find_copies(records, options.images, options.seed, unread)
    if not search.studies:
        return Section("Copies within studies", ("No study with several images was opened.",))
    notes = (
        f"Opened: images {_n(search.images)}, of studies with several images {_n(search.studies)} (a sample of at most "
        f"{_n(options.images)} images). Pairs that show the same, by their pixels, by what the node calls one exposure "
        f"or by details that correlate by more than {COPY}: {_n(len(search.copies))}.",
        f"Pairs among them with the same pixels under the names of two patients: {_n(len(search.across))}.",
    )
    rows = tuple((c.study, c.first.name, c.second.name, c.how, f"{c.alike:.3f}") for c in search.copies)
    headers = ("study", "first image", "second image", "how they are alike", "correlation")
    tables = [_table("Pairs of copies", headers, rows)] if rows else []
    if search.across:
        pairs = tuple((first.name, second.name) for first, second in search.across)
        tables.append(_table("The same pixels under two patients", ("first image", "second image"), pairs))
    return Section("Copies within studies", notes, tables=tuple(tables))


def _montage(records: Sequence[Record], options: Options, unread: files.Unread) -> Section:
    chosen = montage.choose(records, options.tiles, options.seed)
    colours = montage.colours_of(chosen)
    tiles = montage.tiles(chosen, colours, unread)
    note = f"{len(tiles)} of {len(chosen)} images drawn at random (seed {options.seed}) could be opened"
    note += ", up to half of them from those with boxes or masks; shown as stored, contrast stretched."
    legend = tuple((in_words(key), colour) for key, colour in colours.items())
    return Section("Montage", (note,), tiles=tiles, legend=legend if tiles else ())


def _table(
    caption: str, headers: tuple[str, ...], rows: tuple[tuple[str, ...], ...], longest: int = _LONGEST_TABLE
) -> Table:
    if len(rows) > longest:
        caption = f"{caption} (the first {longest} of {_n(len(rows))} rows)"
    return Table(caption, headers, rows[:longest])


def _counted(
    caption: str, what: str, found: Mapping[Any, int], of: str = "images", longest: int = _LONGEST_TABLE
) -> Table:
    total = sum(found.values())
    rows = tuple((str(name), _n(count), f"{100 * count / total:.1f} %") for name, count in found.items())
    return _table(caption, (what, of, "share"), rows, longest)


def _spreads(groups: Mapping[str, Sequence[float] | FloatArray]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (name, _n(len(v)), *(f"{q:.1f}" for q in np.percentile(v, (25, 50, 75)))) for name, v in groups.items()
    )


def _quartiles(areas: FloatArray) -> tuple[str, str, str]:
    first, middle, third = np.percentile(areas, (25, 50, 75)) if len(areas) else (np.nan,) * 3
    return tuple("-" if np.isnan(v) else f"{v:,.0f}" for v in (first, middle, third))  # type: ignore[return-value]


def _centre(boxes: FloatArray) -> tuple[float, float]:
    return float((boxes[:, 0] + boxes[:, 2] / 2).mean()), float((boxes[:, 1] + boxes[:, 3] / 2).mean())


def _share(present: int, absent: int) -> str:
    return f"{100 * present / (present + absent):.1f} %" if present + absent else "-"


def _several(word: str) -> str:
    return {"study": "studies", "patient": "patients"}[word]


def _n(number: int) -> str:
    return f"{number:,}"

"""Figures of the shipped weights on the folds that they never saw, by source and by view.

The rule: data, seed and number of held-out pictures must be those of the provenance, or nothing is called held out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models.bundle import Bundle
from models.networks import LiteUNet
from models.pixel_gate import GateContract, interpret
from training import lung_fields as lungs
from training import pixel_gate as gate
from training import pneumothorax as air
from training.data import (
    BoolArray,
    DataMissing,
    StructureRecord,
    data_digest,
    network_pictures,
    read_adult_normals,
    read_findings,
    read_other_pictures,
    read_structures,
    rows,
    split_patients,
)
from training.gate_evidence import Group, judge
from training.gate_samples import UNSEEN, GateSamples, load_gate_samples, read_gate_records
from training.lung_evidence import Outliner
from training.lung_evidence import judge as judge_outlines
from training.lung_samples import load_samples
from training.metrics.intervals import Figure, IntArray, Interval, attempt, mean_interval, share_interval
from training.metrics.scores import auroc
from training.pneumothorax_evidence import scores_of

UNSEEN_FRONTALS = 400  # of a collection, evenly drawn
ALL = "all"


class NotHeldOut(Exception):
    """Nobody can tell which pictures the shipped weights have not seen; the message says why."""


@dataclass(frozen=True)
class Row:
    """One figure of one group.

    Parameters
    ----------
    group
        ``all``, or such as ``source lung_masks`` or ``view AP``.
    images
        How many it is of; None where the card does not tell.
    value, low, high
        The figure with its 95 % interval by patient; None where there is none, and then `why`.
    floor
        What a simple baseline reached.
    shortcut
        What is reached without looking at the lungs: by view and source, or by a thumbnail.
    card
        What the card says of the same figure.
    """

    figure: str
    group: str
    images: int | None
    value: float | None
    low: float | None
    high: float | None
    floor: float | None = None
    shortcut: float | None = None
    card: float | None = None
    why: str = ""

    def beside(self, floor: float | None) -> Row:
        """The same with its floor."""
        return replace(self, floor=floor)


def row(figure: str, group: str, images: int, found: Figure, **more: Any) -> Row:
    """A figure, or why there is none."""
    if isinstance(found, Interval):
        return Row(figure, group, images, found.value, found.low, found.high, **more)
    return Row(figure, group, images, None, None, None, why=str(found), **more)


def by_group(
    figure: str,
    values: Sequence[float],
    patients: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    card: float | None = None,
) -> Iterator[Row]:
    """The mean of a figure over all images, then in each group of each kind.

    Parameters
    ----------
    values, patients
        One of each for every image.
    groups
        Kind of group, such as ``view``, to the name of the group of each image; where there is but one, the kind is
        left out.
    """
    everything, names = np.asarray(values, np.float64), np.asarray(patients, object)

    def mean(chosen: BoolArray) -> Figure:
        return attempt(partial(mean_interval, everything[chosen], list(names[chosen])))

    yield row(figure, ALL, len(everything), mean(np.ones(len(everything), np.bool_)), card=card)
    for kind, of_images in groups.items():
        members = np.asarray(of_images, object)
        for name in sorted(set(members)) if len(set(members)) > 1 else []:
            chosen = np.asarray(members == name, np.bool_)
            yield row(figure, f"{kind} {name or 'not known'}", int(chosen.sum()), mean(chosen))


def lung_fields(bundle: Bundle, section: Mapping[str, Any], data: Path) -> list[Row]:
    """Dice, cardiothoracic ratio and refusals on the patients that were held out.

    Raises
    ------
    NotHeldOut
    """
    if bundle.network is None or bundle.contract.plausibility is None:
        raise NotHeldOut("it outlines nothing that could be compared")
    provenance, figures = section["provenance"], section["figures"]
    try:
        records, wrong = read_structures(data), read_other_pictures(data)
    except DataMissing as error:
        raise NotHeldOut(f"{error}") from error
    files = [path for record in (*records, *wrong) for path in (record.image, *record.masks.values())]
    folds = split_patients([r.patient for r in (*records, *wrong)], lungs.FOLDS, provenance["seed"])
    chosen = [record for record in records if folds[record.patient] in lungs.HELD_OUT]
    refused = [record for record in wrong if folds[record.patient] in lungs.OTHERS_HELD_OUT]
    _check(provenance, files)
    if len(chosen) != provenance["images"]["held_out"]:
        raise NotHeldOut(
            f"{len(chosen)} pictures are held out here, {provenance['images']['held_out']} by its provenance"
        )
    outliner, samples = Outliner(bundle.network), load_samples(chosen)
    # named by their numbers, so that each value tells its picture
    numbered = replace(samples, patients=[str(number) for number in range(len(chosen))])
    judged, views = judge_outlines(outliner, numbered, np.ones(len(chosen), np.bool_)), _views(data)
    outlined: dict[str, Sequence[tuple[float, str]]] = {f"dice_{key}": judged["dice"][key] for key in judged["dice"]}
    outlined |= {"ctr_absolute_error": judged["ratio_errors"], "ctr_difference": judged["ratio_differences"]}
    found: list[Row] = []
    for figure, values in outlined.items():
        records = [chosen[int(number)] for _, number in values]
        groups = {
            "source": ["lung_masks" if samples.main_reader[int(n)] else "chest_structures" for _, n in values],
            "view": [views.get(record.image.name, "") for record in records],
        }
        card = figures.get(figure, {}).get("value")
        found += by_group(figure, [value for value, _ in values], [r.patient for r in records], groups, card)
    return [*found, *_refusals(bundle, outliner, chosen, refused, data)]


def _refusals(
    bundle: Bundle, outliner: Outliner, chosen: list[StructureRecord], wrong: list[StructureRecord], data: Path
) -> Iterator[Row]:
    """Share of pictures that would be refused: those held out, and collections that no part of the training used."""
    plausibility = bundle.contract.plausibility
    assert plausibility is not None
    groups: dict[str, list[tuple[Path, str]]] = {
        "held-out chests": [(r.image, r.patient) for r in chosen],
        "held-out lateral radiographs and CT figures": [(r.image, r.patient) for r in wrong],
    }
    nih = data / "nih_chestxray14"
    if (nih / "labels.csv").exists():
        listed = rows(nih / "labels.csv")
        for entry in listed[:: max(1, len(listed) // UNSEEN_FRONTALS)][:UNSEEN_FRONTALS]:
            name = f"NIH ChestX-ray14, view {entry['view'] or 'not known'}"
            groups.setdefault(name, []).append((nih / "images" / entry["file"], entry["patient_id"]))
    if (data / "adult_normals_224" / "labels.csv").exists():
        groups["adult normals (RSNA)"] = [(r.image, r.patient) for r in read_adult_normals(data, UNSEEN_FRONTALS)]
    for name, members in groups.items():
        pictures, _ = network_pictures([path for path, _ in members], bundle.contract.input_size, name)
        refused = [outliner.refuses(picture, plausibility) for picture in pictures]
        share = attempt(partial(share_interval, refused, [patient for _, patient in members]))
        yield row("refused", name, len(members), share)


def _views(data: Path) -> dict[str, str]:
    """View of each picture of ``lung_masks``, as far as somebody said."""
    return {entry["file"]: entry["view"] for entry in rows(data / "lung_masks" / "labels.csv")}


def pixel_gate(bundle: Bundle, section: Mapping[str, Any], data: Path) -> list[Row]:
    """Refusals and AUROC on the folds, and on the hospital, that were held out; beside those of thumbnails.

    Raises
    ------
    NotHeldOut
    """
    contract = bundle.contract.gate
    if bundle.network is None or contract is None:
        raise NotHeldOut("it is no gate")
    provenance, figures = section["provenance"], section["figures"]
    try:
        records = read_gate_records(data)
    except DataMissing as error:
        raise NotHeldOut(f"{error}") from error
    _check(provenance, [record.image for record in records])
    samples = load_gate_samples(records, provenance["seed"])
    counted = {
        source: sum(
            f in gate.HELD_OUT and r.source == source for f, r in zip(samples.fold, samples.records, strict=True)
        )
        for source in provenance["images"]["held_out"]
    }
    if counted != provenance["images"]["held_out"]:
        raise NotHeldOut("the folds hold other numbers of pictures than those that its provenance counts")
    evidence = judge(bundle.network, samples, data, gate.CALIBRATING, gate.HELD_OUT)
    adults = [g for g in evidence.groups if g.accept and g.name.startswith("held-out")]
    margins, patients = np.concatenate([g.margins for g in adults]), [p for g in adults for p in g.patients]
    found = []
    for group in evidence.groups:
        kind = group.name.removeprefix("held-out ")
        card = figures.get(group.name, {}).get("value")
        share, should = _refused(group, contract), "pass" if group.accept else "be refused"
        shortcut = evidence.baseline.get(kind.partition(":")[0])
        found.append(row("refused", f"{group.name} (should {should})", len(group.margins), share, card=card,
                         shortcut=shortcut))  # fmt: skip
        if not group.accept and len(group.margins):
            truth = np.concatenate((np.ones(len(margins)), np.zeros(len(group.margins))))
            scores = np.concatenate((margins, group.margins))
            area = attempt(partial(auroc, truth, scores, [*patients, *group.patients]))
            found.append(row("AUROC against held-out adults", group.name, len(group.margins), area))
    views = {entry["file"]: entry["view"] for entry in rows(data / "nih_chestxray14" / "labels.csv")}
    hannover = {f"{e['image_id']}.jpg": e["projection"].upper() for e in rows(data / "hannover_covid" / "labels.csv")}
    for name, source, folds, known in (
        ("held-out frontal: nih", "nih", gate.HELD_OUT, views),
        ("unseen hospital (Hannover)", UNSEEN, tuple(range(10)), hannover),
    ):
        group = next(g for g in evidence.groups if g.name == name)
        found += _by_view(group, samples, samples.indices("frontal", folds, source), known, contract)
    return found


def pneumothorax(bundle: Bundle, section: Mapping[str, Any], data: Path) -> list[Row]:
    """AUROC on the pictures of patients that it never saw, by source and view.

    Raises
    ------
    NotHeldOut
    """
    if not isinstance(bundle.network, LiteUNet):
        raise NotHeldOut("it is another network than those that are trained here")
    provenance, figures = section["provenance"], section["figures"][air.KEY]
    try:
        records = [record for record in read_findings(data) if air.KEY in record.labels]
    except DataMissing as error:
        raise NotHeldOut(f"{error}") from error
    _check(provenance, [*(record.image for record in records), data / "nih_chestxray14" / "labels.csv"])
    _, chosen = air.split(records, provenance["seed"])
    pictures, _ = network_pictures([record.image for record in chosen], bundle.contract.input_size, air.KEY)
    scores = scores_of(np.concatenate(list(air.answer(bundle.network, pictures))))
    truth = np.array([record.labels[air.KEY] for record in chosen])
    patients = np.array([record.patient for record in chosen], object)
    groups = {ALL: np.ones(len(chosen), np.bool_)}
    for kind in ("source", "view"):
        of_images = np.array([getattr(record, kind) for record in chosen], object)
        groups |= {f"{kind} {name or 'not known'}": of_images == name for name in sorted(set(of_images))}
    found = []
    for group, members in groups.items():
        area = attempt(partial(auroc, truth[members], scores[members], list(patients[members])))
        told = {"card": figures["auroc"]["value"], "shortcut": figures["shortcut"]} if group == ALL else {}
        found.append(row(f"{air.KEY}.auroc", group, int(members.sum()), area, **told))
    return found


def _by_view(
    group: Group, samples: GateSamples, chosen: IntArray, views: Mapping[str, str], contract: GateContract
) -> Iterator[Row]:
    """A group of pictures, whose numbers among the samples are `chosen`, by the view that their collection names."""
    of_pictures = [views.get(samples.records[int(i)].image.name, "") for i in chosen]
    for view in sorted(set(of_pictures)):
        members = [n for n, name in enumerate(of_pictures) if name == view]
        part = replace(group, logits=group.logits[members], patients=[group.patients[n] for n in members])
        yield row("refused", f"{group.name}, view {view or 'not known'}", len(members), _refused(part, contract))


def _refused(group: Group, contract: GateContract) -> Figure:
    """Share of a group that is refused; where all are, or none, the interval still knows how few they are."""
    refused = [not interpret(logits, contract).accepted for logits in group.logits]
    return attempt(partial(share_interval, refused, group.patients))


def _check(provenance: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Raise `NotHeldOut` unless the data are those that the weights were made with."""
    if data_digest(files) != provenance["data_sha256"]:
        raise NotHeldOut("the data here are not those that it was made with")

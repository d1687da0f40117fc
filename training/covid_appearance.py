"""Measures ``covid_appearance``: how often each class and each criterion occurs; writes its figures and its card.

The rule: no set here is labelled with appearances, so there is no accuracy to tell; only how often what is called, on
whose pictures, by which opacities. The contract is read and never changed: nothing is fitted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from models.appearance import CLASSES, AppearanceClass, CriteriaContract, derive
from models.bundle import Bundle, load_bundle
from models.findings import Criterion, Finding, FindingState, ImageFindings, Region, View
from models.inference import ImageIdentity, Models, assemble
from models.names import in_short
from models.opacities import lung_fields
from models.refusal import ImageRefused
from models.rendering import render_picture
from training.card import Card, Table, write_card
from training.data import BOXED_SIDE, NIH_COLUMNS, data_digest, read_findings, rows
from training.metrics.intervals import Interval, share_interval

OTHERS = ("lung_fields", "chest_findings", "lung_opacity")  # whose outlines, boxes and findings it is derived from
MOST = 400  # pictures of a source, evenly drawn
HANNOVER, COVID = "COVID-19 (Hannover)", "COVID-19 (radiography database)"
NORMAL, NIH = "adult normals (RSNA)", "NIH ChestX-ray14, before 2018"
OPAQUE, CLEAR = "RSNA: opacity", "RSNA: no opacity"
# What a derived image can come to.
OUTCOMES = (*CLASSES, AppearanceClass.UNDETERMINED, AppearanceClass.NOT_EVALUATED)
_REFUSED = "refused"
_SAID = {FindingState.PRESENT: "met", FindingState.UNDETERMINED: "open", FindingState.NOT_EVALUATED: "not evaluated"}


@dataclass(frozen=True)
class Case:
    """A picture of a source; `labels` and `boxes` where somebody said what it shows."""

    image: Path
    source: str
    patient: str
    labels: Mapping[str, float]
    boxes: Sequence[tuple[float, float, float, float]] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a picture: one of `OUTCOMES`, or ``refused``; and its criteria."""

    source: str
    patient: str
    label: str
    criteria: tuple[Criterion, ...] = ()


def judge(data: Path, bundle: Path) -> None:
    """Apply the criteria to real radiographs; write figures, provenance and card into the bundle.

    Parameters
    ----------
    data
        Folder with ``nih_chestxray14``, ``adult_normals_224`` and ``hannover_covid``.
    bundle
        Folder of ``covid_appearance``, with its contract.

    Raises
    ------
    DataMissing
    BundleInvalid
        When the contract, or a bundle that is derived from, cannot be loaded.
    """
    shipped = Path(__file__).resolve().parent.parent / "models"
    criteria, others = load_bundle(bundle, "covid_appearance"), [load_bundle(shipped / name) for name in OTHERS]
    models = assemble([*others, criteria], threads=1)
    cases, labelled = list(read_cases(data)), list(read_labelled(data))
    by_models = [_read(models, case) for case in tqdm(cases, desc="criteria on what models find", unit="image")]
    contract = criteria.contract.criteria
    assert contract is not None  # noqa: S101  (it is a bundle of criteria)
    by_people = [
        _read_labelled(models, contract, case) for case in tqdm(labelled, desc="criteria on drawn boxes", unit="image")
    ]
    outcomes = [*by_models, *by_people]
    file = bundle / "configs" / "metadata.json"
    metadata = json.loads(file.read_text("utf-8"))
    tables = [data / "nih_chestxray14" / name for name in ("labels.csv", "boxes_512.csv")]
    metadata["hilum"]["provenance"] = {
        "command": "./hilum train covid_appearance",
        "data_sha256": data_digest([*(case.image for case in (*cases, *labelled)), *tables]),
        "derived_from": {b.identity.name: [b.identity.version, b.identity.weights_digest] for b in others},
        "images": {source: sum(o.source == source for o in outcomes) for source in _sources(outcomes)},
    }
    metadata["hilum"]["figures"] = {key: asdict(share) for key, share in figures(outcomes).items()}
    file.write_text(json.dumps(metadata, indent=1) + "\n", "utf-8")
    (bundle / "docs").mkdir(exist_ok=True)
    write_card(bundle, card(outcomes, contract, metadata["version"], metadata["hilum"]["provenance"], others))


def read_cases(data: Path) -> Iterator[Case]:
    """Pictures on which the opacity model was not trained, of each source `MOST` at most."""
    for row in rows(data / "hannover_covid" / "labels.csv"):
        image = data / "hannover_covid" / "images" / f"{row['image_id']}.jpg"
        if image.exists():
            yield Case(image, HANNOVER, row["patient_id"], {})
    database = rows(data / "adult_normals_224" / "labels.csv")
    for group, source in (("covid", COVID), ("normal_adult", NORMAL)):
        for row in _evenly([row for row in database if row["group"] == group]):
            yield Case(data / "adult_normals_224" / row["file"], source, row["id"], {})
    unlabelled = [record for record in read_findings(data) if "lung_opacity" not in record.labels]
    for record in _evenly(unlabelled):
        yield Case(record.image, NIH, record.patient, record.labels)


def read_labelled(data: Path) -> Iterator[Case]:
    """Pictures on which radiologists drew opacities, or said that there are none (RSNA 2018)."""
    for record in read_findings(data):
        if "lung_opacity" in record.labels:
            source = OPAQUE if record.labels["lung_opacity"] else CLEAR
            yield Case(record.image, source, record.patient, record.labels, record.boxes.get("lung_opacity", []))


def figures(outcomes: Sequence[Outcome]) -> dict[str, Interval]:
    """Share of each class among the pictures of each source that were read, and of those refused among all."""
    shares = {}
    for source in _sources(outcomes):
        of_source = [o for o in outcomes if o.source == source]
        read = [o for o in of_source if o.label != _REFUSED]
        shares[f"{source}: refused"] = _share(of_source, _REFUSED)
        shares |= {f"{source}: {_called(label)}": _share(read, label) for label in OUTCOMES if read}
    return shares


def _share(outcomes: Sequence[Outcome], label: str) -> Interval:
    return share_interval(np.array([o.label == label for o in outcomes]), [o.patient for o in outcomes])


def _sources(outcomes: Sequence[Outcome]) -> list[str]:
    return list(dict.fromkeys(outcome.source for outcome in outcomes))


def _evenly(found: Sequence[Any]) -> Sequence[Any]:
    return found[:: max(1, len(found) // MOST)][:MOST]


def _read(models: Models, case: Case) -> Outcome:
    """As the node reads it."""
    try:
        found = _predict(models, case)
    except ImageRefused:
        return Outcome(case.source, case.patient, _REFUSED)
    return Outcome(case.source, case.patient, label_of(found.findings), found.criteria)


def _read_labelled(models: Models, contract: CriteriaContract, case: Case) -> Outcome:
    """With the boxes and labels of people, and the outlines of the lungs."""
    image = render_picture(case.image)
    try:
        segments = _predict(models, case).segments
    except ImageRefused:
        return Outcome(case.source, case.patient, _REFUSED)
    scale = image.shape[0] / BOXED_SIDE
    regions = tuple(Region(x * scale, y * scale, w * scale, h * scale, 1.0) for x, y, w, h in case.boxes)
    lungs = lung_fields(segments, image.hanging, image.aspect)
    found = derive(findings_of(case.labels, regions), lungs, contract=contract)
    return Outcome(case.source, case.patient, found.label, found.criteria)


def findings_of(labels: Mapping[str, float], regions: tuple[Region, ...]) -> Iterator[Finding]:
    """What people said of a picture as findings."""
    for key in (*NIH_COLUMNS, "lung_opacity"):
        if key in labels:
            state = FindingState.PRESENT if labels[key] else FindingState.ABSENT
            yield Finding(key, state, regions=regions if key == "lung_opacity" else ())


def label_of(findings: Sequence[Finding]) -> str:
    """The class that was derived, from the states of the four findings."""
    states = {finding.key: finding.state for finding in findings if finding.key in CLASSES}
    called = [key for key, state in states.items() if state is FindingState.PRESENT]
    open_ = any(state is FindingState.UNDETERMINED for state in states.values())
    return called[0] if called else AppearanceClass.UNDETERMINED if open_ else AppearanceClass.NOT_EVALUATED


def _predict(models: Models, case: Case) -> ImageFindings:
    return models.predict(render_picture(case.image), ImageIdentity("", "", "", View.FRONTAL))


def card(
    outcomes: Sequence[Outcome],
    contract: CriteriaContract,
    version: str,
    provenance: Mapping[str, Any],
    others: Sequence[Bundle],
) -> Card:
    """The model card."""
    shares = figures(outcomes)
    header = ("source", "pictures read", *map(_called, OUTCOMES), _REFUSED)

    def row(source: str) -> tuple[str, ...]:
        read = sum(o.source == source and o.label != _REFUSED for o in outcomes)
        keys = (*map(_called, OUTCOMES), _REFUSED)
        return (source, str(read), *(_percent(shares.get(f"{source}: {key}")) for key in keys))

    sources = _sources(outcomes)
    drawn = [source for source in (OPAQUE, CLEAR) if source in sources]
    named = ", ".join(f"{other.identity.name} {other.identity.version}" for other in others)
    return Card(
        title="covid_appearance",
        version=version,
        caption="How often each class occurs",
        purpose="Derives which appearance for COVID-19 pneumonia a frontal chest radiograph of an adult has, by the "
        "criteria of Litmanovich et al., J Thorac Imaging 2020;35:354-360, table 1, from the opacities, lungs and "
        "findings of other bundles. **Typical**: lower-lung predominant opacities that are multifocal, bilateral and "
        "peripheral, or rounded. **Indeterminate**: not typical, and unilateral, central or upper-lung predominant. "
        "**Atypical**: pneumothorax, pleural effusion, pulmonary edema, lobar consolidation, solitary nodule or mass, "
        "diffuse tiny nodules, or a cavity. **Negative**: no opacity. Intended use: research, with every criterion "
        "shown beside the class. It has no network and no weights, gives no probability, raises no reading priority, "
        "and neither states nor excludes COVID-19. A site that leaves it out of `bundles` has no appearance.",
        data="Nothing was trained. **No set labelled with these classes was available: there is no figure of "
        "accuracy.** Measured instead is how often each class occurs, as share of the pictures that were read, with "
        f"95 % intervals by patient. Opacities and findings are those of {named}, whose opacity head learnt from "
        "none of these pictures (the rest learnt from those of NIH ChestX-ray14), but for four to ten of the "
        "radiography database, which look like ones with outlines that taught it.",
        header=header,
        rows=[row(source) for source in sources if source not in drawn],
        tables=(
            Table(
                "How often, with opacities drawn by radiologists",
                header,
                [row(source) for source in drawn],
                "Boxes and their absence are those of RSNA 2018, the other findings NIH's text-mined labels, the lungs "
                "those that lung_fields outlines: the criteria without the opacity model.",
            ),
            _criteria_table(outcomes, sources),
        ),
        notes=(
            _seldom(outcomes),
            "The published table gives no numbers. Ours: "
            + "; ".join(
                f"{key.replace('_', ' ')} {', '.join(value) if isinstance(value, tuple) else value}"
                for key, value in asdict(contract).items()
            )
            + ". They were chosen by reading the definitions and fitted to nothing.",
            "A class is no better than the opacities that it rests on: see the card of lung_opacity. An opacity "
            "between its operating points leaves the class undetermined.",
            "No active model knows pneumothorax, nodules, cavities or lobar consolidation well enough yet: these "
            "criteria count as not evaluated, atypical is then not ruled out, and is told so.",
            "Opacities known as boxes alone can be told too elongated to be rounded, never to be rounded.",
            "The pictures before 2018 and the normals show nobody with COVID-19; what is called typical there has that "
            "appearance for another reason, or has boxes in the wrong place. Heart failure, other viral pneumonia, "
            "aspiration and organising pneumonia can look typical.",
            "The COVID-19 pictures say nothing about sensitivity: nobody read them by these criteria, and a radiograph "
            "of a patient with COVID-19 can be normal. Sources differ in hospital, view and resolution.",
            "Pictures of Hannover are among those from which lung_fields learnt to outline lungs, and RSNA's normals "
            "come from NIH ChestX-ray14: copies between these collections were not looked for.",
            "Adults only; negative does not exclude COVID-19, of which early radiographs can be normal.",
        ),
        plots=(),
        provenance=json.dumps(provenance, indent=1),
    )


def _seldom(outcomes: Sequence[Outcome]) -> str:
    """How seldom a class is known where COVID-19 is, and what leaves it open."""
    ill = [o for o in outcomes if o.source in (HANNOVER, COVID) and o.label != _REFUSED]
    typical = sum(o.label == AppearanceClass.TYPICAL for o in ill)
    undetermined = [o for o in ill if o.label == AppearanceClass.UNDETERMINED]
    open_ = {
        key: sum(any(c.key == key and c.state is FindingState.UNDETERMINED for c in o.criteria) for o in undetermined)
        for key in ("effusion", "no_opacity")
    }
    return (
        f"**Of {len(ill)} pictures of patients with COVID-19, typical is called in {typical}**, and the class is left "
        f"undetermined in {len(undetermined)}: effusion lies between its operating points in {open_['effusion']} of "
        f"these, opacity in {open_['no_opacity']}. Until models tell both better, the class says little; its criteria "
        "may still help whoever looks at the picture."
    )


def _criteria_table(outcomes: Sequence[Outcome], sources: Sequence[str]) -> Table:
    """How often each criterion is met, could not be told, was not evaluated."""
    keys = dict.fromkeys(criterion.key for outcome in outcomes for criterion in outcome.criteria)
    lines = []
    for key in keys:
        cells = []
        for source in sources:
            told = [c for o in outcomes if o.source == source for c in o.criteria if c.key == key]
            counts = {word: sum(c.state is state for c in told) for state, word in _SAID.items()}
            cells.append(" / ".join(f"{100 * count / len(told):.0f}" for count in counts.values()) if told else "-")
        lines.append((key.replace("_", " "), *cells))
    note = "Per cent of the pictures that were read: met / open / not evaluated; of the rest it is not met."
    return Table("How often each criterion is met", ("criterion", *sources), lines, note)


def _called(label: AppearanceClass) -> str:
    return in_short(label.value).removeprefix("COVID-19: ") if label in CLASSES else label.value.replace("_", " ")


def _percent(share: Interval | None) -> str:
    if share is None:
        return "-"
    low, high = (f"{100 * value:.0f}" for value in (share.low, share.high))
    return f"{100 * share.value:.0f} % ({low} to {high})"

"""``./hilum bench models``: what is held out is measured, what is not is told as the card's; on a made-up data set."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from other_versions import SHIPPED, edit
from PIL import Image

from models.bundle import load_bundle
from models.phantom import Pathology, chest
from tests.bench import bundles, held_out
from training.data import NIH_COLUMNS, data_digest, read_findings, read_other_pictures, read_structures, split_patients
from training.lung_evidence import Outliner
from training.lung_samples import load_samples
from training.metrics import overlap
from training.pneumothorax import split

SEED = 7
PATIENTS = [f"p{number}" for number in range(14)]
HELD_OUT = [patient for patient in PATIENTS if split_patients(PATIENTS, 5, SEED)[patient] == 0]


def picture(path: Path, values: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * values).astype(np.uint8)).save(path)
    return path.name


def table(path: Path, entries: Sequence[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(entries[0]))
        writer.writeheader()
        writer.writerows(entries)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Computed chests in the form of the data sets: one a patient, every second one AP, three with hearts."""
    folder = tmp_path_factory.mktemp("data")
    lungs, parts = [], []
    for number, patient in enumerate(PATIENTS):
        made, name = chest(number, rows=256, columns=256), f"{patient}.png"
        both = made.masks["lung_right"] | made.masks["lung_left"]
        picture(folder / "lung_masks" / "images" / name, made.pixels)
        picture(folder / "lung_masks" / "masks" / name, both.astype(float))
        lungs.append({"file": name, "mask": name, "patientid": patient, "view": "AP" if number % 2 else "PA"})
        if number < 3 or patient in HELD_OUT[:2]:
            picture(folder / "chest_structures" / "images" / name, made.pixels)
            for structure, key in (("Cardiomediastinum", "heart"), ("Right_Lung", "lung_right"),
                                   ("Left_Lung", "lung_left")):  # fmt: skip
                mask = picture(folder / "chest_structures" / "masks" / f"{patient}-{key}.png",
                               made.masks[key].astype(float))  # fmt: skip
                parts.append({"file": name, "patientid": patient, "structure": structure, "mask": mask})
    table(folder / "lung_masks" / "labels.csv", lungs)
    table(folder / "chest_structures" / "masks.csv", parts)
    picture(folder / "view_gate" / "limb.png", np.linspace(0, 1, 65536).reshape(256, 256))
    table(folder / "view_gate" / "labels.csv", [{"file": "limb.png", "patientid": HELD_OUT[0], "group": "lateral"}])
    return folder


@pytest.fixture
def bundle(data: Path, tmp_path: Path) -> Path:
    """``lung_fields`` as if it had been made with these data."""
    folder = tmp_path / "models" / "lung_fields"
    shutil.copytree(SHIPPED / "lung_fields", folder)
    records = [*read_structures(data), *read_other_pictures(data)]
    digest = data_digest(path for record in records for path in (record.image, *record.masks.values()))
    provenance = {"command": f"./hilum train lung_fields --seed {SEED}", "seed": SEED, "data_sha256": digest,
                  "images": {"held_out": len(HELD_OUT)}}  # fmt: skip
    edit(folder, lambda metadata: metadata["hilum"].update(provenance=provenance))
    return folder


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast it is, is not a test's business."""
    monkeypatch.setattr(bundles, "_TIMED", 1)
    monkeypatch.setattr(bundles, "_SIDE", 256)


def test_the_figures_are_those_of_the_held_out_patients_alone(bundle: Path, data: Path, tmp_path: Path) -> None:
    (found,) = bundles.compare(json_file=tmp_path / "figures.json", bundles=bundle.parent, data=data)
    assert found.evidence == bundles.HELD_OUT
    network = load_bundle(bundle).network
    assert network is not None
    records = [record for record in read_structures(data) if record.patient in HELD_OUT]
    samples, outliner = load_samples(records), Outliner(network)
    expected = []
    for image, truth in zip(samples.pictures, samples.masks, strict=True):
        right, left, _ = outliner.scores(image)
        expected.append(overlap.dice((right >= 0.5) | (left >= 0.5), truth[0] | truth[1]))
    by_name = {(row.figure, row.group): row for row in found.rows}
    lungs = by_name["dice_lungs", "all"]
    assert len(HELD_OUT) >= 3
    assert (lungs.images, lungs.floor) == (len(HELD_OUT), 0.952)
    assert lungs.value == pytest.approx(np.mean(expected))
    assert lungs.low is not None
    assert lungs.high is not None
    assert lungs.low == pytest.approx(min(expected)), "of three patients some draw takes the worst alone"
    assert lungs.high == pytest.approx(max(expected))
    assert lungs.card == json.loads((SHIPPED / "lung_fields/configs/metadata.json").read_text())["hilum"]["figures"][
        "dice_lungs"]["value"]  # fmt: skip
    assert by_name["dice_heart", "all"].images == 2
    refused = by_name["refused", "held-out lateral radiographs and CT figures"]
    assert (refused.images, refused.value) == (1, 1.0)
    views = [row for (figure, group), row in by_name.items() if figure == "dice_lungs" and group.startswith("view")]
    assert sum(row.images or 0 for row in views) == len(HELD_OUT)
    written = json.loads((tmp_path / "figures.json").read_text())
    assert [row["value"] for row in written[0]["rows"]] == [row.value for row in found.rows]
    assert found.seconds > 0


def test_pneumothorax_is_judged_on_the_patients_that_were_never_trained_on(tmp_path: Path) -> None:
    folder, listed = tmp_path / "data" / "nih_chestxray14", []
    for number, patient in enumerate(PATIENTS):
        ill = number % 4 == 0
        made = chest(number, rows=512, columns=512, pathologies=[Pathology("pneumothorax", size=0.9)] if ill else [])
        labels = {name: str(int(ill and key == "pneumothorax")) for key, name in NIH_COLUMNS.items()}
        listed.append({"file": picture(folder / "images" / f"{patient}.png", made.pixels), "patient_id": patient,
                       "source_repo": "one", "view": "AP" if number % 2 else "PA", "no_finding": str(int(not ill)),
                       "rsna_opacity": "", **labels, **{f"teacher_{name}": "" for name in labels}})  # fmt: skip
    table(folder / "labels.csv", listed)
    (folder / "boxes_512.csv").write_text("file,source,label,x,y,w,h\n")
    bundle = tmp_path / "models" / "pneumothorax"
    shutil.copytree(SHIPPED / "pneumothorax", bundle)
    records = read_findings(tmp_path / "data")
    digest = data_digest([*(record.image for record in records), folder / "labels.csv"])
    edit(bundle, lambda metadata: metadata["hilum"]["provenance"].update(seed=SEED, data_sha256=digest))
    found = bundles.measure(bundle, tmp_path / "data")
    assert found.evidence == bundles.HELD_OUT
    _, tested = split(records, SEED)
    rows = {row.group: row for row in found.rows}
    assert rows["all"].images == len(tested) < len(records)
    assert rows["all"].value is not None
    assert rows["all"].value > 0.8, "those of phantoms are found"
    assert rows["view PA"].images == sum(record.view == "PA" for record in tested)
    assert rows["view AP"].why, "none of them has one"
    edit(bundle, lambda metadata: metadata["hilum"]["provenance"].update(data_sha256="0" * 64))
    assert "not those that it was made with" in bundles.measure(bundle, tmp_path / "data").evidence


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"data_sha256": "0" * 64}, "not those that it was made with"),
        ({"images": {"held_out": 1}}, "by its provenance"),
    ],
)
def test_what_nobody_knows_to_be_held_out_is_told_as_the_card_s(
    bundle: Path, data: Path, change: dict[str, object], why: str
) -> None:
    edit(bundle, lambda metadata: metadata["hilum"]["provenance"].update(change))
    found = bundles.measure(bundle, data)
    assert found.evidence.startswith("from the card: ")
    assert why in found.evidence
    figures = json.loads((bundle / "configs" / "metadata.json").read_text())["hilum"]["figures"]
    told = {row.figure: (row.value, row.low, row.high) for row in found.rows}
    assert told["dice_heart"] == tuple(figures["dice_heart"][part] for part in ("value", "low", "high"))


def test_without_the_data_the_card_speaks_and_says_that_its_weights_saw_everything(tmp_path: Path) -> None:
    found = bundles.measure(SHIPPED / "chest_findings", tmp_path)
    assert "the shipped weights have seen every picture" in found.evidence
    assert found.again == "./hilum train chest_findings --epochs 9 --seed 7 --out DIR"
    rows = {(row.figure, row.group): row for row in found.rows}
    assert rows["abnormal.auroc", "all"].floor == 0.878
    assert rows["abnormal.auroc", "all"].shortcut is not None
    assert rows["effusion.auroc", "within the randomly drawn source"].value is not None
    assert "lung_fields" not in found.evidence
    assert bundles.measure(SHIPPED / "lung_fields", tmp_path).evidence.startswith("from the card: ")


def test_a_card_is_read_at_any_depth_and_what_is_no_figure_is_left_out() -> None:
    interval = {"value": 0.8, "low": 0.7, "high": 0.9}
    of_finding = {"auroc": interval, "shortcut": 0.6, "images": 9, "positives": 3}
    card = {"a": of_finding, "auroc": {"findings": {"b": interval}}, "refused": {"chests": [0, 53]}, "c": None}
    first, second = bundles.of_card(card)
    assert (first.figure, first.images, first.shortcut, first.value) == ("a.auroc", 9, 0.6, 0.8)
    assert (second.figure, second.images, second.shortcut, second.low) == ("auroc.findings.b", None, None, 0.7)


def test_groups_have_their_own_means_and_a_kind_of_one_group_is_left_out() -> None:
    rows = list(
        held_out.by_group(
            "error", [0.0, 0.2, 0.4, 0.6], ["a", "a", "b", "c"], {"view": ["AP", "PA", "PA", "AP"], "source": ["x"] * 4}
        )
    )
    assert [(row.group, row.images, row.value) for row in rows] == [
        ("all", 4, pytest.approx(0.3)),
        ("view AP", 2, pytest.approx(0.3)),
        ("view PA", 2, pytest.approx(0.3)),
    ]
    alone = next(held_out.by_group("error", [0.5], ["a"], {}))
    assert (alone.value, alone.why) == (None, "too few"), "one patient has no interval"

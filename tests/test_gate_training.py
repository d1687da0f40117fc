"""What the pixel gate is taught and judged on: copies stay together, positions are made right, folds do not leak."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.phantom import chest
from training import gate_samples
from training.gate_evidence import Group, refused_share
from training.gate_samples import (
    MADE,
    MISLABELLED,
    OTHER_CHILDREN,
    TEENAGERS,
    UNSEEN,
    GateRecord,
    copies,
    load_gate_samples,
    make,
    natural_pictures,
    read_gate_records,
)
from training.pixel_gate import CALIBRATING, HELD_OUT, SHARES, TEACHING, Lessons
from training.turning import turn

from models.pixel_gate import CLASSES, GateContract  # isort: skip


def test_every_fold_has_one_task_and_every_class_is_shown() -> None:
    assert sorted((*TEACHING, *CALIBRATING, *HELD_OUT)) == list(range(gate_samples.FOLDS))
    assert set(SHARES) == set(CLASSES)
    assert sum(SHARES.values()) == pytest.approx(1.0)


def test_positions_are_what_they_are_called() -> None:
    torch.manual_seed(0)
    picture = torch.arange(16.0).reshape(4, 4)
    assert torch.equal(turn(picture, "mirrored"), picture.flip(-1))
    assert torch.equal(turn(picture, "frontal"), picture)
    for _ in range(6):
        left = turn(picture, "turned_left")
        # what was on top of the picture is on its left
        assert set(left[:, 0].tolist()) == set(picture[0].tolist())
        assert set(turn(picture, "turned_right")[:, -1].tolist()) == set(picture[0].tolist())
        assert set(turn(picture, "upside_down")[-1].tolist()) == set(picture[0].tolist())


@pytest.mark.parametrize("kind", MADE)
def test_what_is_made_has_the_size_of_a_chest(kind: str) -> None:
    torch.manual_seed(0)
    made = make(torch.rand(160, 160), kind)
    assert made.shape == (160, 160)
    assert torch.isfinite(made).all()


def test_photographs_that_teach_are_others_than_those_that_test() -> None:
    teaching, testing = natural_pictures(held_out=False), natural_pictures(held_out=True)
    assert min(len(teaching), len(testing)) > 10
    assert not {p.tobytes() for p in teaching} & {p.tobytes() for p in testing}


def test_copies_in_two_collections_are_found_and_other_patients_are_not() -> None:
    pictures = np.stack([chest(seed, rows=160, columns=160, heart=heart).pixels
                         for seed, heart in ((1, 0.9), (3, 1.4))]).astype(np.float16)  # fmt: skip
    brighter = np.clip(pictures[0] * 0.9 + 0.05, 0, 1)
    noise = np.random.default_rng(0).random((1, 160, 160)).astype(np.float16)
    assert copies(np.concatenate((pictures, brighter[None], noise))) == [(0, 2)]


def test_a_copy_of_the_unseen_hospital_s_picture_teaches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_samples, "COMPUTED", 2)
    rng = np.random.default_rng(0)
    records = []
    for name, source, patient in (("a", "nih", "p1"), ("b", "nih", "p1"), ("c", "covid", "p2"), ("d", UNSEEN, "p3")):
        coarse = Image.fromarray((rng.random((10, 10)) * 255).astype(np.uint8)).resize((200, 200))
        coarse.save(tmp_path / f"{name}.png")
        records.append(GateRecord(tmp_path / f"{name}.png", "frontal", source, patient))
    with Image.open(tmp_path / "d.png") as unseen:
        unseen.resize((240, 240)).save(tmp_path / "c.png")
    samples = load_gate_samples(records, seed=1)
    kept = [record.image.stem for record in samples.records if record.source != "computed"]
    assert kept == ["a", "b", "d"]
    assert samples.fold[0] == samples.fold[1], "one patient, one fold"
    everything = tuple(range(gate_samples.FOLDS))
    assert UNSEEN not in {samples.records[i].source for i in samples.indices("frontal", everything)}
    assert len({samples.groups[i] for i in samples.indices("frontal", everything, "computed")}) == 2


def test_lessons_repeat_with_their_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_samples, "COMPUTED", 12)
    records = []
    for number in range(24):
        shows = ("frontal", "child", "lateral", "other")[number % 4]
        Image.fromarray((np.random.default_rng(number).random((100, 100)) * 255).astype(np.uint8)).save(
            tmp_path / f"{number}.png"
        )
        records.append(GateRecord(tmp_path / f"{number}.png", shows, "nih", str(number)))
    samples = load_gate_samples(records, seed=1)
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        lessons = Lessons(samples, natural_pictures(held_out=False), np.random.default_rng(3))
        drawn.append(lessons.batch())
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert drawn[0][0].shape[1:] == (1, 160, 160)


def test_a_share_counts_what_falls_below_the_threshold() -> None:
    logits = np.zeros((10, len(CLASSES)), np.float32)
    logits[:3, 0], logits[3:, 2] = 8.0, 8.0
    contract = GateContract(tuple(CLASSES), 1.0, 0.0, 0.5)
    share = refused_share(Group("g", logits, [str(i) for i in range(10)], accept=False), contract)
    assert share.value == pytest.approx(0.7)


@pytest.mark.shared
def test_collections_are_read_with_their_caveats(shared_data: Path) -> None:
    records = read_gate_records(shared_data)
    by_source = {source: [r for r in records if r.source == source] for source in {r.source for r in records}}
    assert {UNSEEN, TEENAGERS, OTHER_CHILDREN, MISLABELLED, "nih", "normal_adult", "paediatric_pneumonia"} <= set(
        by_source
    )
    assert not [r for r in by_source["paediatric_pneumonia"] if "COVID" in r.image.name.upper()], "those are adults"
    assert len(by_source[MISLABELLED]) > 60
    assert all(record.image.exists() for record in records)

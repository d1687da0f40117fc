"""Teachers of cross-validation: whom they see, what they say, and that a stopped run goes on in their midst."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from samples import write_sample
from toys import same

from models.bundle import load_bundle
from training import __main__ as command
from training import loop
from training.loop import TrainingStopped
from training.ray_train import check_workers
from training.readers.records import DataSet
from training.recipe import Recipe, load_recipe
from training.run import Places, Trained, train
from training.sampling import IntArray
from training.tables import RecipeInvalid
from training.tasks.common import build_network, named
from training.teachers import cross_validation, with_probabilities

TOML = """
name = "taught"
about = "Infiltrates by a small network whose teachers are larger"

[data]
set = "nih"
findings = ["infiltration", "effusion"]
unmentioned = "zeros"

[split]
val = 0.25

[picture]
size = 64

[network]
_target_ = "monai.networks.nets.DenseNet"
spatial_dims = 2
in_channels = 1
out_channels = 2
init_features = 8
growth_rate = 4
block_config = [2, 2]

[task]
kind = "classification"

[loss]
kind = "distilled"
share = 0.8

[teachers]
count = 2

[teachers.network]
_target_ = "monai.networks.nets.DenseNet"
spatial_dims = 2
in_channels = 1
out_channels = 2
init_features = 8
growth_rate = 4
block_config = [2, 2, 2]

[augmentation]
degrees = 5.0
log_scale = 0.05
shift = 0.05

[schedule]
epochs = 1
batch = 2
rate = 1e-4

[evaluation]
watch = "loss"
calibration = "isotonic"
report = ["auroc"]
"""


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample("nih", tmp_path_factory.mktemp("nih"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return toys.data_set(tmp_path_factory.mktemp("toys"))


def recipe(**teachers: Any) -> Recipe:
    return toys.recipe("classification", loss={"kind": "distilled"}, teachers={"count": 3, **teachers})


def trained(data: DataSet, folder: Path) -> Trained:
    return train(recipe(), Places(folder, folder / "run"), data=data)


def test_an_ensemble_becomes_one_network_and_a_run_that_was_stopped_goes_on_in_the_midst_of_it(
    download: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taught.toml").write_text(TOML)
    parts, pictures = tmp_path / "parts", tmp_path / "pictures"

    def called(*options: str) -> int:
        known = [tmp_path / "taught.toml", "--data", download, "--pictures", pictures, "--threads", 1, "--out", parts]
        return command.main([str(each) for each in (*known, *options)])

    torch.set_num_threads(1)
    whole = train(load_recipe(tmp_path / "taught.toml"), Places(download, tmp_path / "whole", pictures))
    begun, original = list[Path](), loop._Trainer._epoch

    def interrupted(self: loop._Trainer, *rest: Any) -> dict[str, float]:
        begun.append(self.run.folder)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return original(self, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(loop._Trainer, "_epoch", interrupted)
        assert called() == command.INTERRUPTED
        assert called() == 1
        assert "teachers/1 holds a run already: resume it" in capsys.readouterr().err
        assert called("--resume") == 0
    run = parts / "run"
    assert begun == [run / "teachers" / "1", run / "teachers" / "2", run / "teachers" / "2", run]
    assert same(torch.load(run / "weights.pt", weights_only=True), whole.task.shipped.state_dict())
    assert load_bundle(parts).identity.name == "parts"

    facts = json.loads((run / "run.json").read_text())
    each = facts["teachers"]["each"]
    assert sum(one["tells_of"] for one in each) == facts["records"]["train"]
    assert all(one["learnt_from"] + one["tells_of"] == facts["records"]["train"] for one in each)
    assert set(facts["teachers"]["auroc"]) == {"infiltration", "effusion"}
    told = json.loads((parts / "configs" / "metadata.json").read_text())["hilum"]
    assert told["provenance"]["teachers"] == facts["teachers"]
    card = (parts / "docs" / "README.md").read_text()
    assert "Taught by 2 networks of cross-validation over the" in card
    assert "count for 80% of the loss" in card
    assert "AUROC of the teachers on what they did not learn from: infiltration " in card
    assert json.loads((parts / "configs" / "inference.json").read_text())["network_def"]["block_config"] == [2, 2]


def test_a_picture_s_probability_is_that_of_the_teacher_which_did_not_learn_from_its_patient(
    toy: DataSet, tmp_path: Path
) -> None:
    done = trained(toy, tmp_path)
    material = done.task.material
    dealt = cross_validation(done.pictures.records, material.train, 3, material.seed)
    assert sorted(np.concatenate([held for _, held in dealt])) == sorted(material.train)
    for number, (learnt, held) in enumerate(dealt, 1):
        assert not patients(done, learnt) & patients(done, held)
        assert sorted([*learnt, *held]) == sorted(material.train)
        network = build_network(toys.NETWORKS["classification"], 0)
        network.load_state_dict(torch.load(tmp_path / "run" / "teachers" / str(number) / "best.pt", weights_only=True))
        with torch.inference_mode():
            logits = named(network.eval()(torch.from_numpy(done.pictures.values(held))), "logits")["logits"]
        told = [done.pictures.records[row].soft["mass"] for row in held]
        assert told == pytest.approx(logits[:, 0].sigmoid().tolist(), abs=1e-6)
    assert not any(done.pictures.records[row].soft for row in material.val)


def patients(done: Trained, rows: IntArray) -> set[str]:
    return {done.pictures.records[row].patient for row in rows}


def test_teachers_learn_nothing_from_those_by_whom_the_network_is_chosen(toy: DataSet, tmp_path: Path) -> None:
    turned = tuple(
        replace(r, labels={**r.labels, "mass": 1 - r.labels["mass"]}) if r.split == "val" else r for r in toy.records
    )
    for name, data in (("as it is", toy), ("turned", replace(toy, records=turned))):
        trained(data, tmp_path / name)
    for number in "123":
        first, second = (
            torch.load(tmp_path / name / "run" / "teachers" / number / "best.pt", weights_only=True)
            for name in ("as it is", "turned")
        )
        assert same(first, second)


def test_more_teachers_than_patients_are_refused(toy: DataSet, tmp_path: Path) -> None:
    few = replace(toy, records=(*toy.records[:2], *(r for r in toy.records if r.split == "val")))
    with pytest.raises(TrainingStopped, match="too few patients are trained on for 3 teachers"):
        trained(few, tmp_path)


def test_what_no_teacher_was_asked_about_has_no_probability(toy: DataSet) -> None:
    scores = np.full((len(toy.records), 1), 0.25, np.float32)
    scores[0] = np.nan
    soft = with_probabilities(toy.records, scores, ["mass"])
    assert (dict(soft[0].soft), dict(soft[1].soft)) == ({}, {"mass": 0.25})


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"teachers": {"count": 1}}, "cross-validation takes 2 or more"),
        ({"teachers": {"count": -2}}, "cross-validation takes 2 or more"),
        ({"loss": {"kind": "bce"}}, "classification with .loss. distilled alone"),
        ({"loss": {"kind": "distilled", "share": 1.0}}, "share is 1.0; it lies between 0 and 1"),
        ({"data": {"uncertain": {"mass": "smooth_ones"}}}, "smooth_ones: a teacher tells it"),
        ({"teachers": {"network": {"_target_": "os.system"}}}, "_target_ is os.system"),
        ({"data": {"findings": ["effusion_left"]}, "evaluation": {"mirror": True}}, "effusion_left tells a side"),
    ],
)
def test_teachers_that_cannot_teach_are_refused_with_the_recipe(parts: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeInvalid, match=told):
        toys.recipe("classification", **{"loss": {"kind": "distilled"}, "teachers": {"count": 2}, **parts})


def test_several_workers_are_refused_where_there_are_teachers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # with ray or without
    with pytest.raises(TrainingStopped, match="trained by one process: leave out --ray-workers"):
        check_workers(recipe(), Places(tmp_path, tmp_path, tmp_path), 2)

"""Judgements: each figure as the metric itself gives it, nothing chosen on test, and a gate that keeps chance out."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Finished
from torch import Tensor, nn

from models.bundle import _contract
from models.calls import calibrate, sigmoid
from models.contracts import MaskContract
from models.masks import image_logits, outlined
from training.evidence import LEAST_AUROC, LEAST_POSITIVES
from training.judging import competition
from training.judging.asking import Asked
from training.judging.case import COMMON, Case
from training.judging.classification import columns
from training.judging.detection import best_score
from training.judging.gate import Verdict, line_of, shortcuts, weigh
from training.judging.judgement import check_report, judge
from training.judging.published import published_table
from training.judging.saliency import NoMaps, boxes_of, method_of, rank_correlation, saliency, sanity_check
from training.labels import Outputs
from training.metrics import scores, submission
from training.metrics.calibration import calibration_error, platt
from training.metrics.detection import Detections
from training.metrics.f1 import best_f1_threshold
from training.metrics.intervals import TooFew
from training.metrics.operating import operating_points, sensitivity_specificity
from training.readers.records import Record
from training.recipe import CALIBRATIONS, PublishedPart, load_recipe, recipe_names
from training.tables import RecipeInvalid

Finish = Callable[[str], Finished]


def asked(logits: np.ndarray, truth: np.ndarray, part: str, line: Any = None) -> Asked:  # type: ignore[type-arg]
    """Hand-made answers of one finding, one patient an image."""
    from pathlib import Path

    count = len(logits)
    records = tuple(
        Record(
            Path(f"{part}{i}.png"), f"{part}{i}", f"{part}{i}", "plain", view=("PA", "AP")[i // 3 % 2], sex="MF"[i % 2]
        )
        for i in range(count)
    )
    told = logits[:, None].astype(float)
    thumbs = np.random.default_rng(0).normal(size=(count, 256))
    probabilities = line(told) if line else sigmoid(told)
    return Asked(records, ("effusion",), truth[:, None].astype(float), sigmoid(told), probabilities, thumbs)


def case(separation: float, count: int = 240, seed: int = 1, calibration: str = "platt") -> Case:
    """A classifier whose positives score higher by `separation` standard deviations; 0 knows nothing."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(2):
        truth = (np.arange(count) % 4 == 0).astype(float)
        parts.append((rng.normal(size=count) + separation * truth, truth))
    line = line_of(parts[0][1], parts[0][0], calibration)
    val, test = (asked(z, t, part, line) for (z, t), part in zip(parts, ("val", "test"), strict=True))
    baselines = shortcuts(test, 0)
    return Case(0, val, test, weigh(val, test, [line], baselines, 0), baselines, np.empty((0, 1)), {})


@pytest.fixture(scope="module")
def good() -> Case:
    return case(3.0)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_the_node_calibrates_by_the_contract_as_judging_did(calibration: str) -> None:
    judged = case(3.0, calibration=calibration)
    section = {"interpreter": "scores", "input_size": 64, "findings": {"effusion": judged.verdicts[0].contract}}
    (contract,) = _contract(json.loads(json.dumps(section))).findings
    assert contract.evaluated
    assert bool(contract.isotonic) == (calibration == "isotonic")
    logits, told = np.log(judged.test.raw[:, 0] / (1 - judged.test.raw[:, 0])), judged.test.probabilities[:, 0]
    assert [calibrate(float(z), contract) for z in logits] == pytest.approx(told.tolist(), abs=1e-5)


def test_what_is_crooked_is_calibrated_by_a_table_and_not_by_a_line() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=6000)
    truth = (rng.random(6000) < np.where(logits < 0, 0.1, 0.6)).astype(float)
    errors = {}
    for kind in CALIBRATIONS:
        line = line_of(truth[:3000], logits[:3000], kind)
        assert line.reason == ""
        errors[kind] = calibration_error(truth[3000:], line(logits[3000:]))
    assert errors["isotonic"] < 0.03 < errors["platt"] < errors["temperature"]
    for kind in CALIBRATIONS:
        assert line_of((logits < 0).astype(float), logits, kind).reason
        assert line_of(np.zeros(20), logits[:20], kind).reason


def test_the_gate_lets_a_good_classifier_pass_and_keeps_out_a_random_one(good: Case) -> None:
    assert good.verdicts[0].evaluated
    for seed in range(8):
        chance = case(0.0, seed=seed).verdicts[0]
        assert not chance.evaluated
        assert not chance.contract["evaluated"]
        assert chance.reason


def test_the_gate_keeps_out_what_too_few_positives_carry() -> None:
    few = case(3.0, count=4 * (LEAST_POSITIVES - 1))
    assert few.verdicts[0].auroc.low > LEAST_AUROC  # type: ignore[union-attr]
    assert not few.verdicts[0].evaluated


def test_the_gate_keeps_out_what_a_shortcut_tells_as_well(good: Case) -> None:
    column = good.test.answers.of("effusion")
    shortcut = {"effusion": {"view": column.scores + 10 * column.truth}}
    (verdict,) = weigh(good.val, good.test, [good.verdicts[0].line], shortcut, 0)
    assert not verdict.evaluated
    assert not weigh(good.val, good.test, [good.verdicts[0].line], {"effusion": {}}, 0)[0].evaluated


def test_figures_are_those_of_the_metrics(good: Case) -> None:
    truth, told = good.test.truth[:, 0], good.test.probabilities[:, 0]
    chosen_truth, chosen = good.val.truth[:, 0], good.val.probabilities[:, 0]
    told_auroc = COMMON["auroc"](good).numbers["findings"]["effusion"]
    expected = scores.auroc(truth, told, good.test.patients, 0)
    assert (told_auroc["value"], told_auroc["low"], told_auroc["high"]) == (expected.value, expected.low, expected.high)
    assert COMMON["auroc"](good).numbers["mean"]["value"] == pytest.approx(expected.value)
    told_auprc = COMMON["auprc"](good).numbers["findings"]["effusion"]
    assert told_auprc["value"] == scores.auprc(truth, told, good.test.patients, 0).value
    assert told_auprc["chance"] == 0.25
    f1 = COMMON["f1"](good).numbers
    assert f1["thresholds"]["effusion"] == best_f1_threshold(chosen_truth, chosen)
    called = told >= f1["thresholds"]["effusion"]
    wanted = 2 * (called & (truth == 1)).sum() / (called.sum() + truth.sum())
    assert f1["findings"]["effusion"]["value"] == pytest.approx(wanted)
    absent, present = operating_points(chosen_truth, chosen, specificity=0.9, sensitivity=0.9, least=1 / 3)
    points = COMMON["operating_points"](good).numbers["findings"]["effusion"]
    assert (points["sensitive"]["threshold"], points["specific"]["threshold"]) == (absent, present)
    judged = sensitivity_specificity(truth, told, present)
    assert (points["specific"]["sensitivity"]["value"], points["specific"]["specificity"]["value"]) == judged
    calibration = COMMON["calibration"](good).numbers["findings"]["effusion"]
    assert calibration["error"] == calibration_error(truth, told)
    assert calibration["error_before"] == calibration_error(truth, good.test.raw[:, 0])
    line = good.verdicts[0].line
    logits = np.log(good.val.raw[:, 0] / (1 - good.val.raw[:, 0]))
    assert (line.slope, line.intercept) == pytest.approx(platt(chosen_truth, logits))
    groups = COMMON["subgroups"](good).numbers["effusion"]
    assert {(g["attribute"], g["group"]) for g in groups} >= {
        ("sex", "M"),
        ("sex", "F"),
        ("view", "PA"),
        ("view", "AP"),
    }
    margin = COMMON["shortcuts"](good).numbers["findings"]["effusion"]
    assert margin["margin"]["value"] == pytest.approx(expected.value - margin["auroc"])


@pytest.mark.parametrize(
    "name", ["nih_densenet121", "covid19_study_resnet18", "siim_acr_unet_resnet34", "covid19_detector"]
)
def test_nothing_that_is_chosen_changes_when_test_labels_do(name: str, finished: Finish) -> None:
    run = finished(name)
    keys = run.recipe.data.findings

    def turned(record: Record) -> Record:
        labels = {
            key: 1.0 - value if key in keys and value in (0, 1) else value for key, value in record.labels.items()
        }
        if run.recipe.task.kind == "appearance":  # one class still, but the next one
            labels = dict(zip(keys, np.roll([record.labels[k] for k in keys], 1).tolist(), strict=True))
        return replace(record, labels=labels, masks={k: () for k in record.masks}, boxes={k: () for k in record.boxes})

    other = judge(replace(run.trained, test=tuple(turned(r) for r in run.trained.test)), run.recipe, 3)
    chosen, judged = (
        [(v.line, v.threshold_absent, v.threshold_present) for v in j.verdicts] for j in (run.judgement, other)
    )
    assert chosen == judged
    assert other.contract == run.judgement.contract
    assert other.figures != run.judgement.figures


@pytest.mark.parametrize("name", recipe_names())
def test_a_judgement_holds_exactly_what_the_report_names(name: str, finished: Finish) -> None:
    run = finished(name)
    said = set(run.judgement.figures) - {"sanity_check", "loss"}
    assert said == set(run.recipe.evaluation.report)
    assert all(v.key in run.recipe.data.findings for v in run.judgement.verdicts)
    tested = {r.patient for r in run.trained.test}
    assert not tested & {r.patient for r in run.trained.pictures.records}


def test_a_figure_that_a_task_does_not_have_is_told_with_those_it_has() -> None:
    recipe = load_recipe("nih_densenet121")
    odd = replace(recipe, evaluation=replace(recipe.evaluation, report=("auroc", "dice")))
    with pytest.raises(RecipeInvalid, match=r"names dice, and classification gives auroc, auprc"):
        check_report(odd)
    for name in recipe_names():
        check_report(load_recipe(name))


def test_the_submission_is_written_as_the_challenge_reads_it(finished: Finish) -> None:
    for name in ("covid19_study_resnet18", "covid19_detector"):
        run = finished(name)
        rows = submission.read(run.folder / "docs" / "submission.csv")
        assert run.judgement.submission is not None
        assert set(rows) == set(run.judgement.submission)
        with (run.folder / "docs" / "submission.csv").open() as file:
            assert next(csv.reader(file)) == ["id", "PredictionString"]
        assert any(key.endswith("_image") for key in rows)
        assert any(key.endswith("_study") for key in rows)


def test_a_perfect_answer_scores_all_and_an_empty_one_what_it_must() -> None:
    from pathlib import Path

    records = [
        Record(Path(f"i{i}.dcm"), f"p{i}", f"s{i}", "covid19",
               labels={f"covid_{c}": float(k == i % 4) for k, c in enumerate(submission.STUDY_CLASSES)})
        for i in range(12)
    ]  # fmt: skip
    drawn = [np.array([[10.0, 10.0, 50.0, 60.0]])[: int(i % 4 == 1)] for i in range(12)]
    right = [Detections(b, np.ones(len(b))) for b in drawn]
    rows = competition.box_rows(records, right, drawn, competition.class_shares(records))
    told = submission.score(rows.answers, rows.truth, rows.patients).classes
    assert (told["opacity"].value, told["none"].value) == (1.0, 1.0)  # type: ignore[union-attr]
    # all studies are answered alike and taken in their order: the 2nd, 6th and 10th of twelve are typical
    assert told["typical"].value == pytest.approx((1 / 2 + 2 / 6 + 3 / 10) / 3)  # type: ignore[union-attr]
    truth = np.array([[r.labels[f"covid_{c}"] for c in submission.STUDY_CLASSES] for r in records])
    keys = [f"covid_{c}" for c in submission.STUDY_CLASSES]
    boxed = [replace(r, boxes={"lung_opacity": ()}) for r in records]
    perfect = competition.study_rows(boxed, truth, keys, boxed)
    told = submission.score(perfect.answers, perfect.truth, perfect.patients).classes
    assert all(told[c].value == 1.0 for c in submission.STUDY_CLASSES)  # type: ignore[union-attr]
    assert isinstance(told["opacity"], TooFew)


def test_boxes_are_drawn_from_the_confidence_of_the_best_f1_on_validation() -> None:
    drawn = [np.array([[0.0, 0.0, 10.0, 10.0]]), np.array([[0.0, 0.0, 10.0, 10.0]]), np.empty((0, 4))]
    hit, miss = [[0.0, 0.0, 10.0, 10.0]], [[50.0, 50.0, 60.0, 60.0]]
    found = [
        Detections(np.array(hit), np.array([0.9])), Detections(np.array(hit + miss), np.array([0.6, 0.2])),
        Detections(np.array(miss), np.array([0.3])),
    ]  # fmt: skip
    assert best_score(found, drawn) == 0.6
    assert best_score(found[2:], drawn[2:]) == 0.5


def test_the_score_of_a_mask_passes_the_threshold_just_when_the_least_area_does() -> None:
    torch.manual_seed(0)
    masks = (torch.randn(50, 8, 8) - 1.0).numpy()
    score = image_logits({"masks": masks}, MaskContract(0.5, 12))
    assert ((score >= 0) == outlined({"masks": masks}, MaskContract(0.5, 12)).any((1, 2))).all()
    assert 0 < (score >= 0).sum() < 50
    assert (image_logits({"masks": masks, "empty": score}, MaskContract(0.5, 12, "empty")) == -score).all()


def test_published_figures_stand_beside_ours() -> None:
    recipe = load_recipe("nih_densenet121")
    figures = {"auroc": {"findings": {"mass": {"value": 0.8, "low": 0.75, "high": 0.85}, "edema": {"reason": "few"}}}}
    part = PublishedPart("a paper", {"mass": 0.8676, "edema": 0.8878, "naive_baseline": {"accuracy": 0.58}}, "much")
    told = published_table(part, figures, recipe)
    assert told.rows[0] == ("mass", "0.8676", "0.800 (0.750 to 0.850)")
    assert told.rows[1][2] == "too few"
    assert told.rows[2] == ("naive baseline.accuracy", "0.58", "none")
    assert "much" in told.note


class Pooled(nn.Module):
    """Maps by a convolution, whose means are the logits."""

    def __init__(self, *, blind: bool = False) -> None:
        super().__init__()
        self.look, self.tell, self.blind = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 2, 1), blind

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.tell(torch.relu(self.look(x)))
        return {"logits": maps.mean((2, 3)), "maps": x.repeat(1, 2, 1, 1) if self.blind else maps}


class Linear(nn.Module):
    """The same with a linear layer behind the mean, and no maps."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.act, self.fc = nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        told: Tensor = self.fc(self.act(self.look(x)).mean((2, 3)))
        return told


def random_networks(**options: bool) -> list[nn.Module]:
    made: list[nn.Module] = []
    for seed in range(12):
        torch.manual_seed(seed)
        made.append(Pooled(**options).eval())
    return made


def test_the_sanity_check_fails_for_maps_that_ignore_the_weights() -> None:
    pictures, first = torch.rand(4, 1, 16, 16), np.array([1.0, 0.0])
    ours, *others = random_networks()
    passed = sanity_check(ours, others, pictures, first, method="own")
    assert passed.passes
    blind, *others = random_networks(blind=True)
    failed = sanity_check(blind, others, pictures, first, method="own")
    assert failed.correlation == pytest.approx(1.0)
    assert not failed.passes


def test_level_maps_are_alike_only_among_themselves() -> None:
    level, slope = np.zeros((3, 3)), np.arange(9.0).reshape(3, 3)
    assert (rank_correlation(level, level), rank_correlation(level, slope)) == (1.0, 0.0)
    assert rank_correlation(slope, -slope) == pytest.approx(-1.0)


def test_monai_s_maps_agree_with_the_network_s_own() -> None:
    torch.manual_seed(3)
    network, pictures = Linear().eval(), torch.rand(3, 1, 16, 16)
    weights = np.array([0.0, 1.0])
    cam = saliency(network, pictures, weights, method="cam", layer="act")
    with torch.inference_mode():
        features = network.act(network.look(pictures))
        maps = torch.einsum("nchw,c->nhw", features, network.fc.weight[1]) + network.fc.bias[1]
    assert np.allclose(cam, maps.numpy(), atol=1e-5)
    grad = saliency(network, pictures, weights, method="grad_cam", layer="act")
    expected = torch.relu(maps - network.fc.bias[1]).detach().numpy() / 256  # the gradient of a mean of 256 cells
    assert np.allclose(grad, expected, atol=1e-6)
    assert np.isfinite(saliency(network, pictures, weights, method="grad_cam_pp")).all()
    assert (method_of(network, pictures[:1]), method_of(Pooled(), pictures[:1])) == ("grad_cam", "own")
    with pytest.raises(NoMaps, match="returns no maps"):
        saliency(network, pictures, weights)
    with pytest.raises(NoMaps, match="not the mean"):
        saliency(network, pictures, weights, method="cam", layer="look")
    assert not any(part._forward_hooks for part in network.modules())


def test_boxes_enclose_what_is_hot_at_both_levels_of_wang() -> None:
    heat = np.zeros((8, 8))
    heat[1:5, 2:4], heat[2, 2] = 0.5, 1.0
    assert boxes_of(heat, 64).tolist() == [[16, 8, 32, 40], [16, 16, 24, 24]]
    assert boxes_of(np.ones((4, 4)), 64).shape == (0, 4)


def test_a_finding_with_three_outputs_is_one_logit() -> None:
    assert columns(Outputs((False, True))).tolist() == [[1, 0, 0, 0], [0, -1, 0, 1]]


def test_a_verdict_that_is_not_evaluated_never_draws() -> None:
    line = line_of(np.array([0.0, 1.0, 0.0]), np.array([1.0, -1.0, 2.0]))
    assert "no more probable" in line.reason
    verdict = Verdict("mass", 0, line, 0.2, 0.6, TooFew("few"), None, line.reason, localises=True)
    assert (verdict.contract["evaluated"], verdict.contract["localises"]) == (False, False)
    assert "positives and negatives" in line_of(np.zeros(3), np.zeros(3)).reason

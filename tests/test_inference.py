"""The bundles together on one picture: what is answered, what is refused, and what happens when a model fails."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from loaded_models import load_models
from pydicom import dcmread
from scipy import ndimage
from shipped_criteria import BUNDLE

from models import appearance, inference
from models.findings import Finding, FindingState, ImageFindings, SaliencyMap, SegmentMask, View
from models.findings_json import findings_json
from models.inference import NIH_FINDINGS, ImageIdentity, Models
from models.phantom import chest
from models.refusal import ImageRefused, Refusal
from models.rendering import RenderedImage, network_input, render, render_picture
from orthanc_plugin.settings import REPOSITORY

BUNDLES = REPOSITORY / "models"
NAMES = ("chest_findings", "lung_fields", "lung_opacity")
WITH_CRITERIA = ("covid_appearance", *NAMES)
IDENTITY = ImageIdentity("1.2", "1.2.840.10008.5.1.4.1.1.1", "1.2.3", View.PA)


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(BUNDLES, WITH_CRITERIA, threads=2)


@pytest.fixture(scope="module")
def answer(models: Models) -> ImageFindings:
    return models.predict(RenderedImage(chest(1, rows=900, columns=800).pixels), IDENTITY)


def with_broken_weights(bundle: Path) -> None:
    """Real weights, one of them not a number, with a digest that fits."""
    weights, metadata = bundle / "models" / "model.pt", bundle / "configs" / "metadata.json"
    state = torch.load(weights, weights_only=True)
    for value in state.values():
        if value.is_floating_point() and value.dim() == 4:
            value[0] = float("nan")
    torch.save(state, weights)
    content = json.loads(metadata.read_text())
    content["hilum"]["weights_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    metadata.write_text(json.dumps(content))


def refused(models: Models, image: RenderedImage) -> bool:
    try:
        models.predict(image, IDENTITY)
    except ImageRefused as refusal:
        if refusal.code is not Refusal.LUNGS_NOT_FOUND:
            raise
        return True
    return False


def test_the_answer_names_the_image_the_models_and_every_finding(answer: ImageFindings) -> None:
    assert (answer.rows, answer.columns, answer.sop_instance_uid) == (900, 800, "1.2.3")
    ran = ["lung_fields", "chest_findings", "lung_opacity", "covid_appearance"]
    assert [run.model.name for run in answer.runs] == ran
    assert not any(run.failure for run in answer.runs)
    assert set(NIH_FINDINGS) <= {finding.key for finding in answer.findings}
    names = {run.model.name for run in answer.runs}
    for finding in answer.findings:
        if finding.state is FindingState.NOT_EVALUATED:
            assert finding.reason in {"evidence", "no_model"}
            assert finding.probability is None
        else:
            assert finding.model in names
            if finding.model == "covid_appearance":  # a class has no probability
                assert finding.probability is None
                continue
            assert finding.probability is not None
            assert 0 <= finding.probability <= 1


def test_lungs_heart_and_ratio_of_a_computed_chest_are_found(answer: ImageFindings) -> None:
    truth = chest(1, rows=900, columns=800).masks
    for segment in answer.segments:
        assert segment.mask.shape == (900, 800)
        overlap = 2 * (segment.mask & truth[segment.key]).sum() / (segment.mask.sum() + truth[segment.key].sum())
        assert overlap > (0.7 if segment.key == "heart" else 0.85), segment.key
    assert {segment.key for segment in answer.segments} == {"lung_right", "lung_left", "heart"}
    (ratio,) = answer.measurements
    assert (ratio.key, ratio.unit, ratio.model) == ("cardiothoracic_ratio", "1", "lung_fields")
    assert 0.3 < ratio.value < 0.7


def test_the_same_picture_gets_the_same_answer(models: Models, answer: ImageFindings) -> None:
    again = models.predict(RenderedImage(chest(1, rows=900, columns=800).pixels), IDENTITY)
    assert findings_json(again) == findings_json(answer)
    for one, other in zip(answer.segments, again.segments, strict=True):
        assert np.array_equal(one.mask, other.mask)


@pytest.mark.parametrize("broken", NAMES)
def test_a_model_that_fails_is_recorded_and_the_other_still_answers(tmp_path: Path, broken: str) -> None:
    for name in WITH_CRITERIA:
        shutil.copytree(BUNDLES / name, tmp_path / name)
    with_broken_weights(tmp_path / broken)
    found = load_models(tmp_path, WITH_CRITERIA, threads=1).predict(RenderedImage(chest(1).pixels), IDENTITY)
    failures = {run.model.name: run.failure for run in found.runs}
    derived = {} if broken == "lung_opacity" else {"covid_appearance": None}  # from nothing, nothing is derived
    assert failures == derived | {name: "model_failed" if name == broken else None for name in NAMES}
    appearance = {f.key: (f.reason, f.model) for f in found.findings if f.key.startswith("covid_")}
    assert len(appearance) == 4
    if not derived:
        assert set(appearance.values()) == {("model_failed", "lung_opacity")}
        assert found.criteria == ()
    assert set(NIH_FINDINGS) <= {finding.key for finding in found.findings}
    assert any(f.state is not FindingState.NOT_EVALUATED for f in found.findings), "the others answer"
    if broken == "lung_fields":
        assert found.segments == ()
        assert found.measurements == ()
    else:
        theirs = [f for f in found.findings if f.model == broken]
        assert {f.state for f in theirs} == {FindingState.NOT_EVALUATED}
        assert {"model_failed"} <= {f.reason for f in theirs} <= {"model_failed", "evidence"}
        assert found.segments


def test_an_appearance_that_cannot_be_derived_takes_nothing_from_the_other_answers(
    models: Models, answer: ImageFindings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.inference.lung_fields", lambda *_: 1 / 0)
    found = models.predict(RenderedImage(chest(1, rows=900, columns=800).pixels), IDENTITY)
    assert found.runs[-1].failure == "model_failed"
    assert [(f.key, f.state) for f in found.findings if f.model != "covid_appearance"] == [
        (f.key, f.state) for f in answer.findings if f.model != "covid_appearance"
    ]
    derived = {(f.state, f.reason) for f in found.findings if f.model == "covid_appearance"}
    assert derived == {(FindingState.NOT_EVALUATED, "model_failed")}
    assert found.criteria == ()


@pytest.mark.parametrize("reason", ["evidence", "model_failed"])
def test_where_no_opacity_was_looked_for_the_classes_were_not_either(reason: str) -> None:
    answer = inference._Answer(RenderedImage(chest(1).pixels), View.PA)
    answer.add_appearance(BUNDLE)
    assert not answer.findings
    answer.findings["lung_opacity"] = Finding("lung_opacity", FindingState.NOT_EVALUATED, reason=reason, model="some")
    answer.add_appearance(BUNDLE)
    assert {(f.state, f.reason, f.model) for f in answer.findings.values()} == {
        (FindingState.NOT_EVALUATED, reason, "some")
    }
    assert len(answer.findings) == 5
    assert (answer.runs, answer.criteria) == ([], ())


def test_a_model_that_knows_the_appearance_is_not_overruled() -> None:
    answer = inference._Answer(RenderedImage(chest(1).pixels), View.PA)
    called = Finding("covid_typical", FindingState.PRESENT, 0.8, 0.5, model="classifier")
    opacity = Finding("lung_opacity", FindingState.ABSENT, 0.1, 0.5, model="classifier")
    answer.findings = {finding.key: finding for finding in (called, opacity)}
    answer.add_appearance(BUNDLE)
    assert answer.findings == {finding.key: finding for finding in (called, opacity)}
    assert (answer.runs, answer.criteria) == ([], ())


@pytest.mark.parametrize("reason", ["evidence", "model_failed"])
def test_classes_that_a_model_did_not_tell_are_derived(reason: str) -> None:
    answer = inference._Answer(RenderedImage(chest(1).pixels), View.PA)
    for key in appearance.CLASSES:
        answer.findings[key] = Finding(key, FindingState.NOT_EVALUATED, reason=reason, model="classifier")
    answer.add_appearance(BUNDLE)
    assert {f.reason for f in answer.findings.values()} == {reason}, "there is nothing to derive them from"
    answer.findings["lung_opacity"] = Finding("lung_opacity", FindingState.NOT_EVALUATED, reason="evidence")
    answer.add_appearance(BUNDLE)
    assert {answer.findings[key].model for key in appearance.CLASSES} == {"classifier"}
    answer.findings["lung_opacity"] = Finding("lung_opacity", FindingState.ABSENT, 0.1, 0.5, model="detector")
    answer.add_appearance(BUNDLE)
    assert {answer.findings[key].model for key in appearance.CLASSES} == {BUNDLE.identity.name}
    assert answer.findings["covid_negative"].state is FindingState.PRESENT
    assert answer.criteria


def test_what_was_drawn_for_an_answer_that_is_replaced_goes_with_it() -> None:
    answer = inference._Answer(RenderedImage(chest(1).pixels), View.PA)
    mask, heat = np.ones((4, 4), np.bool_), np.ones((4, 4), np.float32)
    lung = SegmentMask("lung_left", mask, "lungs")
    answer.segments = (lung,)

    def told(model: str, state: FindingState, *, draws: bool) -> inference._Told:
        finding = Finding("effusion", state, model=model)
        segments = (SegmentMask("effusion", mask, model),) if draws else ()
        return inference._Told((finding,), segments, (SaliencyMap("effusion", heat, model),) if draws else ())

    answer._keep(told("first", FindingState.PRESENT, draws=True))
    answer._keep(told("silent", FindingState.NOT_EVALUATED, draws=False))
    assert [(s.key, s.model) for s in answer.segments] == [("lung_left", "lungs"), ("effusion", "first")]
    answer._keep(told("second", FindingState.PRESENT, draws=True))
    assert [(s.key, s.model) for s in answer.segments] == [("lung_left", "lungs"), ("effusion", "second")]
    assert [s.model for s in answer.saliency] == ["second"]
    answer._keep(told("third", FindingState.ABSENT, draws=False))
    assert (answer.segments, answer.saliency) == ((lung,), ())


def test_a_site_that_leaves_the_criteria_out_has_no_appearance(models: Models) -> None:
    without, image = replace(models, criteria=None), RenderedImage(chest(1, rows=900, columns=800).pixels)
    answer, found = models.predict(image, IDENTITY), without.predict(image, IDENTITY)
    assert not [finding.key for finding in found.findings if finding.key.startswith("covid_")]
    assert (found.criteria, "covid_appearance" in without.versions) == ((), False)
    assert found.runs == answer.runs[:-1]
    rest = [finding for finding in answer.findings if not finding.key.startswith("covid_")]
    assert list(found.findings) == rest
    assert models.versions.keys() - without.versions.keys() == {"covid_appearance"}


def test_findings_that_no_active_model_knows_are_not_evaluated() -> None:
    found = load_models(BUNDLES, ["lung_fields"], threads=1).predict(RenderedImage(chest(1).pixels), IDENTITY)
    assert {f.key for f in found.findings} == set(NIH_FINDINGS)
    assert {(f.state, f.reason) for f in found.findings} == {(FindingState.NOT_EVALUATED, "no_model")}
    assert found.present == ()


def test_noise_clouds_slopes_and_bare_shapes_are_refused(models: Models) -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[-1:1:500j, -1:1:400j]
    pictures = [np.full((500, 400), 0.5), rows / 2 + 0.5, (rows**2 + columns**2 < 0.5).astype(float)]
    pictures += [rng.random((500, 400)) for _ in range(3)]
    for width in (2, 5, 10, 20, 30, 40, 60, 80):
        cloud = ndimage.gaussian_filter(rng.normal(size=(500, 400)), width)
        pictures.append((cloud - cloud.min()) / np.ptp(cloud))
    passed = [i for i, p in enumerate(pictures) if not refused(models, RenderedImage(p.astype(np.float32)))]
    assert passed == []


def test_a_computed_chest_is_refused_when_it_lies_stands_on_its_head_or_is_inverted(models: Models) -> None:
    for seed in range(3):
        pixels = chest(seed).pixels
        assert not refused(models, RenderedImage(pixels))
        for wrong in (np.rot90(pixels), np.rot90(pixels, 3), pixels[::-1], 1 - pixels):
            assert refused(models, RenderedImage(np.ascontiguousarray(wrong)))


@pytest.mark.shared
def test_hips_and_tibias_are_refused(models: Models, shared_data: Path) -> None:
    images = []
    for path in sorted((shared_data / "dicom").glob("RG*.dcm")):
        try:
            images.append(render(dcmread(path)))
        except ImageRefused as refusal:
            if refusal.code is not Refusal.UNREADABLE_PIXELS:
                raise
    assert len(images) >= 5
    assert all(refused(models, image) for image in images)


@pytest.mark.shared
def test_lateral_radiographs_and_ct_figures_are_refused_also_those_never_trained_on(
    models: Models, shared_data: Path
) -> None:
    from training.data import read_other_pictures, split_patients

    records = read_other_pictures(shared_data)
    seed = json.loads((BUNDLES / "lung_fields/configs/metadata.json").read_text())["hilum"]["provenance"]["seed"]
    folds = split_patients([record.patient for record in records], 5, seed)
    unseen = [record for record in records if folds[record.patient] in (0, 1)]
    assert len(unseen) >= 10
    assert sum(refused(models, render_picture(record.image)) for record in unseen) >= 0.9 * len(unseen)


@pytest.mark.shared
def test_no_more_than_one_in_a_hundred_unseen_frontal_radiographs_is_refused(shared_data: Path) -> None:
    lungs_alone = load_models(BUNDLES, ["lung_fields"], threads=2)
    with (shared_data / "nih_chestxray14" / "labels.csv").open(encoding="utf-8-sig", newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)][::9]
    paths = [shared_data / "nih_chestxray14" / "images" / name for name in names]
    wrongly = [path.name for path in paths if refused(lungs_alone, render_picture(path))]
    assert len(paths) > 100
    assert len(wrongly) <= 0.01 * len(paths), wrongly


def test_the_network_sees_the_same_whatever_the_size_of_the_picture() -> None:
    phantom = chest(3, rows=1024, columns=1024).pixels
    small = np.ascontiguousarray(phantom.reshape(512, 2, 512, 2).mean((1, 3)))
    pictures = [network_input(RenderedImage(p), 256)[0] for p in (phantom, small)]
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.01

"""``./hilum models``: what is listed, activated, refused, taken back and imported."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from other_versions import edit, other_version
from test_bundle import small_bundle

from dicom_sr.report.statements import can_be_stated
from models.activation import Activation, Choice
from models.findings import View
from models.inference import ImageIdentity, Models, assemble
from models.phantom import chest
from models.rendering import RenderedImage
from orthanc_plugin.cli import main
from orthanc_plugin.reading.active_models import load_active, registry_of
from orthanc_plugin.reading.shadow import Shadow
from orthanc_plugin.settings import REPOSITORY, Settings, load_settings

sys.path.insert(0, str(REPOSITORY / "tests" / "training"))
from random_weights import SEED, Golden, random_state

Run = Callable[..., str]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("HILUM_HOME", str(tmp_path / "home"))
    return load_settings()


@pytest.fixture
def run(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a subcommand, and give what it printed."""

    def call(*arguments: object, fails: bool = False) -> str:
        assert main(["models", *map(str, arguments)]) == (1 if fails else 0)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return printed.err if printed.err else printed.out

    return call


@pytest.fixture
def newer(run: Run, tmp_path: Path) -> Path:
    """A site's own version 0.2.0 of lung_fields, added; gives its folder in the home."""
    run("add", other_version(tmp_path, "lung_fields", "0.2.0"))
    return tmp_path / "home" / "models" / "lung_fields" / "0.2.0"


def states(run: Run) -> dict[tuple[str, str], str]:
    return {(one["name"], one["version"]): one["runs"] for one in json.loads(run("list", "--json"))["bundles"]}


def test_the_list_says_what_is_here_and_what_runs(run: Run, newer: Path) -> None:
    assert states(run)["lung_fields", "0.1.0"] == "active"
    assert states(run)["lung_fields", "0.2.0"] == ""
    lines = run("list").splitlines()
    assert lines[0].split() == ["name", "version", "from", "runs", "SHA-256"]
    assert lines[4].split()[:5] == ["lung_fields", "0.2.0", "this", "site", "2c7769d69302"]
    assert "\x1b" not in "".join(lines), "plain where it is piped"


def test_an_activated_version_runs_and_rollback_takes_it_back(run: Run, newer: Path, settings: Settings) -> None:
    assert "next study" in run("activate", "lung_fields", "0.2.0")
    assert states(run)["lung_fields", "0.2.0"] == "active"
    assert states(run)["lung_fields", "0.1.0"] == ""
    assert load_active(settings).versions["lung_fields"] == "0.2.0"
    assert "lung_fields 0.1.0" in run("rollback")
    assert load_active(settings).versions["lung_fields"] == "0.1.0"
    assert "nothing to go back to" in run("rollback", fails=True)


def test_deactivating_gives_the_shipped_version_its_place_back(run: Run, newer: Path, settings: Settings) -> None:
    run("activate", "lung_fields", "0.2.0")
    run("deactivate", "lung_fields", "0.2.0")
    assert load_active(settings).versions["lung_fields"] == "0.1.0"
    assert "does not" not in run("deactivate", "lung_fields", "0.1.0", fails=True)
    assert "0.1.0, 0.2.0" in run("activate", "lung_fields", fails=True), "of two versions one is to be named"


def test_a_bundle_that_fails_on_a_phantom_is_not_activated(run: Run, tmp_path: Path, settings: Settings) -> None:
    run("add", small_bundle(tmp_path / "noise"))  # random weights find no lungs
    assert "on trial a normal chest made in code is refused" in run("activate", "noise", fails=True)

    def rename(metadata: dict[str, Any]) -> None:
        metadata["hilum"]["segments"] = ["this", "that", "heart"]

    run("add", other_version(tmp_path, "lung_fields", "0.3.0", rename))
    refused = run("activate", "lung_fields", "0.3.0", fails=True)
    assert "on trial lung_fields failed" in refused
    assert "lung_right" in refused
    assert "lung_right" in run("activate", "lung_fields", "0.3.0", "--shadow", fails=True)
    run("add", other_version(tmp_path, "pixel_gate", "0.4.0"), "--name", "second_gate")
    assert "two pixel gates" in run("activate", "second_gate", fails=True)
    assert not settings.active_models.exists()


def test_a_bundle_whose_findings_no_report_can_state_is_not_activated(run: Run, tmp_path: Path) -> None:
    def rename(metadata: dict[str, Any]) -> None:
        findings = metadata["hilum"]["findings"]
        findings["thingness"] = findings.pop("effusion")

    run("add", other_version(tmp_path, "chest_findings", "0.2.0", rename))
    assert "no report can state thingness" in run("activate", "chest_findings", "0.2.0", fails=True)
    assert states(run)["chest_findings", "0.1.0"] == "active"
    assert can_be_stated("covid_negative")
    assert not can_be_stated("covid_negative", outlined=True)
    assert can_be_stated("pneumothorax", outlined=True)
    assert not can_be_stated("lung_left")


def test_a_tampered_bundle_is_told_by_verify_and_never_loaded(run: Run, newer: Path, settings: Settings) -> None:
    run("activate", "lung_fields", "0.2.0")
    assert "damaged" not in run("verify")
    edit(newer, lambda m: m.update(description="another"))
    said = json.loads(run("verify", "--json", fails=True))
    assert [one["version"] for one in said["bundles"] if one["problem"]] == ["0.2.0"]
    assert "SHA-256" in said["problem"]
    assert "lung_fields 0.2.0: configs/metadata.json" in run("show", "lung_fields", fails=True)
    assert "lung_fields 0.2.0" in run("activate", "lung_fields", "0.2.0", fails=True)
    assert main(["predict", str(REPOSITORY / "README.md")]) == 1, "the command line does not read with it either"
    run("rollback")
    assert load_active(settings).versions["lung_fields"] == "0.1.0"


def test_rollback_passes_over_what_is_damaged(run: Run, newer: Path, tmp_path: Path, settings: Settings) -> None:
    run("activate", "lung_fields", "0.2.0")
    run("add", other_version(tmp_path, "lung_fields", "0.3.0"))
    run("activate", "lung_fields", "0.3.0")
    edit(newer, lambda m: m.update(description="another"))
    said = run("rollback")
    assert "Not back to" in said
    assert load_active(settings).versions["lung_fields"] == "0.1.0"


def test_verify_tells_that_an_active_version_is_gone(run: Run, settings: Settings) -> None:
    Activation(settings.active_models).choose(Choice({"lung_fields": "7"}))
    for command in ("list", "verify"):
        assert "there is no bundle lung_fields 7: there are 0.1.0" in run(command, fails=True)


def test_a_shadow_is_listed_and_not_active(run: Run, newer: Path, settings: Settings) -> None:
    run("activate", "lung_fields", "0.2.0", "--shadow")
    assert states(run)["lung_fields", "0.2.0"] == "in shadow"
    assert load_active(settings).versions["lung_fields"] == "0.1.0"
    assert "is active" in run("activate", "lung_fields", "0.1.0", "--shadow", fails=True)
    run("deactivate", "lung_fields", "0.2.0")
    assert states(run)["lung_fields", "0.2.0"] == ""


def test_show_prints_contract_digests_and_the_card_s_figures(run: Run) -> None:
    text, (described,) = run("show", "chest_findings"), json.loads(run("show", "chest_findings", "--json"))
    effusion = described["figures"]["effusion"]["auroc"]["value"]
    assert f"{effusion:.3f}" in next(line for line in text.splitlines() if line.strip().startswith("effusion"))
    for words in (described["digests"]["models/model.pt"], "scores, 320 pixels", "active"):
        assert words in text
    assert described["contract"]["findings"]["effusion"]["evaluated"] is True
    assert described["shadow"] is None


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    file = tmp_path / "model.pth.tar"
    torch.save({"state_dict": random_state(Golden.read("chexnet").shapes, SEED)}, file)
    return file


def test_the_appearance_is_a_bundle_that_is_shown_and_left_out_and_taken_back(
    run: Run, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert states(run)["covid_appearance", "1.0.0"] == "active"
    text = run("show", "covid_appearance")
    for words in ("criteria, no network", "lobar: 0.25", "atypical findings: pneumothorax, effusion", "typical"):
        assert words in text
    run("add", other_version(tmp_path, "covid_appearance", "1.1.0", lambda m: m["hilum"]["criteria"].update(lobar=0.4)))
    run("activate", "covid_appearance", "1.1.0")
    assert load_active(settings).versions["covid_appearance"] == "1.1.0"
    assert "damaged" not in run("verify")
    run("rollback")
    assert load_active(settings).versions["covid_appearance"] == "1.0.0"
    assert "has no network that could run in shadow" in run("activate", "covid_appearance", "1.1.0", "--shadow",
                                                            fails=True)  # fmt: skip
    run("add", tmp_path / "1.1.0" / "covid_appearance", "--name", "second_criteria")
    assert "two bundles of criteria" in run("activate", "second_criteria", fails=True)
    monkeypatch.setenv("HILUM_BUNDLES", "lung_fields chest_findings")
    assert "covid_appearance" not in load_active(load_settings()).versions


def test_published_weights_become_a_bundle_of_which_nothing_is_evaluated(
    run: Run, checkpoint: Path, settings: Settings
) -> None:
    said = run("import", "chexnet", "--file", checkpoint)
    assert "recorded here" in said
    assert "not fetched" not in said
    bundle = next(b for b in registry_of(settings).bundles() if b.name == "chexnet")
    findings = bundle.load().contract.findings
    assert len(findings) == 14
    assert not any(finding.evaluated for finding in findings)
    card = (bundle.folder / "docs" / "README.md").read_text()
    assert "**Not evaluated here.**" in card
    assert "not a medical device" in card
    assert "nothing that it tells was evaluated: run it in shadow" in run("activate", "chexnet", fails=True)
    run("activate", "chexnet", "--shadow")
    assert states(run)["chexnet", "1.0.0"] == "in shadow"


def test_an_imported_bundle_sees_what_its_authors_showed_it(run: Run, checkpoint: Path, settings: Settings) -> None:
    from training.importers import chexnet

    run("import", "chexnet", "--file", checkpoint, "--version", "2")
    bundle = registry_of(settings).find("chexnet", "2").load()
    phantom = chest(3, rows=500, columns=420)
    image, identity = RenderedImage(phantom.pixels), ImageIdentity("1", "2", "3", View.PA)
    published = chexnet.import_weights(checkpoint)
    with torch.inference_mode():
        crops = published.network(torch.from_numpy(published.preprocessing.apply(image))).sigmoid().numpy()
    assert len(crops) == 10
    ours = Shadow.of(bundle, threads=1).models.predict(image, identity).findings
    said = {f.key: f.probability for f in ours if f.model == "chexnet"}
    wanted = dict(zip(chexnet.FINDINGS, crops.mean(axis=0).tolist(), strict=True))
    assert said == pytest.approx(wanted, abs=1e-4)
    published_alone = assemble([bundle], threads=1)
    published_alone.warm_up()
    assert {f.state for f in published_alone.predict(image, identity).findings} == {"not_evaluated"}


def test_what_an_unevaluated_bundle_does_not_tell_takes_nothing_from_one_that_does(
    run: Run, checkpoint: Path, settings: Settings
) -> None:
    run("import", "chexnet", "--file", checkpoint)
    shipped = load_active(settings).bundles
    imported = registry_of(settings).find("chexnet", "1.0.0").load()
    lone, both = assemble(shipped, threads=1), assemble([*shipped, imported], threads=1)
    image, identity = RenderedImage(chest(1).pixels), ImageIdentity("1", "2", "3", View.PA)

    def evaluated(models: Models) -> dict[str, float | None]:
        found = models.predict(image, identity).findings
        return {f.key: f.probability for f in found if f.model == "chest_findings" and f.probability is not None}

    assert evaluated(both) == evaluated(lone)
    assert len(evaluated(lone)) >= 2


def test_a_trunk_is_imported_and_cannot_run(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "dino.pth"
    torch.save(random_state(Golden.read("dino_small").shapes, SEED), file)
    run("import", "dino", "--file", file)
    assert "it tells no finding" in run("activate", "dino_small_16", "--shadow", fails=True)


def test_weights_that_are_not_those_of_the_variant_are_refused(run: Run, checkpoint: Path) -> None:
    assert "fetch it again from" in run("import", "torchxrayvision", "--file", checkpoint, fails=True)
    assert "it knows" in run("import", "torchxrayvision", "resnet18", "--file", checkpoint, fails=True)
    assert np.all([name != "torchxrayvision_resnet18" for name, _ in states(run)])

"""Bundles: only the weights that were evaluated are run, and only networks that bundles may hold."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import UNet

from models.bundle import (
    INTERPRETERS,
    BundleInvalid,
    FindingContract,
    _contract,
    config_digest,
    load_bundle,
    write_bundle,
)
from models.inference import assemble
from models.outputs import ask
from models.registry import Registry
from models.runtime import Running, Runtime
from models.trial import require_answer
from orthanc_plugin.settings import REPOSITORY

SHIPPED = sorted(path.parent.parent for path in (REPOSITORY / "models").glob("*/configs/metadata.json"))
CRITERIA = REPOSITORY / "models" / "covid_appearance"
NETWORKS = [path for path in SHIPPED if path != CRITERIA]
NETWORK = {
    "spatial_dims": 2, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2], "num_res_units": 1,
}  # fmt: skip


def small_bundle(path: Path, **section: Any) -> Path:
    torch.manual_seed(1)
    contract = {"interpreter": "structures", "input_size": 64, "segments": ["lung_right", "lung_left", "heart"]}
    network_def = {"_target_": "monai.networks.nets.UNet", **NETWORK}
    metadata = {"version": "1.2.3", "hilum": contract}
    write_bundle(path, UNet(**NETWORK), {"network_def": network_def}, metadata)
    rewrite(path / "configs" / "metadata.json", lambda content: content["hilum"].update(section))
    (path / "docs" / "README.md").write_text("# A card\n")
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"slope": -4.0}, "a slope of -4.0"),
        ({"slope": float("nan")}, "a slope of nan"),
        ({"output": -1}, "from output -1"),
        ({"output": 1.5}, "from output 1.5"),
        ({"threshold_absent": 0.9, "threshold_present": 0.1}, "not in order"),
    ],
)
def test_a_finding_that_cannot_be_called_makes_its_contract_invalid(change: dict[str, Any], why: str) -> None:
    finding = {"output": 0, "evaluated": True, "threshold_absent": 0.1, "threshold_present": 0.9, **change}
    with pytest.raises(ValueError, match=why):
        _contract({"interpreter": "scores", "input_size": 64, "findings": {"mass": finding}})


@pytest.mark.parametrize(
    "table",
    [
        [], [[0.0, 0.5]], [[0.0, 0.5], [0.0, 0.6]], [[1.0, 0.1], [0.0, 0.6]], [[0.0, 0.6], [1.0, 0.5]],
        [[0.0, -0.1], [1.0, 0.5]], [[0.0, 0.1], [1.0, 1.1]], [[0.0, 0.1], [float("inf"), 0.5]],
        [[0.0, float("nan")], [1.0, 0.5]],
    ],
)  # fmt: skip
def test_a_table_that_does_not_rise_from_logits_to_probabilities_makes_its_contract_invalid(table: Any) -> None:
    finding = {"output": 0, "evaluated": True, "isotonic": table}
    section = {"interpreter": "scores", "input_size": 64, "findings": {"mass": finding}}
    with pytest.raises(ValueError, match="the table of mass"):
        _contract(section)
    finding["isotonic"] = [[-1.0, 0.0], [0.0, 0.25], [1.5, 0.25], [2.0, 1.0]]
    assert _contract(section).findings[0].isotonic == ((-1.0, 0.0), (0.0, 0.25), (1.5, 0.25), (2.0, 1.0))
    before, finding["isotonic"] = config_digest(section, {"network_def": {}}), [[-1.0, 0.0], [0.0, 0.25]]
    assert config_digest(section, {"network_def": {}}) != before
    finding["slope"] = 1.0
    with pytest.raises(ValueError, match="in the place of slope and intercept"):
        _contract(section)


def test_what_its_own_figures_do_not_carry_is_not_evaluated() -> None:
    finding = {"output": 0, "evaluated": True, "threshold_absent": 0.1, "threshold_present": 0.9}
    section = {"interpreter": "scores", "input_size": 64, "findings": {"mass": finding}}
    assert _contract({**section, "figures": {"mass": {"evaluated": True}}}).findings[0].evaluated
    with pytest.raises(ValueError, match="the evidence does not carry it"):
        _contract({**section, "figures": {"mass": {"evaluated": False}}})


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_bundle_loads_and_is_the_one_that_its_card_describes(path: Path) -> None:
    bundle = load_bundle(path)
    metadata = json.loads((path / "configs" / "metadata.json").read_text())
    assert (bundle.identity.name, bundle.identity.version) == (path.name, metadata["version"])
    assert (bundle.network is None) == (path == CRITERIA)
    if bundle.network is not None:
        weights = (path / "models" / "model.pt").read_bytes()
        assert bundle.identity.weights_digest == hashlib.sha256(weights).hexdigest()
        assert not bundle.network.training
        assert all(p.dtype == torch.float32 for p in bundle.network.parameters())
    card = (path / "docs" / "README.md").read_text()
    assert "not a medical device" in card
    for picture in (path / "docs").glob("*.png"):
        assert f"({picture.name})" in card
    assert metadata["hilum"]["provenance"]["command"].startswith(f"./hilum train {path.name}")
    assert (path / "LICENSE").exists()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_bundle_says_what_monai_s_schema_asks_for(path: Path) -> None:
    metadata = json.loads((path / "configs" / "metadata.json").read_text())
    required = {
        "version", "changelog", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors",
        "copyright", "network_data_format", "intended_use", "data_source",
    }  # fmt: skip
    assert required <= set(metadata)
    if path in NETWORKS:
        picture = metadata["network_data_format"]["inputs"]["image"]
        assert picture["spatial_shape"] == [metadata["hilum"]["input_size"]] * 2
    else:
        assert metadata["network_data_format"] == {"inputs": {}, "outputs": {}}


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.name)
def test_a_shipped_bundle_declares_the_outputs_that_its_network_gives(path: Path) -> None:
    declared = json.loads((path / "configs" / "metadata.json").read_text())["network_data_format"]["outputs"]
    bundle = load_bundle(path)
    network, contract = bundle.network, bundle.contract
    assert network is not None
    answer = ask(network, contract.input_size)
    assert list(declared) == (["pred"] if list(answer) == ["logits"] else list(answer))
    for output, values in zip(declared.values(), answer.values(), strict=True):
        assert [output["num_channels"], *output["spatial_shape"]] == list(values.shape)
        assert output["dtype"] == str(values.dtype) == "float32"
        assert (output["type"] == "probabilities") == (values.min() >= 0 and values.max() <= 1)
        assert output["format"] == ("segmentation" if values.ndim == 3 else "classes")
        tells = [output["channel_def"][str(i)] for i in range(len(values))]
        told = contract.segments or (contract.gate and contract.gate.classes) or [f.key for f in contract.findings]
        assert tells[: len(told)] == list(told)
    require_answer(bundle)


def test_a_bundle_of_criteria_has_no_network_and_its_identity_is_that_of_its_numbers(tmp_path: Path) -> None:
    shutil.copytree(CRITERIA / "configs", tmp_path / "covid_appearance" / "configs")
    bundle, metadata = load_bundle(tmp_path / "covid_appearance"), tmp_path / "covid_appearance/configs/metadata.json"
    assert bundle.network is None
    assert bundle.contract.criteria is not None
    assert bundle.contract.criteria.several == 2
    assert bundle.identity == load_bundle(CRITERIA).identity
    # the identity that results have had since the criteria were part of the code: they keep their device
    assert bundle.identity.version == "1.0.0"
    assert bundle.identity.weights_digest == hashlib.sha256(b"").hexdigest()
    assert bundle.identity.config_digest == "0b53cbd7192788187b860009f1d4970abbca51f56dc83a6ec55f52184c157bbb"
    rewrite(metadata, lambda c: c["hilum"].update(figures={}))
    assert load_bundle(tmp_path / "covid_appearance").identity == bundle.identity
    rewrite(metadata, lambda c: c["hilum"]["criteria"].update(lobar=0.3))
    assert load_bundle(tmp_path / "covid_appearance").identity.config_digest != bundle.identity.config_digest


@pytest.mark.parametrize(
    "change",
    [{"several": 1}, {"lobar": 0.0}, {"round": 1.5}, {"outer_half": "half"}, {"atypical_findings": ["fracture"]},
     {"atypical_findings": 3}, {"luck": 1}],
)  # fmt: skip
def test_criteria_that_cannot_be_followed_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    shutil.copytree(CRITERIA / "configs", tmp_path / "b" / "configs")
    rewrite(tmp_path / "b" / "configs" / "metadata.json", lambda c: c["hilum"]["criteria"].update(change))
    with pytest.raises(BundleInvalid, match="bundle b"):
        load_bundle(tmp_path / "b")


def test_a_changed_byte_in_the_weights_is_noticed_and_both_digests_are_named(tmp_path: Path) -> None:
    path = small_bundle(tmp_path / "b")
    weights = path / "models" / "model.pt"
    right = hashlib.sha256(weights.read_bytes()).hexdigest()
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleInvalid) as caught:
        load_bundle(path)
    for words in ("bundle b", right, hashlib.sha256(content).hexdigest(), "restore"):
        assert words in str(caught.value)


@pytest.mark.parametrize("file", ["configs/metadata.json", "configs/inference.json", "models/model.pt"])
def test_a_missing_or_empty_file_is_named_as_an_invalid_bundle(tmp_path: Path, file: str) -> None:
    path = small_bundle(tmp_path / "b")
    (path / file).write_bytes(b"")
    with pytest.raises(BundleInvalid, match="bundle b"):
        load_bundle(path)
    (path / file).unlink()
    with pytest.raises(BundleInvalid, match="bundle b"):
        load_bundle(path)


class Touches:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_in_a_configuration_is_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    torch.save(Touches(marker), tmp_path / "evil.pt")
    pickled = {"f": str(tmp_path / "evil.pt"), "weights_only": False}
    expression = f"$__import__('pathlib').Path({str(marker)!r}).touch()"
    attacks: list[Callable[[dict[str, Any]], None]] = [
        lambda c: c["network_def"].update(_target_="os.system", command=f"touch {marker}"),
        lambda c: c.update(network_def={"_target_": "models.networks.squeezenet.torch.load", **pickled}),
        lambda c: c.update(network_def={"_target_": "monai.networks.nets.unet.torch.load", **pickled}),
        lambda c: c["network_def"].update(out_channels=expression),
        lambda c: c["network_def"].update(channels=[4, expression]),
        lambda c: c["network_def"].update(act={"_target_": "os.system", "command": f"touch {marker}"}),
        lambda c: c.update(network_def=expression),
        lambda c: c.update(network_def="%other.json#network_def"),
    ]
    for number, attack in enumerate(attacks):
        path = small_bundle(tmp_path / f"b{number}")
        rewrite(path / "configs" / "inference.json", attack)
        with pytest.raises(BundleInvalid, match="network_def may"):
            assert load_bundle(path).network is None
        assert not marker.exists()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = small_bundle(tmp_path / "b")
    rewrite(path / "configs" / "inference.json", lambda c: c["network_def"].update(channels=[4, 12]))
    bundle = load_bundle(path)
    with pytest.raises(BundleInvalid, match="bundle b: the weights do not fit"):
        assert bundle.network is None


def test_weights_that_change_before_the_network_is_built_are_noticed(tmp_path: Path) -> None:
    bundle = load_bundle(small_bundle(tmp_path / "b"))
    (tmp_path / "b" / "models" / "model.pt").write_bytes(b"other")
    with pytest.raises(BundleInvalid, match=r"metadata\.json names"):
        assert bundle.network is None


def test_a_bundle_that_cannot_be_built_is_neither_added_nor_recorded_nor_run(tmp_path: Path) -> None:
    path = small_bundle(tmp_path / "models" / "b")
    rewrite(path / "configs" / "inference.json", lambda c: c["network_def"].update(channels=[4, 12]))
    registry = Registry(path.parent, tmp_path / "own")
    for run in (
        lambda: registry.add(path, "c"),
        registry.pin,
        lambda: assemble([load_bundle(path)], threads=1, running=Running(Runtime.AUTO, 1, tmp_path / "kept")),
    ):
        with pytest.raises(BundleInvalid, match="do not fit"):
            run()
    assert not registry.bundles()


@pytest.mark.parametrize(
    "section",
    [
        {"interpreter": "oracle"},
        {"input_size": "large"},
        {"findings": {"effusion": {"output": 0, "evaluated": True, "threshold_absent": 0.7, "threshold_present": 0.3}}},
        {"findings": {"effusion": {"output": 0, "evaluated": True, "threshold_present": 1.2}}},
        {"plausibility": {"mean": [0.0], "precision": [[1.0]], "limit": 3.0}},
        {"interpreter": "masks"},
        {
            "interpreter": "classes",
            "classes": {"temperature": 1.0},
            "findings": {"mass": {"output": 1, "evaluated": True}},
        },
    ],
)
def test_a_contract_that_makes_no_sense_is_refused(tmp_path: Path, section: dict[str, Any]) -> None:
    with pytest.raises(BundleInvalid, match="bundle b"):
        load_bundle(small_bundle(tmp_path / "b", **section))


def test_what_is_written_is_what_is_read_but_for_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = UNet(**NETWORK).eval()
    bundle = load_bundle(small_bundle(tmp_path / "b"))
    picture = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(bundle.network(picture), network(picture), atol=0.02)
    stored = torch.load(tmp_path / "b" / "models" / "model.pt", weights_only=True)
    assert all(value.dtype == torch.float16 for value in stored.values() if value.is_floating_point())


def test_the_digest_of_the_contract_follows_what_decides_and_nothing_else(tmp_path: Path) -> None:
    path = small_bundle(tmp_path / "b", findings={"effusion": {"output": 0, "evaluated": True}})
    first, metadata = load_bundle(path).identity, path / "configs" / "metadata.json"
    rewrite(metadata, lambda c: c["hilum"].update(figures={"auroc": 0.9}))
    assert load_bundle(path).identity == first
    rewrite(metadata, lambda c: c["hilum"]["findings"]["effusion"].update(threshold_present=0.8))
    second = load_bundle(path).identity
    assert second.weights_digest == first.weights_digest
    assert second.config_digest != first.config_digest


def test_a_bundle_is_named_after_its_folder(tmp_path: Path) -> None:
    shutil.copytree(small_bundle(tmp_path / "b"), tmp_path / "c")
    assert load_bundle(tmp_path / "c").identity.name == "c"


def test_the_contracts_of_the_documentation_can_be_followed() -> None:
    text = (REPOSITORY / "docs" / "bundles.md").read_text("utf-8")
    examples = [json.loads(part) for part in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    assert [_contract(example).interpreter for example in examples] == ["masks", "boxes", "classes"]
    for interpreter in INTERPRETERS:
        assert f"| `{interpreter}` |" in text
    for name in FindingContract.__dataclass_fields__.keys() - {"key"}:
        assert f"`{name}`" in text

"""The registry of bundles: only what was recorded is run, and what a site chose is kept, changed and taken back."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from other_versions import SHIPPED, edit, other_version

from models.activation import Activation, Choice
from models.bundle import BundleInvalid
from models.registry import DECISIVE, Packaged, Registry

USUAL = ("lung_fields", "chest_findings")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """The shipped bundles, and a site without any of its own."""
    return Registry(SHIPPED, tmp_path / "own")


@pytest.fixture
def own(registry: Registry, tmp_path: Path) -> Packaged:
    """A site's own version of a shipped bundle."""
    return registry.add(other_version(tmp_path, "lung_fields", "0.2.0"))


@pytest.fixture
def activation(tmp_path: Path) -> Activation:
    return Activation(tmp_path / "own" / "active.json")


def titles(bundles: list[Packaged]) -> list[str]:
    return [bundle.title for bundle in bundles]


def test_the_shipped_bundles_are_those_that_were_recorded(registry: Registry) -> None:
    shipped = {path.parent.parent.name for path in SHIPPED.glob("*/configs/metadata.json")}
    assert {bundle.name for bundle in registry.bundles()} == shipped, "record them: ./hilum models pin"
    for bundle in registry.bundles():
        bundle.verify()  # when it was made anew on purpose: ./hilum models pin


@pytest.mark.parametrize("file", DECISIVE)
def test_one_changed_byte_in_any_file_that_decides_is_refused_and_named(own: Packaged, file: str) -> None:
    assert own.load().identity.version == "0.2.0"
    content = bytearray((own.folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (own.folder / file).write_bytes(content)
    with pytest.raises(BundleInvalid, match=rf"lung_fields 0\.2\.0: {file}.*{own.digests[file]}.*models rollback"):
        own.load()


def test_a_lower_threshold_is_refused_although_the_weights_are_the_same(registry: Registry, tmp_path: Path) -> None:
    added = registry.add(other_version(tmp_path, "chest_findings", "0.2.0"))
    edit(added.folder, lambda m: m["hilum"]["findings"]["effusion"].update(threshold_present=0.9))
    with pytest.raises(BundleInvalid, match=r"configs/metadata\.json has SHA-256"):
        added.load()


def test_a_missing_file_is_refused(own: Packaged) -> None:
    (own.folder / "models" / "model.pt").unlink()
    with pytest.raises(BundleInvalid, match=r"model\.pt is missing"):
        own.load()


def test_a_list_that_leaves_a_file_out_does_not_leave_it_unchecked(own: Packaged, registry: Registry) -> None:
    records = own.folder.parent.parent / "registry.toml"
    lines = [line for line in records.read_text().splitlines() if "metadata" not in line]
    records.write_text("\n".join(lines))
    with pytest.raises(BundleInvalid, match=r"registry\.toml cannot be read.*metadata"):
        registry.bundles()


def test_of_criteria_the_metadata_alone_is_recorded_and_one_changed_number_is_refused(
    registry: Registry, tmp_path: Path
) -> None:
    source = other_version(tmp_path, "covid_appearance", "1.1.0")
    added = registry.add(source)
    assert set(added.digests) == {"configs/metadata.json"}
    assert added.load().identity.version == "1.1.0"
    edit(added.folder, lambda m: m["hilum"]["criteria"].update(lobar=0.5))
    with pytest.raises(BundleInvalid, match=r"covid_appearance 1\.1\.0: configs/metadata\.json has SHA-256"):
        added.load()


def test_a_network_of_which_the_metadata_alone_is_recorded_is_refused(own: Packaged, registry: Registry) -> None:
    records = own.folder.parent.parent / "registry.toml"
    lines = [line for line in records.read_text().splitlines() if "models/" not in line and "inference" not in line]
    records.write_text("\n".join(lines))
    with pytest.raises(BundleInvalid, match=r"recorded are configs/metadata\.json, it is decided by models/model\.pt"):
        registry.find("lung_fields", "0.2.0").load()


@pytest.mark.parametrize("text", ["garbage", '["../x"."1"]\n', '[x."../../1"]\n', "x = 1\n", "\0"])
def test_a_damaged_list_is_named_and_nothing_outside_is_read(registry: Registry, tmp_path: Path, text: str) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "registry.toml").write_text(text)
    with pytest.raises(BundleInvalid, match=r"registry\.toml cannot be read.*restore it from a backup"):
        registry.bundles()


def test_a_bundle_that_is_added_is_copied_whole_and_needs_its_source_no_more(
    registry: Registry, tmp_path: Path
) -> None:
    source = other_version(tmp_path, "lung_fields", "0.2.0")
    (source / "notes.txt").write_text("no part of a bundle")
    added = registry.add(source)
    shutil.rmtree(source)
    assert added.folder == tmp_path / "own" / "lung_fields" / "0.2.0"
    assert added.load().identity.name == "lung_fields", "the name is not that of the folder"
    assert (added.folder / "docs" / "README.md").exists()
    assert not (added.folder / "notes.txt").exists()
    assert not [path for path in (tmp_path / "own").rglob("*") if path.name.startswith(".")]
    recorded = tomllib.loads((tmp_path / "own" / "registry.toml").read_text())
    assert recorded == {"lung_fields": {"0.2.0": dict(added.digests)}}
    assert titles(registry.bundles())[2:4] == ["lung_fields 0.1.0", "lung_fields 0.2.0"]


def test_adding_it_again_mends_it_and_another_one_needs_another_version(registry: Registry, tmp_path: Path) -> None:
    source = other_version(tmp_path, "lung_fields", "0.2.0")
    added = registry.add(source)
    (added.folder / "models" / "model.pt").write_bytes(b"")
    assert registry.add(source) == added
    added.verify()
    assert titles(registry.bundles()).count("lung_fields 0.2.0") == 1
    edit(source, lambda m: m.update(description="another"))
    with pytest.raises(BundleInvalid, match=r"another lung_fields 0\.2\.0 already: give this one another version"):
        registry.add(source)
    assert registry.add(SHIPPED / "lung_fields").shipped, "what Hilum ships is not copied"


@pytest.mark.parametrize(("name", "version"), [("../lungs", "1"), ("Lungs", "1"), ("", "../1"), ("lungs", "")])
def test_a_name_or_a_version_that_is_no_folder_is_refused(
    registry: Registry, tmp_path: Path, name: str, version: str
) -> None:
    source = other_version(tmp_path, "lung_fields", "0.2.0", lambda m: m.update(version=version))
    with pytest.raises(BundleInvalid, match="a name is of a-z"):
        registry.add(source, name)
    assert not (tmp_path / "own").exists()


def test_what_cannot_be_loaded_is_not_added(registry: Registry, tmp_path: Path) -> None:
    source = other_version(tmp_path, "lung_fields", "0.2.0")
    (source / "models" / "model.pt").write_bytes(b"no weights")
    with pytest.raises(BundleInvalid, match=r"metadata\.json names"):
        registry.add(source)
    with pytest.raises(BundleInvalid, match="is no bundle"):
        registry.add(tmp_path)
    assert not (tmp_path / "own").exists()


def _remove(*files: str) -> Callable[[Path], None]:
    return lambda source: [(source / file).unlink() for file in files]  # type: ignore[return-value]


def _of_the_network(**change: Any) -> Callable[[Path], None]:
    def apply(source: Path) -> None:
        file = source / "configs" / "inference.json"
        content = json.loads(file.read_text())
        content["network_def"].update(change)
        file.write_text(json.dumps(content))

    return apply


def _of_the_contract(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    return lambda source: edit(source, lambda metadata: change(metadata["hilum"]))


@pytest.mark.parametrize(
    ("name", "half", "why"),
    [
        ("lung_fields", _remove("models/model.pt"), r"models/model\.pt missing"),
        ("lung_fields", _remove("models/model.pt", "configs/inference.json"), r"model\.pt and configs/inference\.json"),
        ("lung_fields", _remove("docs/README.md"), r"docs/README\.md is missing: no model without its card"),
        ("lung_fields", _of_the_network(out_channels=5), r"weights do not fit network_def \(.*size mismatch"),
        ("lung_fields", _of_the_network(norm="instance"), r"weights do not fit network_def \(.*Unexpected key"),
        (
            "lung_fields", _of_the_contract(lambda c: c["segments"].append("aorta")),
            "gives logits of 3 x 256 x 256 numbers, and the contract wants 4 x 256 x 256",
        ),
        (
            "chest_findings", _of_the_contract(lambda c: c["findings"]["effusion"].update(output=15)),
            "gives logits of 15 numbers, and the contract wants 16 or more",
        ),
        (
            "pneumothorax", _of_the_contract(lambda c: c["masks"].update(score="empty")),
            "gives masks, and the contract wants empty",
        ),
        ("lung_opacity", _of_the_contract(lambda c: c.update(input_size=100)), "cannot take a picture of 100 pixels"),
    ],
)  # fmt: skip
def test_a_bundle_that_is_half_packaged_is_not_added_and_what_it_lacks_is_told(
    registry: Registry, tmp_path: Path, name: str, half: Callable[[Path], None], why: str
) -> None:
    source = other_version(tmp_path, name, "0.2.0")
    half(source)
    with pytest.raises(BundleInvalid, match=f"bundle {name}: .*{why}"):
        registry.add(source)
    assert not (tmp_path / "own").exists()


def test_a_bundle_that_is_trained_anew_runs_when_it_was_recorded(tmp_path: Path) -> None:
    shipped = tmp_path / "models"
    shutil.copytree(SHIPPED / "lung_fields", shipped / "lung_fields")
    registry = Registry(shipped, tmp_path / "own")
    with pytest.raises(BundleInvalid, match=r"no digests.*models pin"):
        registry.shipped("lung_fields")
    assert titles(registry.pin()) == ["lung_fields 0.1.0"]
    edit(shipped / "lung_fields", lambda m: m.update(version="0.1.1"))
    with pytest.raises(BundleInvalid, match="restore the folder"):
        registry.shipped("lung_fields").load()
    registry.pin()
    assert registry.shipped("lung_fields").load().identity.version == "0.1.1"


def test_without_a_choice_the_shipped_bundles_of_the_setting_run(activation: Activation, registry: Registry) -> None:
    assert activation.choice == Choice()
    assert titles(Choice().bundles(registry, USUAL)) == ["lung_fields 0.1.0", "chest_findings 0.1.0"]
    with pytest.raises(BundleInvalid, match="no bundle 'lungs' in models/: correct the setting `bundles`"):
        Choice().bundles(registry, ["lungs"])


def test_a_choice_replaces_one_bundle_in_its_place(registry: Registry, own: Packaged) -> None:
    choice = Choice().activate(own, USUAL)
    assert titles(choice.bundles(registry, USUAL)) == ["lung_fields 0.2.0", "chest_findings 0.1.0"]
    assert choice.activate(registry.shipped("lung_fields"), USUAL) == Choice(), "so that updates of Hilum arrive"
    assert choice.drop(own) == Choice()


def test_a_shipped_bundle_that_the_setting_does_not_name_stays_active_after_an_update(tmp_path: Path) -> None:
    shipped = tmp_path / "models"
    shutil.copytree(SHIPPED / "lung_fields", shipped / "lung_fields")
    registry = Registry(shipped, tmp_path / "own")
    (first,) = registry.pin()
    choice = Choice().activate(first, [])
    edit(shipped / "lung_fields", lambda m: m.update(version="9.0"))
    registry.pin()
    assert titles(choice.bundles(registry, [])) == ["lung_fields 9.0"]


def test_a_bundle_leaves_the_shadow_when_it_becomes_active(registry: Registry, own: Packaged) -> None:
    choice = Choice().watch(own).watch(own)
    assert choice.shadow == (("lung_fields", "0.2.0"),)
    assert titles(choice.shadows(registry)) == ["lung_fields 0.2.0"]
    assert choice.activate(own, USUAL).shadow == ()
    assert choice.drop(own) == Choice()


def test_going_back_undoes_change_after_change(activation: Activation, own: Packaged) -> None:
    first, second = Choice().watch(own), Choice().activate(own, USUAL)
    for choice in (first, first, second):
        activation.choose(choice)
    assert [choice for _, choice in activation.earlier] == [first, Choice()], "what changes nothing is not kept"
    assert activation.go_back(1) == activation.choice == first
    assert activation.go_back(1) == activation.choice == Choice()
    assert activation.earlier == []


def test_what_is_kept_of_earlier_choices_does_not_grow_for_ever(activation: Activation, own: Packaged) -> None:
    for _ in range(40):
        activation.choose(Choice().watch(own))
        activation.choose(Choice())
    assert len(activation.earlier) == 50


@pytest.mark.parametrize("text", ["", "[]", '{"active": 1}', '{"shadow": [1]}', '{"earlier": 2}', "\udcff"])
def test_a_damaged_choice_is_named_with_what_to_do(activation: Activation, tmp_path: Path, text: str) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "active.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BundleInvalid, match=r"active\.json is damaged .*delete it"):
        assert activation.choice


def test_a_choice_that_cannot_be_written_leaves_the_one_before(
    activation: Activation, own: Packaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    activation.choose(Choice().watch(own))
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        activation.choose(Choice())
    assert activation.choice == Choice().watch(own)
    assert json.loads((own.folder.parent.parent / "active.json").read_text())["shadow"] == [["lung_fields", "0.2.0"]]


def test_a_name_in_the_settings_that_is_no_bundle_is_told(registry: Registry) -> None:
    with pytest.raises(BundleInvalid, match=r"there is no bundle 'lung_feilds' .*correct the setting `bundles`"):
        registry.shipped("lung_feilds")

"""The bill of materials: valid CycloneDX, and as the locks and the records of the bundles say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from models.registry import Registry
from orthanc_plugin import __version__
from orthanc_plugin.commands import sbom
from orthanc_plugin.commands.locked_packages import lock_files, read_lock
from orthanc_plugin.settings import REPOSITORY


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("sbom") / "bom.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["sbom", str(file)])
        patch.setenv("HILUM_HOME", str(file.parent))
        assert sbom.main() == 0
    return file.read_text()


@pytest.fixture(scope="module")
def parts(document: str) -> dict[str, dict[str, Any]]:
    return {part["bom-ref"]: part for part in json.loads(document)["components"]}


def test_it_is_valid_cyclonedx(document: str) -> None:
    pytest.importorskip("jsonschema", reason="the validator needs what comes with Ray")
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(document) is None
    assert validator.validate_str(document.replace('"type": "library"', '"type": "book"', 1)) is not None


def test_it_has_each_locked_package_with_its_hashes_and_licence(parts: dict[str, dict[str, Any]]) -> None:
    for file in lock_files():
        for package in read_lock(file):
            part = parts[f"{file.name}:{package.canonical_name}"]
            assert (part["version"], {one["content"] for one in part["hashes"]}) == (
                package.version,
                set(package.hashes),
            )
            assert part["purl"].startswith(f"pkg:pypi/{package.canonical_name}@")
    assert {one["license"]["id"] for one in parts["requirements.lock:httpx"]["licenses"]} == {"BSD-3-Clause"}


def test_it_has_each_shipped_bundle_with_the_digest_of_its_files(
    parts: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    bundles = Registry(REPOSITORY / "models", tmp_path).bundles()
    assert bundles
    for bundle in bundles:
        part = parts[f"bundle:{bundle.name}@{bundle.version}"]
        assert part["type"] == "machine-learning-model"
        assert {one["name"]: one["hashes"][0]["content"] for one in part["components"]} == dict(bundle.digests)
    file = REPOSITORY / "orthanc_plugin/worklist/static/vendor"
    scripts = [part for name, part in parts.items() if name.startswith("script:")]
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in file.iterdir()}
    assert scripts
    assert all(part["hashes"][0]["content"] in digests for part in scripts)


def test_hilum_itself_is_what_depends_on_them(document: str, parts: dict[str, dict[str, Any]]) -> None:
    told = json.loads(document)
    assert told["metadata"]["component"]["version"] == __version__
    [ours] = [one for one in told["dependencies"] if one["ref"] == f"hilum@{__version__}"]
    assert set(ours["dependsOn"]) == set(parts)

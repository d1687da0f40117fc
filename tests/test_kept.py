"""What is kept from one start to the next spares a reading process torch, and nothing is believed unlooked at."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from models import kept
from models.bundle import Bundle, BundleInvalid, load_bundle
from models.forward import torch_forward
from models.kept import answer_kept, keep_answer, key_of
from models.runtime import Running, Runtime, engine_of, forwards_of, groups_of, probe, torch_answers
from orthanc_plugin.settings import REPOSITORY

NAMES = ("pixel_gate", "lung_fields", "chest_findings", "lung_opacity")
GROUPS = [[0], [1], [2, 3]]
_START = """
import hashlib, json, sys
from datetime import UTC, datetime
from pathlib import Path
from dicom_sr.file_format import file_of
from dicom_sr.results import encode_results
from models.hanging import AS_STORED
from models.phantom import chest
from models.reading import read
from models.selection import Policy, Selection
from models.findings import View
from models.inference import ImageIdentity
from models.rendering import render
from orthanc_plugin.commands.modality import Exposure, radiograph
from orthanc_plugin.reading.active_models import load_active, load_shadows, prepare
from orthanc_plugin.reading.study import process_study  # with all that a reading process imports for it
from dataclasses import replace
from orthanc_plugin.settings import load_settings

settings = replace(load_settings(), translated=Path(sys.argv[1]))
prepare(settings)
before = [name for name in ("torch", "monai", "models.networks") if name in sys.modules]
models, _shadows = load_active(settings), load_shadows(settings)
models.warm_up()
ds = radiograph(chest(1, rows=700, columns=600).pixels, Exposure(seed="kept"))
identity = ImageIdentity(str(ds.StudyInstanceUID), str(ds.SOPClassUID), str(ds.SOPInstanceUID), View.PA)
findings = read(render(ds, AS_STORED), Selection(View.PA, AS_STORED, ()), identity, models, Policy()).findings
results = encode_results(ds, findings, datetime(2026, 1, 2, tzinfo=UTC))
written = [file_of(each) for each in (results.measurement_report, results.segmentation)]
after = [name for name in ("torch", "monai", "models.networks") if name in sys.modules]
said = {f.key: f.probability for f in findings.findings}
digests = [hashlib.sha256(content).hexdigest() for content in written]
print(json.dumps({"before": before, "after": after, "said": said, "digests": digests}))
"""


@pytest.fixture(scope="module")
def bundles() -> list[Bundle]:
    return [load_bundle(REPOSITORY / "models" / name) for name in NAMES]


def unbuildable(bundle: Bundle) -> Bundle:
    """The same, but for a network that cannot be built: whoever needs torch fails."""

    def build() -> NoReturn:
        raise BundleInvalid("torch was needed")

    return replace(bundle, build=build)


def test_once_openvino_is_chosen_a_reading_process_has_no_torch_and_writes_the_same_bytes(
    tmp_path: Path, bundles: list[Bundle]
) -> None:
    for group in GROUPS:  # by `auto`, so that no measurement decides the test
        kept.write(tmp_path / f"{key_of([bundles[n] for n in group])}.runtime", b"openvino\n")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HILUM_HOME": str(tmp_path / "home")}

    def start() -> dict[str, object]:
        command = [sys.executable, "-W", "ignore", "-c", _START, str(tmp_path)]
        return dict(json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout))

    first, second = start(), start()
    assert (first["before"], first["after"]) == ([], ["torch", "monai", "models.networks"])
    assert (second["before"], second["after"]) == ([], [])
    assert any(second["said"].values())  # type: ignore[attr-defined]
    assert (first["said"], first["digests"]) == (second["said"], second["digests"])
    for choice in tmp_path.glob("*.runtime"):
        choice.write_text("torch\n")
    assert start()["before"] == ["torch", "monai", "models.networks"], "the fork server imports what all need"


@pytest.mark.parametrize("runtime", [Runtime.OPENVINO, Runtime.AUTO])
def test_where_all_is_kept_no_network_is_built(runtime: Runtime, bundles: list[Bundle], tmp_path: Path) -> None:
    kept.write(tmp_path / f"{key_of(bundles[:1])}.runtime", b"openvino\n")
    running, picture = Running(runtime, 1, tmp_path), np.random.default_rng(0).random((1, 1, 160, 160), "f4")
    (first,) = forwards_of(bundles[:1], running)
    (second,) = forwards_of([unbuildable(bundles[0])], running)
    assert np.array_equal(first(picture)["logits"], second(picture)["logits"])
    assert first.precision is second.precision


def test_which_networks_begin_alike_is_kept_and_found_out_anew_when_it_is_damaged(
    bundles: list[Bundle], tmp_path: Path
) -> None:
    assert groups_of(bundles, tmp_path) == GROUPS
    without = [unbuildable(bundle) for bundle in bundles]
    assert groups_of(without, tmp_path) == GROUPS
    (file,) = tmp_path.glob("*.groups")
    for damaged in ("", "[[0], [1], [2]]", "[[0], [1], [2, 2]]", "[[0, 1], [2, 3], 4]", "[[0], [1], [2, 9]]", "null"):
        file.write_text(damaged)
        with pytest.raises(BundleInvalid, match="torch was needed"):
            groups_of(without, tmp_path)
        assert groups_of(bundles, tmp_path) == GROUPS
        assert json.loads(file.read_text()) == GROUPS
    with pytest.raises(BundleInvalid, match="torch was needed"):
        groups_of(without[1:], tmp_path)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def ask_otherwise(file: Path) -> None:
    with np.load(file) as arrays:
        picture, said = arrays["probe"], {name: arrays[name] for name in arrays.files if name != "probe"}
    keep_answer(file, picture + np.float32(1e-6), said)


@pytest.mark.parametrize(
    "damage", [cut, flip, ask_otherwise, Path.unlink, lambda file: file.write_bytes(b""), lambda f: f.write_text("no")]
)  # fmt: skip
def test_what_torch_said_is_asked_again_when_it_is_damaged_or_of_another_picture(
    damage: Callable[[Path], object], bundles: list[Bundle], tmp_path: Path
) -> None:
    running = Running(Runtime.OPENVINO, 1, tmp_path)
    engine_of(bundles[:1], running)
    (file,) = tmp_path.glob("*.npz")
    right = answer_kept(file, probe(bundles[0]))
    assert right is not None
    damage(file)
    assert answer_kept(file, probe(bundles[0])) is None
    with pytest.raises(BundleInvalid, match="torch was needed"):
        engine_of([unbuildable(bundles[0])], running)
    assert engine_of(bundles[:1], running).runtime is Runtime.OPENVINO
    again = answer_kept(file, probe(bundles[0]))
    assert again is not None
    assert np.array_equal(again["logits"], right["logits"])


def test_at_each_start_openvino_is_compared_with_what_torch_said_and_torch_answers_where_they_differ(
    bundles: list[Bundle], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running, picture = Running(Runtime.OPENVINO, 1, tmp_path), probe(bundles[0])
    engine_of(bundles[:1], running)
    (file,) = tmp_path.glob("*.npz")
    said = answer_kept(file, picture)
    assert said is not None
    keep_answer(file, picture, {name: values + np.float32(0.01) for name, values in said.items()})
    with pytest.raises(BundleInvalid, match="torch was needed"):
        engine_of([unbuildable(bundles[0])], running)
    engine = engine_of(bundles[:1], running)
    assert engine.runtime is Runtime.TORCH
    assert bundles[0].network is not None
    assert np.array_equal(engine.run(picture)["logits"], torch_forward(bundles[0].network)(picture)["logits"])
    assert "openvino says something else" in caplog.text


def test_a_translation_that_is_damaged_is_given_up_for_torch_also_where_its_answer_is_kept(
    bundles: list[Bundle], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = Running(Runtime.OPENVINO, 1, tmp_path)
    engine_of(bundles[:1], running)
    (weights,) = tmp_path.glob("*.bin")
    content = np.frombuffer(weights.read_bytes(), np.float32).copy()
    content[: len(content) // 2] *= -1.0
    weights.write_bytes(content.tobytes())
    caplog.set_level(logging.WARNING)
    assert engine_of(bundles[:1], running).runtime is Runtime.TORCH


def test_other_code_of_a_network_is_another_key(
    bundles: list[Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key_of(bundles[:1])
    (tmp_path / "gate.py").write_text("OTHER = 1\n")
    monkeypatch.setattr(kept, "_NETWORKS", tmp_path)
    kept._code.cache_clear()
    try:
        assert key_of(bundles[:1]) != before
    finally:
        kept._code.cache_clear()


def test_torch_is_imported_beforehand_only_where_it_is_going_to_answer(tmp_path: Path) -> None:
    def wanted(runtime: Runtime) -> bool:
        return torch_answers(Running(runtime, 1, tmp_path / "kept"))

    assert [runtime for runtime in Runtime if wanted(runtime)] == [Runtime.TORCH, Runtime.CUDA]
    kept.write(tmp_path / "kept" / "a.runtime", b"openvino-int8\n")
    assert not wanted(Runtime.AUTO)
    kept.write(tmp_path / "kept" / "b.runtime", b"cuda\n")
    assert wanted(Runtime.AUTO)
    assert not wanted(Runtime.OPENVINO)

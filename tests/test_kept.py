"""What is kept from one start to the next spares a reading process torch, and nothing is believed unlooked at."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from models import kept
from models.bundle import Bundle, BundleInvalid, load_bundle
from models.forward import torch_forward
from models.kept import answer_kept, keep_answer, key_of, machine_of
from models.precisions import Precisions
from models.probe import probe
from models.runtime import Running, Runtime, engine_of, forwards_of, groups_of, torch_answers
from orthanc_plugin.settings import REPOSITORY

NAMES = ("pixel_gate", "lung_fields", "chest_findings", "lung_opacity")
GROUPS = [[0], [1], [2, 3]]
_START = """
import hashlib, json, socket, sys
from functools import partial
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
from orthanc_plugin.fork_server import run_apart
from orthanc_plugin.reading.active_models import load_active, load_shadows, prepare
from orthanc_plugin.reading.study import process_study  # with all that a reading process imports for it
from dataclasses import replace
from orthanc_plugin.settings import load_settings

settings = replace(load_settings(), translated=Path(sys.argv[1]))
prepare(settings)
before = [name for name in ("torch", "monai", "models.networks") if name in sys.modules]
starter, here = socket.socketpair()
apart = partial(run_apart, here.fileno()) if sys.argv[2:] else None
models, _shadows = load_active(settings, apart=apart), load_shadows(settings)
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


@pytest.fixture(scope="module")
def in_float32(bundles: list[Bundle]) -> list[Bundle]:
    """The same, of which no lower precision was measured."""
    return [replace(bundle, precisions=Precisions()) for bundle in bundles]


def choice_of(bundles: list[Bundle], folder: Path, threads: int = 1) -> Path:
    return folder / f"{key_of(bundles)}.{machine_of(threads)}.runtime"


@pytest.fixture(scope="module")
def whole(in_float32: list[Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that is kept, where OpenVINO answers."""
    folder = tmp_path_factory.mktemp("whole")
    kept.keep(choice_of(in_float32[:1], folder), b"openvino")
    engine_of(in_float32[:1], Running(Runtime.AUTO, 1, folder))
    groups_of(in_float32, folder)
    return folder


def unbuildable(bundle: Bundle) -> Bundle:
    """The same, but for a network that cannot be built: whoever needs torch fails."""

    def build() -> NoReturn:
        raise BundleInvalid("torch was needed")

    return replace(bundle, build=build)


def test_once_openvino_is_chosen_a_reading_process_has_no_torch_and_writes_the_same_bytes(
    tmp_path: Path, bundles: list[Bundle]
) -> None:
    for group in GROUPS:  # by `auto`, so that no measurement decides the test
        kept.keep(choice_of([bundles[n] for n in group], tmp_path, os.cpu_count() or 1), b"openvino")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HILUM_HOME": str(tmp_path / "home")}

    def start(*apart: str) -> dict[str, object]:
        command = [sys.executable, "-W", "ignore", "-c", _START, str(tmp_path), *apart]
        return dict(json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout))

    first, second = start(), start()
    assert (first["before"], first["after"]) == ([], ["torch", "monai", "models.networks"])
    assert (second["before"], second["after"]) == ([], [])
    assert any(second["said"].values())  # type: ignore[attr-defined]
    for file in (*tmp_path.glob("*.network"), *tmp_path.glob("*.answer")):
        file.unlink()
    apart = start("apart")
    assert (apart["before"], apart["after"]) == ([], []), "at a first start as well, torch is in another process"
    assert (apart["said"], apart["digests"]) == (second["said"], second["digests"])
    assert list(tmp_path.glob("*.network"))
    assert (first["said"], first["digests"]) == (second["said"], second["digests"])
    for choice in tmp_path.glob("*.runtime"):
        kept.keep(choice, b"torch")
    assert start()["before"] == ["torch", "monai", "models.networks"], "the fork server imports what all need"


@pytest.mark.parametrize("runtime", [Runtime.OPENVINO, Runtime.AUTO])
def test_where_all_is_kept_no_network_is_built(runtime: Runtime, bundles: list[Bundle], tmp_path: Path) -> None:
    kept.keep(choice_of(bundles[:1], tmp_path), b"openvino")
    running, picture = Running(runtime, 1, tmp_path), np.random.default_rng(0).random((1, 1, 160, 160), "f4")
    (first,) = forwards_of(bundles[:1], running)
    (second,) = forwards_of([unbuildable(bundles[0])], running)
    assert np.array_equal(first(picture)["logits"], second(picture)["logits"])
    assert first.precision is second.precision


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def of_other_networks(file: Path) -> None:
    """Whole, but moved here."""
    other = file.with_name(f"other{file.suffix}")
    kept.keep(other, kept.read(file) or b"")
    other.replace(file)


def written(text: str) -> Callable[[Path], object]:
    def write(file: Path) -> None:
        file.write_text(text)

    return write


DAMAGES = [cut, flip, of_other_networks, Path.unlink, written("[[0], [2], [3, 1]]"), written("[" * 99_999)]


@pytest.mark.parametrize("suffix", ["network", "answer", "runtime", "groups"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_told_once_and_made_anew(
    damage: Callable[[Path], object], suffix: str, *, whole: Path, in_float32: list[Bundle], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    folder, gate = shutil.copytree(whole, tmp_path / "kept"), in_float32[:1]
    running, picture = Running(Runtime.AUTO, 1, folder), np.random.default_rng(0).random((1, 1, 160, 160), "f4")
    file = folder / f"{key_of(in_float32 if suffix == 'groups' else gate)}.{suffix}"
    file = choice_of(gate, folder) if suffix == "runtime" else file
    damage(file)
    is_there = file.exists()
    caplog.set_level(logging.WARNING)
    torch_answers(running)
    for known in (gate, [unbuildable(gate[0])]):
        assert groups_of(in_float32, folder) == GROUPS
        engine = engine_of(known, running)
        assert engine.runtime is Runtime.OPENVINO
        assert gate[0].network is not None
        right = torch_forward(gate[0].network)(picture)["logits"]
        assert engine.run(picture)["logits"] == pytest.approx(right, abs=1e-3)
    assert kept.read(file) is not None
    told = [f"{file.name} is damaged: it is made anew"] if is_there else []
    assert [record.getMessage() for record in caplog.records] == told


def test_which_networks_begin_alike_is_kept(whole: Path, in_float32: list[Bundle]) -> None:
    without = [unbuildable(bundle) for bundle in in_float32]
    assert groups_of(without, whole) == GROUPS
    with pytest.raises(BundleInvalid, match="torch was needed"):
        groups_of(without[1:], whole)


def test_what_torch_said_of_another_picture_is_not_used(whole: Path, in_float32: list[Bundle], tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "kept")
    (file,) = folder.glob("*.answer")
    picture = probe(in_float32[0])
    said = answer_kept(file, picture)
    assert said is not None
    for asked, answers in ((picture + np.float32(1e-6), said), (picture, {})):
        keep_answer(file, asked, answers)
        assert answer_kept(file, picture) is None
        with pytest.raises(BundleInvalid, match="torch was needed"):
            engine_of([unbuildable(in_float32[0])], Running(Runtime.OPENVINO, 1, folder))


@pytest.mark.parametrize("runtime", [Runtime.OPENVINO, Runtime.AUTO])
@pytest.mark.parametrize("wrong", ["answer", "network"])
@pytest.mark.parametrize("has_choice", [True, False])
def test_where_they_differ_torch_answers_and_what_was_kept_is_made_anew_at_the_next_start(
    runtime: Runtime, wrong: str, *, has_choice: bool, whole: Path, in_float32: list[Bundle], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    folder, gate = shutil.copytree(whole, tmp_path / "kept"), in_float32[0]
    running, picture = Running(runtime, 1, folder), probe(gate)
    if not has_choice:
        choice_of([gate], folder).unlink()
    file = folder / f"{key_of([gate])}.{wrong}"
    arrays = kept.read_arrays(file)
    assert arrays is not None
    if wrong == "answer":
        arrays["logits"] += np.float32(0.01)
    else:
        weights = arrays["weights"].view(np.float32)
        weights[len(weights) // 3 : len(weights) // 2] *= -1.0
    kept.keep_arrays(file, arrays)
    engine = engine_of([gate], running)
    assert engine.runtime is Runtime.TORCH
    assert gate.network is not None
    assert np.array_equal(engine.run(picture)["logits"], torch_forward(gate.network)(picture)["logits"])
    assert "openvino says something else" in caplog.text
    caplog.clear()
    assert engine_of([gate], running).runtime is Runtime.OPENVINO
    assert engine_of([unbuildable(gate)], running).runtime is Runtime.OPENVINO
    assert "hilum" not in caplog.text


@pytest.mark.parametrize("was_kept", [False, True])
def test_a_runtime_that_was_broken_is_tried_again_once_it_is_mended(
    was_kept: bool, whole: Path, in_float32: list[Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(whole, tmp_path / "kept") if was_kept else tmp_path / "kept"
    running = Running(Runtime.AUTO, 1, folder)
    with monkeypatch.context() as broken:
        broken.setitem(sys.modules, "openvino", None)  # importing it fails
        for _ in range(3):
            assert engine_of(in_float32[:1], running).runtime is Runtime.TORCH
    assert not choice_of(in_float32[:1], folder).exists()
    engine_of(in_float32[:1], running)
    assert list(folder.glob("*.network")), "it was made again"
    assert choice_of(in_float32[:1], folder).exists()


def test_without_openvino_torch_answers(bundles: list[Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(library: str) -> str:
        if library == "openvino":
            raise PackageNotFoundError(library)
        return version(library)

    monkeypatch.setattr(kept, "version", missing)
    monkeypatch.setitem(sys.modules, "openvino", None)
    kept._code.cache_clear()
    try:
        assert engine_of(bundles[:1], Running(Runtime.AUTO, 1, tmp_path)).runtime is Runtime.TORCH
    finally:
        kept._code.cache_clear()


def test_what_is_the_fastest_is_known_of_machines_alike_alone(
    whole: Path, in_float32: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine_of(1) != machine_of(2)
    here = choice_of(in_float32[:1], whole)
    machine_of.cache_clear()
    monkeypatch.setattr(Path, "glob", lambda *_: iter([Path("/dev/nvidia0")]))
    try:
        assert choice_of(in_float32[:1], whole) != here, "a GPU that is added is tried"
    finally:
        machine_of.cache_clear()


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
    kept.keep(tmp_path / f"kept/a.{machine_of(1)}.runtime", b"openvino-int8")
    kept.keep(tmp_path / "kept/a.another.runtime", b"torch")
    assert not wanted(Runtime.AUTO)
    kept.keep(tmp_path / f"kept/b.{machine_of(1)}.runtime", b"cuda")
    assert wanted(Runtime.AUTO)
    assert not wanted(Runtime.OPENVINO)

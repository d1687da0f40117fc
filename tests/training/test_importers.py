"""Importers: the numbers of the published implementations, from files as their authors save them."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from random_weights import RESNET_GAIN, SEED, Golden, eight_bit, random_pictures, random_state, sampled
from torch import Tensor

from models.hanging import Hanging
from models.preprocessing import Preprocessing
from models.rendering import RenderedImage
from training.importers import chexnet, densenet, dino, torchxrayvision
from training.importers.imported import Imported
from training.importers.registry import Entry, download, entries
from training.importers.weights import WeightsRefused

NIH = "densenet121-res224-nih"
CHEX = "densenet121-res224-chex"


def answer(imported: Imported, pictures: np.ndarray[Any, Any]) -> Tensor:
    with torch.inference_mode():
        logits = imported.network(torch.from_numpy(pictures))
    assert isinstance(logits, Tensor)
    return logits


def saved(state: Any, path: Path, **options: Any) -> Path:
    torch.save(state, path, **options)
    return path


@pytest.fixture(scope="module")
def xrv_state() -> dict[str, Tensor]:
    return random_state(Golden.read("xrv_densenet").shapes, SEED)


@pytest.fixture(scope="module")
def xrv(xrv_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Imported:
    return torchxrayvision.import_weights(saved(xrv_state, tmp_path_factory.mktemp("xrv") / "weights.pt"), CHEX)


def test_torchxrayvision_s_densenet_gives_its_own_numbers(xrv: Imported) -> None:
    golden = Golden.read("xrv_densenet")
    logits = answer(xrv, random_pictures(SEED, (2, 1, 224, 224), -1024, 1024))
    np.testing.assert_allclose(logits, golden.outputs["logits"], atol=1e-4, rtol=0)
    scores = torchxrayvision.published_scores(logits, xrv.findings)
    np.testing.assert_allclose(scores, golden.outputs["scores"], atol=1e-4, rtol=0)


def test_torchxrayvision_s_resnet_gives_its_own_numbers(tmp_path: Path) -> None:
    golden = Golden.read("xrv_resnet")
    file = saved(random_state(golden.shapes, SEED, RESNET_GAIN), tmp_path / "weights.pt")
    imported = torchxrayvision.import_weights(file, "resnet50-res512-all")
    logits = answer(imported, random_pictures(SEED, (1, 1, 512, 512), -1024, 1024))
    np.testing.assert_allclose(logits, golden.outputs["logits"], atol=1e-4, rtol=0)
    scores = torchxrayvision.published_scores(logits, imported.findings)
    np.testing.assert_allclose(scores, golden.outputs["scores"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("legacy", [True, False], ids=["as published", "as torch saves today"])
def test_torchxrayvision_itself_and_we_read_the_same_file_alike(
    legacy: bool, xrv_state: dict[str, Tensor], tmp_path: Path
) -> None:
    published = pytest.importorskip("torchxrayvision", reason="torchxrayvision is not installed: goldens must do")
    network = published.models.DenseNet(num_classes=18, in_channels=1)
    network.load_state_dict(xrv_state)
    url = published.models.model_urls[NIH]["weights_url"]
    file = saved(network, tmp_path / Path(url).name, _use_new_zipfile_serialization=not legacy)
    theirs = published.models.DenseNet(weights=NIH, cache_dir=str(tmp_path))
    ours = torchxrayvision.import_weights(file, NIH)
    pictures = random_pictures(SEED + 1, (1, 1, 224, 224), -1024, 1024)
    with torch.inference_mode():
        wanted = theirs(torch.from_numpy(pictures))
    scores = torchxrayvision.published_scores(answer(ours, pictures), ours.findings)
    torch.testing.assert_close(scores, wanted, atol=1e-4, rtol=0)
    named = [label.lower().replace(" ", "_") for label in theirs.targets]
    assert all(named[f.output] == f.key for f in ours.findings)


def test_operating_points_and_addresses_are_those_of_torchxrayvision() -> None:
    published = pytest.importorskip("torchxrayvision", reason="torchxrayvision is not installed").models.model_urls
    for name, points in torchxrayvision.OPERATING_POINTS.items():
        np.testing.assert_allclose(points, published[name]["op_threshs"])
        assert entries()[name].url == published[name]["weights_url"]


def test_a_finding_that_a_variant_never_saw_is_not_named(xrv: Imported) -> None:
    keys = [f.key for f in xrv.findings]
    assert "infiltration" not in keys
    assert len(keys) == 11
    effusion = next(f for f in xrv.findings if f.key == "effusion")
    assert (effusion.output, effusion.operating_point) == (7, 0.27212676)


def test_a_score_of_one_half_is_the_operating_point(xrv: Imported) -> None:
    logits = torch.zeros(1, 18)
    for finding in xrv.findings:
        assert finding.operating_point is not None
        logits[0, finding.output] = torch.logit(torch.tensor(finding.operating_point))
    assert torch.allclose(torchxrayvision.published_scores(logits, xrv.findings), torch.full((1, 18), 0.5), atol=1e-5)
    assert (torchxrayvision.published_scores(logits + 1, xrv.findings)[0, 7] > 0.5).all()


def test_the_network_that_a_bundle_would_name_is_the_imported_one(xrv: Imported) -> None:
    parsed = ConfigParser({"network_def": xrv.network_def}).get_parsed_content("network_def", instantiate=True)
    parsed.load_state_dict(xrv.network.state_dict(), strict=True)


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As torchvision called the parts of a dense layer until 2018, saved from several devices."""
    renamed = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", k): v for k, v in state.items()}
    return {f"module.densenet121.{k}": v for k, v in renamed.items() if not k.endswith("num_batches_tracked")}


@pytest.mark.parametrize("old", [True, False], ids=["norm.1", "norm1"])
def test_a_chexnet_checkpoint_gives_the_numbers_of_its_network(old: bool, tmp_path: Path) -> None:
    golden = Golden.read("chexnet")
    state = random_state(golden.shapes, SEED)
    content = {"epoch": 7, "best_loss": np.float64(0.2), "state_dict": old_names(state) if old else state}
    assert not old or "module.densenet121.features.denseblock1.denselayer1.norm.1.weight" in content["state_dict"]
    file = saved(content, tmp_path / "model.pth.tar", _use_new_zipfile_serialization=not old)
    imported = chexnet.import_weights(file)
    logits = answer(imported, random_pictures(SEED, (2, 3, 224, 224), -600, 600))
    np.testing.assert_allclose(logits.sigmoid(), golden.outputs["probabilities"], atol=1e-4, rtol=0)
    assert [f.key for f in imported.findings][10:] == ["emphysema", "fibrosis", "pleural_thickening", "hernia"]


@pytest.mark.parametrize("form", ["backbone alone", "teacher and student", "teacher of several devices"])
def test_a_dino_checkpoint_gives_the_numbers_of_its_teacher(form: str, tmp_path: Path) -> None:
    golden = Golden.read("dino_small")
    state = random_state(golden.shapes, SEED)
    wrapped = {f"backbone.{k}": v for k, v in state.items()} | {"head.mlp.0.weight": torch.zeros(4, 384)}
    student = {f"module.{k}": torch.zeros_like(v) for k, v in wrapped.items()}
    several = {f"module.{k}": v for k, v in wrapped.items()}
    content = {
        "backbone alone": state,
        "teacher and student": {"student": student, "teacher": wrapped, "epoch": 100},
        "teacher of several devices": {"student": student, "teacher": several, "epoch": 100},
    }[form]
    imported = dino.import_weights(saved(content, tmp_path / "checkpoint.pth"), "dino-small-16")
    given = answer(imported, random_pictures(SEED, (1, 3, 224, 224), -2, 2))
    np.testing.assert_allclose(given, golden.outputs["class_token_224_224"], atol=1e-4, rtol=0)
    assert imported.findings == ()


def rendered(rows: int, columns: int) -> RenderedImage:
    return RenderedImage((eight_bit(rows, columns) / 255.0).astype(np.float32))


@pytest.mark.parametrize(("rows", "columns", "size"), [(700, 560, 224), (301, 360, 224), (300, 260, 512)])
def test_a_picture_is_prepared_as_torchxrayvision_prepares_it(rows: int, columns: int, size: int) -> None:
    prepared = torchxrayvision.preprocessing(size).apply(rendered(rows, columns))
    assert prepared.shape == (1, 1, size, size)
    wanted = Golden.read("preprocessing").outputs[f"xrv_{rows}_{columns}_{size}"]
    np.testing.assert_allclose(sampled(prepared[0]), wanted, atol=0.01, rtol=0)  # of 2048


@pytest.mark.parametrize(("name", "preprocessing"), [("chexnet", chexnet.PREPROCESSING), ("dino", dino.PREPROCESSING)])
def test_a_picture_is_prepared_as_torchvision_prepares_it(name: str, preprocessing: Preprocessing) -> None:
    prepared = preprocessing.apply(rendered(512, 512))
    wanted = Golden.read("preprocessing").outputs[name]
    assert prepared.shape == ((10, 3, 224, 224) if name == "chexnet" else (1, 3, 224, 224))
    np.testing.assert_allclose(sampled(prepared), wanted.reshape(sampled(prepared).shape), atol=1e-5, rtol=0)


def test_an_image_is_hung_and_cropped_in_its_true_proportions() -> None:
    preprocessing = torchxrayvision.preprocessing(64)
    image = rendered(300, 260)
    turned = RenderedImage(np.ascontiguousarray(image.pixels[:, ::-1]), hanging=Hanging(flip_columns=True))
    np.testing.assert_array_equal(preprocessing.apply(turned), preprocessing.apply(image))
    # 600 rows of half the height show the same as 300
    tall = RenderedImage(image.pixels.repeat(2, axis=0), aspect=0.5)
    assert np.abs(preprocessing.apply(tall) - preprocessing.apply(image)).mean() < 10


def test_a_preprocessing_that_cannot_be_done_is_refused() -> None:
    with pytest.raises(ValueError, match="'lanczos' is none of smoothed, bilinear, bicubic"):
        Preprocessing(224, 224, "lanczos", (0.5,), (1.0,))
    with pytest.raises(ValueError, match="cannot be done"):
        Preprocessing(224, 200, "bilinear", (0.5,), (1.0,))


def test_a_file_that_is_not_the_registered_one_is_refused_with_both_digests(
    xrv_state: dict[str, Tensor], tmp_path: Path
) -> None:
    file = saved(xrv_state, tmp_path / "other.pt")
    with pytest.raises(WeightsRefused) as caught:
        torchxrayvision.import_weights(file, "densenet121-res224-all")
    for words in (hashlib.sha256(file.read_bytes()).hexdigest(), "56524913dd16a906", "fetch it again from https://"):
        assert words in str(caught.value)


def test_a_digest_that_nobody_publishes_is_recorded_and_said_so(xrv: Imported) -> None:
    assert not xrv.provenance.verified
    assert re.fullmatch("[0-9a-f]{64}", xrv.provenance.sha256)
    assert "recorded here" in str(xrv.provenance)


def test_weights_of_another_network_are_refused_by_name(xrv_state: dict[str, Tensor], tmp_path: Path) -> None:
    file = saved(xrv_state, tmp_path / "densenet.pt")
    for importer, variant in ((dino, "dino-small-16"), (chexnet, "chexnet"), (torchxrayvision, "resnet50-res512-all")):
        with pytest.raises(WeightsRefused, match=r"densenet\.pt is not of the network that its variant names"):
            importer.import_weights(file, variant)
    with pytest.raises(WeightsRefused, match="dino has no weights 'dino-giant'"):
        dino.import_weights(file, "dino-giant")


def test_every_entry_names_where_it_lies_and_under_which_terms() -> None:
    assert set(torchxrayvision.OPERATING_POINTS) <= set(entries())
    for known in entries().values():
        assert known.url.startswith("https://")
        assert known.licence
        assert known.paper
        assert re.fullmatch("(?:[0-9a-f]{64})?", known.sha256)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "weights.pt").write_bytes(b"weights" * 1000)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with HTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_a_download_is_kept_only_if_it_is_the_registered_file(server: str, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"weights" * 1000).hexdigest()
    known = Entry("x", "dino", "small-16", f"{server}/weights.pt", digest, "", "")
    file = download(known, tmp_path / "to")
    assert file.read_bytes() == b"weights" * 1000
    assert download(replace(known, url="http://127.0.0.1:9/weights.pt"), tmp_path / "to") == file  # not fetched again
    with pytest.raises(WeightsRefused, match="has SHA-256"):
        download(replace(known, sha256="0" * 64), tmp_path / "elsewhere")
    with pytest.raises(WeightsRefused, match="name it with --file"):
        download(replace(known, url=f"{server}/absent.pt"), tmp_path / "elsewhere")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_densenet_s_names_are_monai_s_whatever_torchvision_called_them() -> None:
    expected = {"features.denseblock2.denselayer10.layers.conv2.weight", "class_layers.out.bias"}
    for dot, last in ((".", "classifier.0.bias"), ("", "classifier.bias")):
        keys = {f"features.denseblock2.denselayer10.conv{dot}2.weight": torch.zeros(1), last: torch.zeros(1)}
        assert set(densenet.to_monai(keys)) == expected

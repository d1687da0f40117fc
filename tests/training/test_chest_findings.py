"""The network of findings: its published trunk, its two ways to the same logits, and what it learns from."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from random_weights import SEED, Golden, random_pictures, random_state
from scipy import ndimage

from models.networks import EfficientNetLite
from models.networks.findings import shares
from models.rendering import RenderedImage, network_input
from training.backbone import load_efficientnet_lite
from training.chest_findings import VIEWS, draw_opacities, fit, kept_or_made, loss_of, mix, soft_targets
from training.data import FindingRecord
from training.evidence import CELLS, OUTPUTS, Samples
from training.findings_learner import FindingsLearner


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> EfficientNetLite:
    """Random weights in the published layout."""
    file = tmp_path_factory.mktemp("lite") / "weights.pth"
    torch.save(random_state(Golden.read("efficientnet_lite0").shapes, SEED), file)
    trunk = EfficientNetLite().eval()
    load_efficientnet_lite(trunk, file)
    return trunk


def test_the_trunk_gives_the_numbers_of_the_published_network(trunk: EfficientNetLite) -> None:
    pictures = (128 * random_pictures(SEED, (2, 1, 320, 256), -0.99, 1.0) + 127) / 255
    with torch.inference_mode():
        _middle, top = trunk(torch.from_numpy(pictures))
    np.testing.assert_allclose(
        top[:, ::64].numpy(), Golden.read("efficientnet_lite0").outputs["features"], atol=1e-3, rtol=0
    )


def test_published_weights_are_read_as_they_are(trunk: EfficientNetLite, tmp_path: Path) -> None:
    published = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="efficientnet_lite_pytorch is not installed: goldens must do"
    )
    network = published.EfficientNet.from_name("efficientnet-lite0").eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    load_efficientnet_lite(trunk, tmp_path / "weights.pth")
    x = torch.rand(1, 1, 320, 320)
    with torch.inference_mode():
        theirs = network.extract_features(((255 * x - 127) / 128).expand(-1, 3, -1, -1))
        torch.testing.assert_close(trunk(x)[1], theirs, atol=1e-4, rtol=0)


def test_what_is_learnt_is_what_both_networks_answer(trunk: EfficientNetLite) -> None:
    """Training pools first and answers then; the node answers with maps, whose mean the logit is."""
    learner = FindingsLearner(3, cells=10).eval()
    learner.trunk.load_state_dict(trunk.state_dict())
    x = torch.rand(2, 1, 160, 160)
    findings, opacity = learner.parts()
    with torch.inference_mode():
        learnt, marked = learner(learner.trunk.low(x))
        found, opaque = findings(x), opacity(x)
    assert (found["maps"].shape, opaque["maps"].shape) == ((2, 3, 10, 10), (2, 1, 10, 10))
    torch.testing.assert_close(torch.cat((found["logits"], opaque["logits"]), 1), learnt, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(opaque["maps"][:, 0], shares(marked))


def test_a_share_is_that_of_a_cell_with_its_neighbours() -> None:
    heat = torch.full((1, 9, 9), -9.0)
    heat[0, 4, 4] = 9.0
    expected = ndimage.gaussian_filter(heat[0].sigmoid().numpy(), 1.0, truncate=3.0, mode="nearest")
    np.testing.assert_allclose(shares(heat)[0].numpy(), expected, atol=1e-6)
    assert (shares(torch.full((1, 5, 5), 2.0)) - torch.tensor(2.0).sigmoid()).abs().max() < 1e-6


def test_what_nobody_labelled_teaches_nothing() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    heat = torch.zeros(2, CELLS, CELLS, requires_grad=True)
    targets = torch.tensor([[1.0, float("nan"), float("nan")], [0.0, 1.0, 1.0]])
    marked = torch.zeros(2, CELLS, CELLS)
    marked[0] = torch.nan
    loss_of(logits, heat, targets, marked).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert heat.grad is not None
    assert ((logits.grad != 0) == ~torch.isnan(targets)).all()
    assert (heat.grad[0] == 0).all()
    assert (heat.grad[1] != 0).all()


def test_an_outline_teaches_where_and_not_whether() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    heat = torch.zeros(1, CELLS, CELLS, requires_grad=True)
    marked = torch.zeros(1, CELLS, CELLS)
    marked[0, :5] = 1.0
    unknown = torch.full((1, 3), torch.nan)
    loss_of(logits, heat, unknown, marked).backward()  # type: ignore[no-untyped-call]
    assert heat.grad is not None
    assert logits.grad is None or not logits.grad.any()
    assert (heat.grad[0, :5] < 0).all()
    assert (heat.grad[0, 5:] > 0).all()


def test_boxes_and_outlines_become_cells(tmp_path: Path) -> None:
    mask = np.zeros((200, 100), np.uint8)  # of a portrait: it lies in the middle of the network's picture
    mask[100:, :50] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    image = RenderedImage(np.zeros((400, 200), np.float32))
    _, frame = network_input(image, 320)
    boxed = FindingRecord(Path("a.png"), "a", "s", "PA", {}, {}, {"lung_opacity": [(0.0, 0.0, 256.0, 128.0)]})
    outlined = FindingRecord(Path("b.png"), "b", "s", "", {}, {}, {}, (tmp_path / "mask.png",))
    first, second = draw_opacities([boxed, outlined], [frame, frame], side=80)
    assert first[:20, :40].all()
    assert first.sum() == 20 * 40
    assert second[41:79, 21:39].all()
    assert second.sum() == pytest.approx(40 * 20, rel=0.05)


def test_labels_are_softened_only_where_there_is_a_teacher() -> None:
    samples = _samples(np.array([[1.0, 0.0, np.nan]]), np.array([[0.4, np.nan, np.nan]]))
    np.testing.assert_allclose(soft_targets(samples), [[0.52, 0.0, np.nan]])


def test_only_samples_without_places_are_blended_and_their_targets_alike() -> None:
    low = np.arange(6, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 1, 1), np.float32)
    targets = np.stack([np.arange(6), np.full(6, np.nan)], 1).astype(np.float32)
    may = np.array([True, True, True, False, False, True])
    blended, wanted = mix(low, targets, may, np.random.default_rng(1))
    np.testing.assert_array_equal(blended[~may], low[~may])
    np.testing.assert_array_equal(wanted[~may, 0], targets[~may, 0])
    np.testing.assert_allclose(blended[:, 0, 0, 0], wanted[:, 0], rtol=1e-6)
    assert np.isnan(wanted[:, 1]).all()
    assert (wanted[may, 0] != targets[may, 0]).any()


def test_training_repeats_itself_and_leaves_the_first_layers_alone(trunk: EfficientNetLite) -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, (34, len(OUTPUTS))).astype(np.float32)
    lows = rng.normal(0, 1, (VIEWS, 34, trunk.LOW, 2 * CELLS, 2 * CELLS)).astype(np.float16)
    samples = _samples(truth, np.full_like(truth, np.nan))
    inside = np.arange(34) < 32
    one, two = (fit(trunk, lows, samples, inside, epochs=1, seed=3, what="toy") for _ in range(2))
    for (name, ours), theirs in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    kept = trunk.LOW_BLOCKS
    assert torch.equal(_weight(one.trunk, kept - 1), _weight(trunk, kept - 1))
    assert not torch.equal(_weight(one.trunk, kept), _weight(trunk, kept))


def test_a_network_of_the_same_run_is_not_trained_again(tmp_path: Path) -> None:
    made: list[FindingsLearner] = []

    def make() -> FindingsLearner:
        made.append(FindingsLearner(len(OUTPUTS) - 1, CELLS))
        return made[-1]

    first = kept_or_made(tmp_path / "runs" / "fold 1.pt", {"seed": 7}, make)
    again = kept_or_made(tmp_path / "runs" / "fold 1.pt", {"seed": 7}, make)
    assert len(made) == 1
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert not again.training
    kept_or_made(tmp_path / "runs" / "fold 1.pt", {"seed": 8}, make)
    assert len(made) == 2


def _samples(truth: npt.NDArray[Any], teacher: npt.NDArray[Any]) -> Samples:
    records = [FindingRecord(Path(f"{i}.png"), f"p{i}", "s", "PA", {}, {}, {}) for i in range(len(truth))]
    boxes = torch.zeros(VIEWS, len(truth), CELLS, CELLS)
    return Samples(
        records,
        np.zeros(len(truth), np.int_),
        truth.astype(np.float32),
        teacher.astype(np.float32),
        boxes,
        np.zeros((len(truth), 1)),
    )


def _weight(trunk: EfficientNetLite, block: int) -> torch.Tensor:
    return trunk.state_dict()[f"blocks.{block}.project.weight"]

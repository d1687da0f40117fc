"""Vision transformers: the numbers of DINO's own code, and a classifier whose maps say what decided."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from random_weights import SEED, Golden, random_pictures, random_state

from models.bundle import load_bundle, write_bundle
from models.networks import TransformerClassifier, VisionTransformer


@pytest.fixture(scope="module")
def published() -> Golden:
    return Golden.read("dino_small")


@pytest.fixture(scope="module")
def small(published: Golden) -> VisionTransformer:
    network = VisionTransformer("small", patch=16)
    network.load_state_dict(random_state(published.shapes, SEED), strict=True)
    return network.eval()


def test_its_keys_and_shapes_are_those_of_dino_s_vit_small(published: Golden, small: VisionTransformer) -> None:
    assert {key: tuple(value.shape) for key, value in small.state_dict().items()} == published.shapes


@pytest.mark.parametrize(("height", "width"), [(224, 224), (320, 320), (160, 208)])
def test_it_gives_the_numbers_of_dino_s_own_code_at_every_size(
    published: Golden, small: VisionTransformer, height: int, width: int
) -> None:
    pictures = torch.from_numpy(random_pictures(SEED, (1, 3, height, width), -2, 2))
    with torch.inference_mode():
        given = small(pictures).numpy()
    np.testing.assert_allclose(given, published.outputs[f"class_token_{height}_{width}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("size", "millions"), [("tiny", 5.5), ("small", 21.7), ("base", 85.8)])
def test_each_size_has_as_many_parameters_as_it_was_published_with(size: str, millions: float) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in VisionTransformer(size).parameters())
    assert round(count / 1e6, 1) == millions


def test_patches_of_eight_pixels_give_four_times_the_tokens() -> None:
    with torch.inference_mode():
        assert VisionTransformer("tiny", patch=8)(torch.zeros(1, 3, 64, 64)).shape == (1, 192)
        assert VisionTransformer("tiny", patch=8).tokens(torch.zeros(1, 3, 64, 64)).shape == (1, 65, 192)


def test_a_size_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="'huge' is none of tiny, small, base"):
        VisionTransformer("huge")


def test_where_the_class_token_looks_sums_to_less_than_one_by_what_it_gives_itself(small: VisionTransformer) -> None:
    pictures = torch.from_numpy(random_pictures(SEED, (1, 3, 96, 128), -2, 2))
    with torch.inference_mode():
        looks = small.attention(pictures)
    assert looks.shape == (1, 6, 6, 8)
    assert (looks > 0).all()
    assert (looks.sum((2, 3)) < 1).all()


def test_ways_are_left_out_in_training_only() -> None:
    torch.manual_seed(0)
    network = VisionTransformer("tiny", picture=32, drop_path=0.5)
    pictures = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert not torch.equal(network(pictures), network(pictures))
        network.eval()
        assert torch.equal(network(pictures), network(pictures))


def test_the_logit_of_a_finding_is_the_mean_of_its_map() -> None:
    torch.manual_seed(0)
    network = TransformerClassifier(3, "tiny").eval()
    with torch.inference_mode():
        answer = network(torch.rand(2, 1, 64, 96))
    assert answer["maps"].shape == (2, 3, 4, 6)
    torch.testing.assert_close(answer["maps"].mean((2, 3)), answer["logits"])
    assert answer["maps"].std() > 0


def test_a_classifier_learns_on_which_side_a_bright_spot_lies() -> None:
    torch.manual_seed(0)
    network = TransformerClassifier(1, "tiny", picture=32)
    optimiser = torch.optim.AdamW(network.parameters(), 5e-5)
    pictures = 0.2 * torch.rand(8, 1, 32, 32)
    right = torch.arange(8) % 2
    for i, side in enumerate(right):
        pictures[i, 0, 8:24, 16 * side + 2 : 16 * side + 14] += 0.7
    for _ in range(40):
        optimiser.zero_grad()
        logits = network(pictures)["logits"][:, 0]
        torch.nn.functional.binary_cross_entropy_with_logits(logits, right.float()).backward()
        optimiser.step()
    network.eval()
    with torch.inference_mode():
        assert ((network(pictures)["logits"][:, 0] > 0) == (right > 0)).all()


def test_a_bundle_may_hold_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network_def = {"_target_": "models.networks.TransformerClassifier", "outputs": 2, "size": "tiny"}
    metadata = {"version": "1.0.0", "hilum": {"interpreter": "scores", "input_size": 224}}
    write_bundle(tmp_path / "b", TransformerClassifier(2, "tiny"), {"network_def": network_def}, metadata)
    bundle = load_bundle(tmp_path / "b")
    assert isinstance(bundle.network, TransformerClassifier)
    assert json.loads((tmp_path / "b" / "configs" / "inference.json").read_text())["network_def"] == network_def

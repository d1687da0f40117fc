"""U-Nets with a classifier's encoder: sizes, heads, and that they learn to outline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.nets import DenseNet121
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from models.bundle import load_bundle, write_bundle
from models.networks import DenseNetFeatures, EncoderUNet, ResNetFeatures

NARROW = (32, 16, 16, 8)


def masks_of(network: EncoderUNet, x: Tensor) -> Tensor:
    with torch.inference_mode():
        masks = network(x)["masks"]
    assert isinstance(masks, Tensor)
    return masks


@pytest.mark.parametrize("encoder", ["densenet121", "resnet34"])
@pytest.mark.parametrize("size", [(64, 64), (96, 160), (75, 101)])
def test_a_mask_has_the_size_of_the_picture_whatever_that_is(encoder: str, size: tuple[int, int]) -> None:
    network = EncoderUNet(2, encoder, NARROW).eval()
    assert masks_of(network, torch.rand(1, 1, *size)).shape == (1, 2, *size)


def test_the_features_are_halved_five_times_and_have_the_channels_that_are_told() -> None:
    for features in (DenseNetFeatures(), ResNetFeatures(18), ResNetFeatures(34)):
        taken = features.eval()(torch.rand(1, 1, 64, 64))
        assert tuple(f.shape[1] for f in taken) == features.CHANNELS
        assert [f.shape[-1] for f in taken] == [32, 16, 8, 4, 2]


def test_the_encoder_is_monai_s_densenet_whose_weights_load_into_it() -> None:
    torch.manual_seed(0)
    trained, picture = DenseNet121(spatial_dims=2, in_channels=1, out_channels=3).eval(), torch.rand(1, 1, 64, 64)
    features = DenseNetFeatures().eval()
    features.features.load_state_dict(trained.features.state_dict(), strict=True)
    with torch.inference_mode():
        torch.testing.assert_close(features(picture)[-1], torch.relu(trained.features(picture)))


def test_the_resnet_s_keys_are_torchvision_s() -> None:
    keys = set(ResNetFeatures(34).resnet.state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.0.weight", "layer4.2.conv2.weight"} <= keys
    assert "layer2.0.downsample.0.bias" not in keys
    assert not any(key.startswith("fc") for key in keys)


def test_the_levels_outline_by_themselves_in_training_only() -> None:
    network = EncoderUNet(2, "resnet34", NARROW, deep_supervision=True)
    answer = network(torch.rand(2, 1, 64, 64))
    assert isinstance(answer["deep"], list)
    assert [level.shape for level in answer["deep"]] == [(2, 2, 64, 64)] * 3
    assert "deep" not in network.eval()(torch.rand(2, 1, 64, 64))


def test_the_empty_head_answers_for_each_mask_and_only_where_it_was_asked_for() -> None:
    answer = EncoderUNet(2, "resnet34", NARROW, empty_head=True)(torch.rand(3, 1, 64, 64))
    assert isinstance(answer["empty"], Tensor)
    assert answer["empty"].shape == (3, 2)
    assert "empty" not in EncoderUNet(2, "resnet34", NARROW)(torch.rand(3, 1, 64, 64))


def test_gray_values_are_standardised_as_the_encoder_s_weights_expect() -> None:
    torch.manual_seed(0)
    network = EncoderUNet(1, "resnet34", NARROW, mean=0.5, deviation=1 / 2048).eval()
    plain = EncoderUNet(1, "resnet34", NARROW, mean=0.0, deviation=1.0).eval()
    plain.load_state_dict(network.state_dict())
    picture = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(masks_of(network, picture), masks_of(plain, 2048 * (picture - 0.5)))


def test_what_cannot_be_built_is_named() -> None:
    with pytest.raises(ValueError, match="'vgg' is none of densenet121, resnet34"):
        EncoderUNet(encoder="vgg")
    with pytest.raises(ValueError, match="3 widths are given, 4 levels"):
        EncoderUNet(widths=(8, 8, 8))


def test_it_learns_to_outline_a_bright_square_and_that_there_is_none() -> None:
    torch.manual_seed(0)
    network = EncoderUNet(1, "resnet34", NARROW, deep_supervision=True, empty_head=True)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    pictures, truth = 0.3 * torch.rand(4, 1, 48, 48), torch.zeros(4, 1, 48, 48)
    for i in (0, 2):  # every other one
        truth[i, 0, 8 + 4 * i : 32 + 4 * i, 6 + 8 * i : 26 + 8 * i] = 1.0
    pictures += 0.5 * truth
    empty = (truth.sum((2, 3)) == 0).float()
    for _ in range(20):
        optimiser.zero_grad()
        answer = network(pictures)
        loss = cross_entropy(answer["masks"], truth) + 0.1 * cross_entropy(answer["empty"], empty)
        loss = loss + sum(cross_entropy(level, truth) for level in answer["deep"])
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        answer = network(pictures)
        found = answer["masks"] > 0
    overlap = 2 * (found & (truth > 0)).sum() / (found.sum() + truth.sum())
    assert overlap > 0.9
    assert ((answer["empty"] > 0) == (empty > 0)).all()


def test_a_bundle_may_hold_one(tmp_path: Path) -> None:
    options = {"outputs": 1, "encoder": "resnet34", "widths": list(NARROW), "empty_head": True}
    network_def = {"_target_": "models.networks.EncoderUNet", **options}
    metadata = {"version": "1.0.0", "hilum": {"interpreter": "structures", "input_size": 64, "segments": ["x"]}}
    network = EncoderUNet(1, "resnet34", NARROW, empty_head=True)
    write_bundle(tmp_path / "b", network, {"network_def": network_def}, metadata)
    assert set(load_bundle(tmp_path / "b").network(torch.rand(1, 1, 64, 64))) == {"masks", "empty"}

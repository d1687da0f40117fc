"""Writes the golden numbers of this folder with the published implementations themselves.

They are needed here and nowhere else: torchxrayvision, torchvision, efficientnet_lite_pytorch, and a checkout of
facebookresearch/dino, whose ``vision_transformer.py`` is imported::

    python tests/training/golden/make_golden.py CHECKOUT_OF_DINO
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[3])]

from random_weights import (  # noqa: E402
    GAIN,
    RESNET_GAIN,
    SEED,
    Golden,
    eight_bit,
    random_pictures,
    random_state,
    sampled,
)


def main(dino: Path) -> None:
    torch.set_num_threads(1)
    _torchxrayvision()
    _preprocessing()
    _chexnet()
    _dino(dino)
    _efficientnet_lite()


def _torchxrayvision() -> None:
    import torchxrayvision as xrv

    points = torch.tensor(xrv.models.model_urls["densenet121-res224-chex"]["op_threshs"])
    network = xrv.models.DenseNet(num_classes=18, in_channels=1)
    pictures = torch.from_numpy(random_pictures(SEED, (2, 1, 224, 224), -1024, 1024))
    shapes = _fill(network)
    with torch.inference_mode():
        logits = network(pictures)
        network.op_threshs = points
        Golden(shapes, {"logits": logits.numpy(), "scores": network(pictures).numpy()}).write("xrv_densenet")

    import torchvision

    plain = torchvision.models.resnet50(num_classes=18, weights=None)
    plain.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    shapes = _fill(plain, RESNET_GAIN)
    name = "resnet50-res512-all"
    with tempfile.TemporaryDirectory() as folder:
        url = xrv.models.model_urls[name]["weights_url"]
        torch.save(plain.state_dict(), Path(folder) / Path(url).name)
        network = xrv.models.ResNet(weights=name, cache_dir=folder)
    pictures = torch.from_numpy(random_pictures(SEED, (1, 1, 512, 512), -1024, 1024))
    with torch.inference_mode():
        logits = network.model(pictures)
        Golden(shapes, {"logits": logits.numpy(), "scores": network(pictures).numpy()}).write("xrv_resnet")


def _preprocessing() -> None:
    """Some pixels of pictures as TorchXRayVision and torchvision make them."""
    import torchxrayvision as xrv
    from PIL import Image
    from torchvision import transforms

    outputs: dict[str, Any] = {}
    for rows, columns, size in ((700, 560, 224), (301, 360, 224), (300, 260, 512)):
        pixels = eight_bit(rows, columns)
        picture = xrv.datasets.normalize(pixels, maxval=255, reshape=True)
        picture = xrv.datasets.XRayResizer(size)(xrv.datasets.XRayCenterCrop()(picture))
        outputs[f"xrv_{rows}_{columns}_{size}"] = sampled(picture)
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    picture = Image.fromarray(eight_bit(512, 512)).convert("RGB")
    last = [transforms.ToTensor(), transforms.Normalize(mean, deviation)]
    ten = transforms.TenCrop(224)(transforms.Resize(256)(picture))
    outputs["chexnet"] = sampled(np.stack([transforms.Compose(last)(crop).numpy() for crop in ten]))
    bicubic = transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC)
    outputs["dino"] = sampled(transforms.Compose([bicubic, transforms.CenterCrop(224), *last])(picture).numpy())
    Golden({}, outputs).write("preprocessing")


def _chexnet() -> None:
    """The network of the reproductions: torchvision's, whose last layer is followed by a sigmoid."""
    import torchvision

    network = torchvision.models.densenet121(weights=None)
    network.classifier = nn.Sequential(nn.Linear(1024, 14), nn.Sigmoid())
    shapes = _fill(network)
    pictures = torch.from_numpy(random_pictures(SEED, (2, 3, 224, 224), -600, 600))
    with torch.inference_mode():
        Golden(shapes, {"probabilities": network(pictures).numpy()}).write("chexnet")


def _dino(checkout: Path) -> None:
    sys.path.insert(0, str(checkout))
    import vision_transformer

    network = vision_transformer.vit_small(patch_size=16)
    shapes = _fill(network)
    outputs = {}
    for height, width in ((224, 224), (320, 320), (160, 208)):
        pictures = torch.from_numpy(random_pictures(SEED, (1, 3, height, width), -2, 2))
        with torch.inference_mode():
            outputs[f"class_token_{height}_{width}"] = network(pictures).numpy()
    Golden(shapes, outputs).write("dino_small")


def _efficientnet_lite() -> None:
    """Its last features, one channel in 64, of pictures in the range that its weights were trained for."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    shapes = _fill(network.eval())
    pictures = torch.from_numpy(random_pictures(SEED, (2, 1, 320, 256), -0.99, 1.0)).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        features = network.extract_features(pictures)[:, ::64]
    Golden(shapes, {"features": features.numpy()}).write("efficientnet_lite0")


def _fill(network: nn.Module, gain: float = GAIN) -> dict[str, tuple[int, ...]]:
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(random_state(shapes, SEED, gain))
    network.eval()
    return shapes


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The classifiers of TorchXRayVision (Cohen et al., MIDL 2022): DenseNet-121 at 224 and ResNet-50 at 512 pixels.

The rule: the network gives logits. What TorchXRayVision itself returns is `published_scores` of them: its operating
points are shifted to one half, so that scores of different findings can be read alike. They are no probabilities, and
for the ResNet all of them lie between 0.50 and 0.54, as if the sigmoid had been taken twice when they were chosen:
whoever uses them should calibrate on radiographs of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import ResNet
from torch import Tensor, nn

from models.preprocessing import Preprocessing
from training.importers import densenet
from training.importers.imported import Imported, ImportedFinding, Provenance
from training.importers.registry import Entry, entry
from training.importers.weights import load_into, read_weights, tensors

# The order of the outputs of every variant; one that saw no case of a finding has no operating point for it.
FINDINGS = (
    "atelectasis", "consolidation", "infiltration", "pneumothorax", "edema", "emphysema", "fibrosis", "effusion",
    "pneumonia", "pleural_thickening", "cardiomegaly", "nodule", "mass", "hernia", "lung_lesion", "fracture",
    "lung_opacity", "enlarged_cardiomediastinum",
)  # fmt: skip
SIZE = {"densenet121": 224, "resnet50": 512}
_NO = math.nan
# Published with the weights (`op_threshs` of torchxrayvision/models.py, version 1.5.7), in the order of `FINDINGS`.
OPERATING_POINTS: dict[str, tuple[float, ...]] = {
    "densenet121-res224-all": (
        0.07422872, 0.038290843, 0.09814756, 0.0098118475, 0.023601074, 0.0022490358, 0.010060724, 0.103246614,
        0.056810737, 0.026791653, 0.050318155, 0.023985857, 0.01939503, 0.042889766, 0.053369623, 0.035975814,
        0.20204692, 0.05015312,
    ),
    "densenet121-res224-nih": (
        0.039117552, 0.0034529066, 0.11396341, 0.0057298196, 0.00045666535, 0.0018880932, 0.012037827, 0.038744126,
        0.0037213727, 0.014730946, 0.016149804, 0.054241467, 0.037198864, 0.0004403434, _NO, _NO, _NO, _NO,
    ),
    "densenet121-res224-pc": (
        0.031012505, 0.013347598, 0.081435576, 0.001262615, 0.002587246, 0.0035944257, 0.0023071, 0.055412333,
        0.044385884, 0.042766232, 0.043258056, 0.037629247, 0.005658899, 0.0091741895, _NO, 0.026507627, _NO, _NO,
    ),
    "densenet121-res224-chex": (
        0.1988969, 0.05710573, _NO, 0.0531293, 0.1435217, _NO, _NO, 0.27212676, 0.07749717, _NO, 0.19712369, _NO, _NO,
        _NO, 0.09932402, 0.09273402, 0.3270967, 0.10888247,
    ),
    "densenet121-res224-rsna": (
        _NO, _NO, _NO, _NO, _NO, _NO, _NO, _NO, 0.13486601, _NO, _NO, _NO, _NO, _NO, _NO, _NO, 0.13511065, _NO,
    ),
    "densenet121-res224-mimic_nb": (
        0.08558747, 0.011884617, _NO, 0.0040595434, 0.010733786, _NO, _NO, 0.118761964, 0.022924708, _NO, 0.06358637,
        _NO, _NO, _NO, 0.022143636, 0.017476924, 0.1258702, 0.014020768,
    ),
    "densenet121-res224-mimic_ch": (
        0.09121389, 0.010573786, _NO, 0.005023008, 0.003698257, _NO, _NO, 0.08001232, 0.037242252, _NO, 0.05006329,
        _NO, _NO, _NO, 0.019866971, 0.03823637, 0.11303808, 0.0069147074,
    ),
    "resnet50-res512-all": (
        0.51570356, 0.50444704, 0.53787947, 0.50723547, 0.5025118, 0.5035252, 0.5038076, 0.51862943, 0.5078151,
        0.50724894, 0.5056339, 0.510706, 0.5053923, 0.5020846, _NO, 0.5080557, 0.5138526, _NO,
    ),
}  # fmt: skip
_RESNET50 = {
    "block": "bottleneck", "layers": [3, 4, 6, 3], "block_inplanes": [64, 128, 256, 512], "spatial_dims": 2,
    "n_input_channels": 1, "conv1_t_stride": 2, "num_classes": len(FINDINGS), "bias_downsample": False,
}  # fmt: skip


def import_weights(file: Path, variant: str) -> Imported:
    """Import a file as TorchXRayVision publishes it: a pickled DenseNet, or the state dict of a ResNet.

    Parameters
    ----------
    variant
        One of `OPERATING_POINTS`.

    Raises
    ------
    WeightsRefused
        When the file is not that of the variant.
    """
    known = entry(variant, "torchxrayvision")
    content, digest = read_weights(file)
    known.verify(file.name, digest)
    network, network_def = _build(known)
    state = {key.removeprefix("model."): value for key, value in tensors(content).items() if key != "op_threshs"}
    load_into(network, densenet.to_monai(state) if known.network == "densenet121" else state, file.name)
    points = OPERATING_POINTS[variant]
    findings = tuple(
        ImportedFinding(key, output, points[output])
        for output, key in enumerate(FINDINGS)
        if not math.isnan(points[output])
    )
    provenance = Provenance.of(known, file, digest)
    return Imported(network, network_def, preprocessing(SIZE[known.network]), findings, provenance)


def preprocessing(size: int) -> Preprocessing:
    """What TorchXRayVision's pictures undergo: `XRayCenterCrop`, `XRayResizer`, and gray values from -1024 to 1024."""
    return Preprocessing(size, resized=size, resampling="smoothed", mean=(0.5,), deviation=(1 / 2048,))


def published_scores(logits: Tensor, findings: Sequence[ImportedFinding]) -> Tensor:
    """What TorchXRayVision returns by default (`op_norm`): the operating point becomes one half, both sides linear.

    Parameters
    ----------
    logits
        Shape (n, outputs).

    Returns
    -------
    Tensor
        Shape (n, outputs), 0 to 1; one half where there is no operating point.
    """
    probabilities = logits.sigmoid()
    scores = torch.full_like(probabilities, 0.5)
    for finding in findings:
        if finding.operating_point is not None:
            p, point = probabilities[:, finding.output], finding.operating_point
            below, above = p / (2 * point), 1 - (1 - p) / (2 * (1 - point))
            scores[:, finding.output] = torch.where(p < point, below, above)
    return scores


def _build(known: Entry) -> tuple[nn.Module, dict[str, Any]]:
    if known.network == "densenet121":
        return densenet.build(1, len(FINDINGS)), densenet.network_def(1, len(FINDINGS))
    return ResNet(**_RESNET50), {"_target_": "monai.networks.nets.ResNet", **_RESNET50}

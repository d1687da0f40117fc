"""DenseNet-121 checkpoints in the manner of CheXNet (Rajpurkar et al., 2017), as its reproductions save them.

The rule: the network gives logits; the published probability, which such checkpoints compute themselves, is their
sigmoid. Published figures are means over ten crops (``Preprocessing.ten_crops``).
"""

from __future__ import annotations

from pathlib import Path

from models.networks.vision_transformer import IMAGENET_DEVIATION, IMAGENET_MEAN
from models.preprocessing import Preprocessing
from training.importers import densenet
from training.importers.imported import Imported, ImportedFinding, Provenance
from training.importers.registry import entry
from training.importers.weights import load_into, read_weights, tensors

# The order of the outputs is that of ChestX-ray14 (Wang et al., CVPR 2017).
FINDINGS = (
    "atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
    "consolidation", "edema", "emphysema", "fibrosis", "pleural_thickening", "hernia",
)  # fmt: skip
PREPROCESSING = Preprocessing(224, 256, "bilinear", IMAGENET_MEAN, IMAGENET_DEVIATION, ten_crops=True)


def import_weights(file: Path, variant: str = "chexnet") -> Imported:
    """Import a checkpoint with keys such as ``module.densenet121.features.denseblock1.denselayer1.norm.1.weight``.

    Raises
    ------
    WeightsRefused
        When the file is not such a checkpoint.
    """
    known = entry(variant, "chexnet")
    content, digest = read_weights(file)
    known.verify(file.name, digest)
    state = {
        key.removeprefix("densenet121."): value
        for key, value in tensors(content, wrappers=("state_dict", "model")).items()
    }
    network = densenet.build(len(IMAGENET_MEAN), len(FINDINGS))
    load_into(network, densenet.to_monai(state), file.name)
    findings = tuple(ImportedFinding(key, output) for output, key in enumerate(FINDINGS))
    network_def = densenet.network_def(len(IMAGENET_MEAN), len(FINDINGS))
    return Imported(network, network_def, PREPROCESSING, findings, Provenance.of(known, file, digest))

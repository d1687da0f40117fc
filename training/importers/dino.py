"""Vision transformers that were pre-trained with DINO (Caron et al., 2021): trunks, from which findings can be learnt.

The rule: the teacher is taken where there is one, for it is the better of the two; heads of pre-training are left.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from models.networks.vision_transformer import IMAGENET_DEVIATION, IMAGENET_MEAN, VisionTransformer
from models.preprocessing import Preprocessing
from training.importers.imported import Imported, Provenance
from training.importers.registry import entry
from training.importers.weights import load_into, read_weights, tensors

PREPROCESSING = Preprocessing(224, 256, "bicubic", IMAGENET_MEAN, IMAGENET_DEVIATION)


def import_weights(file: Path, variant: str = "dino-small-16") -> Imported:
    """Import a backbone or a full checkpoint (``teacher`` and ``student``), from DINO or from training of one's own.

    Parameters
    ----------
    variant
        ``dino-small-16`` and the like: size and patch.

    Raises
    ------
    WeightsRefused
        When the file holds no such transformer.
    """
    known = entry(variant, "dino")
    content, digest = read_weights(file)
    known.verify(file.name, digest)
    size, patch = known.network.rsplit("-", 1)
    network = VisionTransformer(size, int(patch))
    load_into(network, _backbone(tensors(content, wrappers=("teacher", "student", "state_dict", "model"))), file.name)
    network_def = {"_target_": "models.networks.VisionTransformer", "size": size, "patch": int(patch)}
    return Imported(network, network_def, PREPROCESSING, (), Provenance.of(known, file, digest))


def _backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What stands under ``backbone.`` if anything does; else everything but a classifier's ``head.``."""
    prefix = "backbone."
    if any(key.startswith(prefix) for key in state):
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return {key: value for key, value in state.items() if not key.startswith("head.")}

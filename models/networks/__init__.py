"""Networks that MONAI does not have; everything else is taken from ``monai.networks``.

The rule: a bundle names what stands here, as ``models.networks.FindingsNet``; where it is defined may change.
"""

from __future__ import annotations

from models.networks.anchor_boxes import AnchorBoxes
from models.networks.efficientnet_lite import EfficientNetLite
from models.networks.encoder_unet import EncoderUNet
from models.networks.findings import FindingsNet, OpacityHead, OpacityNet
from models.networks.gate import GateNet
from models.networks.heat_detector import Detections, HeatDetector, decode
from models.networks.lite_unet import LiteUNet
from models.networks.mirrored import Mirrored
from models.networks.pyramid import PyramidFeatures
from models.networks.squeezenet import Fire, SqueezeNetTrunk
from models.networks.together import Together, begin_alike
from models.networks.transition import TransitionClassifier
from models.networks.trunks import DenseNetFeatures, ResNetFeatures, SqueezeNetFeatures
from models.networks.vision_transformer import TransformerClassifier, VisionTransformer

__all__ = [
    "AnchorBoxes",
    "DenseNetFeatures",
    "Detections",
    "EfficientNetLite",
    "EncoderUNet",
    "FindingsNet",
    "Fire",
    "GateNet",
    "HeatDetector",
    "LiteUNet",
    "Mirrored",
    "OpacityHead",
    "OpacityNet",
    "PyramidFeatures",
    "ResNetFeatures",
    "SqueezeNetFeatures",
    "SqueezeNetTrunk",
    "Together",
    "TransformerClassifier",
    "TransitionClassifier",
    "VisionTransformer",
    "begin_alike",
    "decode",
]

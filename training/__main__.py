"""``./hilum train NAME``: trains one of the default bundles again and writes it in place."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

from training.data import DataMissing

_REPOSITORY = Path(__file__).resolve().parent.parent
_SHARED = _REPOSITORY.parent / "shared"
_EPOCHS = {"pixel_gate": 12, "lung_fields": 60, "chest_findings": 30}


def main() -> int:
    """Run the training of one bundle; returns the exit code."""
    parser = argparse.ArgumentParser(prog="./hilum train", description=__doc__)
    parser.add_argument("name", choices=sorted(_EPOCHS))
    parser.add_argument("--data", type=Path, default=_SHARED / "data", help="folder of the data sets (../shared/data)")
    parser.add_argument("--weights", type=Path, default=_SHARED / "weights" / "squeezenet1_0_imagenet_decoded.pt",
                        help="SqueezeNet 1.0 trained on ImageNet, for pixel_gate and chest_findings")  # fmt: skip
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder of the bundle (models/NAME)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    out = options.out or _REPOSITORY / "models" / options.name
    epochs = options.epochs or _EPOCHS[options.name]
    try:
        if options.name == "lung_fields":
            from training import lung_evidence, lung_fields

            try:
                lung_fields.train(options.data, out, epochs=epochs, seed=options.seed)
            except lung_evidence.TrainingFailed as error:
                print(f"hilum: {error}", file=sys.stderr)
                return 1
        elif options.name == "pixel_gate":
            from training import pixel_gate

            pixel_gate.train(options.data, out, options.weights, epochs=epochs, seed=options.seed)
        else:
            from training import chest_findings

            chest_findings.train(options.data, out, options.weights, epochs=epochs, seed=options.seed)
    except DataMissing as error:
        print(f"hilum: {error}", file=sys.stderr)
        return 1
    print(f"hilum: {out} is written; its card is docs/README.md", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Several networks, or several looks of one, as one answer; and one network taught by them.

The rule: probabilities are averaged, not logits; a picture is judged only by networks that were not trained on its
patient, and sides that are told are never mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.findings import MIDLINE
from training.readers.records import Record
from training.readers.splits import folds
from training.tasks.common import named

FloatArray = npt.NDArray[np.float32]


def looks(
    network: nn.Module, pictures: Tensor, *, findings: Sequence[str], mirror: bool = True, zooms: Sequence[float] = ()
) -> Tensor:
    """Probabilities of one network averaged over several looks at each picture (test-time augmentation).

    Parameters
    ----------
    pictures
        Shape (n, 1, h, w).
    findings
        Keys of the outputs.
    mirror
        Look at the mirrored pictures as well; refused where an output tells a side.
    zooms
        Further looks at the middle of the picture, enlarged by each of these factors.

    Returns
    -------
    tensor
        Shape (n, findings).

    Raises
    ------
    ValueError
        When sides would be mirrored.
    """
    if mirror and (sided := [key for key in findings if is_sided(key)]):
        raise ValueError(f"{', '.join(sided)} tells a side: mirrored pictures would teach the other one")
    shown = [pictures]
    for zoom in zooms:
        side = round(pictures.shape[-1] / zoom)
        start = (pictures.shape[-1] - side) // 2
        part = pictures[..., start : start + side, start : start + side]
        shown.append(nn.functional.interpolate(part, pictures.shape[-2:], mode="bilinear", align_corners=False))
    shown += [look.flip(-1) for look in shown] if mirror else []
    with torch.inference_mode():
        return torch.stack([torch.sigmoid(named(network(look), "logits")["logits"]) for look in shown]).mean(0)


def is_sided(key: str) -> bool:
    """Whether a key tells a side of the patient: ``lung_right``, ``pneumothorax_left``."""
    return key not in MIDLINE and key.rpartition("_")[2] in ("right", "left")


def ensemble(
    networks: Sequence[nn.Module],
    pictures: Tensor,
    *,
    findings: Sequence[str],
    mirror: bool = False,
    zooms: Sequence[float] = (),
) -> Tensor:
    """Mean of the probabilities of several networks in evaluation mode: shape (n, findings)."""
    each = [looks(network, pictures, findings=findings, mirror=mirror, zooms=zooms) for network in networks]
    return torch.stack(each).mean(0)


def cross_validation(records: Sequence[Record], count: int, seed: int) -> list[list[Record]]:
    """For each of `count` networks all records, those of its fold as ``val`` and the others as ``train``.

    Records of an official test part stay out of it.
    """
    usable = [r for r in records if r.split != "test"]
    dealt = folds(usable, count, seed=seed)
    return [
        [replace(r, split="val" if i == held else "train") for i, part in enumerate(dealt) for r in part]
        for held in range(count)
    ]


def taught(records: Sequence[Record], probabilities: FloatArray, findings: Sequence[str]) -> tuple[Record, ...]:
    """Records with a teacher's probabilities, for the loss ``distilled``.

    Parameters
    ----------
    probabilities
        Shape (n, findings); NaN where the teacher is not to be asked. Those of an ensemble of cross-validation are to
        come, for each picture, from the network that did not see its patient.

    Raises
    ------
    ValueError
        When the shape does not fit, or a value is no probability.
    """
    if probabilities.shape != (len(records), len(findings)):
        raise ValueError(f"probabilities {probabilities.shape} for {len(records)} records, {len(findings)} findings")
    if ((probabilities < 0) | (probabilities > 1)).any():
        raise ValueError("a teacher's probabilities lie between 0 and 1")
    return tuple(
        replace(r, soft={**r.soft, **{k: float(v) for k, v in zip(findings, row, strict=True) if not np.isnan(v)}})
        for r, row in zip(records, probabilities, strict=True)
    )

"""How well the outline that the node shows of an opacity lies on what people outlined, on held-out patients.

The rule: the outline is made by ``models.scores.outline``, as in the node; beside it stands what both lungs as a whole
would reach, for opacities lie in lungs and often fill much of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tqdm import tqdm

from models.findings import BoolMask
from models.rendering import network_input, render_picture
from models.scores import outline
from training.data import FindingRecord, paint_boxes
from training.evidence import INPUT_SIZE, FloatArray
from training.lung_crop import LungFinder
from training.metrics.intervals import Interval, mean_interval
from training.metrics.overlap import dice

# Share of a cell from which it belongs: from 0.15 to 0.3 the figures hardly differ.
OUTLINE_FROM = 0.2


@dataclass(frozen=True)
class OutlineFigures:
    """Dice of the outline, and of both lungs as a whole: on outlined opacities, and on boxed ones.

    Parameters
    ----------
    gain
        Dice less that of the lungs, on outlined opacities.
    """

    outlined: Interval
    lungs_on_outlined: Interval
    gain: Interval
    boxed: Interval
    lungs_on_boxed: Interval
    images: tuple[int, int]

    @property
    def carries(self) -> bool:
        """Whether the outline may be shown: it says more than that something lies in the lungs, beyond doubt."""
        return self.gain.low > 0.0


def outline_figures(records: Sequence[FindingRecord], maps: FloatArray, finder: LungFinder) -> OutlineFigures:
    """Judge the outlines of held-out `maps`, shape (n, cells, cells), one for each record."""
    found: dict[bool, list[tuple[str, float, float]]] = {True: [], False: []}
    for record, ours, lungs, truth in _drawn(records, maps, finder):
        found[bool(record.outlines)].append((record.patient, dice(ours, truth), dice(lungs, truth)))

    def mean(outlined: bool, of: int) -> Interval:
        values = [one[1] - one[2] if of == 3 else one[of] for one in found[outlined]]
        return mean_interval(np.array(values, float), [one[0] for one in found[outlined]])

    return OutlineFigures(
        mean(True, 1), mean(True, 2), mean(True, 3), mean(False, 1), mean(False, 2),
        (len(found[True]), len(found[False])),
    )  # fmt: skip


def _drawn(
    records: Sequence[FindingRecord], maps: FloatArray, finder: LungFinder
) -> Iterator[tuple[FindingRecord, BoolMask, BoolMask, BoolMask]]:
    """Record, outline, lungs and truth in stored pixels, of the pictures on which people drew opacities."""
    drawn = [i for i, record in enumerate(records) if record.outlines or record.boxes.get("lung_opacity")]
    for i in tqdm(drawn, desc="outlines", unit="image"):
        record, image = records[i], render_picture(records[i].image)
        lungs = finder.find(image)
        if lungs is not None:  # without lungs the node shows nothing, and refuses the picture
            _, frame = network_input(image, INPUT_SIZE)
            ours = outline(maps[i].astype(np.float32), frame, OUTLINE_FROM, lungs)
            yield record, ours, lungs, _truth(record, *lungs.shape)


def _truth(record: FindingRecord, rows: int, columns: int) -> BoolMask:
    truth = np.zeros((rows, columns), np.bool_)
    for path in record.outlines:
        with Image.open(path) as picture:
            truth |= np.asarray(picture.convert("L").resize((columns, rows), Image.Resampling.NEAREST)) > 127
    paint_boxes(truth, record.boxes.get("lung_opacity", ()))
    return truth

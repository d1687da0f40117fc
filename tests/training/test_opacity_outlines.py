"""Outlines of opacities, held against masks and boxes of phantoms."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.phantom import chest
from models.rendering import network_input, render_picture
from models.resampling import resize
from training.data import FindingRecord
from training.evidence import CELLS, INPUT_SIZE
from training.lung_crop import LungFinder
from training.opacity_outlines import OUTLINE_FROM, outline_figures

LOWER = slice(CELLS // 2, CELLS)  # rows of cells


@pytest.fixture(scope="module")
def finder() -> LungFinder:
    return LungFinder()


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory, finder: LungFinder) -> list[FindingRecord]:
    """Two patients whose lungs are outlined as opaque in their lower half, two with boxes around their right lungs."""
    folder, made = tmp_path_factory.mktemp("chests"), []
    for number in range(4):
        file = folder / f"{number}.png"
        Image.fromarray((255 * chest(number, rows=512, columns=512).pixels).astype(np.uint8)).save(file)
        lungs = finder.find(render_picture(file))
        assert lungs is not None
        lungs[:256] = False
        mask = folder / f"{number}-mask.png"
        Image.fromarray((255 * lungs).astype(np.uint8)).save(mask)
        outlined = number < 2
        boxes = {} if outlined else {"lung_opacity": [(60.0, 60.0, 180.0, 380.0)]}
        made.append(FindingRecord(file, str(number), "s", "", {}, {}, boxes, (mask,) if outlined else ()))
    return made


def test_what_lies_on_peoples_outlines_is_better_than_the_lungs(
    records: list[FindingRecord], finder: LungFinder
) -> None:
    maps = np.zeros((4, CELLS, CELLS))
    maps[:, LOWER] = 1.0
    found = outline_figures(records, maps, finder)
    assert found.images == (2, 2)
    assert found.outlined.value > 0.95
    assert 0.5 < found.lungs_on_outlined.value < 0.85
    assert found.gain.value == pytest.approx(found.outlined.value - found.lungs_on_outlined.value)
    assert found.carries
    assert 0.2 < found.lungs_on_boxed.value < 0.8


def test_a_map_that_knows_nothing_is_not_shown(records: list[FindingRecord], finder: LungFinder) -> None:
    everywhere = outline_figures(records, np.ones((4, CELLS, CELLS)), finder)
    assert everywhere.gain.value == 0.0
    assert not everywhere.carries
    nowhere = outline_figures(records, np.full((4, CELLS, CELLS), OUTLINE_FROM - 0.01), finder)
    assert nowhere.outlined.value == 0.0
    assert not nowhere.carries


def test_a_picture_without_lungs_counts_for_nothing(
    records: list[FindingRecord], finder: LungFinder, tmp_path: Path
) -> None:
    blank = tmp_path / "blank.png"
    Image.fromarray(np.linspace(0, 255, 512 * 512).reshape(512, 512).astype(np.uint8)).save(blank)
    other = FindingRecord(blank, "blank", "s", "", {}, {}, {}, records[0].outlines)
    found = outline_figures([*records, other], np.ones((5, CELLS, CELLS)), finder)
    assert found.images == (2, 2)


def test_the_outline_is_cut_at_the_share_of_a_cell(records: list[FindingRecord], finder: LungFinder) -> None:
    image = render_picture(records[0].image)
    _, frame = network_input(image, INPUT_SIZE)
    lungs = finder.find(image)
    assert lungs is not None
    shares = np.linspace(0.0, 1.0, CELLS, dtype=np.float32)[:, None].repeat(CELLS, 1)
    found = outline_figures(records, np.stack([shares] * 4), finder)
    kept = frame.mask_to_stored(resize(shares, INPUT_SIZE, INPUT_SIZE), OUTLINE_FROM)
    assert not kept[:80].any()
    assert kept[130:].all()
    assert found.outlined.value > found.lungs_on_outlined.value

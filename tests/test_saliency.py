"""Heat maps: the same array as the boxes, over the stored image, however it is stored."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt
import pytest

from models.bundle import Bundle, Contract, FindingContract
from models.findings import ImageFindings, ModelIdentity, Region, SaliencyMap, View
from models.findings_json import findings_json
from models.forward import Forward
from models.hanging import Hanging
from models.inference import ImageIdentity, Models
from models.phantom import chest
from models.rendering import Frame, RenderedImage, network_input
from models.scores import interpret

HANGINGS = [Hanging(*turns) for turns in product((False, True), repeat=3)]
NAMES = [f"transpose={h.transpose:d} rows={h.flip_rows:d} columns={h.flip_columns:d}" for h in HANGINGS]
SIZES = [(900, 700), (700, 900), (800, 800), (2400, 1100)]
CONTRACT = [
    FindingContract("lung_opacity", 0, evaluated=True, localises=True),
    FindingContract("effusion", 1, evaluated=True),
    FindingContract("pneumothorax", 2, evaluated=True, localises=True),
    FindingContract("mass", 3, evaluated=False, localises=True),
]
SIZE, CELLS = 320, 20


def frame_of(rows: int, columns: int, hanging: Hanging = HANGINGS[0], aspect: float = 1.0) -> Frame:
    pixels = np.linspace(0, 1, rows * columns, dtype=np.float32).reshape(rows, columns)
    return network_input(RenderedImage(pixels, hanging=hanging, aspect=aspect), SIZE)[1]


def with_peak(x: float, y: float, width: float = 1.0) -> npt.NDArray[np.float32]:
    """A map of the network's picture with one peak, at a place in network pixels."""
    rows, columns = (np.mgrid[:CELLS, :CELLS] + 0.5) * SIZE / CELLS
    distance = ((columns - x) ** 2 + (rows - y) ** 2) / (width * SIZE / CELLS) ** 2
    return np.exp(-distance / 2).astype(np.float32)


def one_map(heat: npt.NDArray[np.float32], frame: Frame) -> tuple[tuple[Region, ...], tuple[SaliencyMap, ...]]:
    ((found,), saliency) = interpret(np.array([4.0]), heat[None], frame, contract=CONTRACT[:1], segments=(), model="m")
    return found.regions, saliency


@pytest.mark.parametrize("hanging", HANGINGS, ids=NAMES)
@pytest.mark.parametrize(("rows", "columns"), SIZES)
@pytest.mark.parametrize("aspect", [1.0, 1.5])
def test_a_peak_is_found_by_box_and_map_at_the_same_stored_pixel(
    hanging: Hanging, rows: int, columns: int, aspect: float
) -> None:
    frame = frame_of(rows, columns, hanging, aspect)
    # off the middle in both directions, so that every wrong turn shows
    at = frame.left + 0.31 * frame.width, frame.top + 0.62 * frame.height
    wanted = np.array(frame.point_to_stored(*at))
    cell = np.abs(np.array(frame.point_to_stored(at[0] + SIZE / CELLS, at[1] + SIZE / CELLS)) - wanted)
    (region,), (saliency,) = one_map(with_peak(*at), frame)
    h, w = saliency.values.shape
    assert max(h, w) == 128
    assert h / w == pytest.approx(rows / columns, rel=0.02)
    scale = np.array([columns / w, rows / h])
    row, column = np.unravel_index(int(saliency.values.argmax()), (h, w))
    hottest = np.array([column + 0.5, row + 0.5]) * scale
    centre = np.array([region.x + region.width / 2, region.y + region.height / 2])
    # stored pixels; the map is known to a cell of the network's, here to half of one
    assert (np.abs(hottest - wanted) < cell / 2).all()
    assert (np.abs(centre - wanted) < cell / 2).all()
    assert (np.abs(centre - hottest) < cell / 2).all()
    # and the box is the extent of the map's upper half
    down, across = (np.flatnonzero((saliency.values >= 0.5).any(axis)) for axis in (1, 0))
    first, last = np.array([across[0], down[0]]) * scale, np.array([across[-1] + 1, down[-1] + 1]) * scale
    assert (np.abs(first - (region.x, region.y)) < cell / 2).all()
    assert (np.abs(last - (region.x + region.width, region.y + region.height)) < cell / 2).all()


def test_the_map_is_float32_from_0_to_1_and_contiguous() -> None:
    for hanging in HANGINGS:
        _, (saliency,) = one_map(with_peak(150, 200), frame_of(900, 700, hanging))
        assert saliency.values.dtype == np.float32
        assert saliency.values.flags.c_contiguous
        assert (saliency.values.min(), saliency.values.max()) == (0.0, 1.0)
        assert (saliency.key, saliency.model) == ("lung_opacity", "m")


def test_what_lies_in_the_margin_of_the_network_s_picture_is_not_in_the_map() -> None:
    frame = frame_of(900, 300)
    heat = with_peak(160, 200) + 0.9 * with_peak(20, 100)  # the image is the middle third
    assert frame.map_to_stored(heat, 128)[:50].max() < 0.01
    (region,), (saliency,) = one_map(heat, frame)
    assert region.y > 450
    assert saliency.values[:50].max() < 0.01
    assert one_map(with_peak(20, 160), frame) == ((), ())


def test_a_map_of_ones_covers_the_stored_image_with_ones() -> None:
    for rows, columns in SIZES:
        for hanging in HANGINGS:
            values = frame_of(rows, columns, hanging).map_to_stored(np.ones((80, 80), np.float32), 128)
            assert values.min() == values.max() == 1


def test_each_present_finding_whose_map_points_at_it_has_a_map_and_no_other() -> None:
    maps = np.stack([with_peak(100, 200), with_peak(200, 100), with_peak(200, 200), with_peak(100, 100)])
    found, saliency = interpret(
        np.array([4.0, 4.0, -4.0, 4.0]), maps, frame_of(800, 700), contract=CONTRACT, segments=(), model="m"
    )
    assert [f.state.value for f in found] == ["present", "present", "absent", "not_evaluated"]
    assert [s.key for s in saliency] == ["lung_opacity"]
    assert [f.key for f in found if f.regions] == [s.key for s in saliency]


@pytest.mark.parametrize("hanging", HANGINGS, ids=NAMES)
def test_the_answer_about_an_image_carries_the_maps(hanging: Hanging) -> None:
    """Through ``Models.predict``, with a network that marks one place in the picture that it is shown."""
    heat = with_peak(100, 200)
    answer = predicted(lambda _: {"logits": np.array([4.0], np.float32), "maps": heat[None]}, hanging)
    (region,) = answer.findings[0].regions
    (saliency,) = answer.saliency
    rows, columns = answer.rows, answer.columns
    row, column = np.unravel_index(int(saliency.values.argmax()), saliency.values.shape)
    assert region.x < (column + 0.5) * columns / saliency.values.shape[1] < region.x + region.width
    assert region.y < (row + 0.5) * rows / saliency.values.shape[0] < region.y + region.height
    assert "saliency" not in findings_json(answer)


def predicted(forward: Forward, hanging: Hanging) -> ImageFindings:
    import torch

    contract = Contract("scores", SIZE, findings=tuple(CONTRACT[:1]))
    bundle = Bundle(ModelIdentity("m", "1", "", ""), contract, torch.nn.Identity)
    pixels = hanging.undo(chest(1, rows=600, columns=500).pixels)
    image = RenderedImage(np.ascontiguousarray(pixels), hanging=hanging)
    return Models((bundle,), (forward,)).predict(image, ImageIdentity("1.2", "1.2.3", "1.2.4", View.PA))


@pytest.mark.parametrize(("aspect", "shape"), [(1.0, (256, 192)), (0.5, (171, 256)), (2.0, (256, 96))])
def test_a_preview_has_the_true_proportions_and_the_gray_values_of_the_image(
    aspect: float, shape: tuple[int, int]
) -> None:
    pixels = chest(1, rows=1200, columns=900).pixels
    preview = RenderedImage(pixels, aspect=aspect).preview(256)
    assert preview.shape == shape
    assert preview.dtype == np.float32
    assert (preview.min(), preview.max()) == pytest.approx((0, 1), abs=0.05)
    again = RenderedImage(preview).preview(64)
    small = RenderedImage(pixels, aspect=aspect).preview(64)
    assert np.abs(again - small).mean() < 0.02


def test_a_preview_is_not_turned_and_a_small_image_is_not_enlarged() -> None:
    pixels = chest(1, rows=120, columns=100).pixels
    previews = [RenderedImage(pixels, hanging=hanging).preview(256) for hanging in HANGINGS]
    assert all(np.array_equal(preview, previews[0]) for preview in previews)
    assert previews[0].shape == (120, 100)
    assert np.corrcoef(previews[0].ravel(), pixels.ravel())[0, 1] > 0.99

"""The picture that people see: heat where the map is, gray where it is not, and a caption that fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from dicom_sr.heat_map import caption
from dicom_sr.overlay_picture import Marks, colour_table, marks_of, paint
from models.findings import (
    Finding,
    FindingState,
    ImageFindings,
    Laterality,
    ModelIdentity,
    ModelRun,
    Region,
    SaliencyMap,
    SegmentMask,
    View,
)

CAPTION = [
    "AI, not for diagnosis. Not verified; research software.",
    "Where the AI looked, purple weak, yellow strong: Lung opacity 87 %, left; Pleural effusion 64 %, bilateral.",
    "chest_findings 0.1.0",
]


def ramp(rows: int, columns: int) -> npt.NDArray[np.float32]:
    """A gray picture from 0.2 to 0.8, with no two equal columns."""
    return np.tile(np.linspace(0.2, 0.8, columns, dtype=np.float32), (rows, 1))


def peak(x: float, y: float, rows: int, columns: int, key: str = "lung_opacity") -> SaliencyMap:
    """A map with one peak, at a place given in shares of the image."""
    down, across = np.mgrid[:rows, :columns]
    distance = ((across + 0.5) / columns - x) ** 2 + ((down + 0.5) / rows - y) ** 2
    heat = np.exp(-distance / 0.01)
    return SaliencyMap(key, (heat / heat.max()).astype(np.float32), "chest_findings")


def lit_at(*places: tuple[float, float], side: Laterality | None, lungs: bool = True) -> ImageFindings:
    """A lung opacity whose map is hot at places, given in shares of the image, over two lungs left and right of 0.5."""
    values = np.max([peak(x, y, 100, 80).values for x, y in places], axis=0)
    right, left = np.zeros((300, 260), np.bool_), np.zeros((300, 260), np.bool_)
    right[60:240, 30:110], left[60:240, 150:230] = True, True
    run = ModelRun(ModelIdentity("chest_findings", "0.1.0", "a" * 64, "b" * 64))
    segments = SegmentMask("lung_right", right, "lung_fields"), SegmentMask("lung_left", left, "lung_fields")
    return ImageFindings(
        "1.2", "1.3", "1.4", 300, 260, View.PA, (run,),
        (Finding("lung_opacity", FindingState.PRESENT, 0.87, 0.5, side, model="chest_findings"),),
        segments if lungs else (),
        saliency=(SaliencyMap("lung_opacity", values, "chest_findings"),),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("places", "side", "words"),
    [
        ([(0.73, 0.5)], Laterality.LEFT, "Lung opacity 87 %, left"),
        ([(0.27, 0.5)], Laterality.RIGHT, "Lung opacity 87 %, right"),
        ([(0.27, 0.4), (0.73, 0.6)], Laterality.BILATERAL, "Lung opacity 87 %, bilateral"),
        ([(0.27, 0.4), (0.73, 0.6)], Laterality.LEFT, "Lung opacity 87 %"),
        ([(0.27, 0.5)], Laterality.BILATERAL, "Lung opacity 87 %"),
        ([(0.73, 0.5)], None, "Lung opacity 87 %"),
    ],
)
def test_a_caption_names_the_side_that_the_map_lights_and_none_when_it_lights_another(
    places: list[tuple[float, float]], side: Laterality | None, words: str
) -> None:
    said = caption(lit_at(*places, side=side))[1]
    assert said == f"Where the AI looked, purple weak, yellow strong: {words}."
    assert caption(lit_at(*places, side=side, lungs=False))[1].endswith("strong: Lung opacity 87 %.")


def colourfulness(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """0 where a pixel is gray."""
    return np.ptp(picture.astype(np.int64), axis=-1)


@pytest.mark.parametrize("cells", [(10, 8), (100, 80), (128, 20), (1000, 800)])
@pytest.mark.parametrize("at", [(0.25, 0.3), (0.8, 0.6), (0.5, 0.95)])
def test_the_strongest_colour_lies_where_the_map_is_strongest(cells: tuple[int, int], at: tuple[float, float]) -> None:
    one = peak(*at, *cells)
    picture = paint(np.full((500, 400), 0.5, np.float32), [one], longest=500, caption=[])
    assert picture.shape == (500, 400, 3)
    yellow = picture[..., 1].astype(np.int64) - picture[..., 2]  # green over blue: rises from purple to yellow
    rows, columns = np.nonzero(yellow >= yellow.max() - 1)
    row, column = np.unravel_index(int(one.values.argmax()), cells)
    assert abs(columns.mean() / 400 - (column + 0.5) / cells[1]) < 0.5 / min(cells[1], 40)
    assert abs(rows.mean() / 500 - (row + 0.5) / cells[0]) < 0.5 / min(cells[0], 40)


def test_where_the_map_is_low_the_radiograph_is_untouched() -> None:
    gray, heat = ramp(300, 200), peak(0.25, 0.25, 60, 40)
    plain = paint(gray, [], longest=300, caption=[])
    picture = paint(gray, [heat], longest=300, caption=[])
    assert np.array_equal(plain[..., 0], np.floor(gray * 255 + 0.5).astype(np.uint8))
    assert np.array_equal(picture[150:], plain[150:])
    assert (colourfulness(picture[60:90, 40:60]) > 60).all()
    # and under the heat the radiograph is still to be read: it varies as it did, if less
    row = picture[75, 30:70].astype(np.int64).sum(axis=-1)
    flat = paint(np.full((300, 200), 0.5, np.float32), [heat], longest=300, caption=[])[75, 30:70]
    assert np.polyfit(np.arange(40), row - flat.astype(np.int64).sum(axis=-1), 1)[0] > 0.3


def test_without_a_map_the_picture_is_plain_gray() -> None:
    picture = paint(ramp(300, 200), [], longest=300, caption=[])
    assert colourfulness(picture).max() == 0
    assert picture.dtype == np.uint8
    nothing = SaliencyMap("mass", np.zeros((20, 20), np.float32), "m")
    assert np.array_equal(picture, paint(ramp(300, 200), [nothing], longest=300, caption=[]))


def test_of_several_maps_of_any_resolution_the_stronger_is_seen_at_each_place() -> None:
    gray = np.full((400, 400), 0.5, np.float32)
    first, second = peak(0.25, 0.25, 20, 20), peak(0.75, 0.75, 90, 70, "mass")
    both = paint(gray, [first, second], longest=400, caption=[])
    alone = [paint(gray, [one], longest=400, caption=[]) for one in (first, second)]
    assert np.array_equal(both[:190, :190], alone[0][:190, :190])
    assert np.array_equal(both[210:, 210:], alone[1][210:, 210:])
    assert np.array_equal(both, paint(gray, [second, first], longest=400, caption=[]))


def test_a_map_of_ones_colours_everything_and_hides_nothing() -> None:
    gray = ramp(300, 200)
    ones = SaliencyMap("mass", np.ones((3, 5), np.float32), "m")
    picture = paint(gray, [ones], longest=300, caption=[])
    assert colourfulness(picture).min() > 30
    assert (np.diff(picture[100].astype(np.int64).sum(axis=-1)) >= 0).all()
    assert np.ptp(picture[100].astype(np.int64).sum(axis=-1)) > 100


def test_the_colours_are_in_the_order_of_their_lightness() -> None:
    linear = (colour_table() / 255) ** 2.2
    lightness = linear @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > 0).all()
    # without a step: the hundredth of a difference is the hundredth of the way
    assert np.diff(np.cbrt(lightness)).max() < 4 * np.diff(np.cbrt(lightness)).mean()


@pytest.mark.parametrize(
    ("shape", "longest"),
    [((2500, 3000), 1024), ((3000, 2500), 1024), ((1024, 871), 1024), ((300, 260), 1024), ((16, 16), 1024),
     ((100, 3000), 1024), ((3000, 100), 1024), ((1, 1), 400), ((3000, 2500), 300)],
)  # fmt: skip
def test_image_and_caption_fit_and_nothing_is_enlarged_or_squeezed(shape: tuple[int, int], longest: int) -> None:
    gray = np.full(shape, 0.7, np.float32)
    picture = paint(gray, [SaliencyMap("mass", np.ones((9, 7), np.float32), "m")], longest=longest, caption=CAPTION)
    rows, columns = shape
    assert max(picture.shape) <= longest
    coloured = colourfulness(picture) > 0
    height, width = coloured.any(axis=1).sum(), coloured.any(axis=0).sum()
    assert coloured[:height, :width].all()  # the image lies at the top left
    assert not coloured[height:].any()
    assert width <= columns
    assert height <= rows
    # in proportion, but for the half pixel to which the shorter side is rounded
    assert abs(height * columns - width * rows) <= 0.5 * max(rows, columns) + 1e-9
    # what is not image is a dark band with light text in it, of which nothing is cut off
    band = picture[height:]
    assert np.median(band) < 30
    assert band.max() > 150
    assert (band[:, 0] == band[0, 0]).all()
    assert (band[:, -1] == band[0, 0]).all()
    assert (band[-1] == band[0, 0]).all()


def test_the_whole_caption_is_written_line_below_line() -> None:
    gray = np.zeros((800, 700), np.float32)
    bands = []
    for lines in (CAPTION[:1], CAPTION[:2], CAPTION):
        picture = paint(gray, [], longest=1024, caption=lines)[800:]
        ink = (picture > 120).any(axis=-1).any(axis=1)
        bands.append(int((np.diff(ink.astype(int)) == 1).sum()))
    # lines of text are apart: the second line of the caption needs two
    assert bands == [1, 3, 4]


def test_a_caption_that_nobody_could_read_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        paint(np.zeros((64, 64), np.float32), [], longest=64, caption=CAPTION)
    assert paint(np.zeros((64, 64), np.float32), [], longest=64, caption=[]).shape == (64, 64, 3)


def test_the_same_arrays_give_the_same_picture_and_are_not_changed() -> None:
    gray, heat = ramp(900, 700), peak(0.3, 0.4, 128, 100)
    before = gray.copy(), heat.values.copy()
    first, second = (paint(gray, [heat], longest=512, caption=CAPTION) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(gray, before[0])
    assert np.array_equal(heat.values, before[1])


def test_gray_values_beyond_the_range_are_cut_and_not_wrapped() -> None:
    picture = paint(np.array([[-0.5, 1.5], [0.0, 1.0]], np.float32), [], longest=2, caption=[])
    assert picture[..., 0].tolist() == [[0, 255], [0, 255]]


def test_a_radiograph_is_shrunk_without_moving() -> None:
    gray = np.zeros((2500, 3000), np.float32)
    gray[600:1200, 2000:2500] = 1
    picture = paint(gray, [], longest=1024, caption=[])
    rows, columns = np.nonzero(picture[..., 0] > 127)
    scale = 3000 / 1024
    assert columns.min() == pytest.approx(2000 / scale, abs=1)
    assert columns.max() + 1 == pytest.approx(2500 / scale, abs=1)
    assert rows.min() == pytest.approx(600 / scale, abs=1)
    assert rows.max() + 1 == pytest.approx(1200 / scale, abs=1)


def test_outlines_and_boxes_are_drawn_where_they_lie_and_only_of_what_has_no_heat_map() -> None:
    mask = np.zeros((400, 300), np.bool_)
    mask[100:200, 200:280] = True
    box = Region(20, 240, 100, 120, 0.8)
    run = ModelRun(ModelIdentity("outliner", "1.0", "a" * 64, "b" * 64))
    states = {"effusion": FindingState.PRESENT, "nodule": FindingState.PRESENT, "mass": FindingState.ABSENT}
    found = tuple(
        Finding(key, state, 0.8, 0.5, regions=(box,) if key == "nodule" else (), model="outliner")
        for key, state in states.items()
    )
    segments = SegmentMask("effusion", mask, "outliner"), SegmentMask("heart", ~mask, "lung_fields")
    findings = ImageFindings("1.2", "1.3", "1.4", 400, 300, View.PA, (run,), found, segments)
    gray = ramp(200, 150)
    hot = colourfulness(paint(gray, (), longest=200, caption=(), marks=marks_of(findings))) > 0
    rows, columns = np.nonzero(hot[:110])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (48, 101, 98, 141), "two pixels around the mask"
    assert not hot[52:98, 102:138].any(), "within, the radiograph stays gray"
    rows, columns = np.nonzero(hot[110:])
    assert (rows.min() + 110, rows.max() + 110, columns.min(), columns.max()) == (120, 179, 10, 59)
    assert not hot[124:176, 14:56].any()
    mapped = replace(findings, saliency=tuple(peak(0.5, 0.5, 20, 15, key) for key in ("effusion", "nodule")))
    assert (marks_of(mapped).boxes, marks_of(mapped).masks) == ((), ())


def test_a_thin_outline_does_not_vanish_in_a_small_picture() -> None:
    mask = np.zeros((2000, 1500), np.bool_)
    mask[300:1500, 1200:1204] = True
    marks = Marks(2000, 1500, masks=(mask,))
    assert (colourfulness(paint(ramp(256, 192), (), longest=256, caption=(), marks=marks)) > 0).sum() > 300

"""One picture for people: the radiograph in gray, heat maps, boxes and outlines over it, and a caption below.

The rule: the Secondary Capture and the worklist's thumbnail are painted here from the arrays of the result itself.
Where a map is low the radiograph stays gray and untouched, and no text ever covers the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from models.findings import BoolMask, FloatMap, ImageFindings, Region, SaliencyMap
from models.resampling import resize, shrunk

Picture = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# From weak to strong, RGB at equal steps. Lightness rises throughout, so that the order is seen in gray as well, and by
# the colour-blind; it starts where a colour is told from the black of a radiograph.
_COLOURS = ((60, 15, 115), (135, 30, 110), (205, 65, 70), (245, 130, 30), (250, 230, 90))
# A map is transparent up to the first value; from the second on it hides this share of the radiograph.
_VISIBLE, _FULL, _OPACITY = 0.2, 0.7, 0.6
# From here on a map hides half of what it hides at most: nobody overlooks it.
SEEN = (_VISIBLE + _FULL) / 2
_BAND, _INK = (18, 18, 18), (236, 236, 236)
# The font is 1/42 of the width, within these bounds, in pixels; below the lower one nobody reads it.
_SMALLEST_FONT, _LARGEST_FONT, _WIDTH_PER_FONT = 9, 24, 42
# A caption is at least as wide as this, in pixels, however narrow the image is.
_NARROWEST_CAPTION = 320
_LINE = 2  # pixels
_THIN = 0.25  # a pixel that an outline covers by a quarter belongs to it, or thin ones would vanish


@dataclass(frozen=True, eq=False)
class Marks:
    """What is drawn in lines.

    Parameters
    ----------
    rows, columns
        Of the stored image, to whose pixels boxes and masks refer.
    """

    rows: int
    columns: int
    boxes: tuple[Region, ...] = ()
    masks: tuple[BoolMask, ...] = ()


def marks_of(findings: ImageFindings) -> Marks:
    """Boxes and outlines of what was called present by a model that has no heat map for it."""
    mapped = {one.key for one in findings.saliency}
    shown = {finding.key: finding for finding in findings.present if finding.key not in mapped}
    masks = {segment.key: segment.mask for segment in findings.segments if segment.key in shown}
    boxes = tuple(region for key, finding in shown.items() if key not in masks for region in finding.regions)
    return Marks(findings.rows, findings.columns, boxes, tuple(masks.values()))


def paint(
    gray: FloatMap, maps: Sequence[SaliencyMap], *, longest: int, caption: Sequence[str], marks: Marks | None = None
) -> Picture:
    """Paint heat maps, boxes and outlines over a radiograph.

    Parameters
    ----------
    gray
        float32 of shape (rows, columns), 0 to 1 as displayed, in the geometry of the stored image and with square
        pixels.
    maps
        Each covers the whole image, at any resolution; where several are high, the highest counts.
    longest
        The longer side of the picture is at most this, in pixels, the caption included. Nothing is enlarged.
    caption
        Lines of text, wrapped where they are too long; nothing that names the patient. No line, no caption.
    marks
        Boxes and outlines, if any.

    Returns
    -------
    array
        uint8 of shape (h, w, 3), RGB. The image lies at the top left; below it, and to the right of an image that is
        narrower than its caption, is a dark band.

    Raises
    ------
    ValueError
        When the caption cannot be read in a picture that small.
    """
    (width, height), band = _layout(gray.shape, longest, caption)
    radiograph = _eight_bits(resize(gray, height, width))
    picture = _heated(radiograph, _merged(maps, height, width)) if maps else np.stack([radiograph] * 3, axis=-1)
    if marks is not None:
        picture = _marked(picture, marks)
    if band is None:
        return picture
    whole = Image.new("RGB", (band.width, height + band.height), _BAND)
    whole.paste(Image.fromarray(picture), (0, 0))
    whole.paste(band, (0, height))
    return np.asarray(whole).copy()


def heat_layer(maps: Sequence[SaliencyMap], height: int, width: int) -> Picture:
    """The maps alone, to be laid over a radiograph: uint8 of shape (height, width, 4), RGBA."""
    strength = _merged(maps, height, width)
    alpha = (_shares() * 255 + np.float32(0.5)).astype(np.uint8)
    return np.dstack([colour_table().astype(np.uint8)[strength], alpha[strength]])


def outline_layer(masks: Sequence[tuple[BoolMask, Colour]], height: int, width: int) -> Image.Image:
    """The rims of masks alone, each in its colour (RGB), the later over the earlier; the rest is transparent."""
    drawn = np.zeros((height, width), np.uint8)
    for number, (mask, _) in enumerate(masks, start=1):
        drawn[_rim(mask, height, width)] = number
    layer = Image.fromarray(drawn, "P")
    layer.putpalette([0, 0, 0, *(channel for _, colour in masks for channel in colour)])
    layer.info["transparency"] = 0
    return layer


def colour_table() -> npt.NDArray[np.float32]:
    """The colour of each strength, float32 of shape (256, 3), 0 to 255."""
    strengths, steps = np.linspace(0, 1, 256), np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(strengths, steps, channel) for channel in zip(*_COLOURS, strict=True)]
    return np.stack(channels, axis=-1).astype(np.float32)


def _eight_bits(values: FloatMap) -> Picture:
    return (np.clip(values, 0.0, 1.0) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _merged(maps: Sequence[SaliencyMap], height: int, width: int) -> Picture:
    """The strongest of all maps at each place, smoothly enlarged; uint8 of shape (height, width)."""
    strongest = np.zeros((height, width), np.float32)
    for one in maps:
        values = Image.fromarray(np.ascontiguousarray(one.values, dtype=np.float32))
        enlarged = values.resize((width, height), Image.Resampling.BICUBIC)
        np.maximum(strongest, np.asarray(enlarged), out=strongest)
    return _eight_bits(strongest)


def _heated(radiograph: Picture, strength: Picture) -> Picture:
    share = _shares()
    hot = share[strength] > 0
    picture = np.stack([radiograph] * 3, axis=-1)
    level = strength[hot]
    hidden = share[level][:, None]
    mixed = (1 - hidden) * radiograph[hot].astype(np.float32)[:, None] + hidden * colour_table()[level]
    picture[hot] = (mixed + np.float32(0.5)).astype(np.uint8)
    return picture


def _shares() -> FloatMap:
    """What a map hides of the radiograph at each of its 256 strengths, 0 to 1."""
    share = np.clip((np.linspace(0, 1, 256, dtype=np.float32) - _VISIBLE) / (_FULL - _VISIBLE), 0.0, 1.0)
    hidden: FloatMap = _OPACITY * share * share * (3 - 2 * share)  # no visible edge where it begins
    return hidden


@dataclass(frozen=True)
class _Stretch:
    """The part of a line of a picture that a mask reaches, its rim included, and where that is in stored pixels.

    Parameters
    ----------
    shown
        Pixels of the picture.
    first
        The stored pixel in which it begins.
    start, end
        Of it, in stored pixels after `first`.
    """

    shown: slice
    first: int
    start: float
    end: float

    @classmethod
    def around(cls, reached: npt.NDArray[np.int_], stored: int, shown: int) -> _Stretch:
        """Around stored pixels, in a picture with `shown` pixels for `stored`."""
        scale = stored / shown
        start, end = max(0, int(reached[0] / scale) - _LINE - 1), min(shown, int(reached[-1] / scale) + _LINE + 2)
        first = int(start * scale)
        return cls(slice(start, end), first, start * scale - first, min(stored, end * scale) - first)

    @property
    def stored(self) -> slice:
        """The stored pixels that it needs."""
        return slice(self.first, self.first + ceil(self.end))


def _rim(mask: BoolMask, height: int, width: int) -> BoolMask:
    """The rim of a mask in a picture of this size, shape (height, width); only what is near it is looked at."""
    rim = np.zeros((height, width), np.bool_)
    reached = [np.flatnonzero(mask.any(axis)) for axis in (1, 0)]
    if not reached[0].size:
        return rim
    down, across = (_Stretch.around(*of) for of in zip(reached, mask.shape, rim.shape, strict=True))
    factor = max(1, min(mask.shape[0] // height, mask.shape[1] // width))
    small = shrunk(mask[down.stored, across.stored].view(np.uint8), factor)
    left, top, right, bottom = (edge / factor for edge in (across.start, down.start, across.end, down.end))
    tall, wide = rim[down.shown, across.shown].shape
    inside = resize(small, tall, wide, box=(left, top, right, bottom)) >= _THIN
    padded = np.pad(inside, _LINE)
    rows = np.logical_or.reduce([padded[:, n : n + wide] for n in range(2 * _LINE + 1)])
    grown = np.logical_or.reduce([rows[n : n + tall] for n in range(2 * _LINE + 1)])
    rim[down.shown, across.shown] = grown & ~inside
    return rim


def _marked(picture: Picture, marks: Marks) -> Picture:
    """With boxes, and the rims of masks, in the colour of the strongest places."""
    height, width = picture.shape[:2]
    drawn = Image.fromarray(picture)
    draw = ImageDraw.Draw(drawn)
    down, across = height / marks.rows, width / marks.columns
    for box in marks.boxes:
        ends = (box.x * across, box.y * down, (box.x + box.width) * across - 1, (box.y + box.height) * down - 1)
        left, top, right, bottom = (round(end) for end in ends)
        draw.rectangle((left, top, max(right, left), max(bottom, top)), outline=_COLOURS[-1], width=_LINE)
    marked = np.asarray(drawn).copy()
    for mask in marks.masks:
        marked[_rim(mask, height, width)] = _COLOURS[-1]
    return marked


def _layout(shape: tuple[int, ...], longest: int, caption: Sequence[str]) -> tuple[tuple[int, int], Image.Image | None]:
    """Width and height of the image in the picture, and its caption."""
    rows, columns = shape
    space = longest  # left for the height of the image
    while True:
        scale = min(1.0, longest / columns, space / rows)
        size = max(1, round(columns * scale)), max(1, round(rows * scale))
        if not caption:
            return size, None
        band = _band(caption, max(size[0], min(_NARROWEST_CAPTION, longest)), longest // 2)
        if size[1] + band.height <= longest:
            return size, band
        # a smaller image may be narrower than its caption was, which then needs more lines
        space = min(longest - band.height, space - 1)


def _band(caption: Sequence[str], width: int, tallest: int) -> Image.Image:
    """The caption in the largest font with which it fits into (width, tallest)."""
    start = min(max(width // _WIDTH_PER_FONT, _SMALLEST_FONT + 3), _LARGEST_FONT)
    for size in range(start, _SMALLEST_FONT - 1, -1):
        font, margin, leading = ImageFont.load_default(size), size // 2, round(1.4 * size)
        lines = [part for line in caption for part in _wrapped(line, font, width - 2 * margin)]
        height = len(lines) * leading + 2 * margin
        if height <= tallest and max(font.getlength(line) for line in lines) <= width - 2 * margin:
            band = Image.new("RGB", (width, height), _BAND)
            draw = ImageDraw.Draw(band)
            for number, line in enumerate(lines):
                draw.text((margin, margin + number * leading), line, fill=_INK, font=font)
            return band
    raise ValueError(f"a caption of {len(caption)} lines cannot be read in {width} x {tallest} pixels")


def _wrapped(text: str, font: _Font, width: int) -> list[str]:
    """The text in lines of at most `width` pixels, broken between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines

"""Pictures of a sample with its boxes and masks drawn in.

The rule: the image is shown as stored, for boxes and masks are drawn on stored pixels; no name of a patient is shown.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor, ImageDraw
from scipy import ndimage
from tqdm import tqdm

from models.names import in_words
from models.rendering import RenderedImage
from training.eda.files import UNREADABLE, Unread, draw, mask_of, note, open_image
from training.readers.records import UNCERTAIN, Record

# Told apart by people with any colour vision (Okabe and Ito, 2008), and seen on every gray.
COLOURS = ("#56b4e9", "#d55e00", "#f0e442", "#009e73", "#cc79a7", "#e69f00", "#0072b2", "#ffffff")
_LONGEST = 300  # pixels
_TINT = 0.25


@dataclass(frozen=True)
class Tile:
    """One picture with its caption; `data` is a URL that holds the picture."""

    data: str
    caption: str
    width: int
    height: int


def choose(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """Half of them with boxes or masks, as far as there are; the others from the rest."""
    outlined = [record for record in records if any(record.boxes.values()) or any(record.masks.values())]
    first = draw(outlined, count // 2, seed)
    taken = {id(record) for record in first}
    return [*first, *draw([record for record in records if id(record) not in taken], count - len(first), seed + 1)]


def colours_of(records: Sequence[Record]) -> dict[str, str]:
    """Colour of each class of boxes or masks; they repeat after eight."""
    keys = sorted({key for record in records for key in (*record.boxes, *record.masks)})
    return {key: COLOURS[i % len(COLOURS)] for i, key in enumerate(keys)}


def tiles(records: Sequence[Record], colours: Mapping[str, str], unread: Unread) -> tuple[Tile, ...]:
    """Open and draw them; those that cannot be opened are left out."""
    made = []
    for record in tqdm(records, desc="montage", unit="image", disable=not records):
        try:
            image, _ = open_image(record.image)
        except UNREADABLE as error:
            note(unread, record.image, error)
        else:
            made.append(_tile(record, image, colours, unread))
    return tuple(made)


def _tile(record: Record, image: RenderedImage, colours: Mapping[str, str], unread: Unread) -> Tile:
    gray = (255 * image.preview(_LONGEST)).astype(np.uint8)
    height, width = gray.shape
    shown = np.repeat(gray[..., None], 3, axis=2).astype(np.float32)
    for key in record.masks:
        mask = mask_of(record, key, unread)
        if mask is not None:
            small = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
            edge = small & ~ndimage.binary_erosion(small, iterations=2, border_value=1)
            colour = np.array(ImageColor.getrgb(colours[key]), np.float32)
            shown[small] += _TINT * (colour - shown[small])
            shown[edge] = colour
    picture = Image.fromarray(shown.astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    rows, columns = image.shape
    across, down = width / columns, height / rows
    for key, boxes in record.boxes.items():
        for box in boxes:
            corners = (box.x * across, box.y * down, (box.x + box.width) * across, (box.y + box.height) * down)
            pen.rectangle(corners, outline=colours[key], width=2)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    data = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Tile(data, caption(record), width, height)


def caption(record: Record) -> str:
    """What is said of an image: its findings, then view, sex and age."""
    present = [in_words(key) for key, value in record.labels.items() if value == 1]
    unsure = [f"{in_words(key)} (uncertain)" for key, value in record.labels.items() if value == UNCERTAIN]
    drawn = [f"{len(boxes)} x {in_words(key)} box" for key, boxes in record.boxes.items() if boxes]
    masked = [f"{in_words(key)} mask" for key, parts in record.masks.items() if parts]
    age = "" if record.age is None else f"{record.age:.0f} years"
    about = ", ".join(part for part in (record.view, record.sex, age) if part)
    return "; ".join(part for part in (", ".join([*present, *unsure, *drawn, *masked]), about) if part) or "no label"

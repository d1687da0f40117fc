"""The pictures of a data set as a network sees them, with masks and boxes laid over them, kept on disk if wished.

The rule: pixels go through ``models.rendering`` exactly as in serving, once; what cannot be rendered is left out with
its reason, and a rendering that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from scipy import ndimage
from tqdm import tqdm

from models.hanging import AS_STORED, Hanging, hanging_of
from models.refusal import ImageRefused
from models.rendering import Frame, RenderedImage, network_input, render, render_picture
from training.lung_crop import LungFinder, cut, lung_box
from training.readers.records import Box, LeftOut, Record, RunLengths
from training.readers.run_lengths import decode

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

LUNGS = ("whole", "crop", "mask")
_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
# One row of `placements`: whether it is done, where the part was cut out, and the fields of its frame.
_WAITING, _DONE, _LEFT_OUT = 0, 1, 2
_COLUMNS = 13


@dataclass(frozen=True)
class PictureOptions:
    """How radiographs become pictures.

    Parameters
    ----------
    size
        Side of the square, in pixels.
    lungs
        ``whole``: the radiograph; ``crop``: cut to the lungs; ``mask``: black outside the lungs.
    margin
        Around the lungs, as a share of their size (``crop``) or of the picture (``mask``).
    """

    size: int
    lungs: str = "whole"
    margin: float = 0.08


@dataclass(frozen=True)
class Placement:
    """How a picture lies over its stored image.

    Parameters
    ----------
    x, y
        Left upper corner of the part that the picture shows, in stored pixels.
    frame
        How that part lies in the picture.
    """

    x: int
    y: int
    frame: Frame

    def box_to_picture(self, box: Box) -> tuple[float, float, float, float]:
        """Corners (x0, y0, x1, y1) in pixels of the picture, clipped to what it shows of the image."""
        ends = [self._point(box.x, box.y), self._point(box.x + box.width, box.y + box.height)]
        (x0, x1), (y0, y1) = (sorted(values) for values in zip(*ends, strict=True))
        return x0, y0, x1, y1

    def box_to_stored(self, x0: float, y0: float, x1: float, y1: float) -> Box:
        """The way back."""
        x, y, width, height = self.frame.box_to_stored(x0, y0, x1 - x0, y1 - y0)
        return Box(x + self.x, y + self.y, width, height)

    def mask_to_picture(self, mask: BoolArray, image: tuple[int, int]) -> BoolArray:
        """A mask of any size that covers the whole stored image (rows, columns), laid over the picture."""
        f = self.frame
        down, across = mask.shape[0] / image[0], mask.shape[1] / image[1]
        part = (self.x * across, self.y * down, (self.x + f.columns) * across, (self.y + f.rows) * down)
        rows, columns = f.hanging.size(f.height, f.width)
        small = Image.fromarray(mask.astype(np.uint8) * 255).resize(
            (columns, rows), Image.Resampling.BILINEAR, box=part
        )
        square = np.zeros((f.size, f.size), np.bool_)
        square[f.top : f.top + f.height, f.left : f.left + f.width] = f.hanging.apply(np.asarray(small) > 127)
        return square

    def _point(self, x: float, y: float) -> tuple[float, float]:
        f = self.frame
        x, y = min(max(x - self.x, 0.0), float(f.columns)), min(max(y - self.y, 0.0), float(f.rows))
        rows, columns = f.hanging.size(f.rows, f.columns)
        x, y = (y, x) if f.hanging.transpose else (x, y)
        x = columns - x if f.hanging.flip_columns else x
        y = rows - y if f.hanging.flip_rows else y
        return x * f.width / columns + f.left, y * f.height / rows + f.top


@dataclass(frozen=True, eq=False)
class Pictures:
    """What was rendered.

    Parameters
    ----------
    records, placements
        One for each picture.
    left_out
        The records that could not be rendered.
    without_lungs
        How many pictures show the whole radiograph because no plausible lungs were found.
    """

    records: tuple[Record, ...]
    placements: tuple[Placement, ...]
    left_out: tuple[LeftOut, ...]
    without_lungs: int
    _values: npt.NDArray[np.float16] = field(repr=False)
    _masks: BoolArray = field(repr=False)
    _rows: IntArray = field(repr=False)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def size(self) -> int:
        """Side of the pictures, in pixels."""
        return int(self._values.shape[-1])

    def values(self, rows: IntArray) -> FloatArray:
        """Pictures of shape (n, 1, size, size), 0 to 1."""
        return self._values[self._rows[rows]][:, None].astype(np.float32)

    def masks(self, rows: IntArray) -> FloatArray:
        """Masks of shape (n, structures, size, size), 0 or 1."""
        return self._masks[self._rows[rows]].astype(np.float32)

    def filled(self, rows: IntArray) -> BoolArray:
        """Whether anything is drawn on a picture: shape (n,)."""
        return np.array([bool(self._masks[self._rows[row]].any()) for row in rows], np.bool_)

    def boxes(self, row: int, key: str) -> FloatArray:
        """Boxes of a finding on one picture: shape (n, 4), corners in pixels of the picture."""
        placement = self.placements[row]
        corners = [placement.box_to_picture(box) for box in self.records[row].boxes.get(key, ())]
        return np.asarray(corners, np.float32).reshape(-1, 4)


def read_image(path: Path) -> RenderedImage:
    """Render one radiograph, DICOM or picture; a DICOM image is hung by its Patient Orientation as in serving.

    Raises
    ------
    ImageRefused, OSError, InvalidDicomError
    """
    if path.suffix.lower() in _PICTURES:
        return render_picture(path)
    ds = dcmread(path)
    orientation = ds.get("PatientOrientation") or []
    return render(ds, hanging_of([str(v) for v in orientation]) or AS_STORED)


def prepare(
    records: Sequence[Record],
    options: PictureOptions,
    *,
    masks: Sequence[str] = (),
    folder: Path | None = None,
    finder: LungFinder | None = None,
    threads: int = 1,
) -> Pictures:
    """Render records, or take from disk what was rendered before.

    Parameters
    ----------
    masks
        Keys of ``Record.masks``, one channel each; a structure that nobody drew is an empty mask.
    folder
        Where pictures are kept, in a folder for each combination of files and options; None keeps them in memory.
    finder
        Needed unless ``options.lungs`` is ``whole``; the committed bundle if not given.
    """
    if options.lungs != "whole" and finder is None:
        finder = LungFinder()
    if folder is not None:
        folder = folder / _digest(records, options, masks, finder)[:16]
        folder.mkdir(parents=True, exist_ok=True)
    store = _Store(folder, len(records), options.size, len(masks))

    def one(i: int) -> None:
        if store.placements[i, 0] != _WAITING:
            return
        try:
            placement, picture, drawn, found = _look(records[i], options, masks, finder)
        except (ImageRefused, OSError, InvalidDicomError, ValueError) as error:
            store.leave_out(i, f"{type(error).__name__}: {error}")
            return
        store.put(i, placement, picture, drawn, found)

    with ThreadPoolExecutor(threads) as pool:
        for _ in tqdm(
            pool.map(one, range(len(records))), total=len(records), desc="rendering", unit="image", disable=None
        ):
            pass
    rows = np.flatnonzero(store.placements[:, 0] == _DONE)
    failed = np.flatnonzero(store.placements[:, 0] == _LEFT_OUT).tolist()
    kept = [_placement(store.placements[i], options.size) for i in rows]
    reasons = store.reasons()
    left_out = [
        LeftOut(records[i].row or str(records[i].image), reasons.get(i, "could not be rendered")) for i in failed
    ]
    return Pictures(
        tuple(records[i] for i in rows.tolist()),
        tuple(kept),
        tuple(left_out),
        int((store.placements[rows, -1] == 0).sum()),
        store.values,
        store.masks,
        rows,
    )


class _Store:
    """Arrays in memory, or mapped from files."""

    def __init__(self, folder: Path | None, count: int, size: int, structures: int) -> None:
        self._folder, self._reasons = folder, dict[int, str]()
        self.values = self._array("pictures", (count, size, size), np.float16)
        self.masks = self._array("masks", (count, structures, size, size), np.bool_)
        self.placements = self._array("placements", (count, _COLUMNS), np.int64)

    def put(self, i: int, placement: Placement, picture: FloatArray, masks: BoolArray, found: bool) -> None:
        self.values[i], self.masks[i] = picture, masks
        f, h = placement.frame, placement.frame.hanging
        # the state comes last: a row counts only when it is whole
        self.placements[i, 1:] = (
            *(placement.x, placement.y, f.rows, f.columns, f.top, f.left, f.height, f.width),
            *(h.transpose, h.flip_rows, h.flip_columns, found),
        )
        self.placements[i, 0] = _DONE

    def leave_out(self, i: int, reason: str) -> None:
        self._reasons[i] = reason
        if self._folder is not None:
            with (self._folder / "left_out.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps([i, reason]) + "\n")
        self.placements[i, 0] = _LEFT_OUT

    def reasons(self) -> dict[int, str]:
        path = None if self._folder is None else self._folder / "left_out.jsonl"
        if path is None or not path.exists():
            return self._reasons
        return {int(i): str(reason) for i, reason in map(json.loads, path.read_text("utf-8").splitlines())}

    def _array(self, name: str, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        if self._folder is None or 0 in shape:
            return np.zeros(shape, dtype)
        path = self._folder / f"{name}.npy"
        if path.exists():
            return np.lib.format.open_memmap(path, mode="r+")
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _look(
    record: Record, options: PictureOptions, keys: Sequence[str], finder: LungFinder | None
) -> tuple[Placement, FloatArray, BoolArray, bool]:
    """One picture, its masks, and whether the lungs were found if they were looked for."""
    image = read_image(record.image)
    lungs = finder.find(image) if finder is not None and options.lungs != "whole" else None
    x = y = 0
    shown = image
    if lungs is not None and options.lungs == "crop":
        box = lung_box(lungs, options.margin)
        x, y, shown = box[0], box[1], cut(image, box)
    picture, frame = network_input(shown, options.size)
    placement = Placement(x, y, frame)
    if lungs is not None and options.lungs == "mask":
        inside = placement.mask_to_picture(lungs, image.shape)
        picture = picture * ndimage.binary_dilation(inside, iterations=max(1, round(options.margin * options.size)))
    masks = np.zeros((len(keys), options.size, options.size), np.bool_)
    for i, key in enumerate(keys):
        for part in record.masks.get(key, ()):
            masks[i] |= placement.mask_to_picture(_mask(part), image.shape)
    return placement, picture, masks, lungs is not None or options.lungs == "whole"


def _mask(part: Path | RunLengths) -> BoolArray:
    if isinstance(part, RunLengths):
        return decode(part)
    with Image.open(part) as picture:
        return np.asarray(picture.convert("L")) > 127


def _placement(row: IntArray, size: int) -> Placement:
    x, y, rows, columns, top, left, height, width = (int(v) for v in row[1:9])
    hanging = Hanging(*(bool(v) for v in row[9:12]))
    return Placement(x, y, Frame(rows, columns, size, top, left, height, width, hanging))


def records_digest(records: Sequence[Record]) -> str:
    """SHA-256 over what records say and the names and sizes of their images, whatever folder they lie in."""
    total = hashlib.sha256()
    for record in sorted(records, key=lambda r: (r.image.name, r.study, str(r.image))):
        said = {f.name: getattr(record, f.name) for f in fields(record) if f.name not in ("image", "masks", "row")}
        masks = {k: [p.name if isinstance(p, Path) else p.text for p in v] for k, v in sorted(record.masks.items())}
        said = {k: sorted(v.items()) if hasattr(v, "items") else v for k, v in said.items()}
        size = record.image.stat().st_size if record.image.exists() else -1
        total.update(repr((record.image.name, size, sorted(said.items()), masks)).encode())
    return total.hexdigest()


def _digest(records: Sequence[Record], options: PictureOptions, masks: Sequence[str], finder: LungFinder | None) -> str:
    """Of everything that decides on the pictures: files by name, size and time, options, masks, lung model."""
    total = hashlib.sha256(repr((options, tuple(masks), finder.digest if finder else "")).encode())
    for record in records:
        drawn = [record.masks.get(key, ()) for key in masks]
        files = [record.image, *(part for parts in drawn for part in parts if isinstance(part, Path))]
        stats = [(str(path), s.st_size, s.st_mtime_ns) for path in files if path.exists() for s in [path.stat()]]
        total.update(repr((stats, drawn)).encode())
    return total.hexdigest()

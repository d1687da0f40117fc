"""Areas and diameters of our reports, measured again on the pixels of their Segmentations.

The rule: an area is the number of pixels of the frame that it refers to, times the size of one; a diameter in mm is its
line at the spacing that the Segmentation of the report gives. An area of nothing is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pydicom import Dataset

from dicom_sr.conformance.air import is_ours
from dicom_sr.conformance.consistency import diameters
from dicom_sr.conformance.content import COMPREHENSIVE_3D
from dicom_sr.conformance.objects import SEGMENTATION
from dicom_sr.conformance.tree import Node, Violation, content_tree, items, measured, numbers, text

_AGREE = 1e-4  # relative
_MOST_FRAMES = 65535  # of one for each segment (PS3.3 C.8.20.2: Segment Number is US)


def frame_areas(ds: Dataset) -> tuple[int, ...]:
    """Pixels that each frame of a Segmentation of ours shows; empty where its pixels are not at hand as bits."""
    data = ds.get("PixelData")
    size = [int(n) for keyword in ("Rows", "Columns", "NumberOfFrames") for n in numbers(ds, keyword)[:1]]
    ours = is_ours(ds) and text(ds, "SOPClassUID") == SEGMENTATION and numbers(ds, "BitsAllocated") == (1,)
    if not ours or not isinstance(data, bytes) or ds["PixelData"].is_undefined_length or len(size) < 3 or min(size) < 1:
        return ()
    rows, columns, frames = size
    if rows * columns * frames > 8 * len(data):
        return (0,) * min(frames, _MOST_FRAMES)  # no area is that of pixels that are missing
    return tuple(_bits(data, n * rows * columns, rows * columns) for n in range(frames))


def check_extents(objects: Sequence[Dataset], areas: Mapping[str, tuple[int, ...]]) -> Iterator[Violation]:
    """Judge the decoded measurement reports of ours among `objects`.

    Parameters
    ----------
    areas
        SOP Instance UID of a Segmentation to what ``frame_areas`` counted.
    """
    segmentations = {text(ds, "SOPInstanceUID"): ds for ds in objects if text(ds, "SOPClassUID") == SEGMENTATION}
    spacings = {uid: _spacing(ds) for uid, ds in segmentations.items()}
    for report in objects:
        if not is_ours(report) or text(report, "SOPClassUID") != COMPREHENSIVE_3D:
            continue
        root = content_tree(report)
        referred = []
        for group in (node for node in root.walk() if node.name.key == ("125007", "DCM")):
            for uid, frame in _frames(group):
                referred.append(uid)
                yield from _area(group, frame, areas.get(uid, ()), spacings.get(uid))
        spacing = next((spacings[uid] for uid in referred if spacings.get(uid)), None)
        yield from _diameters(root, spacing)


def _bits(data: bytes, start: int, count: int) -> int:
    """How many of `count` bits are set; the first pixel is the lowest bit (PS3.5 8.1.1)."""
    whole = np.frombuffer(data, np.uint8)[start // 8 : (start + count + 7) // 8]
    return int(np.count_nonzero(np.unpackbits(whole, bitorder="little")[start % 8 : start % 8 + count]))


def _spacing(ds: Dataset) -> tuple[float, float] | None:
    for shared in items(ds, "SharedFunctionalGroupsSequence"):
        for measures in items(shared, "PixelMeasuresSequence"):
            spacing = numbers(measures, "PixelSpacing")
            return (spacing[0], spacing[1]) if len(spacing) == 2 else None
    return None


def _frames(group: Node) -> Iterator[tuple[str, int]]:
    for shown in group.named("121214"):
        for reference in shown.references:
            for frame in numbers(reference, "ReferencedFrameNumber")[:1]:
                yield text(reference, "ReferencedSOPInstanceUID"), int(frame)


def _area(group: Node, frame: int, areas: Sequence[int], spacing: tuple[float, float] | None) -> Iterator[Violation]:
    for number in group.named("42798000"):
        value, unit = measured(number)
        if value is None or spacing is None or not 1 <= frame <= len(areas):
            continue
        expected = areas[frame - 1] * (math.prod(spacing) if unit == "mm2" else 1.0)
        if not math.isclose(value, expected, rel_tol=_AGREE, abs_tol=1e-3):
            message = f"an area of {value:g} {unit}; the pixels of frame {frame} make it {expected:g}"
            yield Violation("Hilum report", number.path, message)


def _diameters(root: Node, spacing: tuple[float, float] | None) -> Iterator[Violation]:
    for group, value, unit, (x0, y0, x1, y1) in diameters(root):
        if unit == "mm" and spacing is not None:
            length = math.hypot((x1 - x0) * spacing[1], (y1 - y0) * spacing[0])
            if not math.isclose(value, length, rel_tol=_AGREE, abs_tol=1e-3):
                message = f"a diameter of {value:g} mm, whose line is {length:g} mm long"
                yield Violation("Hilum report", group.path, message)

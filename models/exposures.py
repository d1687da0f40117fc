"""Which images of a study show one exposure: sent twice, or processed twice for display.

The rule: two exposures must never pass for one. Equal Pixel Data are one exposure; otherwise identifiers and times of
acquisition that differ outweigh any likeness. Equal Pixel Data that hang differently are no copies: a corrected
Patient Orientation must be read.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.multival import MultiValue
from scipy import ndimage

from models.hanging import Hanging
from models.rendering import RenderedImage, network_input

# Correlation of the details of two pictures from which they show the same exposure. Of 527 pairs of different exposures
# of one patient (NIH ChestX-ray14) none exceeded 0.74; another gray curve, edge enhancement, half the matrix or strong
# JPEG compression of one exposure leave 0.97 and more, and a window that clips a third of the grays 0.82 to 0.97.
COPY = 0.93
COPY_AT_THE_SAME_TIME = 0.80  # enough where the header gives both the same second, or the same irradiation event
_THUMBNAIL = 64
_DETAIL = 3.0  # standard deviation, in pixels of the thumbnail, of what is taken away as mere brightness
# Times of acquisition that differ by more are different exposures.
_SAME_SECONDS = 0.5


@dataclass(frozen=True, eq=False)
class ExposureKey:
    """By what another image of the same exposure is recognised.

    Parameters
    ----------
    digest
        SHA-256 of Pixel Data.
    event
        Irradiation Event UID (PS3.3 C.7.6.1), or empty.
    acquired
        Acquisition date and time as seconds of a day count, or None.
    original
        Whether Image Type says ORIGINAL.
    hanging
        How the image is turned for reading.
    details
        What is brighter and darker than its surroundings in the gray ranks of the hung picture, shape (4096,), zero
        mean and unit length: free of how the picture was processed.
    """

    digest: str
    event: str
    acquired: float | None
    original: bool
    hanging: Hanging
    details: npt.NDArray[np.float32]


def _ranks(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The place of each value among all, from 1; equal ones share the mean of theirs."""
    _, places, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return ranks[places].reshape(values.shape).astype(np.float32)


def exposure_key(header: Dataset, image: RenderedImage) -> ExposureKey:
    """Describe one radiograph; `header` still holds its Pixel Data."""
    small, _ = network_input(image, _THUMBNAIL, stretch=True)
    ranks = _ranks(small) / small.size
    details = ranks - ndimage.gaussian_filter(ranks, _DETAIL)
    details = (details - details.mean()).ravel()
    image_type = header.get("ImageType")
    first = image_type[0] if isinstance(image_type, MultiValue) and image_type else image_type
    return ExposureKey(
        digest=hashlib.sha256(header.PixelData).hexdigest(),
        event=str(header.get("IrradiationEventUID") or ""),
        acquired=_acquired(header),
        hanging=image.hanging,
        original=str(first).strip().upper() != "DERIVED",
        details=details / max(float(np.linalg.norm(details)), 1e-6),
    )


def relation(first: ExposureKey, second: ExposureKey) -> str | None:
    """How two images show one exposure: ``the same pixels`` or ``the same exposure``; None when they do not."""
    if first.digest == second.digest:
        return "the same pixels" if first.hanging == second.hanging else None
    needed = COPY
    if first.event and second.event:
        if first.event != second.event:
            return None
        needed = COPY_AT_THE_SAME_TIME
    elif first.acquired is not None and second.acquired is not None:
        if abs(first.acquired - second.acquired) > _SAME_SECONDS:
            return None
        needed = COPY_AT_THE_SAME_TIME
    elif first.acquired is not None or second.acquired is not None or (first.original and second.original):
        return None  # without times, only what says that it was derived can be a copy
    return "the same exposure" if likeness(first, second) > needed else None


def likeness(first: ExposureKey, second: ExposureKey) -> float:
    """Correlation of the details of two pictures, -1 to 1."""
    return float(first.details @ second.details)


def _acquired(header: Dataset) -> float | None:
    """Acquisition DateTime, or date and time, in seconds; None when the time of day is not known.

    Where there is no Acquisition Date the study's stands in for it; a time may stop at the minute.
    """
    text = str(header.get("AcquisitionDateTime") or "")
    if not re.match(r"\d{12}", text):
        day = str(header.get("AcquisitionDate") or header.get("StudyDate") or "") or "00000000"
        text = f"{day}{header.get('AcquisitionTime') or ''}".replace(":", "")
    match = re.match(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d(?:\.\d+)?)?", text)
    if match is None:
        return None
    year, month, day_of_month, hour, minute = (int(part) for part in match.groups()[:5])
    days = (year * 12 + month) * 31 + day_of_month  # any count will do that grows from day to day
    return days * 86400.0 + hour * 3600 + minute * 60 + float(match[6] or 0)

"""From stored values to display values: the modality and the VOI transformation of an image.

The rule: each step of PS3.3 C.11.1 and C.11.2 is applied exactly once, and what cannot be applied is refused. pydicom's
own functions are not used: they show an image of negative Rescale Slope with a window inverted, and large values beyond
the end of an 8-bit look-up table at its beginning (seen in 3.0).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian
from scipy.special import expit

from models.refusal import ImageRefused, Refusal, integer

Values = npt.NDArray[np.float64]


def display_values(ds: Dataset, stored: npt.NDArray[Any]) -> Values:
    """What the header makes of stored values before the presentation's inversion.

    Parameters
    ----------
    stored
        Shape (n,), integers; signed when Pixel Representation says so.

    Returns
    -------
    array
        Shape (n,), finite; from 0 to 1 after a window, else in the unit of the last step; its range has no meaning,
        its order has.

    Raises
    ------
    ImageRefused
        ``unreadable_header`` when a look-up table, rescale or window is invalid.
    """
    with np.errstate(all="ignore"):
        values = _voi(ds, *_modality(ds, stored))
    if not np.isfinite(values).all():
        raise _invalid("the rescale or window")
    return values


def is_inverse(ds: Dataset) -> bool:
    """Whether the lowest value is meant to be shown white (PS3.3 C.7.6.3.1.2, C.11.6.1.2).

    Either attribute may say so; both together say it once.

    Raises
    ------
    ImageRefused
        ``unreadable_pixels`` when the image is no grayscale image.
    """
    interpretation = str(ds.get("PhotometricInterpretation") or "").strip().upper()
    if interpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageRefused(Refusal.UNREADABLE_PIXELS, "the image is not MONOCHROME1 or MONOCHROME2")
    shape = str(ds.get("PresentationLUTShape") or "").strip().upper()
    return interpretation == "MONOCHROME1" or shape == "INVERSE"


def _modality(ds: Dataset, stored: npt.NDArray[Any]) -> tuple[Values, bool]:
    """Modality LUT Sequence, or Rescale Slope and Intercept (PS3.3 C.11.1); and whether values may be negative."""
    values, signed = stored.astype(np.float64), stored.dtype.kind == "i"
    if (item := _first_item(ds, "ModalityLUTSequence")) is not None:
        return _look_up(item, values, signed=signed, big_endian=_big_endian(ds)), False
    slope, intercept = _number(ds, "RescaleSlope"), _number(ds, "RescaleIntercept")
    if slope is None and intercept is None:
        return values, signed
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    bits = min(max(integer(ds, "BitsStored", 16), 1), 16)
    least = -(2 ** (bits - 1)) if signed else 0
    possible = (least * slope + intercept, (least + 2**bits - 1) * slope + intercept)
    return values * slope + intercept, min(possible) < 0


def _voi(ds: Dataset, values: Values, signed: bool) -> Values:
    """The first item of VOI LUT Sequence, or the first window (PS3.3 C.11.2)."""
    if (item := _first_item(ds, "VOILUTSequence")) is not None:
        return _look_up(item, values, signed=signed, big_endian=_big_endian(ds))
    center, width = _number(ds, "WindowCenter", first=True), _number(ds, "WindowWidth", first=True)
    if center is None or width is None:
        return values
    return window(values, center, width, str(ds.get("VOILUTFunction") or "LINEAR").strip().upper())


def window(values: Values, center: float, width: float, function: str) -> Values:
    """VOI LUT Function (PS3.3 C.11.2.1.2, C.11.2.1.3), for an output from 0 to 1.

    Raises
    ------
    ImageRefused
        ``unreadable_header``.
    """
    if function == "SIGMOID" and width > 0:
        return np.asarray(expit(4.0 * (values - center) / width), np.float64)
    if function == "LINEAR" and width >= 1:
        center, width = center - 0.5, width - 1.0
    elif function != "LINEAR_EXACT" or width <= 0:
        raise _invalid("the window")
    ramp = (values - center) / width + 0.5
    below, above = values <= center - width / 2, values > center + width / 2
    return np.where(below, 0.0, np.where(above, 1.0, ramp))


def _look_up(item: Dataset, values: Values, *, signed: bool, big_endian: bool) -> Values:
    """Apply the table of a Modality or VOI LUT item (PS3.3 C.11.1.1.1, C.11.2.1.1); values between take the nearer."""
    descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
    try:
        count, first, bits = (int(value) for value in descriptor)
    except (TypeError, ValueError, OverflowError) as error:
        raise _invalid("a LUT Descriptor") from error
    count = count % 2**16 or 2**16  # written as SS, more than 32,767 entries look negative
    if signed and first >= 2**15:  # a signed value in an element of VR US
        first -= 2**16
    if not 8 <= bits <= 16:
        raise _invalid("a LUT Descriptor")
    entries = _entries(data, count, bits, big_endian=big_endian)
    index = np.clip(np.rint(values) - first, 0, count - 1).astype(np.intp)
    return np.asarray(entries[index], np.float64)


def _entries(data: Any, count: int, bits: int, *, big_endian: bool) -> npt.NDArray[Any]:
    """LUT Data, as words or bytes; entries of 8 bits may be packed in pairs, the first in the low byte."""
    if isinstance(data, bytes):
        words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2" if big_endian else "<u2")
    else:
        numbers = data if isinstance(data, MultiValue) else [data]
        if not all(isinstance(number, int) for number in numbers):
            raise _invalid("LUT Data")
        words = np.array([int(number) % 2**16 for number in numbers], np.uint16)
    if bits == 8 and words.size < count:
        words = words.astype("<u2").view(np.uint8)
    if words.size < count:
        raise _invalid("LUT Data")
    return words[:count]


def _first_item(ds: Dataset, keyword: str) -> Dataset | None:
    """The first item of a look-up table sequence; None when there is none, or when it is empty."""
    sequence = ds.get(keyword)
    if not sequence:
        return None
    if not isinstance(sequence, Sequence) or not isinstance(sequence[0], Dataset):
        raise _invalid(keyword)
    item = sequence[0]
    return item if item.get("LUTDescriptor") is not None and item.get("LUTData") is not None else None


def _number(ds: Dataset, keyword: str, *, first: bool = False) -> float | None:
    """A decimal attribute, or the first of its values; None when it is absent or empty."""
    value = ds.get(keyword)
    if first and isinstance(value, MultiValue):
        value = value[0] if len(value) else None
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise _invalid(keyword) from error
    if not np.isfinite(number):
        raise _invalid(keyword)
    return number


def _big_endian(ds: Dataset) -> bool:
    return str(getattr(getattr(ds, "file_meta", None), "TransferSyntaxUID", "")) == ExplicitVRBigEndian


def _invalid(what: str) -> ImageRefused:
    return ImageRefused(Refusal.UNREADABLE_HEADER, f"{what} of the header is invalid")

"""Why an image gets no result, and what was looked at: shared by every step of the intake.

The rule: one enumeration of codes; each reaches the worklist, the interface and the log, and the README explains it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydicom import Dataset


class Refusal(StrEnum):
    """Why an image gets no result, in the order in which the reasons are met."""

    MODALITY = "modality"
    UNREADABLE_HEADER = "unreadable_header"
    INTENT = "intent"
    MULTI_FRAME = "multi_frame"
    VIEW = "view"
    BODY_PART = "body_part"
    AGE = "age"
    UNREADABLE_PIXELS = "unreadable_pixels"
    QUALITY = "quality"
    ROUTING = "routing"
    VIEW_UNKNOWN = "view_unknown"
    PIXEL_GATE = "pixel_gate"
    VIEW_CONFLICT = "view_conflict"
    ORIENTATION = "orientation"
    INVERTED = "inverted"
    LUNGS_NOT_FOUND = "lungs_not_found"
    COPY = "copy"

    @property
    def meaning(self) -> str:
        """What the code means, in one sentence."""
        return _MEANINGS[self]


_MEANINGS = {
    Refusal.MODALITY: "Not a projection radiograph.",
    Refusal.UNREADABLE_HEADER: "Not valid DICOM, or a part of the header that is needed is missing or invalid.",
    Refusal.INTENT: "FOR PROCESSING, a localizer, or a vendor's post-processing of an exposure.",
    Refusal.MULTI_FRAME: "More than one frame.",
    Refusal.VIEW: "The header names a lateral, oblique or another view that the models do not read.",
    Refusal.BODY_PART: "Descriptions name another body part, or Body Part Examined does and the pixels show no chest.",
    Refusal.AGE: "The patient is younger than the site's minimum age, or the pixels look like the chest of a child.",
    Refusal.UNREADABLE_PIXELS: "Pixels absent, incomplete, in colour, all alike, too many, or impossible to decode.",
    Refusal.QUALITY: "Too few pixels, or too few gray levels, to be read.",
    Refusal.ROUTING: "A rule of the site says that no model reads it.",
    Refusal.VIEW_UNKNOWN: "The header does not tell the view, and no pixel gate answered.",
    Refusal.PIXEL_GATE: "The header does not tell the view, and the pixels show no frontal chest radiograph.",
    Refusal.VIEW_CONFLICT: "The header says frontal, the pixels show something else.",
    Refusal.ORIENTATION: "The pixels show a chest turned, mirrored or upside down, and the header does not say so.",
    Refusal.INVERTED: "The pixels show dense structures dark, and the header does not say so.",
    Refusal.LUNGS_NOT_FOUND: "The picture shows no plausible pair of lungs.",
    Refusal.COPY: "Another image of the study shows the same exposure, and was read.",
}


@dataclass(frozen=True)
class Evidence:
    """One thing that was looked at, and what it said.

    Parameters
    ----------
    source
        Keyword of a DICOM attribute, or ``pixels``.
    says
        Its value as far as it matters here, without patient data: ``PA``, ``'thorax'``, ``frontal, 0.98``.
    """

    source: str
    says: str

    def __str__(self) -> str:
        return f"{self.source} {self.says}"


class ImageRefused(Exception):
    """An image that will get no result.

    `code` says why, the message says it to a person, without patient data, and `evidence` is what was looked at.
    """

    def __init__(self, code: Refusal, message: str, evidence: tuple[Evidence, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.evidence = evidence

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, str(self), self.evidence), self.__dict__


def integer(ds: Dataset, keyword: str, default: int) -> int:
    """The value of an integer attribute; `default` when it is absent or empty.

    Raises
    ------
    ImageRefused
        ``unreadable_header`` when it holds something else.
    """
    value = ds.get(keyword)
    if value is None or value == "":
        return default
    try:
        number = int(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ImageRefused(Refusal.UNREADABLE_HEADER, f"{keyword} is not a number") from error
    if not -(2**63) <= number < 2**63:  # an integer string may say 1E5000
        raise ImageRefused(Refusal.UNREADABLE_HEADER, f"{keyword} is too large a number")
    return number

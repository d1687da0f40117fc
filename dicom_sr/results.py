"""All results of one image, encoded together: what the worker stores.

::

    EncodingFailed    an image or its findings could not be encoded; the message names the instance
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from pydicom import Dataset

from dicom_sr.evidence import evidence
from dicom_sr.measurement_report import encode_measurement_report
from dicom_sr.predecessor import latest
from dicom_sr.references import Reference
from dicom_sr.segmentation import encode_segmentation
from models.findings import ImageFindings


class EncodingFailed(Exception):
    """The findings could not be encoded; nothing was stored."""


@dataclass(frozen=True, eq=False)
class Results:
    """The objects made from one image; no Segmentation when no model outlined anything."""

    measurement_report: Dataset
    segmentation: Dataset | None


def encode_results(
    source: Dataset,
    findings: ImageFindings,
    created: datetime,
    *,
    number: int = 1,
    predecessors: Sequence[Reference] = (),
) -> Results:
    """Encode findings as DICOM.

    Parameters
    ----------
    source
        The image that was read; its header is copied, its pixels are not touched.
    created
        Becomes the date of the results. Give the same and the bytes will be the same.
    number
        Instance Number of the results in their series.
    predecessors
        The measurement report on the same image that this one replaces, then those that it replaced.

    Raises
    ------
    EncodingFailed
    """
    with encoding(findings.sop_instance_uid):
        header = evidence(source, findings)
    return encode_results_of(header, findings, created, number=number, predecessors=predecessors)


def encode_results_of(
    header: Dataset,
    findings: ImageFindings,
    created: datetime,
    *,
    number: int = 1,
    predecessors: Sequence[Reference] = (),
) -> Results:
    """The same from what ``dicom_sr.evidence`` made of the image.

    Raises
    ------
    EncodingFailed
    """
    with encoding(findings.sop_instance_uid):
        if not findings.runs:
            raise ValueError("findings of no model have no author")
        segmentation = None
        if findings.segments:
            segmentation = encode_segmentation(
                header, findings, created, number=number, predecessor_uid=latest(predecessors)
            )
        report = encode_measurement_report(
            header, findings, segmentation, created, number=number, predecessors=predecessors
        )
        return Results(report, segmentation)


@contextmanager
def encoding(uid: str) -> Iterator[None]:
    """Whatever an odd header does to an encoder becomes one failure with a name.

    Raises
    ------
    EncodingFailed
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise EncodingFailed(f"{uid}: {type(error).__name__} while encoding its results") from error

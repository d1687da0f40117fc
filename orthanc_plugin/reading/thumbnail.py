"""The small picture of a radiograph that the worklist shows, with what was called present: heat map, outline or box.

The rule: it is painted from the arrays of the result itself, is kept in Orthanc alone, where it goes with its study,
and costs no study its answer.
"""

from __future__ import annotations

import logging
from io import BytesIO

import httpx
from PIL import Image

from dicom_sr.overlay_picture import marks_of, paint
from models.findings import ImageFindings
from models.rendering import RenderedImage
from orthanc_plugin.archive import attachments
from orthanc_plugin.archive.client import OrthancClient, OrthancUnavailable, ResultRefused

log = logging.getLogger("hilum.thumbnail")

# What painting may raise on an array that it does not expect, and what talking to Orthanc may.
_IN_THE_WAY = (
    *(ValueError, TypeError, ArithmeticError, LookupError, OSError),
    *(OrthancUnavailable, ResultRefused, httpx.HTTPError),
)
# The page shows it at 96 pixels; screens of high density have up to three for one of them.
LONGEST = 256
_JPEG_QUALITY = 80


def make_thumbnail(image: RenderedImage, findings: ImageFindings) -> bytes:
    """Paint the thumbnail of one image: JPEG, as the image is stored, long side 256 pixels at most, no text."""
    gray, marks = image.preview(LONGEST), marks_of(findings)
    picture = paint(gray, findings.saliency, longest=LONGEST, caption=(), marks=marks)
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def keep_thumbnail(
    orthanc: OrthancClient, measurement_report: str, image: RenderedImage, findings: ImageFindings
) -> bool:
    """Attach its thumbnail to a measurement report that Orthanc holds, unless it has one.

    Parameters
    ----------
    measurement_report
        SOP Instance UID.

    Returns
    -------
    bool
        Whether it has one now. Whatever is in the way is logged and never raised: the results stand without it.
    """
    try:
        if not orthanc.has_attachment(measurement_report, attachments.THUMBNAIL):
            orthanc.attach(measurement_report, attachments.THUMBNAIL, make_thumbnail(image, findings))
    except _IN_THE_WAY:
        log.exception("no thumbnail", extra={"study_instance_uid": findings.study_instance_uid})
        return False
    return True

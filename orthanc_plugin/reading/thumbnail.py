"""The small picture of a radiograph that the worklist shows, with what was called present: heat map, outline or box.

The rule: it is painted from the arrays of the result itself; ``study_pictures`` keeps it in Orthanc.
"""

from __future__ import annotations

from io import BytesIO

from PIL import Image

from dicom_sr.overlay_picture import marks_of, paint
from models.findings import ImageFindings
from models.rendering import RenderedImage

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

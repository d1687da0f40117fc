"""The pictures of the study's own page: the radiograph, and apart from it what is laid over it, outlines and heat map.

The rule: they are made where the arrays of the result are at hand, are kept in Orthanc with the report that they belong
to, and cost no study its answer.

Why here and not when somebody looks. Orthanc 1.10 renders no JPEG 2000 (HTTP 415), in which many modalities
send, and the plugin must not decode pixels. Why 8 bits: a browser draws no more, and the picture holds the grays that
the networks see and a little on either side of them, in which windowing loses nothing that a screen could show; who
needs the others opens the viewer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO

import httpx
from PIL import Image

from dicom_sr.overlay_picture import heat_layer, outline_layer
from models.findings import ImageFindings
from models.rendering import RenderedImage
from orthanc_plugin.archive import attachments
from orthanc_plugin.archive.client import OrthancClient, OrthancUnavailable, ResultRefused
from orthanc_plugin.reading.thumbnail import make_thumbnail

log = logging.getLogger("hilum.pictures")

# What painting may raise on an array that it does not expect, and what talking to Orthanc may.
_IN_THE_WAY = (
    *(ValueError, TypeError, ArithmeticError, LookupError, OSError),
    *(OrthancUnavailable, ResultRefused, httpx.HTTPError),
)
LONGEST = 1280  # pixels: more than the page gives it on a screen of 1080 or 1440 lines
MARGIN = 0.1  # of the range of grays, on either side; the page knows it (worklist/images.py)
_OUTLINES_LONGEST = 1024
_HEAT_LONGEST = 512  # maps are much coarser
_JPEG_QUALITY = 90
# Lungs and heart as OHIF shows them (``dicom_sr.segmentation``); everything else is a finding.
_STRUCTURES = {"lung_right": (112, 168, 255), "lung_left": (122, 214, 176), "heart": (255, 128, 192)}
_FINDING = (250, 230, 90)


@dataclass(frozen=True)
class Kept:
    """Which pictures Orthanc keeps with a report.

    Parameters
    ----------
    layers
        Of ``picture``, ``outlines`` and ``heat_map``.
    aspect
        Height of a stored pixel over its width, by which the layers are in the true proportions of the image.
    """

    thumbnail: bool = False
    layers: tuple[str, ...] = ()
    aspect: float = 1.0


def make_layers(image: RenderedImage, findings: ImageFindings) -> dict[str, bytes]:
    """Picture (JPEG) and what is laid over it (PNG, transparent), all of the whole image as it is stored."""
    gray = image.preview(LONGEST, margin=MARGIN)
    layers = {"picture": _encoded(Image.fromarray((gray * 255 + 0.5).astype("uint8")), "JPEG", quality=_JPEG_QUALITY)}
    height, width = gray.shape
    if findings.segments:
        masks = [(segment.mask, _STRUCTURES.get(segment.key, _FINDING)) for segment in findings.segments]
        layers["outlines"] = _encoded(outline_layer(masks, *_within(height, width, _OUTLINES_LONGEST)), "PNG")
    if findings.saliency:
        heat = heat_layer(findings.saliency, *_within(height, width, _HEAT_LONGEST))
        layers["heat_map"] = _encoded(Image.fromarray(heat), "PNG")
    return layers


def keep_pictures(
    orthanc: OrthancClient,
    measurement_report: str,
    image: RenderedImage,
    findings: ImageFindings,
    stored: Callable[[], str | None] | None = None,
) -> Kept:
    """Attach its pictures to a measurement report, unless it has them.

    Parameters
    ----------
    measurement_report
        SOP Instance UID.
    stored
        Of a report that Orthanc is just taking, and that has no pictures therefore: waits until it is stored and tells
        Orthanc's name of it. What it raises is raised. The pictures are painted meanwhile.

    Returns
    -------
    Kept
        Which it has now. Whatever else is in the way is logged and never raised: the results stand without them.
    """
    thumbnail, layers = cache(partial(make_thumbnail, image, findings)), cache(partial(make_layers, image, findings))
    name = None
    if stored is not None:
        with suppress(*_IN_THE_WAY):  # it is in the way below too
            thumbnail()
            layers()
        name = stored()
    try:
        instances = orthanc.instances(measurement_report) if name is None else [name]
        if name is not None or not orthanc.has_attachment(instances, attachments.THUMBNAIL):
            orthanc.attach(instances, attachments.THUMBNAIL, thumbnail())
    except _IN_THE_WAY:
        log.exception("no pictures", extra={"study_instance_uid": findings.study_instance_uid})
        return Kept()
    expected = ("picture", *["outlines"] * bool(findings.segments), *["heat_map"] * bool(findings.saliency))
    try:
        if name is not None or not orthanc.has_attachment(instances, attachments.PICTURE):
            for layer in reversed(expected):  # the picture last: where it is, all are
                orthanc.attach(instances, attachments.LAYERS[layer], layers()[layer])
        return Kept(True, expected, round(image.aspect, 6))
    except _IN_THE_WAY:
        log.exception("no large picture", extra={"study_instance_uid": findings.study_instance_uid})
        return Kept(True)


def _within(height: int, width: int, longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _encoded(picture: Image.Image, kind: str, **how: int) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **how)
    return buffer.getvalue()

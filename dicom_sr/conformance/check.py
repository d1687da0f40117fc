"""Judge a DICOM object by the rules that hold for its kind: the one entry point of this package.

The rule: a broken object yields violations and never an exception. Objects of others are judged by the standard alone;
what IHE AIR and our own identity ask holds for results of ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from pydicom import Dataset

from dicom_sr.conformance import air
from dicom_sr.conformance.coding import check_codes, context_group
from dicom_sr.conformance.consistency import check_consistency
from dicom_sr.conformance.content import (
    BASIC_TEXT,
    COMPREHENSIVE_3D,
    DOCUMENTS,
    KEY_OBJECTS,
    check_content,
    check_predecessors,
)
from dicom_sr.conformance.extents import frame_areas
from dicom_sr.conformance.general import check_contributing_equipment, check_general
from dicom_sr.conformance.objects import (
    PRESENTATION_STATES,
    SECONDARY_CAPTURES,
    SEGMENTATION,
    check_key_objects,
    check_presentation_state,
    check_secondary_capture,
    check_segmentation,
    check_text_report,
)
from dicom_sr.conformance.report import check_report
from dicom_sr.conformance.templates import check_template, template_of
from dicom_sr.conformance.together import check_decoded_together
from dicom_sr.conformance.tree import Node, Violation, content_tree, cut_off, decoded, text
from dicom_sr.conformance.words import check_impression
from dicom_sr.report.wording import Wording

__all__ = ["Violation", "check", "check_together", "frame_areas"]


def check(ds: Dataset) -> list[Violation]:
    """Every rule that one object breaks; empty when it keeps all.

    Parameters
    ----------
    ds
        Any DICOM object, read from a file or made in memory. It is not changed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of the very values that are judged here
        short = cut_off(ds)
        plain, found = decoded(ds)
        if short:
            found.append(Violation("PS3.5 7.1.1", short, "has fewer bytes than announced: the file was cut off"))
        found = list(dict.fromkeys([*found, *_violations(plain)]))
        # Of a report that is wrong in itself, all that compares two places would only say so again.
        return found or list(_agreement(plain))


def check_together(
    objects: Sequence[Dataset],
    *,
    areas: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    wordings: Sequence[Wording] = (),
) -> list[Violation]:
    """Every rule that objects break between each other: references, series, study, predecessors, tracking, words.

    Each object alone is judged by ``check``.

    Parameters
    ----------
    areas
        SOP Instance UID of each Segmentation that is given without its pixels to what ``frame_areas`` counted in them.
    wordings
        The site's own tables of sentences, besides those that are built in.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = [decoded(ds)[0] for ds in objects]
        counted = {text(ds, "SOPInstanceUID"): frame_areas(ds) for ds in plain if "PixelData" in ds}
        return list(dict.fromkeys(check_decoded_together(plain, {**areas, **counted}, wordings)))


def _agreement(ds: Dataset) -> list[Violation]:
    """What a measurement report of ours says in two places: in numbers, and only if these agree, in words."""
    if not air.is_ours(ds) or text(ds, "SOPClassUID") != COMPREHENSIVE_3D:
        return []
    root = content_tree(ds)
    return list(check_consistency(root)) or list(check_impression(ds, root))


def _violations(ds: Dataset) -> Iterator[Violation]:
    ours = air.is_ours(ds)
    sop_class = text(ds, "SOPClassUID")
    yield from check_general(ds)
    yield from check_contributing_equipment(ds)
    yield from check_codes(ds, ours=ours)
    if sop_class in DOCUMENTS:
        yield from _document(ds, content_tree(ds), ours=ours)
    elif sop_class == SEGMENTATION:
        yield from check_segmentation(ds, ours=ours)
    elif sop_class in PRESENTATION_STATES:
        yield from check_presentation_state(ds)
    elif sop_class in SECONDARY_CAPTURES and ours:
        yield from check_secondary_capture(ds)
    if ours:
        yield from air.check_header(ds)


def _document(ds: Dataset, root: Node, *, ours: bool) -> Iterator[Violation]:
    sop_class, template = text(ds, "SOPClassUID"), template_of(root)
    yield from check_content(root, ds)
    yield from check_predecessors(ds)
    measuring = root.name.key in context_group(7021) or template == "1500"
    if sop_class == KEY_OBJECTS:
        yield from check_template(root, "2010")
        yield from check_key_objects(root, ds)
    elif sop_class == BASIC_TEXT:
        if template == "2000" or ours:
            yield from check_text_report(root, ours=ours)
    elif measuring:
        yield from check_template(root, "1500")
        if ours:
            yield from check_report(ds, root)
    if ours:
        yield from air.check_document(ds, root)

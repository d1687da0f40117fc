"""Rules for each kind of object besides measurement reports: text SR, SEG, SC, GSPS, KOS.

The rule: what the IOD makes mandatory and ``dciodvfy`` cannot relate, e.g. that every image that an object refers to is
in its list of referenced series (PS3.3 C.12.2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pydicom import Dataset

from dicom_sr.codes import finding_table
from dicom_sr.conformance.coding import context_group
from dicom_sr.conformance.content import evidence_references
from dicom_sr.conformance.tree import Node, Violation, concept, elements, items, numbers, read_concept, text

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
SECONDARY_CAPTURES = frozenset(
    {"1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.7.2", "1.2.840.10008.5.1.4.1.1.7.4"}
)
PRESENTATION_STATES = frozenset({"1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.11.2"})

_LATERALITY, _REPORT_TITLES, _MEASUREMENT_TITLES = 244, 7000, 7021
_SECTIONS = {("59776-5", "LN"): "Findings", ("19005-8", "LN"): "Impressions"}  # CID 7001
_FINDING, _SOURCE = ("121071", "DCM"), ("260753009", "SCT")
_SIDES = {"_right": ("24028007", "SCT"), "_left": ("7771000", "SCT")}
# Values of a graphic annotation's points, as in PS3.3 C.10.5.1.2; 0 for no limit.
_POINTS = {"POINT": (1, 1), "POLYLINE": (2, 0), "INTERPOLATED": (2, 0), "CIRCLE": (2, 2), "ELLIPSE": (4, 4)}


def check_text_report(root: Node, *, ours: bool) -> Iterator[Violation]:
    """A report for reading: a title that viewers do not take for measurements, a language, sections with text."""
    if ours:
        yield from _preliminary_report(root)
    if root.name.key in context_group(_MEASUREMENT_TITLES):
        yield Violation("PS3.16 TID 2000 row 1", root.path, f"{root.name} is the title of a measurement report")
    if not root.named("121049"):
        yield Violation("PS3.16 TID 2000 row 3", root.path, "no Language of Content Item and Descendants")
    if not root.named("121005", "121008", "121012"):
        yield Violation("PS3.16 TID 2000 row 5", root.path, "no observer")
    sections = [child for child in root.children if child.value_type == "CONTAINER"]
    if not sections:
        yield Violation("PS3.16 TID 2000 row 6", root.path, "no section")
    for section in sections:
        if not section.name.value:
            yield Violation("PS3.16 TID 2000 row 6", section.path, "a section without heading")
        if not any(node.value_type in ("TEXT", "CODE") and node.relationship == "CONTAINS" for node in section.walk()):
            yield Violation("PS3.16 TID 2000 row 8", section.path, "a section that says nothing")


def _preliminary_report(root: Node) -> Iterator[Violation]:
    """A report of ours: titled as one, with findings and impression, and no line that viewers list as a positive."""
    if root.name.key not in context_group(_REPORT_TITLES) | context_group(_MEASUREMENT_TITLES):
        yield Violation("PS3.16 CID 7000", root.path, f"{root.name} is not the title of a report")
    for name, what in _SECTIONS.items():
        section = next((child for child in root.children if child.name.key == name), None)
        if section is None or not any(node.value_type == "TEXT" for node in section.walk()):
            yield Violation("Hilum report", root.path, f"no section {what} with a sentence")
    for node in root.walk():
        if node.name.key == _FINDING:
            yield Violation("Hilum states", node.path, "a line named (121071, DCM, Finding), a positive to viewers")


def check_key_objects(root: Node, ds: Dataset) -> Iterator[Violation]:
    """PS3.16 TID 2010: the objects have no purpose, and the evidence lists them and nothing else.

    (260753009, SCT, "Source") is none: where a template gives no name, an item may have this one, for readers that
    cannot do without (PS3.3 C.17.3, note to Concept Name Code Sequence).
    """
    referred: set[str] = set()
    for node in root.walk():
        if node.value_type in ("IMAGE", "COMPOSITE", "WAVEFORM"):
            referred.update(text(reference, "ReferencedSOPInstanceUID") for reference in node.references)
            if node.name.value and node.name.key != _SOURCE:
                yield Violation("PS3.16 TID 2010 row 8", node.path, f"{node.value_type} with the purpose {node.name}")
    for keyword, *_rest, instance in evidence_references(ds):
        if instance not in referred:
            yield Violation("PS3.3 C.17.6.2.1", keyword, f"{instance} is evidence, and no content item refers to it")


def check_segmentation(ds: Dataset, *, ours: bool) -> Iterator[Violation]:
    """PS3.3 C.8.20: segments in order, coded, tracked, and each frame of one of them."""
    segments = items(ds, "SegmentSequence")
    given = [int(n) for s in segments for n in numbers(s, "SegmentNumber")]
    if given != list(range(1, len(segments) + 1)) or not segments:
        yield Violation("PS3.3 C.8.20.2", "SegmentSequence", f"segment numbers {given} instead of 1 and up by one")
    for number, segment in enumerate(segments, start=1):
        yield from _segment(segment, f"SegmentSequence[{number}]", ours=ours)
    for keyword, what in (("TrackingUID", "tracking UID"), ("RecommendedDisplayCIELabValue", "colour")):
        counted = Counter(text(s, keyword) for s in segments if text(s, keyword))
        if ours and max(counted.values(), default=1) > 1:
            yield Violation("Hilum identity", f"SegmentSequence.{keyword}", f"two segments have the same {what}")
    yield from _frames(ds, given, ours=ours)
    yield from check_referenced_series(ds)


def check_secondary_capture(ds: Dataset) -> Iterator[Violation]:
    """A picture of ours with annotations burned in says so, and what it was made from (PS3.3 C.7.6.1)."""
    if text(ds, "BurnedInAnnotation") != "YES":
        yield Violation("PS3.3 C.7.6.1", "BurnedInAnnotation", "not YES, though the picture is marked as AI")
    if not text(ds, "ImageType").startswith("DERIVED"):
        yield Violation("PS3.3 C.7.6.1.1.2", "ImageType", "not DERIVED, though it was made from another image")
    if not items(ds, "SourceImageSequence"):
        yield Violation("PS3.3 C.7.6.1", "SourceImageSequence", "absent: nobody knows what it was made from")
    if not text(ds, "DerivationDescription") and not items(ds, "DerivationCodeSequence"):
        yield Violation("PS3.3 C.7.6.1", "DerivationDescription", "absent: nobody knows how it was made")
    if not text(ds, "ConversionType"):
        yield Violation("PS3.3 C.8.6.1", "ConversionType", "absent or empty")


def check_presentation_state(ds: Dataset) -> Iterator[Violation]:
    """PS3.3 C.10.5, C.10.7: annotations lie on layers that exist, and on images that the state is for."""
    shown = {instance for _series, _class, instance in _listed(ds)}
    if not shown:
        yield Violation("PS3.3 C.11.11", "ReferencedSeriesSequence", "the state is for no image")
    layers = [text(layer, "GraphicLayer") for layer in items(ds, "GraphicLayerSequence")]
    if len(set(layers)) < len(layers):
        yield Violation("PS3.3 C.10.7", "GraphicLayerSequence", "two layers have one name")
    for n, annotation in enumerate(items(ds, "GraphicAnnotationSequence"), start=1):
        where = f"GraphicAnnotationSequence[{n}]"
        if text(annotation, "GraphicLayer") not in layers:
            yield Violation("PS3.3 C.10.5", where, "lies on a layer that does not exist")
        for image in items(annotation, "ReferencedImageSequence"):
            if text(image, "ReferencedSOPInstanceUID") not in shown:
                yield Violation("PS3.3 C.10.5", where, "lies on an image that the state is not for")
        for graphic in items(annotation, "GraphicObjectSequence"):
            yield from _drawn(graphic, where)
    if not items(ds, "DisplayedAreaSelectionSequence"):
        yield Violation("PS3.3 C.10.4", "DisplayedAreaSelectionSequence", "absent or empty")


def check_referenced_series(ds: Dataset) -> Iterator[Violation]:
    """Each instance that the object refers to is listed, once (PS3.3 C.12.2)."""
    listed = [instance for _series, _class, instance in _listed(ds)]
    for instance, count in Counter(listed).items():
        if count > 1:
            yield Violation("PS3.3 C.12.2", "ReferencedSeriesSequence", f"{instance} is listed {count} times")
    for path, element in elements(ds):
        referred = element.keyword == "ReferencedSOPInstanceUID" and "ImageSequence" in path
        if referred and "ReferencedSeriesSequence" not in path and str(element.value) not in listed:
            yield Violation("PS3.3 C.12.2", "ReferencedSeriesSequence", f"lacks {element.value}, which {path} names")


def listed_references(ds: Dataset) -> Iterator[tuple[str, str, str]]:
    """Series, SOP class and SOP instance of everything in the lists of referenced series."""
    yield from _listed(ds)


def _listed(ds: Dataset) -> Iterator[tuple[str, str, str]]:
    studies = (ds, *items(ds, "StudiesContainingOtherReferencedInstancesSequence"))
    for series in (series for study in studies for series in items(study, "ReferencedSeriesSequence")):
        for keyword in ("ReferencedInstanceSequence", "ReferencedImageSequence"):
            for instance in items(series, keyword):
                yield (
                    text(series, "SeriesInstanceUID"),
                    text(instance, "ReferencedSOPClassUID"),
                    text(instance, "ReferencedSOPInstanceUID"),
                )


def _segment(segment: Dataset, where: str, *, ours: bool) -> Iterator[Violation]:
    for keyword in ("SegmentLabel", "SegmentAlgorithmType"):
        if not text(segment, keyword):
            yield Violation("PS3.3 C.8.20.2", f"{where}.{keyword}", "absent or empty")
    for keyword in ("SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence"):
        if len(items(segment, keyword)) != 1:
            yield Violation("PS3.3 C.8.20.2", f"{where}.{keyword}", "one code is needed")
    automatic = text(segment, "SegmentAlgorithmType") in ("AUTOMATIC", "SEMIAUTOMATIC")
    if automatic and not text(segment, "SegmentAlgorithmName"):
        yield Violation("PS3.3 C.8.20.2", f"{where}.SegmentAlgorithmName", "absent for an automatic segment")
    if bool(text(segment, "TrackingID")) != bool(text(segment, "TrackingUID")):
        yield Violation("PS3.3 C.8.20.2", where, "Tracking ID and Tracking UID need each other")
    yield from _colour(segment, where)
    yield from _side(segment, where, ours=ours)
    if ours:
        yield from _of_its_key(segment, where)
        if not text(segment, "TrackingUID"):
            yield Violation("AIR 6.5.3", f"{where}.TrackingUID", "absent")
        if "RecommendedDisplayCIELabValue" not in segment:
            yield Violation("Hilum identity", f"{where}.RecommendedDisplayCIELabValue", "absent")
        algorithm = items(segment, "SegmentationAlgorithmIdentificationSequence")
        for keyword in ("AlgorithmName", "AlgorithmVersion", "AlgorithmFamilyCodeSequence"):
            if not algorithm or not (text(algorithm[0], keyword) or items(algorithm[0], keyword)):
                yield Violation("PS3.3 10.16", f"{where}.SegmentationAlgorithmIdentificationSequence", f"no {keyword}")


def _of_its_key(segment: Dataset, where: str) -> Iterator[Violation]:
    """The Tracking ID is the key of what was outlined: label, category and type say the same."""
    key, label = text(segment, "TrackingID"), text(segment, "SegmentLabel")
    if not key:
        return  # which is told elsewhere
    known = finding_table().get(key)
    if known is None or known.category is None or known.type is None:
        yield Violation("Hilum identity", f"{where}.TrackingID", f"{key} is nothing that we outline")
        return
    if label and sorted(label.casefold().split()) != sorted(key.split("_")):
        yield Violation("Hilum identity", f"{where}.SegmentLabel", f"not the words of {key}")
    for keyword, code in (("Category", known.category), ("Type", known.type)):
        coded = concept(segment, f"SegmentedProperty{keyword}CodeSequence")
        if coded.value and coded.key != (code.value, code.scheme_designator):
            yield Violation("Hilum codes", f"{where}.SegmentedProperty{keyword}CodeSequence", f"{coded} is not {key}")


def _colour(segment: Dataset, where: str) -> Iterator[Violation]:
    colour = numbers(segment, "RecommendedDisplayCIELabValue")
    if "RecommendedDisplayCIELabValue" in segment and (len(colour) != 3 or not all(0 <= c <= 65535 for c in colour)):
        yield Violation("PS3.3 C.10.7.1.1", f"{where}.RecommendedDisplayCIELabValue", "not three values of 16 bits")


def _side(segment: Dataset, where: str, *, ours: bool) -> Iterator[Violation]:
    """A side is a modifier of the type, and agrees with what the segment is called (PS3.16 CID 244)."""
    types = items(segment, "SegmentedPropertyTypeCodeSequence")
    modifiers = [read_concept(i) for t in types for i in items(t, "SegmentedPropertyTypeModifierCodeSequence")]
    sides = [modifier.key for modifier in modifiers if modifier.key in context_group(_LATERALITY)]
    if len(sides) > 1:
        yield Violation("PS3.16 CID 244", where, "a segment of two sides")
    named = [side for ending, side in _SIDES.items() if text(segment, "TrackingID").endswith(ending)]
    if ours and named and sides != named:
        yield Violation("PS3.16 CID 244", where, "the laterality modifier is not the side of the Tracking ID")


def _frames(ds: Dataset, segments: list[int], *, ours: bool) -> Iterator[Violation]:
    frames = items(ds, "PerFrameFunctionalGroupsSequence")
    if numbers(ds, "NumberOfFrames") != (float(len(frames)),):
        yield Violation("PS3.3 C.7.6.16", "NumberOfFrames", f"there are {len(frames)} per-frame groups")
    shared = items(ds, "SharedFunctionalGroupsSequence")
    shown = [_shown(frame) for frame in frames]
    named = {n for numbered in (*shown, *map(_shown, shared)) for n in numbered}
    if text(ds, "SegmentationType") != "LABELMAP" and named - set(segments):
        yield Violation(
            "PS3.3 C.8.20.3.1", "PerFrameFunctionalGroupsSequence", "a frame of a segment that does not exist"
        )
    elif ours and shown != [[n] for n in segments]:
        message = "frame n does not show segment n, as the reports that refer to frames take for granted"
        yield Violation("Hilum identity", "PerFrameFunctionalGroupsSequence", message)


def _shown(group: Dataset) -> list[int]:
    """The segments that a functional group names."""
    named = items(group, "SegmentIdentificationSequence")
    return [int(n) for identification in named for n in numbers(identification, "ReferencedSegmentNumber")]


def _drawn(graphic: Dataset, where: str) -> Iterator[Violation]:
    kind, count = text(graphic, "GraphicType"), len(numbers(graphic, "GraphicData"))
    fewest, most = _POINTS.get(kind, (1, 0))
    stated = numbers(graphic, "NumberOfGraphicPoints")
    if kind not in _POINTS or count % 2 or count < 2 * fewest or (most and count > 2 * most):
        yield Violation("PS3.3 C.10.5.1.2", where, f"{kind or 'nothing'} with {count} coordinates")
    if stated != (count / 2,):
        yield Violation("PS3.3 C.10.5.1.2", where, f"Number of Graphic Points is {stated}, there are {count / 2:g}")

"""Rules between objects: they refer to each other rightly, and nothing supersedes in a circle.

The rule: an object is judged by what it says about another that is at hand; what is not at hand is not judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydicom import Dataset

from dicom_sr.codes import PRIVATE_SCHEME
from dicom_sr.conformance.air import is_ours
from dicom_sr.conformance.chains import check_chains, named_predecessors
from dicom_sr.conformance.content import DOCUMENTS, evidence_references, points_outside
from dicom_sr.conformance.extents import check_extents
from dicom_sr.conformance.general import well_formed
from dicom_sr.conformance.objects import SEGMENTATION, listed_references
from dicom_sr.conformance.tree import Node, Violation, class_name, content_tree, items, numbers, text
from dicom_sr.conformance.words import check_text_reports
from dicom_sr.parameters import PRECISION
from dicom_sr.report.wording import Wording

# What all objects of one study have in common (PS3.3 C.7.1.1, C.7.2.1; IHE AIR 6.5.3).
_OF_THE_STUDY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "IssuerOfPatientID", "StudyDate",
                 "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")  # fmt: skip
_MODEL_RUN = ("MODELRUN", PRIVATE_SCHEME)
_IMAGES = ("IMAGE", "COMPOSITE", "WAVEFORM")


@dataclass(frozen=True)
class _Reference:
    """One reference from an object to another; study and series are empty where the place does not tell them."""

    where: str
    sop_class: str
    instance: str
    series: str = ""
    study: str = ""
    segments: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()


def check_decoded_together(
    objects: Sequence[Dataset], areas: Mapping[str, tuple[int, ...]], wordings: Sequence[Wording]
) -> list[Violation]:
    """Judge decoded objects by each other; the parameters are those of ``check.check_together``."""
    return [
        *_instances(objects),
        *_series(objects),
        *_studies(objects),
        *_references(objects),
        *_outlines(objects),
        *check_chains(objects),
        *_tracking(objects),
        *_precisions(objects),
        *check_extents(objects, areas),
        *check_text_reports(objects, wordings),
    ]


def _instances(objects: Sequence[Dataset]) -> Iterator[Violation]:
    for uid, count in Counter(text(ds, "SOPInstanceUID") for ds in objects).items():
        if count > 1:
            yield Violation("PS3.5 9", "SOPInstanceUID", f"{count} objects have the SOP Instance UID {uid}")


def _series(objects: Sequence[Dataset]) -> Iterator[Violation]:
    """One series has one modality and one study, and ours one SOP class (PS3.3 C.7.3.1)."""
    for uid, members in _grouped(objects, "SeriesInstanceUID").items():
        keywords = ["Modality", "StudyInstanceUID", "FrameOfReferenceUID", "SeriesNumber"]
        keywords += ["SOPClassUID"] if any(is_ours(ds) for ds in members) else []
        for keyword in keywords:
            if len({text(ds, keyword) for ds in members}) > 1:
                yield Violation("PS3.3 C.7.3.1", keyword, f"differs within series {uid}")


def _studies(objects: Sequence[Dataset]) -> Iterator[Violation]:
    """Results say of patient and study what the images say that they are about."""
    for uid, members in _grouped(objects, "StudyInstanceUID").items():
        for keyword in _OF_THE_STUDY:
            ours = {_comparable(ds, keyword) for ds in members if is_ours(ds)} - {None}
            others = {_comparable(ds, keyword) for ds in members if not is_ours(ds)} - {None}
            if ours - others if others else len(ours) > 1:
                yield Violation("AIR 6.5.3", keyword, f"differs within study {uid}")


def _comparable(ds: Dataset, keyword: str) -> str | None:
    """A value as it compares; None where it tells nothing: not valid, or of a character set that nobody declared."""
    value = text(ds, keyword).strip().rstrip("^")
    element = ds.get_item(keyword)
    invalid = element is not None and not well_formed(str(element.VR), value)
    invalid = invalid or (keyword == "PatientSex" and value not in ("M", "F", "O", ""))
    return None if invalid or not (value.isascii() or text(ds, "SpecificCharacterSet")) else value


def _references(objects: Sequence[Dataset]) -> Iterator[Violation]:
    at_hand = {text(ds, "SOPInstanceUID"): ds for ds in objects}
    for ds in objects:
        for reference in _all_references(ds):
            target = at_hand.get(reference.instance)
            if target is not None:
                for message in _wrong(reference, target):
                    yield Violation("PS3.3 C.17.2.3" if reference.study else "PS3.3 10.8", reference.where, message)


def _wrong(reference: _Reference, target: Dataset) -> Iterator[str]:
    said = {
        "SOPClassUID": reference.sop_class,
        "SeriesInstanceUID": reference.series,
        "StudyInstanceUID": reference.study,
    }
    for keyword, value in said.items():
        if value and value != text(target, keyword):
            what = class_name(value) if keyword == "SOPClassUID" else value
            yield f"{reference.instance} has not the {keyword} {what}"
    known = {int(n) for s in items(target, "SegmentSequence") for n in numbers(s, "SegmentNumber")}
    for number in reference.segments:
        if number not in known:
            yield f"{reference.instance} has no segment {number}"
    frames = next(iter(numbers(target, "NumberOfFrames")), 1)
    for number in reference.frames:
        if not 1 <= number <= frames:
            yield f"{reference.instance} has no frame {number}"


def _outlines(objects: Sequence[Dataset]) -> Iterator[Violation]:
    """No point of a graphic lies outside the image at hand, or outside what a Segmentation of it says of its size."""
    sizes: dict[str, tuple[float, float]] = {}
    for ds in objects:
        for size in zip(numbers(ds, "Columns")[:1], numbers(ds, "Rows")[:1], strict=False):
            sizes[text(ds, "SOPInstanceUID")] = size
            for instance in _segmented(ds):
                sizes.setdefault(instance, size)
    for ds in objects:
        if text(ds, "SOPClassUID") in DOCUMENTS:
            yield from points_outside(content_tree(ds), sizes)


def _segmented(ds: Dataset) -> Iterator[str]:
    """The images that a Segmentation was made from, pixel for pixel (PS3.3 C.7.6.16.2.6)."""
    for frame in items(ds, "PerFrameFunctionalGroupsSequence") if text(ds, "SOPClassUID") == SEGMENTATION else ():
        for derivation in items(frame, "DerivationImageSequence"):
            for image in items(derivation, "SourceImageSequence"):
                if text(image, "SpatialLocationsPreserved") == "YES":
                    yield text(image, "ReferencedSOPInstanceUID")


def _all_references(ds: Dataset) -> Iterator[_Reference]:
    for keyword, study, series, sop_class, instance in evidence_references(ds):
        yield _Reference(keyword, sop_class, instance, series, study)
    for series, sop_class, instance in listed_references(ds):
        yield _Reference("ReferencedSeriesSequence", sop_class, instance, series)
    for study, series, sop_class, instance in named_predecessors(ds):
        yield _Reference("PredecessorDocumentsSequence", sop_class, instance, series, study)
    for item in items(ds, "SourceImageSequence"):
        instance = text(item, "ReferencedSOPInstanceUID")
        yield _Reference("SourceImageSequence", text(item, "ReferencedSOPClassUID"), instance)
    for node in _nodes(ds):
        for item in node.references if node.value_type in _IMAGES else ():
            yield _Reference(
                node.path,
                text(item, "ReferencedSOPClassUID"),
                text(item, "ReferencedSOPInstanceUID"),
                segments=tuple(int(n) for n in numbers(item, "ReferencedSegmentNumber")),
                frames=tuple(int(n) for n in numbers(item, "ReferencedFrameNumber")),
            )


def _tracking(objects: Sequence[Dataset]) -> Iterator[Violation]:
    """A group that refers to a segment has its Tracking UID and identifier (PS3.3 C.8.20.2)."""
    segments = {
        (text(ds, "SOPInstanceUID"), int(n)): segment
        for ds in objects
        if text(ds, "SOPClassUID") == SEGMENTATION
        for segment in items(ds, "SegmentSequence")
        for n in numbers(segment, "SegmentNumber")
    }
    for ds in objects:
        for group in (node for node in _nodes(ds) if node.name.key == ("125007", "DCM")):
            for shown in group.named("121191", "121214"):
                for reference in shown.references:
                    number = numbers(reference, "ReferencedSegmentNumber") or numbers(
                        reference, "ReferencedFrameNumber"
                    )
                    key = text(reference, "ReferencedSOPInstanceUID"), int(next(iter(number), 0))
                    if key in segments:
                        yield from _tracked_alike(group, segments[key])


def _tracked_alike(group: Node, segment: Dataset) -> Iterator[Violation]:
    for name, keyword, attribute in (("112040", "UID", "TrackingUID"), ("112039", "TextValue", "TrackingID")):
        said = {text(item.ds, keyword) for item in group.named(name)}
        if said and text(segment, attribute) and text(segment, attribute) not in said:
            yield Violation("PS3.3 C.8.20.2", group.path, f"{attribute} of the group is not that of its segment")


def _precisions(objects: Sequence[Dataset]) -> Iterator[Violation]:
    """A Segmentation of ours names the precision that the report which refers to it names of the same run."""
    drawn = {
        text(ds, "SOPInstanceUID"): ds for ds in objects if text(ds, "SOPClassUID") == SEGMENTATION and is_ours(ds)
    }
    for ds in (ds for ds in objects if is_ours(ds)):
        runs = {
            name: [said for said in _texts(node, "111002") if said.startswith(PRECISION)]
            for node in _nodes(ds)
            if node.name.key == _MODEL_RUN
            for name in _texts(node, "111001")
        }
        referred = (reference.instance for reference in _all_references(ds))
        for segmentation in (drawn[uid] for uid in dict.fromkeys(referred) if runs and uid in drawn):
            for segment in items(segmentation, "SegmentSequence"):
                for algorithm in items(segment, "SegmentationAlgorithmIdentificationSequence"):
                    expected = "; ".join(runs.get(text(algorithm, "AlgorithmName"), []))
                    if text(algorithm, "AlgorithmParameters") != expected:
                        message = f"the report has {expected or 'no lowered precision'} for this run"
                        yield Violation("Hilum identity", "AlgorithmParameters", message)


def _texts(node: Node, name: str) -> list[str]:
    return [text(item.ds, "TextValue") for item in node.named(name)]


def _nodes(ds: Dataset) -> tuple[Node, ...]:
    return tuple(content_tree(ds).walk()) if text(ds, "SOPClassUID") in DOCUMENTS else ()


def _grouped(objects: Sequence[Dataset], keyword: str) -> dict[str, list[Dataset]]:
    grouped: dict[str, list[Dataset]] = {}
    for ds in objects:
        grouped.setdefault(text(ds, keyword), []).append(ds)
    return grouped

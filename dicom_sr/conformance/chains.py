"""Which document speaks now: the documents that replace one form a chain, with one at its end.

The rule: of the documents of ours on one image, and of the preliminary reports of one study, all but one are replaced
by another, and none, over others, replaces itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydicom import Dataset

from dicom_sr.conformance.air import is_ours
from dicom_sr.conformance.content import BASIC_TEXT, DOCUMENTS, KEY_OBJECTS, evidence_references
from dicom_sr.conformance.tree import Violation, items, text
from dicom_sr.predecessor import current

_WHERE = "PredecessorDocumentsSequence"
_NOT_READ_FROM = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", *DOCUMENTS})  # results, as evidence of a report


def check_chains(objects: Sequence[Dataset]) -> Iterator[Violation]:
    """Judge the chains of the decoded documents of ours among `objects`."""
    ours = [ds for ds in objects if is_ours(ds) and text(ds, "SOPClassUID") in DOCUMENTS - {KEY_OBJECTS}]
    yield from _circles(ours)
    subjects: dict[str, list[Dataset]] = {}
    for ds in ours:
        if text(ds, "SOPInstanceUID") and all(map(all, named_predecessors(ds))):  # else it breaks another rule
            subjects.setdefault(_subject(ds), []).append(ds)
    for subject, documents in subjects.items():
        speaking = dict.fromkeys(text(ds, "SOPInstanceUID") for ds in current(documents))
        if len(speaking) > 1:
            message = f"{len(speaking)} documents speak for {subject}, of which none replaces another"
            yield Violation("Hilum identity", _WHERE, f"{message}: {', '.join(speaking)}")


def named_predecessors(ds: Dataset) -> Iterator[tuple[str, str, str, str]]:
    """Study, series, SOP class and SOP instance of each predecessor that a document names."""
    for study in items(ds, _WHERE):
        for series in items(study, "ReferencedSeriesSequence"):
            for document in items(series, "ReferencedSOPSequence"):
                yield (
                    text(study, "StudyInstanceUID"),
                    text(series, "SeriesInstanceUID"),
                    text(document, "ReferencedSOPClassUID"),
                    text(document, "ReferencedSOPInstanceUID"),
                )


def _subject(ds: Dataset) -> str:
    """The study that a preliminary report is of, or the image that a measurement report was made from."""
    if text(ds, "SOPClassUID") == BASIC_TEXT:
        return f"study {text(ds, 'StudyInstanceUID')}"
    images = {instance for *_, kind, instance in evidence_references(ds) if kind not in _NOT_READ_FROM}
    return f"image {' and '.join(sorted(images))} of study {text(ds, 'StudyInstanceUID')}"


def _circles(ours: Sequence[Dataset]) -> Iterator[Violation]:
    replaced_by: dict[str, set[str]] = {}
    for ds in ours:
        for *_rest, instance in named_predecessors(ds):
            replaced_by.setdefault(instance, set()).add(text(ds, "SOPInstanceUID"))
    for instance in sorted(replaced_by):
        if instance in _reached(instance, replaced_by):
            yield Violation("Hilum identity", _WHERE, f"{instance} is replaced, over others, by itself")


def _reached(start: str, replaced_by: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    waiting = list(replaced_by.get(start, ()))
    while waiting:
        uid = waiting.pop()
        if uid not in reached:
            reached.add(uid)
            waiting.extend(replaced_by.get(uid, ()))
    return reached

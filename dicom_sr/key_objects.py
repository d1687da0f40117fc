"""The images of a study that press, as a Key Object Selection Document after TID 2010 (PS3.16), one for each study.

The rule: it points, and decides nothing. It lists the images whose priority is critical or urgent with their results,
says why in words, and is not made where nothing presses.

Its title is (113000, DCM, "Of Interest"): CID 7010 has no "for attention", and its titles "For Referring Provider" and
"For Physician Review" would state what a person has decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage, KeyObjectSelectionDocumentStorage

from dicom_sr import codes
from dicom_sr.content import CONTAINS, HAS_CONCEPT_MOD, code, container, text
from dicom_sr.document import referenced_requests
from dicom_sr.equipment import complete, dataset
from dicom_sr.identity import study_result
from dicom_sr.measurement_report import observer_items
from dicom_sr.references import Reference, by_series, evidence_of, reference_to
from dicom_sr.result_object import result_object
from models.findings import ImageFindings, Priority
from models.study import StudyFindings

SERIES_NUMBER = 9006
OF_INTEREST = Code("113000", "DCM", "Of Interest")
KEY_OBJECT_DESCRIPTION = Code("113012", "DCM", "Key Object Description")
_PRESSING = (Priority.CRITICAL, Priority.URGENT)


def encode_key_objects(
    evidences: Sequence[Dataset], study: StudyFindings, results: Sequence[Dataset], created: datetime, *, number: int
) -> Dataset | None:
    """Encode which images of a study press; None when none does.

    Parameters
    ----------
    evidences
        From ``dicom_sr.evidence``, of every image of `study`.
    results
        The current measurement reports of the study. What one refers to, its image and its Segmentation, is listed
        with it.
    created
        Becomes every date and time of the object.
    number
        Instance Number.

    Raises
    ------
    KeyError
        When an image that presses has no evidence.
    """
    pressing = [image for image in study.images if image.priority in _PRESSING]
    if not pressing:
        return None
    by_uid = {str(evidence.SOPInstanceUID): evidence for evidence in evidences}
    references = list(dict.fromkeys(r for i in pressing for r in _references(by_uid[i.sop_instance_uid], results)))
    leading = study.leading
    evidence = by_uid[leading.sop_instance_uid]
    ds = result_object(
        evidence,
        study_result(study, "KO", [str(report.SOPInstanceUID) for report in results]),
        sop_class_uid=KeyObjectSelectionDocumentStorage,
        modality="KO",
        series_number=SERIES_NUMBER,
        number=number,
    )
    ds.ReferencedPerformedProcedureStepSequence = []
    if requests := referenced_requests(evidence):
        ds.ReferencedRequestSequence = requests
    ds.CurrentRequestedProcedureEvidenceSequence = [by_series(study.study_instance_uid, references)]
    ds.update(_root(leading, description(study), references))
    return complete(ds, evidence, leading, created, "for attention")


def description(study: StudyFindings) -> str:
    """Why the images were selected, in sentences."""
    total = len(study.images)
    return " ".join(
        [
            "For attention: selected by AI, not verified, not for diagnosis.",
            *(
                f"Image {number} of {total} ({image.view.value}) is {image.priority.value}: "
                f"{image.priority_reason.rstrip('.') or 'no reason given'}."
                for number, image in enumerate(study.images, start=1)
                if image.priority in _PRESSING
            ),
        ]
    )


def _root(leading: ImageFindings, why: str, references: Sequence[Reference]) -> Dataset:
    """TID 2010, in the order of its rows."""
    return container(
        None,
        OF_INTEREST,
        [
            code(HAS_CONCEPT_MOD, codes.LANGUAGE, codes.ENGLISH),
            *observer_items(leading),
            text(CONTAINS, KEY_OBJECT_DESCRIPTION, why),
            *(_item(reference) for reference in references),
        ],
        template="2010",
    )


def _item(reference: Reference) -> Dataset:
    """An IMAGE, which a Segmentation is as well, or a COMPOSITE; the template gives it no purpose of reference."""
    report = reference.sop_class_uid == Comprehensive3DSRStorage
    return dataset(
        RelationshipType=CONTAINS,
        ValueType="COMPOSITE" if report else "IMAGE",
        ReferencedSOPSequence=[reference.item()],
    )


def _references(evidence: Dataset, results: Iterable[Dataset]) -> Iterator[Reference]:
    """An image, then its reports and what else they refer to."""
    image = reference_to(evidence)
    yield image
    for report in results:
        if image in (its_evidence := evidence_of(report)):
            yield reference_to(report)
            yield from its_evidence

"""The preliminary report as people read it: a Basic Text SR after TID 2000 (PS3.16), one for each study.

The rule: every line is a sentence of ``dicom_sr.report`` and nothing is added. The title is not that of a measurement
report, so that viewers show the text; no line is a (121071, DCM, Finding), which viewers list as a positive, and most
lines of a report say that something is absent.

Images and measurement reports stand in the Current Requested Procedure Evidence Sequence: both were made for the
procedure that is reported, and Pertinent Other Evidence is for that of other procedures alone (PS3.3 C.17.2.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import BasicTextSRStorage

from dicom_sr import codes, identity
from dicom_sr.content import CONTAINS, HAS_CONCEPT_MOD, INFERRED_FROM, code, container, image, text
from dicom_sr.document import document
from dicom_sr.equipment import complete
from dicom_sr.measurement_report import observer_items
from dicom_sr.predecessor import latest
from dicom_sr.references import Reference
from dicom_sr.report.sentences import Sentence, compose
from dicom_sr.report.wording import Wording
from models.findings import ImageFindings, ModelRun
from models.study import StudyFindings

SERIES_NUMBER = 9004
# The title (CID 7000) and the sections (CID 7001), which are also the names of their lines: viewers print both.
# What people read is in the report's language; Code Meaning may be a translation, the code is what counts (PS3.3 8.3).
X_RAY_REPORT, PROCEDURE, FINDINGS, IMPRESSIONS = "43468-8", "55111-9", "59776-5", "19005-8"
HEADINGS = {
    "en": {
        X_RAY_REPORT: "X-Ray Report",
        PROCEDURE: "Current Procedure Descriptions",
        FINDINGS: "Findings",
        IMPRESSIONS: "Impressions",
    },
    "de": {
        X_RAY_REPORT: "Röntgenbefund",
        PROCEDURE: "Beschreibung der Untersuchung",
        FINDINGS: "Befunde",
        IMPRESSIONS: "Beurteilung",
    },
}
LANGUAGES = {"en": codes.ENGLISH, "de": Code("de", "RFC5646", "German")}


def encode_text_report(
    evidences: Sequence[Dataset],
    study: StudyFindings,
    results: Sequence[Dataset],
    created: datetime,
    *,
    wording: Wording,
    number: int = 1,
    predecessors: Sequence[Reference] = (),
) -> Dataset:
    """Encode the preliminary report of a study.

    Parameters
    ----------
    evidences
        From ``dicom_sr.evidence``, one for each image of the study's findings, in their order.
    results
        The measurement reports that hold the same findings.
    created
        Becomes every date and time of the object.
    number
        Instance Number.
    predecessors
        The preliminary report that this one replaces, then those that it replaced.

    Raises
    ------
    ValueError
        When there is not one header for each image, or no image.
    """
    instances = [image.sop_instance_uid for image in study.images]
    if not instances or [str(header.SOPInstanceUID) for header in evidences] != instances:
        raise ValueError(f"study {study.study_instance_uid}: give one header for each of its {len(instances)} images")
    uids = identity.study_result(
        study,
        "DOC",
        [str(report.SOPInstanceUID) for report in results],
        wording_digest=wording.digest,
        predecessor_uid=latest(predecessors),
    )
    together = _as_one_image(study)
    report = document(
        [*evidences, *results],
        uids,
        _root(evidences, together, study, wording),
        sop_class_uid=BasicTextSRStorage,
        series_number=SERIES_NUMBER,
        number=number,
        predecessors=predecessors,
    )
    return complete(report, evidences[0], together, created, "report")


def _root(evidences: Sequence[Dataset], together: ImageFindings, study: StudyFindings, wording: Wording) -> Dataset:
    """TID 2000, in the order of its rows."""
    report = compose(study, wording)
    title, procedure, findings, impressions = (
        Code(value, "LN", meaning) for value, meaning in HEADINGS[wording.language].items()
    )
    return container(
        None,
        title,
        [
            code(HAS_CONCEPT_MOD, codes.PROCEDURE_REPORTED, codes.PLAIN_CHEST_RADIOGRAPHY),
            code(HAS_CONCEPT_MOD, codes.LANGUAGE, LANGUAGES[wording.language]),
            *observer_items(replace(together, runs=together.runs[:1])),  # the others stand in the sentences
            container(CONTAINS, procedure, list(_technique(report.technique, procedure, evidences, study.unread))),
            container(CONTAINS, findings, [text(CONTAINS, findings, _line(s, wording)) for s in report.findings]),
            container(CONTAINS, impressions, [text(CONTAINS, impressions, s.text) for s in report.impression]),
        ],
        template="2000",
    )


def _technique(
    sentences: Iterable[Sentence], name: Code, evidences: Sequence[Dataset], unread: Sequence[str]
) -> Iterable[Dataset]:
    """The sentence about the images refers to them in its order; each image that was not read has its code."""
    for sentence in sentences:
        shown = [image(INFERRED_FROM, codes.SOURCE_IMAGE, evidence) for evidence in evidences]
        yield text(CONTAINS, name, sentence.text, shown if sentence.region == "images" else ())
    for reason in unread:
        yield code(CONTAINS, codes.NOT_READ, codes.UNREAD[reason])


def _line(sentence: Sentence, wording: Wording) -> str:
    """The sentence after the name of its region: ``Pleura: Pneumothorax on the right is likely (83 %).``."""
    return f"{wording[f'regions.{sentence.region}']}: {sentence.text}" if sentence.region else sentence.text


def _as_one_image(study: StudyFindings) -> ImageFindings:
    """The leading image with the models of all: what equipment and observers of a study are made from."""
    runs: dict[str, ModelRun] = {}
    for run in (run for read in study.images for run in read.runs):
        runs.setdefault(identity.device_uid(run), run)
    return replace(study.leading, runs=tuple(runs.values()))

"""Whether our reports say in words what their structured findings hold: every sentence is made again and compared.

The rule: words that no table of sentences makes of the findings say what the findings do not. The tables are the ones
that are built in, and that of the site where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from pydicom import Dataset

from dicom_sr.codes import UNREAD
from dicom_sr.conformance.air import is_ours
from dicom_sr.conformance.content import BASIC_TEXT, COMPREHENSIVE_3D, evidence_references
from dicom_sr.conformance.tree import Node, Violation, content_tree, text
from dicom_sr.reader import NotOurResult, read_result
from dicom_sr.report.sentences import compose, impression_text
from dicom_sr.report.wording import LANGUAGES, Wording, load_wording
from models.findings import ImageFindings
from models.study import StudyFindings

_RULE, _MESSAGE = "Hilum words", "says what the findings do not, or not all that they do"
_NOT_READ = ("NOTREAD", "99HILUM")
# A finding that this version has no words for, or values that are none.
_WORDLESS = (LookupError, ValueError, ArithmeticError)
_TECHNIQUE, _FINDINGS, _IMPRESSION = "55111-9", "59776-5", "19005-8"


def check_impression(ds: Dataset, root: Node) -> Iterator[Violation]:
    """Judge the impression of a measurement report of ours that keeps all other rules."""
    try:
        findings = read_result(ds)
    except (NotOurResult, ArithmeticError) as error:
        yield Violation("Hilum report", root.path, str(error))
        return
    made = {said for wording in built_in() if (said := _impression(findings, wording))}
    for item in (item for section in root.named("C0034375") for item in section.named("121073")):
        if made and text(item.ds, "TextValue") not in made:
            yield Violation(_RULE, item.path, f"the impression {_MESSAGE}")


def check_text_reports(objects: Sequence[Dataset], wordings: Sequence[Wording]) -> Iterator[Violation]:
    """Judge the decoded preliminary reports of ours of which all measurement reports are among `objects`.

    Parameters
    ----------
    wordings
        Tables besides those that are built in.
    """
    at_hand = {text(ds, "SOPInstanceUID"): ds for ds in objects if is_ours(ds)}
    for ds in objects:
        if not is_ours(ds) or text(ds, "SOPClassUID") != BASIC_TEXT:
            continue
        listed = [instance for *_, kind, instance in evidence_references(ds) if kind == COMPREHENSIVE_3D]
        if listed and all(instance in at_hand for instance in listed):
            root = content_tree(ds)
            study = _study(root, [at_hand[instance] for instance in listed])
            made = [said for wording in (*built_in(), *wordings) if study and (said := _sections(study, wording))]
            for section in root.children:
                allowed = [sections[section.name.value] for sections in made if section.name.value in sections]
                if allowed and _lines(section) not in allowed:
                    yield Violation(_RULE, section.path, f"the section {section.name.value} {_MESSAGE}")


@cache
def built_in() -> tuple[Wording, ...]:
    """The tables of sentences that come with Hilum."""
    return tuple(load_wording(language) for language in LANGUAGES)


def _study(root: Node, reports: Sequence[Dataset]) -> StudyFindings | None:
    """The findings of the reports in the order in which the document names their images; None if that cannot be."""
    nodes = list(root.walk())
    named = [text(r, "ReferencedSOPInstanceUID") for n in nodes if n.value_type == "IMAGE" for r in n.references]
    codes = {(code.value, code.scheme_designator): key for key, code in UNREAD.items()}
    unread = [codes.get(node.value.key, "") for node in nodes if node.name.key == _NOT_READ]
    try:
        images = {image.sop_instance_uid: image for image in map(read_result, reports)}
    except (NotOurResult, ArithmeticError):
        return None  # the report itself is judged elsewhere
    order = dict.fromkeys(named)
    if not all(unread) or set(order) != set(images):
        return None
    return StudyFindings(text(reports[0], "StudyInstanceUID"), tuple(images[uid] for uid in order), tuple(unread))


def _impression(findings: ImageFindings, wording: Wording) -> str:
    try:
        return impression_text(findings, wording)
    except _WORDLESS:
        return ""


def _sections(study: StudyFindings, wording: Wording) -> Mapping[str, list[str]]:
    try:
        report = compose(study, wording)
        findings = [f"{wording[f'regions.{s.region}']}: {s.text}" if s.region else s.text for s in report.findings]
    except _WORDLESS:
        return {}
    technique, impression = ([s.text for s in section] for section in (report.technique, report.impression))
    return {_TECHNIQUE: technique, _FINDINGS: findings, _IMPRESSION: impression}


def _lines(section: Node) -> list[str]:
    return [text(node.ds, "TextValue") for node in section.children if node.value_type == "TEXT"]

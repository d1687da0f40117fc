"""Our own results as files, and the changes that break them: what the tests of the checker are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache
from io import BytesIO

import numpy as np
import pydicom
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence
from test_measurement_report import CREATED, encoded, file_bytes, findings_for, source

from dicom_sr.evidence import evidence
from dicom_sr.heat_map import encode_heat_map
from dicom_sr.key_objects import encode_key_objects
from dicom_sr.presentation_state import encode_presentation_state
from dicom_sr.report.wording import load_wording
from dicom_sr.text_report import encode_text_report
from models.findings import SaliencyMap
from models.study import StudyFindings

KINDS = ("SR", "SEG", "TEXT", "KO", "PR", "SC")
Change = Callable[[Dataset], None]


@cache
def files() -> dict[str, bytes]:
    """One object of each kind that we write, as a file, and the radiograph that they are about."""
    ds = source()
    maps = (SaliencyMap("lung_opacity", np.eye(8, dtype=np.float32), "chest_findings"),)
    findings = replace(findings_for(ds), saliency=maps)
    study = StudyFindings(findings.study_instance_uid, (findings,))
    header, made = evidence(ds, findings), encoded(ds)
    reports = [made.measurement_report]
    gray = np.full((300, 260), 0.5, dtype=np.float32)
    objects = {
        "image": ds,
        "SR": made.measurement_report,
        "SEG": made.segmentation,
        "TEXT": encode_text_report([header], study, reports, CREATED, wording=load_wording("en")),
        "KO": encode_key_objects([header], study, reports, CREATED, number=1),
        "PR": encode_presentation_state(header, findings, CREATED, number=1),
        "SC": encode_heat_map(header, findings, gray, CREATED, number=1),
    }
    return {kind: file_bytes(made) for kind, made in objects.items() if made is not None}


def read(kind: str) -> Dataset:
    return dcmread(BytesIO(files()[kind]))


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def nodes(ds: Dataset) -> Iterator[tuple[Dataset, Dataset]]:
    """Each content item with its parent, in document order."""
    for item in ds.get("ContentSequence", ()):
        yield ds, item
        yield from nodes(item)


def name_of(item: Dataset) -> str:
    named = item.get("ConceptNameCodeSequence")
    return str(named[0].CodeValue) if named else ""


def find(ds: Dataset, name: str, value_type: str = "") -> Dataset:
    """The first content item with this concept name."""
    found = (i for _, i in nodes(ds) if name_of(i) == name and value_type in ("", i.ValueType))
    return next(found)


def group_of(ds: Dataset, key: str) -> Dataset:
    """The measurement group with this tracking identifier."""
    return next(p for p, i in nodes(ds) if name_of(i) == "112039" and key in i.TextValue)


def state_of(group: Dataset) -> Dataset:
    """The CODE that tells the state of a finding."""
    return next(
        i for i in group.ContentSequence if i.ValueType == "CODE" and i.RelationshipType == "CONTAINS"
        and name_of(i) not in ("121071", "CAUTION", "REASON")
    )  # fmt: skip


def drop(ds: Dataset, *names: str) -> None:
    """Remove every content item with one of these concept names."""
    for parent in [ds, *(i for _, i in nodes(ds))]:
        if "ContentSequence" in parent:
            parent.ContentSequence = [i for i in parent.ContentSequence if name_of(i) not in names]


def add(parent: Dataset, relationship: str, value_type: str, name: Dataset, **values: object) -> None:
    item = Dataset()
    item.RelationshipType, item.ValueType, item.ConceptNameCodeSequence = relationship, value_type, [name]
    for keyword, value in values.items():
        setattr(item, keyword, value)
    parent.ContentSequence = [*parent.ContentSequence, item]


def unchecked(ds: Dataset, keyword: str, value: object) -> None:
    """Set a value that pydicom would refuse."""
    with pydicom.config.disable_value_validation():
        setattr(ds, keyword, value)


def set_value(item: Dataset, *code: str) -> None:
    item.ConceptCodeSequence = [coded(*code)]


def measured(item: Dataset) -> Dataset:
    return item.MeasuredValueSequence[0]


def first_evidence(ds: Dataset) -> Dataset:
    return ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]


def reworded(ds: Dataset, name: str, *code: str) -> None:
    set_value(find(ds, name, "CODE"), *code)


def move(ds: Dataset, name: str, relationship: str) -> None:
    find(ds, name).RelationshipType = relationship


def repeat(ds: Dataset, name: str) -> None:
    parent, item = next((p, i) for p, i in nodes(ds) if name_of(i) == name)
    parent.ContentSequence = [*parent.ContentSequence, deepcopy(item)]


def equip(ds: Dataset, keyword: str) -> None:
    delattr(ds.ContributingEquipmentSequence[0], keyword)


def every(ds: Dataset, name: str, change: Change) -> None:
    for _, item in nodes(ds):
        if name_of(item) == name:
            change(item)


def with_predecessor(ds: Dataset, purpose: tuple[str, str, str], instance: str) -> None:
    study, series, document = Dataset(), Dataset(), Dataset()
    document.ReferencedSOPClassUID, document.ReferencedSOPInstanceUID = ds.SOPClassUID, instance
    document.PurposeOfReferenceCodeSequence = [coded(*purpose)]
    series.SeriesInstanceUID, series.ReferencedSOPSequence = "2.25.7", [document]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = ds.StudyInstanceUID, [series]
    ds.PredecessorDocumentsSequence = [study]


def present_but_unfound(ds: Dataset) -> None:
    group = group_of(ds, "lung_opacity")
    group.ContentSequence = [i for i in group.ContentSequence if name_of(i) != "121071"]


def absent_but_found(ds: Dataset) -> None:
    add(group_of(ds, "effusion"), "CONTAINS", "CODE", coded("121071", "DCM", "Finding"),
        ConceptCodeSequence=[coded("60046008", "SCT", "Pleural effusion")])  # fmt: skip


def two_states(ds: Dataset) -> None:
    add(group_of(ds, "effusion"), "CONTAINS", "CODE", coded("19242006", "SCT", "Pulmonary edema"),
        ConceptCodeSequence=[coded("272519000", "SCT", "Absent")])  # fmt: skip


def reasonless(ds: Dataset) -> None:
    group = group_of(ds, "pneumothorax")
    group.ContentSequence = [i for i in group.ContentSequence if name_of(i) != "REASON"]


def certain_without_evaluation(ds: Dataset) -> None:
    certainty = deepcopy(find(group_of(ds, "effusion"), "111012"))
    group_of(ds, "pneumothorax").ContentSequence.append(certainty)


def same_tracking(ds: Dataset) -> None:
    uids = [i for _, i in nodes(ds) if name_of(i) == "112040"]
    uids[1].UID = uids[0].UID


def both_frame_and_segment(ds: Dataset) -> None:
    reference = find(ds, "121214").ReferencedSOPSequence[0]
    reference.ReferencedFrameNumber = reference.ReferencedSegmentNumber = 1


def segment_for_frame(ds: Dataset) -> None:
    find(ds, "121214").ConceptNameCodeSequence = [coded("121191", "DCM", "Referenced Segment")]


def region_beside_segment(ds: Dataset) -> None:
    group = next(p for p, i in nodes(ds) if name_of(i) == "121214")
    region = deepcopy(find(ds, "111030", "SCOORD"))
    region.RelationshipType = "CONTAINS"
    group.ContentSequence = [*group.ContentSequence, region]


def unsourced(ds: Dataset) -> None:
    group = next(p for p, i in nodes(ds) if name_of(i) == "121214")
    group.ContentSequence = [i for i in group.ContentSequence if name_of(i) != "121233"]


def unselected(ds: Dataset) -> None:
    del find(ds, "111030", "SCOORD").ContentSequence


def unlisted(ds: Dataset) -> None:
    find(ds, "260753009", "IMAGE").ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "2.25.4"


def misclassed(ds: Dataset) -> None:
    reference = find(ds, "260753009", "IMAGE").ReferencedSOPSequence[0]
    reference.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"


def listed_twice(ds: Dataset) -> None:
    series = first_evidence(ds)
    series.ReferencedSOPSequence = [*series.ReferencedSOPSequence, deepcopy(series.ReferencedSOPSequence[0])]


def pointing_nowhere(ds: Dataset) -> None:
    number = next(i for _, i in nodes(ds) if name_of(i) == "CTR")
    item = Dataset()
    item.RelationshipType, item.ReferencedContentItemIdentifier = "INFERRED FROM", [1, 99]
    number.ContentSequence = [*number.ContentSequence, item]


def emptied(ds: Dataset) -> None:
    drop(ds, "126010", "C0034375")


def hidden_in_a_section(ds: Dataset) -> None:
    add(ds, "CONTAINS", "CONTAINER", coded("121070", "DCM", "Findings"), ContinuityOfContent="SEPARATE")


def code_item(ds: Dataset) -> Dataset:
    """The code of a finding's site, which no template fixes."""
    return find(ds, "363698007").ConceptCodeSequence[0]


def private_code(ds: Dataset) -> Dataset:
    return find(ds, "CTR").ConceptNameCodeSequence[0]


def unidentified(ds: Dataset) -> None:
    kept = [i for i in ds.CodingSchemeIdentificationSequence if i.CodingSchemeDesignator != "99HILUM"]
    ds.CodingSchemeIdentificationSequence = kept


def scheme(ds: Dataset, designator: str) -> Dataset:
    return next(i for i in ds.CodingSchemeIdentificationSequence if i.CodingSchemeDesignator == designator)


def authored(ds: Dataset) -> None:
    author = Dataset()
    author.ObserverType, author.PersonName = "PSN", "Doe^Jane"
    ds.AuthorObserverSequence = [author]


def verified(ds: Dataset) -> None:
    ds.VerifyingObserverSequence = [Dataset()]


def other_group_template(ds: Dataset) -> None:
    group_of(ds, "effusion").ContentTemplateSequence[0].TemplateIdentifier = "1502"


def segment(ds: Dataset, n: int = 0) -> Dataset:
    return ds.SegmentSequence[n]


def frames(ds: Dataset) -> Sequence:
    return ds.PerFrameFunctionalGroupsSequence


def graphic(ds: Dataset) -> Dataset:
    return ds.GraphicAnnotationSequence[0].GraphicObjectSequence[0]


def one_colour(ds: Dataset) -> None:
    segment(ds, 1).RecommendedDisplayCIELabValue = list(segment(ds).RecommendedDisplayCIELabValue)


def foreign_frame(ds: Dataset) -> None:
    frames(ds)[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9


def one_segment(ds: Dataset) -> None:
    for frame in frames(ds):
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 1


def side_swapped(ds: Dataset) -> None:
    kind = segment(ds).SegmentedPropertyTypeCodeSequence[0]
    kind.SegmentedPropertyTypeModifierCodeSequence = [coded("7771000", "SCT", "Left")]


def key_with_purpose(ds: Dataset) -> None:
    image = next(i for _, i in nodes(ds) if i.ValueType == "IMAGE")
    image.ConceptNameCodeSequence = [coded("121112", "DCM", "Source of Measurement")]


def unlisted_series(ds: Dataset) -> None:
    ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = "2.25.6"


def unseen_evidence(ds: Dataset) -> None:
    extra = deepcopy(first_evidence(ds).ReferencedSOPSequence[0])
    extra.ReferencedSOPInstanceUID = "2.25.11"
    first_evidence(ds).ReferencedSOPSequence = [*first_evidence(ds).ReferencedSOPSequence, extra]


def evaluation(ds: Dataset, name: str) -> Dataset:
    """The first item of the run as a whole with this concept name."""
    section = next(i for i in ds.ContentSequence if name_of(i) == "C0034375")
    return next(i for i in section.ContentSequence if name_of(i) == name)


def without_evaluations(ds: Dataset, name: str) -> None:
    section = next(i for i in ds.ContentSequence if name_of(i) == "C0034375")
    section.ContentSequence = [i for i in section.ContentSequence if name_of(i) != name]


def unit(item: Dataset, value: str, meaning: str) -> None:
    measured(item).MeasurementUnitsCodeSequence = [coded(value, "UCUM", meaning)]


def private(value: str, meaning: str) -> Dataset:
    item = coded(value, "99HILUM", meaning)
    item.CodingSchemeVersion = "1"
    return item


def failed_run(ds: Dataset, name: str = "lung_fields") -> None:
    """The run of a model that found no finding fails, with a reason."""
    for _, item in nodes(ds):
        if name_of(item) == "MODELRUN" and any(i.get("TextValue") == name for i in item.ContentSequence):
            item.ConceptCodeSequence = [private("FAILED", "Analysis failed")]
            add(item, "HAS PROPERTIES", "CODE", private("REASON", "Reason"),
                ConceptCodeSequence=[private("MODELFAILED", "The model failed")])  # fmt: skip


def precise(ds: Dataset, precision: str) -> None:
    """The first run says in which precision it was."""
    parameter = coded("111002", "DCM", "Algorithm Parameters")
    add(evaluation(ds, "MODELRUN"), "HAS CONCEPT MOD", "TEXT", parameter, TextValue=f"precision={precision}")


def stateless(ds: Dataset) -> None:
    group = group_of(ds, "edema")
    group.ContentSequence = [i for i in group.ContentSequence if i is not state_of(group)]


def present_and_absent(ds: Dataset) -> None:
    """A second group says of the opacity, at 20 %, that it is absent."""
    again = deepcopy(group_of(ds, "lung_opacity"))
    again.ContentSequence = [i for i in again.ContentSequence if name_of(i) != "121071"]
    find(again, "112040").UID = "2.25.77"
    measured(find(again, "111012")).NumericValue = "20"
    state_of(again).ConceptCodeSequence = [coded("272519000", "SCT", "Absent")]
    parent = next(p for p, i in nodes(ds) if i is group_of(ds, "effusion"))
    parent.ContentSequence = [*parent.ContentSequence, again]


def other_side(ds: Dataset, key: str, side: Dataset) -> None:
    site = find(group_of(ds, key), "363698007")
    site.ContentSequence = []
    add(site, "HAS CONCEPT MOD", "CODE", coded("272741003", "SCT", "Laterality"), ConceptCodeSequence=[side])


def positions_of(ds: Dataset, value_type: str) -> list[list[int]]:
    """Where the items of a value type stand, as (1, 5, 2)."""

    def below(item: Dataset, here: list[int]) -> Iterator[list[int]]:
        for number, child in enumerate(item.get("ContentSequence", ()), start=1):
            if child.get("ValueType") == value_type:
                yield [*here, number]
            yield from below(child, [*here, number])

    return list(below(ds, [1]))


def infer(ds: Dataset, here: list[int], there: list[int]) -> None:
    """Let the item at one position be inferred from that at another."""
    item, reference = ds, Dataset()
    for step in here[1:]:
        item = item.ContentSequence[step - 1]
    reference.RelationshipType, reference.ReferencedContentItemIdentifier = "INFERRED FROM", there
    item.ContentSequence = [*item.get("ContentSequence", ()), reference]


def looping(ds: Dataset) -> None:
    one, two = positions_of(ds, "NUM")[2:4]
    infer(ds, one, two)
    infer(ds, two, one)


# --- what a report says in two places

LEFT, RIGHT = ("7771000", "SCT", "Left"), ("24028007", "SCT", "Right")
RECTANGLE, LENGTH = "RectangleROI", "Length"


def number(ds: Dataset, key: str, name: str, value: str) -> None:
    """Another value of a NUM in the group with this tracking identifier."""
    measured(find(group_of(ds, key), name)).NumericValue = value


def priority(ds: Dataset, *code: str) -> None:
    item = coded(*code)
    if code[1] == "99HILUM":
        item.CodingSchemeVersion = "1"
    evaluation(ds, "260870009").ConceptCodeSequence = [item]


def reason_why_not(ds: Dataset, key: str) -> None:
    group_of(ds, key).ContentSequence.append(deepcopy(find(group_of(ds, "pneumothorax"), "REASON")))


def boxes_on_the_right(ds: Dataset) -> None:
    """Every box around the opacity, which is on the left."""
    for parent, item in nodes(ds):
        if name_of(item) == "112039" and RECTANGLE in item.TextValue:
            find(parent, "272741003").ConceptCodeSequence = [coded(*RIGHT)]


def reshaped(ds: Dataset, points: list[float]) -> None:
    find(group_of(ds, RECTANGLE), "111030").GraphicData = points


def other_site(ds: Dataset, key: str) -> None:
    set_value(find(group_of(ds, key), "363698007"), "80891009", "SCT", "Heart")


def second_certainty(ds: Dataset) -> None:
    again = deepcopy(find(group_of(ds, "effusion"), "111012"))
    measured(again).NumericValue = "5"
    group_of(ds, "effusion").ContentSequence.append(again)


def other_lines(ds: Dataset) -> None:
    find(find(group_of(ds, "cardiothoracic_ratio"), "CTR"), "111030").GraphicData = [10.0, 10.0, 20.0, 10.0]


def without_group(ds: Dataset, key: str) -> None:
    parent, group = next((p, i) for p, i in nodes(ds) if i is group_of(ds, key))
    parent.ContentSequence = [i for i in parent.ContentSequence if i is not group]


def scaled_diameters(ds: Dataset) -> None:
    """Twice as long, both of them, and the ratio as it was."""
    for _, item in nodes(ds):
        if name_of(item) == "81827009":
            measured(item).NumericValue = str(2 * float(measured(item).NumericValue))


def said(ds: Dataset, old: str, new: str) -> None:
    """Other words in a sentence, wherever it stands."""
    changed = 0
    for _, item in nodes(ds):
        if item.ValueType == "TEXT" and old in item.TextValue:
            item.TextValue, changed = item.TextValue.replace(old, new), changed + 1
    assert changed, f"nothing says {old!r}"


def unsaid(ds: Dataset, section: str) -> None:
    """A section without its first sentence."""
    del next(i for i in ds.ContentSequence if name_of(i) == section).ContentSequence[0]


def empty_outline(ds: Dataset) -> None:
    ds.PixelData = bytes(len(ds.PixelData))

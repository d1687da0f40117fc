"""Which images are read and which are refused, from their headers alone."""

from __future__ import annotations

import re

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from models.agreement import confirm
from models.findings import View
from models.hanging import AS_STORED, Hanging
from models.header_terms import DX_FOR_PROCESSING, SECONDARY_CAPTURE
from models.phantom import chest
from models.pixel_gate import CLASSES, GateAnswer
from models.refusal import ImageRefused, Refusal
from models.selection import Policy, select
from orthanc_plugin.commands.modality import Exposure, radiograph
from orthanc_plugin.settings import REPOSITORY

PIXELS = chest(1, rows=64, columns=64).pixels


def header(**changes: object) -> Dataset:
    ds = radiograph(PIXELS, Exposure(modality="CR", seed="selection"))
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def without_view(**changes: object) -> Dataset:
    return header(ViewPosition=None, SeriesDescription="", PatientOrientation=None, **changes)


def view_code(value: str, scheme: str = "SCT") -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "view"
    return Sequence([item])


@pytest.mark.parametrize(
    ("ds", "view"),
    [
        (header(), View.PA),
        (header(ViewPosition="AP"), View.AP),
        (header(ViewPosition=" ap portable "), View.AP),
        (header(ViewPosition="", ViewCodeSequence=view_code("399348003")), View.AP),
        (header(ViewPosition="LL", ViewCodeSequence=view_code("272479007")), View.PA),
        (without_view(StudyDescription="Tórax de frente"), View.FRONTAL),
        (without_view(StudyDescription="Thorax P.A."), View.PA),
        (without_view(StudyDescription="Chest", PatientAge="040Y", ProtocolName="Chest AP supine"), View.AP),
        (header(ViewPosition="", SeriesDescription="", PatientOrientation=["L", "F"]), View.FRONTAL),
        (header(SOPClassUID=SECONDARY_CAPTURE, Modality="OT"), View.PA),
        (header(BodyPartExamined="TÓRAX"), View.PA),
        (header(BodyPartExamined="T?RAX"), View.PA),
        (header(ViewPosition="", ViewCodeSequence=view_code("R-40888", "SRT")), View.PA),
        (header(BodyPartExamined=""), View.PA),
    ],
)
def test_frontal_chest_radiographs_are_read(ds: Dataset, view: View) -> None:
    assert select(ds).view is view


@pytest.mark.parametrize(
    ("ds", "code"),
    [
        (header(SOPClassUID=UID("1.2.840.10008.5.1.4.1.1.2"), Modality="CT"), Refusal.MODALITY),
        (header(Modality="MG"), Refusal.MODALITY),
        (header(SOPClassUID=DX_FOR_PROCESSING), Refusal.INTENT),
        (header(PresentationIntentType="FOR PROCESSING"), Refusal.INTENT),
        (header(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), Refusal.INTENT),
        (header(ImageType=["DERIVED", "PRIMARY", "BONE_SUPPRESSED"]), Refusal.INTENT),
        (header(NumberOfFrames=2), Refusal.MULTI_FRAME),
        (header(ViewPosition="LL"), Refusal.VIEW),
        (header(ViewPosition="RAO"), Refusal.VIEW),
        (header(ViewPosition="", ViewCodeSequence=view_code("399173006")), Refusal.VIEW),
        (header(ViewPosition="", SeriesDescription="", PatientOrientation=["A", "F"]), Refusal.VIEW),
        (without_view(StudyDescription="Thorax seitlich"), Refusal.VIEW),
        (without_view(StudyDescription="Radiographie du thorax, profil"), Refusal.VIEW),
        (header(BodyPartExamined="HIP", StudyDescription="Hip", SeriesDescription="Hip AP"), Refusal.BODY_PART),
        (header(PatientAge="017Y"), Refusal.AGE),
        (header(PatientAge="030D"), Refusal.AGE),
        (header(PatientAge=None, PatientBirthDate="20200101"), Refusal.AGE),
    ],
)
def test_everything_else_is_refused_with_its_code(ds: Dataset, code: Refusal) -> None:
    with pytest.raises(ImageRefused) as refused:
        select(ds)
    assert refused.value.code is code


def test_an_ap_view_and_an_unknown_age_are_cautions() -> None:
    assert select(header(ViewPosition="AP", PatientAge="")).cautions == ("age_unknown", "ap_view")


def test_the_minimum_age_is_the_site_s() -> None:
    assert select(header(PatientAge="016Y"), Policy(minimum_age=16)).view is View.PA


def test_a_refusal_never_quotes_the_patient() -> None:
    ds = header(PatientName="CANARY^Name", PatientID="CANARY", AccessionNumber="CANARY", ViewPosition="LL")
    with pytest.raises(ImageRefused) as refused:
        select(ds)
    assert "CANARY" not in str(refused.value)


def test_a_silent_header_leaves_the_view_to_the_pixels() -> None:
    silent = select(without_view(StudyDescription="Radiograph"))
    assert silent.view is None
    with pytest.raises(ImageRefused) as refused:
        confirm(silent, None)
    assert refused.value.code is Refusal.VIEW_UNKNOWN
    seen = confirm(silent, GateAnswer(0.97, "frontal", accepted=True))
    assert seen.view is View.FRONTAL
    assert "view_from_pixels" in seen.cautions


def test_pixels_that_hardly_pass_are_a_caution() -> None:
    doubted = confirm(select(header()), GateAnswer(0.3, "mirrored", accepted=True, doubtful=True))
    assert "pixels_doubtful" in doubted.cautions
    assert doubted.view is View.PA


@pytest.mark.parametrize("shows", [name for name in CLASSES if name != "frontal"])
def test_pixels_in_conflict_with_the_header_refuse_the_image(shows: str) -> None:
    with pytest.raises(ImageRefused) as refused:
        confirm(select(header()), GateAnswer(0.02, shows, accepted=False))
    expected = {"lateral": Refusal.VIEW_CONFLICT, "other": Refusal.VIEW_CONFLICT, "child": Refusal.AGE,
                "inverted": Refusal.INVERTED}  # fmt: skip
    assert refused.value.code is expected.get(shows, Refusal.ORIENTATION)
    assert refused.value.evidence[-1].source == "pixels"
    assert any(e.source == "ViewPosition" for e in refused.value.evidence)


def test_body_part_examined_alone_is_not_believed() -> None:
    chosen = select(header(BodyPartExamined="SKULL", StudyDescription="", SeriesDescription=""))
    assert chosen.body_part_doubtful
    assert "body_part_doubtful" in confirm(chosen, GateAnswer(0.99, "frontal", accepted=True)).cautions
    with pytest.raises(ImageRefused) as refused:
        confirm(chosen, GateAnswer(0.01, "other", accepted=False))
    assert refused.value.code is Refusal.BODY_PART


@pytest.mark.parametrize(
    ("orientation", "hanging"),
    [
        (["L", "F"], AS_STORED),
        (["R", "F"], Hanging(flip_columns=True)),
        (["L", "H"], Hanging(flip_rows=True)),
        (["R", "H"], Hanging(flip_rows=True, flip_columns=True)),
        (["F", "L"], Hanging(transpose=True)),
        (["H", "R"], Hanging(transpose=True, flip_rows=True, flip_columns=True)),
        (["LA", "FR"], AS_STORED),
        (["L", "R"], AS_STORED),  # contradicts itself: nothing is turned on such evidence
        (["", ""], AS_STORED),
    ],
    ids=str,
)
def test_only_patient_orientation_turns_an_image(orientation: list[str], hanging: Hanging) -> None:
    chosen = select(header(PatientOrientation=orientation))
    assert chosen.hanging == hanging
    assert any("turned" in e.says for e in chosen.evidence) is (not hanging.as_stored)


def test_a_site_may_read_children_with_a_caution() -> None:
    chosen = select(header(PatientAge="009Y"), Policy(read_children=True))
    assert "age_outside_validation" in chosen.cautions


def test_a_bedside_radiograph_and_an_extreme_exposure_are_cautions() -> None:
    ds = header(SeriesDescription="Thorax AP im Bett", DeviationIndex="-4.2", ViewPosition="AP")
    assert {"bedside", "extreme_exposure", "ap_view"} <= set(select(ds).cautions)


def test_what_was_looked_at_is_kept_in_order() -> None:
    evidence = [e.source for e in select(header(ViewPosition="AP")).evidence]
    assert evidence == ["SOPClassUID", "Modality", "ViewPosition"]
    with pytest.raises(ImageRefused) as refused:
        select(header(ViewPosition="LL"))
    assert [str(e) for e in refused.value.evidence][-1] == "ViewPosition LL"


def test_the_readme_explains_every_code() -> None:
    table = (REPOSITORY / "README.md").read_text("utf-8")
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    explained = {code for line in rows for code in re.findall(r"`([a-z_]+)`", line.split("|")[1])}
    assert {code.value for code in Refusal} <= explained

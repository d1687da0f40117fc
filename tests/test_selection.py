"""Which images are read and which are refused, from their headers alone."""

from __future__ import annotations

import re

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from models.findings import View
from models.phantom import chest
from models.selection import DX_FOR_PROCESSING, SECONDARY_CAPTURE, ImageRefused, Refusal, select
from orthanc_plugin.modality import Exposure, radiograph
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
        (without_view(StudyDescription="Radiograph"), Refusal.VIEW_UNKNOWN),
        (header(BodyPartExamined="HIP", StudyDescription="Hip", SeriesDescription="Hip AP"), Refusal.BODY_PART),
        (header(PatientOrientation=["R", "F"]), Refusal.ORIENTATION),
        (header(PatientOrientation=["L", "H"]), Refusal.ORIENTATION),
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
    assert select(header(PatientAge="016Y"), minimum_age=16).view is View.PA


def test_a_refusal_never_quotes_the_patient() -> None:
    ds = header(PatientName="CANARY^Name", PatientID="CANARY", AccessionNumber="CANARY", ViewPosition="LL")
    with pytest.raises(ImageRefused) as refused:
        select(ds)
    assert "CANARY" not in str(refused.value)


def test_the_readme_explains_every_code() -> None:
    table = (REPOSITORY / "README.md").read_text("utf-8")
    explained = set(re.findall(r"`([a-z_]+)`", table))
    assert {code.value for code in Refusal} <= explained

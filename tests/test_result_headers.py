"""Headers that the standard does not allow: results are still made, and say nothing that is not allowed."""

from __future__ import annotations

import pytest
from pydicom import Dataset, config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag
from test_measurement_report import encoded, source

from dicom_sr.conformance.check import check


def with_value(keyword: str, value: object) -> Dataset:
    ds = source()
    before = config.settings.writing_validation_mode
    config.settings.writing_validation_mode = config.IGNORE
    try:
        setattr(ds, keyword, value)
    finally:
        config.settings.writing_validation_mode = before
    return ds


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientSex", "W"), ("PatientSex", "Female"), ("PatientSex", "f"), ("StudyDate", "2026-01-02"),
        ("StudyTime", "noon"), ("PatientBirthDate", "19xx"), ("PatientAge", "sixty"),
        ("AccessionNumber", ["one", "two"]),
    ],
)  # fmt: skip
def test_a_value_that_the_standard_does_not_allow_is_left_out(keyword: str, value: object) -> None:
    results = encoded(with_value(keyword, value))
    for result in (results.measurement_report, results.segmentation):
        assert result is not None
        assert not result.get(keyword)
        assert result.PatientName == source().PatientName


@pytest.mark.parametrize(
    ("keyword", "written"),
    [("PatientSize", b"1,7577"), ("PatientWeight", b"70 kg!"), ("ImagerPixelSpacing", b"0,1399\\0,1399"),
     ("PixelAspectRatio", b"12to1")],
)  # fmt: skip
def test_a_number_that_is_none_costs_no_result(keyword: str, written: bytes) -> None:
    ds = source()
    tag = tag_for_keyword(keyword)
    assert tag is not None
    value = RawDataElement(BaseTag(tag), dictionary_VR(tag), len(written), written, 0, False, True)
    ds.pop(tag, None)
    ds._dict[BaseTag(tag)] = value  # as it comes from a file: read when it is asked for
    results = encoded(ds)
    assert not results.measurement_report.get(keyword)
    assert check(results.measurement_report) == []


@pytest.mark.parametrize("offset", ["-1300", "-0000", "+1459", "UTC", "+2"])
def test_a_time_zone_that_is_none_is_left_out(offset: str) -> None:
    results = encoded(with_value("TimezoneOffsetFromUTC", offset))
    assert "TimezoneOffsetFromUTC" not in results.measurement_report


@pytest.mark.parametrize("orientation", [["l", "f"], ["LEFT", "FOOT"], ["L", ""]])
def test_an_orientation_that_is_none_is_taken_as_upright(orientation: list[str]) -> None:
    results = encoded(with_value("PatientOrientation", orientation))
    assert results.segmentation is not None
    assert list(results.segmentation.PatientOrientation) == ["L", "F"]


def test_what_is_too_long_or_wrong_within_a_sequence_is_left_out() -> None:
    ds = with_value("StudyDescription", "x" * 70)
    request = with_value("RequestedProcedureID", "y" * 20)
    item = Dataset()
    item.add(request["RequestedProcedureID"])
    item.RequestedProcedureDescription = "Chest"
    ds.RequestAttributesSequence = [item]
    results = encoded(ds)
    report = results.measurement_report
    assert not report.get("StudyDescription")
    assert report.ReferencedRequestSequence[0].RequestedProcedureID == ""
    assert report.ReferencedRequestSequence[0].RequestedProcedureDescription == "Chest"
    assert check(report) == []


def test_the_patient_is_copied_exactly_whatever_it_is() -> None:
    results = encoded(with_value("PatientID", ["one", "two"]))
    assert list(results.measurement_report.PatientID) == ["one", "two"]


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("PatientSex", "F"), ("StudyDate", "20260203"), ("StudyTime", "112233.5"), ("PatientID", "7")],
)
def test_a_value_that_the_standard_allows_is_kept(keyword: str, value: str) -> None:
    results = encoded(with_value(keyword, value))
    assert str(results.measurement_report[keyword].value) == value

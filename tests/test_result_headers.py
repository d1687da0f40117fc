"""Headers that the standard does not allow: results are still made, and say nothing that is not allowed."""

from __future__ import annotations

import pytest
from pydicom import Dataset, config
from test_measurement_report import encoded, source


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

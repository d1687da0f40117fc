"""Files of results: the bytes that pydicom makes, of every kind of result and of what is left to it."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import pytest
from awkward_sources import DAMAGED, SOURCES, findings_for, from_file, results_for
from pydicom import DataElement, Dataset, dcmwrite
from pydicom.uid import ImplicitVRLittleEndian

from dicom_sr import file_format
from dicom_sr.file_format import file_of


def by_pydicom(ds: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def report() -> Dataset:
    ds = SOURCES["DX"]()
    return results_for(ds, findings_for(ds))["measurement report"]


@pytest.mark.parametrize("name", SOURCES | DAMAGED)
@pytest.mark.filterwarnings("ignore")
def test_every_result_has_the_bytes_that_pydicom_gives_it_and_is_not_left_to_pydicom(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = (SOURCES | DAMAGED)[name]()
    results = results_for(ds, findings_for(ds))
    expected = {kind: by_pydicom(made) for kind, made in results.items()}
    whole: list[Dataset] = []

    def written_by_pydicom(made: Dataset) -> bytes:
        whole.extend([made] * bool(len(made)))
        return by_pydicom(made)

    monkeypatch.setattr(file_format, "_by_pydicom", written_by_pydicom)
    assert {kind: file_of(made) for kind, made in results.items()} == expected
    assert whole == []


def _longer_than_its_length_field(ds: Dataset) -> None:
    ds.TextComments = "x" * 70_000  # LT


def _of_undefined_length(ds: Dataset) -> None:
    ds["ContentSequence"].is_undefined_length = True
    ds.ContentSequence[0].is_undefined_length_sequence_item = True


def _of_ambiguous_representation(ds: Dataset) -> None:
    ds.add(DataElement("SmallestImagePixelValue", "US or SS", 7))


def _with_a_character_set_within(ds: Dataset) -> None:
    ds.ContentSequence[0].SpecificCharacterSet = "ISO_IR 100"
    ds.ContentSequence[0].TextValue = "Ä"


def _in_latin_1(ds: Dataset) -> None:
    ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 100", "Ärzte"


def _without_its_names(ds: Dataset) -> None:
    del ds.file_meta.MediaStorageSOPInstanceUID


def _implicit(ds: Dataset) -> None:
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def _several_of_everything(ds: Dataset) -> None:
    ds.OtherPatientNames, ds.SoftwareVersions = ["Ä^B", "C"], ["1", "2 ä"]
    ds.ImageType, ds.RelatedGeneralSOPClassUID = ["DERIVED", "PRIMARY"], ["1.2", "1.2.3"]
    ds.EventTimeOffset, ds.SelectorATValue, ds.SimpleFrameList = 1.5, [0x00100010, 0x00100020], [1, 2, 3]
    ds.PatientWeight, ds.StageNumber, ds.PatientComments, ds.PatientBirthName = "70.5", 3, "", None
    ds.private_block(0x0011, "ACME", create=True).add_new(0x01, "UN", b"123")


@pytest.mark.parametrize(
    "change",
    [
        _longer_than_its_length_field,
        _of_undefined_length,
        _of_ambiguous_representation,
        _with_a_character_set_within,
        _in_latin_1,
        _without_its_names,
        _implicit,
        _several_of_everything,
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_whatever_an_object_holds_its_file_is_that_of_pydicom(change: Callable[[Dataset], None]) -> None:
    mine, theirs = report(), report()
    change(mine)
    change(theirs)
    assert file_of(mine) == by_pydicom(theirs)


def test_a_file_that_was_read_is_written_as_it_was() -> None:
    file = by_pydicom(report())
    assert file_of(from_file(file)) == file


@pytest.mark.parametrize("value", [("PatientSex", "CS", "男"), ("Rows", "US", "three"), ("Rows", "US", 70_000)])
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_written_is_said(value: tuple[str, str, object]) -> None:
    ds = report()
    ds.add(DataElement(*value))
    errors = []
    for write in (file_of, by_pydicom):
        with pytest.raises((ValueError, TypeError, OSError)) as told:
            write(ds)
        errors.append(type(told.value))
    assert errors[0] is errors[1]

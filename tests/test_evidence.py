"""What results take over from the header of their image; the many kinds of it are in ``awkward_sources``."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from awkward_sources import SOURCES, file_bytes, findings_for, from_file
from pydicom import DataElement, Dataset, config

from dicom_sr.evidence import evidence
from dicom_sr.ownership import MANUFACTURER, MODEL_NAME, is_own_result
from models.intake import parse


def copied(ds: Dataset) -> Dataset:
    read = from_file(file_bytes(ds))
    return evidence(read, findings_for(read))


@pytest.mark.parametrize("identifier", [["12", "34"], "I" * 80, "12\x01"])
def test_a_patient_id_is_never_cut_for_it_could_become_another_patients(
    identifier: str | list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config.settings, "writing_validation_mode", config.IGNORE)
    ds = SOURCES["DX"]()
    ds.PatientID = identifier
    assert copied(ds).PatientID == identifier


def test_a_look_up_table_keeps_its_place_among_others() -> None:
    """The image was rendered by the first one, whatever the second holds."""
    ds = SOURCES["DX"]()
    tables = []
    for explanation in ("soft", "x" * 70):
        table = Dataset()
        table.LUTDescriptor = [4, 0, 16]
        table.add(DataElement("LUTData", "OW", np.arange(4, dtype="<u2").tobytes()))
        table.add(DataElement("LUTExplanation", "LO", explanation))
        table.EquivalentCodeSequence = []
        tables.append(table)
    ds.VOILUTSequence = [tables[1], Dataset(), tables[0]]
    first, empty, last = copied(ds).VOILUTSequence
    assert first.LUTData == last.LUTData == tables[0].LUTData
    assert ("LUTExplanation" in first, last.LUTExplanation, len(empty)) == (False, "soft", 0)
    assert not any("EquivalentCodeSequence" in table for table in (first, last))


@pytest.mark.parametrize("keyword", ["ShutterShape", "ProcedureCodeSequence", "OtherPatientIDsSequence"])
def test_what_is_empty_and_optional_is_left_out(keyword: str) -> None:
    ds = SOURCES["DX"]()
    setattr(ds, keyword, [] if keyword.endswith("Sequence") else "")
    assert keyword not in copied(ds)


def test_the_source_keeps_what_its_results_leave_out() -> None:
    ds = SOURCES["several requests"]()
    before = ds.to_json()
    evidence(ds, findings_for(ds))
    assert ds.to_json() == before


def test_a_maker_of_our_name_is_told_by_its_model() -> None:
    assert is_own_result("OT", MANUFACTURER, MODEL_NAME)
    assert not is_own_result("OT", MANUFACTURER, "DR 7")
    assert not is_own_result("CR", MANUFACTURER, MODEL_NAME)


def test_names_of_several_operators_can_leave_the_process_that_reads_them() -> None:
    ds = SOURCES["DX"]()
    ds.OperatorsName = ["Doe^Jane", "Roe^Richard"]
    read = pickle.loads(pickle.dumps(parse(file_bytes(ds))))  # noqa: S301  (our own)
    assert [str(name) for name in read.OperatorsName] == ["Doe^Jane", "Roe^Richard"]

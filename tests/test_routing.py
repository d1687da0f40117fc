"""Rules by which models read an image: which rule fits, what it leaves out, and that the result says so."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from loaded_models import load_models
from pydicom import Dataset

from dicom_sr import codes, identity
from dicom_sr.reader import read_result
from dicom_sr.results import encode_results
from models.findings import FindingState, ImageFindings, View
from models.hanging import AS_STORED
from models.inference import ImageIdentity, Models
from models.intake import NotTakenIn
from models.phantom import chest
from models.refusal import Evidence, Refusal
from models.rendering import render
from orthanc_plugin.commands.modality import Exposure, radiograph
from orthanc_plugin.integration import Route
from orthanc_plugin.reading.routing import models_for, route_of
from orthanc_plugin.settings import REPOSITORY, Settings

EVERY = Route("every", ("lung_fields",))
ALL = Settings(Path()).bundles


def header(**attributes: object) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize(
    ("conditions", "attributes", "origin", "fits"),
    [
        ({}, {}, "", True),
        ({"calling_ae_titles": ("ROOM?",)}, {}, "room7", True),
        ({"calling_ae_titles": ("ROOM?",)}, {}, "ROOM10", False),
        ({"calling_ae_titles": ("*",)}, {}, "", False),
        ({"study_description": ("*abdom*",)}, {"StudyDescription": "XR ABDOMEN "}, "A", True),
        ({"study_description": ("*abdom*", "*pelvis*")}, {"StudyDescription": "Pelvis ap"}, "A", True),
        ({"study_description": ("*abdom*",)}, {"StudyDescription": "Chest"}, "A", False),
        ({"study_description": ("*",)}, {}, "A", False),
        ({"series_description": ("lat*",)}, {"SeriesDescription": ["LATERAL", "x"]}, "A", True),
        ({"body_part": ("CHEST",)}, {"BodyPartExamined": "chest"}, "A", True),
        ({"station_name": ("bed-[0-9]",)}, {"StationName": "BED-3"}, "A", True),
        ({"station_name": ("bed-[0-9]",), "body_part": ("CHEST",)}, {"StationName": "BED-3"}, "A", False),
        ({"study_description": ("a.c",)}, {"StudyDescription": "abc"}, "A", False),
    ],
)
def test_every_condition_of_a_rule_holds_for_the_image(
    conditions: dict[str, tuple[str, ...]], attributes: dict[str, object], origin: str, fits: bool
) -> None:
    route = replace(EVERY, **conditions)
    assert (route_of([route], header(**attributes), origin) is route) == fits


def test_the_first_rule_that_fits_decides() -> None:
    first, second = replace(EVERY, name="a", body_part=("CHEST",)), replace(EVERY, name="b")
    assert route_of([first, second], header(BodyPartExamined="CHEST"), "") is first
    assert route_of([first, second], header(BodyPartExamined="HAND"), "") is second
    assert route_of([first], header(BodyPartExamined="HAND"), "") is None
    assert route_of([], header(), "") is None


@cache
def models() -> Models:
    return load_models(REPOSITORY / "models", ALL, threads=1)


@cache
def source() -> Dataset:
    return radiograph(chest(4, rows=512, columns=512).pixels, Exposure(seed="routing"))


@cache
def read_by(*bundles: str) -> ImageFindings:
    ds = source()
    of = ImageIdentity(str(ds.StudyInstanceUID), str(ds.SOPClassUID), str(ds.SOPInstanceUID), View.PA)
    return models_for(Route("some", bundles), models(), ()).predict(render(ds, AS_STORED), of)


def test_without_a_rule_or_with_one_that_names_all_nothing_changes() -> None:
    assert models_for(None, models(), ()) is models()
    assert models_for(Route("all", ALL), models(), ()) is models()
    assert read_by(*ALL).route == ""


def test_what_is_left_out_is_not_evaluated_because_of_the_rule() -> None:
    whole, some = read_by(*ALL), read_by("lung_fields", "lung_opacity")
    assert some.route == "some"
    assert {run.model.name for run in some.runs} == {"lung_fields", "lung_opacity"}
    found = {finding.key: finding for finding in some.findings}
    for finding in whole.findings:
        if finding.model == "chest_findings" and finding.state is not FindingState.NOT_EVALUATED:
            left = found[finding.key]
            assert (left.state, left.reason, left.model) == (FindingState.NOT_EVALUATED, "routing", None)
        if finding.model == "lung_opacity":
            assert found[finding.key] == finding, "what others say stays as it is"
    assert {finding.key for finding in whole.findings} <= set(found), "nothing is passed over in silence"
    assert any(finding.reason == "routing" for finding in found.values() if finding.key.startswith("covid"))


def test_a_rule_that_leaves_nothing_to_find_keeps_the_image_from_being_read() -> None:
    for bundles in ((), ("pixel_gate",), ("covid_appearance",)):
        with pytest.raises(NotTakenIn, match="rule none") as refused:
            models_for(Route("none", bundles), models(), (Evidence("Modality", "DX"),))
        assert refused.value.code is Refusal.ROUTING
        assert [str(one) for one in refused.value.evidence] == ["Modality DX", "routes none"]


def test_the_gate_guards_what_a_rule_has_read() -> None:
    assert models_for(Route("some", ("lung_fields",)), models(), ()).gate is models().gate


def test_the_report_names_the_rule_and_is_read_back_whole() -> None:
    some = replace(read_by("lung_fields"), saliency=())
    results = encode_results(source(), some, datetime(2026, 1, 2, tzinfo=UTC))
    assert read_result(results.measurement_report, results.segmentation).route == "some"
    assert read_result(results.measurement_report) == replace(some, segments=())
    texts = [
        item.TextValue
        for part in results.measurement_report.ContentSequence
        for item in part.get("ContentSequence", ())
        if item.ConceptNameCodeSequence[0].CodeValue == codes.ROUTE.value
    ]
    assert texts == ["some"]


def test_the_rule_is_part_of_the_identity_and_no_rule_is_none() -> None:
    some = read_by("lung_fields")
    uid = identity.image_result(some, "SR").instance
    assert uid == identity.image_result(replace(some), "SR").instance
    assert uid != identity.image_result(replace(some, route="another"), "SR").instance
    assert uid != identity.image_result(replace(some, route=""), "SR").instance

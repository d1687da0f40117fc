"""What was encoded is read back, and nothing is lost on the way."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite
from shipped_criteria import IDENTITY, derive

from dicom_sr import codes
from dicom_sr.reader import NotOurResult, is_measurement_report, read_result, read_study
from dicom_sr.references import reference_to
from dicom_sr.results import Results, encode_results
from models.appearance import CLASSES
from models.findings import (
    SHARE,
    Caution,
    Criterion,
    Finding,
    FindingState,
    ImageFindings,
    Laterality,
    Line,
    Measurement,
    ModelIdentity,
    ModelRun,
    Precision,
    Priority,
    Region,
    SegmentMask,
    Sense,
    View,
)
from models.phantom import chest
from orthanc_plugin.commands.modality import Exposure, radiograph

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MODELS = (
    ModelIdentity("lung_fields", "0.1.0", "a" * 64, "b" * 64),
    ModelIdentity("chest_findings", "0.2.1", "c" * 64, "d" * 64),
)
STRUCTURES = ("lung_right", "lung_left", "heart")
KEYS = [
    key
    for key, row in codes.finding_table().items()
    if key not in {"no_finding", "lung", *STRUCTURES} and row.type is not None
]
PIXELS = chest(1, rows=64, columns=48).pixels


def source() -> Dataset:
    return radiograph(PIXELS, Exposure(seed="reader"))


def some_findings(seed: int, ds: Dataset, rows: int = 64, columns: int = 48) -> ImageFindings:
    """Any findings that models may give, in every state, from a seed."""
    rng = random.Random(seed)  # noqa: S311
    failure = rng.choice([None, None, "model_failed"])
    precision = list(Precision)[seed % len(Precision)]
    runs = (ModelRun(MODELS[0], rng.choice([None, None, "model_failed"])), ModelRun(MODELS[1], failure, precision))
    findings = tuple(some_finding(key, rng, failed=failure is not None) for key in rng.sample(KEYS, rng.randint(0, 14)))
    outlined = [*STRUCTURES, *(f.key for f in findings if rng.random() < 0.2)] if rng.random() < 0.8 else []
    criteria = tuple(some_criterion(c, rng) for c in derive([], None).criteria) if rng.random() < 0.5 else ()
    derived = [Finding(key, rng.choice(list(FindingState)[:3]), model="covid_appearance") for key in CLASSES]
    if criteria:
        runs = (*runs, ModelRun(IDENTITY))
        findings = (*(f for f in findings if f.key not in CLASSES), *derived)
    noise = np.random.default_rng(seed)
    lines = tuple(Line(*(rng.randrange(16 * 48) / 16 for _ in range(4))) for _ in range(2))
    ratio = Measurement(
        "cardiothoracic_ratio",
        round(rng.uniform(0.2, 0.95), 6),
        "1",
        "lung_fields",
        lines,
        rng.choice([None, Caution.AP_VIEW, Caution.VIEW_UNKNOWN]),
    )
    return ImageFindings(
        study_instance_uid=str(ds.StudyInstanceUID),
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        rows=rows,
        columns=columns,
        view=rng.choice(list(View)),
        runs=runs,
        findings=findings,
        segments=tuple(SegmentMask(key, noise.random((rows, columns)) < 0.3, "lung_fields") for key in outlined),
        measurements=(ratio,) if rng.random() < 0.7 else (),
        priority=rng.choice(list(Priority)),
        priority_reason=rng.choice(["", "Pneumothorax 91 %, right", "Zażółć gęślą jaźń"]),
        cautions=tuple(rng.sample(list(Caution), rng.randint(0, 4))),
        criteria=criteria,
    )


def some_criterion(criterion: Criterion, rng: random.Random) -> Criterion:
    """The same criterion with any outcome."""
    threshold = rng.choice([None, round(rng.random(), 6), float(rng.randint(0, 3))])
    return replace(
        criterion,
        state=rng.choice(list(FindingState)),
        value=None if threshold is None else rng.choice([None, round(rng.random(), 6), float(rng.randint(0, 9))]),
        threshold=threshold,
        sense=Sense.AT_LEAST if threshold is None else rng.choice(list(Sense)),
        unit=SHARE if threshold is None else rng.choice(list(codes.CRITERION_UNITS)),
        reason=rng.choice([None, *codes.CRITERION_REASONS]),
    )


def some_finding(key: str, rng: random.Random, *, failed: bool) -> Finding:
    if failed or rng.random() < 0.3:
        reason = "model_failed" if failed else rng.choice(["evidence", "view", "no_model"])
        model = None if reason == "no_model" else "chest_findings"
        return Finding(key, FindingState.NOT_EVALUATED, reason=reason, model=model)
    state = rng.choice([FindingState.PRESENT, FindingState.ABSENT, FindingState.UNDETERMINED])
    sides = list(Laterality) if codes.finding_codes(key).paired else [None]
    regions = tuple(
        Region(
            rng.randrange(16 * 40) / 16,
            rng.randrange(16 * 40) / 16,
            rng.randrange(1, 100) / 16,
            rng.randrange(1, 100) / 16,
            round(rng.random(), 6),
            rng.choice([None, *sides]),
        )
        for _ in range(rng.randint(0, 3) if state is FindingState.PRESENT else 0)
    )
    return Finding(
        key,
        state,
        probability=round(rng.random(), 6),
        threshold=round(rng.random(), 6),
        laterality=rng.choice([None, *sides]),
        regions=regions,
        model="chest_findings",
    )


def through_files(results: Results) -> Iterator[Dataset]:
    for ds in (results.measurement_report, results.segmentation):
        if ds is not None:
            buffer = BytesIO()
            dcmwrite(buffer, ds, enforce_file_format=True)
            yield dcmread(BytesIO(buffer.getvalue()))


def assert_same(read: ImageFindings, written: ImageFindings) -> None:
    for field in fields(ImageFindings):
        if field.name not in ("segments", "saliency"):
            assert getattr(read, field.name) == getattr(written, field.name), field.name
    assert [(s.key, s.model) for s in read.segments] == [(s.key, s.model) for s in written.segments]
    for mine, theirs in zip(read.segments, written.segments, strict=True):
        assert np.array_equal(mine.mask, theirs.mask)


@pytest.mark.parametrize("seed", range(60))
def test_reading_gives_back_what_was_written(seed: int) -> None:
    ds = source()
    # an odd number of pixels, so that frames do not begin at bytes
    rows, columns = (64, 48) if seed % 2 else (63, 47)
    written = some_findings(seed, ds, rows, columns)
    report, *rest = through_files(encode_results(ds, written, CREATED))
    assert_same(read_result(report, rest[0] if rest else None), written)


def test_a_precision_that_this_version_does_not_know_is_not_taken_for_float32() -> None:
    written = some_findings(0, source())
    runs = (*written.runs[:1], replace(written.runs[1], precision=Precision.INT8), *written.runs[2:])
    report, *_ = through_files(encode_results(source(), replace(written, runs=runs), CREATED))
    (said,) = [i for i in items_of(report) if str(i.get("TextValue")) == "precision=int8"]
    said.TextValue = "precision=int4"
    with pytest.raises(NotOurResult, match="int4"):
        read_result(report)


def items_of(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", ()):
        yield child
        yield from items_of(child)


def test_the_newest_of_two_runs_speaks_for_a_study_whatever_their_order() -> None:
    ds = source()
    old = some_findings(3, ds)
    new = replace(old, runs=(replace(old.runs[0], model=replace(MODELS[0], version="9.0.0")), *old.runs[1:]))
    first = list(through_files(encode_results(ds, old, CREATED)))
    before = reference_to(first[0])
    second = list(through_files(encode_results(ds, new, CREATED, number=2, predecessors=[before])))
    for objects in ([*first, *second], [*second, *first]):
        study = read_study([ds, *objects])
        assert len(study.images) == 1
        assert_same(study.images[0], new)
    assert read_study(first).images[0].runs == old.runs


def test_two_images_of_a_study_are_read_in_the_order_in_which_they_were_numbered() -> None:
    one, two = source(), source()
    two.SOPInstanceUID = two.file_meta.MediaStorageSOPInstanceUID = "2.25.77"
    objects = [
        *through_files(encode_results(two, some_findings(5, two), CREATED, number=2)),
        *through_files(encode_results(one, some_findings(4, one), CREATED, number=1)),
    ]
    assert [i.sop_instance_uid for i in read_study(objects).images] == [one.SOPInstanceUID, two.SOPInstanceUID]


def test_what_is_not_ours_is_refused_by_name() -> None:
    ds = source()
    report = next(through_files(encode_results(ds, some_findings(1, ds), CREATED)))
    assert is_measurement_report(report)
    with pytest.raises(NotOurResult, match="no measurement report"):
        read_result(ds)
    with pytest.raises(NotOurResult, match="no measurement report"):
        read_study([ds])
    report.ContentSequence = report.ContentSequence[:-1]
    with pytest.raises(NotOurResult, match=report.SOPInstanceUID):
        read_result(report)

"""The Segmentation before highdicom and before the eye: masks, frames, sides, colours, identities."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from itertools import combinations

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pytest
from awkward_sources import CREATED, SEGMENTS, SOURCES, file_bytes, findings_for
from pydicom import Dataset
from pydicom.uid import JPEGBaseline8Bit

from dicom_sr.codes import finding_table
from dicom_sr.evidence import evidence
from dicom_sr.identity import tracking_uid
from dicom_sr.segmentation import COLOURS, encode_segmentation, label
from models.findings import ImageFindings, Laterality, Precision, SegmentMask

_XYZ_FROM_RGB = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65
# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
_VISION = {
    "most people": np.eye(3),
    "no red cones": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                              [-0.003882, -0.048116, 1.051998]]),
    "no green cones": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                                [-0.011820, 0.042940, 0.968881]]),
}  # fmt: skip


def encoded(source: str = "DX", **changes: object) -> tuple[Dataset, ImageFindings]:
    ds = SOURCES[source]()
    findings = replace(findings_for(ds), **changes)  # type: ignore[arg-type]
    return encode_segmentation(evidence(ds, findings), findings, CREATED), findings


def read(ds: Dataset) -> hd.seg.Segmentation:
    return hd.seg.segread(BytesIO(file_bytes(ds)))


@pytest.mark.parametrize(
    "source", ["DX", "8 bits, odd number of rows and columns"], ids=["frames of whole bytes", "frames within bytes"]
)
def test_highdicom_reads_every_mask_back_pixel_by_pixel(source: str) -> None:
    ds, findings = encoded(source)
    frames = read(ds).pixel_array
    assert frames.shape == (4, findings.rows, findings.columns)
    for frame, segment in zip(frames, findings.segments, strict=True):
        assert np.array_equal(frame.astype(bool), segment.mask)
    by_segment = read(ds).get_pixels_by_source_instance([findings.sop_instance_uid], segment_numbers=[1, 2, 3, 4])
    assert np.array_equal(by_segment[0, :, :, 3].astype(bool), findings.segments[3].mask)


def test_a_segment_without_pixels_keeps_its_frame() -> None:
    ds, findings = encoded()
    empty = SegmentMask("heart", np.zeros((findings.rows, findings.columns), np.bool_), "lung_fields")
    ds, _ = encoded(segments=(empty, findings.segments[0]))
    frames = read(ds).pixel_array
    assert (int(ds.NumberOfFrames), frames[0].any()) == (2, False)
    assert np.array_equal(frames[1].astype(bool), findings.segments[0].mask)


def test_a_single_segment_is_read_back() -> None:
    _, findings = encoded()
    ds, _ = encoded(segments=findings.segments[:1])
    assert np.array_equal(read(ds).pixel_array.reshape(300, 260).astype(bool), findings.segments[0].mask)


def test_a_mask_of_another_size_or_of_an_unknown_thing_is_refused() -> None:
    small = SegmentMask("heart", np.zeros((10, 10), np.bool_), "lung_fields")
    with pytest.raises(ValueError, match="heart"):
        encoded(segments=(small,))
    with pytest.raises(ValueError, match="at least one"):
        encoded(segments=())
    _, findings = encoded()
    with pytest.raises(KeyError, match="no_finding"):
        encoded(segments=(replace(findings.segments[0], key="no_finding"),))
    with pytest.raises(KeyError, match="nobody"):
        encoded(segments=(replace(findings.segments[0], model="nobody"),))


def test_segments_overlap_where_a_pixel_has_two() -> None:
    ds, findings = encoded()
    assert ds.SegmentsOverlap == "YES"  # the pneumothorax lies in the lung
    ds, _ = encoded(segments=(findings.segments[0], findings.segments[1]))
    assert ds.SegmentsOverlap == "NO"


def test_segments_are_named_in_plain_words_and_tracked_by_their_keys() -> None:
    ds, findings = encoded()
    assert [s.SegmentLabel for s in ds.SegmentSequence] == ["Right lung", "Left lung", "Heart", "Pneumothorax"]
    assert [s.TrackingID for s in ds.SegmentSequence] == list(SEGMENTS)
    expected = [tracking_uid(findings, key, "segment") for key in SEGMENTS]
    assert [s.TrackingUID for s in ds.SegmentSequence] == expected
    assert label("lung_opacity") == "Lung opacity"
    assert [s.SegmentAlgorithmName for s in ds.SegmentSequence] == [*["lung_fields"] * 3, "chest_findings"]


def test_each_segment_names_the_precision_of_its_model_unless_it_is_float32() -> None:
    _, findings = encoded()
    first, *others = findings.runs
    ds, _ = encoded(runs=(replace(first, precision=Precision.INT8), *others))
    said = [s.SegmentationAlgorithmIdentificationSequence[0].get("AlgorithmParameters") for s in ds.SegmentSequence]
    assert said == [*["precision=int8"] * 3, None]
    identified = read(ds).get_segment_description(1).algorithm_identification
    assert identified is not None
    assert identified.parameters == {"precision": "int8"}


def test_a_side_is_a_modifier_of_the_type() -> None:
    def sides(ds: Dataset) -> list[list[str]]:
        types = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in ds.SegmentSequence]
        return [[m.CodeMeaning for m in t.get("SegmentedPropertyTypeModifierCodeSequence", [])] for t in types]

    ds, findings = encoded()
    assert sides(ds) == [["Right"], ["Left"], [], ["Right"]]
    pneumothorax = replace(findings.findings[0], laterality=Laterality.BILATERAL)
    ds, _ = encoded(findings=(pneumothorax,))
    assert sides(ds)[3] == ["Right and left"]
    ds, _ = encoded(findings=())
    assert sides(ds)[3] == []


def test_viewers_find_a_plane_the_image_and_its_spacing() -> None:
    for source, spacing in (
        ("non-square pixels", [0.8, 0.4]),
        ("spacing at the detector only", [1.43, 1.43]),
        ("no spacing", [1.0, 1.0]),
        ("spacing of zero", [1.0, 1.0]),
    ):
        ds, findings = encoded(source)
        (shared,) = ds.SharedFunctionalGroupsSequence
        assert list(shared.PlaneOrientationSequence[0].ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
        assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == spacing
        (listed,) = ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        assert listed.ReferencedSOPInstanceUID == findings.sop_instance_uid
        for number, frame in enumerate(ds.PerFrameFunctionalGroupsSequence, start=1):
            (reference,) = frame.DerivationImageSequence[0].SourceImageSequence
            assert reference.ReferencedSOPInstanceUID == findings.sop_instance_uid
            assert frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number
        assert "FrameOfReferenceUID" not in ds


def test_orientation_time_zone_and_a_lossy_past_are_those_of_the_image() -> None:
    assert list(encoded("mirrored")[0].PatientOrientation) == ["R", "F"]
    ds, _ = encoded("time zone")
    assert (ds.TimezoneOffsetFromUTC, ds.ContentTime) == ("+0530", "083405")
    lossy = SOURCES["once lossy"]()
    findings = findings_for(lossy)
    header = evidence(lossy, findings)
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        header[keyword] = lossy[keyword]
    ds = encode_segmentation(header, findings, CREATED)
    assert (ds.LossyImageCompression, ds.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert ds.file_meta.TransferSyntaxUID != JPEGBaseline8Bit
    assert encoded()[0].LossyImageCompression == "00"


def test_the_same_findings_give_the_same_bytes_and_only_the_date_follows_the_clock() -> None:
    (first, findings), (second, _) = encoded(), encoded()
    assert file_bytes(first) == file_bytes(second)
    later = encode_segmentation(
        evidence(SOURCES["DX"](), findings), findings, CREATED + timedelta(days=1, seconds=1), number=2
    )
    differing = {e.keyword for e in first if e != later.get(e.tag)}
    assert differing == {
        "InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime", "InstanceNumber",
        "ContributingEquipmentSequence",
    }  # fmt: skip


def test_every_key_that_can_be_outlined_has_a_colour_and_no_other() -> None:
    assert COLOURS.keys() == {key for key, codes in finding_table().items() if codes.category and codes.type}


def test_colours_are_stored_as_the_standard_scales_them() -> None:
    for segment in encoded()[0].SegmentSequence:
        lightness, a, b = segment.RecommendedDisplayCIELabValue
        read_back = lightness / 65535 * 100, a / 65535 * 255 - 128, b / 65535 * 255 - 128
        assert read_back == pytest.approx(COLOURS[segment.TrackingID], abs=0.01)


@pytest.mark.parametrize("vision", _VISION)
def test_colours_stay_apart_from_each_other_and_from_gray(vision: str) -> None:
    seen = {key: as_seen(colour, _VISION[vision]) for key, colour in COLOURS.items()}
    main = list(COLOURS)[:5]
    assert min(np.linalg.norm(seen[a] - seen[b]) for a, b in combinations(main, 2)) >= 20
    assert min(np.linalg.norm(seen[a] - seen[b]) for a, b in combinations(seen, 2)) >= 9
    assert min(np.hypot(a, b) for _, a, b in seen.values()) >= 15


def as_seen(lab: tuple[int, int, int], vision: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """CIELab of a colour on a screen, as someone sees it."""
    lightness, a, b = lab
    middle = (lightness + 16) / 116
    t = np.array([middle + a / 500, middle, middle - b / 200])
    xyz = np.where(t > 6 / 29, t**3, 3 * (6 / 29) ** 2 * (t - 4 / 29)) * _WHITE
    linear = np.clip(np.linalg.solve(_XYZ_FROM_RGB, xyz), 0, 1)
    xyz = _XYZ_FROM_RGB @ np.clip(vision @ linear, 0, 1) / _WHITE
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_a_large_radiograph_takes_a_fraction_of_the_time_that_a_study_has() -> None:
    """150 ms are for all results of a study on a quiet core; this allows a busy one."""
    from tests.bench.encode import example

    source, findings = example()
    header = evidence(source, findings)
    taken = []
    for _ in range(5):
        started = time.process_time()
        encode_segmentation(header, findings, CREATED)
        taken.append(time.process_time() - started)
    assert min(taken) < 0.1

"""Findings and masks as DICOM in the way that highdicom's documentation shows: the baseline of our own encoding.

The rule: it holds the same findings, boxes and masks as our results do, and none of the rest of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.sr.codedict import codes

from dicom_sr.codes import AI_FAMILY, CERTAINTY, PERCENT, PLAIN_CHEST_RADIOGRAPHY, STATES, finding_codes
from models.findings import Finding, ImageFindings, SegmentMask


def encode_with_highdicom(source: Dataset, findings: ImageFindings) -> list[bytes]:
    """SEG and SR of one image, as bytes; the Segmentation first."""
    segmentation = hd.seg.Segmentation(
        source_images=[source],
        pixel_array=np.stack([s.mask for s in findings.segments], axis=-1)[None].astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_highdicom_segment(n, s) for n, s in enumerate(findings.segments, start=1)],
        series_instance_uid=hd.UID(),
        series_number=1,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="highdicom",
        manufacturer_model_name="highdicom",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=False,
    )
    device = hd.sr.DeviceObserverIdentifyingAttributes(uid=hd.UID(), name="highdicom")
    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    groups = [group for finding in findings.findings for group in _highdicom_groups(source, finding)]
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=PLAIN_CHEST_RADIOGRAPHY,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    report = hd.sr.Comprehensive3DSR(
        evidence=[source],
        content=content,
        series_instance_uid=hd.UID(),
        series_number=2,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="highdicom",
    )
    return [to_bytes(segmentation), to_bytes(report)]


def _highdicom_segment(number: int, segment: SegmentMask) -> hd.seg.SegmentDescription:
    coded = finding_codes(segment.key)
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.key,
        segmented_property_category=coded.category,
        segmented_property_type=coded.type,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(name=segment.model, version="1", family=AI_FAMILY),
        tracking_uid=hd.UID(),
        tracking_id=segment.key,
    )


def _highdicom_groups(source: Dataset, finding: Finding) -> Iterator[Any]:
    """TID 1501 for the state of a finding, TID 1410 for each of its boxes."""
    coded = finding_codes(finding.key)
    algorithm = hd.sr.AlgorithmIdentification(name=finding.model or "none", version="1")
    common = {"finding_sites": [hd.sr.FindingSite(anatomic_location=coded.site)], "algorithm_id": algorithm}
    state = hd.sr.QualitativeEvaluation(name=coded.finding, value=STATES[finding.state])
    certain = [] if finding.probability is None else [_highdicom_certainty(finding.probability)]
    yield hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=finding.key),
        qualitative_evaluations=[state],
        measurements=certain,
        source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(source)],
        **common,
    )
    for box in finding.regions:
        x, y = box.x + box.width, box.y + box.height
        yield hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=finding.key),
            referenced_region=hd.sr.ImageRegion(
                graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
                graphic_data=np.array([(box.x, box.y), (x, box.y), (x, y), (box.x, y), (box.x, box.y)]),
                source_image=hd.sr.SourceImageForRegion.from_source_image(source),
            ),
            finding_type=coded.finding,
            measurements=[_highdicom_certainty(box.score)],
            **common,
        )


def _highdicom_certainty(probability: float) -> hd.sr.Measurement:
    return hd.sr.Measurement(name=CERTAINTY, value=100 * probability, unit=PERCENT)


def to_bytes(ds: Dataset) -> bytes:
    """The whole file."""
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()

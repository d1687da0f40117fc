"""What made a result and when: Contributing Equipment, series names and frozen times, alike in every object."""

from __future__ import annotations

from datetime import datetime

from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_sr.codes import PROCESSING_EQUIPMENT
from dicom_sr.identity import device_uid
from dicom_sr.ownership import MANUFACTURER
from models.findings import ImageFindings


def equipment_version(findings: ImageFindings) -> str:
    """Versions of the models that ran, e.g. ``0.1.0`` or ``0.1.0/0.2.0``."""
    return "/".join(dict.fromkeys(run.model.version for run in findings.runs)) or "none"


def series_description(findings: ImageFindings, what: str) -> str:
    """``AI Hilum 0.1.0 segments``: at most 64 characters (PS3.5 LO)."""
    return f"AI Hilum {equipment_version(findings)} {what}"[:64]


def contributing_equipment(findings: ImageFindings, created: datetime) -> list[Dataset]:
    """One item for each model that was asked (PS3.3 C.12.1; IHE AIR 6.5.3.1)."""
    return [
        dataset(
            PurposeOfReferenceCodeSequence=[coded(PROCESSING_EQUIPMENT)],
            Manufacturer=MANUFACTURER,
            ManufacturerModelName=run.model.name,
            SoftwareVersions=run.model.version,
            DeviceUID=device_uid(run.model),
            ContributionDateTime=created.strftime("%Y%m%d%H%M%S+0000"),
        )
        for run in findings.runs
    ]


def freeze_times(ds: Dataset, created: datetime) -> None:
    """Set every date and time that the encoder took from the clock."""
    date, time = created.strftime("%Y%m%d"), created.strftime("%H%M%S")
    for name in ("Content", "InstanceCreation", "Series"):
        if name != "Series" or "SeriesDate" in ds:
            setattr(ds, f"{name}Date", date)
            setattr(ds, f"{name}Time", time)


def dataset(**attributes: object) -> Dataset:
    """A Dataset from keywords."""
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def coded(code: Code) -> Dataset:
    """A code as a sequence item (PS3.3 8.8)."""
    return dataset(CodeValue=code.value, CodingSchemeDesignator=code.scheme_designator, CodeMeaning=code.meaning)

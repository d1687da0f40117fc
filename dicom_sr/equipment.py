"""What every result carries alike: who made it and when, in which series, with which coding schemes."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_sr.codes import CODING_SCHEMES, PRIVATE_SCHEME, PRIVATE_SCHEME_VERSION, PROCESSING_EQUIPMENT
from dicom_sr.identity import device_uid
from dicom_sr.ownership import MANUFACTURER, MODEL_NAME
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
            DeviceUID=device_uid(run),
            ContributionDateTime=created.strftime("%Y%m%d%H%M%S%z"),
        )
        for run in findings.runs
    ]


def complete(ds: Dataset, evidence: Dataset, findings: ImageFindings, created: datetime, what: str) -> Dataset:
    """Set what all results have in common, and every date and time that an encoder took from the clock.

    Parameters
    ----------
    evidence
        From ``dicom_sr.evidence``. Its time zone, where it names one, is the zone of all dates and times of the object
        (PS3.3 C.12.1.1.8), so `created` is expressed in it.
    what
        Ends the Series Description, e.g. ``findings``.
    """
    if offset := evidence.get("TimezoneOffsetFromUTC"):
        ds.TimezoneOffsetFromUTC = offset
        created = created.astimezone(_zone(offset))
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SeriesDescription = series_description(findings, what)
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = MODEL_NAME
    ds.SoftwareVersions = equipment_version(findings)
    ds.DeviceSerialNumber = "1"
    ds.ContributingEquipmentSequence = contributing_equipment(findings, created)
    if "StudyDescription" in evidence:
        ds.StudyDescription = evidence.StudyDescription
    ds.CodingSchemeIdentificationSequence = coding_schemes(ds)
    freeze_times(ds, created)
    return ds


def freeze_times(ds: Dataset, created: datetime) -> None:
    """Set every date and time that the encoder took from the clock."""
    date, time = created.strftime("%Y%m%d"), created.strftime("%H%M%S")
    for name in ("Content", "InstanceCreation", "Series"):
        if name != "Series" or "SeriesDate" in ds:
            setattr(ds, f"{name}Date", date)
            setattr(ds, f"{name}Time", time)


def coding_schemes(ds: Dataset) -> list[Dataset]:
    """What the designators of an object's codes mean (PS3.3 C.12.1, Coding Scheme Identification Sequence)."""
    used = sorted(_designators(ds))
    items = []
    for designator in used:
        # Codes of the source, e.g. of its procedure, may be the site's own, of which we know the designator alone.
        uid, name, organisation = CODING_SCHEMES.get(designator, ("", "Codes of the source image", "Unknown"))
        item = dataset(CodingSchemeDesignator=designator, CodingSchemeName=name)
        if uid:
            item.CodingSchemeUID = uid
        if designator == PRIVATE_SCHEME:
            item.CodingSchemeVersion = PRIVATE_SCHEME_VERSION
        item.CodingSchemeResponsibleOrganization = organisation
        items.append(item)
    return items


def _designators(ds: Dataset) -> set[str]:
    found: set[str] = set()
    for element in ds:
        if element.VR == "SQ":
            found.update(*(_designators(item) for item in element.value))
        elif element.tag == 0x00080102:  # Coding Scheme Designator
            found.add(str(element.value))
    return found


def _zone(offset: str) -> timezone:
    """``+0130`` as a time zone."""
    sign = -1 if offset.startswith("-") else 1
    return timezone(sign * timedelta(hours=int(offset[1:3]), minutes=int(offset[3:5])))


def dataset(**attributes: object) -> Dataset:
    """A Dataset from keywords."""
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def coded(code: Code) -> Dataset:
    """A code as a sequence item (PS3.3 8.8); a private one says of which version of our list it is."""
    item = dataset(CodeValue=code.value, CodingSchemeDesignator=code.scheme_designator, CodeMeaning=code.meaning)
    if code.scheme_designator == PRIVATE_SCHEME:
        item.CodingSchemeVersion = PRIVATE_SCHEME_VERSION
    return item

"""The objects of a study, one by one: what is given to others, and what may be deleted."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_sr.ownership import is_own_result
from orthanc_plugin.archive.client import OrthancClient


@dataclass(frozen=True)
class HeldObject:
    """One object of a study; `own` when it is a result of ours."""

    orthanc_id: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    own: bool


def objects_of_study(orthanc: OrthancClient, study_instance_uid: str) -> list[HeldObject]:
    """Everything that Orthanc holds of a study, in the order of series and Orthanc's names.

    Raises
    ------
    OrthancUnavailable
    """
    objects = []
    for series in sorted(orthanc.series_of_study(study_instance_uid), key=lambda s: s.series_instance_uid):
        own = is_own_result(series.modality, series.manufacturer)
        for instance in sorted(series.instances):
            told, noted = orthanc.ask("GET", f"/instances/{instance}"), orthanc.metadata(instance)
            uid = str(told["MainDicomTags"]["SOPInstanceUID"]) if told else ""
            sop_class, syntax = str(noted.get("SopClassUid", "")), str(noted.get("TransferSyntax", ""))
            objects.append(HeldObject(instance, sop_class, uid, syntax, own))
    return objects

"""Which objects of a study a destination is still to be given.

The rule: Orthanc says what there is, the delivery what was taken; each object goes out as the very bytes that Orthanc
holds. A document that was superseded goes too, so that the chain of predecessors is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from orthanc_plugin.archive.client import OrthancClient
from orthanc_plugin.archive.held_objects import HeldObject, objects_of_study
from orthanc_plugin.failpoints import reach
from orthanc_plugin.integration import IMAGES, Destination

_KINDS = {
    Comprehensive3DSRStorage: "measurement_report",
    SegmentationStorage: "segmentation",
    BasicTextSRStorage: "preliminary_report",
    SecondaryCaptureImageStorage: "heat_map",
    GrayscaleSoftcopyPresentationStateStorage: "presentation_state",
    KeyObjectSelectionDocumentStorage: "key_objects",
}


@dataclass(frozen=True)
class Parcel:
    """What one delivery is about.

    Parameters
    ----------
    taken
        What the receiver has; a sender adds to it as it goes, so that what was taken stays taken.
    keep
        To be called now and then, so that nobody else takes the delivery over.
    """

    study_instance_uid: str
    destination: Destination
    task: Mapping[str, Any]
    taken: dict[str, Any]
    keep: Callable[[], None]

    def has(self, sop_instance_uid: str) -> bool:
        """Whether the receiver has taken an object."""
        return sop_instance_uid in self.taken.get("objects", {})

    def take(self, one: HeldObject) -> None:
        """Note that the receiver has taken an object."""
        self.taken.setdefault("objects", {})[one.sop_instance_uid] = one.sop_class_uid
        reach("object_taken")
        self.keep()


def outgoing(orthanc: OrthancClient, parcel: Parcel) -> list[HeldObject]:
    """The objects that are to be sent now; pictures before the documents that refer to them."""
    wanted = [
        one for one in objects_of_study(orthanc, parcel.study_instance_uid) if not parcel.has(one.sop_instance_uid)
    ]
    chosen = [(kind, one) for one in wanted if (kind := _kind(one)) in parcel.destination.objects]
    order = (IMAGES, "segmentation", "heat_map", "measurement_report")
    return [one for _, one in sorted(chosen, key=lambda each: order.index(each[0]) if each[0] in order else len(order))]


def _kind(one: HeldObject) -> str:
    return _KINDS.get(UID(one.sop_class_uid), "") if one.own else IMAGES

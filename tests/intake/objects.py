"""Inputs that differ in what kind of object they are: modalities and SOP Classes, intent, processing."""

from __future__ import annotations

from typing import Any

from pydicom.uid import UID

from dicom_sr.ownership import MANUFACTURER, MODEL_NAME
from models.refusal import Refusal
from orthanc_plugin.commands.modality import Exposure

from .case import PASSED_OVER, READ, Group, Maker, instance, silent, stored, written
from .pictures import frontal, page

_CLASS = "1.2.840.10008.5.1.4.1.1."
SECONDARY_CAPTURE = UID(_CLASS + "7")


def accompanying(modality: str, sop_class: str, **attributes: Any) -> Maker:
    """An object without pixels that lies beside images."""
    return lambda seed: [_without_pixels(seed, modality, sop_class, **attributes)]


def _without_pixels(seed: str, modality: str, sop_class: str, **attributes: Any) -> bytes:
    gone = dict.fromkeys(("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "ViewPosition"))
    return written(instance(seed, Modality=modality, SOPClassUID=UID(_CLASS + sop_class), **gone, **attributes))


def beside(modality: str, sop_class: str, **attributes: Any) -> Maker:
    """A frontal radiograph, and such an object in its study."""
    return lambda seed: [
        written(instance(f"{seed}#image")),
        _without_pixels(f"{seed}#{modality}", modality, sop_class, **attributes),
    ]


def modalities() -> Group:
    """SOP Class UID and Modality."""
    group = Group("modality and SOP Class")
    group.add("CR", READ, stored())
    group.add("DX", READ, stored(None, Exposure(modality="DX")))
    group.add("RG in a CR object", READ, stored(Modality="RG"))
    capture = {"SOPClassUID": SECONDARY_CAPTURE, "ConversionType": "WSD"}
    group.add("secondary capture, OT, described as a PA chest", READ, stored(Modality="OT", **capture))
    group.add("secondary capture, OT, nothing described", Refusal.MODALITY, silent(Modality="OT", **capture))
    only_chest = silent(Modality="OT", StudyDescription="Chest radiograph", **capture)
    group.add("secondary capture, OT, 'Chest radiograph' without a view: the pixels tell", READ, only_chest)
    group.add("secondary capture, DX, nothing described: the pixels tell", READ, silent(Modality="DX", **capture))
    scanned = silent(page(), Modality="OT", StudyDescription="Chest radiograph", **capture)
    group.add("secondary capture of a report page, 'Chest radiograph'", Refusal.PIXEL_GATE, scanned)
    for name, modality, sop_class in (
        ("CT", "CT", "2"), ("mammogram", "MG", "1.2"), ("ultrasound", "US", "6.1"), ("MR", "MR", "4"),
        ("fluoroscopy", "RF", "12.2"), ("dental", "IO", "1.3"), ("visible light", "XC", "77.1.4"),
    ):  # fmt: skip
        group.add(name, Refusal.MODALITY, stored(Modality=modality, SOPClassUID=UID(_CLASS + sop_class)))
    group.add("modality CR in a CT object", Refusal.MODALITY, stored(SOPClassUID=UID(_CLASS + "2")))
    group.add("modality CT in a CR object", Refusal.MODALITY, stored(Modality="CT"))
    private = stored(SOPClassUID=UID("1.2.840.113619.4.26"))
    group.add("private SOP Class of a vendor", Refusal.MODALITY, private)
    for name, modality, sop_class in (
        ("SR", "SR", "88.33"), ("presentation state", "PR", "11.1"), ("key object note", "KO", "88.59"),
        ("segmentation", "SEG", "66.4"), ("encapsulated PDF", "DOC", "104.1"),
    ):  # fmt: skip
        group.add(f"{name} alone", Refusal.MODALITY, accompanying(modality, sop_class))
    group.add("radiograph with a modality's dose SR", (READ, PASSED_OVER), beside("SR", "88.67"))
    group.add("radiograph with a presentation state", (READ, PASSED_OVER), beside("PR", "11.1"))
    group.add("radiograph with a key object note", (READ, PASSED_OVER), beside("KO", "88.59"))
    ours = beside("SR", "88.33", Manufacturer=MANUFACTURER)
    group.add("radiograph with our own measurement report", (READ, PASSED_OVER), ours)
    ours = beside("SEG", "66.4", Manufacturer=MANUFACTURER)
    group.add("radiograph with our own segmentation", (READ, PASSED_OVER), ours)
    ours = beside("OT", "7", Manufacturer=MANUFACTURER, ManufacturerModelName=MODEL_NAME)
    group.add("radiograph with our own heat map", (READ, PASSED_OVER), ours)
    named = {"Modality": "OT", "Manufacturer": MANUFACTURER, "ManufacturerModelName": "DR 7", **capture}
    group.add("secondary capture, OT, by another maker of our name", READ, stored(**named))
    return group


def intents() -> Group:
    """Presentation Intent Type, Image Type and frames."""
    group = Group("intent and processing")
    dx = Exposure(modality="DX")
    raw = {"SOPClassUID": UID(_CLASS + "1.1.1"), "PresentationIntentType": "FOR PROCESSING"}
    group.add("DX for processing", Refusal.INTENT, stored(None, dx, **raw))
    group.add("CR whose intent says FOR PROCESSING", Refusal.INTENT, stored(PresentationIntentType="FOR PROCESSING"))
    group.add("localizer", Refusal.INTENT, stored(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    for mark in ("BONE_SUPPRESSED", "BONE SUPPRESSED", "EDGE_ENHANCED", "SUBTRACTED", "SOFT_TISSUE"):
        group.add(f"Image Type {mark}", Refusal.INTENT, stored(ImageType=["DERIVED", "PRIMARY", mark]))
    for words in ("Chest PA Bone Suppression", "Chest PA soft tissue", "Chest PA dual energy bone"):
        marked = stored(ImageType=["DERIVED", "SECONDARY"], SeriesDescription=words)
        group.add(f"Series Description '{words}'", Refusal.INTENT, marked)
    group.add("derived, the only image, no mark", READ, stored(ImageType=["DERIVED", "PRIMARY"]))
    group.add("Image Type absent", READ, stored(ImageType=None))

    def frames(seed: str) -> list[bytes]:
        ds = instance(seed, NumberOfFrames=2)
        ds.PixelData = ds.PixelData * 2
        return [written(ds)]

    def pair(seed: str) -> list[bytes]:
        shown, unprocessed = instance(f"{seed}#b", None, dx), instance(f"{seed}#a", frontal() ** 0.5, dx, **raw)
        return [written(unprocessed), written(shown)]

    group.add("two frames", Refusal.MULTI_FRAME, frames)
    group.add("for processing and for presentation of one exposure", (Refusal.INTENT, READ), pair)
    return group

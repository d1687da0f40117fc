"""De-identified copies of radiographs and of our results, after the Basic Profile of PS3.15 annex E.

The rule: what becomes of an attribute is said by table E.1-1 (2026c, as ``dicom-anonymizer`` has it from the standard),
at any depth. What the table does not cover is not copied: other kinds of objects, and pixels that say that they hold
annotations. Identifiers become pseudonyms that follow from a key, so that a patient's studies and the results of an
image still belong together, also of copies that are made later, and only whoever has the key can find out whose.

Of the content of our reports those items are kept whose text no person wrote (Clean Structured Content Option).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from uuid import UUID

from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
from pydicom import DataElement, Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SegmentationStorage,
)

from dicom_sr import codes
from dicom_sr.equipment import dataset

RADIOGRAPHS = frozenset(
    {
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        DigitalXRayImageStorageForProcessing,
    }
)
RESULTS = frozenset({SegmentationStorage, Comprehensive3DSRStorage})
_METHOD = "PS3.15 2026c E.1-1 Basic Application Confidentiality Profile"
_PROFILE = ("113100", "Basic Application Confidentiality Profile")  # CID 7050
_CONTENT = ("113104", "Clean Structured Content Option")
# Texts of our reports that follow from models and findings alone. The name of a route is the site's.
_OUR_TEXTS = {
    name.value
    for name in (
        codes.TRACKING_IDENTIFIER, codes.ALGORITHM_NAME, codes.ALGORITHM_VERSION, codes.ALGORITHM_PARAMETERS,
        codes.DEVICE_OBSERVER_NAME, codes.DEVICE_OBSERVER_MANUFACTURER, codes.DEVICE_OBSERVER_MODEL_NAME,
        codes.REASON, codes.COMMENT, codes.IMPRESSION,
    )
}  # fmt: skip
_KEPT_ITEMS = frozenset({"CONTAINER", "CODE", "NUM", "IMAGE", "SCOORD", "SCOORD3D", "UIDREF"})
_DATES = {"DA": "19000101", "TM": "000000", "DT": "19000101000000"}
_TEXTS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_REMOVED = "REMOVED"


class NotCopied(ValueError):
    """An object of which no de-identified copy can be made; the message says why, and names no patient."""


@dataclass(frozen=True)
class Pseudonyms:
    """New identifiers for old ones, the same each time for one key.

    Parameters
    ----------
    key
        At least 16 random bytes, which stay with the site.
    """

    key: bytes

    def uid(self, uid: str) -> str:
        """Of a UUID (PS3.5 B.2)."""
        return f"2.25.{UUID(bytes=self._digest('uid', uid)[:16], version=5).int}"

    def patient(self, ds: Dataset) -> str:
        """Of the patient of an object: 80 bits of who they are here."""
        who = (str(ds.get("IssuerOfPatientID") or ""), str(ds.get("PatientID") or ""))
        if not who[1]:  # nobody says that two without an ID are one
            who = ("", f"study {ds.get('StudyInstanceUID')}")
        return f"HILUM-{self._digest('patient', *who)[:10].hex().upper()}"

    def _digest(self, kind: str, *values: str) -> bytes:
        return hmac.digest(self.key, "\0".join((kind, *values)).encode(), "sha256")


def deidentified(source: Dataset, pseudonyms: Pseudonyms) -> Dataset:
    """A copy of an object without what tells whose it is; the source is not changed, nor are the pixels.

    Raises
    ------
    NotCopied
    """
    sop_class = source.get("SOPClassUID")
    if sop_class not in RADIOGRAPHS | RESULTS:
        raise NotCopied(f"objects of the class {sop_class} are not copied")
    if str(source.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        raise NotCopied("text is burned into its pixels")
    copy = deepcopy(source)
    patient = pseudonyms.patient(source)
    _clean(copy, pseudonyms)
    copy.PatientName, copy.PatientID = patient, patient
    copy.PatientIdentityRemoved, copy.DeidentificationMethod = "YES", _METHOD
    options = (_PROFILE, _CONTENT) if sop_class == Comprehensive3DSRStorage else (_PROFILE,)
    copy.DeidentificationMethodCodeSequence = [
        dataset(CodeValue=value, CodingSchemeDesignator="DCM", CodeMeaning=meaning) for value, meaning in options
    ]
    copy.LongitudinalTemporalInformationModified = "REMOVED"
    syntax = source.file_meta.TransferSyntaxUID
    copy.preamble = b"\0" * 128
    copy.file_meta = FileMetaDataset()
    copy.file_meta.TransferSyntaxUID = syntax
    copy.file_meta.MediaStorageSOPClassUID, copy.file_meta.MediaStorageSOPInstanceUID = sop_class, copy.SOPInstanceUID
    return copy


def _clean(ds: Dataset, pseudonyms: Pseudonyms) -> None:
    ds.remove_private_tags()  # at any depth
    for element in list(ds):
        tag = (element.tag.group, element.tag.element)
        if element.keyword == "ContentSequence":
            element.value = [item for item in element.value if _is_kept(item)]
        elif (change := _ACTIONS.get(tag) or _repeating(tag)) is not None:
            change(ds, element, pseudonyms)
            continue
        elif element.VR in ("PN", "UN"):  # that the table does not know
            del ds[element.tag]
            continue
        if element.VR == "SQ":
            for item in element.value:
                _clean(item, pseudonyms)


def _is_kept(item: Dataset) -> bool:
    """Whether a content item is one of which no person wrote the text."""
    if item.get("ValueType") != "TEXT":
        return item.get("ValueType") in _KEPT_ITEMS
    name = item.get("ConceptNameCodeSequence") or [Dataset()]
    return name[0].get("CodeValue") in _OUR_TEXTS


# --- what table E.1-1 says, by its codes -----------------------------------------------------------------------------
_Change = Callable[[Dataset, DataElement, Pseudonyms], None]


def _remove(ds: Dataset, element: DataElement, _pseudonyms: Pseudonyms) -> None:
    del ds[element.tag]


def _empty(_ds: Dataset, element: DataElement, _pseudonyms: Pseudonyms) -> None:
    element.value = [] if element.VR == "SQ" else None


def _replace(ds: Dataset, element: DataElement, pseudonyms: Pseudonyms) -> None:
    """A value that says nothing, of the same kind."""
    if element.VR == "UI":
        _map(ds, element, pseudonyms)
    elif element.VR in _DATES:
        element.value = _DATES[element.VR]
    elif element.VR in _TEXTS:
        element.value = _REMOVED
    else:
        del ds[element.tag]


def _map(_ds: Dataset, element: DataElement, pseudonyms: Pseudonyms) -> None:
    if isinstance(element.value, MultiValue):
        element.value = [pseudonyms.uid(str(uid)) for uid in element.value]
    elif element.value:
        element.value = pseudonyms.uid(str(element.value))


def _map_within(_ds: Dataset, element: DataElement, pseudonyms: Pseudonyms) -> None:
    for item in element.value:
        _clean(item, pseudonyms)


_BY_CODE: tuple[tuple[list[tuple[int, ...]], _Change], ...] = (
    (table.X_TAGS, _remove),
    (table.Z_TAGS, _empty),
    (table.D_TAGS, _replace),
    (table.U_TAGS, _map),
    (table.Z_D_TAGS, _replace),
    (table.X_Z_TAGS, _empty),
    (table.X_D_TAGS, _remove),  # none of them is of type 1 in what is copied
    (table.X_Z_D_TAGS, _empty),
    (table.X_Z_U_STAR_TAGS, _map_within),
)
_REFERENCED_STUDY, _DEVICE_SERIAL_NUMBER, _CONTENT_CREATOR = (0x0008, 0x1110), (0x0018, 0x1000), (0x0070, 0x0084)
_ACTIONS: dict[tuple[int, ...], _Change] = {
    **{tag: change for tags, change in _BY_CODE for tag in tags if len(tag) == 2},
    _REFERENCED_STUDY: _remove,  # of type 3, and never without an item
    _DEVICE_SERIAL_NUMBER: _replace,  # of type 1 in a Segmentation
    _CONTENT_CREATOR: _empty,  # of type 2 there
}
_RANGES = [(tag, change) for tags, change in _BY_CODE for tag in tags if len(tag) == 4]


def _repeating(tag: tuple[int, int]) -> _Change | None:
    """What becomes of an attribute of a repeating group, such as overlays (60xx)."""
    for (group, element, of_group, of_element), change in _RANGES:
        if tag[0] & of_group == group & of_group and tag[1] & of_element == element & of_element:
            return change
    return None

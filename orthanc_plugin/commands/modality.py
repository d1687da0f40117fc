"""What a modality does: make radiographs into DICOM instances and send them by C-STORE.

The rule: an instance is sent as it is, whatever is wrong with it, and each one's fate is reported by itself.
"""

from __future__ import annotations

import hashlib
import ssl
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AE
from pynetdicom.presentation import build_context

from models.decoding import decode
from orthanc_plugin.commands.doors import ANYBODYS_AE_TITLE, own_ae_title
from orthanc_plugin.settings import Settings
from orthanc_plugin.trust import dicom_trust

CR_IMAGE_STORAGE = UID("1.2.840.10008.5.1.4.1.1.1")
DX_IMAGE_STORAGE = UID("1.2.840.10008.5.1.4.1.1.1.1")
MOST_CONTEXTS = 128  # of one association (PS3.8 9.3.2.2)

_VIEWS = {
    "PA": ("272479007", "postero-anterior"),
    "AP": ("399348003", "antero-posterior"),
    "LL": ("399173006", "left lateral"),
}


# Options of pydicom's encoders: 80 dB of PSNR, and an error of 2 at most for near-lossless. Each is named, because
# GDCM, which pydicom may try first, ends the process on an RLE image of odd size.
_PYDICOM_ENCODERS: dict[UID, dict[str, Any]] = {
    RLELossless: {"encoding_plugin": "pydicom"},
    JPEG2000Lossless: {"encoding_plugin": "pylibjpeg"},
    JPEG2000: {"encoding_plugin": "pylibjpeg", "j2k_psnr": [80]},
    JPEGLSLossless: {"encoding_plugin": "pyjpegls"},
    JPEGLSNearLossless: {"encoding_plugin": "pyjpegls", "jls_error": 2},
}
_LOSSY_METHODS = {  # PS3.3 C.7.6.1.1.5.1
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
    JPEG2000: "ISO_15444_1",
    HTJ2K: "ISO_15444_15",
}


@dataclass(frozen=True)
class Exposure:
    """How a radiograph is made into an instance.

    Parameters
    ----------
    modality
        ``CR`` or ``DX``.
    view
        ``PA``, ``AP`` or ``LL``.
    bits_stored
        8 to 16.
    monochrome1
        Store dense structures dark, to be inverted for display.
    seed
        Makes the UIDs; the same seed gives the same instance.
    study
        Instances of the same text belong to one study.
    """

    modality: str = "DX"
    view: str = "PA"
    bits_stored: int = 12
    monochrome1: bool = False
    seed: str = ""
    study: str = ""
    patient_name: str = "Hilum^Phantom"
    patient_id: str = "HILUM-PHANTOM"
    patient_sex: str = "O"
    patient_age: str = "050Y"
    study_description: str = "Chest radiograph"


def radiograph(pixels: npt.NDArray[Any], exposure: Exposure) -> Dataset:
    """Wrap a picture as a complete CR or DX instance, Explicit VR Little Endian.

    Parameters
    ----------
    pixels
        Shape (rows, columns): floats from 0 to 1, or bytes; dense structures bright.
    """
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    dx = exposure.modality == "DX"
    ds.SOPClassUID = DX_IMAGE_STORAGE if dx else CR_IMAGE_STORAGE
    ds.SOPInstanceUID = _uid("instance", exposure.seed)
    ds.StudyInstanceUID = _uid("study", exposure.study or exposure.seed)
    ds.SeriesInstanceUID = _uid("series", exposure.seed)
    ds.PatientName, ds.PatientID = exposure.patient_name, exposure.patient_id
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "", exposure.patient_sex, exposure.patient_age
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20260102", "030405", "1", "PHANTOM"
    ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = ds.StudyDate
    ds.SeriesTime = ds.ContentTime = ds.StudyTime
    ds.AcquisitionTime = _time_of(exposure.seed)
    ds.ReferringPhysicianName, ds.StudyDescription = "", exposure.study_description
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = exposure.modality, "Hilum phantom works", "Phantom"
    ds.SeriesNumber, ds.InstanceNumber = "1", "1"
    ds.SeriesDescription = f"Chest {exposure.view}"
    ds.BodyPartExamined, ds.ViewPosition = "CHEST", exposure.view
    ds.PatientOrientation = ["A", "F"] if exposure.view == "LL" else ["L", "F"]
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""] if dx else ["ORIGINAL", "PRIMARY"]
    ds.ImagerPixelSpacing = [f"{430 / max(pixels.shape):.4f}"] * 2
    if dx:
        _add_digital_radiography(ds, exposure)
    _add_pixels(ds, pixels, exposure)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def encode_as(ds: Dataset, transfer_syntax_uid: str) -> Dataset:
    """Change an uncompressed little endian instance of one grayscale frame to another transfer syntax, in place.

    JPEG Baseline takes 8 bits, JPEG Extended 12 at most. The SOP Instance UID stays, as if the modality itself had
    stored it so; what lost information says so in its header.

    Raises
    ------
    ValueError
        When the syntax cannot hold these pixels.
    """
    syntax = UID(transfer_syntax_uid)
    values = decode(ds)
    if syntax == ExplicitVRBigEndian:
        if ds.BitsAllocated == 16:  # other words of 16 bits are not in what `radiograph` makes
            ds.PixelData = values.astype(values.dtype.newbyteorder(">")).tobytes()
            ds["PixelData"].VR = "OW"
        ds.file_meta.TransferSyntaxUID = syntax
    elif not syntax.is_encapsulated:
        ds.file_meta.TransferSyntaxUID = syntax
    elif syntax in _PYDICOM_ENCODERS:
        ds.compress(syntax, values, generate_instance_uid=False, **_PYDICOM_ENCODERS[syntax])
    else:
        ds.PixelData = encapsulate([_codestream(values, int(ds.BitsStored), syntax)])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.file_meta.TransferSyntaxUID = syntax
    if method := _LOSSY_METHODS.get(syntax):
        ds.LossyImageCompression, ds.LossyImageCompressionMethod = "01", method
        ds.LossyImageCompressionRatio = f"{values.nbytes / len(ds.PixelData):.2f}"
    return ds


def _codestream(values: npt.NDArray[Any], bits_stored: int, syntax: UID) -> bytes:
    """Encode with libjpeg-turbo or OpenJPH what pydicom cannot."""
    if syntax in (HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K):
        return _high_throughput(values, bits_stored, reversible=syntax != HTJ2K)
    most = {JPEGBaseline8Bit: 8, JPEGExtended12Bit: 12}.get(syntax, 16)
    if bits_stored > most or (most < 16 and values.dtype.kind == "i"):
        raise ValueError(f"{syntax.name} cannot hold {bits_stored} bits of {values.dtype}")
    cells = values.view(f"u{values.dtype.itemsize}") & (2**bits_stored - 1)  # JPEG knows no sign (PS3.5 8.2.1)
    if most < 16:
        precision = 8 if bits_stored == 8 else 12  # ITU-T T.81 knows no other
        cells = cells.astype(np.uint8 if precision == 8 else np.uint16)
        return bytes(imagecodecs.jpeg8_encode(cells, 95, bitspersample=precision))
    # Process 14 allows seven predictors, Selection Value 1 the first alone (PS3.5 10.2).
    predictor = 1 if syntax == JPEGLosslessSV1 else 6
    return bytes(imagecodecs.jpeg8_encode(cells, lossless=True, predictor=predictor, bitspersample=bits_stored))


def _high_throughput(values: npt.NDArray[Any], bits_stored: int, *, reversible: bool) -> bytes:
    """HTJ2K in RPCL order with tile-part lengths; fit for each of its three syntaxes (PS3.5 10.17 and A.4.6).

    The encoder knows 8 and 16 bits only. Unsigned values are given to it as signed ones around zero, which is what
    JPEG 2000 makes of them anyway (the DC level shift, ITU-T T.800 G.1); SIZ then tells their true depth and sign.
    """
    signed = values.dtype.kind == "i"
    centred = values.astype(np.int32) - (0 if signed else 2 ** (bits_stored - 1))
    if not reversible:
        centred <<= 8 * values.itemsize - bits_stored  # quantisation is relative to the depth (T.800 E.1)
    levels = max(1, int(np.ceil(np.log2(max(values.shape) / 64)))) + 1  # the smallest picture is 64 x 64 at most
    codestream = bytearray(
        imagecodecs.htj2k_encode(
            centred.astype(f"i{values.dtype.itemsize}"),
            None if reversible else 2.0**-bits_stored,  # one stored value for each quantisation step
            reversible=reversible,
            resolutions=levels,
            tlm=True,
        )
    )
    codestream[42] = (bits_stored - 1) | (0x80 if signed else 0)  # Ssiz (T.800 A.5.1)
    return bytes(codestream)


@dataclass(frozen=True)
class SendOutcome:
    """What became of one instance.

    Parameters
    ----------
    name
        File name, or the SOP Instance UID of an instance in memory.
    error
        What went wrong, for people; empty when it was accepted.
    answered_at
        When the C-STORE response came, in seconds since 1970.
    """

    name: str
    sop_instance_uid: str
    study_instance_uid: str
    accepted: bool
    error: str = ""
    answered_at: float = 0.0


@dataclass(frozen=True)
class Caller:
    """As whom to call, and how.

    Parameters
    ----------
    tls
        What is asked of who answers, and shown to them; None: without TLS.
    """

    ae_title: str
    tls: ssl.SSLContext | None = None

    def entity(self) -> AE:
        """An application entity that calls so."""
        return AE(ae_title=self.ae_title)

    @property
    def tls_args(self) -> tuple[ssl.SSLContext, str] | None:
        """As pynetdicom takes it."""
        return None if self.tls is None else (self.tls, "localhost")


ANYBODY = Caller(ANYBODYS_AE_TITLE)


def caller_of(settings: Settings) -> Caller:
    """How a program of the node calls the node."""
    return Caller(own_ae_title(settings), dicom_trust(settings))


def send_files(
    paths: Sequence[Path], host: str, port: int, ae_title: str, caller: Caller = ANYBODY
) -> Iterator[SendOutcome]:
    """Send DICOM files and folders of them; what cannot be read is reported, not skipped in silence."""
    readable: list[tuple[str, Dataset]] = []
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in inside:
            try:
                ds = dcmread(file)
                ds.file_meta.TransferSyntaxUID, ds.SOPClassUID, ds.SOPInstanceUID  # noqa: B018  (required to send)
                readable.append((str(file), ds))
            except (InvalidDicomError, OSError, EOFError, AttributeError, ValueError) as error:
                yield SendOutcome(
                    str(file), "", "", False, f"not a DICOM file that can be sent ({type(error).__name__})"
                )
            if len(readable) >= 64:
                yield from _send(readable, host, port, ae_title, caller)
                readable = []
    yield from _send(readable, host, port, ae_title, caller)


def send(
    datasets: Iterable[Dataset], host: str, port: int, ae_title: str, caller: Caller = ANYBODY
) -> Iterator[SendOutcome]:
    """Send instances from memory over one association, each in the transfer syntax that it has."""
    yield from _send([(str(ds.SOPInstanceUID), ds) for ds in datasets], host, port, ae_title, caller)


def _send(
    instances: list[tuple[str, Dataset]], host: str, port: int, ae_title: str, caller: Caller
) -> Iterator[SendOutcome]:
    if not instances:
        return
    ae = caller.entity()
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    pairs = list(dict.fromkeys((str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID)) for _, ds in instances))
    contexts = [build_context(sop_class, [syntax]) for sop_class, syntax in pairs[:MOST_CONTEXTS]]
    association = ae.associate(host, port, contexts=contexts, ae_title=ae_title, tls_args=caller.tls_args)
    if not association.is_established:
        why = f"no association with {ae_title} on port {port}: is the node up, and does it take such objects?"
        for name, ds in instances:
            yield _outcome(name, ds, why)
        return
    try:
        for name, ds in instances:
            yield _outcome(name, ds, _store(association, ds))
    finally:
        association.release()


def _store(association: Any, ds: Dataset) -> str:
    """Send one instance; returns what went wrong, or nothing."""
    try:
        status = association.send_c_store(ds)
    except (ValueError, RuntimeError, AttributeError, TypeError) as error:
        return f"it could not be sent: {error}"
    if not status:
        return "the node did not answer"
    code = int(status.Status)
    accepted = code == 0 or code & 0xF000 == 0xB000  # PS3.4 B.2.3: warnings mean that it was stored
    return "" if accepted else f"the node refused it with status 0x{code:04X}"


def _outcome(name: str, ds: Dataset, error: str) -> SendOutcome:
    return SendOutcome(name, str(ds.SOPInstanceUID), str(ds.get("StudyInstanceUID", "")), not error, error, time.time())


def _add_pixels(ds: Dataset, pixels: npt.NDArray[Any], exposure: Exposure) -> None:
    most = 2**exposure.bits_stored - 1
    share = pixels.astype(np.float64) / (255.0 if pixels.dtype == np.uint8 else 1.0)
    stored = np.round(np.clip(share, 0, 1) * most)
    if exposure.monochrome1:
        stored = most - stored
    allocated = 8 if exposure.bits_stored == 8 else 16
    ds.SamplesPerPixel, ds.Rows, ds.Columns = 1, *pixels.shape
    ds.PhotometricInterpretation = "MONOCHROME1" if exposure.monochrome1 else "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, exposure.bits_stored, exposure.bits_stored - 1
    ds.PixelRepresentation = 0
    ds.WindowCenter, ds.WindowWidth = str(2 ** (exposure.bits_stored - 1)), str(most + 1)
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    if exposure.modality == "DX":
        ds.PresentationLUTShape = "INVERSE" if exposure.monochrome1 else "IDENTITY"
    data = stored.astype(np.uint8 if allocated == 8 else "<u2").tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB" if allocated == 8 else "OW"


def _add_digital_radiography(ds: Dataset, exposure: Exposure) -> None:
    """Type 1 attributes of DX (PS3.3 A.26)."""
    code, meaning = _VIEWS[exposure.view]
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.ImageLaterality = "U"
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1 if exposure.monochrome1 else 1
    ds.DetectorType, ds.PositionerType = "DIRECT", "NONE"
    ds.AcquisitionContextSequence = []
    ds.AnatomicRegionSequence = [_code("816094009", "Chest")]
    ds.AnatomicRegionSequence[0].CodingSchemeDesignator = "SCT"
    ds.ViewCodeSequence = [_code(code, meaning)]
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = []


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def _time_of(seed: str) -> str:
    """A time of day (TM) for each seed: two exposures are not made in the same second."""
    number = int.from_bytes(hashlib.sha256(f"time/{seed or uuid.uuid4()}".encode()).digest()[:4]) % 86400
    return f"{number // 3600:02d}{number % 3600 // 60:02d}{number % 60:02d}"


def _uid(role: str, seed: str) -> str:
    if not seed:
        return f"2.25.{uuid.uuid4().int}"
    return f"2.25.{uuid.UUID(bytes=hashlib.sha256(f'{role}/{seed}'.encode()).digest()[:16], version=4).int}"

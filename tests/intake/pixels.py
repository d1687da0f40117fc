"""Inputs that differ in what their pixels are: orientation, geometry, content, transfer syntaxes."""

from __future__ import annotations

import numpy as np
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    MPEG2MPML,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from models.refusal import Refusal
from orthanc_plugin.commands.modality import Exposure, encode_as

from .case import READ, Group, Maker, instance, silent, stored, written
from .pictures import Picture, ct_slice, framed, frontal, hip, ill, noise, page, photograph, wedge


def orientations() -> Group:
    """The eight ways to store a frontal chest, with headers that say so, and with headers that do not."""
    group = Group("orientation")
    hung = frontal(2, rows=400, columns=360)
    # Pixel [i, j] of each lies where Patient Orientation puts it (PS3.3 C.7.6.1.1.1): j along the first direction,
    # i along the second; `hung` itself runs to the patient's left and to the feet.
    ways = {
        "L\\F": (hung, "hung"),
        "R\\F": (hung[:, ::-1], "mirrored"),
        "L\\H": (hung[::-1], "upside down, mirrored"),
        "R\\H": (hung[::-1, ::-1], "upside down"),
        "F\\L": (hung.T, "on its side, mirrored"),
        "H\\L": (hung[::-1].T, "on its side"),
        "F\\R": (hung[:, ::-1].T, "on its side, the other way"),
        "H\\R": (hung[::-1, ::-1].T, "on its side, the other way, mirrored"),
    }
    for way, (pixels, words) in ways.items():
        told = stored(pixels, PatientOrientation=way.split("\\"))
        group.add(f"{way}: stored {words}, and the header says so", READ, told)
    for way, (pixels, words) in ways.items():
        if way != "L\\F":
            group.add(f"stored {words}, the header says L\\F", Refusal.ORIENTATION, stored(pixels))
    untold = stored(hung[:, ::-1], PatientOrientation=None)
    group.add("stored mirrored, Patient Orientation absent", Refusal.ORIENTATION, untold)
    wrong = stored(hung, PatientOrientation=["R", "F"])
    group.add("stored hung, the header says R\\F", Refusal.ORIENTATION, wrong)
    group.add("directions of two letters, LH\\FP", READ, stored(PatientOrientation=["LH", "FP"]))
    group.add("directions in lower case", READ, stored(PatientOrientation=["l", "f"]))
    group.add("directions that contradict each other, L\\L", READ, stored(PatientOrientation=["L", "L"]))
    group.add("Patient Orientation with one value", READ, stored(PatientOrientation=["L"]))
    return group


def geometry() -> Group:
    """Size, proportions, collimation."""
    group = Group("geometry")
    wide = _resized(frontal(), 400, 200)
    group.add("pixels twice as wide as high", READ, stored(wide, ImagerPixelSpacing=["1.075", "2.15"]))
    ratio = stored(wide, ImagerPixelSpacing=None, PixelAspectRatio=["1", "2"])
    group.add("Pixel Aspect Ratio 1:2, no spacing", READ, ratio)
    group.add("Pixel Aspect Ratio 1:90", Refusal.UNREADABLE_HEADER, stored(PixelAspectRatio=["1", "90"]))
    group.add("landscape, 400 x 480", READ, stored(frontal(3, rows=400, columns=480)))
    group.add("odd number of rows and columns", READ, stored(frontal(4, rows=401, columns=353)))
    group.add("64 x 64 pixels", Refusal.QUALITY, stored(_resized(frontal(), 64, 64)))
    group.add("40,000 x 40,000 in the header alone", Refusal.UNREADABLE_PIXELS, stored(Rows=40000, Columns=40000))
    group.add("Rows 0", Refusal.UNREADABLE_PIXELS, stored(Rows=0))
    group.add("collimated to a third of the detector", READ, stored(framed(frontal(), 150, 0.0)), "collimated")
    group.add("white margin of an export", READ, stored(framed(frontal(), 30, 1.0)))
    group.add("side marker burned in", READ, stored(_marked(frontal())))
    cut = stored(frontal(5)[:240])
    group.add("bases of the lungs cut off", READ, cut, "lungs_cut_off")
    return group


def contents() -> Group:
    """Pixels that are absent, broken, or something else than the header says."""
    group = Group("pixels")
    group.add("absent", Refusal.UNREADABLE_PIXELS, stored(PixelData=None))
    group.add("empty", Refusal.UNREADABLE_PIXELS, stored(PixelData=b""))
    group.add("truncated to a half", Refusal.UNREADABLE_PIXELS, _truncated)
    group.add("file that ends in the header", Refusal.UNREADABLE_HEADER, lambda seed: [written(instance(seed))[:700]])
    group.add("no DICOM at all", Refusal.UNREADABLE_HEADER, lambda _seed: [b"%PDF-1.4 a report\n" * 100])
    group.add("SOP Instance UID absent", Refusal.UNREADABLE_HEADER, _without_uid)
    group.add("Rows is no number", Refusal.UNREADABLE_HEADER, _odd_frames)
    group.add("constant", Refusal.UNREADABLE_PIXELS, stored(np.full((400, 400), 0.5, np.float32)))
    group.add("black and white only", Refusal.QUALITY, stored((frontal() > 0.5).astype(np.float32)))
    group.add("colour", Refusal.UNREADABLE_PIXELS, _colour)
    group.add("32 bits allocated", Refusal.UNREADABLE_PIXELS, stored(BitsAllocated=32, BitsStored=32, HighBit=31))
    others: tuple[tuple[str, Picture], ...] = (
        ("report page", page()), ("noise", noise()), ("CT slice", ct_slice()), ("portrait photograph", photograph()),
        ("test pattern", wedge()), ("right half of a chest", frontal()[:, :200]),
        ("left half of a chest", frontal()[:, 200:]), ("upper half of a chest", frontal()[:200]),
        ("apex of one lung, enlarged", frontal()[40:160, 60:190]),
    )  # fmt: skip
    for name, picture in others:
        group.add(f"{name}, described as a PA chest", Refusal.VIEW_CONFLICT, stored(picture))
    for name, picture in (("noise", noise()), ("test pattern", wedge()), ("hip", hip())):
        undescribed = silent(picture, BodyPartExamined="CHEST")
        group.add(f"{name}, view not described", Refusal.PIXEL_GATE, undescribed)
    return group


def diseases() -> Group:
    """Findings that change the picture much, and must not pass for a wrong picture."""
    group = Group("disease")
    for kind in ("pneumothorax", "effusion", "lung_opacity"):
        group.add(f"large {kind.replace('_', ' ')}", READ, stored(ill(kind)))
    group.add("very large heart", READ, stored(ill("", heart=1.5)))
    group.add("large effusion and heart, portable AP", READ, stored(ill("effusion", heart=1.4), ViewPosition="AP"))
    return group


def transfer_syntaxes() -> Group:
    """How the pixels are encoded (PS3.5 10 and Annex A)."""
    group = Group("transfer syntaxes")
    for syntax, bits in (
        (ImplicitVRLittleEndian, 12), (ExplicitVRBigEndian, 12), (DeflatedExplicitVRLittleEndian, 12),
        (RLELossless, 12), (JPEGBaseline8Bit, 8), (JPEGExtended12Bit, 12), (JPEGLosslessSV1, 14),
        (JPEGLSLossless, 12), (JPEGLSNearLossless, 12), (JPEG2000Lossless, 16), (JPEG2000, 12), (HTJ2KLossless, 12),
        (HTJ2K, 12),
    ):  # fmt: skip
        group.add(f"{syntax.name}, {bits} bits", READ, _encoded(syntax, bits))
    unreadable = Refusal.UNREADABLE_PIXELS
    group.add("JPEG 2000 that breaks off", unreadable, _encoded(JPEG2000Lossless, 12, keep=0.4))
    group.add("JPEG 2000 of another size than the header's", unreadable, _encoded(JPEG2000Lossless, 12, Rows=500))
    group.add("RLE that breaks off", unreadable, _encoded(RLELossless, 12, keep=0.4))
    group.add("video, MPEG-2", unreadable, _mislabelled(MPEG2MPML))
    group.add("JPEG of random bytes", unreadable, _mislabelled(JPEGBaseline8Bit))
    group.add("private transfer syntax", unreadable, _mislabelled(UID("1.2.840.113619.5.2")))
    return group


def _resized(picture: Picture, rows: int, columns: int) -> Picture:
    return np.asarray(Image.fromarray(picture).resize((columns, rows), Image.Resampling.BILINEAR))


def _marked(picture: Picture) -> Picture:
    marked = picture.copy()
    marked[24:60, 350:358] = marked[52:60, 350:374] = 1.0  # an L beside the patient's left shoulder
    return marked


def _truncated(seed: str) -> list[bytes]:
    ds = instance(seed)
    ds.PixelData = ds.PixelData[: len(ds.PixelData) // 2]
    return [written(ds)]


def _without_uid(seed: str) -> list[bytes]:
    ds = instance(seed)
    del ds.SOPInstanceUID
    return [written(ds)]


def _odd_frames(seed: str) -> list[bytes]:
    """Number of Frames, an IS, holds letters of the same length."""
    content = written(instance(seed, NumberOfFrames="1234"))
    return [content.replace(b"IS\x04\x001234", b"IS\x04\x00many")]


def _colour(seed: str) -> list[bytes]:
    ds = instance(seed, None, Exposure(modality="CR", bits_stored=8), SamplesPerPixel=3, PlanarConfiguration=0)
    ds.PhotometricInterpretation, ds.PixelData = "RGB", ds.PixelData * 3
    return [written(ds)]


def _encoded(syntax: UID, bits: int, *, keep: float = 1.0, **attributes: int) -> Maker:
    def made(seed: str) -> list[bytes]:
        ds = encode_as(instance(seed, None, Exposure(modality="CR", bits_stored=bits)), syntax)
        if keep < 1:
            header = 8 + 8 + 4 * 0  # item tag and length of an empty Basic Offset Table, then of the fragment
            codestream = ds.PixelData[header:]
            ds.PixelData = encapsulate([codestream[: int(len(codestream) * keep) // 2 * 2]])
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        return [written(ds)]

    return made


def _mislabelled(syntax: UID) -> Maker:
    """Random bytes under a transfer syntax."""

    def made(seed: str) -> list[bytes]:
        ds = instance(seed, None, Exposure(modality="CR", bits_stored=8))
        ds.PixelData = encapsulate([np.random.default_rng(9).bytes(4000)])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.file_meta.TransferSyntaxUID = syntax
        return [written(ds)]

    return made

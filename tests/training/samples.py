"""Tiny samples of every data set, in the files and folders of its download, computed from phantoms.

The rule: names, headers, columns, sizes and encodings are those of the download; only the number of patients and the
pictures are not. Every class has patients enough to be trained and validated on for one epoch.
"""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

from models.phantom import Pathology, Phantom, chest
from training.readers.chexpert import COLUMNS as CHEXPERT_COLUMNS
from training.readers.run_lengths import encode

Mask = npt.NDArray[np.bool_]
SOURCE_SIZE = 512  # pixels of the phantoms, from which every picture is made
PATHOLOGIES = {
    "normal": (),
    "lung_opacity": (Pathology("lung_opacity", size=0.7),),
    "pneumothorax": (Pathology("pneumothorax", right=False, size=0.7),),
    "effusion": (Pathology("effusion", right=False, size=0.6),),
    "nodule": (Pathology("nodule", size=0.8, height=0.4),),
}


@functools.cache
def phantom(kind: str) -> Phantom:
    """The phantom with one of `PATHOLOGIES`; all pictures of that kind are variants of it."""
    return chest(list(PATHOLOGIES).index(kind), rows=SOURCE_SIZE, columns=SOURCE_SIZE, pathologies=PATHOLOGIES[kind])


def picture(kind: str, variant: int, rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """A radiograph of shape (rows, columns), exposed and processed in its own way."""
    rng = np.random.default_rng(variant)
    exposed = phantom(kind).pixels ** rng.uniform(0.8, 1.25) + rng.normal(0.0, 0.01, (SOURCE_SIZE, SOURCE_SIZE))
    grays = Image.fromarray((np.clip(exposed, 0.0, 1.0) * 255).astype(np.uint8))
    return np.asarray(grays.resize((columns, rows), Image.Resampling.BICUBIC))


def mask(kind: str, key: str, rows: int, columns: int) -> Mask:
    """The truth of such a radiograph: the heart, a lung, or the pathology of its kind."""
    drawn = Image.fromarray(phantom(kind).masks[key].astype(np.uint8) * 255)
    return np.asarray(drawn.resize((columns, rows), Image.Resampling.NEAREST)) > 0


def box(kind: str, rows: int, columns: int) -> tuple[float, float, float, float]:
    """x, y, width and height of the pathology of its kind."""
    down, across = (np.flatnonzero(mask(kind, kind, rows, columns).any(axis)) for axis in (1, 0))
    return float(across[0]), float(down[0]), float(np.ptp(across) + 1), float(np.ptp(down) + 1)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def write_picture(path: Path, pixels: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = pixels.astype(np.uint8) * 255 if pixels.dtype == np.bool_ else pixels
    Image.fromarray(values).save(path, compress_level=1)  # of PNG files; the others do not know it


@disable_value_validation()  # the downloads have ages without a unit and study names that are no UIDs
def write_dicom(path: Path, pixels: npt.NDArray[Any], *, jpeg: bool, **attributes: object) -> None:
    """A radiograph as DICOM: 8 bits in JPEG baseline, as RSNA and SIIM-ACR have it, or plain with 12 bits."""
    ds = Dataset()
    ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = (generate_uid() for _ in range(3))
    ds.Modality, ds.BodyPartExamined = "CR", "CHEST"
    ds.PatientName, ds.PatientID, ds.StudyDate = "", "", "19010101"
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored = (8, 8) if jpeg else (16, 12)
    ds.HighBit = ds.BitsStored - 1
    if jpeg:
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "JPEG", quality=90)
        ds.PixelData = encapsulate([encoded.getvalue()])
    else:
        ds.PixelData = (pixels.astype("<u2") << 4).tobytes()
    ds["PixelData"].VR = "OB" if jpeg else "OW"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def nih(folder: Path, *, first_edition: bool = False) -> Path:
    """16 images of 12 patients; the first edition has ages like ``058Y`` and a comma at the end of each line."""
    named = {
        "normal": "No Finding", "lung_opacity": "Infiltration|Pneumonia", "pneumothorax": "Pneumothorax",
        "effusion": "Effusion|Cardiomegaly", "nodule": "Nodule",
    }  # fmt: skip
    rows: list[list[object]] = []
    boxes: list[list[object]] = []
    lists: dict[str, list[str]] = {"train_val_list.txt": [], "test_list.txt": []}
    for patient in range(1, 13):
        for follow_up in range(2 if patient % 3 == 0 else 1):
            kind = list(named)[(patient + follow_up) % 5]
            name = f"{patient:08d}_{follow_up:03d}.png"
            write_picture(
                folder / f"images_{1 + patient // 7:03d}" / "images" / name, picture(kind, patient, 1024, 1024)
            )
            age = f"0{50 + patient}Y" if first_edition else 50 + patient
            rows.append([name, named[kind], follow_up, patient, age, "MF"[patient % 2], ("PA", "AP")[patient % 2],
                         2500, 2048, 0.168, 0.168])  # fmt: skip
            if kind in {"lung_opacity", "pneumothorax"}:
                finding = {"lung_opacity": "Infiltrate"}.get(kind, "Pneumothorax")
                boxes.append([name, finding, *box(kind, 1024, 1024), "", "", ""])
            lists["test_list.txt" if patient > 9 else "train_val_list.txt"].append(name)
    header = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender",
              "View Position", "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]"]  # fmt: skip
    if first_edition:
        write_table(folder / "Data_Entry_2017.csv", [*header, ""], [[*row, ""] for row in rows])
    else:
        write_table(folder / "Data_Entry_2017_v2020.csv", header, rows)
    write_table(
        folder / "BBox_List_2017.csv", ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]", "", "", ""], boxes
    )
    for list_name, names in lists.items():
        (folder / list_name).write_text("\n".join(names))
    return folder


def chexpert(folder: Path) -> Path:
    """10 patients to train, some with a lateral view or a second study, and 4 to validate; v1.0-small."""
    home = folder / "CheXpert-v1.0-small"
    header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_COLUMNS.values()]
    told: dict[str, dict[str, str]] = {
        "normal": {"no_finding": "1.0", "support_devices": "1.0"},
        "lung_opacity": {"lung_opacity": "1.0", "consolidation": "-1.0", "pneumonia": "-1.0"},
        "pneumothorax": {"pneumothorax": "1.0", "atelectasis": "-1.0", "effusion": "0.0"},
        "effusion": {"effusion": "1.0", "cardiomegaly": "-1.0", "pneumothorax": "0.0"},
        "nodule": {"lung_lesion": "1.0", "edema": "0.0", "enlarged_cardiomediastinum": "0.0"},
    }
    for split, first, count in (("train", 1, 10), ("valid", 64541, 4)):
        rows: list[list[object]] = []
        for number in range(first, first + count):
            kind = list(told)[number % 5]
            views = [(1, 1, "frontal")] + [(1, 2, "lateral")] * (number % 2) + [(2, 1, "frontal")] * (number % 3 == 0)
            for study, view, projection in views:
                path = f"{split}/patient{number:05d}/study{study}/view{view}_{projection}.jpg"
                rows_, columns = (390, 320) if projection == "lateral" else (320, 390)
                write_picture(home / path, picture(kind, number, rows_, columns))
                labels = [told[kind].get(key, "0.0" if split == "valid" else "") for key in CHEXPERT_COLUMNS]
                if split == "valid":  # read by radiologists: nothing is uncertain, nothing left open
                    labels = [label.replace("-1.0", "1.0") for label in labels]
                side = ("AP", "PA")[number % 2] if projection == "frontal" else ""
                rows.append([f"{home.name}/{path}", ("Female", "Male")[number % 2], 40 + number % 50,
                             projection.capitalize(), side, *labels])  # fmt: skip
        write_table(home / f"{split}.csv", header, rows)
    return folder


def siim_acr(folder: Path) -> Path:
    """10 images, 5 with a pneumothorax; of one the mask comes in two rows."""
    rows = []
    for number in range(10):
        kind = ("normal", "pneumothorax")[number % 2]
        study, series, image = (f"1.2.276.0.7230010.3.1.{level}.8323329.{number}" for level in (2, 3, 4))
        path = folder / "dicom-images-train" / study / series / f"{image}.dcm"
        write_dicom(path, picture(kind, number, 1024, 1024), jpeg=True, PatientID=f"patient-{number}",
                    StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID=image, PatientAge=str(30 + number),
                    PatientSex="MF"[number % 2], ViewPosition=("PA", "AP")[number % 2])  # fmt: skip
        if kind == "normal":
            rows.append([image, "-1" if number else " -1"])
            continue
        whole = mask(kind, kind, 1024, 1024)
        halves = [np.zeros_like(whole), np.zeros_like(whole)]
        middle = int(np.flatnonzero(whole.any(1)).mean())
        halves[0][:middle], halves[1][middle:] = whole[:middle], whole[middle:]
        rows += [[image, encode(part).text] for part in (halves if number == 1 else [whole])]
    write_table(folder / "train-rle.csv", ["ImageId", " EncodedPixels"], rows)
    return folder


def covid19(folder: Path) -> Path:
    """12 studies, 3 of each appearance; one positive and one negative study have a second image."""
    columns = ["Negative for Pneumonia", "Typical Appearance", "Indeterminate Appearance", "Atypical Appearance"]
    kinds = ["normal", "lung_opacity", "lung_opacity", "effusion"]
    studies, images = [], []
    for number in range(12):
        appearance = number % 4
        study = f"{number:012x}"
        studies.append([f"{study}_study", *(int(place == appearance) for place in range(4))])
        rows, across = 1200 + 16 * number, 1440
        for view in range(2 if number < 2 else 1):
            name = f"{number:06x}{view:06x}"
            series = folder / "train" / study / f"{number:08x}{view:04x}"
            write_dicom(series / f"{name}.dcm", picture(kinds[appearance], number, rows, across), jpeg=False,
                        PatientID=f"patient{number:05x}", PatientSex="MF"[number % 2], StudyInstanceUID=study,
                        BodyPartExamined=("CHEST", "PORT CHEST", "")[number % 3])  # fmt: skip
            drawn, label = "", "none 1 0 0 1 1"
            if kinds[appearance] == "lung_opacity" and view == 0:
                x, y, wide, high = box("lung_opacity", rows, across)
                drawn = str([{"x": x, "y": y, "width": wide, "height": high}])
                label = f"opacity 1 {x} {y} {x + wide} {y + high}"
            images.append([f"{name}_image", drawn, label, study])
    write_table(folder / "train_study_level.csv", ["id", *columns], studies)
    write_table(folder / "train_image_level.csv", ["id", "boxes", "label", "StudyInstanceUID"], images)
    return folder


def rsna(folder: Path) -> Path:
    """9 images of 8 patients of ChestX-ray14, 3 of each class; one has two boxes."""
    labels, classes, mapping = [], [], []
    told = {"normal": "Normal", "nodule": "No Lung Opacity / Not Normal", "lung_opacity": "Lung Opacity"}
    for number in range(9):
        kind = list(told)[number % 3]
        name = f"{number:08x}-84e7-4a44-b58a-5e7a2d3f2c6a"
        write_dicom(folder / "stage_2_train_images" / f"{name}.dcm", picture(kind, number, 1024, 1024), jpeg=True,
                    PatientID=name, PatientAge=str(40 + number), PatientSex="MF"[number % 2],
                    ViewPosition=("PA", "AP")[number % 2])  # fmt: skip
        boxes: list[Sequence[object]] = [("", "", "", "")]
        if kind == "lung_opacity":
            boxes = [box(kind, 1024, 1024)] + [(600.0, 300.0, 150.0, 200.0)] * (number == 2)
        labels += [[name, *corners, int(kind == "lung_opacity")] for corners in boxes]
        classes += [[name, told[kind]]] * len(boxes)
        mapping.append({"subset_img_id": name, "img_id": f"{max(number, 1):08d}_{number:03d}.png"})
    write_table(folder / "stage_2_train_labels.csv", ["patientId", "x", "y", "width", "height", "Target"], labels)
    write_table(folder / "stage_2_detailed_class_info.csv", ["patientId", "class"], classes)
    (folder / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(mapping))
    return folder


def masks(folder: Path) -> Path:
    """Montgomery, Shenzhen and JSRT with SCR: 4, 3 and 3 images; Montgomery and Shenzhen at a quarter of their size."""
    kinds = ["normal", "nodule", "lung_opacity", "effusion"]
    for number, kind in enumerate(kinds):
        ill = int(kind != "normal")
        home, name = folder / "MontgomerySet", f"MCUCXR_{number + 1:04d}_{ill}"
        write_picture(home / "CXR_png" / f"{name}.png", picture(kind, number, 1005, 1223))
        for side in ("right", "left"):
            write_picture(home / "ManualMask" / f"{side}Mask" / f"{name}.png", mask(kind, f"lung_{side}", 1005, 1223))
        write_text(
            home / "ClinicalReadings" / f"{name}.txt", f"Patient's Sex: F \nPatient's Age: 0{30 + number}Y\nnormal"
        )
        if number == 3:
            break
        home, name = folder / "ChinaSet_AllFiles", f"CHNCXR_{number + 1:04d}_{ill}"
        write_picture(home / "CXR_png" / f"{name}.png", picture(kind, 10 + number, 740, 750))
        lungs = mask(kind, "lung_right", 740, 750) | mask(kind, "lung_left", 740, 750)
        write_picture(home / "mask" / f"{name}_mask.png", lungs)
        write_text(home / "ClinicalReadings" / f"{name}.txt", ("male 45yrs", "Female, 28yrs", "male 16month")[number])
        home, name = folder / "JSRT", ("JPCNN001", "JPCLN001", "JPCLN002")[number]
        write_picture(home / "All247images" / f"{name}.png", picture(kind, 20 + number, 2048, 2048))
        for structure, key in (("left lung", "lung_left"), ("right lung", "lung_right"), ("heart", "heart")):
            fold = f"fold{2 - int(name[-1]) % 2}"
            write_picture(home / "scratch" / fold / "masks" / structure / f"{name}.gif", mask(kind, key, 1024, 1024))
    return folder


def plain(folder: Path) -> Path:
    """A table of 8 PNG files and 2 DICOM files of 8 patients, with labels, blanks and a teacher's probabilities."""
    rows: list[list[object]] = []
    for number in range(10):
        kind = ("normal", "pneumothorax")[number % 2]
        name = f"images/{number}.{'dcm' if number > 7 else 'png'}"
        if number > 7:
            write_dicom(folder / name, picture(kind, number, 512, 512), jpeg=False, PatientSex="F", PatientAge="044Y",
                        StudyInstanceUID=f"1.2.3.{number}", ViewPosition="AP")  # fmt: skip
            rows.append([name, f"p{number - 2}", "", "", "", "", "", int(kind != "normal"), "-1", ""])
            continue
        write_picture(folder / name, picture(kind, number, 512, 512))
        rows.append([name, f"p{number}", f"s{number}", "PA", "M", 50 + number, "", int(kind != "normal"), "",
                     0.1 + 0.08 * number])  # fmt: skip
    header = [
        "path",
        "patient",
        "study",
        "view",
        "sex",
        "age",
        "split",
        "pneumothorax",
        "effusion",
        "soft_pneumothorax",
    ]
    write_table(folder / "images.csv", header, rows)
    return folder


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


SAMPLES: dict[str, Callable[[Path], Path]] = {
    "nih": nih, "chexpert": chexpert, "siim_acr": siim_acr, "covid19": covid19, "rsna": rsna, "masks": masks,
    "plain": plain,
}  # fmt: skip


def write_sample(name: str, folder: Path) -> Path:
    """Write the sample of a data set; what is returned is what ``read_data_set(name, ...)`` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    return SAMPLES[name](folder)

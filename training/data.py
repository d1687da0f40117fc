"""Readers of the radiographs and labels that the default bundles are trained on.

The rule: pictures go through ``models.rendering`` exactly as in serving, and every record carries its patient, so that
nothing can be split other than by patient.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from models.rendering import Frame, network_input, render_picture

FloatArray = npt.NDArray[np.float32]
BOXED_SIDE = 512  # pixels of the square files in which boxes are told
BoolArray = npt.NDArray[np.bool_]


class DataMissing(Exception):
    """A data set is not where it was expected; the message says where that is."""


@dataclass(frozen=True)
class StructureRecord:
    """A radiograph with delineated structures.

    Parameters
    ----------
    masks
        Structure key to the file of its mask: ``lung_fields`` (both lungs in one), ``lung_right``, ``lung_left``,
        ``heart``. Where both drawings of the lungs are there, two readers drew them.
    """

    image: Path
    patient: str
    masks: dict[str, Path]


@dataclass(frozen=True)
class FindingRecord:
    """A radiograph with image-level labels.

    Parameters
    ----------
    labels
        Finding key to 0 or 1; a finding that nobody labelled is not there.
    teacher
        Finding key to the probability that another model gave.
    boxes
        Finding key to boxes (x, y, width, height) in pixels of the file.
    outlines
        Masks of what is opaque in the lungs; none where nobody outlined it.
    """

    image: Path
    patient: str
    source: str
    view: str
    labels: dict[str, float]
    teacher: dict[str, float]
    boxes: dict[str, list[tuple[float, float, float, float]]]
    outlines: tuple[Path, ...] = ()


def read_structures(data: Path) -> list[StructureRecord]:
    """Lung fields of ``lung_masks``; lungs by side and hearts of ``chest_structures``.

    Both sets draw the lung behind the heart: on the pictures that lie in both, as much of it.
    """
    masks: dict[str, dict[str, Path]] = defaultdict(dict)
    images: dict[str, Path] = {}
    patients: dict[str, str] = {}
    structures = {"Cardiomediastinum": "heart", "Right_Lung": "lung_right", "Left_Lung": "lung_left"}
    for row in rows(data / "chest_structures" / "masks.csv"):
        name = row["file"]
        images[name] = data / "chest_structures" / "images" / name
        patients[name] = row["patientid"]
        if row["structure"] in structures:
            masks[name][structures[row["structure"]]] = data / "chest_structures" / "masks" / row["mask"]
    for row in rows(data / "lung_masks" / "labels.csv"):
        name = row["file"]
        # the same picture may lie in both folders; the masks of each fit its own copy, and both show the same field
        images[name] = data / "lung_masks" / "images" / name
        patients[name] = row["patientid"]
        masks[name]["lung_fields"] = data / "lung_masks" / "masks" / row["mask"]
    return [StructureRecord(images[n], patients[n], masks[n]) for n in sorted(images) if masks[n]]


def read_other_pictures(data: Path) -> list[StructureRecord]:
    """Lateral radiographs and CT figures of ``view_gate``: nothing on them is to be outlined."""
    folder = data / "view_gate"
    return [StructureRecord(folder / row["file"], row["patientid"], {}) for row in rows(folder / "labels.csv")]


def read_findings(data: Path) -> list[FindingRecord]:
    """The NIH ChestX-ray14 images with their text-mined labels, RSNA opacity labels, boxes and teacher scores."""
    folder = data / "nih_chestxray14"
    boxes: dict[str, dict[str, list[tuple[float, float, float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows(folder / "boxes_512.csv"):
        key = finding_key(row["label"])
        boxes[row["file"]][key].append((float(row["x"]), float(row["y"]), float(row["w"]), float(row["h"])))
    records = []
    for row in rows(folder / "labels.csv"):
        labels = {key: float(row[name]) for key, name in NIH_COLUMNS.items()}
        labels["abnormal"] = 1.0 - float(row["no_finding"])
        if row["rsna_opacity"]:
            labels["lung_opacity"] = float(row["rsna_opacity"])
        teacher = {key: float(row[f"teacher_{name}"]) for key, name in NIH_COLUMNS.items() if row[f"teacher_{name}"]}
        found = {key: list(value) for key, value in boxes[row["file"]].items()}
        image = folder / "images" / row["file"]
        records.append(FindingRecord(image, row["patient_id"], row["source_repo"], row["view"], labels, teacher, found))
    return records


def read_outlined_opacities(data: Path) -> list[FindingRecord]:
    """Radiographs of ``chest_structures`` (all COVID-19) on which ground glass and consolidation were outlined."""
    folder = data / "chest_structures"
    outlines: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for row in rows(folder / "masks.csv"):
        if row["structure"] in ("Ground_Glass_Opacities", "Consolidation"):
            outlines[row["file"], row["patientid"]].append(folder / "masks" / row["mask"])
    return [
        FindingRecord(folder / "images" / file, f"chest_structures-{patient}", "chest_structures", "", {}, {}, {},
                      tuple(masks))
        for (file, patient), masks in sorted(outlines.items())
    ]  # fmt: skip


def read_adult_normals(data: Path, limit: int) -> list[FindingRecord]:
    """Radiologist-read adult normals (RSNA "Normal"): no opacity; nothing is said about other findings."""
    folder = data / "adult_normals_224"
    normals = [row for row in rows(folder / "labels.csv") if row["group"] == "normal_adult"]
    step = max(1, len(normals) // limit)
    return [
        FindingRecord(folder / row["file"], f"normal-{row['id']}", "adult_normals", "", {"lung_opacity": 0.0}, {}, {})
        for row in normals[::step][:limit]
    ]


NIH_COLUMNS = {
    name.lower(): name
    for name in (
        "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
        "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
    )
}  # fmt: skip


def finding_key(label: str) -> str:
    """The key of a finding as the data sets write it: ``Lung Opacity`` or ``Infiltrate``."""
    return {"infiltrate": "infiltration"}.get(label.lower(), label.lower().replace(" ", "_"))


def network_pictures(
    images: Sequence[Path], size: int, what: str, *, stretch: bool = False
) -> tuple[npt.NDArray[np.float16], list[Frame]]:
    """Render each picture as a network sees it: array of shape (n, size, size), 0 to 1, and the way back."""
    pictures = np.empty((len(images), size, size), np.float16)
    frames = []
    for i, path in enumerate(tqdm(images, desc=what, unit="image")):
        pictures[i], frame = network_input(render_picture(path), size, stretch=stretch)
        frames.append(frame)
    return pictures, frames


def network_mask(path: Path, frame: Frame) -> BoolArray:
    """A mask laid over the network's picture: shape (size, size); its own size may differ from the image's."""
    with Image.open(path) as picture:
        inner = picture.convert("L").resize((frame.width, frame.height), Image.Resampling.BILINEAR)
    square = np.zeros((frame.size, frame.size), np.bool_)
    square[frame.top : frame.top + frame.height, frame.left : frame.left + frame.width] = np.asarray(inner) > 127
    return square


def paint_boxes(canvas: npt.NDArray[Any], boxes: Iterable[tuple[float, float, float, float]]) -> None:
    """Set to 1, in a picture (rows, columns) of any size, what lies in the boxes (x, y, width, height) of its file."""
    tall, columns = canvas.shape
    for x, y, width, height in boxes:
        left, right = (round(v * columns / BOXED_SIDE) for v in (x, x + width))
        top, bottom = (round(v * tall / BOXED_SIDE) for v in (y, y + height))
        canvas[top:bottom, left:right] = 1


def split_sides(lungs: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Tell the patient's right lung (left in the picture) from the left: the two largest parts of a mask.

    Raises
    ------
    ValueError
        When the mask does not consist of two lungs.
    """
    parts, count = ndimage.label(lungs)
    sizes = np.bincount(parts.ravel())[1:]
    if count < 2:
        raise ValueError("one connected part only")
    first, second = (int(i) + 1 for i in np.argsort(sizes)[-2:])
    if sizes[first - 1] < 0.2 * sizes[second - 1]:
        raise ValueError("the second part is too small for a lung")
    columns = {part: ndimage.center_of_mass(parts == part)[1] for part in (first, second)}
    right, left = sorted(columns, key=lambda part: columns[part])
    return parts == right, parts == left


def split_patients(patients: Iterable[str], folds: int, seed: int) -> dict[str, int]:
    """Deal patients to folds by a keyed hash: adding data never moves a patient to another fold."""
    return {
        patient: int(hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest(), 16) % folds for patient in set(patients)
    }


def data_digest(files: Iterable[Path]) -> str:
    """SHA-256 over the names and bytes of files, whatever folder they lie in."""
    total = hashlib.sha256()
    for path in sorted(set(files), key=lambda p: (p.name, str(p))):
        total.update(path.name.encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header.

    Raises
    ------
    DataMissing
    """
    if not path.exists():
        raise DataMissing(f"{path} is not there: name the folder of the data with --data")
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))

"""The pictures that teach and test the pixel gate: real ones, and what is made of them.

The rule: a patient, and every picture that looks like a copy of one of theirs, lies on one side of the split.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import sklearn
import torch
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from models.phantom import Pathology, chest
from models.rendering import RenderedImage, network_input
from training.data import network_pictures, read_structures, rows, split_patients
from training.negatives import spoil_as

HalfArray = npt.NDArray[np.float16]

INPUT_SIZE = 160
FOLDS = 10  # 0 and 1 are held out, 2 and 3 calibrate, the others teach
COMPUTED = 160  # computed chests, so that they pass as what they imitate
UNSEEN = "hannover"  # a hospital none of whose pictures teaches or calibrates
# Minors of another hospital than the children who teach: they neither teach nor calibrate, so that they tell how far
# the class of children reaches.
TEENAGERS, OTHER_CHILDREN = "nih 12 to 17", "nih under 12"
# Pictures of the adult collections that show a child, or a chest turned, mirrored or inverted: found by looking through
# those that a first network refused. They teach and calibrate nothing; the card counts them both ways.
MISLABELLED = "mislabelled"
# "Normal" pictures of the COVID-19 Radiography Database up to this number are the children of Guangzhou, not adults.
_LAST_CHILD = 1404
# Two pictures are copies when their thumbnails correlate beyond this; see `copies`.
COPY = 0.985
_THUMBNAIL = 20
# What is made in code instead of, or from, a chest: nothing that could pass for one.
MADE = ("pieces", "magnified", "half", "clouds", "shapes", "limb", "slice", "page", "test_pattern")


# Sources that only the judgement looks at.
APART = (UNSEEN, TEENAGERS, OTHER_CHILDREN, MISLABELLED)


@dataclass(frozen=True)
class GateRecord:
    """A picture: what it shows (``frontal``, ``child``, ``lateral`` or ``other``), where it is from, and of whom."""

    image: Path
    shows: str
    source: str
    patient: str


@dataclass(frozen=True, eq=False)
class GateSamples:
    """Pictures as the gate sees them: shape (n, size, size), 0 to 1; `fold` is 0 to `FOLDS` - 1."""

    pictures: HalfArray
    records: list[GateRecord]
    groups: list[str]
    fold: npt.NDArray[np.int_]

    def indices(self, shows: str, folds: tuple[int, ...], source: str | None = None) -> npt.NDArray[np.int_]:
        """Pictures of one kind in some folds; those of `APART` only when asked for."""
        chosen = [
            i
            for i, record in enumerate(self.records)
            if record.shows == shows
            and self.fold[i] in folds
            and (record.source == source if source else record.source not in APART)
        ]
        return np.array(chosen, dtype=np.int_)


def read_gate_records(data: Path) -> list[GateRecord]:
    """Every collection that the gate learns from or is tested on."""
    records = []
    for row in rows(data / "nih_chestxray14" / "labels.csv"):
        image = data / "nih_chestxray14" / "images" / row["file"]
        age = float(row["age"] or 0)
        source = "nih" if age >= 18 else TEENAGERS if age >= 12 else OTHER_CHILDREN
        records.append(GateRecord(image, "frontal", source, f"nih-{row['patient_id']}"))
    for row in rows(data / "adult_normals_224" / "labels.csv"):
        shows = "child" if row["group"] == "normal_paediatric" else "frontal"
        image = data / "adult_normals_224" / row["file"]
        records.append(GateRecord(image, shows, row["group"], f"radiography-database-{row['id']}"))
    records += [GateRecord(r.image, "frontal", "cohen", f"cohen-{r.patient}") for r in read_structures(data)]
    for path in sorted((data / "covid_unlabelled" / "images").glob("*.jp*g")):
        records.append(GateRecord(path, "frontal", "covid_unlabelled", f"unlabelled-{path.stem}"))
    for row in rows(data / "hannover_covid" / "labels.csv"):
        image = data / "hannover_covid" / "images" / f"{row['image_id']}.jpg"
        if image.exists():
            records.append(GateRecord(image, "frontal", UNSEEN, f"hannover-{row['patient_id']}"))
    for row in rows(data / "paediatric_pneumonia" / "labels.csv"):
        if "covid" not in row["label"].lower():  # those are adults from other collections
            image = data / "paediatric_pneumonia" / "images" / row["file"]
            records.append(GateRecord(image, "child", "paediatric_pneumonia", f"child-{row['file']}"))
    for row in rows(data / "view_gate" / "labels.csv"):
        shows = "lateral" if row["group"] == "lateral" else "other"
        records.append(GateRecord(data / "view_gate" / row["file"], shows, row["group"], f"cohen-{row['patientid']}"))
    wrong = {row["file"] for row in rows(Path(__file__).parent / "gate_mislabelled.csv")}
    return [replace(r, source=MISLABELLED) if r.image.name in wrong or _is_child(r) else r for r in records]


def _is_child(record: GateRecord) -> bool:
    number = record.image.stem.removeprefix("Normal-")
    return record.source == "normal_adult" and number.isdigit() and int(number) <= _LAST_CHILD


def load_gate_samples(records: list[GateRecord], seed: int) -> GateSamples:
    """Render every picture, add computed chests, tie copies and patients together, and deal them to folds."""
    pictures, _ = network_pictures([r.image for r in records], INPUT_SIZE, "rendering", stretch=True)
    alike = copies(pictures)  # computed chests are alike without being copies
    computed = np.stack([_computed(number) for number in tqdm(range(COMPUTED), desc="computing chests")])
    records = [*records, *(GateRecord(Path(), "frontal", "computed", f"computed-{n}") for n in range(COMPUTED))]
    pictures = np.concatenate((pictures, computed.astype(np.float16)))
    groups = _groups(records, alike)
    folds = split_patients(groups, FOLDS, seed)
    # whoever has a picture in the unseen hospital, or a copy of one, is left out of the rest as well
    unseen = {group for group, record in zip(groups, records, strict=True) if record.source == UNSEEN}
    keep = [i for i, (g, r) in enumerate(zip(groups, records, strict=True)) if g not in unseen or r.source == UNSEEN]
    groups, records = [groups[i] for i in keep], [records[i] for i in keep]
    return GateSamples(pictures[keep], records, groups, np.array([folds[group] for group in groups]))


def copies(pictures: HalfArray) -> list[tuple[int, int]]:
    """Pairs of pictures whose thumbnails are all but the same: copies of one exposure in several collections."""
    small = functional.interpolate(
        torch.from_numpy(pictures)[:, None].float(), (_THUMBNAIL, _THUMBNAIL), mode="area"
    ).flatten(1)
    small = small - small.mean(1, keepdim=True)
    small = small / small.norm(dim=1, keepdim=True).clamp(min=1e-6)
    pairs = []
    for start in range(0, len(small), 500):
        alike = small[start : start + 500] @ small.T > COPY
        pairs += [(start + int(i), int(j)) for i, j in alike.nonzero() if start + int(i) < int(j)]
    return pairs


def _groups(records: list[GateRecord], alike: list[tuple[int, int]]) -> list[str]:
    """A name for each set of pictures that patients and copies tie together."""
    patients: dict[str, int] = {}
    first = [patients.setdefault(record.patient, i) for i, record in enumerate(records)]
    pairs = [*alike, *enumerate(first)]
    left, right = zip(*pairs, strict=True)
    graph = coo_matrix((np.ones(len(pairs)), (left, right)), shape=(len(records), len(records)))
    _, label = connected_components(graph, directed=False)
    names: dict[int, str] = {}
    return [names.setdefault(int(label[i]), record.patient) for i, record in enumerate(records)]


def _computed(number: int) -> npt.NDArray[np.float32]:
    kinds = ("pneumothorax", "lung_opacity", "effusion", "nodule")
    rng = np.random.default_rng(number)
    chosen = rng.random() < 0.5
    ill = (Pathology(kinds[number % 4], right=bool(number % 2), size=float(rng.random())),) if chosen else ()
    picture = chest(1000 + number, rows=512, columns=512, heart=float(rng.uniform(0.9, 1.4)), pathologies=ill)
    return network_input(RenderedImage(picture.pixels), INPUT_SIZE, stretch=True)[0]


def natural_pictures(held_out: bool) -> HalfArray:
    """Photographs and graphics that come with installed packages, cut into parts: shape (n, size, size).

    The held-out ones are other photographs than those that teach.
    """
    samples = Path(mpl.get_data_path()) / "sample_data"
    photographs = Path(sklearn.__file__).parent / "datasets" / "images"
    files = (
        [samples / "grace_hopper.jpg", samples / "Minduka_Present_Blue_Pack.png"]
        if held_out
        else [photographs / "china.jpg", photographs / "flower.jpg", samples / "logo2.png"]
    )
    parts = []
    rng = np.random.default_rng(int(held_out))
    for file in files:
        with Image.open(file) as picture:
            gray = np.asarray(picture.convert("RGB").convert("L"), np.float32) / 255
        for _ in range(12):
            side = int(min(gray.shape) * rng.uniform(0.3, 1.0))
            top, left = (int(rng.integers(0, extent - side + 1)) for extent in gray.shape)
            part = gray[top : top + side, left : left + side].astype(np.float32)
            if part.std() > 0.01:
                parts.append(network_input(RenderedImage(part), INPUT_SIZE, stretch=True)[0])
    return np.stack(parts).astype(np.float16)


def make(chest_picture: Tensor, kind: str) -> Tensor:
    """One of `MADE`, shape (size, size), from or instead of a chest of that shape."""
    if kind == "half":
        return _half(chest_picture)
    if kind == "test_pattern":
        return _test_pattern(chest_picture.shape[-1])
    return spoil_as(chest_picture, kind)


def _half(chest_picture: Tensor) -> Tensor:
    """One side of a chest, or its upper or lower half, enlarged: parts of it are out of sight."""
    size = chest_picture.shape[-1]
    share = 0.42 + 0.1 * float(torch.rand(()))
    length, first = int(size * share), float(torch.rand(())) < 0.5
    window = slice(0, length) if first else slice(size - length, size)
    part = chest_picture[window] if float(torch.rand(())) < 0.4 else chest_picture[:, window]
    return functional.interpolate(part[None, None], (size, size), mode="bilinear")[0, 0]


def _test_pattern(size: int) -> Tensor:
    """What quality control exposes: step wedges, line pairs, a grid of holes, a flat field with a vignette."""
    axis = torch.linspace(0, 1, size)
    x, y = axis[None, :].expand(size, size), axis[:, None].expand(size, size)
    kind, count = int(torch.randint(4, ())), float(torch.randint(4, 14, ()))
    if kind == 0:
        picture = torch.floor(x * count) / count
    elif kind == 1:
        picture = 0.5 + 0.5 * torch.sign(torch.sin(2 * torch.pi * (2 + 3 * count * y) * x))
    elif kind == 2:
        holes = torch.cos(torch.pi * count * x) * torch.cos(torch.pi * count * y)
        picture = 0.3 + 0.5 * (holes > 0.2 + 0.6 * float(torch.rand(()))).float()
    else:
        picture = 0.8 - 0.5 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    picture = torch.rot90(picture, int(torch.randint(4, ())))
    return (picture + 0.05 * float(torch.rand(())) * torch.randn(size, size)).clamp(0, 1)

"""What holds for every reader: its sample, in the files of the download, becomes records that can be trained on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import dcmread
from samples import SAMPLES, write_sample

from models.rendering import render, render_picture
from training.data import DataMissing
from training.readers.catalogue import READERS, read_data_set
from training.readers.fields import picture_size
from training.readers.plain import KNOWN
from training.readers.records import UNCERTAIN, DataSet, Record, RunLengths
from training.readers.run_lengths import decode
from training.readers.splits import check_no_leak, split

# Images, patients, and the positives of the sample of each data set.
EXPECTED = {
    "nih": (16, 12, {"pneumothorax": 4, "no_finding": 3, "hernia": 0}),
    "chexpert": (25, 14, {"pneumothorax": 5, "lung_lesion": 5, "support_devices": 3}),
    "siim_acr": (10, 10, {"pneumothorax": 5}),
    "covid19": (14, 12, {"covid_negative": 4, "covid_typical": 4, "covid_atypical": 3, "lung_opacity": 6}),
    "rsna": (9, 8, {"lung_opacity": 3, "no_finding": 3}),
    "masks": (10, 10, {"tuberculosis": 5, "nodule": 2}),
    "plain": (10, 8, {"pneumothorax": 5}),
}


@pytest.fixture(scope="module", params=list(SAMPLES))
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    name: str = request.param
    return read_data_set(name, write_sample(name, tmp_path_factory.mktemp(name)))


def rendered_shape(record: Record) -> tuple[int, int]:
    if record.image.suffix == ".dcm":
        return render(dcmread(record.image)).shape
    return render_picture(record.image).shape


def test_every_data_set_has_a_sample() -> None:
    assert SAMPLES.keys() == READERS.keys() == EXPECTED.keys()


def test_the_whole_sample_is_read(sample: DataSet) -> None:
    images, patients, positives = EXPECTED[sample.name]
    assert sample.left_out == ()
    assert len(sample.records) == images
    assert len({record.patient for record in sample.records}) == patients
    for finding, count in positives.items():
        assert sum(record.labels.get(finding) == 1.0 for record in sample.records) == count, finding


def test_records_keep_the_contract(sample: DataSet) -> None:
    assert sample.name in READERS
    assert set(sample.findings) <= set(KNOWN)
    assert len({record.image for record in sample.records}) == len(sample.records)
    for record in sample.records:
        assert record.image.is_file()
        assert record.patient
        assert record.study
        assert record.source.split("/")[0] == sample.name
        assert record.view in {"PA", "AP", "LATERAL", ""}
        assert record.sex in {"M", "F", ""}
        assert record.age is None or 0 <= record.age <= 120
        assert record.labels.keys() <= set(sample.findings)
        assert set(record.labels.values()) <= {0.0, 1.0, UNCERTAIN}
        assert all(0.0 <= probability <= 1.0 for probability in record.soft.values())
        assert record.split in {"train", "val", "test", ""}
        assert record.row


def test_every_image_is_rendered_as_in_serving(sample: DataSet) -> None:
    sizes = {(record.image.suffix, rendered_shape(record)) for record in sample.records[:4]}
    assert all(min(shape) >= 320 for _, shape in sizes)


def test_boxes_and_masks_lie_on_their_image(sample: DataSet) -> None:
    drawn = 0
    for record in sample.records:
        rows, columns = rendered_shape(record) if record.boxes or record.masks else (0, 0)
        for box in (box for boxes in record.boxes.values() for box in boxes):
            assert 0 <= box.x < box.x + box.width <= columns
            assert 0 <= box.y < box.y + box.height <= rows
            drawn += 1
        for part in (part for parts in record.masks.values() for part in parts):
            shape = decode(part).shape if isinstance(part, RunLengths) else picture_size(part)
            assert shape[0] / shape[1] == pytest.approx(rows / columns, rel=0.02)
            drawn += 1
    assert bool(drawn) == (sample.name not in {"chexpert", "plain"})


def test_a_split_of_it_leaks_nothing(sample: DataSet) -> None:
    assignment = split(sample, {"train": 0.6, "val": 0.2, "test": 0.2}, seed=1)
    check_no_leak(assignment)
    assert sum(len(part) for part in assignment.values()) == len(sample.records)
    assert all(assignment.values())


@pytest.mark.parametrize("name", READERS)
def test_a_folder_that_is_not_there_or_is_empty_is_named(name: str, tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataMissing, match=str(tmp_path)):
            read_data_set(name, folder)


def test_an_unknown_data_set_is_refused_with_the_names_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mimic.*nih, chexpert"):
        read_data_set("mimic", tmp_path)


def test_readers_load_no_model_library() -> None:
    code = "import sys, training.readers.catalogue; print(sorted({'torch', 'monai', 'highdicom'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"

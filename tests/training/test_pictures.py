"""Pictures as networks see them: the way to the stored pixels and back, the cache, lungs; orders."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from PIL import Image
from samples import write_dicom

from models.hanging import Hanging
from models.phantom import chest
from models.rendering import Frame, network_input, render_picture
from training import pictures as module
from training.pictures import PictureOptions, Placement, prepare, read_image, records_digest
from training.readers.records import Box, DataSet, Record
from training.readers.run_lengths import encode
from training.sampling import FallingShare, Oversampled, batches, epoch_rng, mixup, rarest_group


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return toys.data_set(tmp_path_factory.mktemp("toys"), count=8)


HANGINGS = [Hanging(t, r, c) for t in (False, True) for r in (False, True) for c in (False, True)]


@pytest.mark.parametrize("hanging", HANGINGS, ids=str)
def test_boxes_and_masks_go_to_the_picture_and_back_however_the_image_hangs(hanging: Hanging) -> None:
    mask = np.zeros((300, 200), np.bool_)
    mask[60:140, 50:90] = True
    part = mask[20:280, 10:190]  # what is shown is cut out at (10, 20)
    tall, wide = hanging.size(*part.shape)
    scale = 128 / max(tall, wide)
    height, width = round(tall * scale), round(wide * scale)
    frame = Frame(*part.shape, 128, (128 - height) // 2, (128 - width) // 2, height, width, hanging)
    placement = Placement(10, 20, frame)
    corners = placement.box_to_picture(Box(50, 60, 40, 80))
    back = placement.box_to_stored(*corners)
    assert (back.x, back.y, back.width, back.height) == pytest.approx((50, 60, 40, 80), abs=1e-6)
    rows, columns = np.nonzero(placement.mask_to_picture(mask, mask.shape))
    seen = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert np.abs(np.subtract(corners, seen)).max() < 1.0
    half = placement.mask_to_picture(mask[::2, ::2], mask.shape)
    assert np.abs(np.subtract(seen, _edges(half))).max() <= 2


def _edges(mask: np.ndarray) -> tuple[int, int, int, int]:  # type: ignore[type-arg]
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_a_picture_is_what_serving_would_show(data: DataSet) -> None:
    made = toys.pictures(data, masks=("mass",))
    for row, record in enumerate(made.records):
        served, frame = network_input(render_picture(record.image), 64)
        assert np.abs(made.values(np.array([row]))[0, 0] - served).max() < 5e-4
        assert made.placements[row].frame == frame
        boxes, masks = made.boxes(row, "mass"), made.masks(np.array([row]))[0, 0]
        assert bool(len(boxes)) == bool(masks.any()) == bool(record.labels["mass"])
        if len(boxes):
            assert np.abs(boxes[0] - _edges(masks > 0)).max() < 1.5


def test_a_dicom_image_hangs_as_its_header_says(tmp_path: Path) -> None:
    pixels = (chest(2, rows=256, columns=256).pixels * 255).astype(np.uint8)
    write_dicom(tmp_path / "a.dcm", pixels, jpeg=False, PatientOrientation=["R", "F"])
    assert read_image(tmp_path / "a.dcm").hanging == Hanging(flip_columns=True)


def test_pictures_are_rendered_once_and_an_interrupted_rendering_goes_on(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def counted(path: Path) -> module.RenderedImage:
        seen.append(path)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return render_picture(path)

    monkeypatch.setattr(module, "read_image", counted)
    with pytest.raises(KeyboardInterrupt):
        prepare(data.records, PictureOptions(64), masks=("mass",), folder=tmp_path)
    first = prepare(data.records, PictureOptions(64), masks=("mass",), folder=tmp_path)
    assert len(seen) <= len(data.records) + 1
    rendered = len(seen)
    second = prepare(data.records, PictureOptions(64), masks=("mass",), folder=tmp_path)
    assert len(seen) == rendered
    rows = np.arange(len(data.records))
    in_memory = toys.pictures(data, masks=("mass",))
    for made in (first, second):
        assert np.array_equal(made.values(rows), in_memory.values(rows))
        assert np.array_equal(made.masks(rows), in_memory.masks(rows))
        assert made.placements == in_memory.placements
    prepare(data.records, PictureOptions(48), folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_changed_is_rendered_anew(data: DataSet, tmp_path: Path) -> None:
    record = data.records[0]
    copy = tmp_path / "a.png"
    copy.write_bytes(record.image.read_bytes())
    records = [replace(record, image=copy)]
    before = prepare(records, PictureOptions(64), folder=tmp_path / "kept").values(np.array([0]))
    Image.fromarray(255 - np.asarray(Image.open(copy))).save(copy)
    os.utime(copy, (1, 1))
    after = prepare(records, PictureOptions(64), folder=tmp_path / "kept").values(np.array([0]))
    assert np.abs(before - after).max() > 0.5


@pytest.mark.parametrize("kept", [True, False])
def test_what_cannot_be_rendered_is_left_out_with_its_reason(data: DataSet, tmp_path: Path, kept: bool) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    records = [data.records[0], Record(broken, "p", "s", "x", row="row 7"), data.records[1]]
    for _ in range(2):
        made = prepare(records, PictureOptions(64), folder=tmp_path / "kept" if kept else None)
        assert made.records == (data.records[0], data.records[1])
        assert [one.row for one in made.left_out] == ["row 7"]
        assert "not a readable picture" in made.left_out[0].reason
        assert np.array_equal(made.values(np.array([1])), toys.pictures(data).values(np.array([1])))


def test_pictures_can_be_cut_to_the_lungs_or_black_outside_of_them(tmp_path: Path) -> None:
    phantom = chest(5, rows=512, columns=512)
    lungs = phantom.masks["lung_right"] | phantom.masks["lung_left"]
    Image.fromarray((phantom.pixels * 255).astype(np.uint8)).save(tmp_path / "chest.png")
    noise = np.random.default_rng(0).integers(0, 255, (200, 200)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    drawn = {"lungs": (encode(lungs),)}
    records = [Record(tmp_path / name, name, name, "x", masks=drawn) for name in ("chest.png", "noise.png")]
    whole, crop, mask = (
        prepare(records, PictureOptions(128, lungs=how, margin=0.05), masks=("lungs",))
        for how in ("whole", "crop", "mask")
    )
    assert (whole.without_lungs, crop.without_lungs, mask.without_lungs) == (0, 1, 1)
    row = np.array([0])
    shares = [made.masks(row).mean() for made in (whole, crop, mask)]
    assert shares[1] > 1.15 * shares[0]  # lungs are larger in what is cut to them
    assert crop.masks(row).mean() < 0.9
    outside = mask.masks(row)[0, 0] == 0
    assert (mask.values(row)[0, 0] == 0).mean() > 0.4
    assert mask.values(row)[0, 0][~outside].mean() == pytest.approx(whole.values(row)[0, 0][~outside].mean(), rel=0.05)


def test_the_digest_of_data_follows_what_is_said_and_not_where_it_lies(data: DataSet, tmp_path: Path) -> None:
    moved = []
    for record in data.records:
        copy = tmp_path / record.image.name
        copy.write_bytes(record.image.read_bytes())
        moved.append(replace(record, image=copy, row="elsewhere"))
    assert records_digest(moved) == records_digest(data.records) == records_digest(moved[::-1])
    moved[0] = replace(moved[0], labels={**moved[0].labels, "mass": 0.5})
    assert records_digest(moved) != records_digest(data.records)


def test_the_share_of_filled_masks_falls_from_0_8_to_0_22() -> None:
    rows, filled = np.arange(1000), np.arange(1000) < 220
    sampler = FallingShare(rows, filled, epochs=11)
    shares = [filled[sampler.order(epoch, epoch_rng(0, epoch))].mean() for epoch in range(11)]
    assert shares == pytest.approx(np.linspace(0.8, 0.22, 11), abs=2e-3)
    assert len(set(sampler.order(10, epoch_rng(0, 10)))) == 1000  # at the end every row comes once


def test_oversampling_shows_each_group_as_often() -> None:
    groups = np.repeat([0, 1], [900, 100])
    order = Oversampled(np.arange(1000) + 5, groups).order(0, epoch_rng(1, 0))
    assert np.mean(groups[order - 5]) == pytest.approx(0.5, abs=0.05)
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, np.nan, 0], [1, 0, 1]], np.float32)
    assert rarest_group(labels).tolist() == [2, 1, 0, 3]


def test_the_order_of_an_epoch_follows_from_seed_and_epoch() -> None:
    sampler = Oversampled(np.arange(50), np.arange(50) % 3)
    orders = [sampler.order(e, epoch_rng(s, e)).tolist() for s, e in ((1, 0), (1, 0), (1, 1), (2, 0))]
    assert orders[0] == orders[1]
    assert orders[0] not in orders[2:]
    assert [len(part) for part in batches(np.arange(10), 4)] == [4, 4]
    assert [len(part) for part in batches(np.arange(3), 4)] == [3]


def test_mixup_blends_pictures_and_targets_by_one_share_and_keeps_the_unknown() -> None:
    torch.manual_seed(3)
    pictures = torch.rand(6, 1, 2, 2)
    targets = torch.cat((pictures[:, 0, 0, :1], torch.tensor([[float("nan")], *[[1.0]] * 5])), 1)
    mixed, (blended,) = mixup(pictures, (targets,), 0.4)
    assert torch.allclose(mixed[:, 0, 0, 0], blended[:, 0])
    assert not torch.equal(mixed, pictures)
    assert 1 <= int(torch.isnan(blended[:, 1]).sum()) <= 2

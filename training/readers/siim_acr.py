"""SIIM-ACR pneumothorax: DICOM radiographs two folders deep, and masks as run lengths, several for one image.

The rule: the rows of one image are read together, and an image whose rows contradict each other or do not fit it gives
no mask; patient, study, view, sex and age come from the DICOM header.

Source: SIIM-ACR Pneumothorax Segmentation 2019 (R. Filice et al., Crowdsourcing pneumothorax annotations using machine
learning annotations on the NIH chest X-ray dataset, J Digit Imaging 2020); ``train-rle.csv`` and
``dicom-images-train/STUDY/SERIES/IMAGE.dcm``. The radiographs are ChestX-ray14's under other names: never test a model
that was trained on the one with the other.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from tqdm import tqdm

from training.data import DataMissing
from training.readers.fields import BadRow, Header, age_in_years, cell, dicom_header, sex_of, table, view_of
from training.readers.records import DataSet, LeftOut, Record, RunLengths
from training.readers.run_lengths import RunLengthsInvalid, spans

NAME = "siim_acr"
FINDINGS = ("pneumothorax",)
IMAGES = "dicom-images-train"
_NO_MASK = "-1"


def read(folder: Path) -> DataSet:
    """Read the download in `folder`.

    Returns
    -------
    DataSet
        ``pneumothorax`` is 0 or 1, with its mask: an empty tuple where it is 0. An image whose run lengths do not fit
        it is left out whole, for its other runs are not the truth either.

    Raises
    ------
    DataMissing
        When the table or the folder of images is not there.
    """
    path = next((folder / name for name in ("train-rle.csv", "stage_2_train.csv") if (folder / name).exists()), None)
    if path is None or not (folder / IMAGES).is_dir():
        raise DataMissing(f"{folder} does not hold train-rle.csv and the folder {IMAGES}")
    left_out: list[LeftOut] = []
    written: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row, cells in table(path, ("ImageId", "EncodedPixels")):
        try:
            name = cell(cells, "ImageId")
            # a mask that cannot be read is kept as what is no mask: the whole image is left out for it
            written[name].append((row, cells.get("EncodedPixels", "")))
        except BadRow as bad:
            left_out.append(LeftOut(row, str(bad)))
    images = {dicom.stem: dicom for dicom in sorted((folder / IMAGES).rglob("*.dcm"))}
    records = []
    for image, rows in tqdm(written.items(), "DICOM headers", unit="image", disable=None):
        try:
            if image not in images:
                raise BadRow(f"{image}.dcm is nowhere in {folder / IMAGES}")
            records.append(_record(images[image], rows, left_out))
        except BadRow as bad:
            left_out.append(LeftOut(rows[0][0], str(bad)))
    left_out += [
        LeftOut(str(images[name].relative_to(folder)), f"{path.name} has no row for it")
        for name in sorted(images.keys() - written.keys())
    ]
    return DataSet(NAME, tuple(records), FINDINGS, tuple(left_out))


def _record(image: Path, rows: list[tuple[str, str]], left_out: list[LeftOut]) -> Record:
    header = dicom_header(image)
    first = rows[0][0]
    masks = _masks(rows, header)
    return Record(
        image=image,
        patient=header.patient or image.stem,
        study=header.study or image.parent.parent.name,
        source=NAME,
        view=view_of(header.view),
        sex=sex_of(header.sex),
        age=age_in_years(header.age, first, left_out),
        labels={"pneumothorax": float(bool(masks))},
        masks={"pneumothorax": masks},
        row=first,
    )


def _masks(rows: list[tuple[str, str]], header: Header) -> tuple[RunLengths, ...]:
    texts = {text for _, text in rows}
    if _NO_MASK in texts:
        if len(texts) > 1:
            raise BadRow("one row says that there is no pneumothorax, another draws it")
        return ()
    masks = tuple(RunLengths(text, header.rows, header.columns, "siim") for _, text in rows)
    for (row, _), mask in zip(rows, masks, strict=True):
        try:
            starts, _ends = spans(mask)
        except RunLengthsInvalid as error:
            raise BadRow(f"mask of {row}: {error}") from error
        if not len(starts):
            raise BadRow(f"mask of {row}: blank, neither a mask nor {_NO_MASK}")
    return masks

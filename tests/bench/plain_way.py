"""The plain way to do what the node does, as a first version is written: the baseline of latency and throughput.

pydicom reads a file, MONAI's transforms make pictures of it, torch runs the same networks eagerly in float32, highdicom
makes SEG and SR, and STOW-RS stores them. The rule: nothing is slower here than it has to be for one who uses these
libraries as they are documented: networks are loaded once and warm, pictures are shrunk before anything else is done to
them, one connection is kept. It does less than the node: no check of the header, no report in sentences, no heat map.

``python -m tests.bench.plain_way URL FOLDER BUNDLE,...`` reads a file's path from each line of its input, and answers
each with a line of JSON: stage to seconds. User and password are ``PLAIN_USER`` and ``PLAIN_PASSWORD``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from monai.transforms import (
    Activations,
    AsDiscrete,
    Compose,
    EnsureChannelFirst,
    Resize,
    ResizeWithPadOrCrop,
    ScaleIntensityRangePercentiles,
)
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import apply_modality_lut
from scipy import ndimage

from models import networks  # noqa: F401  (bundles name what is in it)
from models.bundle import Bundle, FindingContract, load_bundle
from models.calls import calibrate, called
from models.findings import Finding, FindingState, ImageFindings, Region, SegmentMask, View
from tests.bench.plain_results import encode_with_highdicom

_MARK = "hilum-plain-way"  # between parts of a message


class PlainWay:
    """Everything that is loaded once.

    Parameters
    ----------
    bundles
        Their folders; those without a network are left out.
    stow
        Address to which results are sent.
    """

    def __init__(self, bundles: list[Path], stow: str, user: str, password: str) -> None:
        loaded = (load_bundle(folder) for folder in bundles)
        self.bundles = [bundle for bundle in loaded if bundle.build is not None]
        sizes = {bundle.contract.input_size for bundle in self.bundles}
        self._pictures = {size: _picture(size) for size in sizes}
        self._stow = stow
        self._http = httpx.Client(auth=(user, password), timeout=60.0, trust_env=False)
        for size, bundle in ((bundle.contract.input_size, bundle) for bundle in self.bundles):
            _ask(bundle, torch.zeros(1, 1, size, size))

    def read(self, file: Path) -> dict[str, float]:
        """Read one image and store what was found; returns stage to seconds."""
        seconds: dict[str, float] = {}
        with _timed(seconds, "decode"):
            ds = dcmread(file)
            pixels = apply_modality_lut(ds.pixel_array, ds).astype(np.float32)
            if ds.PhotometricInterpretation == "MONOCHROME1":
                pixels = pixels.max() - pixels
        with _timed(seconds, "prepare"):
            pictures = {size: transform(pixels)[None] for size, transform in self._pictures.items()}
        with _timed(seconds, "inference"):
            answers = [(bundle, _ask(bundle, pictures[bundle.contract.input_size])) for bundle in self.bundles]
        with _timed(seconds, "interpret"):
            findings = _found(ds, answers)
        with _timed(seconds, "encode"):
            results = encode_with_highdicom(ds, findings)
        with _timed(seconds, "store"):
            self._store(results)
        return seconds

    def _store(self, results: list[bytes]) -> None:
        """STOW-RS (PS3.18 10.5): all objects in one message."""
        parts = [f"--{_MARK}\r\nContent-Type: application/dicom\r\n\r\n".encode() + part + b"\r\n" for part in results]
        kind = f'multipart/related; type="application/dicom"; boundary={_MARK}'
        content = b"".join(parts) + f"--{_MARK}--\r\n".encode()
        self._http.post(self._stow, content=content, headers={"Content-Type": kind}).raise_for_status()


def _picture(size: int) -> Compose:
    """What a network sees: the whole image in a square, its contrast stretched."""
    return Compose(
        [
            EnsureChannelFirst(channel_dim="no_channel"),
            Resize(size, size_mode="longest", mode="area"),
            ScaleIntensityRangePercentiles(1, 99, 0.0, 1.0, clip=True),
            ResizeWithPadOrCrop((size, size)),
        ]
    )


def _ask(bundle: Bundle, picture: torch.Tensor) -> dict[str, torch.Tensor]:
    if bundle.network is None:
        raise TypeError(f"{bundle.identity.name} has no network")
    with torch.inference_mode():
        output = bundle.network(picture.as_tensor() if hasattr(picture, "as_tensor") else picture)
    outputs = output if isinstance(output, Mapping) else {"logits": output}
    return {name: value[0] for name, value in outputs.items()}


def _found(ds: Dataset, answers: list[tuple[Bundle, dict[str, torch.Tensor]]]) -> ImageFindings:
    """Findings with boxes, and outlines at the size of the image."""
    findings: list[Finding] = []
    segments: list[SegmentMask] = []
    for bundle, output in answers:
        name, contract = bundle.identity.name, bundle.contract
        if contract.interpreter == "structures":
            masks = _outlines(output["logits"], int(ds.Rows), int(ds.Columns))
            segments += [SegmentMask(key, mask, name) for key, mask in zip(contract.segments, masks, strict=True)]
        elif "logits" in output:
            for each in contract.findings:
                findings.append(_finding(each, output, name, (int(ds.Rows), int(ds.Columns))))
    return ImageFindings(
        study_instance_uid=str(ds.StudyInstanceUID),
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        rows=int(ds.Rows),
        columns=int(ds.Columns),
        view=View.PA,
        runs=(),
        findings=tuple(findings),
        segments=tuple(segment for segment in segments if segment.mask.any()),
    )


def _outlines(logits: torch.Tensor, rows: int, columns: int) -> Any:
    """Largest part of each channel, at the size of the image: shape (channels, rows, columns)."""
    size, longest = logits.shape[-1], max(rows, columns)
    inside = (round(size * rows / longest), round(size * columns / longest))
    back = Compose(
        [
            Activations(sigmoid=True),
            ResizeWithPadOrCrop(inside),
            Resize((rows, columns), mode="bilinear"),
            AsDiscrete(threshold=0.5),
        ]
    )
    # before it is enlarged: a hundred times less to look at
    return np.asarray(back(torch.stack([_largest(channel) for channel in logits]))) > 0


def _largest(channel: torch.Tensor) -> torch.Tensor:
    """Logits of the largest part, elsewhere surely none; MONAI's transform for it wants scikit-image."""
    parts, number = ndimage.label(channel.numpy() > 0)
    if number < 2:
        return channel
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return torch.where(torch.from_numpy(parts == largest), channel, torch.full_like(channel, -20.0))


def _finding(contract: FindingContract, output: dict[str, torch.Tensor], model: str, shape: tuple[int, int]) -> Finding:
    finding = called(calibrate(float(output["logits"][contract.output]), contract), contract, model)
    if finding.state is not FindingState.PRESENT or not contract.localises or "maps" not in output:
        return finding
    heat = np.asarray(output["maps"][contract.output])
    parts, _ = ndimage.label(heat >= (np.median(heat) + heat.max()) / 2)
    step = max(shape) / heat.shape[0]
    top, left = ((max(shape) - side) / 2 for side in shape)
    boxes = []
    for rows, columns in ndimage.find_objects(parts):
        x, y = max(0.0, columns.start * step - left), max(0.0, rows.start * step - top)
        wide, tall = (columns.stop - columns.start) * step, (rows.stop - rows.start) * step
        boxes.append(Region(x, y, min(wide, shape[1] - x), min(tall, shape[0] - y), float(finding.probability or 0)))
    return Finding(
        finding.key, finding.state, finding.probability, finding.threshold, regions=tuple(boxes), model=model
    )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started


def main() -> int:
    """Read what is named on each line of the input."""
    url, folder, names = sys.argv[1:4]
    user, password = os.environ["PLAIN_USER"], os.environ["PLAIN_PASSWORD"]
    plain = PlainWay([Path(folder) / name for name in names.split(",")], f"{url}/dicom-web/studies", user, password)
    print(json.dumps({"ready": torch.get_num_threads()}), flush=True)  # noqa: T201
    for line in sys.stdin:
        print(json.dumps(plain.read(Path(line.strip()))), flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Acting as a modality: complete instances, every syntax, and each instance's fate by itself."""

from __future__ import annotations

import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.pixels import pixel_array
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from running_node import free_port

from models.phantom import chest
from orthanc_plugin.commands import modality
from orthanc_plugin.commands.demo import phantom_studies
from orthanc_plugin.commands.modality import Exposure

PIXELS = chest(1, rows=120, columns=100).pixels


@pytest.mark.parametrize("view", ["PA", "AP", "LL"])
@pytest.mark.parametrize("kind", ["CR", "DX"])
@pytest.mark.parametrize("monochrome1", [False, True])
def test_every_instance_is_valid(view: str, kind: str, monochrome1: bool, tmp_path: Path) -> None:
    ds = modality.radiograph(PIXELS, Exposure(modality=kind, view=view, monochrome1=monochrome1))
    dcmwrite(tmp_path / "a.dcm", ds, enforce_file_format=True)
    verified = subprocess.run(["dciodvfy", str(tmp_path / "a.dcm")], capture_output=True, text=True, check=False)
    assert not [line for line in verified.stderr.splitlines() if line.startswith("Error")], verified.stderr


def test_a_seed_makes_the_same_instance_and_no_seed_a_new_one() -> None:
    a, b, c = (modality.radiograph(PIXELS, Exposure(seed=seed)) for seed in ("x", "x", ""))
    assert a == b
    assert c.SOPInstanceUID != a.SOPInstanceUID
    assert all(len(uid) <= 64 for uid in (a.SOPInstanceUID, a.StudyInstanceUID, a.SeriesInstanceUID))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless], ids=lambda uid: uid.name)
def test_lossless_syntaxes_keep_every_pixel(syntax: str) -> None:
    plain = modality.radiograph(PIXELS, Exposure(bits_stored=16, seed="x"))
    stored = pixel_array(plain).copy()
    buffer = BytesIO()
    dcmwrite(buffer, modality.encode_as(plain, syntax), enforce_file_format=True)
    assert np.array_equal(dcmread(BytesIO(buffer.getvalue())).pixel_array, stored)


def test_without_a_node_every_instance_is_reported() -> None:
    instances = [modality.radiograph(PIXELS, Exposure()) for _ in range(2)]
    outcomes = list(modality.send(instances, "127.0.0.1", free_port(), "NOBODY"))
    assert [o.accepted for o in outcomes] == [False, False]
    assert all("is the node up" in o.error for o in outcomes)


def test_the_demo_shows_synthetic_patients_only() -> None:
    studies = list(phantom_studies("test"))
    assert len(studies) >= 6
    for study in studies:
        for ds in study.instances:
            assert "Phantom" in str(ds.PatientName)
            assert ds.StudyInstanceUID == study.study_instance_uid

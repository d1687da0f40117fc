"""From a recipe to a result: what ``./hilum train`` packages is added, activated, and reads a study like any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import Finished
from intake.running import Archive
from PIL import Image
from pydicom import Dataset, dcmwrite

from dicom_sr.reader import read_study
from dicom_sr.report.wording import load_wording
from models.bundle import load_bundle
from models.findings import FindingState, ImageFindings
from models.forward import torch_forward
from models.phantom import chest
from models.rendering import RenderedImage, network_input
from orthanc_plugin.archive import attachments
from orthanc_plugin.archive.client import OrthancClient
from orthanc_plugin.cli import main
from orthanc_plugin.commands.modality import Exposure, radiograph
from orthanc_plugin.commands.verify import verify_files
from orthanc_plugin.ledger.tasks import InferenceTask, TaskStatus, Urgency
from orthanc_plugin.reading.active_models import load_active
from orthanc_plugin.reading.intake_process import IntakeProcess
from orthanc_plugin.reading.study import Reader, process_study
from orthanc_plugin.settings import Settings, load_settings
from orthanc_plugin.worklist.rows import image_line

Finish = Callable[[str], Finished]
PIXELS = chest(1, rows=700, columns=600).pixels
SITE = """
bundles = ["lung_fields", "covid_appearance"]
threads = 1
outputs = ["preliminary_report", "heat_map", "presentation_state", "key_objects"]
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    home = tmp_path / "home"
    home.mkdir()
    (home / "hilum.toml").write_text(SITE)
    monkeypatch.setenv("HILUM_HOME", str(home))
    return load_settings()


def carried(run: Finished, folder: Path) -> Path:
    """The bundle of a run as if its evidence carried, so that something is called present and drawn.

    A network of one epoch draws nothing by itself: the pixels that are its surest tenth make a mask, any box is one.
    """
    made = folder / run.folder.name
    for part in ("configs", "models", "docs"):
        shutil.copytree(run.folder / part, made / part)
    file = made / "configs" / "metadata.json"
    content = json.loads(file.read_text("utf-8"))
    section = content["hilum"]
    for finding in section["findings"].values():
        finding.update(evaluated=True, localises=True, threshold_absent=0.0, threshold_present=0.0)
    if "masks" in section:
        picture, _ = network_input(RenderedImage(PIXELS), section["input_size"])
        logits = torch_forward(load_bundle(made).network)(picture[None, None])["masks"]
        share = float(1 / (1 + np.exp(-np.quantile(logits, 0.9))))
        section["masks"] |= {"threshold": share, "least_area": 0, "empty_threshold": 1.0}
    if "boxes" in section:
        section["boxes"] |= {"least_score": 0.0, "limit": 3, "draw_from": dict.fromkeys(section["findings"], 0.0)}
    file.write_text(json.dumps(content), "utf-8")
    return made


class Kept(Archive):
    """The archive in memory, with the thumbnails of results."""

    def __init__(self, files: list[bytes]) -> None:
        super().__init__(files)
        self.thumbnails: dict[str, bytes] = {}

    def attach(self, instances: Sequence[str], number: int, content: bytes) -> None:
        if number == attachments.THUMBNAIL:
            self.thumbnails |= dict.fromkeys(instances, content)


@dataclass
class Answered:
    """What became of one study."""

    source: Dataset
    archive: Kept
    entry: dict[str, Any] = field(default_factory=dict)

    @property
    def findings(self) -> ImageFindings:
        (image,) = read_study(self.archive.results).images
        return image

    @property
    def words(self) -> str:
        """What the worklist says of the thumbnail."""
        shown = image_line(self.entry, "1.2").thumbnail
        return shown.words if shown else ""


def process(settings: Settings) -> Answered:
    """Read one synthetic radiograph as the worker does."""
    source = radiograph(PIXELS, Exposure(seed="a bundle in the node"))
    buffer = BytesIO()
    dcmwrite(buffer, source, enforce_file_format=True)
    archive = Kept([buffer.getvalue()])
    task = InferenceTask(
        str(source.StudyInstanceUID), fence=1, generation=1, attempts=0, failures=0, first_failed_at=None, result={},
        conclude=True, received_at=1.0, last_instance_at=1.0, urgency=Urgency.ROUTINE,
    )  # fmt: skip
    with IntakeProcess(settings.intake_seconds) as intake:
        wording = load_wording(settings.report_language, None)
        reader = Reader(settings, cast("OrthancClient", archive), load_active(settings), intake, wording)
        outcome = process_study(task, reader)
    assert outcome.status is TaskStatus.DONE
    (entry,) = outcome.result["images"]
    return Answered(source, archive, entry)


def verified(answered: Answered, folder: Path) -> bool:
    """Whether the image and every result keep the standard, the profile and each other."""
    folder.mkdir()
    for i, ds in enumerate((answered.source, *answered.archive.results)):
        dcmwrite(folder / f"{i}.dcm", ds, enforce_file_format=True)
    return verify_files([folder], as_json=False) == 0


def coloured(answered: Answered) -> bool:
    """Whether the thumbnail shows more than a radiograph in gray."""
    (content,) = answered.archive.thumbnails.values()
    picture = np.asarray(Image.open(BytesIO(content)).convert("RGB"), np.int16)
    return bool((np.ptp(picture, axis=2) > 60).any())


@pytest.fixture
def activated(
    finished: Finish, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], dict[str, Any]]:
    """Add and activate the bundle of a recipe; gives what ``./hilum predict`` says of a picture then."""

    def activate(name: str) -> dict[str, Any]:
        picture = tmp_path / "chest.png"
        Image.fromarray((PIXELS * 255).astype(np.uint8)).save(picture)
        for arguments in (("add", str(carried(finished(name), tmp_path))), ("activate", name)):
            assert main(["models", *arguments]) == 0, capsys.readouterr().err
        capsys.readouterr()
        assert main(["predict", str(picture), "--json", "--masks", str(tmp_path / "masks")]) == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert (answer["status"], answer["failures"]) == ("done", {})
        return answer

    return activate


def test_outlines_become_a_segmentation(
    activated: Callable[[str], dict[str, Any]], settings: Settings, tmp_path: Path
) -> None:
    said = activated("siim_acr_unet_resnet34")
    assert "pneumothorax" in said["segments"]
    mask = np.asarray(Image.open(tmp_path / "masks" / "chest__pneumothorax.png")) > 127
    assert mask.shape == PIXELS.shape
    answered = process(settings)
    (finding,) = (f for f in answered.findings.findings if f.key == "pneumothorax")
    assert (finding.state, finding.model) == (FindingState.PRESENT, "siim_acr_unet_resnet34")
    assert finding.laterality is not None
    segments = {s.key: s for s in answered.findings.segments}
    assert set(segments) == {"lung_right", "lung_left", "heart", "pneumothorax"}
    assert segments["pneumothorax"].model == "siim_acr_unet_resnet34"
    assert 0.02 < segments["pneumothorax"].mask.mean() < 0.3
    assert answered.words == f"AI outline: pneumothorax, {finding.laterality.value}"
    assert coloured(answered)
    assert answered.entry["priority"] == "critical"
    assert verified(answered, tmp_path / "results")


@pytest.mark.parametrize("name", ["covid19_detector", "covid19_retinanet"])
def test_boxes_become_regions(
    name: str, activated: Callable[[str], dict[str, Any]], settings: Settings, tmp_path: Path
) -> None:
    said = activated(name)
    assert 1 <= len(said["regions"]) <= 3
    answered = process(settings)
    (finding,) = (f for f in answered.findings.findings if f.key == "lung_opacity")
    assert (finding.state, finding.model) == (FindingState.PRESENT, name)
    assert len(finding.regions) == len(said["regions"])
    assert finding.regions[0].score == pytest.approx(finding.probability, abs=1e-6)
    assert answered.findings.criteria, "the appearance is derived from these boxes"
    assert answered.words.startswith("AI outline: lung opacity")
    assert coloured(answered)
    assert verified(answered, tmp_path / "results")


def test_classes_become_findings_of_which_one_is_present(
    activated: Callable[[str], dict[str, Any]], settings: Settings, tmp_path: Path
) -> None:
    name = "covid19_study_resnet18"
    said = activated(name)
    shares = [f["probability"] for f in said["findings"] if f["key"].startswith("covid_")]
    assert sum(shares) == pytest.approx(1.0, abs=1e-3)
    answered = process(settings)
    classes = [f for f in answered.findings.findings if f.key.startswith("covid_")]
    assert {f.model for f in classes} == {name}
    assert sorted(f.state for f in classes) == [FindingState.PRESENT] + [FindingState.UNDETERMINED] * 3
    assert not answered.findings.criteria
    assert answered.words.startswith("Radiograph; ")
    assert verified(answered, tmp_path / "results")


def test_scores_become_findings(activated: Callable[[str], dict[str, Any]], settings: Settings, tmp_path: Path) -> None:
    said = activated("nih_densenet121")
    assert {f["state"] for f in said["findings"] if f["key"] == "effusion"} == {"present"}
    answered = process(settings)
    assert len([f for f in answered.findings.findings if f.state is FindingState.PRESENT]) == 14
    assert verified(answered, tmp_path / "results")


def test_a_run_whose_evidence_carries_nothing_is_not_activated(
    finished: Finish, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "add", str(finished("covid19_detector").folder)]) == 0
    assert main(["models", "activate", "covid19_detector"]) == 1
    assert "nothing that it tells was evaluated: run it in shadow" in capsys.readouterr().err
    assert main(["models", "activate", "covid19_detector", "--shadow"]) == 0

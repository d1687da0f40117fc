"""What is judged is what the node says: networks with random weights, asked by both about the same pictures.

Nothing is trained. The contract says what a package would: every finding evaluated and drawn.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import toys
from test_recipes import small

from models.bundle import Bundle, Contract, FindingContract
from models.calls import calibrate, state_of
from models.classes import probabilities
from models.contracts import BoxContract, ClassContract, MaskContract
from models.findings import Finding, FindingState, ImageFindings, ModelIdentity, View
from models.inference import ImageIdentity, assemble
from models.rendering import network_input
from training.evidence import LEAST_PROBABILITY
from training.judging.detection import draw
from training.judging.detection import image_logits as box_logits
from training.judging.gate import Line, line_of
from training.judging.segmentation import outline
from training.metrics.operating import operating_points
from training.metrics.overlap import score_mask
from training.pictures import Pictures, read_image
from training.readers.records import Record
from training.recipe import Recipe
from training.tasks import build_task
from training.tasks.common import Material, build_network, named

CPU = torch.device("cpu")
IDENTITY = ImageIdentity("1.2", "1.2.3", "1.2.3.4", View.PA)
LINE = Line(0.7, 0.2)
COUNT = 6
Reading = MaskContract | BoxContract | ClassContract


def same_pictures(folder: Path, size: int, masks: tuple[str, ...] = ()) -> Pictures:
    """The toys as the node sees them; what is kept for training has half the precision."""
    pictures = toys.pictures(toys.data_set(folder, COUNT), masks=masks, size=size)
    seen = [network_input(read_image(record.image), size)[0] for record in pictures.records]
    return replace(pictures, _values=np.stack(seen))


def task_of(recipe: Recipe, pictures: Pictures) -> Any:
    """The task around a network that nobody trained, in evaluation mode; all pictures are to be judged."""
    rows = np.arange(COUNT)
    task = build_task(Material(recipe, pictures, rows, rows, 5), build_network(recipe.network, 5))
    task.module.eval()
    return task


def node(
    record: Record, network: Any, reading: Reading | None, size: int, *keys: str, line: Line = LINE
) -> ImageFindings:
    """What the node says of the file of a record."""
    interpreter = {MaskContract: "masks", BoxContract: "boxes", ClassContract: "classes"}.get(type(reading), "scores")
    findings = tuple(
        FindingContract(key, i, True, threshold_absent=0.0, threshold_present=0.0, localises=True, **line.contract)
        for i, key in enumerate(keys)
    )
    contract = Contract(interpreter, size, findings=findings, reading=reading)
    bundle = Bundle(ModelIdentity("toy", "1.0", "a" * 64, "b" * 64), contract, lambda: network)
    found = assemble([bundle], threads=1).predict(read_image(record.image), IDENTITY)
    assert found.runs[0].failure is None
    return found


def told(found: ImageFindings, key: str) -> Finding:
    (finding,) = (f for f in found.findings if f.key == key)
    assert finding.state is FindingState.PRESENT
    return finding


def platt(logit: float) -> float:
    """As judging calibrates."""
    return float(LINE(np.array([logit], np.float64))[0])


EMPTY_HEAD = {
    "_target_": "models.networks.EncoderUNet", "encoder": "resnet34", "widths": [8, 8, 8, 8], "empty_head": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("network", "options", "score"),
    [
        (toys.NETWORKS["segmentation"], {"least_area": toys.SIDE**2 // 2}, "area"),
        (EMPTY_HEAD, {"empty_threshold": 0.5}, "empty"),
    ],
    ids=["one tensor", "a head for empty masks"],
)
def test_masks_that_are_judged_are_those_that_are_shown(
    network: dict[str, Any], options: dict[str, Any], score: str, tmp_path: Path
) -> None:
    recipe = toys.recipe(
        "segmentation", network=network, task={"kind": "segmentation", **options}, picture={"size": toys.SIDE},
        schedule={"batch": 1},
    )  # fmt: skip
    task = task_of(recipe, same_pictures(tmp_path, toys.SIDE, ("mass",)))
    _centre(task)
    judged = outline(task, np.arange(COUNT), CPU)
    assert judged.reading.score == score
    shown = 0
    for i, record in enumerate(task.pictures.records):
        found = node(record, task.module, judged.reading, toys.SIDE, "mass")
        assert told(found, "mass").probability == pytest.approx(platt(judged.logits[i, 0]), abs=2e-6)
        masks = {segment.key: segment.mask for segment in found.segments}
        truth = task.pictures.masks(np.array([i]))[0, 0] > 0.5
        mask = masks.get("mass", np.zeros_like(truth))
        assert score_mask(mask, truth) == judged.scores[i][0]
        shown += bool(mask.any())
    assert 0 < shown < COUNT


def _centre(task: Any) -> None:
    """Shift what the network says to lie around 0, so that of some pictures the mask is emptied and of others not."""
    with torch.no_grad():
        found = named(task.module(torch.from_numpy(task.pictures.values(np.arange(COUNT)))), "masks")
        convolutions = [part for part in task.module.modules() if isinstance(part, torch.nn.modules.conv._ConvNd)]
        last = task.module.masks if "empty" in found else convolutions[-1]
        last.bias -= found["masks"].quantile(0.5)
        if "empty" in found:
            task.module.empty.bias -= found["empty"].quantile(0.5)


def detectors() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    retina = small("covid19_retinanet")
    return [
        ("heat", toys.NETWORKS["detection"], {"head": "heat"}),
        ("anchors", dict(retina.network), {**retina.task.options, "head": "retina"}),
    ]


@pytest.mark.parametrize(("head", "network", "options"), detectors(), ids=["heat", "anchors"])
def test_boxes_that_are_judged_are_those_that_are_drawn(
    head: str, network: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    task_options = {**options, "kind": "detection", "least_score": 0.001, "limit": 5}
    recipe = toys.recipe("detection", network=network, task=task_options)
    task = task_of(recipe, same_pictures(tmp_path, 64))
    judged = draw(task, np.arange(COUNT), CPU)
    logits = box_logits(judged, ("mass",))
    reading = replace(task.reading, draw_from={"mass": 0.0})
    assert (reading.head, BoxContract(**asdict(reading))) == (head, reading)
    for i, record in enumerate(task.pictures.records):
        finding = told(node(record, task._teller, reading, 64, "mass"), "mass")
        assert finding.probability == pytest.approx(platt(logits[i, 0]), abs=2e-6)
        boxes, confidences = judged.found["mass"][i].boxes, judged.found["mass"][i].confidences
        ours = np.array([[r.x, r.y, r.x + r.width, r.y + r.height] for r in finding.regions])
        assert len(boxes) > 0
        assert np.allclose(ours, boxes, atol=1 / 16)
        line = FindingContract("mass", 0, True, LINE.slope, LINE.intercept)
        scores = [calibrate(float(np.log(c / (1 - c))), line) for c in confidences]
        assert [r.score for r in finding.regions] == pytest.approx(scores, abs=2e-6)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_shares_of_classes_that_are_judged_are_those_that_are_told(pooling: str, tmp_path: Path) -> None:
    network = toys.NETWORKS["appearance"] | {"out_channels": 4 + (pooling == "attention")}
    recipe = toys.recipe("appearance", network=network, task={"kind": "appearance", "pooling": pooling})
    task = task_of(recipe, same_pictures(tmp_path, 64))
    with torch.inference_mode():
        judged = probabilities(task.predict(np.arange(COUNT), CPU).double().numpy(), 0.3)
    for i, record in enumerate(task.pictures.records):
        found = node(record, task.module, ClassContract(0.3), 64, *toys.CLASSES)
        mine = {f.key: f for f in found.findings if f.key in toys.CLASSES}
        assert [mine[key].probability for key in toys.CLASSES] == pytest.approx(judged[i].tolist(), abs=2e-6)
        called = [key for key in toys.CLASSES if mine[key].state is FindingState.PRESENT]
        assert called == [toys.CLASSES[int(judged[i].argmax())]]


def test_scores_of_a_network_without_maps_are_told_and_locate_nothing(tmp_path: Path) -> None:
    task = task_of(toys.recipe("classification"), same_pictures(tmp_path, 64))
    with torch.inference_mode():
        judged: npt.NDArray[np.float64] = task.predict(np.arange(COUNT), CPU).double().numpy()
    for i, record in enumerate(task.pictures.records):
        found = node(record, task.module, None, 64, "mass")
        finding = told(found, "mass")
        assert finding.probability == pytest.approx(platt(judged[i, 0]), abs=2e-6)
        assert (finding.regions, finding.laterality, found.saliency, found.segments) == ((), None, (), ())


def test_a_table_that_is_fitted_in_judging_is_what_the_node_calibrates_by(tmp_path: Path) -> None:
    task = task_of(toys.recipe("classification"), same_pictures(tmp_path, 64))
    with torch.inference_mode():
        logits: npt.NDArray[np.float64] = task.predict(np.arange(COUNT), CPU).double().numpy()[:, 0]
    low, middle, high = (float(np.quantile(logits, share)) for share in (0.2, 0.5, 0.8))
    line = Line(isotonic=((low, 0.1), (middle, 0.45), (high, 0.9)))
    judged = line(logits)
    assert judged.min() == 0.1 < np.unique(judged)[1] < judged.max() == 0.9, "beyond the table and within it"
    for record, probability in zip(task.pictures.records, judged, strict=True):
        finding = told(node(record, task.module, None, 64, "mass", line=line), "mass")
        assert finding.probability == pytest.approx(probability, abs=1e-5)


def test_images_that_share_a_probability_lie_on_one_side_of_a_threshold_in_judging_and_in_the_node() -> None:
    """A third of the six is positive: the least probability from which a finding is called, which has no last digit."""
    truth, logits = np.ones(71), np.repeat([-1.0, 0.0, 1.0], [60, 6, 5])
    truth[:54] = truth[60:64] = 0
    line = line_of(truth, logits, "isotonic")
    absent, present = operating_points(truth, line(logits), specificity=0.9, sensitivity=0.9, least=LEAST_PROBABILITY)
    assert present == LEAST_PROBABILITY == 1 / 3
    contract = FindingContract("mass", 0, True, threshold_absent=absent, threshold_present=present, **line.contract)
    for logit in (-2.0, *logits, 2.0):
        judged = float(line(np.array([logit]))[0]) >= present
        assert judged == (state_of(calibrate(logit, contract), contract) is FindingState.PRESENT)

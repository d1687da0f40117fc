"""From a judged run to a MONAI bundle with its card: what the node can run, and what people must know of it.

The rule: what is packaged is what was judged; it is loaded and asked again before anybody is told that it is there, and
it says all that made it. Pictures of patients are in nothing that is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.bundle import BundleInvalid, load_bundle, write_bundle
from models.trial import require_answer
from training.card import Card, metadata, write_card
from training.export import onnx, openvino
from training.export.equality import samples
from training.export.program import require
from training.judging.case import words
from training.judging.classification import columns
from training.judging.judgement import UNLABELLED, Judgement
from training.judging.plots import draw_plots
from training.labels import Outputs
from training.metrics.intervals import FloatArray
from training.metrics.submission import write as write_submission
from training.recipe import Recipe
from training.run import Trained
from training.tasks.common import build_network, named
from training.tasks.retina import SHAPES

# Packages that each export takes; what is exported is compared by OpenVINO where ONNX Runtime is not installed.
EXPORTS = {"onnx": onnx.PACKAGES, "openvino": openvino.PACKAGES}
# What half precision may change of a probability.
MOST_CHANGED = 0.02
_ASKED = 4  # pictures that the packaged network is asked about
_INTERPRETERS = {"classification": "scores", "segmentation": "masks", "detection": "boxes", "appearance": "classes"}
_STRUCTURES = {"lung_right", "lung_left", "heart", "lung_fields"}
# The layer whose outputs are the findings, where a finding with three of them can be made one with one.
_LAST = {"models.networks.TransitionClassifier": "prediction", "models.networks.TransformerClassifier": "head"}
_PURPOSE = {
    "classification": "Tells {} on a frontal chest radiograph.",
    "segmentation": "Outlines {} on a frontal chest radiograph.",
    "detection": "Draws boxes around {} on a frontal chest radiograph.",
    "appearance": "Tells which of {} a frontal chest radiograph shows.",
}


class PackagingRefused(Exception):
    """A run of which no bundle can be made; the message says why and what to do."""


@dataclass(frozen=True)
class Packaged:
    """Where things are.

    Parameters
    ----------
    card
        ``docs/card.html``.
    bundle
        The folder; None for weights to start from, which the node does not run.
    """

    card: Path
    bundle: Path | None


def package(
    trained: Trained,
    judgement: Judgement,
    recipe: Recipe,
    folder: Path,
    *,
    run: Path,
    command: str,
    exports: Sequence[str] = (),
) -> Packaged:
    """Write bundle, card, and what other runtimes read.

    Parameters
    ----------
    folder
        Of the bundle; its name is the bundle's.
    run
        Folder of the run, see ``training.loop``.
    command
        That makes it again.
    exports
        Of `EXPORTS`.

    Raises
    ------
    PackagingRefused
    ExportDiffers, ExporterMissing
        When an export fails; the bundle is there all the same.
    """
    (folder / "docs").mkdir(parents=True, exist_ok=True)
    provenance = _provenance(run, recipe, trained, command)
    if recipe.task.kind in UNLABELLED:
        write_card(folder, _card(folder, recipe, judgement, provenance, ()))
        return Packaged(folder / "docs" / "card.html", None)
    network, definition = shipped(trained, recipe)
    write_bundle(folder, network, {"network_def": definition}, _metadata(recipe, judgement, provenance))
    provenance["half_precision_changes_probabilities_by"] = _ask_again(folder, network, trained)
    provenance["exports"] = export(network, folder / "models", recipe.picture.size, exports)
    _rewrite(folder, provenance)
    plots = draw_plots(judgement, folder / "docs")
    if judgement.submission is not None:
        write_submission(folder / "docs" / "submission.csv", judgement.submission)
    write_card(folder, _card(folder, recipe, judgement, provenance, plots))
    return Packaged(folder / "docs" / "card.html", folder)


def check_packaging(recipe: Recipe, exports: Sequence[str] = ()) -> None:
    """Refuse, before anything is trained, what could not be packaged or exported after it.

    Raises
    ------
    PackagingRefused, ExporterMissing
    """
    if recipe.task.kind in UNLABELLED:
        if exports:
            raise PackagingRefused(f"{recipe.name} makes weights to start from, no bundle: leave out --export")
        return
    require(*(package for name in exports for package in EXPORTS[name]))
    if recipe.picture.lungs != "whole":
        raise PackagingRefused(
            f"[picture] lungs = {recipe.picture.lungs!r}: the node shows models whole radiographs; train with 'whole'"
        )
    if recipe.task.kind == "segmentation" and _STRUCTURES & set(recipe.data.findings):
        raise PackagingRefused("outlines of lungs and heart are packaged by ./hilum train lung_fields alone")
    if recipe.evaluation.mirror and recipe.task.kind == "detection":
        raise PackagingRefused("[evaluation] mirror has no meaning for boxes")


def shipped(trained: Trained, recipe: Recipe) -> tuple[nn.Module, dict[str, Any]]:
    """The network as the node runs it, on the CPU in evaluation mode, and its definition.

    One output for each finding, the second look that the recipe asks for, and boxes instead of distances from anchors.

    Raises
    ------
    PackagingRefused
        When three outputs of a finding cannot be made one.
    """
    definition: dict[str, Any] = dict(recipe.network)
    network = build_network(definition, 0)
    network.load_state_dict({k: v.cpu() for k, v in trained.task.shipped.state_dict().items()})
    if recipe.task.kind == "classification":
        network, definition = _folded(network, definition, columns(Outputs.of(recipe.data)))
    if recipe.task.kind == "detection" and recipe.task.options.get("head", "heat") == "retina":
        options: Any = trained.task.options  # type: ignore[attr-defined]
        definition = {
            "_target_": "models.networks.AnchorBoxes", "network": definition, "picture": recipe.picture.size,
            "anchor": options.anchor, "levels": options.levels, "shapes": [list(shape) for shape in SHAPES],
        }  # fmt: skip
        network = _rewrapped(network, definition)
    if recipe.evaluation.mirror:
        definition = {"_target_": "models.networks.Mirrored", "network": definition}
        network = _rewrapped(network, definition)
    return network.eval(), definition


def export(network: nn.Module, folder: Path, size: int, exports: Sequence[str]) -> dict[str, str]:
    """Write the network for other runtimes; says how far each answers as torch does.

    Raises
    ------
    ExportDiffers, ExporterMissing
    """
    inputs, told = samples(size), {}
    if "onnx" in exports:
        told["onnx"] = str(onnx.export(network, folder / "model.onnx", inputs))
    if "openvino" in exports:
        told["openvino"] = str(openvino.export(network, folder / "model.xml", inputs))
    return told


def _rewrapped(network: nn.Module, definition: Mapping[str, Any]) -> nn.Module:
    outer = build_network(definition, 0)
    outer.load_state_dict({f"network.{k}": v for k, v in network.state_dict().items()})
    return outer


def _folded(network: nn.Module, definition: dict[str, Any], table: FloatArray) -> tuple[nn.Module, dict[str, Any]]:
    """One output for each finding, where a logit is a sum of several and all behind them is linear."""
    if table.shape[0] == table.shape[1]:
        return network, definition
    last = _LAST.get(str(definition["_target_"]))
    if last is None or getattr(network, "sharpness", 0.0) != 0.0:
        raise PackagingRefused(
            "[data.uncertain] multiclass takes a network whose logits are means of maps: TransitionClassifier with "
            'pooling = "mean", or TransformerClassifier'
        )
    made = {**definition, "outputs": table.shape[0]}
    state = network.state_dict()
    for name in (f"{last}.weight", f"{last}.bias"):
        state[name] = torch.tensordot(torch.from_numpy(table).float(), state[name], dims=1)
    folded = build_network(made, 0)
    folded.load_state_dict(state)
    return folded, made


def _ask_again(folder: Path, network: nn.Module, trained: Trained) -> float:
    """Load the bundle and ask it what the judged network was asked: the greatest change of a probability."""
    try:
        bundle = load_bundle(folder)
        require_answer(bundle)
    except BundleInvalid as error:
        raise PackagingRefused(f"the node would refuse it: {error}") from error
    packaged = bundle.network
    assert packaged is not None  # noqa: S101  (it was written with one)
    rows = trained.task.material.val[:_ASKED]
    pictures = torch.from_numpy(trained.pictures.values(rows))
    with torch.inference_mode():
        pairs = [(_scores(network(x)), _scores(packaged(x))) for x in pictures[:, None]]
    changed = max(float((a.sigmoid() - b.sigmoid()).abs().max()) for a, b in pairs)
    if not changed <= MOST_CHANGED:
        raise PackagingRefused(
            f"half precision changes a probability by {changed:.3f}, {MOST_CHANGED} is allowed: start from trained "
            "weights, or lower the rate"
        )
    return changed


def _scores(output: Any) -> Tensor:
    found = named(output, "logits")
    scores: Tensor = next(found[name] for name in ("logits", "masks", "heat") if name in found)
    return scores


def _metadata(recipe: Recipe, judgement: Judgement, provenance: Mapping[str, Any]) -> dict[str, Any]:
    findings = {v.key: v.contract for v in judgement.verdicts}
    described = metadata(
        recipe.about, f"{_purpose(recipe)} Research only. Not a medical device, not for diagnosis.", channels=1,
        size=recipe.picture.size, outputs={str(v.output): v.key for v in judgement.verdicts},
    )  # fmt: skip
    section = {
        "interpreter": _INTERPRETERS[recipe.task.kind], "input_size": recipe.picture.size, "findings": findings,
        **judgement.contract, "provenance": dict(provenance), "figures": dict(judgement.figures),
        "notes": [*judgement.notes, *provenance["notes"]],
    }  # fmt: skip
    return {**described, "hilum": _plain(section)}


def _rewrite(folder: Path, provenance: Mapping[str, Any]) -> None:
    path = folder / "configs" / "metadata.json"
    content = json.loads(path.read_text("utf-8"))
    content["hilum"]["provenance"] = _plain(provenance)
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _provenance(run: Path, recipe: Recipe, trained: Trained, command: str) -> dict[str, Any]:
    facts = json.loads((run / "run.json").read_text("utf-8"))
    kept = ("seed", "recipe_sha256", "data_sha256", "revision", "versions", "device", "workers", "records", "notes")
    made_by = {name: facts[name] for name in (*kept, *(["teachers"] if recipe.teachers.count else []))}
    return {
        "command": command, "recipe": recipe.name, "data": recipe.data.set, **made_by,
        "left_out": len(facts["left_out"]), "epochs": len(trained.outcome.history),
        "best_epoch": trained.outcome.best + 1,
        "best": {k: v for k, v in trained.outcome.history[trained.outcome.best].items() if np.isfinite(v)},
    }  # fmt: skip


def _card(
    folder: Path, recipe: Recipe, judgement: Judgement, provenance: Mapping[str, Any], plots: Sequence[Path]
) -> Card:
    first, *others = judgement.tables
    notes = [*judgement.notes, *provenance["notes"]]
    if provenance["left_out"]:
        notes.append(f"{provenance['left_out']} rows or images of the data set were left out; run.json names each.")
    if judgement.kind not in UNLABELLED:
        notes += [
            "Probabilities are calibrated to the share of each finding in this data set; elsewhere it differs.",
            "Not validated on patients, detectors or populations other than those of the data set.",
        ]
    counts = ", ".join(f"{judgement.items.get(p, 0)} {what}" for p, what in _PARTS.items())
    unit = "Studies" if judgement.kind == "appearance" else "Images"
    return Card(
        title=folder.name, purpose=f"{recipe.about}. {_purpose(recipe)}".strip(),
        data=f"{unit} of {recipe.data.set}: {counts}; no patient and no study in two parts.",
        header=first.header, rows=first.rows, tables=others, plots=plots,
        notes=[*([first.note] if first.note else []), *notes], provenance=json.dumps(_plain(provenance), indent=1),
    )  # fmt: skip


_PARTS = {"train": "to train on", "val": "to choose by", "test": "to judge by"}


def _purpose(recipe: Recipe) -> str:
    template = _PURPOSE.get(recipe.task.kind, "Weights to start from, taught without labels.")
    return template.format(", ".join(words(key) for key in recipe.data.findings))


def _plain(value: Any) -> Any:
    """JSON types of what figures are made of."""
    return json.loads(json.dumps(value, default=_as_json))


def _as_json(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else list(value)

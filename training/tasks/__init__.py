"""What networks are taught: one module for each kind of task.

The rule: a task module has `FIGURES` (what it is judged by, to whether more is better), `Options` (what its table in a
recipe may hold), `LOSSES` (by name), and `build`.
"""

from __future__ import annotations

import inspect
from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from training.tables import RecipeInvalid, check_options, choose, fill

if TYPE_CHECKING:
    from torch import nn

    from training.recipe import Recipe
    from training.tasks.common import Material, PictureTask


def check_task(recipe: Recipe) -> None:
    """Check what only the task knows: options, loss, figure, and what does not go together.

    Raises
    ------
    RecipeInvalid
    """
    module, kind = _module(recipe), recipe.task.kind
    check_options(recipe.task.options, [f.name for f in fields(module.Options)], "[task]")
    fill(module.Options, recipe.task.options, "[task]")
    choose(recipe.evaluation.watch, module.FIGURES, "[evaluation] watch")
    if module.LOSSES:
        choose(recipe.loss.kind, module.LOSSES, "[loss] kind")
        check_options(recipe.loss.options, keywords(module.LOSSES[recipe.loss.kind]), "[loss]")
    elif recipe.loss.kind:
        raise RecipeInvalid(f"[loss] has no meaning for {kind}, whose loss is its own")
    if recipe.augmentation.crop and kind != "segmentation":
        raise RecipeInvalid("[augmentation] crop has a meaning for segmentation alone")
    if recipe.augmentation.mixup and kind not in ("classification", "appearance"):
        raise RecipeInvalid("[augmentation] mixup has a meaning for classification and appearance alone")
    if recipe.augmentation.mixup and "multiclass" in recipe.data.uncertain.values():
        raise RecipeInvalid("[augmentation] mixup cannot blend labels of which uncertain is a class")
    if not recipe.data.findings and kind not in ("mae", "dino"):
        raise RecipeInvalid("[data] findings is empty")
    if recipe.sampler.kind != "shuffled" and kind in ("mae", "dino"):
        raise RecipeInvalid(f"[sampler] {recipe.sampler.kind} needs labels, and {kind} has none")
    if recipe.schedule.shape == "plateau" and "loss" not in module.FIGURES:
        raise RecipeInvalid(f"[schedule] plateau needs a loss on the validation patients, and {kind} gives none")


def build_task(material: Material, network: nn.Module) -> PictureTask:
    """The task that a recipe names."""
    task: PictureTask = _module(material.recipe).build(material, network)
    return task


def _module(recipe: Recipe) -> Any:
    return import_module(f"training.tasks.{recipe.task.kind}")


def keywords(loss: Any) -> list[str]:
    """The options of a loss; what the data decide on is none."""
    given = inspect.signature(loss).parameters.values()
    return [p.name for p in given if p.kind is p.KEYWORD_ONLY and p.name not in ("positive", "negative")]

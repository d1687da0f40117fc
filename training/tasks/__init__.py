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


# What becomes of uncertain labels by which a target is no plain 0 or 1.
_CLASSES_OF_DOUBT = {"multiclass", "smooth_ones", "smooth_zeros"}


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
    sided = [key for key in recipe.data.findings if key.endswith(("_right", "_left"))]
    if sided and (recipe.evaluation.mirror or recipe.augmentation.flip):
        raise RecipeInvalid(f"{sided[0]} tells a side: leave out [evaluation] mirror and [augmentation] flip")
    if recipe.loss.kind == "distilled" and (doubt := _CLASSES_OF_DOUBT & set(recipe.data.uncertain.values())):
        raise RecipeInvalid(f"[loss] distilled goes with no [data.uncertain] {min(doubt)}: a teacher tells it")
    if recipe.teachers.count:
        _check_teachers(recipe)
    if not recipe.data.findings and kind not in ("mae", "dino"):
        raise RecipeInvalid("[data] findings is empty")
    if recipe.sampler.kind != "shuffled" and kind in ("mae", "dino"):
        raise RecipeInvalid(f"[sampler] {recipe.sampler.kind} needs labels, and {kind} has none")
    if recipe.schedule.shape == "plateau" and "loss" not in module.FIGURES:
        raise RecipeInvalid(f"[schedule] plateau needs a loss on the validation patients, and {kind} gives none")


def _check_teachers(recipe: Recipe) -> None:
    count, share = recipe.teachers.count, recipe.loss.options.get("share", 0.5)
    if count < 2:
        raise RecipeInvalid(f"[teachers] count is {count}; cross-validation takes 2 or more, and 0 is for none")
    if recipe.task.kind != "classification" or recipe.loss.kind != "distilled":
        raise RecipeInvalid("[teachers] has a meaning for classification with [loss] distilled alone")
    if not 0 < share < 1:
        raise RecipeInvalid(f"[loss] share is {share}; it lies between 0 and 1 where there are [teachers]")


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

"""Finished runs of the recipes that come with Hilum, made small, on the samples: trained, judged and packaged once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from samples import write_sample
from test_recipes import small

from training.judging.judgement import Judgement, judge
from training.packaging import Packaged, package
from training.recipe import Recipe
from training.run import Places, Trained, train


@dataclass(frozen=True, eq=False)
class Finished:
    """A run, its judgement and its bundle."""

    recipe: Recipe
    trained: Trained
    judgement: Judgement
    packaged: Packaged
    folder: Path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    """By the name of a recipe; each is trained for one epoch, once."""
    root = tmp_path_factory.mktemp("finished")

    @functools.cache
    def sample(name: str) -> Path:
        return write_sample(name, root / "data" / name)

    @functools.cache
    def finish(name: str) -> Finished:
        recipe, folder = small(name), root / name
        trained = train(recipe, Places(sample(recipe.data.set), folder / "run"))
        judgement = judge(trained, recipe, 3)
        command = f"./hilum train {name}"
        packaged = package(trained, judgement, recipe, folder, run=folder / "run", command=command)
        return Finished(recipe, trained, judgement, packaged, folder)

    return finish

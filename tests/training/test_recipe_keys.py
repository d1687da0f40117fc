"""The reference of recipes says what the code that reads them takes, no more and no less."""

from __future__ import annotations

import re
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from training import __main__ as command
from training.pictures import PictureOptions
from training.readers.catalogue import READERS
from training.recipe import (
    CHOICES,
    TASKS,
    AugmentationPart,
    DataPart,
    EvaluationPart,
    PublishedPart,
    Recipe,
    SchedulePart,
    SplitPart,
    StartPart,
    TeachersPart,
    load_recipe,
    recipe_names,
)
from training.recipe_keys import documented, reference

DOCS = Path(__file__).parent.parent.parent / "docs"
PARTS = (
    Recipe, DataPart, PictureOptions, SchedulePart, AugmentationPart, EvaluationPart, SplitPart, StartPart,
    TeachersPart, PublishedPart, *(import_module(f"training.tasks.{kind}").Options for kind in TASKS),
)  # fmt: skip
BY_THEIR_TABLES = {
    "data", "picture", "schedule", "augmentation", "evaluation", "split", "start", "teachers", "published",
}  # fmt: skip


def section(title: str) -> str:
    found = re.search(rf"^#+ `{re.escape(title)}`\n(.*?)(?=^#|\Z)", reference(), re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def test_the_page_in_docs_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--help-recipe"]) == 0
    printed = capsys.readouterr().out
    assert (DOCS / "recipes.md").read_text("utf-8") == printed, "./hilum train --help-recipe > docs/recipes.md"


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.__module__}.{part.__name__}")
def test_every_key_has_a_meaning_and_nothing_is_described_that_is_not_there(part: type) -> None:
    keys = {field.name for field in fields(part)}  # type: ignore[arg-type]
    assert set(documented(part)) == keys - (BY_THEIR_TABLES if part is Recipe else set())
    assert all(documented(part).values())


def test_keys_stand_in_their_tables_with_type_and_default() -> None:
    assert "| `batch` | whole number | needed | Images, or studies" in section("[schedule]")
    assert (
        '| `optimiser` | text | `"adamw"` | `sgd` has a momentum of 0.9. One of `adamw`, `adam`, `sgd`. |'
        in section("[schedule]")
    )
    assert "| `mirror` | true or false | `false` |" in section("[evaluation]")
    assert "| `log_aspect` | number | none |" in section("[augmentation]")
    assert "| `start` | table | none | As `[start]`" in section("[teachers]")
    assert "| `merged` | table to list of texts | none |" in section("[data]")
    assert "| `least_area` | whole number | `0` |" in section('kind = "segmentation"')


def test_every_key_of_every_recipe_of_ours_is_in_the_page() -> None:
    page = reference()
    for name in recipe_names():
        recipe = load_recipe(name)
        for part in (recipe.task, recipe.loss, recipe.sampler):
            assert f"`{part.kind}`" in page or not part.kind
            for key in part.options:
                assert f"`{key}`" in page, (name, key)


def test_a_value_that_is_not_among_those_of_the_page_is_refused() -> None:
    page = reference()
    for (table, key), known in CHOICES.items():
        assert f"One of {', '.join(f'`{value}`' for value in known)}." in page, (table, key)


def test_the_guide_names_every_set_recipe_and_file_that_a_reader_looks_for() -> None:
    guide = (DOCS / "training.md").read_text("utf-8")
    for name in (*READERS, *recipe_names()):
        assert f"`{name}`" in guide, name
    for file in ("Data_Entry_2017.csv", "train-rle.csv", "train_study_level.csv", "stage_2_train_labels.csv"):
        assert file in guide

"""A recipe: everything that decides on a training run, in one TOML file.

The rule: what a recipe says is checked before anything is read or rendered; a key or a value that is not known is an
error that names the known ones, and nothing is filled in silently but what stands here as a default.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.augmentation import Augmentation
from training.pictures import LUNGS, PictureOptions
from training.readers.catalogue import READERS
from training.readers.chexpert import Policy
from training.tables import RecipeInvalid, check_options, choose, fill

FOLDER = Path(__file__).resolve().parent / "recipes"
TASKS = ("classification", "segmentation", "detection", "appearance", "mae", "dino")
CALIBRATIONS = ("platt", "temperature", "isotonic")
FIGURES = (
    "auroc", "auprc", "f1", "operating_points", "calibration", "confusion", "accuracy", "voc_map", "competition",
    "dice", "iou", "iobb", "pointing", "subgroups", "shortcuts",
)  # fmt: skip
SAMPLER_OPTIONS = {"shuffled": (), "oversampled": ("power",), "falling_share": ("first", "last")}
# Table and key to the values that are known; what only a task knows is checked there.
CHOICES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("data", "set"): tuple(READERS),
    ("data", "unmentioned"): ("ignore", "zeros"),
    ("picture", "lungs"): LUNGS,
    ("task", "kind"): TASKS,
    ("sampler", "kind"): tuple(SAMPLER_OPTIONS),
    ("evaluation", "calibration"): CALIBRATIONS,
    ("schedule", "optimiser"): ("adamw", "adam", "sgd"),
    ("schedule", "shape"): ("constant", "cosine", "one_cycle", "plateau"),
    ("schedule", "precision"): ("single", "bfloat16", "float16"),
}
# Networks come from these packages; an expression of the configuration language is never evaluated.
TARGETS = ("monai.networks.", "monai.apps.detection.", "models.", "training.")


@dataclass(frozen=True)
class DataPart:
    """Which data, and what of them is learnt.

    Parameters
    ----------
    set
        Name of a reader.
    findings
        What the network tells, in the order of its outputs; classes of a study for ``appearance``, structures or
        findings with masks for ``segmentation``, with boxes for ``detection``.
    options
        Of the reader, see below.
    views
        Records of these views are used, with an empty string for those without one; all of them if empty.
    uncertain
        Finding, or ``others``, to what an uncertain label becomes: ``ones``, ``zeros``, ``ignore``, ``multiclass``,
        ``smooth_ones`` or ``smooth_zeros``; it is ignored if nothing is said.
    unmentioned
        What a label becomes that the data set leaves blank.
    merged
        A finding of our own to those of the set of which any makes it present.
    """

    set: str
    findings: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    views: tuple[str, ...] = ()
    uncertain: Mapping[str, str] = field(default_factory=dict)
    unmentioned: str = "ignore"
    merged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitPart:
    """Who is trained on, who chooses, who judges; always whole patients.

    Parameters
    ----------
    official
        Whether splits that the data set itself fixes are kept; what it leaves open is dealt.
    val
        Share of the images by which epochs, thresholds and calibration are chosen.
    test
        Share of the images by which the result is judged.
    """

    official: bool = True
    val: float = 0.1
    test: float = 0.2


@dataclass(frozen=True)
class StartPart:
    """Weights to start from.

    Parameters
    ----------
    weights
        File of a state dict, below the folder of weights; nothing if empty.
    prefix
        What its names begin with and ours do not.
    into
        Module of the network that is loaded; all of it if empty.
    frozen_norms
        Names that modules begin with whose batch normalisation keeps its statistics and weights.
    """

    weights: str = ""
    prefix: str = ""
    into: str = ""
    frozen_norms: tuple[str, ...] = ()


@dataclass(frozen=True)
class TeachersPart:
    """Networks of cross-validation over the training patients that teach the recipe's network (loss ``distilled``).

    Parameters
    ----------
    count
        How many, each of which learns from all folds but one and tells of that one; 0 for none. Their loss is ``bce``,
        and all else is as for the network that is taught.
    network
        As ``[network]``, where theirs is another one.
    start
        As ``[start]``, for a network of their own.
    """

    count: int = 0
    network: Mapping[str, Any] = field(default_factory=dict)
    start: StartPart = field(default_factory=StartPart)


@dataclass(frozen=True)
class KindPart:
    """A loss, a sampler or a task by its name, with options."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SchedulePart:
    """How long and how fast.

    Parameters
    ----------
    epochs
        Times that all that is trained on is seen.
    batch
        Images, or studies for ``appearance``, of one step.
    optimiser
        ``sgd`` has a momentum of 0.9.
    weight_decay
        Decoupled from the gradient for ``adamw``, as PyTorch has it.
    rate
        Learning rate; its greatest value for ``one_cycle``, ``cosine``.
    shape
        Of the rate: ``cosine`` falls to zero, ``one_cycle`` is Smith's (2018), ``plateau`` takes a tenth when the
        validation loss has not fallen for one epoch.
    warm_up
        Share of the steps in which the rate rises (``cosine``, ``one_cycle``).
    clip
        Greatest norm of the gradient; 0 for none.
    precision
        Of the forward pass on a GPU; a CPU always computes in ``single``.
    average
        Decay of the moving average of the weights, which is then what is judged and kept; 0 for none.
    patience
        Epochs without a better validation figure after which a run ends; 0 for never.
    """

    epochs: int
    batch: int
    rate: float
    optimiser: str = "adamw"
    weight_decay: float = 0.0
    shape: str = "cosine"
    warm_up: float = 0.05
    clip: float = 0.0
    precision: str = "bfloat16"
    average: float = 0.0
    patience: int = 0


@dataclass(frozen=True)
class AugmentationPart(Augmentation):
    """Random changes of pictures, and what is done to batches.

    Parameters
    ----------
    crop
        Side of a random part of the picture that is trained on, in pixels; 0 for the whole picture. Segmentation only.
    mixup
        Alpha of mixup; 0 for none. Classification and appearance only.
    """

    crop: int = 0
    mixup: float = 0.0


@dataclass(frozen=True)
class EvaluationPart:
    """How a run is judged.

    Parameters
    ----------
    watch
        Figure on the validation patients by which the run is stopped and the best epoch is kept.
    report
        Figures of the card, on the test patients.
    mirror
        Whether answers are averaged with those of the mirrored picture; never where sides are told.
    calibration
        What makes probabilities of scores, fitted on the validation patients: ``isotonic`` takes some hundred positives
        of each finding to be trusted. ``appearance`` has one temperature for all of its classes, whatever stands here.
    """

    watch: str
    report: tuple[str, ...] = ()
    mirror: bool = False
    calibration: str = "platt"


@dataclass(frozen=True)
class PublishedPart:
    """What others reached, and where that stands.

    Parameters
    ----------
    source
        Paper, table and on which patients.
    figures
        Name to number, or to a table of them.
    differences
        In what this recipe differs from what they did.
    """

    source: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    differences: str = ""


@dataclass(frozen=True)
class Recipe:
    """A whole recipe; see its parts.

    Parameters
    ----------
    name
        Of the run and of the bundle: a-z, 0-9 and _.
    about
        What it makes, in one line, for list and card.
    network
        Class and arguments as in MONAI bundles: ``_target_`` and the rest.
    task
        What the network learns.
    loss
        What is made small; the known ones depend on the task, and ``mae``, ``dino`` and detection have their own.
    sampler
        In which order images are shown.
    """

    name: str
    about: str
    data: DataPart
    picture: PictureOptions
    network: Mapping[str, Any]
    task: KindPart
    schedule: SchedulePart
    augmentation: AugmentationPart
    evaluation: EvaluationPart
    loss: KindPart = KindPart("")
    sampler: KindPart = KindPart("shuffled")
    split: SplitPart = field(default_factory=SplitPart)
    start: StartPart = field(default_factory=StartPart)
    teachers: TeachersPart = field(default_factory=TeachersPart)
    published: PublishedPart | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides on the run: not of its name, its description and what others reached."""
        said = {k: v for k, v in asdict(self).items() if k not in ("name", "about", "published")}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def recipe_names() -> list[str]:
    """The recipes that come with Hilum."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name: str | Path) -> Recipe:
    """A recipe of ours by its name, or of a file.

    Raises
    ------
    RecipeInvalid
    """
    path = Path(name) if str(name).endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.exists():
        raise RecipeInvalid(f"there is no recipe {name}: name a .toml file or one of {', '.join(recipe_names())}")
    try:
        return parse_recipe(tomllib.loads(path.read_text("utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise RecipeInvalid(f"{path.name}: no TOML: {error}") from error
    except RecipeInvalid as error:
        raise RecipeInvalid(f"{path.name}: {error}") from error


def parse_recipe(table: Mapping[str, Any]) -> Recipe:
    """Check a table and make a recipe of it.

    Raises
    ------
    RecipeInvalid
    """
    # kind and options stand beside each other in the file
    kinds = {"task": table.get("task"), "loss": table.get("loss"), "sampler": table.get("sampler")}
    split = {
        name: {"kind": part.get("kind", ""), "options": {k: v for k, v in part.items() if k != "kind"}}
        for name, part in kinds.items()
        if isinstance(part, dict)
    }
    recipe = fill(Recipe, {**table, **split}, "the recipe")
    _check_choices(recipe)
    _check_network(recipe.network)
    _check_network(recipe.teachers.network)
    from training.tasks import check_task

    check_task(recipe)
    return recipe


def _check_choices(recipe: Recipe) -> None:
    data, schedule = recipe.data, recipe.schedule
    for (part, key), known in CHOICES.items():
        choose(getattr(getattr(recipe, part), key), known, f"[{part}] {key}")
    check_options(data.options, list(inspect.signature(READERS[data.set]).parameters)[1:], "[data.options]")
    for finding, policy in data.uncertain.items():
        choose(finding, (*data.findings, "others"), "[data.uncertain] finding")
        choose(policy, tuple(Policy), f"[data.uncertain] {finding}")
        if finding in data.merged:
            raise RecipeInvalid(f"[data.uncertain] {finding} is merged: say it of {', '.join(data.merged[finding])}")
    for finding in data.merged:
        choose(finding, data.findings, "[data.merged] finding")
    check_options(recipe.sampler.options, SAMPLER_OPTIONS[recipe.sampler.kind], "[sampler]")
    for figure in recipe.evaluation.report:
        choose(figure, FIGURES, "[evaluation] report")
    for where, value, low, high in (
        ("[schedule] epochs", schedule.epochs, 1, 100_000),
        ("[schedule] batch", schedule.batch, 1, 65_536),
        ("[schedule] average", schedule.average, 0.0, 0.99999),
        ("[schedule] warm_up", schedule.warm_up, 0.0, 0.9),
        ("[picture] size", recipe.picture.size, 32, 2048),
        ("[split] val + test", recipe.split.val + recipe.split.test, 0.0, 0.9),
    ):
        if not low <= value <= high:
            raise RecipeInvalid(f"{where} is {value}; it lies between {low} and {high}")


def _check_network(part: Any) -> None:
    """Refuse what the configuration language would evaluate, and classes from elsewhere, at any depth."""
    if isinstance(part, str) and part[:1] in ("$", "@", "%"):
        raise RecipeInvalid(f"[network] may hold no expression or reference: {part}")
    if isinstance(part, Mapping):
        target = str(part.get("_target_", TARGETS[0]))
        if not target.startswith(TARGETS):
            raise RecipeInvalid(f"[network] _target_ is {target}; networks come from {', '.join(TARGETS)}")
        for value in part.values():
            _check_network(value)
    if isinstance(part, list | tuple):
        for value in part:
            _check_network(value)

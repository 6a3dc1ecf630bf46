"""Evaluate a trained model on the tasks of a recipe.

chiasm eval runs/clip-scenes
chiasm eval openai/clip-vit-base-patch32 --tasks clip/scenes --out runs/openai-on-scenes
chiasm eval runs/clip-scenes --tasks clip/photos-pretrained-towers data.root=DATA --out runs/on-photos"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a run's folder, a checkpoint's, or the name of one on the Hub: OWNER/NAME")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="entries of the tasks' recipe to change")
    parser.add_argument("--tasks", help="the recipe whose evaluation is run (default: the model's own)")
    parser.add_argument("--out", type=Path, help="where answers, scores and report go (default: the run's folder)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from chiasm.cli._report import write_report_if_possible
    from chiasm.errors import RecipeError
    from chiasm.evaluation.run import evaluate
    from chiasm.evaluation.table import table
    from chiasm.experiment import EVALUATION, RECIPE
    from chiasm.recipe import load_recipe
    from chiasm.weights import load

    console = Console()
    place = Path(options.model)
    own = place / RECIPE
    if not place.exists() and (options.tasks is None or options.out is None):
        raise RecipeError(f"there is no folder {place}; of a model on the Hub say with --tasks and --out what to do")
    model = load(options.model, options.device)
    if options.out is None and (options.tasks or options.overrides):
        raise RecipeError("other tasks than the run's own would overwrite its results; say with --out where these go")
    if options.tasks is None and not own.exists():
        raise RecipeError(f"{options.model} holds no recipe; say with --tasks RECIPE what to evaluate")
    recipe = load_recipe(options.tasks or own, options.overrides)
    if not recipe.evaluation:
        raise RecipeError(f"the recipe '{recipe.name}' has no evaluation entries")
    folder = options.out or place
    name = load_recipe(own).name if own.exists() else place.name
    evaluation = evaluate(
        model, recipe.evaluation, folder / EVALUATION, about={"name": name, "checkpoint": str(options.model)}
    )
    console.print(table([evaluation]))
    write_report_if_possible([folder], folder / "report.html", console)
    return 0

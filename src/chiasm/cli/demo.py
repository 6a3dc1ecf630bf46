"""Train a small CLIP, a small SigLIP and a small chat model on rendered scenes, compare them, and write a report.

The chat model's image tower is the CLIP's. Needs nothing but this package and its extra `eval`;
takes about nine minutes on two cores."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chiasm.experiment.recipe import Recipe

RECIPES = ("clip/scenes", "siglip/scenes", "llava/scenes")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="entries of all recipes to change")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="output folder (default: runs/demo)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="go on with a demo that was interrupted")
    start.add_argument("--overwrite", action="store_true", help="remove an older demo from the folder first")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from chiasm.cli._report import write_report_if_possible
    from chiasm.errors import TrainingError
    from chiasm.evaluation.table import table
    from chiasm.experiment.recipe import load_recipe
    from chiasm.experiment.run import Experiment
    from chiasm.experiment.run_folder import RunFolder

    console = Console()
    recipes = [_among(load_recipe(name, options.overrides), options.out) for name in RECIPES]
    begun = [recipe for recipe in recipes if RunFolder(options.out / recipe.name).holds_a_run]
    if begun and not (options.resume or options.overwrite):
        raise TrainingError(
            f"{options.out} already holds a demo; `chiasm demo --resume` goes on where it stopped, --overwrite starts "
            "anew, --out FOLDER keeps both"
        )
    evaluations, folders = [], []
    for recipe in recipes:
        folder = options.out / recipe.name
        resume = options.resume and recipe in begun
        experiment = Experiment(recipe, folder, resume=resume, overwrite=not resume, console=console)
        if not experiment.train():
            return 130
        evaluation = experiment.evaluate()
        assert evaluation is not None
        evaluations.append(evaluation)
        folders.append(folder)
    console.print(table(evaluations, by_kind=False, width=console.width))
    write_report_if_possible(folders, options.out / "report.html", console)
    return 0


def _among(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with its pretrained parts taken from the runs in this folder."""
    from chiasm.experiment.recipe import PretrainedPart

    taken = {
        part: replace(weights, checkpoint=str(folder / Path(weights.checkpoint).name))
        if isinstance(weights, PretrainedPart)
        else weights
        for part, weights in recipe.pretrained.items()
    }
    return replace(recipe, pretrained=taken)

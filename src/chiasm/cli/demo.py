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


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from chiasm.cli._report import write_report_if_possible
    from chiasm.evaluation.table import table
    from chiasm.experiment.recipe import load_recipe
    from chiasm.experiment.run import Experiment

    console = Console()
    evaluations, folders = [], []
    for name in RECIPES:
        recipe = _among(load_recipe(name, options.overrides), options.out)
        folder = options.out / recipe.name
        experiment = Experiment(recipe, folder, overwrite=True, console=console)
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
